//! The architectures that the kernel is built for.

use std::fmt;
use std::str::FromStr;

/// An architecture that the kernel boots on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// RISC-V, 64 bits, S-mode under OpenSBI, QEMU's `virt` board.
    Riscv64,
    /// Arm, 64 bits, EL1, QEMU's `virt` board.
    Aarch64,
    /// The PC, 64 bits, booted by PVH behind SeaBIOS, QEMU's `q35` board.
    X86_64,
}

impl Arch {
    /// All architectures, in the order in which they are reported.
    pub const ALL: [Self; 3] = [Self::Riscv64, Self::Aarch64, Self::X86_64];

    /// The short name, as typed on a command line and as shown in test names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Riscv64 => "riscv64",
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
        }
    }

    /// The bare-metal target triple of the kernel.
    #[must_use]
    pub const fn triple(self) -> &'static str {
        match self {
            Self::Riscv64 => "riscv64gc-unknown-none-elf",
            Self::Aarch64 => "aarch64-unknown-none-softfloat",
            Self::X86_64 => "x86_64-unknown-none",
        }
    }

    /// The file name of the system emulator.
    #[must_use]
    pub const fn qemu_binary(self) -> &'static str {
        match self {
            Self::Riscv64 => "qemu-system-riscv64",
            Self::Aarch64 => "qemu-system-aarch64",
            Self::X86_64 => "qemu-system-x86_64",
        }
    }

    /// The packages of Debian and its descendants that hold the emulator, the likeliest first.
    #[must_use]
    pub const fn qemu_packages(self) -> &'static [&'static str] {
        match self {
            // The first was split off the second with QEMU 9.1.
            Self::Riscv64 => &["qemu-system-riscv", "qemu-system-misc"],
            Self::Aarch64 => &["qemu-system-arm"],
            Self::X86_64 => &["qemu-system-x86"],
        }
    }

    /// The firmware that the machine cannot start the kernel without; `None` if it needs none.
    #[must_use]
    pub const fn firmware(self) -> Option<Firmware> {
        match self {
            Self::Riscv64 => Some(Firmware {
                name: "OpenSBI",
                file: "opensbi-riscv64-generic-fw_dynamic.bin",
                package: "opensbi",
            }),
            Self::Aarch64 => None,
            Self::X86_64 => Some(Firmware {
                name: "SeaBIOS",
                file: "bios-256k.bin",
                package: "seabios",
            }),
        }
    }

    /// The architectures that a test run was restricted to: all of them, or the one in the
    /// environment variable [`ARCH_VARIABLE`].
    ///
    /// # Errors
    ///
    /// The variable is set to something that is neither an architecture nor `all`: a test run
    /// must then fail, because it would otherwise test less than was asked for.
    pub fn selected() -> Result<Vec<Self>, UnknownArch> {
        match std::env::var_os(ARCH_VARIABLE) {
            None => Ok(Self::ALL.to_vec()),
            Some(value) => select(&value.to_string_lossy()),
        }
    }
}

/// A firmware that QEMU loads by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// What it is called.
    pub name: &'static str,
    /// The file that QEMU looks for in its data folders.
    pub file: &'static str,
    /// The package of Debian and its descendants that holds it.
    pub package: &'static str,
}

/// The environment variable by which `cargo xtask test --arch` restricts the VM tests.
pub const ARCH_VARIABLE: &str = "VIOMMU_ARCH";

/// Reads an architecture, or `all`, as typed.
///
/// # Errors
///
/// The text is neither.
pub fn select(text: &str) -> Result<Vec<Arch>, UnknownArch> {
    if text == "all" {
        return Ok(Arch::ALL.to_vec());
    }
    text.parse().map(|arch| vec![arch])
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is not one of [`Arch::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture `{0}`: expected one of {names}", names = names())]
pub struct UnknownArch(pub String);

fn names() -> String {
    Arch::ALL.map(Arch::name).join(", ")
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        Self::ALL
            .into_iter()
            .find(|arch| arch.name() == text)
            .ok_or_else(|| UnknownArch(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse(), Ok(arch));
            assert_eq!(select(arch.name()), Ok(vec![arch]));
        }
        assert_eq!(select("all"), Ok(Arch::ALL.to_vec()));
    }

    #[test]
    fn other_names_are_refused() {
        for text in ["", "ALL", "Riscv64", "riscv64 ", "x86", "arm64"] {
            assert_eq!(select(text), Err(UnknownArch(text.to_owned())));
        }
    }
}
