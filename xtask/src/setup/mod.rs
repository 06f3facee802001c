//! Finds what is needed, and installs what is missing.

mod distribution;
mod install;
mod sources;

pub use install::SetupError;

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::arch::Arch;
use crate::command;
use crate::qemu::{self, Qemu, QemuError};
use crate::toolchain::{self, OLDEST_RUSTC, Toolchain};

/// How long rustup may try to fetch a standard library.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// Where QEMU looks for the firmware of riscv64.
const FIRMWARE: &str = "/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin";

/// Something without which the kernel cannot be built or run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The emulator.
    Qemu(Arch),
    /// OpenSBI, the firmware that riscv64 boots.
    Firmware,
    /// A linker for bare metal.
    Linker,
    /// A compiler that comes with the source of its standard library: the compiler.
    Rustc,
    /// Its cargo.
    Cargo,
    /// The source of its standard library.
    RustSource,
    /// Its clippy.
    Clippy,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST_RUSTC;
        match self {
            Self::Qemu(arch) => write!(f, "{} {} or newer", arch.qemu_binary(), qemu::OLDEST),
            Self::Firmware => write!(f, "OpenSBI for QEMU ({FIRMWARE})"),
            Self::Linker => write!(f, "a linker: rust-lld or ld.lld"),
            Self::Rustc => write!(
                f,
                "a Rust standard library for bare metal: `rustup target add`, or rustc {major}.{minor} \
                 or newer in /usr/bin with the source of its library"
            ),
            Self::Cargo => write!(f, "cargo of the same release, in /usr/bin"),
            Self::RustSource => write!(f, "the source of its standard library"),
            Self::Clippy => write!(f, "clippy of the same release, in /usr/bin"),
        }
    }
}

/// How set-up behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Do not ask before package sources are touched.
    pub yes: bool,
    /// Only say what would be done.
    pub no_install: bool,
    /// Clippy is needed, too.
    pub lint: bool,
}

/// Makes sure that the kernels of `archs` can be built and run. Does nothing if they can.
///
/// # Errors
///
/// [`SetupError`]: something is missing and was not installed.
pub fn ensure(archs: &[Arch], options: Options) -> Result<(), SetupError> {
    let mut missing = missing(archs, options.lint)?;
    if missing.contains(&Need::Rustc) && !options.no_install && add_targets(archs) {
        missing = self::missing(archs, options.lint)?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    install::install(&missing, archs, options)?;
    let left = self::missing(archs, options.lint)?;
    if left.is_empty() {
        return Ok(());
    }
    Err(SetupError::StillMissing(left))
}

/// What is not there. A QEMU that `QEMU_DIR` names must be.
fn missing(archs: &[Arch], lint: bool) -> Result<Vec<Need>, SetupError> {
    let mut missing = Vec::new();
    for &arch in archs {
        match Qemu::find(arch) {
            Ok(qemu) => {
                if let Some(warning) = qemu.warning {
                    eprintln!("warning: {warning}");
                }
            }
            Err(error @ QemuError::NotInDir(_)) => return Err(SetupError::QemuDir(error)),
            Err(_) => missing.push(Need::Qemu(arch)),
        }
    }
    if archs.contains(&Arch::Riscv64)
        && std::env::var_os(qemu::DIR_VARIABLE).is_none()
        && !Path::new(FIRMWARE).exists()
        && !missing.contains(&Need::Qemu(Arch::Riscv64))
    {
        missing.push(Need::Firmware);
    }
    let toolchains: Vec<Option<Toolchain>> = archs.iter().map(|a| Toolchain::find(*a)).collect();
    if toolchains.iter().any(Option::is_none) {
        missing.extend([Need::Rustc, Need::Cargo, Need::RustSource]);
        if lint {
            missing.push(Need::Clippy);
        }
    } else if lint && !toolchains.iter().flatten().all(Toolchain::has_clippy) {
        missing.push(Need::Clippy);
    }
    if toolchain::linker().is_none() {
        missing.push(Need::Linker);
    }
    Ok(missing)
}

/// Lets rustup fetch standard libraries, where there is a rustup and it can.
fn add_targets(archs: &[Arch]) -> bool {
    if command::find_in_path("rustup").is_none() {
        return false;
    }
    let mut rustup = Command::new("rustup");
    command::forget_calling_cargo(&mut rustup);
    rustup.args(["target", "add"]);
    rustup.args(archs.iter().map(|arch| arch.triple()));
    let what = "asking rustup for the standard library for bare metal";
    match command::run(&mut rustup, what, Some(RUSTUP_LIMIT), None) {
        Ok(finished) if finished.success() => true,
        _ => {
            println!("rustup cannot fetch it; the distribution's compiler will do");
            false
        }
    }
}
