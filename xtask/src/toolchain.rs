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

/// A compiler and the standard library that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The `cargo` of the caller, which has a compiled standard library for the target.
    Ready,
    /// The distribution's `cargo` and `rustc`, which compile the standard library themselves.
    FromSource {
        /// The folder of `cargo`, `rustc` and, perhaps, `cargo-clippy`.
        bin: PathBuf,
    },
}

/// Where distributions install their compiler.
const DISTRIBUTION_BIN: &str = "/usr/bin";

impl Toolchain {
    /// The toolchain for the kernel of `arch`, if there is one on this machine.
    #[must_use]
    pub fn find(arch: Arch) -> Option<Self> {
        if has_compiled_std(arch) {
            return Some(Self::Ready);
        }
        let bin = Path::new(DISTRIBUTION_BIN);
        can_build_std(bin).then(|| Self::FromSource { bin: bin.into() })
    }

    /// Whether it can lint the kernel.
    #[must_use]
    pub fn has_clippy(&self) -> bool {
        match self {
            Self::Ready => command::find_in_path("cargo-clippy").is_some(),
            Self::FromSource { bin } => {
                command::is_executable(&bin.join("cargo-clippy"))
                    && command::is_executable(&bin.join("clippy-driver"))
            }
        }
    }

    /// A `cargo SUBCOMMAND` for the bare-metal target of `arch`, which knows nothing of the cargo
    /// that called this program.
    #[must_use]
    pub fn cargo(&self, arch: Arch, subcommand: &str, linker: &Path) -> Command {
        let mut cargo = match self {
            Self::Ready => Command::new("cargo"),
            // Not by `cargo clippy`: that could find rustup's proxy of the same name.
            Self::FromSource { bin } => Command::new(match subcommand {
                "clippy" => bin.join("cargo-clippy"),
                _ => bin.join("cargo"),
            }),
        };
        forget_calling_cargo(&mut cargo);
        cargo.current_dir(crate::project_root());
        cargo.args([subcommand, "--target", arch.triple()]);
        let variable = format!(
            "CARGO_TARGET_{}_LINKER",
            arch.triple().to_uppercase().replace('-', "_")
        );
        cargo.env(variable, linker);
        if let Self::FromSource { bin } = self {
            cargo.env("RUSTC", bin.join("rustc"));
            cargo.env("CARGO", bin.join("cargo"));
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

/// The linker: the one that comes with rustup's toolchain, else the distribution's.
#[must_use]
pub fn linker() -> Option<PathBuf> {
    let ours = sysroot("rustc".as_ref()).and_then(|root| {
        let hosts = std::fs::read_dir(root.join("lib/rustlib")).ok()?;
        hosts
            .flatten()
            .map(|host| host.path().join("bin/rust-lld"))
            .find(|file| command::is_executable(file))
    });
    ours.or_else(|| command::find_in_path("ld.lld"))
}

/// Whether the caller's compiler has a standard library for the target.
fn has_compiled_std(arch: Arch) -> bool {
    let Some(root) = sysroot("rustc".as_ref()) else {
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

/// Whether the compiler in `bin` is new enough and has the source of its standard library.
fn can_build_std(bin: &Path) -> bool {
    let rustc = bin.join("rustc");
    command::is_executable(&bin.join("cargo"))
        && command::is_executable(&rustc)
        && ask(rustc.as_os_str(), &["--version"])
            .and_then(|answer| parse_rustc_version(&answer))
            .is_some_and(|version| version >= OLDEST_RUSTC)
        && sysroot(rustc.as_os_str()).is_some_and(|root| {
            root.join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .is_file()
        })
}

fn sysroot(rustc: &OsStr) -> Option<PathBuf> {
    let answer = ask(rustc, &["--print", "sysroot"])?;
    answer.lines().last().map(|line| PathBuf::from(line.trim()))
}

fn ask(program: &OsStr, arguments: &[&str]) -> Option<String> {
    let mut question = Command::new(program);
    forget_calling_cargo(&mut question);
    question.args(arguments);
    let what = format!("asking {} where it is", program.display());
    let finished = command::run(&mut question, &what, Some(ANSWER_LIMIT), None).ok()?;
    finished.success().then_some(finished.tail)
}

/// Reads major and minor version out of the answer to `rustc --version`.
fn parse_rustc_version(answer: &str) -> Option<(u32, u32)> {
    let version = answer
        .lines()
        .find_map(|line| line.trim().strip_prefix("rustc "))?;
    let mut numbers = version.split(['.', '-', ' ']);
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
