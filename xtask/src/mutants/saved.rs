//! What the last runs have found out, in the target folder: the page can be made of it again.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::build;
use super::run::Fate;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Stands for the driver and its mutants.
    pub of: String,
    /// The day of the last run.
    pub date: String,
    /// How many tests there were.
    pub tests: usize,
    /// How long the runs took together, in seconds: a whole one, and others after it.
    pub seconds: u64,
    /// What became of each mutant, by name.
    pub fates: BTreeMap<String, Fate>,
}

impl Saved {
    /// What is kept of a driver, if there is something.
    #[must_use]
    pub fn load(of: &str) -> Option<Self> {
        let text = std::fs::read_to_string(file()).ok()?;
        let saved: Self = serde_json::from_str(&text).ok()?;
        (saved.of == of).then_some(saved)
    }

    /// Keeps it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn store(&self) -> io::Result<()> {
        std::fs::create_dir_all(build::folder())?;
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file(), text)
    }

    /// Takes over what a run has found out of some mutants.
    pub fn take(&mut self, fates: impl IntoIterator<Item = (String, Fate)>, tests: usize) {
        self.fates.extend(fates);
        self.tests = tests;
    }
}

fn file() -> PathBuf {
    build::folder().join("fates.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_of_some_replaces_what_it_has_found_out() {
        let mut saved = Saved::default();
        let both = ["a", "b"].map(|name| (name.to_owned(), Fate::Survived));
        saved.take(both, 7);
        saved.take([("b".to_owned(), Fate::Caught)], 8);
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<Saved>(&text).unwrap(), saved);
        assert_eq!(saved.fates["a"], Fate::Survived);
        assert_eq!((saved.fates["b"], saved.tests), (Fate::Caught, 8));
    }
}
