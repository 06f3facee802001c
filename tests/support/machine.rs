//! Boots a scenario under QEMU, once, and keeps all that it said.

use super::disk::Drive;
use super::peer::Peer;
use super::qmp::{MARK, Visit};
use super::scenarios::{Clock, Scenario};
use super::verdict::{End, Run};
use super::{registers, trace, translated};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs};
use xtask::abilities::Abilities;
use xtask::kernel::{self, KernelError};
use xtask::monitor::Monitor;
use xtask::qemu::{Qemu, QemuError, machine_arguments};
use xtask::vm::{self, Echo, Exit, Hold, Limits};
use xtask::{Arch, demo};

/// How long a VM may run, before the factor of [`FACTOR_VARIABLE`].
const WATCHDOG: Duration = Duration::from_secs(30);
/// Multiplies the watchdog's time on slow machines.
pub const FACTOR_VARIABLE: &str = "VIOMMU_TIMEOUT_FACTOR";
/// Makes a missing QEMU or toolchain a failure, as `CI` does.
pub const REQUIRE_VARIABLE: &str = xtask::ci::REQUIRE_QEMU;
/// How much a VM may say on its serial line, and QEMU on its own, in bytes each.
const OUTPUT: usize = 2 << 20;
/// How large a trace may become, in bytes.
const TRACE: u64 = 16 << 20;

/// What is needed to boot a VM.
#[derive(Clone, Debug)]
pub struct Host {
    /// The emulator.
    pub qemu: Qemu,
    /// What it can do.
    pub abilities: Abilities,
    /// The kernel.
    pub kernel: PathBuf,
}

/// Why no VM can be booted.
#[derive(Clone, Debug)]
pub enum Unready {
    /// Something is not installed: no test, which has to be said.
    Missing(String),
    /// Something is wrong: a failure.
    Failed(String),
}

/// QEMU and the kernel for an architecture: found and built once in this process.
///
/// # Errors
///
/// [`Unready`].
pub fn host(arch: Arch) -> Result<&'static Host, &'static Unready> {
    static HOSTS: [OnceLock<Result<Host, Unready>>; Arch::ALL.len()] =
        [const { OnceLock::new() }; Arch::ALL.len()];
    let index = Arch::ALL.iter().position(|known| *known == arch);
    HOSTS[index.expect("one of all")]
        .get_or_init(|| prepare(arch))
        .as_ref()
}

fn prepare(arch: Arch) -> Result<Host, Unready> {
    let qemu = Qemu::find(arch).map_err(|error| match error {
        QemuError::NotInPath(_) | QemuError::TooOld { .. } => missing(error.to_string()),
        // QEMU_DIR asked for this one.
        _ => Unready::Failed(error.to_string()),
    })?;
    let abilities = Abilities::ask(&qemu)
        .map_err(|error| Unready::Failed(format!("{}: {error}", qemu.path.display())))?;
    let kernel = kernel::build(arch).map_err(|error| match error {
        KernelError::NoToolchain(_) | KernelError::NoLinker => missing(error.to_string()),
        _ => Unready::Failed(format!("the kernel does not build: {error}")),
    })?;
    Ok(Host {
        qemu,
        abilities,
        kernel,
    })
}

/// A missing thing is a failure where somebody counts on the tests.
fn missing(what: String) -> Unready {
    for name in ["CI", REQUIRE_VARIABLE] {
        if env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0") {
            return Unready::Failed(format!("{what} ({name} is set: that is a failure)"));
        }
    }
    Unready::Missing(what)
}

/// The watchdog's time on this machine.
///
/// # Errors
///
/// [`FACTOR_VARIABLE`] is set to something that is not a positive number.
pub fn watchdog() -> Result<Duration, String> {
    let Some(text) = env::var_os(FACTOR_VARIABLE) else {
        return Ok(WATCHDOG);
    };
    let text = text.to_string_lossy();
    let factor: Option<f64> = text
        .parse()
        .ok()
        .filter(|factor| (0.01..=1000.0).contains(factor));
    let factor = factor.ok_or_else(|| {
        format!("{FACTOR_VARIABLE} is `{text}`, and should be a number from 0.01 to 1000")
    })?;
    Ok(WATCHDOG.mul_f64(factor))
}

