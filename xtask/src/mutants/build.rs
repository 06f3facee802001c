//! Builds the test programs once, with all mutants in the driver.
//!
//! The driver with its switches is a copy in the target folder. What makes cargo build it in the
//! place of the driver is this program itself, as the wrapper of the compiler: the tests, and all
//! that they need, are those of the project.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

use super::MutantsError;
use super::rewrite::{self, Rewritten};
use super::survey::Survey;
use crate::ci::host_cargo;
use crate::command;

/// Says that this program was started as a compiler, and where the copy is.
const COPY: &str = "VIOMMU_MUTANTS_BUILD";
/// The driver, as the compiler knows it.
const CRATE: &str = "virtio_iommu";
/// Its root, from the root of the project.
const ROOT: &str = "src/lib.rs";
/// What the copy has besides.
const SWITCH: &str = include_str!("switch.rs");
/// The test programs, besides the unit tests of the driver.
const PROGRAMS: [&str; 4] = ["device", "dma", "parsers", "hostile"];
/// How often mutants are left out because of what the compiler says of the rest.
const MOST_ROUNDS: usize = 12;

/// A test program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The test programs.
    pub programs: Vec<Program>,
    /// Mutants that are no programs.
    pub refused: BTreeSet<u32>,
}

/// If this program was started in the place of a compiler for mutants: runs the compiler, on the
/// copy if it is the driver that is built.
#[must_use]
pub fn as_compiler() -> Option<ExitCode> {
    let copy = std::env::var_os(COPY)?;
    let mut words = std::env::args_os().skip(1);
    let mut compiler = Command::new(words.next()?);
    let mut words: Vec<OsString> = words.collect();
    let is_driver = words
        .windows(2)
        .any(|pair| pair[0] == "--crate-name" && pair[1] == CRATE);
    if is_driver && let Some(root) = words.iter_mut().find(|word| *word == ROOT) {
        *root = Path::new(&copy).join(ROOT).into();
        // Not this text is judged, and a mutant may well leave something unused.
        words.extend(["--cap-lints".into(), "allow".into()]);
    }
    let code = compiler.args(&words).status().ok()?.code();
    Some(match code.map(u8::try_from) {
        Some(Ok(code)) => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    })
}

/// The folder of the check.
#[must_use]
pub fn folder() -> PathBuf {
    crate::target_dir().join("mutants")
}

/// Builds the test programs; mutants that the compiler refuses are left out.
///
/// # Errors
///
/// The tests cannot be built, and no mutant is the reason.
pub fn build(survey: &Survey) -> Result<Built, MutantsError> {
    std::fs::create_dir_all(folder())?;
    // Of its own, so that cargo keeps what is built apart from all else.
    let compiler = folder().join("compiler");
    std::fs::copy(std::env::current_exe()?, &compiler)?;
    let mut refused = known_refused(survey);
    if refused.is_empty() {
        let check = |cargo: &mut Command| {
            cargo.args(["check", "--lib", "--features", "internals,virtio-drivers"]);
        };
        accepted(survey, &compiler, &mut refused, &check)?;
    }
    let test = |cargo: &mut Command| {
        cargo.args(["test", "--no-run", "--lib", "--features", "internals"]);
        cargo.args(PROGRAMS.iter().flat_map(|program| ["--test", program]));
    };
    let log = accepted(survey, &compiler, &mut refused, &test)?;
    remember_refused(survey, &refused)?;
    let mut programs: Vec<Program> = log.lines().filter_map(executable).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    if programs.len() == PROGRAMS.len() + 1 {
        Ok(Built { programs, refused })
    } else {
        Err(MutantsError::Build(format!("built are {programs:?}")))
    }
}

/// Runs cargo until it succeeds, each time without the mutants that it complained about.
fn accepted(
    survey: &Survey,
    compiler: &Path,
    refused: &mut BTreeSet<u32>,
    words: &dyn Fn(&mut Command),
) -> Result<String, MutantsError> {
    let log = folder().join("build.log");
    for _ in 0..MOST_ROUNDS {
        let copy = write_copy(survey, refused)?;
        let mut cargo = host_cargo();
        words(&mut cargo);
        cargo.args(["--package", "virtio-iommu", "--message-format", "json"]);
        cargo.env("RUSTC_WORKSPACE_WRAPPER", compiler);
        cargo.env(COPY, folder());
        // Built once, run a thousand times.
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        let what = "building the driver with its mutants";
        let finished = command::run(&mut cargo, what, None, Some(&log))?;
        let text = std::fs::read_to_string(&log)?;
        if finished.success() {
            return Ok(text);
        }
        let before = refused.len();
        for (file, range) in text.lines().flat_map(complaints) {
            let of_file = copy.iter().filter(|(name, _)| file.ends_with(name));
            refused.extend(of_file.flat_map(|(_, rewritten)| rewritten.blamed(&range)));
        }
        if refused.len() == before {
            let errors = text.lines().filter_map(rendered);
            let errors: String = errors.take(5).collect();
            return Err(MutantsError::Build(errors + &finished.explain(5)));
        }
    }
    Err(MutantsError::Build(format!("not in {MOST_ROUNDS} rounds")))
}

