//! Runs one virtual machine under a watchdog, and captures what it says.
//!
//! A QEMU may hang and be deaf to SIGTERM, print without end, or leave children behind. It gets a
//! process group of its own, which is killed by its id when the time is over, when it says too
//! much, when the caller panics, and when this process dies.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group,
    set_parent_process_death_signal, waitid,
};

use crate::command;

/// How long a VM has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(500);
/// How often a VM is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long its pipes may stay open after its end.
const PIPES: Duration = Duration::from_secs(2);

/// What a VM may use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Real time.
    pub wall: Duration,
    /// Bytes on standard output, which is its serial line, and on standard error, each.
    pub output: usize,
    /// Files that it writes, and how many bytes each may grow to.
    pub files: Vec<(PathBuf, u64)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(30),
            output: 4 << 20,
            files: Vec::new(),
        }
    }
}

/// Whether the person sees what the VM says while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// No.
    Quiet,
    /// Yes, on standard output and standard error.
    Live,
}

/// How a VM ended.
#[derive(Debug)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// Killed because its time was over.
    TimedOut(Duration),
    /// Killed because it wrote too much there.
    TooMuchOutput(Stream),
    /// It never began.
    NotStarted(io::Error),
}

/// Something that a VM writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The serial line.
    Stdout,
    /// Messages of QEMU.
    Stderr,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output, its serial line"),
            Self::Stderr => f.write_str("standard error"),
            Self::File(file) => write!(f, "{}", file.display()),
        }
    }
}

/// What is known of a VM after its end.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// Standard output: the serial line.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
    /// Its command line, for a shell.
    pub command_line: String,
}

impl Exit {
    /// What the exit means, in words.
    #[must_use]
    pub fn explain(&self) -> String {
        match self {
            Self::Code(code) => format!("exit code {code}: {}", meaning(*code)),
            Self::Signal(signal) => format!("QEMU was ended by signal {signal}"),
            Self::TimedOut(limit) => format!("killed: still running after {limit:?}"),
            Self::TooMuchOutput(stream) => format!("killed: wrote too much to {stream}"),
            Self::NotStarted(error) => format!("could not be started: {error}"),
        }
    }
}

/// What an exit code of QEMU means with this kernel.
#[must_use]
pub const fn meaning(code: i32) -> &'static str {
    match code {
        33 => "the guest says success",
        35 => "the guest says failure",
        37 => "the guest panicked or trapped",
        0 => "means nothing: a power-off, a triple fault, or a signal",
        1 => "QEMU refused its arguments, or gave up",
        _ => "not one of this kernel's",
    }
}

/// A process group that does not outlive this value.
struct Group {
    child: Child,
    ended: bool,
}

impl Group {
    fn signal(&self, signal: Signal) {
        // It may be gone already.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// How the VM ended, if it has.
    fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        let question = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(Pid::from_child(&self.child)), question)? {
            None => Ok(None),
            Some(_) => self.close().map(Some),
        }
    }

    /// Kills what is left of the group, and waits for the VM. In this order: the id of a process
    /// that was waited for may already be that of another group.
    fn close(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.ended = true;
        self.child.wait()
    }

    /// Asks, and then does not ask any more.
    fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
        self.close()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // Somebody panicked, or the VM could not be watched.
            let _ = self.close();
        }
    }
}

/// What is done with a VM that waits in the middle of its work.
///
/// It says so by a line that begins with the mark, followed by a word, and goes on when it is
/// given a line on its standard input.
pub struct Hold<'a> {
    /// How the line begins.
    pub mark: &'static str,
    /// Called with the word behind the mark. The time that it takes counts for the VM's own.
    pub visit: &'a mut dyn FnMut(&str),
}

impl fmt::Debug for Hold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.mark).finish()
    }
}

/// Looks for lines with the mark of a [`Hold`].
struct Marks {
    mark: &'static str,
    /// Where the first line begins that has not come to its end.
    line: usize,
    found: Sender<String>,
}

impl Marks {
    fn look(&mut self, text: &[u8]) {
        while let Some(end) = text[self.line..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&text[self.line..self.line + end]);
            if let Some(word) = line.trim_end().strip_prefix(self.mark) {
                // Nobody listens any more to a VM that has ended.
                let _ = self.found.send(word.to_owned());
            }
            self.line += end + 1;
        }
    }
}

/// One pipe of the VM, drained by a thread so that it can never fill.
struct Drain {
    full: Shared<AtomicBool>,
    bytes: Receiver<Vec<u8>>,
}

