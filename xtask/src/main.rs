//! `cargo xtask`: set-up, build, run, test and benchmarks of `virtio-iommu`.

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use xtask::arch::{self, Arch, UnknownArch};
use xtask::bench::io::boot::System;
use xtask::bench::io::linux::LinuxGuest;
use xtask::qemu::Qemu;
use xtask::setup::linux::Linux;
use xtask::setup::{self, Options, SetupError};
use xtask::{bench, broken, ci, command, conformance, demo, kernel, mutants};

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
        /// Instead, the oldest QEMU that is supported: downloaded and unpacked into the target folder
        #[arg(long, conflicts_with_all = ["arch", "lint"])]
        old_qemu: bool,
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
        /// Write docs/conformance.json of what each test proves, and its pages
        #[arg(long, conflicts_with = "filter")]
        report: bool,
        /// Runs nothing: makes the pages again, with what docs/long-runs.toml says now
        #[arg(long, requires = "report", conflicts_with_all = ["arch", "filter"])]
        page: bool,
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
        /// Only what is measured in the guest: requests and disks
        #[arg(long)]
        guest: bool,
        /// Only disks
        #[arg(long, conflicts_with_all = ["host", "guest"])]
        io: bool,
        /// Disks in a guest with this other driver, too, in turns
        #[arg(long, conflicts_with = "host")]
        against: Option<Against>,
        /// Measures nothing: makes the page and its pictures of docs/performance.json
        #[arg(long, conflicts_with_all = ["arch", "host", "guest", "io", "against"])]
        page: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Breaks the driver on purpose, in several ways, and expects the tests to notice each
    Broken,
    /// Changes the driver in many small ways, one at a time, and expects the tests to notice; writes docs/mutants.md
    Mutants(mutants::Options),
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
    if let Some(code) = broken::as_compiler().or_else(mutants::as_compiler) {
        return code;
    }
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes sure of a Linux for each architecture on which it has a driver; there has to be one.
fn linux_guests(archs: &[Arch], options: Options) -> Result<Vec<(Arch, Linux)>, SetupError> {
    let mut guests = Vec::new();
    let mut without = None;
    for &arch in archs {
        match setup::linux::ensure(arch, options) {
            Ok(linux) => guests.push((arch, linux)),
            Err(why @ SetupError::NoLinux(_)) => {
                eprintln!("{why}");
                without = Some(why);
            }
            Err(other) => return Err(other),
        }
    }
    match without {
        Some(why) if guests.is_empty() => Err(why),
        _ => Ok(guests),
    }
}

fn run(task: Task) -> Result<(), Box<dyn Error>> {
    match task {
        Task::Setup {
            arch,
            lint,
            old_qemu,
            consent,
        } => {
            if old_qemu {
                let dir = setup::old_qemu::ensure(consent.options(false))?;
                let dir = command::quoted([dir]);
                for arch in setup::old_qemu::ARCHS {
                    println!("QEMU_DIR={dir} cargo xtask test --arch {arch}");
                }
                return Ok(());
            }
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
            report,
            page,
            consent,
            filter,
        } => {
            if page {
                conformance::report::page_alone()?;
                return Ok(());
            }
            let archs = Archs::or_selected(arch)?;
            setup::ensure(&archs, consent.options(false))?;
            if report {
                conformance::report::run(&archs)?;
            } else {
                ci::test(&archs, filter.as_deref())?;
                if filter.is_none() {
                    broken::check()?;
                }
            }
        }
        Task::Bench {
            arch,
            host,
            guest,
            io,
            against,
            page,
            consent,
        } => {
            if page {
                bench::page_alone()?;
                return Ok(());
            }
            let archs = if host {
                Vec::new()
            } else {
                Archs::or_selected(arch)?
            };
            if !archs.is_empty() {
                setup::ensure(&archs, consent.options(false))?;
            }
            let what = bench::What {
                host: !guest && !io,
                guest: !io,
                io: true,
            };
            let linux = match against {
                Some(Against::Linux) => linux_guests(&archs, consent.options(false))?,
                None => Vec::new(),
            };
            bench::run(&archs, what, &|arch| {
                let here = linux.iter().filter(|(of, _)| *of == arch);
                here.map(|(arch, linux)| {
                    Box::new(LinuxGuest::new(*arch, linux.clone())) as Box<dyn System>
                })
                .collect()
            })?;
        }
        Task::Broken => broken::check()?,
        Task::Mutants(options) => mutants::check(&options)?,
        Task::Ci { consent } => {
            let archs = Arch::selected()?;
            setup::ensure(&archs, consent.options(true))?;
            ci::check(&archs)?;
            ci::test(&archs, None)?;
            broken::check()?;
        }
    }
    Ok(())
}
