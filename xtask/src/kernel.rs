//! Builds and lints what runs in guests: the kernel in `boot/`, and the program of the Linux guest.

use std::path::PathBuf;
use std::process::Command;

use crate::arch::Arch;
use crate::command;
use crate::toolchain::{Compilers, Toolchain};

/// The package of the kernel, and the name of its program.
pub const PACKAGE: &str = "viommu-boot";

/// The package of the program of the Linux guest, and its name.
pub const LINUX_INIT: &str = "viommu-linux-init";

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Nothing on this machine can compile for the target.
    #[error("no Rust standard library for {0}: run `cargo xtask setup`")]
    NoToolchain(&'static str),
    /// No linker for bare metal.
    #[error("neither rust-lld nor ld.lld is there: run `cargo xtask setup`")]
    NoLinker,
    /// The toolchain has no clippy.
    #[error("no clippy for {0}: run `cargo xtask setup --lint`")]
    NoClippy(&'static str),
    /// Cargo could not be started.
    #[error("cargo: {0}")]
    Start(#[from] std::io::Error),
    /// Cargo failed.
    #[error("{command}\n{output}")]
    Failed {
        /// What was run.
        command: String,
        /// The end of what it said.
        output: String,
    },
}

/// Builds the kernel for `arch` and returns the ELF file.
///
/// It has a target folder of its own, so it can be called by a program that cargo runs. Doing
/// nothing takes a fraction of a second.
///
/// # Errors
///
/// [`KernelError`].
pub fn build(arch: Arch) -> Result<PathBuf, KernelError> {
    let (toolchain, linker) = find(arch)?;
    let mut cargo = toolchain.cargo(arch, "build", &linker);
    let dir = crate::target_dir().join("kernel");
    cargo.args(["--release", "--package", PACKAGE, "--target-dir"]);
    cargo.arg(&dir);
    run(&mut cargo, &format!("building the kernel for {arch}"))?;
    Ok(dir.join(arch.triple()).join("release").join(PACKAGE))
}

/// Builds the program of the Linux guest for `arch`, and returns the ELF file.
///
/// It is a static program of Linux, but there need not be a standard library for Linux on `arch`: it does without, and
/// is built for bare metal as the kernel is, with other flags than those of the configuration file.
///
/// # Errors
///
/// [`KernelError`].
pub fn build_linux_init(arch: Arch) -> Result<PathBuf, KernelError> {
    let (toolchain, linker) = find(arch)?;
    let mut cargo = toolchain.cargo(arch, "build", &linker);
    let dir = crate::target_dir().join("linux-init");
    cargo.args(["--release", "--package", LINUX_INIT, "--target-dir"]);
    cargo.arg(&dir);
    // Instead of those of the configuration file: at a fixed address, by the linker's own script.
    let flags = ["-Crelocation-model=static", "-Clink-arg=--no-pie"];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    run(
        &mut cargo,
        &format!("building the program of the Linux guest for {arch}"),
    )?;
    Ok(dir.join(arch.triple()).join("release").join(LINUX_INIT))
}

/// Runs clippy over the kernel for `arch`, and over the program of the Linux guest where there is one, with warnings as
/// errors.
///
/// # Errors
///
/// [`KernelError`].
pub fn lint(arch: Arch) -> Result<(), KernelError> {
    let (toolchain, linker) = find(arch)?;
    if !toolchain.has_clippy() {
        return Err(KernelError::NoClippy(arch.triple()));
    }
    let mut cargo = toolchain.cargo(arch, "clippy", &linker);
    cargo.args(["--release", "--package", PACKAGE]);
    if arch != Arch::Riscv64 {
        cargo.args(["--package", LINUX_INIT]);
    }
    cargo
        .arg("--target-dir")
        .arg(crate::target_dir().join("kernel-clippy"));
    cargo.args(["--", "-D", "warnings"]);
    run(&mut cargo, &format!("linting the kernel for {arch}"))
}

fn find(arch: Arch) -> Result<(Toolchain, PathBuf), KernelError> {
    let compilers = Compilers::probe(&[arch]);
    let toolchain = compilers
        .toolchain(arch)
        .ok_or(KernelError::NoToolchain(arch.triple()))?;
    let linker = compilers.linker().ok_or(KernelError::NoLinker)?;
    Ok((toolchain, linker))
}

fn run(cargo: &mut Command, what: &str) -> Result<(), KernelError> {
    let finished = command::run(cargo, what, None, None)?;
    if finished.success() {
        return Ok(());
    }
    Err(KernelError::Failed {
        command: command::command_line(cargo),
        output: finished.explain(60),
    })
}
