//! Set-up, build and run of the kernel that proves `virtio-iommu`, as a library: the command
//! `cargo xtask` is one user, the tests that boot the kernel are the other.
//!
//! | module | what it does |
//! |---|---|
//! | [`arch`] | the architectures, their triples and emulators |
//! | [`setup`] | finds what is needed, installs what is missing |
//! | [`toolchain`] | which compiler can build for bare metal, and with which linker |
//! | [`kernel`] | builds and lints `boot/` |
//! | [`qemu`] | finds QEMU, writes its command line |
//! | [`monitor`] | asks a running QEMU about its devices |
//! | [`abilities`] | what a QEMU can do, whatever its version |
//! | [`vm`] | runs one VM under a watchdog, captures what it says |
//! | [`demo`] | the machine and the verdict of `cargo xtask run` |
//! | [`mod@bench`] | benchmarks on the host and in the guest, their data and their page |
//! | [`broken`] | a driver that is broken on purpose, which the tests have to notice |
//! | [`mutants`] | small changes of the driver, each of which a test has to notice |
//! | [`ci`] | formatting, lints, documentation, tests |
//! | [`conformance`] | the rules of the specification, who proves them, the pages |
//! | [`command`], [`progress`] | other programs, run with a bounded log and a progress line |

pub mod abilities;
pub mod arch;
pub mod bench;
pub mod broken;
pub mod ci;
pub mod command;
pub mod conformance;
pub mod demo;
pub mod kernel;
pub mod monitor;
pub mod mutants;
pub mod progress;
pub mod qemu;
pub mod setup;
pub mod toolchain;
pub mod vm;

pub use arch::Arch;

use std::path::{Path, PathBuf};

/// The root folder of the project.
#[must_use]
pub fn project_root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The folder for everything that is built: the caller's `CARGO_TARGET_DIR`, else `target`.
#[must_use]
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => std::env::current_dir().unwrap_or_default().join(dir),
        _ => project_root().join("target"),
    }
}
