//! What is not there.

use std::fmt;
use std::thread;

use crate::arch::Arch;
use crate::qemu::{self, Qemu, QemuError};
use crate::toolchain::{Compilers, OLDEST_RUSTC, Toolchain};

/// Something without which a kernel cannot be built, booted or linted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The emulator.
    Qemu(Arch, QemuError),
    /// The firmware that the emulator starts the machine with.
    Firmware(Arch),
    /// A compiler for the target, with a standard library.
    Std(Arch),
    /// A linker for bare metal.
    Linker,
    /// Clippy of the distribution's compiler, which builds the kernel.
    KernelClippy,
    /// A tool of the caller's toolchain: `rustfmt` or `clippy`.
    Component(&'static str),
}

impl Missing {
    /// What rustup could add.
    pub(super) fn rustup_target(&self) -> Option<&'static str> {
        match self {
            Self::Std(arch) => Some(arch.triple()),
            _ => None,
        }
    }

    /// What rustup could add.
    pub(super) fn rustup_component(&self) -> Option<&'static str> {
        match self {
            Self::Component(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it has to come from where QEMU comes from.
    pub(super) fn is_of_qemu(&self) -> bool {
        matches!(self, Self::Qemu(..) | Self::Firmware(_))
    }

    /// The error, if the person chose a folder that does not have it.
    pub(super) fn in_qemu_dir(&self) -> Option<QemuError> {
        match self {
            Self::Qemu(_, error @ QemuError::NotInDir(_)) => Some(error.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST_RUSTC;
        match self {
            Self::Qemu(arch, why) => {
                write!(f, "QEMU {} or newer for {arch}: {why}", qemu::oldest(*arch))
            }
            Self::Firmware(arch) => match arch.firmware() {
                Some(firmware) => write!(
                    f,
                    "{}, the firmware of QEMU's {arch} machine, as {} in QEMU's data folder",
                    firmware.name, firmware.file
                ),
                None => write!(f, "the firmware of QEMU's {arch} machine"),
            },
            Self::Std(arch) => write!(
                f,
                "a Rust standard library for {}: that of rustup, or rustc {major}.{minor} or newer \
                 in /usr/bin, with cargo and the source of the standard library",
                arch.triple()
            ),
            Self::Linker => f.write_str("a linker for bare metal: rust-lld, or ld.lld of LLVM"),
            Self::KernelClippy => {
                f.write_str("clippy of the compiler in /usr/bin, which builds the kernel")
            }
            Self::Component(name) => write!(f, "{name} of the toolchain that runs cargo"),
        }
    }
}

/// What was looked for, and not found.
#[derive(Debug, Default)]
pub struct Found {
    /// What is missing.
    pub missing: Vec<Missing>,
    /// What is there and not as it should be.
    pub warnings: Vec<String>,
}

/// Looks for everything that the kernels of `archs` need, and the linters if `lint`.
#[must_use]
pub fn look(archs: &[Arch], lint: bool) -> Found {
    // Each question is a process that is started: they need not wait for one another.
    thread::scope(|scope| {
        let qemus: Vec<_> = archs
            .iter()
            .map(|arch| scope.spawn(|| look_for_qemu(*arch)))
            .collect();
        let compilers = Compilers::probe(archs);
        let mut found = Found::default();
        for qemu in qemus {
            // A panic of the thread is passed on.
            let one = qemu
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            found.missing.extend(one.missing);
            found.warnings.extend(one.warnings);
        }
        found.missing.extend(look_for_rust(&compilers, archs, lint));
        found
    })
}

fn look_for_qemu(arch: Arch) -> Found {
    let mut found = Found::default();
    match Qemu::find(arch) {
        Err(error) => found.missing.push(Missing::Qemu(arch, error)),
        Ok(qemu) => {
            let has_firmware = arch
                .firmware()
                .is_none_or(|firmware| qemu.has_data_file(firmware.file));
            if !has_firmware {
                found.missing.push(Missing::Firmware(arch));
            }
            found.warnings.extend(qemu.warning);
        }
    }
    found
}

fn look_for_rust(compilers: &Compilers, archs: &[Arch], lint: bool) -> Vec<Missing> {
    let mut missing = Vec::new();
    for &arch in archs {
        match compilers.toolchain(arch) {
            None => missing.push(Missing::Std(arch)),
            Some(toolchain @ Toolchain::FromSource { .. })
                if lint && !toolchain.has_clippy() && !missing.contains(&Missing::KernelClippy) =>
            {
                missing.push(Missing::KernelClippy);
            }
            Some(_) => {}
        }
    }
    let needs_distribution = missing.iter().any(|entry| matches!(entry, Missing::Std(_)));
    if lint && needs_distribution && !missing.contains(&Missing::KernelClippy) {
        missing.push(Missing::KernelClippy);
    }
    if compilers.linker().is_none() {
        missing.push(Missing::Linker);
    }
    if lint {
        let components = ["rustfmt", "clippy"];
        let absent = components
            .into_iter()
            .filter(|name| !compilers.has_component(name));
        missing.extend(absent.map(Missing::Component));
    }
    missing
}
