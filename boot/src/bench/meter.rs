//! What is measured, and how: instructions, or time.

use core::hint::black_box;

use crate::arch;
use crate::clock;
use crate::command_line::Measure;
use crate::report::{Checked, Report, Stop};

/// Thousandths of an instruction, or of a nanosecond.
pub type Milli = u64;

/// Reads that the cost of one is measured with.
const READS: u64 = 64 * 16;

/// Tries of a self-check.
const TRIES: usize = 4;

/// Measures how much something takes.
pub struct Meter {
    measure: Measure,
    overhead: Milli,
}

impl Meter {
    /// A meter whose counter was seen to count what it should: one check.
    pub fn new(measure: Measure, report: &mut Report) -> Checked<Self> {
        let mut meter = Self {
            measure,
            overhead: 0,
        };
        match measure {
            Measure::Instructions => meter.counts_instructions(report)?,
            Measure::Time => meter.counts_time(report)?,
            Measure::Counts => {
                report.fail("meter", format_args!("counts are QEMU's to tell"));
                return Err(Stop);
            }
        }
        meter.overhead = meter.cost_of_a_read();
        Ok(meter)
    }

    /// The unit, in the words of the record.
    pub fn unit(&self) -> &'static str {
        match self.measure {
            Measure::Instructions => "instructions",
            Measure::Time | Measure::Counts => "ns",
        }
    }

    /// What a measurement of nothing would be. It is subtracted from every other.
    pub fn overhead(&self) -> Milli {
        self.overhead
    }

    /// What `work` takes.
    #[inline(always)]
    pub fn measure<R>(&self, work: impl FnOnce() -> R) -> (Milli, R) {
        let before = self.read();
        let result = work();
        let after = self.read();
        let all = self.milli(after.saturating_sub(before));
        (all.saturating_sub(self.overhead), result)
    }

    #[inline(always)]
    fn read(&self) -> u64 {
        match self.measure {
            Measure::Instructions => arch::instructions(),
            Measure::Time | Measure::Counts => arch::ticks(),
        }
    }

    fn milli(&self, count: u64) -> Milli {
        let scaled = match self.measure {
            Measure::Instructions => u128::from(count) * 1000,
            Measure::Time | Measure::Counts => {
                u128::from(count) * 1_000_000_000_000 / u128::from(clock::ticks_per_second())
            }
        };
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// Between two reads one after the other lies one read: half of each.
    fn cost_of_a_read(&self) -> Milli {
        let before = self.read();
        for _ in 0..READS / 16 {
            // Many at once, so that the loop does not count.
            black_box([
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
                self.read(),
            ]);
        }
        let after = self.read();
        self.milli(after.saturating_sub(before)) / READS
    }

    /// What a known number of instructions counts: their number, and the count.
    fn known(&self) -> (u64, u64) {
        const SHORT: u64 = 10_000;
        const LONG: u64 = 60_000;
        let count = |pairs| {
            let before = self.read();
            arch::execute(pairs);
            self.read().saturating_sub(before)
        };
        // What is around the loop is in both.
        let counted = count(LONG).saturating_sub(count(SHORT));
        (2 * (LONG - SHORT), counted)
    }

    /// The counter counts the instructions of a loop of known length, to a step of the counter at
    /// each end of both loops.
    fn counts_instructions(&self, report: &mut Report) -> Checked {
        const NAME: &str = "the_counter_counts_instructions";
        const STEPS: u64 = 4 * 16;
        for _ in 0..TRIES {
            let (expected, counted) = self.known();
            if counted.abs_diff(expected) > STEPS {
                report.fail(NAME, format_args!("left: {counted} right: {expected}"));
                return Err(Stop);
            }
        }
        report.pass(NAME);
        Ok(())
    }

    /// The clock moves, and not by a nanosecond for each instruction.
    fn counts_time(&self, report: &mut Report) -> Checked {
        const NAME: &str = "the_clock_is_that_of_the_host";
        // Two steps of the slowest clock: 10 MHz.
        const STEPS: u64 = 200;
        let (mut virtual_time, mut stopped) = (true, true);
        let mut last = (0, 0);
        for _ in 0..TRIES {
            let (instructions, ticks) = self.known();
            let nanoseconds = self.milli(ticks) / 1000;
            last = (instructions, nanoseconds);
            virtual_time &= nanoseconds.abs_diff(instructions) <= STEPS;
            // A busy host may have made the short loop the longer one, but not every time.
            stopped &= ticks == 0;
        }
        if virtual_time || stopped {
            let (instructions, nanoseconds) = last;
            report.fail(
                NAME,
                format_args!("{instructions} instructions took {nanoseconds} ns"),
            );
            return Err(Stop);
        }
        report.pass(NAME);
        Ok(())
    }
}
