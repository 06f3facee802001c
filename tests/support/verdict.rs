//! The verdict of one VM run: green only if the exit status, the record and the trace all say so.

use super::audit::audit;
use super::disk::WrongSector;
use super::expect::Expect;
use super::finding::Finding;
use super::peer::WrongFrames;
use super::qmp::{Visit, Wrong};
use super::records::{self, Broken, Check, Log, Outcome};
use super::registers;
use super::request::Request;
use super::trace::{Trace, Unreadable};
use super::translated;
use std::fmt::{self, Write};
use std::time::Duration;
use xtask::demo::{self, DemoError};
use xtask::vm::{Stream, meaning};

/// The exit code of a guest that passed; QEMU has no other way to come to it.
pub const PASSED: i32 = 33;

/// How much of a long output an explanation shows, in bytes, half of it from each end.
const SHOWN: usize = 64 << 10;

/// How QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code.
    Exited(i32),
    /// By a signal that is not from here.
    Signalled(i32),
    /// Killed: its time was over.
    TimedOut(Duration),
    /// Killed: one of its outputs became too large.
    TooMuchOutput(Stream),
    /// It could not be started, or watched.
    Lost(String),
}

/// One finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// For a shell.
    pub command_line: String,
    /// What QEMU says of itself.
    pub version: String,
    /// How it ended.
    pub end: End,
    /// The guest's serial output.
    pub serial: Vec<u8>,
    /// QEMU's own messages.
    pub stderr: Vec<u8>,
    /// The trace, if QEMU wrote one.
    pub trace: Option<String>,
    /// Wall time.
    pub elapsed: Duration,
    /// The first sector of its disks that is not what it must be.
    pub wrong_sector: Option<WrongSector>,
    /// What is wrong with what the guest sent, if there was a peer.
    pub wrong_frames: Option<WrongFrames>,
    /// What QEMU's monitor said, each time that the guest waited.
    pub visits: Vec<Visit>,
}

/// What a run is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A scenario, with the names of the checks that it may skip.
    Scenario(&'a [&'a str]),
    /// The demo.
    Demo,
}

/// One reason for red.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// QEMU could not be started or watched.
    Lost(String),
    /// The watchdog had to end it; with the last thing that it said.
    TimedOut(Option<String>),
    /// It wrote without end.
    TooMuchOutput(Stream),
    /// A signal ended it.
    Signalled(i32),
    /// It ended with another code than [`PASSED`].
    Exit(i32),
    /// Its record cannot be believed.
    Log(Box<Broken>),
    /// These checks failed.
    Checks(Vec<Check>),
    /// These checks were skipped, and may not be.
    Skips(Vec<Check>),
    /// No check passed.
    NothingPassed,
    /// The last line of the demo does not say that all steps went well.
    Demo(DemoError),
    /// QEMU left no trace.
    NoTrace,
    /// The trace cannot be read.
    Unreadable(Unreadable),
    /// The trace shows what must not be.
    Trace(Finding),
    /// A disk is not what the guest was to leave.
    Disk(WrongSector),
    /// The guest did not send what it was to send.
    Peer(WrongFrames),
    /// QEMU's monitor shows what must not be.
    Monitor(Wrong),
}

/// Judges a run. No reason means green.
pub fn judge(run: &Run, wanted: Wanted<'_>, expect: &Expect) -> Vec<Reason> {
    let code = match &run.end {
        End::Exited(code) => *code,
        // Whatever it said before, it did not come to its end by itself.
        End::Lost(why) => return vec![Reason::Lost(why.clone())],
        End::TimedOut(_) => return vec![Reason::TimedOut(records::last_line(&run.serial))],
        End::TooMuchOutput(what) => return vec![Reason::TooMuchOutput(what.clone())],
        End::Signalled(signal) => return vec![Reason::Signalled(*signal)],
    };
    let mut reasons = Vec::new();
    if code != PASSED {
        reasons.push(Reason::Exit(code));
    }
    let requests = match wanted {
        Wanted::Scenario(skips) => scenario(run, skips, &mut reasons),
        Wanted::Demo => tour(&run.serial, &mut reasons),
    };
    // The trace of a run that is red already would only bury the reason.
    if reasons.is_empty() {
        reasons.extend(trace(run.trace.as_deref(), &requests, expect));
        reasons.extend(run.wrong_sector.map(Reason::Disk));
        reasons.extend(run.wrong_frames.clone().map(Reason::Peer));
    }
    reasons
}

fn trace(text: Option<&str>, guest: &[(usize, Request)], expect: &Expect) -> Vec<Reason> {
    let Some(text) = text else {
        return vec![Reason::NoTrace];
    };
    match Trace::parse(text) {
        Err(line) => vec![Reason::Unreadable(line)],
        Ok(trace) => {
            let mut findings = audit(&trace, guest, expect);
            let misused = registers::judge(text).into_iter();
            findings.extend(misused.map(|(line, misuse)| Finding::Registers { line, misuse }));
            if let Some(unused) = expect.unused {
                let astray = translated::judge(text, &trace, unused).into_iter();
                findings.extend(astray.map(|(line, astray)| Finding::Translation { line, astray }));
            }
            findings.into_iter().map(Reason::Trace).collect()
        }
    }
}

