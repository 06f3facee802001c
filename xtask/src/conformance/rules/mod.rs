//! The table of rules. The chapter on the IOMMU is the same in virtio 1.2, 1.3 and 1.4.

mod device;
mod driver;
mod generic;

use super::Rule;

/// All rules: those of the driver, what it must bear, those of virtio in general.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [driver::RULES, device::RULES, generic::RULES]
        .into_iter()
        .flatten()
}

/// The rule with this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::conformance::{Level, State};

    #[test]
    fn the_ids_are_those_of_the_specification() {
        let ids: BTreeSet<&str> = all().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), all().count(), "an id twice");
        let normative = |prefix: &str, level: Level| {
            let of = |rule: &&Rule| rule.id.starts_with(prefix) && rule.level == level;
            all().filter(of).count()
        };
        let driver = [Level::Must, Level::Should, Level::May, Level::Text];
        let counts = driver.map(|level| normative("DN-", level));
        assert_eq!(counts, [17, 24, 2, 5], "the rules of a driver");
        let counts = driver.map(|level| normative("DV-", level));
        assert_eq!(counts, [17, 40, 9, 3], "the rules of a device");
    }

    #[test]
    fn what_is_not_proven_says_why() {
        for rule in all() {
            match rule.state {
                State::Kept => assert!(!rule.oracles.is_empty(), "{}", rule.id),
                State::Delegated(why) | State::NotApplicable(why) | State::Deviation(why) => {
                    assert!(why.len() > 10, "{}", rule.id);
                }
            }
            assert!(!rule.text.is_empty() && !rule.section.is_empty());
        }
    }
}
