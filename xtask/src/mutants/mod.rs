//! Mutants: small changes of the driver, one at a time, each of which a test has to notice.
//!
//! All of them are compiled in at once, each behind a switch, in a copy of the driver; one is
//! chosen when the tests start. So the tests are built once and not once for each mutant, and only
//! those run that reach it.
//!
//! | module | what it does |
//! |---|---|
//! | [`survey`] | all mutants of the driver, with their numbers |
//! | [`find`], [`replace`] | those of one file, and what takes the place of what |
//! | [`constants`] | functions in which there can be no switch |
//! | [`rewrite`] | a file with its switches |
//! | [`build`] | the test programs, without the mutants that the compiler refuses |
//! | [`reach`] | which test reaches which mutant |
//! | [`run`], [`process`] | the tests with each mutant |
//! | [`saved`] | what the last runs have found out |
//! | [`reasons`], [`report`] | what survives and why, as figures and as a page |

pub mod build;
pub mod constants;
pub mod find;
pub mod process;
pub mod reach;
pub mod reasons;
pub mod replace;
pub mod report;
pub mod rewrite;
pub mod run;
pub mod saved;
pub mod survey;

use std::io;
use std::num::NonZeroUsize;
use std::time::Instant;

use clap::Args;

use build::Built;
pub use build::as_compiler;
use find::Mutant;
use reasons::Reasons;
use report::{LEAST, Outcome};
use run::Fate;
use saved::Saved;
use survey::Survey;

/// What is wrong with the check, or with the tests.
#[derive(Debug, thiserror::Error)]
pub enum MutantsError {
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A file of the driver cannot be read.
    #[error("{file}: {error}")]
    NotRust {
        /// The file.
        file: String,
        /// Why.
        error: syn::Error,
    },
    /// The driver does not build with its mutants.
    #[error("the driver does not build with its mutants:\n{0}")]
    Build(String),
    /// Without a mutant, a test is red, or says something unknown.
    #[error("without a mutant, this test fails: {0}")]
    Sound(String),
    /// The reasons cannot be read.
    #[error("{file}: {0}", file = reasons::FILE)]
    Reasons(#[from] toml::de::Error),
    /// There is no such mutant, or the compiler refuses it.
    #[error("there is no mutant {0}")]
    NoSuchMutant(u32),
    /// The page cannot be made without a run.
    #[error("there was no run of this driver")]
    NothingSaved,
    /// Too few are noticed.
    #[error("{share:.1} % of {what} are noticed: at least {LEAST} % have to be")]
    TooFew {
        /// How many of 100.
        share: f64,
        /// Of what.
        what: &'static str,
    },
    /// Some survive without a reason.
    #[error("without a reason survive:\n{}", .0.join("\n"))]
    Unexplained(Vec<String>),
    /// Some have a reason and do not survive.
    #[error("these have a reason to survive, and do not:\n{}", .0.join("\n"))]
    Needless(Vec<String>),
}

/// What is asked for.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Only the changes in files whose name contains this
    #[arg(long)]
    pub file: Option<String>,
    /// Only those of which the last runs said that a test does not end
    #[arg(long, conflicts_with_all = ["list", "only", "page"])]
    pub late: bool,
    /// Only list them
    #[arg(long)]
    pub list: bool,
    /// Only this one, by its number in the list, and show what the tests say
    #[arg(long, conflicts_with = "list")]
    pub only: Option<u32>,
    /// How many at a time; by default one for each processor
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// Runs nothing: makes the page of what the last runs have found out
    #[arg(long, conflicts_with_all = ["list", "only"])]
    pub page: bool,
}

impl Options {
    fn is_wanted(&self, mutant: &Mutant) -> bool {
        let filter = self.file.as_deref();
        filter.is_none_or(|filter| mutant.file.contains(filter))
    }
}