impl Drain {
    fn start(
        mut pipe: impl Read + Send + 'static,
        limit: usize,
        mut echo: Option<impl Write + Send + 'static>,
        mut marks: Option<Marks>,
    ) -> Self {
        let full = Shared::new(AtomicBool::new(false));
        let (send, bytes) = channel();
        let overflow = full.clone();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            let mut chunk = vec![0; 16 << 10];
            loop {
                let length = match pipe.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                let room = limit.saturating_sub(kept.len()).min(length);
                kept.extend_from_slice(&chunk[..room]);
                if let Some(marks) = &mut marks {
                    marks.look(&kept);
                }
                if let Some(echo) = &mut echo {
                    let _ = echo.write_all(&chunk[..room]);
                    let _ = echo.flush();
                }
                if room < length {
                    overflow.store(true, Ordering::Relaxed);
                }
            }
            send.send(kept)
        });
        Self { full, bytes }
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// What was captured. A process that escaped from the group may hold the pipe open.
    fn finish(self) -> Vec<u8> {
        self.bytes
            .recv_timeout(PIPES)
            .unwrap_or_else(|_| b"(output still held open by another process)".to_vec())
    }
}

/// Runs a command as a VM: without standard input, in a process group of its own.
#[must_use]
pub fn run(command: Command, limits: &Limits, echo: Echo) -> Outcome {
    run_holding(command, limits, echo, None)
}

/// As [`run`], for a VM that waits where it is to be looked at.
#[must_use]
pub fn run_holding(
    mut command: Command,
    limits: &Limits,
    echo: Echo,
    hold: Option<Hold<'_>>,
) -> Outcome {
    let command_line = command::command_line(&command);
    let started = Instant::now();
    let stdin = match hold {
        Some(_) => Stdio::piped(),
        None => Stdio::null(),
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let parent = getpid();
    // SAFETY: the closure makes two system calls and allocates nothing, which is allowed between
    // fork and exec.
    unsafe {
        command.pre_exec(move || {
            // The signal comes when the thread ends that started the VM: this one, which waits.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It never comes if the parent was gone before it was asked for.
            if getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        });
    }
    let mut outcome = Outcome {
        exit: Exit::TimedOut(limits.wall),
        stdout: Vec::new(),
        stderr: Vec::new(),
        elapsed: Duration::ZERO,
        command_line,
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            outcome.exit = Exit::NotStarted(error);
            return outcome;
        }
    };
    let live = echo == Echo::Live;
    let (found, held) = channel();
    let marks = hold.as_ref().map(|hold| Marks {
        mark: hold.mark,
        line: 0,
        found,
    });
    let mut holding = hold.map(|hold| Holding {
        hold,
        held,
        input: child.stdin.take(),
    });
    let stdout = child
        .stdout
        .take()
        .map(|pipe| Drain::start(pipe, limits.output, live.then(io::stdout), marks));
    let stderr = child
        .stderr
        .take()
        .map(|pipe| Drain::start(pipe, limits.output, live.then(io::stderr), None));
    let mut group = Group {
        child,
        ended: false,
    };
    let pipes = [&stdout, &stderr];
    outcome.exit = watch(&mut group, limits, started, pipes, holding.as_mut());
    outcome.elapsed = started.elapsed();
    // Before the pipes are read to their end: nobody of the group keeps them open then.
    drop(group);
    outcome.stdout = stdout.map(Drain::finish).unwrap_or_default();
    outcome.stderr = stderr.map(Drain::finish).unwrap_or_default();
    outcome
}

/// A VM that may wait.
struct Holding<'a> {
    hold: Hold<'a>,
    held: Receiver<String>,
    input: Option<ChildStdin>,
}

impl Holding<'_> {
    /// Visits the VM if it waits, and lets it go on.
    fn poll(&mut self) {
        if let Ok(word) = self.held.try_recv() {
            (self.hold.visit)(&word);
            // It may have ended meanwhile, which is noticed elsewhere.
            let _ = self.input.as_mut().map(|input| input.write_all(b"\n"));
        }
    }
}

