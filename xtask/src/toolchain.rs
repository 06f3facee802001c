//! Which compiler can build for bare metal, and with which linker.
//!
//! Rustup's toolchain is used where it has a standard library for the target. Where it has none,
//! and cannot fetch one, the compiler of the distribution builds its own from its source.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::arch::Arch;
use crate::command::{self, forget_calling_cargo};

/// How long a compiler may take to say where it is installed.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The oldest compiler that builds the kernel: the `rust-version` of `boot/Cargo.toml`.
pub const OLDEST_RUSTC: (u32, u32) = (1, 91);

/// Where distributions install their compiler.
const DISTRIBUTION_BIN: &str = "/usr/bin";

/// A compiler and the standard library that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The compiler of the caller, which has a compiled standard library for the target.
    Ready {
        /// The folder of `cargo`, `rustc` and, perhaps, `cargo-clippy`.
        bin: PathBuf,
    },
    /// The distribution's compiler, which compiles the standard library itself.
    FromSource {
        /// The folder of `cargo`, `rustc` and, perhaps, `cargo-clippy`.
        bin: PathBuf,
    },
}

impl Toolchain {
    /// The toolchain for the kernel of `arch`, if there is one on this machine.
    #[must_use]
    pub fn find(arch: Arch) -> Option<Self> {
        Compilers::probe(&[arch]).toolchain(arch)
    }

    fn bin(&self) -> &Path {
        match self {
            Self::Ready { bin } | Self::FromSource { bin } => bin,
        }
    }

    /// The version of its compiler, such as `1.95.0`.
    #[must_use]
    pub fn rustc_version(&self) -> Option<String> {
        rustc_version(&self.bin().join("rustc"))
    }

    /// Whether it can lint the kernel.
    #[must_use]
    pub fn has_clippy(&self) -> bool {
        ["cargo-clippy", "clippy-driver"]
            .iter()
            .all(|name| command::is_executable(&self.bin().join(name)))
    }

