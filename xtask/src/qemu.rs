//! Finds QEMU and writes its command line.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::arch::Arch;
use crate::command;

/// The environment variable that picks the QEMU of another folder.
pub const DIR_VARIABLE: &str = "QEMU_DIR";

/// The oldest QEMU that can do all that a test needs, on every architecture: what set-up installs.
pub const WHOLE: Version = Version {
    major: 9,
    minor: 0,
    micro: 0,
};

/// The oldest QEMU that is supported on an architecture. Tests of what it cannot do are not
/// applicable there, and say so.
#[must_use]
pub const fn oldest(arch: Arch) -> Version {
    match arch {
        // The first whose `virt` board describes the IOMMU in its device tree.
        Arch::Riscv64 => WHOLE,
        // That of Debian 12.
        Arch::Aarch64 | Arch::X86_64 => Version {
            major: 7,
            minor: 2,
            micro: 0,
        },
    }
}

/// How long `--version` may take; a program that takes longer is not QEMU.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number; 50 and more are development versions.
    pub micro: u32,
}

impl Version {
    /// Reads the answer to `qemu-system-… --version`. `None` if it is not QEMU's.
    #[must_use]
    pub fn parse(answer: &str) -> Option<Self> {
        let rest = answer
            .lines()
            .find_map(|line| line.trim().strip_prefix("QEMU emulator version "))?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let mut numbers = rest[..end].trim_end_matches('.').split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        let micro = match numbers.next() {
            None => 0,
            Some(text) => text.parse().ok()?,
        };
        Some(Self {
            major,
            minor,
            micro,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Why there is no usable QEMU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QemuError {
    /// No such program in `PATH`.
    #[error("{0} was not found in PATH")]
    NotInPath(&'static str),
    /// No such program in the folder that `QEMU_DIR` names.
    #[error("{} does not exist or cannot be executed (QEMU_DIR)", .0.display())]
    NotInDir(PathBuf),
    /// The program is too old.
    #[error("{} is QEMU {found}, and {needed} or newer is needed", .path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest that is supported.
        needed: Version,
    },
    /// The program does not answer as QEMU does.
    #[error("{} did not tell its version: {answer}", .path.display())]
    NotQemu {
        /// The program.
        path: PathBuf,
        /// What it said, or the error of the system.
        answer: String,
    },
}

/// A QEMU that can run the kernel of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// What it emulates.
    pub arch: Arch,
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// Something that the person should know: a version older than the oldest supported one,
    /// which is allowed only where `QEMU_DIR` asked for it.
    pub warning: Option<String>,
}

impl Qemu {
    /// Finds the QEMU of `arch`: in the folder that `QEMU_DIR` names if that is set, else in
    /// `PATH`.
    ///
    /// # Errors
    ///
    /// It is not there, is not QEMU, or is older than [`oldest`] and was not asked for by
    /// `QEMU_DIR`.
    pub fn find(arch: Arch) -> Result<Self, QemuError> {
        match std::env::var_os(DIR_VARIABLE) {
            Some(dir) if !dir.is_empty() => Self::find_in(arch, Path::new(&dir)),
            _ => {
                let name = arch.qemu_binary();
                let path = command::find_in_path(name).ok_or(QemuError::NotInPath(name))?;
                let version = ask_version(&path)?;
                let needed = oldest(arch);
                if version < needed {
                    return Err(QemuError::TooOld {
                        path,
                        found: version,
                        needed,
                    });
                }
                Ok(Self {
                    arch,
                    path,
                    version,
                    warning: None,
                })
            }
        }
    }

    /// Finds the QEMU of `arch` in the folder `dir`; one that is too old gets a warning.
    ///
    /// # Errors
    ///
    /// It is not there or is not QEMU.
    pub fn find_in(arch: Arch, dir: &Path) -> Result<Self, QemuError> {
        let path = dir.join(arch.qemu_binary());
        if !command::is_executable(&path) {
            return Err(QemuError::NotInDir(path));
        }
        let version = ask_version(&path)?;
        let needed = oldest(arch);
        let warning = (version < needed).then(|| {
            format!(
                "QEMU {version} of QEMU_DIR is older than {needed}: not supported, tried anyway"
            )
        });
        Ok(Self {
            arch,
            path,
            version,
            warning,
        })
    }
}

impl Qemu {
    /// Whether `file` is in one of the folders where this QEMU looks for firmware. A link that
    /// leads nowhere is not.
    #[must_use]
    pub fn has_data_file(&self, file: &str) -> bool {
        let mut question = Command::new(&self.path);
        question.args(["-L", "help"]);
        let what = format!("asking {} for its data folders", self.path.display());
        command::run(&mut question, &what, Some(VERSION_LIMIT), None).is_ok_and(|finished| {
            let mut dirs = finished.tail.lines().map(str::trim);
            finished.success() && dirs.any(|dir| Path::new(dir).join(file).is_file())
        })
    }
}

fn ask_version(path: &Path) -> Result<Version, QemuError> {
    let failed = |answer: String| QemuError::NotQemu {
        path: path.to_owned(),
        answer,
    };
    let what = format!("asking {} for its version", path.display());
    let mut question = Command::new(path);
    question.arg("--version");
    let finished = command::run(&mut question, &what, Some(VERSION_LIMIT), None)
        .map_err(|error| failed(error.to_string()))?;
    if !finished.success() {
        return Err(failed(finished.explain(5)));
    }
    Version::parse(&finished.tail).ok_or_else(|| failed(finished.explain(5)))
}

/// What every VM is started with: board, 128 MiB of memory, no default devices, the first serial
/// port on standard output, `kernel` with the boot arguments `append`. Devices are added by the
/// caller, in the order in which they are to get their slots.
///
/// The arguments make sure that a guest can end QEMU with an exit code: by `sifive_test` of the
/// riscv64 board, by semihosting on aarch64, by `isa-debug-exit` on x86_64.
#[must_use]
pub fn machine_arguments(arch: Arch, kernel: &Path, append: &str) -> Vec<OsString> {
    machine_with_memory(arch, 128, kernel, append)
}

/// The same with so many MiB of memory.
#[must_use]
pub fn machine_with_memory(arch: Arch, memory: u32, kernel: &Path, append: &str) -> Vec<OsString> {
    let machine: &[&str] = match arch {
        Arch::Riscv64 => &["-M", "virt"],
        // GICv2 with its v2m frame: a message-signalled interrupt is one write to one page, which
        // the IOMMU reports as a reserved MSI region, and no tables have to be in memory. GICv3
        // would need an ITS to have MSIs at all.
        Arch::Aarch64 => &[
            "-M",
            "virt,gic-version=2",
            "-cpu",
            "cortex-a57",
            "-semihosting-config",
            "enable=on,target=native",
        ],
        Arch::X86_64 => &["-M", "q35", "-device", "isa-debug-exit"],
    };
    let common = [
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-monitor",
        "none",
        // Standard input is not a terminal and not a way to stop the VM.
        "-chardev",
        "stdio,id=serial,signal=off",
        "-serial",
        "chardev:serial",
        "-kernel",
    ];
    let mut arguments: Vec<OsString> = machine.iter().map(OsString::from).collect();
    arguments.extend(["-m".into(), memory.to_string().into()]);
    arguments.extend(common.iter().map(OsString::from));
    arguments.push(kernel.into());
    arguments.extend(["-append".into(), append.into()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let cases = [
            (
                "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c) 2003-2025",
                (10, 0, 2),
            ),
            (
                "QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.4)\n",
                (8, 2, 2),
            ),
            (
                "QEMU emulator version 9.2.50 (v9.2.0-1234-gabcdef)\r\n",
                (9, 2, 50),
            ),
            ("QEMU emulator version 9.1\n", (9, 1, 0)),
            ("QEMU emulator version 11.0.0-rc1\n", (11, 0, 0)),
            (
                "warning: something about the locale\nQEMU emulator version 9.0.0\n",
                (9, 0, 0),
            ),
        ];
        for (answer, (major, minor, micro)) in cases {
            let expected = Version {
                major,
                minor,
                micro,
            };
            assert_eq!(Version::parse(answer), Some(expected), "{answer}");
        }
    }

    #[test]
    fn other_answers_are_refused() {
        for answer in [
            "",
            "QEMU emulator version ",
            "QEMU emulator version ten",
            "QEMU emulator version 10",
            "QEMU emulator version 10.x",
            "QEMU emulator version 99999999999.0.0",
            "qemu-img version 10.0.2",
        ] {
            assert_eq!(Version::parse(answer), None, "{answer}");
        }
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let parse = |text: &str| Version::parse(&format!("QEMU emulator version {text}")).unwrap();
        assert!(parse("8.2.10") < oldest(Arch::Riscv64));
        assert!(parse("9.0.0") >= oldest(Arch::Riscv64));
        for arch in [Arch::Aarch64, Arch::X86_64] {
            assert!(parse("7.1.50") < oldest(arch));
            assert!(parse("7.2.22") >= oldest(arch));
        }
        assert!(parse("10.0.2") > parse("9.2.50"));
    }

    #[test]
    fn a_folder_without_qemu_is_an_error() {
        let dir = Path::new("/nonexistent");
        assert_eq!(
            Qemu::find_in(Arch::Riscv64, dir),
            Err(QemuError::NotInDir(dir.join("qemu-system-riscv64")))
        );
    }
}
