//! Which test reaches which mutants.

use std::io;
use std::process::Command;
use std::time::Duration;

use super::build::{Program, folder};
use super::{MutantsError, process};
use crate::command;

/// How long one test may take without a mutant: so long that it does not matter what else the machine
/// does, even to threads that spin.
const LIMIT: Duration = Duration::from_secs(900);
/// Where a test program writes down what it reaches.
const REACHED: &str = "VIOMMU_MUTANTS_REACHED";

/// A test.
#[derive(Clone, Debug)]
pub struct Case {
    /// The number of its program.
    pub program: usize,
    /// Its name in the program.
    pub name: String,
    /// How long it takes, with the start of the program.
    pub time: Duration,
}

/// The tests, and what they reach.
#[derive(Debug)]
pub struct Reach {
    /// The tests, quick ones first.
    pub cases: Vec<Case>,
    /// The tests that reach each mutant, by the number of the mutant; quick ones first.
    pub tests: Vec<Vec<usize>>,
}

/// Runs each test by itself, without a mutant.
///
/// # Errors
///
/// [`MutantsError::Sound`] if one is red.
pub fn reach(programs: &[Program], mutants: usize) -> Result<Reach, MutantsError> {
    let mut ran = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        for name in names(program)? {
            let reached = run(program, &name)?;
            if let Some((time, reached)) = reached {
                let program = number;
                ran.push((
                    Case {
                        program,
                        name,
                        time,
                    },
                    reached,
                ));
            }
        }
    }
    ran.sort_by_key(|(case, _)| case.time);
    let mut tests = vec![Vec::new(); mutants + 1];
    for (number, (_, reached)) in ran.iter().enumerate() {
        for mutant in reached {
            if let Some(of_mutant) = tests.get_mut(*mutant as usize) {
                of_mutant.push(number);
            }
        }
    }
    let cases = ran.into_iter().map(|(case, _)| case).collect();
    Ok(Reach { cases, tests })
}

/// The tests of a program.
fn names(program: &Program) -> Result<Vec<String>, MutantsError> {
    let mut list = Command::new(&program.path);
    list.args(["--list", "--format", "terse"]);
    let log = folder().join("tests.log");
    let finished = command::run(&mut list, "listing tests", Some(LIMIT), Some(&log))?;
    let text = std::fs::read_to_string(&log)?;
    let names: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    if finished.success() && !names.is_empty() {
        Ok(names)
    } else {
        Err(MutantsError::Sound(program.name.clone()))
    }
}

/// Runs a test: how long it takes, and which mutants it reaches. `None` if it is one that only runs
/// when it is asked for.
fn run(program: &Program, name: &str) -> Result<Option<(Duration, Vec<u32>)>, MutantsError> {
    let reached = folder().join("reached");
    forget(&reached)?;
    let mut test = process::test_command(&program.path);
    test.arg(name).env(REACHED, &reached);
    let what = format!("what does {} {name} reach", program.name);
    let finished = command::run(&mut test, &what, Some(LIMIT), None)?;
    if finished.success() && finished.tail.contains(" 0 passed; 0 failed; 1 ignored") {
        return Ok(None);
    }
    if !finished.success() || !finished.tail.contains(" 1 passed; 0 failed;") {
        return Err(MutantsError::Sound(format!("{} {name}", program.name)));
    }
    // A test that reaches none does not make the file.
    let bytes = match std::fs::read(&reached) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes?,
    };
    let (words, _) = bytes.as_chunks::<4>();
    let mutants = words.iter().map(|word| u32::from_le_bytes(*word));
    Ok(Some((finished.elapsed, mutants.collect())))
}

fn forget(file: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
