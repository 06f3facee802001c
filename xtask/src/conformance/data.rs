//! `docs/conformance.json`: the rules, who proves them, and how that went.
//!
//! One rule a line, in the order of the table, so that a change of the file shows what has changed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Oracle;
use super::long_runs::LongRun;

/// Where the tests of the host ran, among the names of architectures.
pub const HOST: &str = "host";

/// How often something was shown, and how often not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Tests that are green.
    pub green: u32,
    /// Tests that are red.
    pub red: u32,
}

/// Results by the personality of the model, or `qemu`.
pub type ByPersonality = BTreeMap<String, Tally>;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The id.
    pub id: String,
    /// MUST, SHOULD, MAY or text.
    pub level: String,
    /// The section of virtio 1.2.
    pub section: String,
    /// What it says.
    pub text: String,
    /// kept, delegated, not applicable or deviation.
    pub state: String,
    /// Why, if it is not simply kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The oracles that it needs.
    pub needs: Vec<Oracle>,
    /// The oracles that have decided.
    pub oracles: Vec<Oracle>,
    /// The tests and scenarios that prove it.
    pub tests: Vec<String>,
    /// By place, which is [`HOST`] or an architecture, and by oracle.
    pub results: BTreeMap<String, BTreeMap<Oracle, ByPersonality>>,
}

/// How a rule, or a part of it, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Shown, and nothing against it.
    Green,
    /// A test is red, or an oracle that it needs has not decided.
    Red,
    /// Nothing has decided, and nothing has to.
    Open,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The day of the run, in UTC.
    pub date: String,
    /// The version of QEMU by architecture.
    pub qemu: BTreeMap<String, String>,
    /// The scenarios that could not be run on these QEMU, by architecture and name, with the reasons.
    #[serde(default)]
    pub not_applicable: BTreeMap<String, BTreeMap<String, String>>,
    /// The rules, in the order of the table.
    pub rules: Vec<Entry>,
    /// What long runs against random input have reached.
    #[serde(default)]
    pub long_runs: Vec<LongRun>,
}

/// Why the file is not read, or not written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what this program writes.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl Entry {
    /// What one oracle says in one place.
    #[must_use]
    pub fn tally(&self, place: &str, oracle: Oracle) -> Tally {
        let found = self.results.get(place).and_then(|of| of.get(&oracle));
        let all = found.into_iter().flat_map(BTreeMap::values);
        all.fold(Tally::default(), |sum, one| Tally {
            green: sum.green + one.green,
            red: sum.red + one.red,
        })
    }

    /// How one oracle stands in one place.
    #[must_use]
    pub fn verdict(&self, place: &str, oracle: Oracle) -> Verdict {
        match self.tally(place, oracle) {
            Tally { red: 1.., .. } => Verdict::Red,
            Tally { green: 1.., .. } => Verdict::Green,
            _ => Verdict::Open,
        }
    }

    /// How the rule stands as a whole.
    #[must_use]
    pub fn whole(&self) -> Verdict {
        let all = || self.results.values().flat_map(BTreeMap::values);
        let red = all().flat_map(BTreeMap::values).any(|tally| tally.red > 0);
        let lacking = self.needs.iter().any(|need| !self.oracles.contains(need));
        if red || lacking {
            Verdict::Red
        } else if self.oracles.is_empty() {
            Verdict::Open
        } else {
            Verdict::Green
        }
    }
}

impl Data {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// [`DataError`].
    pub fn read(file: &Path) -> Result<Self, DataError> {
        Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
    }

    /// The text of the file.
    ///
    /// # Errors
    ///
    /// A value that JSON cannot hold.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut text = String::from("{\n");
        let _ = writeln!(text, "\"date\": {},", serde_json::to_string(&self.date)?);
        let _ = writeln!(text, "\"qemu\": {},", serde_json::to_string(&self.qemu)?);
        if !self.not_applicable.is_empty() {
            let all = serde_json::to_string(&self.not_applicable)?;
            let _ = writeln!(text, "\"not_applicable\": {all},");
        }
        list(&mut text, "rules", &self.rules)?;
        text.push_str(",\n");
        list(&mut text, "long_runs", &self.long_runs)?;
        text.push_str("\n}\n");
        Ok(text)
    }

    /// The scenarios that could not be run: architecture, name, and why.
    pub fn without(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.not_applicable.iter().flat_map(|(arch, scenarios)| {
            let all = scenarios.iter();
            all.map(move |(name, why)| (arch.as_str(), name.as_str(), why.as_str()))
        })
    }

    /// The places with results, the host first, architectures in their order.
    #[must_use]
    pub fn places(&self) -> Vec<&str> {
        let names = crate::Arch::ALL.map(crate::Arch::name);
        let ran = |place: &&str| {
            let mut rules = self.rules.iter();
            rules.any(|rule| rule.results.contains_key(*place))
        };
        [HOST].into_iter().chain(names).filter(ran).collect()
    }

    /// How many rules with this state stand so.
    #[must_use]
    pub fn count(&self, state: &str, verdict: Verdict) -> usize {
        let of = |rule: &&Entry| rule.state == state && rule.whole() == verdict;
        self.rules.iter().filter(of).count()
    }
}

/// A list, one of it a line.
fn list<T: Serialize>(text: &mut String, name: &str, all: &[T]) -> Result<(), serde_json::Error> {
    let lines = all.iter().map(serde_json::to_string);
    let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
    let _ = write!(text, "\"{name}\": [\n{}\n]", lines.join(",\n"));
    Ok(())
}
