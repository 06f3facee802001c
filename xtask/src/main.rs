//! `cargo xtask`: set-up, build, run and test of `virtio-iommu`.

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use xtask::arch::{self, Arch};
use xtask::qemu::Qemu;
use xtask::setup::{self, Options};
use xtask::{ci, demo, kernel};

/// Sets up, builds, runs and tests virtio-iommu. Every command first makes sure of what it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what is missing: QEMU, a standard library for bare metal, a linker
    Setup {
        /// riscv64, aarch64 or all
        #[arg(long, default_value = "all")]
        arch: String,
        /// Clippy for the kernel, too
        #[arg(long)]
        lint: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Boots the kernel and shows the demo
    Run {
        /// riscv64 or aarch64
        #[arg(long, default_value = "riscv64")]
        arch: Arch,
        #[command(flatten)]
        consent: Consent,
        /// More arguments for QEMU, such as -trace 'virtio_iommu_*'
        #[arg(last = true)]
        qemu: Vec<OsString>,
    },
    /// Runs every test
    Test {
        /// Boot the kernel on this architecture only
        #[arg(long)]
        arch: Option<Arch>,
        #[command(flatten)]
        consent: Consent,
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// Checks formatting, lints and documentation, and runs every test
    Ci {
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Args, Clone, Copy)]
struct Consent {
    /// Do not ask before package sources are touched
    #[arg(long)]
    yes: bool,
    /// Install nothing: print the commands and stop
    #[arg(long)]
    no_install: bool,
}

impl Consent {
    fn options(self, lint: bool) -> Options {
        Options {
            yes: self.yes,
            no_install: self.no_install,
            lint,
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), Box<dyn Error>> {
    match task {
        Task::Setup {
            arch,
            lint,
            consent,
        } => {
            setup::ensure(&arch::select(&arch)?, consent.options(lint))?;
            println!("Everything is there.");
        }
        Task::Run {
            arch,
            consent,
            qemu: more,
        } => {
            setup::ensure(&[arch], consent.options(false))?;
            let kernel = kernel::build(arch)?;
            let outcome = demo::run(&Qemu::find(arch)?, &kernel, &more);
            demo::verdict(&outcome)
                .map_err(|error| format!("{error}\nQEMU was: {}", outcome.command_line))?;
        }
        Task::Test {
            arch,
            consent,
            filter,
        } => {
            let archs = arch.map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
            setup::ensure(&archs, consent.options(false))?;
            ci::test(arch, filter.as_deref())?;
        }
        Task::Ci { consent } => {
            setup::ensure(&Arch::ALL, consent.options(true))?;
            ci::check(&Arch::ALL)?;
            ci::test(None, None)?;
        }
    }
    Ok(())
}
