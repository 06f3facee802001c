//! The same disks in a Linux guest: what its driver of the IOMMU costs for each I/O, in the words of the kernel of this
//! project.
//!
//! One boot has a disk for each mode, all over the same content, so that modes are compared on a host that does not
//! change in between. [`boot`] is for whoever compares; it judges what came out.
//!
//! | module | what it does |
//! |---|---|
//! | [`plan`] | what the guest does, in which order |
//! | [`machine`] | initramfs, disks, command line |
//! | [`verdict`] | whether what came out is believed |
//! | [`waits`] | leaves the wait for the disks out of instructions |

pub mod machine;
pub mod plan;
pub mod verdict;
pub mod waits;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::guest::{GuestError, failed};
use super::io::boot::{Boot, Measure, rounds};
use crate::arch::Arch;
use crate::command;
use crate::kernel::{self, KernelError};
use crate::qemu::{Qemu, QemuError};
use crate::setup::linux::Linux;
use crate::vm::{self, Echo, Limits};
use machine::Files;
use plan::Plan;

/// How long a boot may take. A time-out is an error, not a figure.
const WALL: Duration = Duration::from_secs(600);
/// How much a boot may print, in bytes.
const OUTPUT: usize = 4 << 20;
/// How much QEMU may trace, in bytes.
const TRACE: u64 = 64 << 20;

/// What can be measured on an architecture. Instructions on aarch64 only: QEMU's x86_64 has no counter of them, and its
/// clock under `-icount` goes on while the guest is idle.
#[must_use]
pub const fn measures(arch: Arch) -> &'static [Measure] {
    match arch {
        Arch::Aarch64 => &[Measure::Counts, Measure::Instructions, Measure::Time],
        Arch::X86_64 => &[Measure::Counts, Measure::Time],
        Arch::Riscv64 => &[],
    }
}

/// What the emulator needs for it.
const fn clock(measure: Measure) -> &'static [&'static str] {
    match measure {
        Measure::Instructions => &["-icount", "shift=0,sleep=on"],
        Measure::Counts | Measure::Time => &[],
    }
}