/// Runs the tests with each mutant; writes the page if it is known what becomes of all.
///
/// # Errors
///
/// [`MutantsError`].
pub fn check(options: &Options) -> Result<(), MutantsError> {
    let started = Instant::now();
    let survey = Survey::of_driver()?;
    let is_wanted = |mutant: &Mutant| options.is_wanted(mutant);
    if options.list {
        for (number, mutant) in survey.mutants().filter(|(_, mutant)| is_wanted(mutant)) {
            println!("{number} {mutant} (line {})", mutant.line);
        }
        return Ok(());
    }
    if options.page {
        let of = build::fingerprint(&survey);
        let saved = Saved::load(&of).ok_or(MutantsError::NothingSaved)?;
        return judge(&survey, &saved, options);
    }
    let Built { programs, refused } = build::build(&survey)?;
    let reach = reach::reach(&programs, survey.mutants().count())?;
    if let Some(number) = options.only {
        let mutant = survey.mutants().find(|(of, _)| *of == number);
        let (_, mutant) = mutant
            .filter(|_| !refused.contains(&number))
            .ok_or(MutantsError::NoSuchMutant(number))?;
        let fate = run::show(&programs, &reach, number)?;
        println!("{mutant} (line {}): {fate:?}", mutant.line);
        return Ok(());
    }
    if !run::is_sound(&programs, &reach.cases)? {
        return Err(MutantsError::Sound("one of all, under limits".into()));
    }
    let of = build::fingerprint(&survey);
    let known = Saved::load(&of);
    let was_late = |mutant: &Mutant| {
        let fate = known.as_ref().map(|k| k.fates.get(&mutant.to_string()));
        fate.flatten() == Some(&Fate::TimedOut)
    };
    let live = survey
        .mutants()
        .filter(|(number, mutant)| is_wanted(mutant) && !refused.contains(number))
        .filter(|(_, mutant)| !options.late || was_late(mutant));
    let (numbers, mutants): (Vec<u32>, Vec<_>) = live.unzip();
    println!("{} mutants, {} tests", numbers.len(), reach.cases.len());
    let jobs = options
        .jobs
        .or_else(|| std::thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, NonZeroUsize::get);
    let done = |count: usize, place: usize, fate: Fate| {
        if !fate.is_noticed() {
            println!("{fate:?}: {} {}", numbers[place], mutants[place]);
        }
        if count.is_multiple_of(100) {
            let elapsed = started.elapsed().as_secs();
            println!("{count} of {}, {elapsed} s", numbers.len());
        }
    };
    let fates: Vec<Fate> = run::run_all(&programs, &reach, &numbers, jobs, &done)?;
    let found = mutants
        .iter()
        .zip(&fates)
        .map(|(mutant, fate)| (mutant.to_string(), *fate));
    let whole = options.file.is_none() && !options.late;
    let mut saved = known.filter(|_| !whole).unwrap_or_default();
    saved.take(found, reach.cases.len());
    saved.of = of;
    saved.date = crate::conformance::report::today();
    saved.seconds += started.elapsed().as_secs();
    saved.store()?;
    judge(&survey, &saved, options)
}

/// Shows the figures, and what survives without a reason; writes the page if all is known.
fn judge(survey: &Survey, saved: &Saved, options: &Options) -> Result<(), MutantsError> {
    let root = crate::project_root();
    let reasons = Reasons::parse(&std::fs::read_to_string(root.join(reasons::FILE))?)?;
    let refused = build::known_refused(survey);
    let is_wanted = |mutant: &Mutant| options.is_wanted(mutant);
    let live = survey
        .mutants()
        .filter(|(number, _)| !refused.contains(number));
    let live: Vec<&Mutant> = live.map(|(_, mutant)| mutant).collect();
    let fate = |mutant: &Mutant| saved.fates.get(&mutant.to_string()).copied();
    let whole = live.iter().all(|mutant| fate(mutant).is_some());
    let wanted = live.into_iter().filter(|mutant| is_wanted(mutant));
    let ran = wanted.filter_map(|mutant| Some((mutant, fate(mutant)?)));
    let outcome = Outcome {
        ran: ran.collect(),
        refused: refused.len(),
        constant: survey
            .constant()
            .filter(|mutant| is_wanted(mutant))
            .collect(),
        tests: saved.tests,
        seconds: saved.seconds,
        date: saved.date.clone(),
    };
    println!("{}", outcome.table());
    let unexplained = outcome.unexplained(&reasons);
    if options.file.is_some() || !whole {
        return match unexplained.is_empty() {
            true => Ok(()),
            false => Err(MutantsError::Unexplained(unexplained)),
        };
    }
    std::fs::write(root.join(report::PAGE), outcome.page(&reasons))?;
    println!("{} is up to date.", report::PAGE);
    if !unexplained.is_empty() {
        return Err(MutantsError::Unexplained(unexplained));
    }
    let needless = outcome.needless(&reasons);
    if !needless.is_empty() {
        return Err(MutantsError::Needless(needless));
    }
    for (figures, what) in [
        (outcome.checks(), "validation and status handling"),
        (outcome.overall(), "all"),
    ] {
        let share = figures.share();
        if share < LEAST {
            return Err(MutantsError::TooFew { share, what });
        }
    }
    Ok(())
}