/// Boots a scenario and waits for its end, at most for `limit`.
pub fn boot(host: &Host, scenario: &Scenario, append: &str, limit: Duration) -> Run {
    let mut command = Command::new(&host.qemu.path);
    command.args(machine_arguments(host.qemu.arch, &host.kernel, append));
    command.args((scenario.machine)(host.qemu.arch));
    command.args(scenario.devices);
    if scenario.clock == Clock::Instructions {
        command.args(demo::CLOCK);
    }
    for pattern in trace::PATTERNS.iter().chain(registers::PATTERNS) {
        command.args(["-trace", pattern]);
    }
    if (scenario.expect)(host.qemu.arch).unused.is_some() {
        // After the pattern that leaves it out.
        command.args(["-trace", translated::PATTERN]);
    }
    let name = format!("{}-{}", host.qemu.arch, scenario.name);
    let version = host.qemu.version.to_string();
    let drives: Vec<(Drive, Scratch)> = scenario
        .drives()
        .map(|drive| (drive, Scratch::new(&name, "img")))
        .collect();
    for (drive, image) in &drives {
        // If it cannot be written, QEMU says that it is not there.
        let _ = drive.create(&image.file);
        command.args(drive.arguments(&image.file));
    }
    let peer = scenario.peer.map(Peer::start);
    command.args(peer.iter().flat_map(Peer::arguments));
    let run = match scenario.holds {
        [] => watch(command, &version, &name, limit),
        holds => watch_holding(command, &version, &name, limit, holds),
    };
    let wrong =
        |(drive, image): &(Drive, Scratch)| drive.judge(fs::read(&image.file).ok().as_deref());
    Run {
        wrong_sector: drives.iter().find_map(wrong),
        wrong_frames: peer.and_then(Peer::finish),
        ..run
    }
}

/// Runs a command as a VM that may write a trace: the file behind `-D` is added here.
pub fn watch(command: Command, version: &str, name: &str, limit: Duration) -> Run {
    watch_holding(command, version, name, limit, &[])
}

/// As [`watch`]; if the guest is to wait, QEMU's monitor is asked about the device meanwhile.
fn watch_holding(
    mut command: Command,
    version: &str,
    name: &str,
    limit: Duration,
    holds: &[&str],
) -> Run {
    let socket = Scratch::socket();
    if !holds.is_empty() {
        let mut server = OsString::from("unix:");
        server.push(&socket.file);
        server.push(",server=on,wait=off");
        command.arg("-qmp").arg(server);
    }
    let mut visits = Vec::new();
    let mut visit = |word: &str| {
        let seen = Monitor::connect(&socket.file).and_then(|mut monitor| monitor.snapshot());
        visits.push(Visit {
            hold: word.to_owned(),
            seen: seen.map_err(|error| error.to_string()),
        });
    };
    let hold = (!holds.is_empty()).then_some(Hold {
        mark: MARK,
        visit: &mut visit,
    });
    let trace = Scratch::new(name, "trace");
    command.arg("-D").arg(&trace.file);
    let limits = Limits {
        wall: limit,
        output: OUTPUT,
        files: vec![(trace.file.clone(), TRACE)],
    };
    let outcome = vm::run_holding(command, &limits, Echo::Quiet, hold);
    Run {
        visits,
        command_line: outcome.command_line,
        version: version.to_owned(),
        end: match outcome.exit {
            Exit::Code(code) => End::Exited(code),
            Exit::Signal(signal) => End::Signalled(signal),
            Exit::TimedOut(limit) => End::TimedOut(limit),
            Exit::TooMuchOutput(stream) => End::TooMuchOutput(stream),
            Exit::NotStarted(error) => End::Lost(error.to_string()),
        },
        serial: outcome.stdout,
        stderr: outcome.stderr,
        trace: fs::read(&trace.file)
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        elapsed: outcome.elapsed,
        wrong_sector: None,
        wrong_frames: None,
    }
}

/// A file of one VM's own, gone with this value.
struct Scratch {
    file: PathBuf,
}

impl Scratch {
    fn new(name: &str, extension: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{number}.{extension}", std::process::id());
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        Self { file }
    }

    /// A place for a socket, whose path may not be long.
    fn socket() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("viommu-{}-{number}.qmp", std::process::id());
        Self {
            file: env::temp_dir().join(name),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind costs a little room in the target folder.
        let _ = fs::remove_file(&self.file);
    }
}
