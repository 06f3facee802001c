//! Runs the tests with each mutant in turn, until one of them notices it.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::build::Program;
use super::process::{self, Ended};
use super::reach::{Case, Reach};

/// Chooses the mutant when a test program starts.
const CHOICE: &str = "VIOMMU_MUTANT";
/// How long the tests of one run take together, at first and then: few at first, because most
/// mutants are noticed by the first test that reaches them; never many, because those that come
/// after a test that does not end are waited for in vain.
const STAGES: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(500)];
/// Added to the time of each run, so that it does not matter what else the machine does.
const GRACE: Duration = Duration::from_secs(6);
/// How many times the time without a mutant a run may take.
const FACTOR: u32 = 8;

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fate {
    /// A test is red, or the program was aborted.
    Caught,
    /// A test does not end.
    TimedOut,
    /// No test reaches it.
    Unreached,
    /// All tests that reach it are green.
    Survived,
}

impl Fate {
    /// Whether the tests notice.
    #[must_use]
    pub fn is_noticed(self) -> bool {
        matches!(self, Self::Caught | Self::TimedOut)
    }
}

/// Finds out what becomes of each mutant, several at a time; says after each how many are done, and
/// the place of this one in the list. Those that are late beside others are tried once more alone:
/// a test of threads that spin may take any time when they have to share a processor.
///
/// # Errors
///
/// A test program cannot be started.
pub fn run_all(
    programs: &[Program],
    reach: &Reach,
    mutants: &[u32],
    jobs: usize,
    done: &(dyn Fn(usize, usize, Fate) + Sync),
) -> io::Result<Vec<Fate>> {
    let mut fates = run_beside(programs, reach, mutants, jobs, done)?;
    let late = |(_, fate): &(usize, &Fate)| **fate == Fate::TimedOut;
    let late: Vec<usize> = fates.iter().enumerate().filter(late).map(|l| l.0).collect();
    println!("{} were late: once more, alone", late.len());
    let numbers: Vec<u32> = late.iter().map(|place| mutants[*place]).collect();
    let done = |count: usize, place: usize, fate: Fate| done(count, late[place], fate);
    let again = run_beside(programs, reach, &numbers, 1, &done)?;
    for (place, fate) in late.iter().zip(again) {
        fates[*place] = fate;
    }
    Ok(fates)
}

fn run_beside(
    programs: &[Program],
    reach: &Reach,
    mutants: &[u32],
    jobs: usize,
    done: &(dyn Fn(usize, usize, Fate) + Sync),
) -> io::Result<Vec<Fate>> {
    let next = AtomicUsize::new(0);
    let finished = AtomicUsize::new(0);
    let fates = Mutex::new(vec![Fate::Unreached; mutants.len()]);
    let work = || {
        while let Some((place, mutant)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            mutants.get(place).map(|mutant| (place, *mutant))
        } {
            let fate = fate(programs, reach, mutant)?;
            if let Some(of) = fates
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .get_mut(place)
            {
                *of = fate;
            }
            done(finished.fetch_add(1, Ordering::Relaxed) + 1, place, fate);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::other("a worker panicked")),
        });
        ended.collect::<io::Result<()>>()
    })?;
    Ok(fates.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Whether all tests are green without a mutant, under the same limits.
///
/// # Errors
///
/// A test program cannot be started.
pub fn is_sound(programs: &[Program], cases: &[Case]) -> io::Result<bool> {
    let all: Vec<usize> = (0..cases.len()).collect();
    Ok(stage(programs, cases, &all, 0, false)? == Ended::Green)
}

fn fate(programs: &[Program], reach: &Reach, mutant: u32) -> io::Result<Fate> {
    let Some(mut tests) = reach.tests.get(mutant as usize).map(Vec::as_slice) else {
        return Ok(Fate::Unreached);
    };
    if tests.is_empty() {
        return Ok(Fate::Unreached);
    }
    let [mut time, then] = STAGES;
    while !tests.is_empty() {
        let (now, later) = tests.split_at(fitting(&reach.cases, tests, time));
        match stage(programs, &reach.cases, now, mutant, false)? {
            Ended::Green => tests = later,
            Ended::Red => return Ok(Fate::Caught),
            Ended::Late => return Ok(Fate::TimedOut),
        }
        time = then;
    }
    Ok(Fate::Survived)
}

/// How many of the tests fit into a time, at least one.
fn fitting(cases: &[Case], tests: &[usize], time: Duration) -> usize {
    let mut sum = Duration::ZERO;
    let fit = tests.iter().take_while(|test| {
        sum += time_of(cases, **test);
        sum <= time
    });
    fit.count().max(1).min(tests.len())
}

fn time_of(cases: &[Case], test: usize) -> Duration {
    cases.get(test).map_or(Duration::ZERO, |case| case.time)
}

/// Runs some tests with a mutant, program by program, until one is not green.
fn stage(
    programs: &[Program],
    cases: &[Case],
    tests: &[usize],
    mutant: u32,
    shown: bool,
) -> io::Result<Ended> {
    for (number, program) in programs.iter().enumerate() {
        let of_program = tests.iter().filter_map(|test| cases.get(*test));
        let of_program: Vec<&Case> = of_program.filter(|case| case.program == number).collect();
        if of_program.is_empty() {
            continue;
        }
        let time: Duration = of_program.iter().map(|case| case.time).sum();
        let mut command = process::test_command(&program.path);
        command.args(of_program.iter().map(|case| &case.name));
        command.env(CHOICE, mutant.to_string());
        let ended = process::run(&mut command, GRACE + FACTOR * time, shown)?;
        if ended != Ended::Green {
            return Ok(ended);
        }
    }
    Ok(Ended::Green)
}

/// Runs all tests that reach a mutant, and shows what they say.
///
/// # Errors
///
/// A test program cannot be started.
pub fn show(programs: &[Program], reach: &Reach, mutant: u32) -> io::Result<Fate> {
    let tests = reach
        .tests
        .get(mutant as usize)
        .map_or(&[][..], Vec::as_slice);
    if tests.is_empty() {
        return Ok(Fate::Unreached);
    }
    Ok(match stage(programs, &reach.cases, tests, mutant, true)? {
        Ended::Green => Fate::Survived,
        Ended::Red => Fate::Caught,
        Ended::Late => Fate::TimedOut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_takes_what_fits_and_at_least_one() {
        let case = |millis| Case {
            program: 0,
            name: String::new(),
            time: Duration::from_millis(millis),
        };
        let cases = [case(10), case(20), case(30), case(90)];
        let fit = |tests: &[usize], millis| fitting(&cases, tests, Duration::from_millis(millis));
        assert_eq!(fit(&[0, 1, 2, 3], 40), 2);
        assert_eq!(fit(&[3], 40), 1);
        assert_eq!(fit(&[], 40), 0);
        assert_eq!(fit(&[1, 3], u64::MAX), 2);
    }
}
