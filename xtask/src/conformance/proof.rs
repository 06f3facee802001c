//! How a test says which rules it proves, and how that is kept while a report is made.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Oracle;

/// The folder that proofs are kept in; without it nothing is kept.
pub const PROOFS_VARIABLE: &str = "VIOMMU_PROOFS";

/// What one test, or one scenario, has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The source file of the test, from the root of the project; the scenario's name.
    pub place: String,
    /// The line in it; 0 for a scenario.
    pub line: u32,
    /// The architecture that it ran on, for a scenario.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Whether it is green.
    pub green: bool,
    /// Why it was not run, if it is about something that this QEMU cannot do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_applicable: Option<String>,
    /// The personalities of the model that it met; the last one is the one that it failed with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub personalities: Vec<String>,
    /// What it proves, by which oracle.
    pub proves: Vec<(Oracle, Vec<String>)>,
}

impl Record {
    /// Adds it to what is kept, if something is kept.
    pub fn keep(&self) {
        let Some(dir) = std::env::var_os(PROOFS_VARIABLE).map(PathBuf::from) else {
            return;
        };
        // A report that lacks a record has a gap, which is red.
        let Ok(mut line) = serde_json::to_string(self) else {
            return;
        };
        line.push('\n');
        let file = dir.join(format!("{}.jsonl", std::process::id()));
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(file) {
            // One write, so that threads do not come in between.
            let _ = file.write_all(line.as_bytes());
        }
    }
}

thread_local! {
    /// The personalities that the test of this thread has met.
    static MET: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Notes that the test of this thread now meets a model with this personality.
pub fn met(personality: &'static str) {
    MET.with_borrow_mut(|met| {
        // The one that a test fails with is the last.
        met.retain(|known| *known != personality);
        met.push(personality);
    });
}

/// Says which rules the test proves that makes this call, and keeps it until its end.
///
/// The name of the test is found by the place of the call.
#[track_caller]
#[must_use = "a test proves something while this lives"]
pub fn proves(oracle: Oracle, rules: &'static [&'static str]) -> Proof {
    MET.take();
    Proof {
        place: Location::caller(),
        proves: vec![(oracle, rules)],
    }
}

/// What a test proves, until it ends.
#[derive(Debug)]
pub struct Proof {
    place: &'static Location<'static>,
    proves: Vec<(Oracle, &'static [&'static str])>,
}

impl Proof {
    /// The same test proves these by another oracle, too.
    #[must_use = "a test proves something while this lives"]
    pub fn and(mut self, oracle: Oracle, rules: &'static [&'static str]) -> Self {
        self.proves.push((oracle, rules));
        self
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        if std::env::var_os(PROOFS_VARIABLE).is_none() {
            return;
        }
        let owned = |(oracle, rules): &(Oracle, &[&str])| {
            (*oracle, rules.iter().map(|id| (*id).to_owned()).collect())
        };
        Record {
            place: self.place.file().to_owned(),
            line: self.place.line(),
            arch: None,
            green: !std::thread::panicking(),
            not_applicable: None,
            personalities: MET.take().into_iter().map(str::to_owned).collect(),
            proves: self.proves.iter().map(owned).collect(),
        }
        .keep();
    }
}
