//! One run of a test program with one mutant, bounded in time and memory.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process_group};

/// How much memory a program may use, in KiB: a mutant may want more without end. What it only
/// reserves does not count, because models of memory reserve a lot.
const MEMORY: u64 = 2 << 20;
/// How many times its limit of processor time a program may take of real time: it may have to share
/// the processor, and a program that waits for nothing takes none.
const SHARED: u32 = 10;
/// How often a program is started again that somebody else has killed: the system, for want of
/// memory.
const TRIES: usize = 5;
/// How often a program is looked at, at first and after a while.
const POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All tests are green.
    Green,
    /// A test is red, or the program was aborted, or it wants too much memory.
    Red,
    /// It was stopped, because its time was over.
    Late,
}

/// A command that runs tests, in an environment that is the same each time.
#[must_use]
pub fn test_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--test-threads", "1", "--exact"])
        .current_dir(crate::project_root())
        .env("RUST_BACKTRACE", "0")
        .env("PROPTEST_RNG_SEED", "1")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env_remove("PROPTEST_CASES")
        .env_remove(crate::conformance::proof::PROOFS_VARIABLE);
    command
}

/// A process group that does not outlive this value.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Runs a command to its end, or until its time is over: `limit` of processor time, or many times
/// that of real time. What it says is not kept, unless it is to be `shown`.
///
/// # Errors
///
/// It cannot be started, or somebody else kills it each time.
pub fn run(command: &mut Command, limit: Duration, shown: bool) -> io::Result<Ended> {
    if !shown {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    for _ in 0..TRIES {
        if let Some(ended) = run_once(command, limit)? {
            return Ok(ended);
        }
    }
    Err(io::Error::other("somebody kills the tests"))
}

/// `None` if somebody else has killed it, which says nothing about the tests.
fn run_once(command: &mut Command, limit: Duration) -> io::Result<Option<Ended>> {
    let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    let mut group = Group(child);
    let started = Instant::now();
    loop {
        if let Some(status) = group.0.try_wait()? {
            return Ok(verdict(status));
        }
        let elapsed = started.elapsed();
        let used = processor_time(&group.0).unwrap_or_default();
        if used >= limit || elapsed >= SHARED * limit {
            return Ok(Some(Ended::Late));
        }
        if memory(&group.0).is_some_and(|memory| memory > MEMORY) {
            return Ok(Some(Ended::Red));
        }
        let is_young = elapsed < Duration::from_millis(200);
        std::thread::sleep(POLL[usize::from(!is_young)]);
    }
}

/// How much time processors have spent on a program; `None` if it has ended, or the system does not
/// tell.
fn processor_time(child: &Child) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // The name of the program, in brackets, may have anything in it; the state is behind it.
    let (_, fields) = text.rsplit_once(')')?;
    let fields = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second()).ok()?)
}

/// How much memory a program uses, in KiB; `None` if it has ended, or the system does not tell.
fn memory(child: &Child) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn verdict(status: ExitStatus) -> Option<Ended> {
    match status.signal() {
        Some(signal) if signal == Signal::KILL.as_raw() => None,
        _ if status.success() => Some(Ended::Green),
        _ => Some(Ended::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: u64) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(&mut command, Duration::from_millis(limit), false).unwrap()
    }

    #[test]
    fn what_somebody_else_kills_is_started_again() {
        let mut command = Command::new("sh");
        command.args(["-c", "kill -KILL $$"]);
        run(&mut command, Duration::from_secs(10), false).unwrap_err();
    }

    #[test]
    fn green_red_and_late() {
        assert_eq!(shell("exit 0", 10_000), Ended::Green);
        assert_eq!(shell("exit 101", 10_000), Ended::Red);
        assert_eq!(shell("kill -ABRT $$", 10_000), Ended::Red);
        assert_eq!(shell("exec tail /dev/zero", 60_000), Ended::Red);
        let started = Instant::now();
        assert_eq!(shell("sleep 60 & sleep 60", 100), Ended::Late);
        assert_eq!(shell("while true; do :; done", 300), Ended::Late);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
