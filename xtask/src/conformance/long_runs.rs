//! What long runs against random input have reached: `docs/long-runs.toml`, which is written by
//! hand, because these runs are no part of `cargo xtask test`.

use serde::{Deserialize, Serialize};

/// The file, from the root of the project.
pub const FILE: &str = "docs/long-runs.toml";

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongRuns {
    /// One for each, in the order of the pages.
    #[serde(default)]
    pub run: Vec<LongRun>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongRun {
    /// What is tried.
    pub what: String,
    /// The command, in the folder that is named before the colon if it is not the project's.
    pub command: String,
    /// How much was tried.
    pub reached: String,
    /// How long that took.
    pub time: String,
    /// What was wrong.
    pub failures: String,
    /// The day.
    pub date: String,
}

impl LongRuns {
    /// The runs that a text tells of.
    ///
    /// # Errors
    ///
    /// It is no TOML, or not of this kind.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read() {
        let text = "[[run]]\nwhat = 'a'\ncommand = 'b'\nreached = 'c'\ntime = 'd'\nfailures = 'e'\ndate = 'f'";
        let runs = LongRuns::parse(text).unwrap();
        assert_eq!(runs.run[0].reached, "c");
        assert!(LongRuns::parse("[[run]]\nwhat = 'a'").is_err());
        assert!(LongRuns::parse(&format!("{text}\nmore = 1")).is_err());
        assert_eq!(LongRuns::parse("").unwrap(), LongRuns::default());
    }
}
