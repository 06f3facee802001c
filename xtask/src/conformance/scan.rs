//! What the sources of the tests claim to prove, found without running them, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::{fs, io};

use super::{Oracle, State, rules};

/// The call by which a test says what it proves.
const CALL: &str = "proves(";
/// The call by which it adds another oracle.
const MORE: &str = ".and(";

/// One claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// `program::module::function`, as the test programs print it; the name of a scenario.
    pub test: String,
    /// By which oracle.
    pub oracle: Oracle,
    /// The id of a rule, right or wrong.
    pub rule: String,
}

/// A test of a source file that makes claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name with its modules.
    pub name: String,
    /// The file, from the root of the project.
    pub file: String,
    /// The line of the call, from 1.
    pub line: u32,
    /// What it claims.
    pub claims: Vec<(Oracle, String)>,
}

/// What is wrong with a claim, or with the lack of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// There is no such rule.
    Unknown {
        /// Who says so.
        test: String,
        /// The id.
        rule: String,
    },
    /// A call that cannot be read, or is not in a test.
    Unreadable {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u32,
    },
    /// Nothing proves a rule.
    Nothing(&'static str),
    /// Something proves it, but not by an oracle that it needs.
    Lacks(&'static str, Oracle),
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { test, rule } => write!(f, "{test} proves {rule}, which is no rule"),
            Self::Unreadable { file, line } => {
                write!(f, "{file}:{line}: not a claim of a test that can be read")
            }
            Self::Nothing(rule) => write!(f, "nothing proves {rule}"),
            Self::Lacks(rule, oracle) => write!(f, "no {oracle} proves {rule}"),
        }
    }
}

/// Reads all sources in the folder `tests` of the project.
///
/// # Errors
///
/// The file system; and the first call that cannot be read.
pub fn functions(root: &Path) -> io::Result<Result<Vec<Function>, Gap>> {
    let mut files = Vec::new();
    list(&root.join("tests"), &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        let name = name.to_string_lossy().replace('\\', "/");
        match read(&name, &text) {
            Ok(list) => found.extend(list),
            Err(gap) => return Ok(Err(gap)),
        }
    }
    Ok(Ok(found))
}

fn list(dir: &Path, files: &mut Vec<std::path::PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The tests of one file that claim something.
fn read(file: &str, text: &str) -> Result<Vec<Function>, Gap> {
    let mut found: Vec<Function> = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(CALL).map(|at| from + at) {
        let line = line_of(text, at);
        from = at + CALL.len();
        let unreadable = || Gap::Unreadable {
            file: file.to_owned(),
            line,
        };
        let before = text[..at].lines().next_back().unwrap_or_default();
        if before.trim_start().starts_with("//") {
            continue;
        }
        // `fn proves(` and `use …::proves` are not calls of it.
        if before.ends_with("fn ") {
            continue;
        }
        let end = text[from..].find(';').ok_or_else(unreadable)?;
        let claims = claims(&text[from..from + end]).ok_or_else(unreadable)?;
        let function = enclosing_test(&text[..at]).ok_or_else(unreadable)?;
        found.push(Function {
            name: full_name(file, function),
            file: file.to_owned(),
            line,
            claims,
        });
    }
    Ok(found)
}

fn line_of(text: &str, at: usize) -> u32 {
    text[..at].matches('\n').count() as u32 + 1
}

/// `Oracle::Model, &["A", "B"]).and(Oracle::Ret, &["C"])`.
fn claims(text: &str) -> Option<Vec<(Oracle, String)>> {
    let mut claims = Vec::new();
    for part in text.split(MORE) {
        let part = part.trim_start().strip_prefix("Oracle::")?;
        let (oracle, rest) = part.split_once(',')?;
        let oracle = Oracle::of_source(oracle.trim())?;
        let (list, _) = rest.trim_start().strip_prefix("&[")?.split_once(']')?;
        let ids = list.split(',').map(str::trim).filter(|id| !id.is_empty());
        for id in ids {
            let id = id.strip_prefix('"')?.strip_suffix('"')?;
            claims.push((oracle, id.to_owned()));
        }
    }
    (!claims.is_empty()).then_some(claims)
}

/// The name of the function that the text breaks off in, if it is a test.
fn enclosing_test(before: &str) -> Option<&str> {
    let lines: Vec<&str> = before.lines().collect();
    let is_function = |line: &&str| line.trim_start().starts_with("fn ");
    let at = lines.iter().rposition(is_function)?;
    let attributes = lines[..at].iter().rev().map(|line| line.trim());
    let mut attributes =
        attributes.take_while(|line| line.starts_with('#') || line.starts_with("//"));
    attributes.find(|line| *line == "#[test]")?;
    let name = lines[at].trim_start().strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// `tests/device/answers.rs` and a function make `device::answers::function`.
fn full_name(file: &str, function: &str) -> String {
    let path = file.strip_prefix("tests/").unwrap_or(file);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/main").unwrap_or(path);
    format!("{}::{function}", path.replace('/', "::"))
}

/// The test whose call is at this place.
#[must_use]
pub fn name_of<'a>(functions: &'a [Function], file: &str, line: u32) -> Option<&'a str> {
    let of = functions
        .iter()
        .find(|function| function.file == file && function.line == line);
    of.map(|function| function.name.as_str())
}

