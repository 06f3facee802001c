//! What is measured in the guest: the machine, the boots, and their verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::compare::PAIRED;
use super::data::{Data, Row, Run};
use super::record::{self, Figure, Unbelievable};
use super::versions::{Lock, LockError, cpu};
use crate::arch::Arch;
use crate::command;
use crate::kernel::{self, KernelError};
use crate::qemu::{Qemu, QemuError, machine_arguments};
use crate::toolchain::Toolchain;
use crate::vm::{self, Echo, Exit, Limits, Outcome};

/// The benchmark of the kernel, and the section of the data.
pub const SECTION: &str = "requests";

/// What it is booted with: an IOMMU, and an endpoint that does nothing.
pub const DEVICES: [&str; 4] = ["-device", "virtio-iommu-pci", "-device", "edu"];

/// How long a boot may take. A time-out is an error, not a figure.
const WALL: Duration = Duration::from_secs(600);

/// The name of what stands in a rival's place where there is none.
const NOBODY: &str = "none";

/// What a boot measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Instructions of the guest.
    Instructions,
    /// Time of the host.
    Time,
}

impl Measure {
    /// The boot arguments.
    #[must_use]
    pub fn append(self, rounds: u32) -> String {
        let measure = match self {
            Self::Instructions => "instructions",
            Self::Time => "time",
        };
        format!("bench={SECTION} measure={measure} rounds={rounds}")
    }

    /// What the emulator needs for it.
    #[must_use]
    pub const fn clock(self) -> &'static [&'static str] {
        match self {
            // A nanosecond of the guest for each of its instructions.
            Self::Instructions => &["-icount", "shift=0"],
            Self::Time => &[],
        }
    }

    /// Instructions are the same in every round. Time is not.
    const fn rounds(self) -> u32 {
        match self {
            Self::Instructions => 8,
            Self::Time => 100,
        }
    }
}

/// Why there are no figures from the guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No emulator.
    #[error("{0}")]
    Qemu(#[from] QemuError),
    /// No kernel.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// No versions.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// A boot went wrong.
    #[error("the benchmark failed: {why}\nQEMU was: {command_line}\n{tail}")]
    Boot {
        /// What went wrong.
        why: String,
        /// What was booted.
        command_line: String,
        /// The end of what it said.
        tail: String,
    },
}

/// Boots and measures on one architecture.
///
/// # Errors
///
/// [`GuestError`].
pub fn measure(arch: Arch) -> Result<Data, GuestError> {
    let qemu = Qemu::find(arch)?;
    let kernel = kernel::build(arch)?;
    let mut figures = Vec::new();
    let mut commands = Vec::new();
    for measure in [Measure::Instructions, Measure::Time] {
        println!("== {SECTION} on {arch}: {measure:?}");
        let outcome = boot(&qemu, &kernel, measure);
        figures.extend(verdict(&outcome)?);
        commands.push(told_command(arch, measure));
    }
    let command = format!("cargo xtask bench --guest --arch {arch}");
    let rows: Vec<Row> = figures
        .into_iter()
        .map(|figure| row(arch, &command, figure))
        .collect();
    let rivals: BTreeSet<&str> = rows.iter().filter_map(|row| row.rival.as_deref()).collect();
    let lock = Lock::read(&crate::project_root().join("Cargo.lock"))?;
    let run = Run {
        section: SECTION.into(),
        arch: Some(arch.name().into()),
        system: None,
        qemu: Some(qemu.version.to_string()),
        rustc: Toolchain::find(arch)
            .and_then(|toolchain| toolchain.rustc_version())
            .unwrap_or_else(|| "unknown".into()),
        cpu: cpu(),
        rivals: lock.versions(rivals),
        commands,
        how: how(),
        more: BTreeMap::new(),
    };
    Ok(Data {
        runs: vec![run],
        rows,
        ..Data::default()
    })
}

/// How it is measured, for the page.
fn how() -> String {
    format!(
        "In the guest, on one device, in turns: each round starts one rival, measures it, resets the device and goes on \
         with the next ({} rounds for instructions, {} for time). In a round each figure is measured for 8 blocks of 64 \
         requests, after 2 blocks to warm up; a block is measured as a whole. Each answer is waited for and looked at. \
         Figures are medians of blocks, per request (per pair for `unmap+map`), with the 5th and 95th percentile as \
         spread; what a measurement of nothing takes (`overhead`, per block) is subtracted. Parts of a request by \
         themselves: `lock` is the kernel's lock taken and given up, `notify` the transport's notification of a queue \
         with nothing new. Ratios are medians of the ratios of \
         single rounds, so that whatever else the host does falls on both sides. Instructions: the guest's, \
         under `-icount shift=0`; the run fails unless a loop of known length counts as that. Time: without `-icount`, \
         the host's. The notification is the transport's (three register accesses). `domain` is the public API with \
         allocator, ledger and locks, with up to 64 live mappings; `pipeline` is requests alone, as the rival is.",
        Measure::Instructions.rounds(),
        Measure::Time.rounds()
    )
}

