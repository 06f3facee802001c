//! aarch64: EL1, QEMU's `virt` machine.

mod console;
mod cpus;
mod entry;
mod interrupts;
mod trap;

use core::arch::asm;

use qemu_exit::QEMUExit;

pub use console::Console;
pub use cpus::{local, park, relax, start_second, switch_off};
pub use entry::{DIRECT_MAP, mapped, translates};
pub use interrupts::{Controller, interrupts_off, interrupts_on, set_alarm, sleep};
pub use trap::install_traps;

pub use crate::device_tree::MachineTree as Firmware;

/// The architecture in words.
pub const NAME: &str = "aarch64";

/// How the machine is described, in words.
pub const DESCRIBED_BY: &str = "described by the device tree";

/// Kernels in the ELF format get nothing in `x0`; the `virt` machine puts the device tree at the
/// start of memory.
pub const DEVICE_TREE: Option<u64> = Some(0x4000_0000);

/// The counter behind the clock.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads the virtual counter; the barrier keeps the read from being done early.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// How fast [`ticks`] counts.
pub fn ticks_per_second(_firmware: &Firmware) -> Option<u64> {
    let frequency: u64;
    // SAFETY: reads a register that describes the counter.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    Some(frequency)
}

/// Instructions so far, if QEMU runs with `-icount shift=0`; otherwise it counts something else.
///
/// It moves in steps, of 16 on QEMU's `virt` machine: the clock's, with a nanosecond for each.
pub fn instructions() -> u64 {
    let frequency: u64;
    // SAFETY: reads a register that describes the counter.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    ticks() * (1_000_000_000 / frequency.max(1))
}

/// Executes `2 * pairs` instructions, and few besides; `pairs` is not 0.
pub fn execute(pairs: u64) {
    // SAFETY: counts a register down to 0.
    unsafe {
        asm!(
            "2: subs {0}, {0}, #1",
            "b.ne 2b",
            inout(reg) pairs => _,
            options(nomem, nostack),
        );
    }
}

/// Ends the emulator with `code`, by semihosting.
pub fn exit(code: u32) -> ! {
    qemu_exit::AArch64::new().exit(code)
}

/// Asks the firmware to power the machine off, and waits for it: the emulator ends with code 0.
pub fn firmware_power_off() -> ! {
    const SYSTEM_OFF: u64 = 0x8400_0008;
    // SAFETY: a PSCI call without arguments; x0 to x17 are the callee's.
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") SYSTEM_OFF => _,
            clobber_abi("C"),
            options(nostack),
        );
    }
    loop {
        core::hint::spin_loop();
    }
}

/// Orders all accesses before it against all after it, as devices see them.
pub fn device_barrier() {
    // SAFETY: a barrier does nothing else.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}