/// The claims of tests, one by one.
#[must_use]
pub fn claims_of(functions: &[Function]) -> Vec<Claim> {
    let of = |function: &Function| {
        let claim = |(oracle, rule): &(Oracle, String)| Claim {
            test: function.name.clone(),
            oracle: *oracle,
            rule: rule.clone(),
        };
        function.claims.iter().map(claim).collect::<Vec<_>>()
    };
    functions.iter().flat_map(of).collect()
}

/// Claims of nothing, and rules without a claim.
#[must_use]
pub fn gaps(claims: &[Claim]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut proven: BTreeMap<&str, BTreeSet<Oracle>> = BTreeMap::new();
    for claim in claims {
        match rules::find(&claim.rule) {
            Some(rule) => {
                proven.entry(rule.id).or_default().insert(claim.oracle);
            }
            None => gaps.push(Gap::Unknown {
                test: claim.test.clone(),
                rule: claim.rule.clone(),
            }),
        }
    }
    for rule in rules::all() {
        if matches!(rule.state, State::NotApplicable(_) | State::Deviation(_)) {
            continue;
        }
        let Some(by) = proven.get(rule.id) else {
            gaps.push(Gap::Nothing(rule.id));
            continue;
        };
        let lacking = rule.oracles.iter().filter(|oracle| !by.contains(oracle));
        gaps.extend(lacking.map(|oracle| Gap::Lacks(rule.id, *oracle)));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
use xtask::conformance::{Oracle, proves};

// proves(nothing)
fn helper() {}

#[test]
fn first() {
    let _proof = proves(Oracle::Model, &["DN-MAP-3", "DN-MAP-1"]).and(Oracle::Ret, &["DN-MAP-3"]);
}

proptest! {
    #[test]
    fn second(
        a in any::<u8>(),
    ) {
        let _proof = proves(
            Oracle::Fuzz,
            &[
                "DN-PROBE-3",
            ],
        );
    }
}
"#;

    #[test]
    fn claims_are_read() {
        let found = read("tests/device/mapping.rs", SOURCE).unwrap();
        let names: Vec<(&str, u32)> = found.iter().map(|f| (f.name.as_str(), f.line)).collect();
        assert_eq!(
            names,
            [
                ("device::mapping::first", 9),
                ("device::mapping::second", 17)
            ]
        );
        let claim = |oracle, rule: &str| (oracle, rule.to_owned());
        assert_eq!(
            found[0].claims,
            [
                claim(Oracle::Model, "DN-MAP-3"),
                claim(Oracle::Model, "DN-MAP-1"),
                claim(Oracle::Ret, "DN-MAP-3"),
            ]
        );
        assert_eq!(found[1].claims, [claim(Oracle::Fuzz, "DN-PROBE-3")]);
        assert_eq!(
            name_of(&found, "tests/device/mapping.rs", 17),
            Some("device::mapping::second")
        );
    }

    #[test]
    fn what_is_no_claim_of_a_test_is_refused() {
        for wrong in [
            "fn helper() {\n let _proof = proves(Oracle::Ret, &[\"A\"]);\n}",
            "#[test]\nfn a() {}\nfn b() {\n let _p = proves(Oracle::Ret, &[\"A\"]);\n}",
            "#[test]\nfn a() {\n let _p = proves(Oracle::Guess, &[\"A\"]);\n}",
            "#[test]\nfn a() {\n let _p = proves(Oracle::Ret, LIST);\n}",
            "#[test]\nfn a() {\n let _p = proves(Oracle::Ret, &[]);\n}",
        ] {
            assert!(read("tests/a.rs", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn gaps_are_found() {
        let all: Vec<Claim> = rules::all()
            .flat_map(|rule| {
                let claim = |oracle: &Oracle| Claim {
                    test: "t".into(),
                    oracle: *oracle,
                    rule: rule.id.into(),
                };
                rule.oracles.iter().map(claim)
            })
            .collect();
        assert_eq!(gaps(&all), []);
        let without = |rule: &str, oracle: Option<Oracle>| {
            let mut list = all.clone();
            list.retain(|c| c.rule != rule || oracle.is_some_and(|oracle| c.oracle != oracle));
            gaps(&list)
        };
        assert_eq!(without("DN-MAP-3", None), [Gap::Nothing("DN-MAP-3")]);
        let lacks = Gap::Lacks("DN-PROBE-1", Oracle::Qmp);
        assert_eq!(without("DN-PROBE-1", Some(Oracle::Qmp)), [lacks]);
        let mut list = all.clone();
        list[0].rule = "DN-NONE-1".into();
        assert!(matches!(&gaps(&list)[0], Gap::Unknown { rule, .. } if rule == "DN-NONE-1"));
    }
}
