//! The machine and the verdict of `cargo xtask run`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::qemu::{Qemu, machine_arguments};
use crate::vm::{self, Echo, Exit, Limits, Outcome};

/// What the demo is shown with: an IOMMU and two DMA engines, which by themselves reach the lowest
/// 256 MiB only, and so none of the board's memory without the IOMMU.
pub const DEVICES: [&str; 3] = ["virtio-iommu-pci", "edu", "edu"];

/// `edu` takes 100 ms of virtual time for a transfer: with virtual time that jumps when the
/// guest waits, they cost nothing.
pub const CLOCK: [&str; 2] = ["-icount", "shift=10,sleep=off"];

/// How long the demo may take.
const WALL: Duration = Duration::from_secs(120);

/// The fewest steps of a demo worth the name.
const STEPS: u32 = 8;

/// Boots the kernel with the demo, shows what it says, and returns how it ended.
#[must_use]
pub fn run(qemu: &Qemu, kernel: &Path, more: &[OsString]) -> Outcome {
    let mut command = Command::new(&qemu.path);
    command.args(machine_arguments(qemu.arch, kernel, "run=demo"));
    command.args(CLOCK);
    for device in DEVICES {
        command.args(["-device", device]);
    }
    command.args(more);
    let limits = Limits {
        wall: WALL,
        ..Limits::default()
    };
    vm::run(command, &limits, Echo::Live)
}

/// Why a demo did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DemoError {
    /// QEMU did not end as it does when the guest reports success.
    #[error("{0}")]
    Exit(String),
    /// The last line is not that of a demo.
    #[error("the last line is not `demo: N of N steps ok`: {0:?}")]
    LastLine(String),
    /// Some steps failed.
    #[error("{passed} of {all} steps are ok")]
    Steps {
        /// Steps that passed.
        passed: u32,
        /// Steps that there are.
        all: u32,
    },
    /// A demo of so few steps shows nothing.
    #[error("a demo of {0} steps is too short")]
    TooFew(u32),
}

/// Judges a demo: the exit code and the last line must both say success.
///
/// # Errors
///
/// [`DemoError`].
pub fn verdict(outcome: &Outcome) -> Result<(), DemoError> {
    if !matches!(outcome.exit, Exit::Code(33)) {
        return Err(DemoError::Exit(outcome.exit.explain()));
    }
    last_line(&String::from_utf8_lossy(&outcome.stdout))
}

/// Judges what the guest said.
///
/// # Errors
///
/// [`DemoError`].
pub fn last_line(serial: &str) -> Result<(), DemoError> {
    let last = serial
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default();
    let (passed, all) = parse(last).ok_or_else(|| DemoError::LastLine(last.into()))?;
    if passed != all {
        return Err(DemoError::Steps { passed, all });
    }
    if all < STEPS {
        return Err(DemoError::TooFew(all));
    }
    Ok(())
}

fn parse(line: &str) -> Option<(u32, u32)> {
    let steps = line.strip_prefix("demo: ")?.strip_suffix(" steps ok")?;
    let (passed, all) = steps.split_once(" of ")?;
    Some((passed.parse().ok()?, all.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_demo_is_a_success() {
        assert_eq!(last_line("…\r\ndemo: 10 of 10 steps ok\r\n\r\n"), Ok(()));
        assert_eq!(
            last_line("demo: 9 of 10 steps ok"),
            Err(DemoError::Steps { passed: 9, all: 10 })
        );
        assert_eq!(
            last_line("demo: 0 of 0 steps ok"),
            Err(DemoError::TooFew(0))
        );
        for serial in [
            "",
            "demo: 10 of 10 steps ok\npanic",
            "demo: ten of ten steps ok",
            "demo: 10 of 10 steps",
            "a demo: 10 of 10 steps ok",
        ] {
            assert!(
                matches!(last_line(serial), Err(DemoError::LastLine(_))),
                "{serial:?}"
            );
        }
    }

    #[test]
    fn a_perfect_log_needs_the_exit_code_too() {
        let mut outcome = Outcome {
            exit: Exit::Code(33),
            stdout: b"demo: 10 of 10 steps ok\n".to_vec(),
            stderr: Vec::new(),
            elapsed: Duration::ZERO,
            command_line: String::new(),
        };
        assert_eq!(verdict(&outcome), Ok(()));
        for exit in [
            Exit::Code(0),
            Exit::Code(35),
            Exit::Signal(9),
            Exit::TimedOut(WALL),
        ] {
            outcome.exit = exit;
            assert!(matches!(verdict(&outcome), Err(DemoError::Exit(_))));
        }
    }
}
