//! The kernel of this project, with a disk for each mode.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::boot::{Boot, Measure, System, rounds};
use super::phases;
use super::record;
use crate::arch::Arch;
use crate::bench::guest::{failed, judge};
use crate::command;
use crate::kernel::{self, KernelError};
use crate::qemu::{Qemu, QemuError, machine_arguments};
use crate::vm::{self, Echo, Limits};

/// How long a boot may take. A time-out is an error, not a figure.
const WALL: Duration = Duration::from_secs(600);
/// How much a boot may print, in bytes.
const OUTPUT: usize = 8 << 20;
/// How much QEMU may trace, in bytes.
const TRACE: u64 = 128 << 20;

/// The size of the disks, in bytes.
const SPACE: u64 = 32 << 20;
/// The names of the files of a boot.
const DISK: &str = "disk.img";
const TRACED: &str = "trace";

/// Disks of a kind: one for each mode of the kernel, in its order.
const BLK: usize = 7;
const NVME: usize = 6;

/// This kernel.
pub struct Ours {
    qemu: Qemu,
    kernel: PathBuf,
    /// Gone with this value.
    dir: PathBuf,
}

/// Why it cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum OursError {
    /// No emulator.
    #[error("{0}")]
    Qemu(#[from] QemuError),
    /// No kernel.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// No disk.
    #[error("the disks: {0}")]
    Io(#[from] io::Error),
}

impl Ours {
    /// Builds the kernel and makes the disk.
    ///
    /// # Errors
    ///
    /// [`OursError`].
    pub fn new(arch: Arch) -> Result<Self, OursError> {
        let qemu = Qemu::find(arch)?;
        let kernel = kernel::build(arch)?;
        // Of its own, so that two of these can run at once.
        let name = format!("bench-io/{arch}-{}", std::process::id());
        let dir = crate::target_dir().join(name);
        fs::create_dir_all(&dir)?;
        let this = Self { qemu, kernel, dir };
        fs::write(this.file(DISK), content())?;
        Ok(this)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The version of the emulator.
    #[must_use]
    pub fn qemu_version(&self) -> String {
        self.qemu.version.to_string()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // What is left is in the target folder.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl System for Ours {
    fn name(&self) -> &str {
        super::OURS
    }

    fn version(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn how(&self) -> String {
        format!(
            "This kernel: a disk for each mode, in one boot, over one file; in each round the modes take turns in every \
             case, in an order that changes with the round. A round before them looks at all data: what is read is what \
             is in the file, what is written is read back by a disk that is not translated. Each phase is warmed up. The \
             disk is polled. Instructions: under `-icount shift=0`, of a whole phase; the wait for the disk is not in \
             them (its turns are counted, and so many times what a turn costs is subtracted). Requests and \
             notifications: by QEMU's trace, in which the guest marks the phases, with the same clock. `strict` maps before each I/O and \
             unmaps after it; where one I/O follows the other, the UNMAP of the last and the MAP of the next share a \
             notification. `deferred` has 8 buffers more than there are I/Os at once, which recur; `deferred-fresh` \
             has none that is still mapped. Up to 64 UNMAPs are put off for up to 10 ms. `copy` is what `bounce` copies and `requests` what `strict` asks of the \
             IOMMU, without an I/O. In rounds: {} for counts, {} for instructions, {} for time, in each boot.",
            rounds(Measure::Counts),
            rounds(Measure::Instructions),
            rounds(Measure::Time),
        )
    }

    fn measures(&self) -> &[Measure] {
        &[Measure::Counts, Measure::Instructions, Measure::Time]
    }

    fn boot(&self, measure: Measure) -> Result<Boot, String> {
        let (disk, trace) = (self.file(DISK), self.file(TRACED));
        let rounds = rounds(measure);
        let mut command = Command::new(&self.qemu.path);
        command.args(arguments(
            self.qemu.arch,
            &self.kernel,
            &disk,
            &trace,
            measure,
            rounds,
        ));
        let limits = Limits {
            wall: WALL,
            output: OUTPUT,
            files: vec![(trace.clone(), TRACE)],
        };
        let outcome = vm::run(command, &limits, Echo::Quiet);
        let phases = judge(&outcome, |serial| record::whole(serial, &[]))
            .map_err(|error| error.to_string())?;
        let wrong = |why: String| Err(failed(&outcome, why).to_string());
        let expected = expected(measure, rounds);
        if phases.len() != expected {
            return wrong(format!("{} phases instead of {expected}", phases.len()));
        }
        let mut counts = Vec::new();
        if measure == Measure::Counts {
            let text = match fs::read_to_string(&trace) {
                Ok(text) => text,
                Err(error) => return wrong(format!("the trace: {error}")),
            };
            counts = match phases::counts(&text) {
                Ok(counts) if counts.len() == phases.len() => counts,
                Ok(counts) => {
                    return wrong(format!(
                        "{} phases in the trace and {} in the record",
                        counts.len(),
                        phases.len()
                    ));
                }
                Err(error) => return wrong(error.to_string()),
            };
        }
        Ok(Boot {
            measure,
            phases,
            counts,
            command: told_command(self.qemu.arch, measure),
            elapsed: outcome.elapsed,
        })
    }
}

/// How many phases there have to be.
const fn expected(_: Measure, rounds: u32) -> usize {
    // Three shapes, two operations, two patterns, two depths.
    let cases = 3 * 2 * 2 * 2;
    // The copy and the requests of each shape and operation, for each kind of disk.
    let others = 3 * 2 * 2 * 2;
    rounds as usize * (cases * (BLK + NVME) + others)
}

/// What is on the disks: each word of 8 bytes, little-endian, is a number of its own.
fn content() -> Vec<u8> {
    let words = 1..=SPACE / 8;
    words
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// The boot arguments, and those of QEMU.
fn arguments(
    arch: Arch,
    kernel: &Path,
    disk: &Path,
    trace: &Path,
    measure: Measure,
    rounds: u32,
) -> Vec<OsString> {
    let append = format!("bench=io measure={} rounds={rounds}", measure.name());
    let mut arguments = machine_arguments(arch, kernel, &append);
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&["-device", "virtio-iommu-pci", "-device", "edu"]);
    if measure != Measure::Time {
        // A nanosecond of the guest for each of its instructions: what it does after some time does
        // not depend on how busy the host is.
        add(&["-icount", "shift=0"]);
    }
    // A comma ends the name of a file unless there are two.
    let file = disk.display().to_string().replace(',', ",,");
    let mut drive = |id: &str, device: &str| {
        // Only this emulator has the file, once for each disk.
        let drive = format!("if=none,id={id},format=raw,file={file},file.locking=off");
        add(&["-drive", &drive, "-device", &format!("{device},drive={id}")]);
    };
    for number in 0..BLK {
        // The first one is `none`.
        let translated = if number == 0 { "off" } else { "on" };
        let device = format!("virtio-blk-pci,disable-legacy=on,iommu_platform={translated}");
        drive(&format!("blk{number}"), &device);
    }
    for number in 0..NVME {
        drive(&format!("nvme{number}"), &format!("nvme,serial={number}"));
    }
    if measure == Measure::Counts {
        for pattern in phases::PATTERNS {
            add(&["-trace", pattern]);
        }
        arguments.extend(["-D".into(), trace.into()]);
    }
    arguments
}

/// The command line without the folders of this machine.
fn told_command(arch: Arch, measure: Measure) -> String {
    let (kernel, disk) = (Path::new(kernel::PACKAGE), Path::new(DISK));
    let program = OsString::from(arch.qemu_binary());
    let arguments = arguments(
        arch,
        kernel,
        disk,
        Path::new(TRACED),
        measure,
        rounds(measure),
    );
    command::quoted(std::iter::once(program).chain(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_no_folder_of_this_machine() {
        for measure in [Measure::Counts, Measure::Instructions, Measure::Time] {
            let line = told_command(Arch::Riscv64, measure);
            assert!(!line.contains('/'), "{line}");
            assert_eq!(line.contains("icount"), measure != Measure::Time);
            assert_eq!(line.contains("-trace"), measure == Measure::Counts);
            assert_eq!(line.matches("iommu_platform=on").count(), BLK - 1);
            assert_eq!(line.matches("iommu_platform=off").count(), 1);
            assert_eq!(line.matches("nvme,serial").count(), NVME);
        }
    }

    #[test]
    fn a_comma_in_a_folder_ends_no_name() {
        let disk = Path::new("/a,b/disk");
        let all = arguments(
            Arch::Aarch64,
            Path::new("k"),
            disk,
            Path::new("t"),
            Measure::Time,
            1,
        );
        let drives = all.iter().filter(|word| {
            let word = word.to_string_lossy();
            word.contains("file=/a,,b/disk,")
        });
        assert_eq!(drives.count(), BLK + NVME);
    }
}