fn scenario(run: &Run, skips: &[&str], reasons: &mut Vec<Reason>) -> Vec<(usize, Request)> {
    let log = match records::parse(&run.serial) {
        Ok(log) => log,
        Err(broken) => {
            let checks = broken.checks.clone();
            reasons.push(Reason::Log(broken));
            Log {
                checks,
                ..Log::default()
            }
        }
    };
    let of = |outcome| log.with(outcome).cloned().collect::<Vec<Check>>();
    let failed = of(Outcome::Failed);
    if !failed.is_empty() {
        reasons.push(Reason::Checks(failed));
    }
    let mut skipped = of(Outcome::Skipped);
    skipped.retain(|check| !skips.contains(&check.name.as_str()));
    if !skipped.is_empty() {
        reasons.push(Reason::Skips(skipped));
    }
    // The guest waited as often as it was visited.
    let visited = run.visits.iter().map(|visit| &visit.hold);
    if reasons.is_empty() && !log.holds.iter().eq(visited) {
        reasons.push(Reason::Monitor(Wrong::Holds(log.holds.clone())));
    }
    if reasons.is_empty() && log.with(Outcome::Passed).next().is_none() {
        reasons.push(Reason::NothingPassed);
    }
    log.requests
}

/// The demo shows its requests to people, behind an arrow.
fn tour(serial: &[u8], reasons: &mut Vec<Reason>) -> Vec<(usize, Request)> {
    let lines = records::lines(serial);
    let plain: Vec<&str> = lines.iter().map(|(line, _)| line.as_str()).collect();
    if let Err(error) = demo::last_line(&plain.join("\n")) {
        reasons.push(Reason::Demo(error));
    }
    plain
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let request = text.trim().strip_prefix("-> ")?;
            Some((index + 1, Request::parse(request).ok()?))
        })
        .collect()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, checks: &[Check]| {
            checks.iter().try_for_each(|check| {
                write!(f, "\n      {}", check.name)?;
                let note = check.note.as_deref();
                note.map_or(Ok(()), |note| write!(f, ": {note}"))
            })
        };
        match self {
            Self::Lost(why) => write!(f, "QEMU could not be run: {why}"),
            Self::TimedOut(None) => write!(f, "timed out without a word on the serial line"),
            Self::TimedOut(Some(line)) => write!(f, "timed out; last serial line: `{line}`"),
            Self::TooMuchOutput(what) => write!(f, "killed because of too much output: {what:?}"),
            Self::Signalled(signal) => write!(f, "QEMU was ended by signal {signal}"),
            Self::Exit(code) => write!(f, "exit code {code}: {}", meaning(*code)),
            Self::Log(broken) => write!(f, "the record is not to be believed: {broken}"),
            Self::Checks(checks) => {
                write!(f, "failed checks:")?;
                list(f, checks)
            }
            Self::Skips(checks) => {
                write!(f, "skipped checks that may not be skipped:")?;
                list(f, checks)
            }
            Self::NothingPassed => write!(f, "no check passed"),
            Self::Demo(error) => write!(f, "the demo: {error}"),
            Self::NoTrace => write!(f, "QEMU wrote no trace"),
            Self::Unreadable(line) => {
                write!(
                    f,
                    "trace line {} is not understood: `{}`",
                    line.line, line.text
                )
            }
            Self::Trace(finding) => write!(f, "{finding}"),
            Self::Monitor(wrong) => write!(f, "{wrong}"),
            Self::Peer(wrong) => write!(f, "the peer of the network: {wrong:?}"),
            Self::Disk(WrongSector { drive, sector }) => {
                write!(
                    f,
                    "sector {sector} of the drive {drive} is not what it must be"
                )
            }
        }
    }
}

/// Everything that is needed to understand a red run and to repeat it.
pub fn explain(run: &Run, reasons: &[Reason]) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<10} {value}");
    };
    for reason in reasons {
        line("red:", &reason.to_string());
    }
    line("command:", &run.command_line);
    line("qemu:", &run.version);
    let end = match &run.end {
        End::Exited(code) => format!("exit code {code}: {}", meaning(*code)),
        End::Signalled(signal) => format!("signal {signal}"),
        End::TimedOut(limit) => format!("killed after {:.1} s", limit.as_secs_f64()),
        End::TooMuchOutput(what) => format!("killed: too much output ({what:?})"),
        End::Lost(why) => why.clone(),
    };
    line(
        "end:",
        &format!("{end} ({:.1} s)", run.elapsed.as_secs_f64()),
    );
    let of_trace = |reason: &Reason| matches!(reason, Reason::Trace(_) | Reason::Unreadable(_));
    let trace = match &run.trace {
        Some(trace) if reasons.iter().any(of_trace) => trace,
        _ => "",
    };
    for (label, bytes) in [
        ("serial", run.serial.as_slice()),
        ("stderr", run.stderr.as_slice()),
        ("trace", trace.as_bytes()),
    ] {
        if bytes.is_empty() {
            continue;
        }
        let _ = writeln!(text, "----- {label}, {} bytes -----", bytes.len());
        let shown = shortened(bytes);
        for (line, _) in records::lines(&shown) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

/// Both ends of what is too long.
fn shortened(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() <= SHOWN {
        return bytes.to_vec();
    }
    let (head, rest) = bytes.split_at(SHOWN / 2);
    let (middle, tail) = rest.split_at(rest.len() - SHOWN / 2);
    let gap = format!("\n[... {} bytes ...]\n", middle.len());
    [head, gap.as_bytes(), tail].concat()
}
