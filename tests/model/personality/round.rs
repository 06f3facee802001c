//! Rounds of a test: once under each personality to which it applies, and a record of that.
//!
//! The records are kept for the whole process, and appended to the file that the environment
//! variable `PERSONALITIES` names, if it does: the test, the personality, and `ok`, `failed` or
//! `left out` with the reason, between tabs, one round a line. `PERSONALITY` names the only one to
//! run under.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Mutex;

use super::Personality;

thread_local! {
    static CURRENT: Cell<Personality> = const { Cell::new(Personality::Strict) };
}

impl Personality {
    /// The one that models have which this thread makes now.
    pub fn current() -> Self {
        CURRENT.get()
    }
}

/// How one round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Ok,
    Failed,
    /// For this reason the test does not apply.
    LeftOut(&'static str),
}

/// One round of one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub test: &'static str,
    pub personality: Personality,
    pub ending: Ending,
}

static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());

/// The rounds of this process so far.
pub fn records() -> Vec<Record> {
    crate::model::memory::lock(&RECORDS).clone()
}

/// Notes one round.
pub fn note(record: Record) {
    let mut records = crate::model::memory::lock(&RECORDS);
    if records.contains(&record) {
        return;
    }
    records.push(record);
    let Some(path) = std::env::var_os("PERSONALITIES") else {
        return;
    };
    let ending = match record.ending {
        Ending::Ok => "ok".to_owned(),
        Ending::Failed => "failed".to_owned(),
        Ending::LeftOut(why) => format!("left out: {why}"),
    };
    let line = format!("{}\t{}\t{ending}\n", record.test, record.personality);
    let file = OpenOptions::new().create(true).append(true).open(path);
    // One write, so that lines of other processes do not come in between.
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.expect("the file that PERSONALITIES names");
}

/// Personalities to which a test does not apply, each with the reason.
pub type But = &'static [(Personality, &'static str)];

/// The rounds of one test: made by [`each!`](crate::each).
pub struct Rounds {
    test: &'static str,
    left: Vec<Personality>,
    running: bool,
}

impl Rounds {
    pub fn new(test: &'static str, all: &[Personality], but: But) -> Self {
        let excepted = |one: &Personality| but.iter().find(|(other, _)| other == one);
        for personality in all {
            if let Some((personality, why)) = excepted(personality).copied() {
                let ending = Ending::LeftOut(why);
                note(Record {
                    test,
                    personality,
                    ending,
                });
            }
        }
        let mut left = all.to_vec();
        left.retain(|one| excepted(one).is_none());
        if let Ok(only) = std::env::var("PERSONALITY") {
            left.retain(|one| one.name() == only);
        }
        left.reverse();
        Self {
            test,
            left,
            running: false,
        }
    }

    /// The only round, until this is dropped.
    pub fn alone(mut self) -> Self {
        self.next();
        self
    }

    fn end(&mut self, ending: Ending) {
        if std::mem::take(&mut self.running) {
            note(Record {
                test: self.test,
                personality: CURRENT.get(),
                ending,
            });
        }
    }
}

impl Iterator for Rounds {
    type Item = Personality;

    fn next(&mut self) -> Option<Personality> {
        self.end(Ending::Ok);
        let next = self.left.pop();
        CURRENT.set(next.unwrap_or_default());
        self.running = next.is_some();
        next
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{} failed under the personality {}",
                self.test,
                CURRENT.get()
            );
            self.end(Ending::Failed);
        }
        self.end(Ending::Ok);
        CURRENT.set(Personality::Strict);
    }
}

/// The name of a test out of that of a function in it.
pub fn name_of<T>(_: T) -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.strip_suffix("::here").unwrap_or(name);
    name.trim_end_matches("::{{closure}}")
}

/// The rounds of the test around it: one under each honest personality, or under all of them but
/// those that are named, each with the reason why the test does not apply.
///
/// ```ignore
/// for _ in each!() { … }
/// for _ in each!(but [(Crosvm, "one endpoint in a domain")]) { … }
/// let _round = each!(one personality);
/// ```
///
/// The last is for tests of which each case has a personality of its own.
#[macro_export]
macro_rules! each {
    () => {
        $crate::each!(but [])
    };
    (one $personality:expr) => {{
        fn here() {}
        $crate::model::personality::round::Rounds::new(
            $crate::model::personality::round::name_of(here),
            &[$personality],
            &[],
        )
        .alone()
    }};
    (but [$(($name:ident, $why:expr)),* $(,)?]) => {{
        fn here() {}
        $crate::model::personality::round::Rounds::new(
            $crate::model::personality::round::name_of(here),
            &$crate::model::personality::Personality::HONEST,
            &[$(($crate::model::personality::Personality::$name, $why)),*],
        )
    }};
}
