//! The record lines that the kernel writes on its serial line, and what makes a log of them believable.
//!
//! Everything that does not carry the mark `@viommu ` is for people and is skipped here: firmware banners, the
//! demo's table, a trap's register dump. Everything that carries it has to be understood.

use super::request::{self, Request};
use std::fmt;
use xtask::bench::record::Figure;

/// The mark of a record.
const MARK: &str = "@viommu ";
/// The version of the protocol.
const VERSION: &str = "1";

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`.
    Passed,
    /// `not ok`.
    Failed,
    /// `skip`.
    Skipped,
}

/// One check of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How it went.
    pub outcome: Outcome,
    /// Its name, one word.
    pub name: String,
    /// What follows `# `: where it failed, or why it was skipped.
    pub note: Option<String>,
}

/// A whole log: its plan, its checks and its end agree with each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// All checks, in the order of their numbers.
    pub checks: Vec<Check>,
    /// What the driver says that it asked of the device, with the number of the serial line.
    pub requests: Vec<(usize, Request)>,
    /// What a benchmark has measured.
    pub figures: Vec<Figure>,
    /// The moments at which the guest waited to be looked at.
    pub holds: Vec<String>,
}

impl Log {
    /// The checks with one outcome.
    pub fn with(&self, outcome: Outcome) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(move |check| check.outcome == outcome)
    }
}

/// Why a log is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No record at all.
    Silent,
    /// The first record is not the plan.
    NoPlan,
    /// A second plan.
    SecondPlan,
    /// A plan of nothing.
    EmptyPlan,
    /// No `end`: the output stopped early.
    NoEnd,
    /// A record behind `end`.
    AfterEnd,
    /// The last record has no end of line: the output stopped in it.
    Unterminated,
    /// A mark in the middle of a line: two writers, or a line that was cut.
    Torn,
    /// A record of another protocol version.
    Version,
    /// A record that is not of a known kind and form.
    Unknown,
    /// A request that is not of a known kind and form.
    BadRequest(request::Malformed),
    /// A figure that is not of the known form.
    BadFigure,
    /// Checks are numbered one by one from 1.
    Number {
        /// The number that was due.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// More or fewer checks than planned.
    Plan {
        /// Checks announced.
        planned: u32,
        /// Checks reported.
        reported: u32,
    },
    /// `end` does not say what the checks say; passed, failed, skipped.
    Counts {
        /// What `end` says.
        said: [u32; 3],
        /// What the records above it add up to.
        counted: [u32; 3],
    },
}

/// A flaw and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong.
    pub flaw: Flaw,
    /// The serial line, from 1; 0 when no line can be blamed.
    pub line: usize,
    /// The text of that line.
    pub text: String,
    /// Checks understood before the flaw.
    pub checks: Vec<Check>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.flaw {
            Flaw::Silent => write!(f, "no record at all"),
            Flaw::NoPlan => write!(f, "a record comes before the plan"),
            Flaw::SecondPlan => write!(f, "a second plan"),
            Flaw::EmptyPlan => write!(f, "a plan of no checks"),
            Flaw::NoEnd => write!(f, "no `end` record: the output stopped early"),
            Flaw::AfterEnd => write!(f, "a record after `end`"),
            Flaw::Unterminated => write!(f, "the last record has no end of line"),
            Flaw::Torn => write!(f, "a record in the middle of a line"),
            Flaw::Version => write!(f, "a record of another protocol version than {VERSION}"),
            Flaw::Unknown => write!(f, "a record of an unknown kind or form"),
            Flaw::BadRequest(why) => write!(f, "a request record that is {why}"),
            Flaw::BadFigure => write!(f, "a figure that is not of the known form"),
            Flaw::Number { expected, found } => {
                write!(f, "check number {found} where {expected} was due")
            }
            Flaw::Plan { planned, reported } => {
                write!(f, "{planned} checks planned, {reported} reported")
            }
            Flaw::Counts { said, counted } => write!(
                f,
                "`end` says {}/{}/{} passed/failed/skipped, the records add up to {}/{}/{}",
                said[0], said[1], said[2], counted[0], counted[1], counted[2]
            ),
        }?;
        if self.line > 0 {
            write!(f, " (serial line {}: `{}`)", self.line, self.text)?;
        }
        Ok(())
    }
}

/// The serial output as lines of plain text: no `\r`, no NUL, no other control codes, no terminal sequences.
///
/// The flag says whether the line was ended by a newline.
pub fn lines(serial: &[u8]) -> Vec<(String, bool)> {
    let mut lines: Vec<(String, bool)> = serial
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| (plain(line), line.ends_with(b"\n")))
        .collect();
    if lines.last().is_some_and(|(text, _)| text.is_empty()) {
        lines.pop();
    }
    lines
}

/// The last line with something on it.
pub fn last_line(serial: &[u8]) -> Option<String> {
    let lines = lines(serial);
    let last = lines.into_iter().rev().map(|(text, _)| text);
    last.map(|text| text.trim_end().to_owned())
        .find(|text| !text.is_empty())
}

/// Strips terminal sequences (`ESC [ … letter`, `ESC x`) and control codes other than tab.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.peek() {
                Some('[') => {
                    chars.next();
                    // Parameters and intermediates, then one final byte. A newline ends a cut sequence.
                    while let Some(&c) = chars.peek() {
                        if c == '\n' {
                            break;
                        }
                        chars.next();
                        if ('\x40'..='\x7e').contains(&c) {
                            break;
                        }
                    }
                }
                Some(' '..='~') => {
                    chars.next();
                }
                _ => {}
            },
            '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Reads the whole serial output of one run.