fn watch(
    group: &mut Group,
    limits: &Limits,
    started: Instant,
    [stdout, stderr]: [&Option<Drain>; 2],
    mut holding: Option<&mut Holding<'_>>,
) -> Exit {
    let is_full = |drain: &Option<Drain>| drain.as_ref().is_some_and(Drain::is_full);
    let reason = loop {
        match group.poll() {
            Ok(Some(status)) => {
                return match (status.code(), status.signal()) {
                    _ if is_full(stdout) => Exit::TooMuchOutput(Stream::Stdout),
                    _ if is_full(stderr) => Exit::TooMuchOutput(Stream::Stderr),
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => Exit::Signal(signal.unwrap_or(0)),
                };
            }
            Ok(None) => {}
            Err(error) => return Exit::NotStarted(error),
        }
        if let Some(holding) = &mut holding {
            holding.poll();
        }
        if is_full(stdout) {
            break Exit::TooMuchOutput(Stream::Stdout);
        }
        if is_full(stderr) {
            break Exit::TooMuchOutput(Stream::Stderr);
        }
        let grown = limits
            .files
            .iter()
            .find(|(file, limit)| file.metadata().is_ok_and(|data| data.len() > *limit));
        if let Some((file, _)) = grown {
            break Exit::TooMuchOutput(Stream::File(file.clone()));
        }
        if started.elapsed() >= limits.wall {
            break Exit::TimedOut(limits.wall);
        }
        std::thread::sleep(POLL);
    };
    // If it cannot be watched any more, it is killed when the group is dropped.
    let _ = group.kill();
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn short() -> Limits {
        Limits {
            wall: Duration::from_secs(1),
            output: 1000,
            files: Vec::new(),
        }
    }

    #[test]
    fn codes_and_output_are_captured() {
        let outcome = run(
            shell("echo out; echo err >&2; exit 33"),
            &short(),
            Echo::Quiet,
        );
        assert!(matches!(outcome.exit, Exit::Code(33)), "{outcome:?}");
        assert_eq!(outcome.stdout, b"out\n");
        assert_eq!(outcome.stderr, b"err\n");
    }

    #[test]
    fn a_vm_that_waits_is_visited_and_goes_on() {
        let script = "echo a; echo '@ hold one'; read x; echo '@ hold two'; read x; exit 33";
        let mut words = Vec::new();
        let mut visit = |word: &str| words.push(word.to_owned());
        let hold = Hold {
            mark: "@ hold ",
            visit: &mut visit,
        };
        let outcome = run_holding(shell(script), &short(), Echo::Quiet, Some(hold));
        assert!(matches!(outcome.exit, Exit::Code(33)), "{outcome:?}");
        assert_eq!(words, ["one", "two"]);
    }

    #[test]
    fn a_hang_that_is_deaf_to_sigterm_ends() {
        let script = "trap '' TERM; while :; do sleep 1; done";
        let outcome = run(shell(script), &short(), Echo::Quiet);
        assert!(matches!(outcome.exit, Exit::TimedOut(_)), "{outcome:?}");
    }

    #[test]
    fn endless_output_and_growing_files_end() {
        let outcome = run(shell("yes"), &short(), Echo::Quiet);
        assert!(matches!(outcome.exit, Exit::TooMuchOutput(Stream::Stdout)));
        assert_eq!(outcome.stdout.len(), 1000);
        let file = std::env::temp_dir().join(format!("viommu-vm-{}", std::process::id()));
        let mut limits = short();
        limits.files = vec![(file.clone(), 10)];
        let script = format!("seq 100 > {}; sleep 10", command::quoted([&file]));
        let outcome = run(shell(&script), &limits, Echo::Quiet);
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(outcome.exit, Exit::TooMuchOutput(Stream::File(_))));
    }

    #[test]
    fn grandchildren_do_not_survive() {
        let outcome = run(shell("sleep 1000 & echo $!"), &short(), Echo::Quiet);
        assert!(matches!(outcome.exit, Exit::Code(0)));
        let id = String::from_utf8(outcome.stdout).unwrap();
        let stat = format!("/proc/{}/stat", id.trim());
        // It may be a zombie for a moment, until somebody has taken note of it.
        let alive = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z"));
        let began = Instant::now();
        while alive() {
            assert!(began.elapsed() < Duration::from_secs(5), "still alive");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn what_cannot_start_says_so() {
        let outcome = run(Command::new("/nonexistent/qemu"), &short(), Echo::Quiet);
        assert!(matches!(outcome.exit, Exit::NotStarted(_)));
        let outcome = run(shell("kill -9 $$"), &short(), Echo::Quiet);
        assert!(matches!(outcome.exit, Exit::Signal(9)));
    }
}
