//! Every rule of the checklist is proven by each oracle that it needs, and nothing is proven that is no rule.

use crate::support::scenarios;
use libtest_mimic::Trial;
use xtask::conformance::scan::{self, Claim};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("rules::every_rule_is_proven", || {
        let functions = scan::functions(xtask::project_root())?;
        let functions = functions.map_err(|gap| gap.to_string())?;
        let mut claims = scan::claims_of(&functions);
        for scenario in scenarios::all() {
            for (oracle, rules) in scenario.proves {
                if oracle.on_host() {
                    return Err(format!("{}: {oracle} is no oracle of a VM", scenario.name).into());
                }
                claims.extend(rules.iter().map(|rule| Claim {
                    test: scenario.name.to_owned(),
                    oracle: *oracle,
                    rule: (*rule).to_owned(),
                }));
            }
        }
        let gaps: Vec<String> = scan::gaps(&claims)
            .iter()
            .map(ToString::to_string)
            .collect();
        if gaps.is_empty() {
            return Ok(());
        }
        Err(gaps.join("\n").into())
    })]
}