/// Writes the driver with its switches; what does not change is left alone.
fn write_copy(
    survey: &Survey,
    refused: &BTreeSet<u32>,
) -> Result<Vec<(String, Rewritten)>, MutantsError> {
    let mut copy = Vec::new();
    for source in &survey.sources {
        let live = |number| !refused.contains(&number);
        let mut rewritten = rewrite::rewrite(&source.text, &source.found, source.first, &live);
        if source.name == ROOT {
            rewritten.text.push_str("\nmod mutants;\n");
        }
        write(&source.name, &rewritten.text)?;
        copy.push((source.name.clone(), rewritten));
    }
    write("src/mutants.rs", SWITCH)?;
    Ok(copy)
}

fn write(name: &str, text: &str) -> io::Result<()> {
    let path = folder().join(name);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)
}

/// Where the errors are that a line of cargo's messages is about.
fn complaints(line: &str) -> Vec<(String, Range<usize>)> {
    let Some(message) = error(line) else {
        return Vec::new();
    };
    let spans = message.get("spans").and_then(Value::as_array);
    let primary = spans.into_iter().flatten().filter_map(|span| {
        span.get("is_primary")?.as_bool()?.then_some(())?;
        let byte = |name| usize::try_from(span.get(name)?.as_u64()?).ok();
        let file = span.get("file_name")?.as_str()?.to_owned();
        Some((file, byte("byte_start")?..byte("byte_end")?))
    });
    primary.collect()
}

/// An error as it is shown.
fn rendered(line: &str) -> Option<String> {
    Some(error(line)?.get("rendered")?.as_str()?.to_owned())
}

fn error(line: &str) -> Option<Value> {
    let message: Value = serde_json::from_str(line).ok()?;
    let message = message.get("message")?;
    (message.get("level")?.as_str()? == "error").then(|| message.clone())
}

/// The test program that a line of cargo's messages is about.
fn executable(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    let name = match name {
        CRATE => "lib",
        name if PROGRAMS.contains(&name) => name,
        _ => return None,
    };
    Some(Program {
        name: name.to_owned(),
        path: path.into(),
    })
}

/// Where it is written down what the compiler refuses.
fn refused_file() -> PathBuf {
    folder().join("refused")
}

/// Stands for all mutants of the driver; its own tests may change meanwhile.
#[must_use]
pub fn fingerprint(survey: &Survey) -> String {
    let mut hasher = DefaultHasher::new();
    for source in &survey.sources {
        for (mutant, text) in source.found.sites.iter().flat_map(|site| &site.mutants) {
            (mutant.to_string(), text).hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish())
}

/// What the compiler refused the last time, if that was the same driver.
#[must_use]
pub fn known_refused(survey: &Survey) -> BTreeSet<u32> {
    let text = std::fs::read_to_string(refused_file()).unwrap_or_default();
    match text.split_once('\n') {
        Some((of, list)) if of == fingerprint(survey) => {
            list.lines().filter_map(|line| line.parse().ok()).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn remember_refused(survey: &Survey, refused: &BTreeSet<u32>) -> io::Result<()> {
    let mut text = fingerprint(survey);
    for number in refused {
        text.push_str(&format!("\n{number}"));
    }
    std::fs::write(refused_file(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_programs_are_read_out_of_messages() {
        let line = r#"{"reason":"compiler-message","message":{"level":"error","rendered":"no",
            "spans":[{"is_primary":true,"file_name":"/t/src/a.rs","byte_start":3,"byte_end":7},
            {"is_primary":false,"file_name":"b.rs","byte_start":1,"byte_end":2}]}}"#;
        assert_eq!(complaints(line), [("/t/src/a.rs".to_owned(), 3..7)]);
        assert_eq!(rendered(line).as_deref(), Some("no"));
        assert!(complaints(&line.replace("\"error\"", "\"warning\"")).is_empty());
        let line = r#"{"target":{"name":"virtio_iommu"},"executable":"/t/virtio_iommu-1"}"#;
        assert_eq!(executable(line).unwrap().name, "lib");
        assert!(executable(r#"{"target":{"name":"device"},"executable":null}"#).is_none());
    }
}
