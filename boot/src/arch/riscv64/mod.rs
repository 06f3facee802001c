//! riscv64: S-mode under OpenSBI, QEMU's `virt` machine.

mod console;
mod cpus;
mod entry;
mod interrupts;
mod trap;

use core::arch::asm;

use dtoolkit::{Node, Property};
use qemu_exit::QEMUExit;

pub use console::Console;
pub use core::hint::spin_loop as relax;
pub use cpus::{local, park, start_second, switch_off};
pub use entry::{DIRECT_MAP, mapped, translates};
pub use interrupts::{Controller, interrupts_off, interrupts_on, set_alarm, sleep};
pub use trap::install_traps;

pub use crate::device_tree::MachineTree as Firmware;

/// The architecture in words.
pub const NAME: &str = "riscv64";

/// How the machine is described, in words.
pub const DESCRIBED_BY: &str = "described by the device tree";

/// The boot protocol hands the device tree over in `a1`; there is no other place to look.
pub const DEVICE_TREE: Option<u64> = None;

/// The `sifive_test` device, which ends the emulator.
const FINISHER: u64 = 0x10_0000;

/// The counter behind the clock.
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: reads the `time` CSR, which OpenSBI opens to S-mode; it touches no memory.
    unsafe { asm!("rdtime {}", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// How fast [`ticks`] counts, as the device tree says.
pub fn ticks_per_second(firmware: &Firmware) -> Option<u64> {
    let cpus = firmware.tree.find_node("/cpus")?;
    let value = cpus.property("timebase-frequency")?;
    let value = Property::value(&value);
    match *value {
        [a, b, c, d] => Some(u64::from(u32::from_be_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

/// Instructions so far, if QEMU runs with `-icount shift=0`; otherwise it counts something else.
pub fn instructions() -> u64 {
    let count;
    // SAFETY: reads the `instret` CSR, which OpenSBI opens to S-mode; it touches no memory.
    unsafe { asm!("rdinstret {}", out(reg) count, options(nomem, nostack)) };
    count
}

/// Executes `2 * pairs` instructions, and few besides; `pairs` is not 0.
pub fn execute(pairs: u64) {
    // SAFETY: counts a register down to 0.
    unsafe {
        asm!(
            "2: addi {0}, {0}, -1",
            "bnez {0}, 2b",
            inout(reg) pairs => _,
            options(nomem, nostack),
        );
    }
}

/// Ends the emulator with `code`.
pub fn exit(code: u32) -> ! {
    let address = DIRECT_MAP as u64 + FINISHER;
    // SAFETY: the device is at this address of the `virt` machine and the direct map covers it.
    let finisher = unsafe { qemu_exit::RISCV64::new(address) };
    match code {
        0 => finisher.exit_success(),
        code => finisher.exit(code),
    }
}

/// Asks the firmware to power the machine off, and waits for it: the emulator ends with code 0.
pub fn firmware_power_off() -> ! {
    const SYSTEM_RESET: usize = 0x5352_5354;
    // SAFETY: an SBI call: system reset, type 0 (shutdown), reason 0. OpenSBI preserves every
    // register except a0 and a1.
    unsafe {
        asm!(
            "ecall",
            inlateout("a0") 0usize => _,
            inlateout("a1") 0usize => _,
            in("a6") 0usize,
            in("a7") SYSTEM_RESET,
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
    unsafe { asm!("fence iorw, iorw", options(nostack, preserves_flags)) };
}
