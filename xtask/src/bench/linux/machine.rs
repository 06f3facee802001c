//! The machine of the Linux guest: the disks that the plan names, all of one file, and what is in the initramfs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use cpio::newc::{self, ModeFileType};

use super::clock;
use super::plan::{self, DISKS, MARKER_SLOT, Plan};
use crate::arch::Arch;
use crate::bench::io::boot::Measure;
use crate::bench::io::phases;
use crate::qemu::machine_with_memory;
use crate::setup::linux::Linux;

/// What the guest has, in MiB. Linux gives no huge pages by itself if it has less than 512.
const MEMORY: u32 = 1024;

/// Makes the initramfs: the program, its plan, the modules.
///
/// # Errors
///
/// A file cannot be read.
pub fn initramfs(init: &Path, linux: &Linux, plan: &Plan) -> io::Result<Vec<u8>> {
    let mut files = vec![
        ("init".to_owned(), 0o755, fs::read(init)?),
        ("plan".to_owned(), 0o644, plan.text.clone().into_bytes()),
    ];
    for name in linux.iommu.iter().chain(&linux.disks) {
        let content = fs::read(linux.module(name))?;
        files.push((format!("modules/{name}"), 0o644, content));
    }
    archive(&files)
}

/// Writes an archive of files, and of the folder for the modules.
fn archive(files: &[(String, u32, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let folder = newc::Builder::new("modules")
        .ino(1)
        .mode(0o755)
        .set_mode_file_type(ModeFileType::Directory);
    let mut archive = folder.write(Vec::new(), 0).finish()?;
    for (number, (name, mode, content)) in (2..).zip(files) {
        let file = newc::Builder::new(name)
            .ino(number)
            .mode(*mode)
            .set_mode_file_type(ModeFileType::Regular);
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut writer = file.write(archive, length);
        writer.write_all(content)?;
        archive = writer.finish()?;
    }
    newc::trailer(archive)
}

/// Makes the file of the disks: blocks with their number, and then nothing, which takes no room.
///
/// # Errors
///
/// It cannot be written.
pub fn make_disk(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&plan::content())?;
    file.set_len(plan::SPACE)
}

/// The files of a boot.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// The content of all disks.
    pub disk: &'a Path,
    /// What is traced, and where to.
    pub trace: Option<(&'a Path, &'a Path)>,
}

/// The arguments of the emulator.
#[must_use]
pub fn arguments(arch: Arch, measure: Measure, files: Files<'_>) -> Vec<OsString> {
    let console = match arch {
        Arch::Aarch64 => "ttyAMA0",
        _ => "ttyS0",
    };
    // What each group is for is said later, to each; where nothing is said, a mapping lasts for one transfer. On a slow
    // host, disks must not give up to wait for the IOMMU. A panic ends the machine.
    let append = format!(
        "console={console} panic=-1 quiet iommu.strict=1 iommu.passthrough=0 deferred_probe_timeout=120"
    );
    let mut arguments = machine_with_memory(arch, MEMORY, files.kernel, &append);
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    if arch == Arch::Aarch64 {
        // The program ends the machine, and it is no kernel. The last one of these counts.
        let semihosting = "enable=on,target=native,userspace=on";
        add(&["-semihosting-config", semihosting]);
    }
    add(clock(measure));
    // Its slot is the lowest: what is behind it is found after it.
    add(&["-device", "virtio-iommu-pci,addr=0x4"]);
    for (index, disk) in DISKS.iter().enumerate() {
        let slot = plan::slot(index);
        let file = value(files.disk);
        let drive = format!(
            "if=none,id=disk{index},format=raw,cache=writeback,file.locking=off,file={file}"
        );
        arguments.extend(["-drive".into(), drive.into()]);
        let device = match (disk.device, disk.mode) {
            ("nvme", _) => format!("nvme,drive=disk{index},serial={index},addr={slot:#x}"),
            (_, mode) => {
                let platform = if mode == "none" { "off" } else { "on" };
                format!(
                    "virtio-blk-pci,drive=disk{index},disable-legacy=on,iommu_platform={platform},addr={slot:#x}"
                )
            }
        };
        arguments.extend(["-device".into(), device.into()]);
    }
    let marker = format!("edu,addr={MARKER_SLOT:#x}");
    arguments.extend(["-device".into(), marker.into()]);
    arguments.extend(["-initrd".into(), files.initramfs.into()]);
    if let Some((events, to)) = files.trace {
        let option = format!("events={},file={}", value(events), value(to));
        arguments.extend(["-trace".into(), option.into()]);
    }
    arguments
}

/// A path as the value of an option.
fn value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The names of what is traced, for QEMU to read.
#[must_use]
pub fn events() -> String {
    phases::PATTERNS.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::quoted;

    /// Reads an archive by what the kernel's documentation says of the format, and not by the library that wrote it.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut files = Vec::new();
        let mut at = 0;
        loop {
            let header = std::str::from_utf8(&archive[at..at + 110]).unwrap();
            assert_eq!(&header[..6], "070701");
            let field = |index: usize| {
                let start = 6 + 8 * index;
                u32::from_str_radix(&header[start..start + 8], 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let text = &archive[at + 110..at + 110 + name];
            assert_eq!(text.last(), Some(&0));
            let text = String::from_utf8(text[..name - 1].to_vec()).unwrap();
            at = (at + 110 + name).next_multiple_of(4);
            let content = archive[at..at + size].to_vec();
            at = (at + size).next_multiple_of(4);
            if text == "TRAILER!!!" {
                return files;
            }
            files.push((text, mode, content));
        }
    }

    #[test]
    fn an_archive_holds_what_was_put_in() {
        let files = [
            ("init".to_owned(), 0o755, b"\x7fELF".to_vec()),
            ("modules/a.ko".to_owned(), 0o644, vec![7; 1001]),
            ("empty".to_owned(), 0o644, Vec::new()),
        ];
        let archive = archive(&files).unwrap();
        let folder = ("modules".to_owned(), 0o040_755, Vec::new());
        let mut expected = vec![folder];
        expected.extend(files.map(|(name, mode, content)| (name, mode | 0o100_000, content)));
        assert_eq!(read(&archive), expected);
    }

    #[test]
    fn the_machine_has_the_disks_of_the_plan() {
        let files = Files {
            kernel: Path::new("vmlinuz"),
            initramfs: Path::new("initramfs"),
            disk: Path::new("disk.img"),
            trace: None,
        };
        let line = quoted(arguments(Arch::X86_64, Measure::Time, files));
        assert!(
            !line.contains("icount") && !line.contains("trace"),
            "{line}"
        );
        for part in [
            "-device virtio-iommu-pci,addr=0x4 -drive if=none,id=disk0",
            "file=disk.img -device virtio-blk-pci,drive=disk0,disable-legacy=on,iommu_platform=off,addr=0x5 ",
            "virtio-blk-pci,drive=disk3,disable-legacy=on,iommu_platform=on,addr=0x8 ",
            "-device nvme,drive=disk4,serial=4,addr=0x9 ",
            "-device edu,addr=0xc -initrd initramfs",
        ] {
            let line = line.replace('\'', "");
            assert!(line.contains(part), "{part} in {line}");
        }
        let line = quoted(arguments(Arch::Aarch64, Measure::Instructions, files));
        assert!(line.contains("-icount 'shift=0,sleep=on'"), "{line}");
        assert!(line.contains("userspace=on"), "{line}");
    }
}
