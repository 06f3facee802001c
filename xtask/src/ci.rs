//! What has to hold before a change is taken: formatting, lints, documentation, tests.

use std::process::{Command, ExitStatus};

use crate::arch::{ARCH_VARIABLE, Arch};
use crate::kernel::{self, KernelError};

/// Makes the tests that boot the kernel fail, instead of being ignored, without QEMU.
pub const REQUIRE_QEMU: &str = "VIOMMU_REQUIRE_QEMU";

/// The packages that are built for the host; the kernel is not.
const HOST: [&str; 2] = ["virtio-iommu", "xtask"];

/// What does not hold.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A command failed; it has said why.
    #[error("`{0}` failed ({1})")]
    Failed(String, ExitStatus),
    /// A command could not be started.
    #[error("{0}")]
    Start(#[from] std::io::Error),
    /// The kernel cannot be built, or clippy does not like it.
    #[error("{0}")]
    Kernel(#[from] KernelError),
}

/// Checks formatting, lints and documentation.
///
/// # Errors
///
/// The first [`CheckError`].
pub fn check(archs: &[Arch]) -> Result<(), CheckError> {
    cargo("formatting", &["fmt", "--all", "--", "--check"], &[])?;
    let mut clippy = vec!["clippy", "--all-targets"];
    let packages: Vec<&str> = HOST.iter().flat_map(|name| ["--package", name]).collect();
    clippy.extend(&packages);
    clippy.extend(["--", "-D", "warnings"]);
    cargo("lints", &clippy, &[])?;
    for &arch in archs {
        println!("== lints of the kernel, {arch}");
        kernel::lint(arch)?;
    }
    let mut doc = vec!["doc", "--no-deps", "--document-private-items"];
    doc.extend(&packages);
    cargo("documentation", &doc, &[("RUSTDOCFLAGS", "-Dwarnings")])
}

/// Runs all tests, or those whose name contains `filter`; those that boot the kernel on one
/// architecture only, if one is given.
///
/// # Errors
///
/// [`CheckError`].
pub fn test(arch: Option<Arch>, filter: Option<&str>) -> Result<(), CheckError> {
    let mut words = vec!["test"];
    words.extend(HOST.iter().flat_map(|name| ["--package", name]));
    words.extend(filter);
    let mut variables = vec![(REQUIRE_QEMU, "1")];
    if let Some(arch) = arch {
        variables.push((ARCH_VARIABLE, arch.name()));
    }
    cargo("tests", &words, &variables)
}

fn cargo(what: &str, words: &[&str], variables: &[(&str, &str)]) -> Result<(), CheckError> {
    println!("== {what}: cargo {}", words.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(words)
        .envs(variables.iter().copied())
        .current_dir(crate::project_root())
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(CheckError::Failed(
        format!("cargo {}", words.join(" ")),
        status,
    ))
}
