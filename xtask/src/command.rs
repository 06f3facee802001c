//! Other programs: run with their output kept in a bounded log, a time limit and a progress line.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::progress::Progress;

/// How much of the end of a program's output is kept for an error message, in bytes.
const TAIL: usize = 64 << 10;
/// How much of the beginning of a program's output goes to its log file, in bytes.
const LOG_FILE: usize = 4 << 20;
/// How often a program with a time limit is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How a program that [`run`] started has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its status; `None` if it was killed because its time was over.
    pub status: Option<ExitStatus>,
    /// The end of what it wrote to standard output and standard error, at most 64 KiB.
    pub tail: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Finished {
    /// Whether it ended by itself, with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The last `lines` lines of its output, indented, and how it ended.
    #[must_use]
    pub fn explain(&self, lines: usize) -> String {
        let all: Vec<&str> = self.tail.lines().collect();
        let mut text = String::new();
        for line in &all[all.len().saturating_sub(lines)..] {
            text.push_str("    ");
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&match self.status {
            Some(status) => format!("({status})"),
            None => format!("(stopped after {} s)", self.elapsed.as_secs()),
        });
        text
    }
}

/// Runs a program with no standard input, shows `what` if it takes long, and keeps the end of its
/// output. With `limit`, it is killed when its time is over. With `log`, the first 4 MiB of its
/// output are written there as well.
///
/// # Errors
///
/// The program or the log file could not be started or written.
pub fn run(
    command: &mut Command,
    what: &str,
    limit: Option<Duration>,
    log: Option<&Path>,
) -> io::Result<Finished> {
    let _progress = Progress::start(what);
    let started = Instant::now();
    let log = log.map(File::create).transpose()?;
    let (reader, writer) = io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    // The command still holds the writing ends of the pipe; the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (send_tail, tail) = channel();
    std::thread::spawn(move || send_tail.send(drain(reader, log)));
    let status = loop {
        match limit {
            None => break Some(child.wait()?),
            Some(limit) => match child.try_wait()? {
                Some(status) => break Some(status),
                None if started.elapsed() >= limit => {
                    child.kill()?;
                    child.wait()?;
                    break None;
                }
                None => std::thread::sleep(POLL),
            },
        }
    };
    // A grandchild may keep the pipe open after the program itself has ended.
    let tail = tail
        .recv_timeout(Duration::from_secs(2))
        .unwrap_or_else(|_| Ok(Vec::from("(output still held open by another process)")))?;
    Ok(Finished {
        status,
        tail: String::from_utf8_lossy(&tail).into_owned(),
        elapsed: started.elapsed(),
    })
}

fn drain(mut from: PipeReader, mut log: Option<File>) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    let mut room = LOG_FILE;
    let mut chunk = vec![0; 16 << 10];
    loop {
        let length = match from.read(&mut chunk) {
            Ok(0) => return Ok(tail),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = &chunk[..length];
        if let Some(file) = &mut log {
            let part = &read[..length.min(room)];
            // A full disk must not stop the program that is being watched.
            let _ = file.write_all(part);
            room -= part.len();
        }
        tail.extend_from_slice(read);
        if tail.len() > 2 * TAIL {
            tail.drain(..tail.len() - TAIL);
        }
    }
}

/// A command line that can be pasted into a shell.
pub fn quoted<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<String> = words
        .into_iter()
        .map(|word| {
            let word = word.as_ref().to_string_lossy();
            match shlex::try_quote(&word) {
                Ok(text) => text.into_owned(),
                // A NUL byte cannot be in an argument: show where it would have been.
                Err(_) => word.replace('\0', "\\0"),
            }
        })
        .collect();
    quoted.join(" ")
}

/// The command line of `command`, for a shell.
#[must_use]
pub fn command_line(command: &Command) -> String {
    quoted(std::iter::once(command.get_program()).chain(command.get_args()))
}

/// Looks for an executable file in the folders of `PATH`.
#[must_use]
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is a file that somebody may execute.
#[must_use]
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file)
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The variables of cargo that belong to the person who calls, not to the calling cargo.
const KEPT: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_BUILD_JOBS",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// Takes what the calling cargo and rustup left in the environment out of that of `command`, so
/// that another cargo starts as from a shell: its compiler, its flags, its package.
pub fn forget_calling_cargo(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if belongs_to_calling_cargo(&name) {
            command.env_remove(name);
        }
    }
}

fn belongs_to_calling_cargo(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    if name.starts_with("CARGO_") {
        return !KEPT.iter().any(|kept| name.starts_with(kept));
    }
    matches!(
        name,
        "CARGO"
            | "RUSTC"
            | "RUSTC_WRAPPER"
            | "RUSTC_WORKSPACE_WRAPPER"
            | "RUSTC_BOOTSTRAP"
            | "RUSTDOC"
            | "RUSTFLAGS"
            | "RUSTDOCFLAGS"
            | "RUST_RECURSION_COUNT"
            | "LD_LIBRARY_PATH"
            | "OUT_DIR"
            | "TARGET"
            | "HOST"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_kept() {
        let finished = run(&mut shell("echo one; echo two >&2; exit 3"), "", None, None).unwrap();
        assert_eq!(finished.status.and_then(|status| status.code()), Some(3));
        assert!(!finished.success());
        assert_eq!(finished.tail, "one\ntwo\n");
        assert_eq!(finished.explain(1), "    two\n(exit status: 3)");
    }

    #[test]
    fn a_program_that_never_ends_is_stopped() {
        let limit = Duration::from_millis(200);
        let finished = run(&mut shell("exec sleep 60"), "", Some(limit), None).unwrap();
        assert!(finished.status.is_none());
        assert!(!finished.success());
        assert!(finished.elapsed < Duration::from_secs(10));
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end";
        let finished = run(&mut shell(script), "", None, None).unwrap();
        assert!(finished.success());
        assert!(finished.tail.len() <= 2 * TAIL);
        assert!(finished.tail.ends_with("x\nend\n"));
    }

    #[test]
    fn quoting_survives_a_shell() {
        let words = [
            "plain",
            "two words",
            "",
            "it's",
            "$HOME `id` \\ \"",
            "virtio_*",
        ];
        let script = format!("printf '%s\\n' {}", quoted(words));
        let finished = run(&mut shell(&script), "", None, None).unwrap();
        assert_eq!(finished.tail, words.join("\n") + "\n");
    }

    #[test]
    fn the_callers_choices_stay() {
        let belongs = |name: &str| belongs_to_calling_cargo(&name.into());
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "RUSTFLAGS",
        ] {
            assert!(belongs(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "PATH",
            "HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "QEMU_DIR",
        ] {
            assert!(!belongs(name), "{name}");
        }
    }
}
