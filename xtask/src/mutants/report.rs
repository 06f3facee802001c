//! What the tests notice, as figures and as a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::find::Mutant;
use super::reasons::{self, Reasons};
use super::run::Fate;

/// The page, from the root of the project.
pub const PAGE: &str = "docs/mutants.md";
/// How many of 100 mutants have to be noticed.
pub const LEAST: f64 = 95.0;

/// Validation and status handling: what is checked before it goes to the device, and what is made
/// of what comes back.
const CHECKS: [&str; 10] = [
    "src/wire/",
    "src/device/bring_up.rs",
    "src/device/endpoints.rs",
    "src/device/events.rs",
    "src/device/faults.rs",
    "src/device/memory.rs",
    "src/device/pipeline.rs",
    "src/device/requests.rs",
    "src/domain/attach.rs",
    "src/domain/change.rs",
];

/// Everything that a run has found out.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// Mutants that the tests ran with, and what became of each.
    pub ran: Vec<(&'a Mutant, Fate)>,
    /// How many the compiler refused.
    pub refused: usize,
    /// Those of functions that have to stay constant.
    pub constant: Vec<&'a Mutant>,
    /// How many tests there were.
    pub tests: usize,
    /// How long it took, in seconds.
    pub seconds: u64,
    /// The day.
    pub date: String,
}

/// Numbers of mutants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All.
    pub all: usize,
    /// A test is red.
    pub caught: usize,
    /// A test does not end.
    pub timed_out: usize,
    /// No test comes by.
    pub unreached: usize,
    /// All tests are green.
    pub survived: usize,
}

impl Figures {
    fn of<'a>(ran: impl Iterator<Item = &'a (&'a Mutant, Fate)>) -> Self {
        let mut figures = Self::default();
        for (_, fate) in ran {
            figures.all += 1;
            match fate {
                Fate::Caught => figures.caught += 1,
                Fate::TimedOut => figures.timed_out += 1,
                Fate::Unreached => figures.unreached += 1,
                Fate::Survived => figures.survived += 1,
            }
        }
        figures
    }

    /// How many of 100 are noticed.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.all == 0 {
            return 100.0;
        }
        100.0 * (self.caught + self.timed_out) as f64 / self.all as f64
    }

    fn row(&self, name: &str) -> String {
        let Self {
            all,
            caught,
            timed_out,
            unreached,
            survived,
        } = self;
        let share = self.share();
        format!(
            "| {name} | {all} | {caught} | {timed_out} | {unreached} | {survived} | {share:.1} % |\n"
        )
    }
}

