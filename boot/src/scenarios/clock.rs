//! The clock: it has to be right, because every wait of the driver is bounded by it.

use core::time::Duration;

use super::lab::{Lab, buffer, done};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::clock::{self, Deadline};
use crate::console::println;
use crate::edu::LIMIT;
use crate::report::{Checked, Report};

/// `clock`: the kernel's seconds are as long as the emulator's.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    /// What the device needs for a transfer: 100 ms from the last full millisecond of the emulator.
    const TRANSFER: Duration = Duration::from_millis(100);
    const SHORT: Duration = Duration::from_millis(5);
    report.plan(4);
    let mut lab = Lab::open(report, firmware, 1)?;
    let memory = buffer(report, 4096, Pattern::Byte(0))?;
    let address = memory.phys() & LIMIT.0;

    let mut last = clock::now();
    let mut backwards = 0;
    for _ in 0..1000 {
        let now = clock::now();
        backwards += u32::from(now < last);
        last = now;
    }
    report.equal("it_never_goes_back", backwards, 0);

    // The shortest of some: a busy host makes them longer, nothing makes them shorter.
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let start = clock::now();
        done(report, lab.edus[0].read_memory(address, 64))?;
        shortest = shortest.min(Duration::from_nanos(clock::now() - start));
    }
    println!("a transfer of {TRANSFER:?} takes {shortest:?}");
    report.that("it_is_not_slow", shortest >= TRANSFER * 98 / 100);
    report.that("it_is_not_fast", shortest <= TRANSFER * 110 / 100);

    let start = clock::now();
    let deadline = Deadline::after(SHORT);
    while !deadline.passed() {}
    let waited = Duration::from_nanos(clock::now() - start);
    report.that("a_deadline_does_not_pass_early", waited >= SHORT);
    Ok(())
}