fn arguments(arch: Arch, kernel: &Path, measure: Measure) -> Vec<OsString> {
    let append = measure.append(measure.rounds());
    let mut arguments = machine_arguments(arch, kernel, &append);
    let more = measure.clock().iter().chain(&DEVICES);
    arguments.extend(more.map(OsString::from));
    arguments
}

/// The command line without the folders of this machine.
fn told_command(arch: Arch, measure: Measure) -> String {
    let arguments = arguments(arch, Path::new(kernel::PACKAGE), measure);
    let program = OsString::from(arch.qemu_binary());
    command::quoted(std::iter::once(program).chain(arguments))
}

fn boot(qemu: &Qemu, kernel: &Path, measure: Measure) -> Outcome {
    let mut command = Command::new(&qemu.path);
    command.args(arguments(qemu.arch, kernel, measure));
    let limits = Limits {
        wall: WALL,
        ..Limits::default()
    };
    vm::run(command, &limits, Echo::Quiet)
}

/// Judges a boot: the exit code and the record must both say success.
///
/// # Errors
///
/// [`GuestError::Boot`].
pub fn verdict(outcome: &Outcome) -> Result<Vec<Figure>, GuestError> {
    judge(outcome, record::figures)
}

/// Judges a boot whose log is read by `read`.
///
/// # Errors
///
/// [`GuestError::Boot`].
pub fn judge<T>(
    outcome: &Outcome,
    read: impl FnOnce(&str) -> Result<T, Unbelievable>,
) -> Result<T, GuestError> {
    let serial = String::from_utf8_lossy(&outcome.stdout);
    let why = match (&outcome.exit, read(&serial)) {
        (Exit::Code(33), Ok(told)) => return Ok(told),
        (Exit::Code(33), Err(Unbelievable { what, line })) => format!("{what} `{line}`"),
        (exit, _) => exit.explain(),
    };
    Err(failed(outcome, why))
}

/// The error of a boot, with the end of what it said.
pub fn failed(outcome: &Outcome, why: String) -> GuestError {
    let serial = String::from_utf8_lossy(&outcome.stdout);
    let lines: Vec<&str> = serial.lines().collect();
    let mut tail: String = lines[lines.len().saturating_sub(20)..].join("\n");
    tail.push_str(&String::from_utf8_lossy(&outcome.stderr));
    GuestError::Boot {
        why,
        command_line: outcome.command_line.clone(),
        tail,
    }
}

fn row(arch: Arch, command: &str, figure: Figure) -> Row {
    let paired = figure.paired.map(|ratio| (PAIRED.to_owned(), ratio.into()));
    Row {
        section: SECTION.into(),
        name: figure.name,
        arch: Some(arch.name().into()),
        rival: (figure.rival != NOBODY).then_some(figure.rival),
        size: figure.size,
        value: figure.value,
        unit: figure.unit,
        low: Some(figure.low),
        high: Some(figure.high),
        command: command.into(),
        more: paired.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
@viommu 1 plan 1
@viommu 1 bench name=map rival=domain size=1 value=9.000 low=9.000 high=9.000 unit=ns samples=1 done=1
@viommu 1 ok 1 all_figures_are_told
@viommu 1 end 1 passed 0 failed 0 skipped
";

    fn outcome(exit: Exit, serial: &str) -> Outcome {
        Outcome {
            exit,
            stdout: serial.into(),
            stderr: b"qemu says".to_vec(),
            elapsed: Duration::ZERO,
            command_line: "qemu".into(),
        }
    }

    #[test]
    fn code_and_record_must_both_say_success() {
        assert_eq!(verdict(&outcome(Exit::Code(33), LOG)).unwrap().len(), 1);
        for exit in [
            Exit::Code(0),
            Exit::Code(35),
            Exit::Signal(9),
            Exit::TimedOut(WALL),
        ] {
            assert!(verdict(&outcome(exit, LOG)).is_err());
        }
        let cut = &LOG[..LOG.len() - 20];
        let error = verdict(&outcome(Exit::Code(33), cut)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the output stops in a record"), "{text}");
        assert!(text.contains("all_figures_are_told"), "{text}");
        assert!(text.ends_with("qemu says"), "{text}");
    }

    #[test]
    fn the_command_line_names_no_folder_of_this_machine() {
        assert_eq!(
            told_command(Arch::Riscv64, Measure::Instructions),
            "qemu-system-riscv64 -M virt -m 128 -nodefaults -no-reboot -display none -monitor none \
             -chardev 'stdio,id=serial,signal=off' -serial chardev:serial -kernel viommu-boot \
             -append 'bench=requests measure=instructions rounds=8' -icount 'shift=0' \
             -device virtio-iommu-pci -device edu"
        );
        let time = told_command(Arch::X86_64, Measure::Time);
        assert!(time.starts_with("qemu-system-x86_64 -M q35"), "{time}");
        assert!(!time.contains("icount"), "{time}");
    }
}
