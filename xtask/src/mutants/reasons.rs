//! Why mutants survive: `docs/mutants.toml`, which is written by hand.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The file, from the root of the project.
pub const FILE: &str = "docs/mutants.toml";

/// The reasons.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasons {
    /// One for each, in the order of the page.
    #[serde(default)]
    pub reason: Vec<Reason>,
}

/// A reason, and the mutants that survive because of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The reason.
    pub text: String,
    /// The names of the mutants.
    pub mutants: BTreeSet<String>,
}

impl Reasons {
    /// The reasons that a text gives.
    ///
    /// # Errors
    ///
    /// It is no TOML, or not of this kind.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Each name, and the number of its reason.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<&str, usize> {
        let lists = self.reason.iter().enumerate();
        let names = lists.flat_map(|(number, reason)| {
            let names = reason.mutants.iter();
            names.map(move |name| (name.as_str(), number))
        });
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read() {
        let reasons = Reasons::parse("[[reason]]\ntext = 'a hint'\nmutants = ['b', 'c']").unwrap();
        assert_eq!(reasons.by_name(), BTreeMap::from([("b", 0), ("c", 0)]));
        assert!(Reasons::parse("[[reason]]\ntext = 'no names'").is_err());
        assert!(Reasons::parse("").unwrap().by_name().is_empty());
    }

    #[test]
    fn those_of_the_project_are_well_formed_and_differ() {
        let text = std::fs::read_to_string(crate::project_root().join(FILE)).unwrap();
        let reasons = Reasons::parse(&text).unwrap();
        let names: usize = reasons
            .reason
            .iter()
            .map(|reason| reason.mutants.len())
            .sum();
        assert_eq!(reasons.by_name().len(), names, "a mutant has two reasons");
    }
}
