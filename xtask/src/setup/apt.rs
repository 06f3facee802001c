//! Apt and dpkg: renews the package lists, adds a source, installs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::SetupError;
use super::packages::Install;
use crate::command::{self, Finished, quoted};

/// The file that is added for the backports.
pub const SOURCE_FILE: &str = "/etc/apt/sources.list.d/virtio-iommu-backports.sources";
/// How long to wait for somebody else who installs packages.
const LOCK_LIMIT: Duration = Duration::from_secs(120);
/// How often to look whether they have finished.
const LOCK_POLL: Duration = Duration::from_secs(2);

/// By which right packages are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// This process is root's.
    Root,
    /// By sudo.
    Sudo,
    /// There is no sudo.
    None,
}

impl Privilege {
    /// Finds out.
    #[must_use]
    pub fn find() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else if command::find_in_path("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// What to put in front of a command for a shell.
    #[must_use]
    pub const fn shell_prefix(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Sudo | Self::None => "sudo ",
        }
    }

    /// Lets sudo ask for the password, once, before anything else is shown.
    ///
    /// # Errors
    ///
    /// There is no sudo, or it does not let this user.
    pub fn prepare(self) -> Result<(), SetupError> {
        match self {
            Self::Root => Ok(()),
            Self::None => Err(SetupError::NoRoot("there is no sudo")),
            Self::Sudo => {
                // It asks on the terminal itself, and gives up where there is none.
                let status = Command::new("sudo")
                    .arg("-v")
                    .stdin(Stdio::null())
                    .status()?;
                if status.success() {
                    Ok(())
                } else {
                    Err(SetupError::NoRoot("sudo does not allow it"))
                }
            }
        }
    }

    fn command(self, program: &str) -> Command {
        let mut command = match self {
            Self::Root => Command::new("env"),
            Self::Sudo | Self::None => {
                let mut sudo = Command::new("sudo");
                // It passes nothing of the environment on.
                sudo.arg("env");
                sudo
            }
        };
        // In English, so that a message about a lock is recognised.
        command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", program]);
        command
    }
}

/// The package lists after an attempt to renew them.
#[derive(Debug)]
pub struct Renewed {
    line: String,
    finished: Finished,
}

impl Renewed {
    /// Whether all of them are new. Apt itself calls it a success when a mirror did not answer.
    #[must_use]
    pub fn success(&self) -> bool {
        self.finished.success() && !self.finished.tail.contains("Failed to fetch")
    }

    /// An error if not all of them are new.
    ///
    /// # Errors
    ///
    /// [`SetupError::Failed`].
    pub fn into_result(self) -> Result<(), SetupError> {
        if self.success() {
            return Ok(());
        }
        Err(failed(self.line, &self.finished, "update"))
    }
}

/// Renews the package lists. One of many sources may be out of order, so whether that is an error
/// is for the caller to say.
///
/// # Errors
///
/// Apt could not be started.
pub fn renew_lists(privilege: Privilege) -> Result<Renewed, SetupError> {
    let mut update = privilege.command("apt-get");
    update.args(["-o", "Acquire::Retries=3", "update"]);
    let what = "reading the package lists (apt-get update)";
    let finished = run(&mut update, what, "update")?;
    Ok(Renewed {
        line: command::command_line(&update),
        finished,
    })
}

/// The command line of an installation, without what only a program needs.
#[must_use]
pub fn install_line(install: &Install) -> String {
    quoted(["apt-get".into()].into_iter().chain(install_words(install)))
}

fn install_words(install: &Install) -> Vec<String> {
    let mut words: Vec<String> = vec!["install".into(), "--no-install-recommends".into()];
    if let Some(suite) = &install.suite {
        words.extend(["-t".into(), suite.clone()]);
    }
    words.extend(install.packages.iter().map(|name| String::from(*name)));
    words
}

/// Installs packages. Nothing is removed for them.
///
/// # Errors
///
/// Apt could not be started, or failed.
pub fn install(privilege: Privilege, install: &Install) -> Result<(), SetupError> {
    let mut apt = privilege.command("apt-get");
    apt.args(["--yes", "--no-remove", "-o", "Acquire::Retries=3", "-o"]);
    apt.arg(format!("DPkg::Lock::Timeout={}", LOCK_LIMIT.as_secs()));
    apt.args(install_words(install));
    let what = format!("installing {}", install.packages.join(" "));
    eprintln!("{what}");
    let name = match install.suite {
        Some(_) => "install-backports",
        None => "install",
    };
    let finished = run(&mut apt, &what, name)?;
    if finished.success() {
        return Ok(());
    }
    Err(failed(command::command_line(&apt), &finished, name))
}

/// Adds the package source of the backports.
///
/// # Errors
///
/// The file could not be written.
pub fn add_source(privilege: Privilege, text: &str) -> Result<(), SetupError> {
    eprintln!("adding the package source {SOURCE_FILE}");
    // By way of a file of our own: only the copy needs root.
    let draft = crate::target_dir().join("backports.sources");
    std::fs::create_dir_all(crate::target_dir())?;
    std::fs::write(&draft, text)?;
    let mut copy = privilege.command("install");
    copy.args(["-m", "644"]).arg(&draft).arg(SOURCE_FILE);
    let copied = short(&mut copy, "adding a package source");
    std::fs::remove_file(&draft)?;
    copied
}

