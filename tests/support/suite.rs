//! Trials that boot VMs: how many at once, what happens where none can be booted, and the line at the end.

use super::machine::{Host, Unready, host, watchdog};
use libtest_mimic::{Arguments, Completion, FormatSetting, Trial};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use xtask::Arch;

/// VMs at once, if nobody says more: each takes a CPU and 128 MiB.
const MOST: usize = 4;

/// What became of one that could be booted, unless it is red.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It is green.
    Green,
    /// This QEMU cannot do what it is about: why.
    NotApplicable(String),
}

impl From<()> for Ran {
    fn from((): ()) -> Self {
        Self::Green
    }
}

/// What became of the trials that boot VMs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    green: usize,
    red: usize,
    /// By reason.
    not_applicable: BTreeMap<String, usize>,
    /// By reason.
    skipped: BTreeMap<String, usize>,
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A trial that panicked has counted nothing by half.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one that could be booted.
    pub fn count(&self, result: &Result<Ran, String>) {
        let mut counts = self.counts();
        match result {
            Ok(Ran::Green) => counts.green += 1,
            Ok(Ran::NotApplicable(why)) => {
                *counts.not_applicable.entry(why.clone()).or_default() += 1;
            }
            Err(_) => counts.red += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        let ran = counts.green + counts.red;
        let (green, red) = (counts.green, counts.red);
        write!(f, "{ran} ran: {green} green, {red} red")?;
        if !counts.not_applicable.is_empty() {
            list(f, "not applicable", &counts.not_applicable)?;
        }
        list(f, "skipped", &counts.skipped)
    }
}

/// How many there are, and for which reasons.
fn list(f: &mut fmt::Formatter<'_>, what: &str, reasons: &BTreeMap<String, usize>) -> fmt::Result {
    let all: usize = reasons.values().sum();
    write!(f, "; {all} {what}")?;
    let mut reasons = reasons.iter().enumerate();
    reasons.try_for_each(|(index, (reason, count))| {
        let mark = if index == 0 { ": " } else { "; " };
        write!(f, "{mark}{count} because {reason}")
    })
}

/// A trial that needs QEMU and the kernel: ignored with a reason where one of them is missing.
pub fn trial<R: Into<Ran>>(
    name: String,
    arch: Arch,
    tally: &Tally,
    run: impl FnOnce(&Host) -> Result<R, String> + Send + 'static,
) -> Trial {
    let tally = tally.clone();
    Trial::ignorable_test(name, move || {
        let result = match host(arch) {
            Ok(host) => run(host).map(R::into),
            Err(Unready::Failed(why)) => Err(why.clone()),
            Err(Unready::Missing(why)) => {
                *tally.counts().skipped.entry(why.clone()).or_default() += 1;
                return Ok(Completion::ignored_with(why));
            }
        };
        tally.count(&result);
        Ok(match result? {
            Ran::Green => Completion::Completed,
            Ran::NotApplicable(why) => Completion::ignored_with(format!("not applicable: {why}")),
        })
    })
}

/// Runs trials, at most [`MOST`] at once unless `--test-threads` says otherwise; says at the end what ran.
pub fn main(
    what: &str,
    trials: impl FnOnce(&[Arch], &Tally) -> Vec<Trial>,
) -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    let cores = available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores.min(MOST));
    let tally = Tally::default();
    let settings = Arch::selected()
        .map_err(|error| error.to_string())
        .and_then(|archs| watchdog().map(|_| archs));
    let trials = match settings {
        Ok(archs) => trials(&archs, &tally),
        // Whatever was asked for, it would not be what is tested.
        Err(error) => {
            arguments.filter = None;
            vec![Trial::test("settings", move || Err(error.into()))]
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    let line = format!("{what}: {tally}{}", not_selected());
    match arguments.format {
        _ if arguments.list => {}
        Some(FormatSetting::Json) => eprintln!("{line}"),
        _ => println!("{line}"),
    }
    conclusion.exit_code()
}

/// The architectures that the caller has left out.
fn not_selected() -> String {
    let selected = Arch::selected().unwrap_or_default();
    let left: Vec<&str> = Arch::ALL
        .iter()
        .filter(|arch| !selected.contains(arch))
        .map(|arch| arch.name())
        .collect();
    if left.is_empty() {
        return String::new();
    }
    let variable = xtask::arch::ARCH_VARIABLE;
    format!("; {} left out by {variable}", left.join(", "))
}
