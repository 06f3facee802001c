//! What differs between the architectures, under the same names for each.
//!
//! | name | what it is |
//! |---|---|
//! | `NAME` | the architecture in words |
//! | `DIRECT_MAP` | the virtual address of physical address 0 |
//! | `mapped` | which physical addresses the direct map covers |
//! | `translates` | whether the CPU translates a virtual address at all |
//! | `Firmware` | what describes the machine: the device tree, or ACPI tables |
//! | `DESCRIBED_BY` | how that is said |
//! | `DEVICE_TREE` | where the device tree is when the boot register does not say |
//! | `PciPorts` | configuration space without an ECAM (x86_64 only) |
//! | `Console` | the serial port |
//! | `install_traps` | from then on a trap ends in [`crate::trap`] |
//! | `ticks`, `ticks_per_second` | the counter behind the clock |
//! | `instructions` | the counter of instructions, in an emulator that was told to count them |
//! | `execute` | executes a known number of instructions |
//! | `interrupts_off`, `interrupts_on` | mask interrupts on this CPU, and unmask them |
//! | `sleep` | with interrupts masked: stops the CPU until one is pending, lets its handlers run |
//! | `set_alarm` | a timer interrupt at a tick; it wakes the CPU and does nothing else |
//! | `local` | what this CPU has of its own, by a register |
//! | `start_second` | has another CPU begin at the entry code for it, which ends in [`crate::cpus`] |
//! | `switch_off` | ends what `start_second` began; never returns |
//! | `device_barrier` | orders everything before it against everything after it, as devices see it |
//! | `relax` | what a CPU does while it waits for another one, or for a device |
//! | `park` | stops this CPU until the machine ends |
//! | `Controller` | the interrupt controller: lines, pins, messages, claim and complete |
//! | `exit` | ends the emulator with a code |
//! | `firmware_power_off` | ends the emulator the way a firmware does, with code 0; never returns |
//!
//! Entry code per architecture maps physical memory at [`DIRECT_MAP`] and nothing else: there is no
//! identity mapping while Rust runs, so that a physical address used as a pointer, or a pointer
//! used as a physical address, faults at once. Memory is readable, writable and executable: the
//! kernel is there to prove a driver, not to defend itself (no W^X).

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(any(
    target_arch = "riscv64",
    target_arch = "aarch64",
    target_arch = "x86_64"
)))]
compile_error!(
    "viommu-boot runs on riscv64gc-unknown-none-elf, aarch64-unknown-none-softfloat and \
     x86_64-unknown-none"
);
