//! x86_64: long mode, QEMU's `q35` machine, started by PVH.

mod clock;
mod console;
mod cpus;
mod entry;
mod firmware;
mod interrupts;
mod pci_ports;
mod trap;

use core::arch::asm;

use qemu_exit::QEMUExit;
use x86_64::instructions::port::Port;

pub use clock::{ticks, ticks_per_second};
pub use console::Console;
pub use core::hint::spin_loop as relax;
pub use cpus::{local, park, start_second, switch_off};
pub use entry::{DIRECT_MAP, mapped, translates};
pub use firmware::Firmware;
pub use interrupts::{Controller, interrupts_off, interrupts_on, set_alarm, sleep};
pub use pci_ports::PciPorts;
pub use trap::install_traps;

/// The architecture in words.
pub const NAME: &str = "x86_64";

/// How the machine is described, in words.
pub const DESCRIBED_BY: &str = "described by ACPI (VIOT)";

/// The port of QEMU's `isa-debug-exit` device, where it is by default.
const DEBUG_EXIT: u16 = 0x501;

/// Instructions so far, if QEMU runs with `-icount shift=0`; otherwise it counts something else.
///
/// It is the time stamp counter: a nanosecond is a tick then, and an instruction is a nanosecond.
pub fn instructions() -> u64 {
    ticks()
}

/// Executes `2 * pairs` instructions, and few besides; `pairs` is not 0.
pub fn execute(pairs: u64) {
    // SAFETY: counts a register down to 0.
    unsafe {
        asm!(
            "2: dec {0}",
            "jnz 2b",
            inout(reg) pairs => _,
            options(nomem, nostack),
        );
    }
}

/// Ends the emulator with `code`: an odd number, or 0.
pub fn exit(code: u32) -> ! {
    if code == 0 {
        // The device cannot say 0.
        firmware_power_off();
    }
    // SAFETY: the port of that device. Without it, the write goes nowhere, and the machine stops.
    let device = unsafe { qemu_exit::X86::new(DEBUG_EXIT, 1) };
    // The emulator ends with twice what it is told, and one.
    device.exit(code >> 1)
}

/// Asks the chipset to power the machine off, and waits for it: the emulator ends with code 0.
pub fn firmware_power_off() -> ! {
    /// PM1a control, where SeaBIOS puts it on `q35`.
    const PM1_CONTROL: u16 = 0x604;
    /// Enter sleep state 5, which QEMU calls type 0.
    const SLEEP: u16 = 1 << 13;
    let mut control = Port::new(PM1_CONTROL);
    // SAFETY: the machine stops, and nothing else happens.
    unsafe { control.write(SLEEP) };
    // The emulator stops the CPU a little later.
    loop {
        core::hint::spin_loop();
    }
}

/// Orders all accesses before it against all after it, as devices see them.
pub fn device_barrier() {
    // SAFETY: a barrier does nothing else.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}
