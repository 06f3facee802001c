//! What has to hold before a change is taken: formatting, lints, documentation, tests.

use std::panic::resume_unwind;
use std::process::{Command, ExitStatus};

use crate::arch::{ARCH_VARIABLE, Arch};
use crate::command;
use crate::kernel::{self, KernelError};

/// Makes the tests that boot the kernel fail, instead of being ignored, without QEMU.
pub const REQUIRE_QEMU: &str = "VIOMMU_REQUIRE_QEMU";

/// The packages that are built for the host: all but those of guests.
const HOST: [&str; 5] = [
    "--workspace",
    "--exclude",
    kernel::PACKAGE,
    "--exclude",
    kernel::LINUX_INIT,
];

/// Some tests and benchmarks are of the inside of the driver: without this, cargo leaves them out and
/// says nothing.
const INSIDE: [&str; 2] = ["--features", "virtio-iommu/internals"];
/// The same for all benchmarks.
const ALL_INSIDE: [&str; 2] = ["--features", "virtio-iommu/count-steps"];

/// What does not hold.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A command failed; it has said why.
    #[error("`{0}` failed ({1})")]
    Failed(String, ExitStatus),
    /// A command could not be started.
    #[error("cargo: {0}")]
    Start(#[from] std::io::Error),
    /// The kernel cannot be built, or clippy does not like it.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// A filter that leaves nothing would be a success of no test at all.
    #[error("no test has `{0}` in its name")]
    NoSuchTest(String),
}

/// Checks formatting, lints and documentation.
///
/// # Errors
///
/// The first [`CheckError`].
pub fn check(archs: &[Arch]) -> Result<(), CheckError> {
    cargo("formatting", &["fmt", "--all", "--", "--check"], &[])?;
    beside(archs, kernel::lint, || {
        let lints = ["--all-targets", "--", "-D", "warnings"];
        let words = [&["clippy"], &HOST[..], &ALL_INSIDE, &lints].concat();
        cargo("lints", &words, &[])?;
        let doc = [&["doc", "--no-deps"], &HOST[..]].concat();
        cargo("documentation", &doc, &[("RUSTDOCFLAGS", "-Dwarnings")])
    })
}

/// Does something with the kernel for each of `archs`, and `work` at the same time: the kernel is
/// compiled by one core, in a target folder of its own.
fn beside<R: Send>(
    archs: &[Arch],
    each: impl Fn(Arch) -> Result<R, KernelError> + Sync,
    work: impl FnOnce() -> Result<(), CheckError>,
) -> Result<(), CheckError> {
    std::thread::scope(|scope| {
        let kernels = scope.spawn(|| archs.iter().try_for_each(|arch| each(*arch).map(drop)));
        let worked = work();
        let kernels = kernels.join().unwrap_or_else(|panic| resume_unwind(panic));
        worked?;
        Ok(kernels?)
    })
}

/// Builds the tests of the host, and the kernel for `archs`.
fn build(archs: &[Arch]) -> Result<(), CheckError> {
    beside(archs, kernel::build, || {
        let words = [&["test", "--no-run", "--quiet"], &HOST[..], &INSIDE].concat();
        cargo("building the tests, and the kernel", &words, &[])
    })
}

/// Runs all tests, or those whose name contains `filter`; those that boot the kernel on `archs`
/// only.
///
/// # Errors
///
/// [`CheckError`].
pub fn test(archs: &[Arch], filter: Option<&str>) -> Result<(), CheckError> {
    let mut words = [&["test"], &HOST[..], &INSIDE].concat();
    let variables = [(REQUIRE_QEMU, "1"), (ARCH_VARIABLE, selected(archs))];
    match filter {
        // Here, and not in the tests: its progress is shown.
        None => build(archs)?,
        Some(filter) => {
            words.extend(["--", filter]);
            if !some_test_matches(&words, filter, &variables)? {
                return Err(CheckError::NoSuchTest(filter.into()));
            }
        }
    }
    cargo("tests", &words, &variables)
}

/// Runs all tests, also behind one that is red, with more in their environment.
///
/// # Errors
///
/// [`CheckError`].
pub fn test_keeping(archs: &[Arch], more: &[(&str, &str)]) -> Result<(), CheckError> {
    build(archs)?;
    let words = [&["test", "--no-fail-fast"], &HOST[..], &INSIDE].concat();
    let selected = selected(archs);
    let variables = [(REQUIRE_QEMU, "1"), (ARCH_VARIABLE, selected)];
    cargo("tests", &words, &[&variables, more].concat())
}

/// What the tests are told of the architectures.
fn selected(archs: &[Arch]) -> &'static str {
    match archs {
        [arch] => arch.name(),
        _ => "all",
    }
}

/// Builds the tests, and lists those that `words` would run.
fn some_test_matches(
    words: &[&str],
    filter: &str,
    variables: &[(&str, &str)],
) -> Result<bool, CheckError> {
    let mut list = host_cargo();
    list.args(words)
        .args(["--list", "--format", "terse"])
        .envs(variables.iter().copied());
    let what = format!("building the tests, and looking for {filter}");
    let finished = command::run(&mut list, &what, None, None)?;
    // If they cannot be built, the run that follows says why.
    Ok(!finished.success() || finished.tail.lines().any(|line| line.ends_with(": test")))
}

/// The cargo that runs this program.
pub(crate) fn host_cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::project_root());
    cargo
}

fn cargo(what: &str, words: &[&str], variables: &[(&str, &str)]) -> Result<(), CheckError> {
    println!("== {what}: cargo {}", words.join(" "));
    let status = host_cargo()
        .args(words)
        .envs(variables.iter().copied())
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(CheckError::Failed(
        format!("cargo {}", words.join(" ")),
        status,
    ))
}
