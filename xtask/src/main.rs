//! `cargo xtask`: set-up, build, run, test and benchmarks of `virtio-iommu`.

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use xtask::arch::{self, Arch, UnknownArch};
use xtask::qemu::Qemu;
use xtask::setup::{self, Options};
use xtask::{bench, ci, demo, kernel};

/// Sets up, builds, runs, tests and measures virtio-iommu. Every command first makes sure of what it needs.
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
        /// For this architecture only, or `all`, which is the default
        #[arg(long)]
        arch: Option<Archs>,
        /// Clippy for the kernel, too
        #[arg(long)]
        lint: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Boots the kernel and shows the demo
    Run {
        /// The architecture of the machine
        #[arg(long, default_value_t = Arch::Riscv64)]
        arch: Arch,
        #[command(flatten)]
        consent: Consent,
        /// More arguments for QEMU, such as -trace 'virtio_iommu_*'
        #[arg(last = true)]
        qemu: Vec<OsString>,
    },
    /// Runs every test
    Test {
        /// Boot the kernel on this architecture only, or on `all`, which is the default
        #[arg(long)]
        arch: Option<Archs>,
        #[command(flatten)]
        consent: Consent,
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// Measures, on the host and in the guest; writes docs/performance.json and its page
    Bench {
        /// In the guest: boot this architecture only, or `all`, which is the default
        #[arg(long)]
        arch: Option<Archs>,
        /// Only what is measured on the host
        #[arg(long, conflicts_with = "guest")]
        host: bool,
        /// Only what is measured in the guest
        #[arg(long)]
        guest: bool,
        /// Only the I/Os of this other driver, in a guest of its own
        #[arg(long, conflicts_with_all = ["host", "guest"])]
        against: Option<Against>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Checks formatting, lints and documentation, and runs every test
    Ci {
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Args, Clone, Copy)]
struct Consent {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Install nothing: print the commands, and fail if something is missing
    #[arg(long)]
    no_install: bool,
}

/// Whose driver this one is measured against.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    /// That of Linux, as Debian builds it: its package is downloaded and unpacked into the target folder
    Linux,
}

/// One architecture, or all of them.
#[derive(Clone)]
struct Archs(Vec<Arch>);

impl FromStr for Archs {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        arch::select(text).map(Self)
    }
}

impl Archs {
    /// What was asked for: by an option, else by the environment, else all.
    fn or_selected(asked: Option<Self>) -> Result<Vec<Arch>, UnknownArch> {
        asked.map_or_else(Arch::selected, |archs| Ok(archs.0))
    }
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

fn against_linux(archs: &[Arch], options: Options) -> Result<(), Box<dyn Error>> {
    let (possible, others): (Vec<Arch>, Vec<Arch>) = archs
        .iter()
        .partition(|arch| setup::linux::debian_name(**arch).is_ok());
    for arch in others {
        let why = setup::linux::ensure(arch, options).map(drop);
        match why {
            Err(error) if !possible.is_empty() => eprintln!("{error}"),
            other => other?,
        }
    }
    setup::ensure(&possible, options)?;
    for arch in possible {
        bench::linux::show(arch, &setup::linux::ensure(arch, options)?)?;
    }
    Ok(())
}

fn run(task: Task) -> Result<(), Box<dyn Error>> {
    match task {
        Task::Setup {
            arch,
            lint,
            consent,
        } => {
            setup::ensure(&Archs::or_selected(arch)?, consent.options(lint))?;
            println!("Everything is there.");
        }
        Task::Run {
            arch,
            consent,
            qemu,
        } => {
            setup::ensure(&[arch], consent.options(false))?;
            let kernel = kernel::build(arch)?;
            let outcome = demo::run(&Qemu::find(arch)?, &kernel, &qemu);
            demo::verdict(&outcome).map_err(|error| {
                format!(
                    "the demo failed: {error}\nQEMU was: {}",
                    outcome.command_line
                )
            })?;
        }
        Task::Test {
            arch,
            consent,
            filter,
        } => {
            let archs = Archs::or_selected(arch)?;
            setup::ensure(&archs, consent.options(false))?;
            ci::test(&archs, filter.as_deref())?;
        }
        Task::Bench {
            arch,
            host,
            guest,
            against,
            consent,
        } => {
            if let Some(Against::Linux) = against {
                return against_linux(&Archs::or_selected(arch)?, consent.options(false));
            }
            let archs = if host {
                Vec::new()
            } else {
                Archs::or_selected(arch)?
            };
            if !archs.is_empty() {
                setup::ensure(&archs, consent.options(false))?;
            }
            bench::run(&archs, !guest)?;
        }
        Task::Ci { consent } => {
            let archs = Arch::selected()?;
            setup::ensure(&archs, consent.options(true))?;
            ci::check(&archs)?;
            ci::test(&archs, None)?;
        }
    }
    Ok(())
}
