//! The record of a scenario: a plan, one line per check, an end.
//!
//! The harness on the other side of the serial line believes nothing else, and wants the exit code
//! to say the same. The counts are global, so that a panic or a trap can close the record, on
//! whatever CPU; they change together with what is printed.

use core::fmt::{self, Debug};
use core::panic::Location;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::console::{self, Output};

/// All checks of the plan were done, and none failed.
pub const EXIT_PASS: u32 = 33;
/// A check failed, or there was nothing to run.
pub const EXIT_FAIL: u32 = 35;
/// The kernel panicked or trapped.
pub const EXIT_PANIC: u32 = 37;

static PLANNED: AtomicU32 = AtomicU32::new(0);
static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);
static OPEN: AtomicBool = AtomicBool::new(false);

/// A check failed that the rest of the scenario stands on; it is on record already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop;

/// What a scenario, or a part of one, returns.
pub type Checked<T = ()> = Result<T, Stop>;

/// Writes the record.
pub struct Report {
    _private: (),
}

impl Report {
    /// Starts the record. There is one per boot.
    pub fn begin() -> Self {
        console::exclusively(|_| OPEN.store(true, Relaxed));
        Self { _private: () }
    }

    /// Announces how many checks there will be: the first record.
    pub fn plan(&mut self, checks: u32) {
        console::exclusively(|output| {
            PLANNED.store(checks, Relaxed);
            output.record(format_args!("plan {checks}"));
        });
    }

    /// Checks that something holds.
    #[track_caller]
    pub fn that(&mut self, name: &str, holds: bool) -> bool {
        self.equal(name, holds, true)
    }

    /// Checks that two values are equal.
    #[track_caller]
    pub fn equal<L, R>(&mut self, name: &str, left: L, right: R) -> bool
    where
        L: PartialEq<R> + Debug,
        R: Debug,
    {
        let equal = left == right;
        if equal {
            self.pass(name);
        } else {
            self.fail(name, format_args!("left: {left:?} right: {right:?}"));
        }
        equal
    }

    /// Checks that something worked; the scenario cannot go on without it.
    #[track_caller]
    pub fn require<T, E: Debug>(&mut self, name: &str, result: Result<T, E>) -> Checked<T> {
        match result {
            Ok(value) => {
                self.pass(name);
                Ok(value)
            }
            Err(error) => {
                self.fail(name, format_args!("left: Err({error:?}) right: Ok(_)"));
                Err(Stop)
            }
        }
    }

    /// What a check needs, and what is not worth a record when it works.
    #[track_caller]
    pub fn need<T, E: Debug>(&mut self, name: &str, result: Result<T, E>) -> Checked<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                self.fail(name, format_args!("left: Err({error:?}) right: Ok(_)"));
                Err(Stop)
            }
        }
    }

    /// Records a check that holds.
    pub fn pass(&mut self, name: &str) {
        console::exclusively(|output| {
            PASSED.fetch_add(1, Relaxed);
            output.record(format_args!("ok {} {name}", number()));
        });
    }

    /// Records a check that does not hold, with the place in the source of whoever asked.
    #[track_caller]
    pub fn fail(&mut self, name: &str, values: fmt::Arguments<'_>) {
        let place = Location::caller();
        console::exclusively(|output| {
            FAILED.fetch_add(1, Relaxed);
            output.record(format_args!(
                "not ok {} {name} # {}:{} {values}",
                number(),
                place.file(),
                place.line()
            ));
        });
    }

    /// Records a check that cannot be done here, and why.
    pub fn skip(&mut self, name: &str, reason: fmt::Arguments<'_>) {
        console::exclusively(|output| {
            SKIPPED.fetch_add(1, Relaxed);
            output.record(format_args!("skip {} {name} # {reason}", number()));
        });
    }

    /// Records what a benchmark has found out.
    pub fn bench(&mut self, row: fmt::Arguments<'_>) {
        console::record(format_args!("bench {row}"));
    }

    /// Records what a number of equal I/Os took.
    pub fn io(&mut self, phase: fmt::Arguments<'_>) {
        console::record(format_args!("io {phase}"));
    }

    /// Closes the record; returns the exit code.
    pub fn end(self) -> u32 {
        console::exclusively(end);
        if FAILED.load(Relaxed) == 0 && PLANNED.load(Relaxed) == number() && number() != 0 {
            EXIT_PASS
        } else {
            EXIT_FAIL
        }
    }
}

/// The number of the last check.
fn number() -> u32 {
    PASSED.load(Relaxed) + FAILED.load(Relaxed) + SKIPPED.load(Relaxed)
}

fn end(output: &mut Output) {
    OPEN.store(false, Relaxed);
    output.record(format_args!(
        "end {} passed {} failed {} skipped",
        PASSED.load(Relaxed),
        FAILED.load(Relaxed),
        SKIPPED.load(Relaxed)
    ));
}

/// Closes the record of a kernel that cannot go on. For handlers that never return.
pub fn aborted(name: &str, message: fmt::Arguments<'_>) {
    console::exclusively(|output| {
        if !OPEN.swap(false, Relaxed) {
            return;
        }
        if PLANNED.load(Relaxed) == 0 {
            output.record(format_args!("plan 1"));
        }
        FAILED.fetch_add(1, Relaxed);
        output.record(format_args!("not ok {} {name} # {message}", number()));
        end(output);
    });
}