    /// A `cargo SUBCOMMAND` for the bare-metal target of `arch`, which knows nothing of the cargo
    /// that called this program.
    #[must_use]
    pub fn cargo(&self, arch: Arch, subcommand: &str, linker: &Path) -> Command {
        let bin = self.bin();
        // Not by `cargo clippy`: that looks in PATH, and could find another toolchain's.
        let mut cargo = Command::new(match subcommand {
            "clippy" => bin.join("cargo-clippy"),
            _ => bin.join("cargo"),
        });
        forget_calling_cargo(&mut cargo);
        cargo.current_dir(crate::project_root());
        cargo.args([subcommand, "--target", arch.triple()]);
        cargo.env("CARGO", bin.join("cargo"));
        cargo.env("RUSTC", bin.join("rustc"));
        let variable = format!(
            "CARGO_TARGET_{}_LINKER",
            arch.triple().to_uppercase().replace('-', "_")
        );
        cargo.env(variable, linker);
        if matches!(self, Self::FromSource { .. }) {
            // `build-std` is not stable yet.
            cargo.env("RUSTC_BOOTSTRAP", "1");
            cargo.args([
                "-Zbuild-std=core,alloc,compiler_builtins",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
        }
        cargo
    }
}

/// The compilers of this machine, as they are now.
#[derive(Clone, Debug)]
pub struct Compilers {
    /// Where the caller's compiler is installed: the one that cargo runs, else that of `PATH`.
    sysroot: Option<PathBuf>,
    /// The folder of the distribution's compiler, if it can build a standard library.
    distribution: Option<PathBuf>,
}

impl Compilers {
    /// Looks for the compilers. The distribution's is not looked for where the caller's can
    /// build for all of `archs`.
    #[must_use]
    pub fn probe(archs: &[Arch]) -> Self {
        let mut compilers = Self {
            sysroot: callers_sysroot(),
            distribution: None,
        };
        if !archs.iter().all(|arch| compilers.is_ready(*arch)) {
            let bin = Path::new(DISTRIBUTION_BIN);
            compilers.distribution = can_build_std(bin).then(|| bin.into());
        }
        compilers
    }

    /// The toolchain for the kernel of `arch`.
    #[must_use]
    pub fn toolchain(&self, arch: Arch) -> Option<Toolchain> {
        match &self.sysroot {
            Some(root) if self.is_ready(arch) => Some(Toolchain::Ready {
                bin: root.join("bin"),
            }),
            _ => self
                .distribution
                .clone()
                .map(|bin| Toolchain::FromSource { bin }),
        }
    }

    /// Whether the caller's compiler has a compiled standard library for the target.
    fn is_ready(&self, arch: Arch) -> bool {
        let Some(root) = &self.sysroot else {
            return false;
        };
        let libraries = root.join("lib/rustlib").join(arch.triple()).join("lib");
        let Ok(files) = std::fs::read_dir(libraries) else {
            return false;
        };
        files
            .flatten()
            .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
    }

    /// Whether the caller's toolchain has `rustfmt` or `clippy`.
    #[must_use]
    pub fn has_component(&self, name: &str) -> bool {
        let programs = match name {
            "clippy" => ["cargo-clippy", "clippy-driver"],
            _ => ["cargo-fmt", "rustfmt"],
        };
        self.sysroot.as_ref().is_some_and(|root| {
            let bin = root.join("bin");
            programs
                .iter()
                .all(|program| command::is_executable(&bin.join(program)))
        })
    }

    /// The linker: the one that comes with the caller's toolchain, else the distribution's.
    #[must_use]
    pub fn linker(&self) -> Option<PathBuf> {
        let ours = self.sysroot.as_ref().and_then(|root| {
            let hosts = std::fs::read_dir(root.join("lib/rustlib")).ok()?;
            hosts
                .flatten()
                .map(|host| host.path().join("bin/rust-lld"))
                .find(|file| command::is_executable(file))
        });
        ours.or_else(|| command::find_in_path("ld.lld"))
            .or_else(|| command::find_in_path("rust-lld"))
    }
}

/// Whether the compiler in `bin` is new enough and has the source of its standard library.
fn can_build_std(bin: &Path) -> bool {
    let source = bin.join("../lib/rustlib/src/rust/library/core/Cargo.toml");
    command::is_executable(&bin.join("cargo"))
        && source.is_file()
        && ask(bin.join("rustc").as_os_str(), &["--version"])
            .and_then(|answer| parse_rustc_version(&answer))
            .is_some_and(|version| version >= OLDEST_RUSTC)
}

/// Where the compiler is installed that belongs to the cargo that runs this program; without
/// one, that of `PATH`.
fn callers_sysroot() -> Option<PathBuf> {
    if let Some(cargo) = std::env::var_os("CARGO").map(PathBuf::from)
        && let Some(bin) = cargo.parent()
        && command::is_executable(&bin.join("rustc"))
        && let Some(root) = bin.parent()
        && root.join("lib/rustlib").is_dir()
    {
        return Some(root.into());
    }
    sysroot("rustc".as_ref())
}

fn sysroot(rustc: &OsStr) -> Option<PathBuf> {
    let answer = ask(rustc, &["--print", "sysroot"])?;
    answer.lines().last().map(|line| PathBuf::from(line.trim()))
}

fn ask(program: &OsStr, arguments: &[&str]) -> Option<String> {
    let mut question = Command::new(program);
    forget_calling_cargo(&mut question);
    question.args(arguments).current_dir(crate::project_root());
    let what = format!("asking {} what it is", program.display());
    let finished = command::run(&mut question, &what, Some(ANSWER_LIMIT), None).ok()?;
    finished.success().then_some(finished.tail)
}

/// The version of the caller's compiler, such as `1.95.0`.
#[must_use]
pub fn callers_rustc_version() -> Option<String> {
    rustc_version(&callers_sysroot()?.join("bin/rustc"))
}

fn rustc_version(rustc: &Path) -> Option<String> {
    let answer = ask(rustc.as_os_str(), &["--version"])?;
    let version = answer.trim().strip_prefix("rustc ")?.split(' ').next()?;
    Some(version.to_owned())
}

/// Reads major and minor version out of the answer to `rustc --version`.
fn parse_rustc_version(answer: &str) -> Option<(u32, u32)> {
    let version = answer
        .lines()
        .find_map(|line| line.trim().strip_prefix("rustc "))?;
    parse_version(version)
}

/// Reads the first two numbers of a version.
#[must_use]
pub fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_versions_are_read() {
        for (answer, expected) in [
            (
                "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n",
                Some((1, 96)),
            ),
            ("rustc 1.95.0 (59807616e 2026-04-14)", Some((1, 95))),
            ("rustc 1.99.0-nightly (abc 2026-09-01)", Some((1, 99))),
            ("info: syncing\nrustc 2.0.0", Some((2, 0))),
            ("rustc", None),
            ("cargo 1.95.0", None),
            ("rustc one.two", None),
        ] {
            assert_eq!(parse_rustc_version(answer), expected, "{answer}");
        }
    }

    #[test]
    fn an_empty_folder_is_no_toolchain() {
        assert!(!can_build_std(Path::new("/nonexistent")));
        assert_eq!(sysroot("/nonexistent/rustc".as_ref()), None);
    }
}
