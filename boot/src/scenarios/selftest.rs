//! Scenarios without a device: they prove that the harness tells good from bad.
//!
//! Only `selftest-pass` may be called a success on the other side.

use core::hint;
use core::sync::atomic::Ordering;

use crate::arch::{self, Firmware};
use crate::console;
use crate::memory::direct_map;
use crate::report::{Checked, EXIT_PASS, Report};
use crate::trap::TRAP_IN_HANDLER;

static LANDMARK: u64 = 0x7669_6f6d_6d75_2121;

/// All is well; and a physical address is no pointer, a pointer no physical address.
pub fn pass(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(6);
    report.that("arithmetic_works", hint::black_box(1) + 1 == 2);
    let phys = direct_map::phys_of_static(&LANDMARK);
    let virt = &raw const LANDMARK as u64;
    report.that("kernel_runs_at_an_offset", phys != virt);
    report.that(
        "its_addresses_are_translated",
        arch::translates(virt as usize),
    );
    // The kernel, the device tree or start info, low memory, the end of the lower half of all
    // addresses.
    let identity = [
        phys,
        firmware.place.start().0,
        0,
        0x1000,
        0x10_0000,
        1 << 38,
        (1 << 47) - 1,
    ]
    .into_iter()
    .find(|address| arch::translates(*address as usize));
    report.equal("no_physical_address_is_translated", identity, None);
    let pointer = direct_map::pointer(virt, 8);
    report.equal("a_pointer_is_no_physical_address", pointer, None);
    let pointer = report.need("direct_map", direct_map::pointer(phys, 8).ok_or(phys))?;
    // SAFETY: `LANDMARK` through the direct map, which is how the kernel itself sees it.
    let seen = unsafe { pointer.cast::<u64>().read_volatile() };
    report.equal("direct_map_is_exact", seen, LANDMARK);
    Ok(())
}

/// A check fails.
pub fn fail(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(3);
    report.that("before_the_failure", true);
    report.equal("two_and_two_is_five", hint::black_box(2) + 2, 5);
    report.that("after_the_failure", true);
    Ok(())
}

/// The kernel panics.
pub fn panic(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(2);
    report.that("before_the_panic", true);
    panic!("a panic,\non purpose");
}

/// A physical address is used as a pointer.
pub fn trap(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(2);
    report.that("before_the_trap", true);
    let pointer = direct_map::phys_of_static(&LANDMARK) as *const u64;
    // SAFETY: not valid, and that is the point: the access traps.
    let seen = unsafe { pointer.read_volatile() };
    report.equal("a_physical_address_is_no_pointer", seen, !LANDMARK);
    Ok(())
}

/// The trap handler traps, too.
pub fn triple_fault(report: &mut Report, firmware: &Firmware) -> Checked {
    TRAP_IN_HANDLER.store(true, Ordering::Relaxed);
    trap(report, firmware)
}

/// The kernel never comes back.
pub fn hang(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(2);
    report.that("before_the_hang", true);
    loop {
        hint::spin_loop();
    }
}

/// The firmware switches the machine off before the end of the record.
pub fn firmware_off(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(2);
    report.that("before_the_power_off", true);
    arch::firmware_power_off()
}

/// The output stops in the middle of a record, and the exit code claims success.
pub fn truncated(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(3);
    report.that("before_the_cut", true);
    console::truncated_record("ok 2 this_li");
    arch::exit(EXIT_PASS)
}

/// The end counts more checks than there were, and the exit code claims success.
pub fn miscount(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(3);
    report.that("one", true);
    report.that("two", true);
    console::record(format_args!("end 3 passed 0 failed 0 skipped"));
    arch::exit(EXIT_PASS)
}

/// A perfect record, and exit code 0.
pub fn exit_zero(report: &mut Report, _firmware: &Firmware) -> Checked {
    report.plan(1);
    report.that("a_perfect_record", true);
    console::record(format_args!("end 1 passed 0 failed 0 skipped"));
    arch::exit(0)
}

/// Exit code 33, and no record at all.
pub fn silent(_report: &mut Report, _firmware: &Firmware) -> Checked {
    arch::exit(EXIT_PASS)
}
