//! Finds what is needed to build and boot the kernel, and installs what is missing.
//!
//! | module | what it does |
//! |---|---|
//! | [`linux`] | a kernel of Linux to be measured against, which is not installed |
//! | [`old_qemu`] | the oldest QEMU to be tested with, which is not installed |
//! | `own_apt` | downloads packages for both |
//! | `modules` | which of its modules are loaded, in which order |
//! | `missing` | what is not there |
//! | `distribution` | which distribution this is |
//! | `sources` | where its packages come from, and the source of its backports |
//! | `catalogue` | which packages it offers, in which versions |
//! | `packages` | which of them supply what is missing |
//! | `apt` | renews the package lists, installs |

mod apt;
mod catalogue;
mod distribution;
pub mod linux;
mod missing;
mod modules;
pub mod old_qemu;
mod own_apt;
mod packages;
mod sources;

pub use missing::Missing;
pub use packages::Unavailable;

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::arch::Arch;
use crate::command;
use crate::qemu::QemuError;
use apt::{Privilege, SOURCE_FILE};
use catalogue::Catalogue;
use distribution::Distribution;
use packages::Install;

/// How long rustup may try to fetch something.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);
/// Where apt is configured.
const ETC_APT: &str = "/etc/apt";

/// How set-up behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Do not ask.
    pub yes: bool,
    /// Only say what would be done, and fail if there is something to do.
    pub no_install: bool,
    /// What the linters need is needed, too.
    pub lint: bool,
}