/// Takes the package source away again.
///
/// # Errors
///
/// The file could not be removed.
pub fn remove_source(privilege: Privilege) -> Result<(), SetupError> {
    eprintln!("removing the package source {SOURCE_FILE} again");
    let mut remove = privilege.command("rm");
    remove.args(["-f", SOURCE_FILE]);
    short(&mut remove, "removing a package source")
}

fn short(command: &mut Command, what: &str) -> Result<(), SetupError> {
    let finished = command::run(command, what, None, None)?;
    if finished.success() {
        return Ok(());
    }
    Err(SetupError::Failed {
        command: command::command_line(command),
        output: finished.explain(5),
        advice: String::new(),
    })
}

/// Runs apt, again and again while another program has locked its files. Its output goes to a
/// file in the target folder, too.
fn run(apt: &mut Command, what: &str, name: &str) -> Result<Finished, SetupError> {
    std::fs::create_dir_all(crate::target_dir())?;
    let log = log_file(name);
    let began = Instant::now();
    let mut told = false;
    loop {
        let finished = command::run(apt, what, None, Some(Path::new(&log)))?;
        // `DPkg::Lock::Timeout` is for one lock of several: that of the lists has no timeout.
        let locked = finished.tail.contains("Could not get lock")
            || finished.tail.contains("Unable to lock");
        if finished.success() || !locked || began.elapsed() >= LOCK_LIMIT {
            return Ok(finished);
        }
        if !told {
            let limit = LOCK_LIMIT.as_secs();
            eprintln!("another program installs packages: waiting for it, up to {limit} s");
            told = true;
        }
        std::thread::sleep(LOCK_POLL);
    }
}

fn log_file(name: &str) -> std::path::PathBuf {
    crate::target_dir().join(format!("setup-{name}.log"))
}

/// What apt says when it fails, and what that means.
const MEANINGS: [(&[&str], &str); 6] = [
    (
        &["Could not get lock", "Unable to acquire", "Unable to lock"],
        "Another program installs packages, and has not finished in time: try again later",
    ),
    (
        &["remove is disabled"],
        "The packages are in the way of some that are installed; which of them may go is for you \
         to say: call the command without --no-remove",
    ),
    (
        &["dpkg was interrupted"],
        "An earlier installation was interrupted: `dpkg --configure -a` ends it",
    ),
    (&["No space left", "enough free space"], "The disk is full"),
    (
        &[
            "NO_PUBKEY",
            "is not signed",
            "Conflicting values set",
            "Malformed",
        ],
        "A package source of this machine is out of order: `apt-get update` has to work first",
    ),
    (
        &[
            "Failed to fetch",
            "Could not connect",
            "Could not resolve",
            "Temporary failure",
        ],
        "A mirror could not be reached",
    ),
];

fn meaning(output: &str) -> Option<&'static str> {
    let found = MEANINGS
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| output.contains(sign)));
    found.map(|(_, meaning)| *meaning)
}

fn failed(command: String, finished: &Finished, name: &str) -> SetupError {
    let log = log_file(name);
    let advice = match meaning(&finished.tail) {
        Some(meaning) => format!("{meaning}. All of its output: {}", log.display()),
        None => format!("All of its output: {}", log.display()),
    };
    SetupError::Failed {
        command,
        output: finished.explain(15),
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_apt_have_a_meaning() {
        for (output, expected) in [
            (
                "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)",
                Some("Another program"),
            ),
            (
                "E: Packages need to be removed but remove is disabled.",
                Some("The packages are in the way"),
            ),
            (
                "E: Conflicting values set for option Signed-By regarding source",
                Some("A package source"),
            ),
            (
                "W: Failed to fetch http://mirror.invalid/debian  Could not resolve 'mirror'",
                Some("A mirror"),
            ),
            (
                "E: Sub-process /usr/bin/dpkg returned an error code (1)",
                None,
            ),
            ("", None),
        ] {
            let found = meaning(output);
            assert_eq!(found.is_some(), expected.is_some(), "{output}");
            assert!(
                found
                    .unwrap_or_default()
                    .starts_with(expected.unwrap_or_default()),
                "{output}"
            );
        }
    }

    #[test]
    fn a_mirror_that_does_not_answer_is_no_success() {
        let finished = command::run(
            Command::new("echo").arg("W: Failed to fetch something"),
            "",
            None,
            None,
        )
        .unwrap();
        assert!(finished.success());
        let renewed = Renewed {
            line: "apt-get update".into(),
            finished,
        };
        assert!(!renewed.success());
        let error = renewed.into_result().unwrap_err().to_string();
        assert!(error.contains("A mirror could not be reached"), "{error}");
    }

    #[test]
    fn commands_are_shown_as_they_are_run() {
        let mut install = Install {
            suite: Some("bookworm-backports".into()),
            packages: vec!["qemu-system-riscv", "opensbi"],
        };
        assert_eq!(
            install_line(&install),
            "apt-get install --no-install-recommends -t bookworm-backports qemu-system-riscv opensbi"
        );
        install.suite = None;
        install.packages = vec!["lld"];
        assert_eq!(
            install_line(&install),
            "apt-get install --no-install-recommends lld"
        );
    }
}