impl Outcome<'_> {
    /// All mutants.
    #[must_use]
    pub fn overall(&self) -> Figures {
        Figures::of(self.ran.iter())
    }

    /// Those of validation and status handling.
    #[must_use]
    pub fn checks(&self) -> Figures {
        let is_check = |mutant: &Mutant| CHECKS.iter().any(|place| mutant.file.starts_with(place));
        Figures::of(self.ran.iter().filter(|(mutant, _)| is_check(mutant)))
    }

    /// Those that no test notices, by name.
    #[must_use]
    pub fn survivors(&self) -> BTreeMap<String, Fate> {
        let alive = self.ran.iter().filter(|(_, fate)| !fate.is_noticed());
        alive
            .map(|(mutant, fate)| (mutant.to_string(), *fate))
            .collect()
    }

    /// Survivors without a reason.
    #[must_use]
    pub fn unexplained(&self, reasons: &Reasons) -> Vec<String> {
        let known = reasons.by_name();
        let survivors = self.survivors().into_keys();
        survivors
            .filter(|name| !known.contains_key(name.as_str()))
            .collect()
    }

    /// Reasons for what does not survive.
    #[must_use]
    pub fn needless(&self, reasons: &Reasons) -> Vec<String> {
        let survivors = self.survivors();
        let known = reasons.by_name().into_keys();
        known
            .filter(|name| !survivors.contains_key(*name))
            .map(str::to_owned)
            .collect()
    }

    /// The figures as a table: file by file, and sums.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| file | mutants | caught | timed out | not reached | survived | noticed |\n\
             |---|---|---|---|---|---|---|\n",
        );
        let files: BTreeSet<&str> = self.ran.iter().map(|(mutant, _)| &*mutant.file).collect();
        for file in files {
            let of_file = self.ran.iter().filter(|(mutant, _)| mutant.file == file);
            text.push_str(&Figures::of(of_file).row(file));
        }
        text.push_str(&self.checks().row("**validation and status handling**"));
        text.push_str(&self.overall().row("**all**"));
        text
    }

    /// The page.
    #[must_use]
    pub fn page(&self, reasons: &Reasons) -> String {
        let mut text = format!(
            "# Mutants\n\n\
             Small changes of the driver, one at a time, each of which a test has to notice: another operator, an arm of a\n\
             `match` that is passed over, a function that returns at once. Made by `cargo xtask mutants`, not by hand; the\n\
             reasons are in `{}`.\n\n\
             Run of {}, {} tests, {} minutes. At least {LEAST} % have to be noticed, of validation and status handling\n\
             and of all; what survives needs a reason. A test that does not end counts as one that notices.\n\n",
            reasons::FILE,
            self.date,
            self.tests,
            self.seconds.div_ceil(60),
        );
        text.push_str(&self.table());
        let checks = CHECKS.map(|place| format!("`{place}`")).join(", ");
        let _ = write!(text, "\nValidation and status handling is {checks}.\n\n");
        let _ = writeln!(
            text,
            "{} more are no programs: the compiler refuses them.",
            self.refused
        );
        if !self.constant.is_empty() {
            let _ = writeln!(
                text,
                "{} more are in functions that constants need, which cannot look at a switch: {}.",
                self.constant.len(),
                functions(&self.constant)
            );
        }
        text.push_str("\n## What survives\n");
        let survivors = self.survivors();
        for reason in &reasons.reason {
            let alive = reason
                .mutants
                .iter()
                .filter(|name| survivors.contains_key(*name));
            let alive: Vec<&String> = alive.collect();
            if !alive.is_empty() {
                let _ = write!(text, "\n{}\n\n", reason.text.trim());
                list(&mut text, alive.into_iter(), &survivors);
            }
        }
        let unexplained = self.unexplained(reasons);
        if !unexplained.is_empty() {
            text.push_str("\nWithout a reason:\n\n");
            list(&mut text, unexplained.iter(), &survivors);
        }
        text
    }
}

fn list<'a>(
    text: &mut String,
    names: impl Iterator<Item = &'a String>,
    survivors: &BTreeMap<String, Fate>,
) {
    for name in names {
        let note = match survivors.get(name) {
            Some(Fate::Unreached) => " (no test reaches it)",
            _ => "",
        };
        let _ = writeln!(text, "- {name}{note}");
    }
}

/// The functions of some mutants, each once.
fn functions(mutants: &[&Mutant]) -> String {
    let names = mutants
        .iter()
        .map(|mutant| format!("{} `{}`", mutant.file, mutant.function));
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(file: &str, change: &str) -> Mutant {
        Mutant {
            file: file.into(),
            function: "f".into(),
            line: 1,
            change: change.into(),
            nth: 1,
        }
    }

    #[test]
    fn survivors_need_reasons_and_reasons_survivors() {
        let (a, b) = (mutant("src/wire/a.rs", "x"), mutant("src/iova/b.rs", "y"));
        let c = mutant("src/iova/b.rs", "z");
        let outcome = Outcome {
            ran: vec![
                (&a, Fate::Caught),
                (&b, Fate::Survived),
                (&c, Fate::TimedOut),
            ],
            refused: 0,
            constant: Vec::new(),
            tests: 1,
            seconds: 0,
            date: "today".into(),
        };
        assert_eq!(outcome.checks().share(), 100.0);
        assert_eq!(outcome.overall().all, 3);
        assert!(outcome.overall().share() < 67.0);
        let none = Reasons::default();
        assert_eq!(outcome.unexplained(&none), ["src/iova/b.rs f: y"]);
        let text = "[[reason]]\ntext = 'why'\n\
                    mutants = ['src/iova/b.rs f: y', 'src/wire/a.rs f: x']";
        let reasons = Reasons::parse(text).unwrap();
        assert!(outcome.unexplained(&reasons).is_empty());
        assert_eq!(outcome.needless(&reasons), ["src/wire/a.rs f: x"]);
        let page = outcome.page(&reasons);
        assert!(page.contains("why\n\n- src/iova/b.rs f: y\n"));
        assert!(!page.contains("- src/wire/a.rs"));
    }
}