/// Why the machine is not ready.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The folder that `QEMU_DIR` names does not hold it; no package can change that.
    #[error("{0}")]
    QemuDir(QemuError),
    /// Not Debian, Ubuntu or something made from them.
    #[error(
        "{0} is not a distribution whose packages this project knows: what is missing (see above) \
         has to be installed by hand"
    )]
    UnknownDistribution(String),
    /// The distribution is known, and what it offers is too old.
    #[error("{name} has no package that would do for:\n{}", list(.unavailable))]
    TooOld {
        /// Its name.
        name: String,
        /// What it does not have.
        unavailable: Vec<Unavailable>,
    },
    /// Nothing was installed, because nothing may be. The commands were printed.
    #[error("{0}; nothing was installed. The commands above do it by hand")]
    NotInstalled(&'static str),
    /// The machine does not say where the packages of its release come from.
    #[error("{0} has to come from {1}, and no mirror of this release is in {ETC_APT}")]
    NoMirror(&'static str, String),
    /// There is no Linux to be compared with.
    #[error("no Linux: {0}")]
    NoLinux(String),
    /// Only root may install packages.
    #[error("packages can be installed by root only, and {0}. The commands above do it by hand")]
    NoRoot(&'static str),
    /// A command failed.
    #[error("`{command}` failed:\n{output}\n{advice}")]
    Failed {
        /// The command.
        command: String,
        /// The end of what it said.
        output: String,
        /// Where there is more, or what else can be done.
        advice: String,
    },
    /// A command could not be started, a file not be written, an answer not be read.
    #[error("set-up: {0}")]
    Io(#[from] io::Error),
    /// Everything was done, and it was not enough.
    #[error("installed, and still missing:\n{}", list(.0))]
    StillMissing(Vec<Missing>),
}

/// Makes sure that the kernels of `archs` can be built and booted. Does nothing if they can.
///
/// What rustup can add to its own toolchain is added unasked. Packages are installed after a
/// question on a terminal, which `--yes` or a CI job answer; without a terminal they are installed
/// unasked only if no package source has to be added.
///
/// # Errors
///
/// [`SetupError`]: something is missing and was not installed.
pub fn ensure(archs: &[Arch], options: Options) -> Result<(), SetupError> {
    let found = missing::look(archs, options.lint);
    for warning in &found.warnings {
        eprintln!("warning: {warning}");
    }
    let mut missing = found.missing;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Missing:\n{}", list(&missing));
    if let Some(error) = missing.iter().find_map(Missing::in_qemu_dir) {
        return Err(SetupError::QemuDir(error));
    }
    let rustup = rustup_commands(&missing);
    if options.no_install {
        for words in &rustup {
            println!(
                "{}  # where rustup can download; less is missing then",
                words.join(" ")
            );
        }
    } else if fetch_with_rustup(&rustup)? {
        missing = missing::look(archs, options.lint).missing;
        if missing.is_empty() {
            return Ok(());
        }
    }
    install(&missing, options)?;
    let left = missing::look(archs, options.lint).missing;
    if left.is_empty() {
        return Ok(());
    }
    Err(SetupError::StillMissing(left))
}

fn list<T: Display>(entries: &[T]) -> String {
    let lines: Vec<String> = entries.iter().map(|entry| format!("  * {entry}")).collect();
    lines.join("\n")
}

/// What rustup might fetch of what is missing; nothing where there is no rustup.
fn rustup_commands(missing: &[Missing]) -> Vec<Vec<&'static str>> {
    if command::find_in_path("rustup").is_none() {
        return Vec::new();
    }
    let mut commands = Vec::new();
    let targets: Vec<_> = missing.iter().filter_map(Missing::rustup_target).collect();
    if !targets.is_empty() {
        commands.push([vec!["rustup", "target", "add"], targets].concat());
    }
    let components: Vec<_> = missing
        .iter()
        .filter_map(Missing::rustup_component)
        .collect();
    if !components.is_empty() {
        commands.push([vec!["rustup", "component", "add"], components].concat());
    }
    commands
}

/// Whether rustup did something. That it cannot is no error: the distribution comes next.
fn fetch_with_rustup(commands: &[Vec<&str>]) -> Result<bool, SetupError> {
    let mut changed = false;
    for words in commands {
        let line = words.join(" ");
        let mut rustup = Command::new(words[0]);
        command::forget_calling_cargo(&mut rustup);
        rustup.args(&words[1..]).current_dir(crate::project_root());
        eprintln!("{line}");
        let finished = command::run(&mut rustup, &line, Some(RUSTUP_LIMIT), None)?;
        if finished.success() {
            changed = true;
        } else {
            eprintln!(
                "rustup could not; a package may do:\n{}",
                finished.explain(1)
            );
        }
    }
    Ok(changed)
}

/// Installs packages for what is missing, as the options allow.
fn install(missing: &[Missing], options: Options) -> Result<(), SetupError> {
    let distribution = Distribution::of_this_machine();
    if !distribution.has_debian_packages() || command::find_in_path("apt-get").is_none() {
        return Err(SetupError::UnknownDistribution(distribution.name));
    }
    let too_old = |unavailable| SetupError::TooOld {
        name: distribution.name.clone(),
        unavailable,
    };
    let source = source_to_add(&distribution, missing)?;
    let privilege = Privilege::find();

    // What will be done, as far as that can be said before the package lists are renewed.
    let catalogue = Catalogue::read(&distribution)?;
    let plan = packages::choose(missing, &distribution, &catalogue).or_else(|unavailable| {
        if distribution.is_new_enough() || catalogue.release.is_empty() {
            // The lists are old, not those of all sources, or were never read.
            packages::choose(missing, &distribution, &catalogue.assumed())
        } else {
            Err(unavailable)
        }
    });
    if let Ok(plan) = &plan {
        show(source.as_deref(), plan, privilege);
    }
    if options.no_install {
        plan.map_err(too_old)?;
        return Err(SetupError::NotInstalled("--no-install was given"));
    }
    consent(source.is_some(), options)?;
    privilege.prepare()?;

    if let Some(text) = &source {
        apt::add_source(privilege, text)?;
    }
    let renewed = apt::renew_lists(privilege)?;
    let plan = match packages::choose(missing, &distribution, &Catalogue::read(&distribution)?) {
        Ok(plan) => plan,
        Err(unavailable) => {
            if source.is_some() {
                // It did not help, or could not be read: a broken source is not left behind.
                apt::remove_source(privilege)?;
            }
            renewed.into_result()?;
            return Err(too_old(unavailable));
        }
    };
    if !renewed.success() {
        eprintln!(
            "warning: not all package lists could be renewed; those that are needed are there"
        );
    }
    for install in &plan {
        apt::install(privilege, install)?;
    }
    Ok(())
}

/// The text of a package source that has to be added.
fn source_to_add(
    distribution: &Distribution,
    missing: &[Missing],
) -> Result<Option<String>, SetupError> {
    let Some(release) = distribution.release_that_needs_backports() else {
        return Ok(None);
    };
    let sources = sources::read(Path::new(ETC_APT));
    if sources::has_backports(&sources, release) || !missing.iter().any(Missing::is_of_qemu) {
        return Ok(None);
    }
    sources::backports_file(&sources, release)
        .map(Some)
        .ok_or_else(|| SetupError::NoMirror("QEMU", sources::backports_of(release)))
}

/// Prints the commands, so that they can be pasted into a shell.
fn show(source: Option<&str>, plan: &[Install], privilege: Privilege) {
    println!("To be done:");
    let prefix = privilege.shell_prefix();
    if let Some(text) = source {
        println!("{prefix}tee {SOURCE_FILE} <<'END'\n{text}END");
    }
    println!("{prefix}apt-get update");
    for install in plan {
        println!("{prefix}{}", apt::install_line(install));
    }
}

/// Package sources are not touched, and on a terminal nothing is installed, before somebody has
/// said yes: by an answer, by `--yes`, or by running this as a CI job.
fn consent(adds_source: bool, options: Options) -> Result<(), SetupError> {
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    if options.yes || is_ci {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return if adds_source {
            Err(SetupError::NotInstalled(
                "a package source has to be added, which needs --yes where nobody can be asked",
            ))
        } else {
            Ok(())
        };
    }
    eprint!("Do this now? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    let length = io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "" | "y" | "yes" if length > 0 => Ok(()),
        _ => Err(SetupError::NotInstalled("the answer was no")),
    }
}