///
/// # Errors
///
/// The first flaw, with the line that shows it.
pub fn parse(serial: &[u8]) -> Result<Log, Box<Broken>> {
    let mut reader = Reader::default();
    for (index, (text, ended)) in lines(serial).iter().enumerate() {
        if let Err(flaw) = reader.line(index + 1, text, *ended) {
            return Err(reader.broken(flaw, index + 1, text));
        }
    }
    if let Err(flaw) = reader.whole() {
        return Err(reader.broken(flaw, 0, ""));
    }
    Ok(reader.log)
}

#[derive(Default)]
struct Reader {
    plan: Option<u32>,
    ended: bool,
    log: Log,
}

impl Reader {
    fn broken(self, flaw: Flaw, line: usize, text: &str) -> Box<Broken> {
        Box::new(Broken {
            flaw,
            line,
            text: text.trim().to_owned(),
            checks: self.log.checks,
        })
    }

    fn line(&mut self, line: usize, text: &str, ended: bool) -> Result<(), Flaw> {
        let text = text.trim();
        let Some(record) = text.strip_prefix(MARK) else {
            let torn = text.contains(MARK.trim_end());
            return if torn { Err(Flaw::Torn) } else { Ok(()) };
        };
        if record.contains(MARK.trim_end()) {
            return Err(Flaw::Torn);
        }
        let (version, record) = record.split_once(' ').unwrap_or((record, ""));
        if version != VERSION {
            return Err(Flaw::Version);
        }
        if !ended {
            return Err(Flaw::Unterminated);
        }
        if self.ended {
            return Err(Flaw::AfterEnd);
        }
        let (kind, rest) = record.split_once(' ').unwrap_or((record, ""));
        if self.plan.is_none() && kind != "plan" {
            return Err(Flaw::NoPlan);
        }
        match kind {
            "plan" => self.plan(rest),
            "ok" => self.check(Outcome::Passed, rest),
            "not" => match rest.strip_prefix("ok ") {
                Some(rest) => self.check(Outcome::Failed, rest),
                None => Err(Flaw::Unknown),
            },
            "skip" => self.check(Outcome::Skipped, rest),
            "req" => {
                let request = Request::parse(rest).map_err(Flaw::BadRequest)?;
                self.log.requests.push((line, request));
                Ok(())
            }
            "bench" => {
                let figure = Figure::parse(rest).map_err(|_| Flaw::BadFigure)?;
                self.log.figures.push(figure);
                Ok(())
            }
            "hold" if !rest.is_empty() && !rest.contains(char::is_whitespace) => {
                self.log.holds.push(rest.to_owned());
                Ok(())
            }
            "end" => self.end(rest),
            _ => Err(Flaw::Unknown),
        }
    }

    fn plan(&mut self, rest: &str) -> Result<(), Flaw> {
        let planned = number(rest)?;
        if self.plan.is_some() {
            return Err(Flaw::SecondPlan);
        }
        if planned == 0 {
            return Err(Flaw::EmptyPlan);
        }
        self.plan = Some(planned);
        Ok(())
    }

    fn check(&mut self, outcome: Outcome, rest: &str) -> Result<(), Flaw> {
        let (head, note) = match rest.split_once(" # ") {
            Some((head, note)) => (head, Some(note.trim().to_owned())),
            None => (rest, None),
        };
        let (found, name) = head.split_once(' ').ok_or(Flaw::Unknown)?;
        let found = number(found)?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Flaw::Unknown);
        }
        // A failure without a place and a skip without a reason tell nobody anything.
        if outcome != Outcome::Passed && note.as_ref().is_none_or(String::is_empty) {
            return Err(Flaw::Unknown);
        }
        let expected = self.reported() + 1;
        if found != expected {
            return Err(Flaw::Number { expected, found });
        }
        self.log.checks.push(Check {
            outcome,
            name: name.to_owned(),
            note,
        });
        Ok(())
    }

    fn end(&mut self, rest: &str) -> Result<(), Flaw> {
        let words: Vec<&str> = rest.split(' ').collect();
        let [passed, "passed", failed, "failed", skipped, "skipped"] = words[..] else {
            return Err(Flaw::Unknown);
        };
        let said = [number(passed)?, number(failed)?, number(skipped)?];
        let count = |outcome| self.log.with(outcome).count() as u32;
        let counted = [
            count(Outcome::Passed),
            count(Outcome::Failed),
            count(Outcome::Skipped),
        ];
        if said != counted {
            return Err(Flaw::Counts { said, counted });
        }
        self.ended = true;
        Ok(())
    }

    fn whole(&self) -> Result<(), Flaw> {
        let Some(planned) = self.plan else {
            return Err(Flaw::Silent);
        };
        if !self.ended {
            return Err(Flaw::NoEnd);
        }
        let reported = self.reported();
        if reported != planned {
            return Err(Flaw::Plan { planned, reported });
        }
        Ok(())
    }

    fn reported(&self) -> u32 {
        self.log.checks.len() as u32
    }
}

/// A decimal number of digits only.
fn number(text: &str) -> Result<u32, Flaw> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.then(|| text.parse().ok()).flatten();
    value.ok_or(Flaw::Unknown)
}