/// Why there are no figures from Linux.
#[derive(Debug, thiserror::Error)]
pub enum LinuxError {
    /// No emulator.
    #[error("{0}")]
    Qemu(#[from] QemuError),
    /// The program of the guest cannot be built.
    #[error("{0}")]
    Init(#[from] KernelError),
    /// A file of the boot cannot be read or written.
    #[error("the Linux guest: {0}")]
    Io(#[from] std::io::Error),
    /// It cannot be measured there.
    #[error("{0:?} cannot be measured in a Linux guest on {1}")]
    Cannot(Measure, Arch),
    /// A boot went wrong.
    #[error("the Linux guest: {0}")]
    Boot(#[from] GuestError),
}

/// Boots `linux` once on `arch`, measures `what`, and judges it.
///
/// # Errors
///
/// [`LinuxError`]. A part of the phases is an error, too.
pub fn boot(arch: Arch, linux: &Linux, what: Measure) -> Result<Boot, LinuxError> {
    if !measures(arch).contains(&what) {
        return Err(LinuxError::Cannot(what, arch));
    }
    let qemu = Qemu::find(arch)?;
    let init = kernel::build_linux_init(arch)?;
    let plan = Plan::new(linux, what, rounds(what));
    // Of its own, so that two of these can run at once.
    let dir = crate::target_dir().join(format!(
        "linux/{arch}-{}-{}",
        what.name(),
        std::process::id()
    ));
    fs::create_dir_all(&dir)?;
    let run = boot_in(&dir, &qemu, linux, &init, &plan, what);
    fs::remove_dir_all(&dir)?;
    run
}

fn boot_in(
    dir: &Path,
    qemu: &Qemu,
    linux: &Linux,
    init: &Path,
    plan: &Plan,
    what: Measure,
) -> Result<Boot, LinuxError> {
    let file = |name: &str| dir.join(name);
    let (initramfs, disk) = (file(INITRAMFS), file(DISK));
    fs::write(&initramfs, machine::initramfs(init, linux, plan)?)?;
    machine::make_disk(&disk)?;
    let (events, trace) = (file(EVENTS), file(TRACED));
    fs::write(&events, machine::events())?;
    let image = linux.image();
    let files = Files {
        kernel: &image,
        initramfs: &initramfs,
        disk: &disk,
        trace: (what == Measure::Counts).then_some((&events, &trace)),
    };
    let mut command = Command::new(&qemu.path);
    command.args(machine::arguments(qemu.arch, what, files));
    let limits = Limits {
        wall: WALL,
        output: OUTPUT,
        files: vec![(trace.clone(), TRACE)],
    };
    let outcome = vm::run(command, &limits, Echo::Quiet);
    let traced = match what {
        // Without one, what the outcome says is the better reason.
        Measure::Counts => Some(fs::read_to_string(&trace).unwrap_or_default()),
        Measure::Instructions | Measure::Time => None,
    };
    match verdict::judge(&outcome, traced.as_deref(), plan, what) {
        Ok(told) => Ok(Boot {
            measure: what,
            phases: told.phases,
            counts: told.counts,
            command: told_command(qemu.arch, what),
            elapsed: outcome.elapsed,
        }),
        Err(why) => Err(failed(&outcome, why).into()),
    }
}

const INITRAMFS: &str = "initramfs";
const DISK: &str = "disk.img";
const EVENTS: &str = "events";
const TRACED: &str = "trace";

/// The command line without the folders of this machine.
fn told_command(arch: Arch, what: Measure) -> String {
    let files = Files {
        kernel: Path::new("vmlinuz"),
        initramfs: Path::new(INITRAMFS),
        disk: Path::new(DISK),
        trace: (what == Measure::Counts).then_some((Path::new(EVENTS), Path::new(TRACED))),
    };
    let program = OsString::from(arch.qemu_binary());
    command::quoted(std::iter::once(program).chain(machine::arguments(arch, what, files)))
}

/// How it is measured, for a page.
#[must_use]
pub fn how() -> String {
    format!(
        "Linux: Debian's kernel package, not changed, with one program as its user space. One boot has a disk for each \
         mode over one file: the type of each IOMMU group is set before a driver has the device (`DMA` is strict, \
         `DMA-FQ` lazy, `identity` bypass; none is a virtio-blk without `iommu_platform`), and looked at again at the \
         end. Direct I/O past the page cache, by `pread` and `pwrite` at depth 1 and by Linux' asynchronous I/O at \
         depth 16, never merged. In a round of a case each mode comes once, in an order that is rotated ({} rounds for \
         time, {} for instructions, {} for counts); all is done once before to warm up. Counts of a phase go on until \
         what it put off was sent. Instructions: all that the \
         processor retires, user and kernel, under `-icount shift=0`, by its own counter, which has to count a loop of \
         known length; on aarch64 only, as QEMU's x86_64 has none. Going idle until a disk has answered is left out: how \
         often that was is told by Linux, and what one takes is the difference of I/Os with and without.",
        rounds(Measure::Time),
        rounds(Measure::Instructions),
        rounds(Measure::Counts),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_no_folder_of_this_machine() {
        for arch in [Arch::Aarch64, Arch::X86_64] {
            for what in [Measure::Counts, Measure::Time] {
                let line = told_command(arch, what);
                let without = line.replace("virtio-iommu", "");
                assert!(!without.contains('/'), "{line}");
            }
        }
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        for (arch, what) in [
            (Arch::Riscv64, Measure::Time),
            (Arch::X86_64, Measure::Instructions),
        ] {
            let error = boot(arch, &Linux::sample(), what).unwrap_err();
            assert!(matches!(error, LinuxError::Cannot(..)), "{error}");
        }
    }
}
