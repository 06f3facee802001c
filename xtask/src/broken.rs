//! A driver that is broken on purpose, in one way at a time: the tests have to notice each.
//!
//! The faults are in the source of the driver under `cfg(viommu_broken)`. All of them are compiled
//! in at once, beside what is built else, and one is chosen when the tests start. What adds the
//! `cfg` is this program itself, as the wrapper of the compiler for the packages of the workspace:
//! it is given for the driver alone, and what the driver needs is not built again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::Value;

use crate::ci::host_cargo;
use crate::command;

/// Chooses the fault when a test program starts.
const CHOICE: &str = "VIOMMU_BROKEN";
/// Says that this program was started as a compiler.
const WRAPPER: &str = "VIOMMU_BROKEN_BUILD";
/// The driver, as the compiler knows it.
const CRATE: &str = "virtio_iommu";
/// The test programs that have to notice.
const PROGRAMS: [&str; 2] = ["device", "dma"];
/// How many tests have to notice each fault.
const LEAST: usize = 2;
/// How long one program may take with one fault.
const LIMIT: Duration = Duration::from_secs(120);

/// The faults, by the names in `src/broken.rs`.
pub const FAULTS: [(&str, &str); 6] = [
    ("status_offset", "the status is read behind its place"),
    ("no_events", "no buffer is posted to the event queue"),
    (
        "masked_nibble",
        "reserved bits of a property are masked off",
    ),
    ("bypass_left", "`bypass` is left as it is"),
    ("early_kick", "a queue is notified before DRIVER_OK"),
    ("split_unmap", "UNMAP stops in the middle of a mapping"),
];

/// What is wrong with the check, or with the tests.
#[derive(Debug, thiserror::Error)]
pub enum BrokenError {
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The broken driver does not build.
    #[error("the broken driver does not build:\n{0}")]
    Build(String),
    /// Without a fault, the same build of the tests is red.
    #[error("without a fault, these tests fail: {0}")]
    Sound(String),
    /// A fault that too few tests notice.
    #[error("{fault}: only {} tests notice: {}", .tests.len(), .tests.join(", "))]
    Unnoticed {
        /// The fault.
        fault: &'static str,
        /// The tests.
        tests: Vec<String>,
    },
}

/// If this program was started in the place of a compiler: runs the compiler, with the `cfg` for
/// the driver.
#[must_use]
pub fn as_compiler() -> Option<ExitCode> {
    std::env::var_os(WRAPPER)?;
    let mut words = std::env::args_os().skip(1);
    let mut compiler = Command::new(words.next()?);
    let words: Vec<OsString> = words.collect();
    let is_driver = words
        .windows(2)
        .any(|pair| pair[0] == "--crate-name" && pair[1] == CRATE);
    compiler.args(&words);
    if is_driver {
        compiler.args(["--cfg", "viommu_broken"]);
    }
    let code = compiler.status().ok().and_then(|status| status.code());
    Some(match code.map(u8::try_from) {
        Some(Ok(code)) => ExitCode::from(code),
        _ => ExitCode::FAILURE,
    })
}

/// Builds the broken driver once, and runs the tests with each fault.
///
/// # Errors
///
/// [`BrokenError`].
pub fn check() -> Result<(), BrokenError> {
    println!("== a driver that is broken on purpose: each fault is noticed by {LEAST} tests");
    let programs = build()?;
    // With the faults compiled in, and none chosen, nothing may be red: the cheapest test of all
    // would otherwise notice everything.
    let sound = failed(&programs, "none", Some("bring_up"))?;
    if !sound.is_empty() {
        let list: Vec<String> = sound.into_iter().collect();
        return Err(BrokenError::Sound(list.join(", ")));
    }
    for (fault, meaning) in FAULTS {
        let tests: Vec<String> = failed(&programs, fault, None)?.into_iter().collect();
        if tests.len() < LEAST {
            return Err(BrokenError::Unnoticed { fault, tests });
        }
        let named = tests.iter().take(3).map(String::as_str);
        let named: Vec<&str> = named.collect();
        println!(
            "{fault}, {meaning}: {} tests notice, {} among them",
            tests.len(),
            named.join(" and ")
        );
    }
    Ok(())
}

/// The test programs, with all faults in the driver.
fn build() -> Result<Vec<(String, PathBuf)>, BrokenError> {
    let mut cargo = host_cargo();
    cargo.args(["test", "--package", "virtio-iommu", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.args(PROGRAMS.iter().flat_map(|program| ["--test", program]));
    cargo.env("RUSTC_WORKSPACE_WRAPPER", std::env::current_exe()?);
    cargo.env(WRAPPER, "1");
    let log = crate::target_dir().join("broken-build.log");
    let finished = command::run(&mut cargo, "building the broken driver", None, Some(&log))?;
    if !finished.success() {
        return Err(BrokenError::Build(finished.explain(40)));
    }
    let text = std::fs::read_to_string(&log)?;
    let mut programs: Vec<(String, PathBuf)> = text.lines().filter_map(executable).collect();
    programs.sort_by_key(|(name, _)| PROGRAMS.iter().position(|program| program == name));
    if programs.len() == PROGRAMS.len() {
        Ok(programs)
    } else {
        Err(BrokenError::Build(format!("built are {programs:?}")))
    }
}

/// The name of the test program that a line of cargo's messages is about, and where it is.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    PROGRAMS.contains(&name).then_some(())?;
    let path = message.get("executable")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

/// The tests that fail with a fault. The second program is asked only if the first does not
/// suffice: it takes its time.
fn failed(
    programs: &[(String, PathBuf)],
    fault: &str,
    filter: Option<&str>,
) -> Result<BTreeSet<String>, BrokenError> {
    let mut tests = BTreeSet::new();
    let log = crate::target_dir().join("broken-tests.log");
    for (name, program) in programs {
        let mut run = Command::new(program);
        run.args(filter);
        run.current_dir(crate::project_root())
            .env(CHOICE, fault)
            .env("RUST_BACKTRACE", "0")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env_remove(crate::conformance::proof::PROOFS_VARIABLE);
        let what = format!("tests of {name} with the fault {fault}");
        // A program that is killed, or ends itself, has named the tests that failed before.
        command::run(&mut run, &what, Some(LIMIT), Some(&log))?;
        tests.extend(red(&log)?.into_iter().map(|test| format!("{name}::{test}")));
        if tests.len() >= LEAST {
            break;
        }
    }
    Ok(tests)
}

/// The tests that a log says are red.
fn red(log: &Path) -> io::Result<Vec<String>> {
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let test = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.trim_end_matches(" - should panic").to_owned())
    };
    Ok(text.lines().filter_map(test).collect())
}
