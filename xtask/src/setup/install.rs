//! Installs packages with apt, after saying so.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::distribution::{Distribution, Package};
use super::sources::{self, Backports};
use super::{Need, Options};
use crate::arch::Arch;
use crate::command::{self, quoted};
use crate::qemu::QemuError;

/// The file that is added for the backports.
const SOURCE_FILE: &str = "/etc/apt/sources.list.d/virtio-iommu-backports.sources";
/// The release of Debian that needs it.
const BACKPORTS_OF: &str = "bookworm";
/// How long apt may take for one step.
const APT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Why the machine is not ready.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The folder that `QEMU_DIR` names does not hold it.
    #[error("{0}")]
    QemuDir(QemuError),
    /// This distribution is not known, or its packages are too old.
    #[error("{name} has no packages that this project knows of. Please install:\n{needs}")]
    Unknown {
        /// The distribution.
        name: String,
        /// What is missing, one per line.
        needs: String,
    },
    /// Nothing may be installed, or nobody can be asked. The commands were printed.
    #[error("{0}; the commands above do it by hand")]
    NotInstalled(&'static str),
    /// The machine does not say where its packages come from.
    #[error(
        "no package source for {BACKPORTS_OF} was found in /etc/apt, so none for its backports can be made"
    )]
    NoMirror,
    /// Only root may install packages.
    #[error("this needs root, and there is no sudo; the commands above do it by hand")]
    NoSudo,
    /// A command failed.
    #[error("{command}\n{output}")]
    Failed {
        /// The command.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// A command could not be started, or an answer not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Everything was done, and it was not enough.
    #[error("installed, but still missing:\n{}", lines(.0))]
    StillMissing(Vec<Need>),
}

fn lines(needs: &[Need]) -> String {
    let lines: Vec<String> = needs.iter().map(|need| format!("  * {need}")).collect();
    lines.join("\n")
}

/// What is going to be done.
struct Plan {
    /// The text of a package source to add.
    source: Option<String>,
    /// Packages of the release itself.
    packages: Vec<Package>,
    /// Packages of its backports.
    backports: Vec<Package>,
}

/// Installs what is missing, as the options allow.
pub(super) fn install(needs: &[Need], archs: &[Arch], options: Options) -> Result<(), SetupError> {
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = Distribution::parse(&os_release);
    println!("Missing for {}:\n{}", names(archs), lines(needs));
    let plan = plan(&distribution, needs)?;
    let sudo = sudo();
    show(&plan, sudo.unwrap_or(&["sudo"]));
    if options.no_install {
        return Err(SetupError::NotInstalled(
            "nothing was installed (--no-install)",
        ));
    }
    let sudo = sudo.ok_or(SetupError::NoSudo)?;
    if !options.yes && std::env::var_os("CI").is_none() {
        ask()?;
    }
    carry_out(&plan, sudo)
}

fn names(archs: &[Arch]) -> String {
    let names: Vec<&str> = archs.iter().map(|arch| arch.name()).collect();
    names.join(", ")
}

fn plan(distribution: &Distribution, needs: &[Need]) -> Result<Plan, SetupError> {
    let packages: Option<Vec<Package>> = needs
        .iter()
        .map(|need| distribution.package(*need))
        .collect();
    let Some(packages) = packages else {
        return Err(SetupError::Unknown {
            name: match distribution {
                Distribution::Debian(Some(release)) => format!("Debian {release}"),
                Distribution::Debian(None) => "Debian".into(),
                Distribution::Ubuntu(year, month) => format!("Ubuntu {year}.{month:02}"),
                Distribution::Other(name) => name.clone(),
            },
            needs: lines(needs),
        });
    };
    let (backports, packages): (Vec<_>, Vec<_>) = packages.into_iter().partition(|p| p.backport);
    let mut source = None;
    if !backports.is_empty() {
        match sources::backports(&sources::read(Path::new("/etc/apt")), BACKPORTS_OF) {
            Backports::Present => {}
            Backports::Missing(text) => source = Some(text),
            Backports::NoMirror => return Err(SetupError::NoMirror),
        }
    }
    Ok(Plan {
        source,
        packages,
        backports,
    })
}

/// What to put in front of commands; `None` if root cannot be had.
fn sudo() -> Option<&'static [&'static str]> {
    if rustix::process::geteuid().is_root() {
        return Some(&[]);
    }
    command::find_in_path("sudo").map(|_| &["sudo"] as &[&str])
}

/// Prints the commands, so that they can be pasted.
fn show(plan: &Plan, sudo: &[&str]) {
    let first = |packages: &[Package]| -> Vec<&'static str> {
        packages.iter().map(|package| package.names[0]).collect()
    };
    let prefix = sudo
        .iter()
        .map(|word| format!("{word} "))
        .collect::<String>();
    println!("To be done:");
    if let Some(text) = &plan.source {
        println!(
            "  # adds a package source: {BACKPORTS_OF}-backports of this machine's own mirror"
        );
        let text = text.trim_end().replace('\n', "\\n");
        println!("  printf '{text}\\n' | {prefix}tee {SOURCE_FILE}");
    }
    println!("  {prefix}apt-get update");
    if !plan.backports.is_empty() {
        let packages = first(&plan.backports).join(" ");
        println!(
            "  {prefix}apt-get install --no-install-recommends -t {BACKPORTS_OF}-backports {packages}"
        );
    }
    if !plan.packages.is_empty() {
        let packages = first(&plan.packages).join(" ");
        println!("  {prefix}apt-get install --no-install-recommends {packages}");
    }
}

fn ask() -> Result<(), SetupError> {
    if !io::stdin().is_terminal() {
        return Err(SetupError::NotInstalled(
            "nobody can be asked (no terminal): call it with --yes",
        ));
    }
    print!("Do this now? [Y/n] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "" | "y" | "yes" => Ok(()),
        _ => Err(SetupError::NotInstalled("nothing was installed")),
    }
}

fn carry_out(plan: &Plan, sudo: &[&str]) -> Result<(), SetupError> {
    if let Some(text) = &plan.source {
        println!("adding {SOURCE_FILE}");
        // By way of a file of our own: only the copy needs root.
        let draft = crate::target_dir().join("viommu-backports.sources");
        fs::create_dir_all(crate::target_dir())?;
        fs::write(&draft, text)?;
        let mut copy = vec!["install", "-m", "644"];
        let from = draft.to_string_lossy().into_owned();
        copy.extend([from.as_str(), SOURCE_FILE]);
        let copied = run(sudo, &copy, "adding a package source");
        fs::remove_file(&draft)?;
        copied?;
    }
    run(sudo, &["apt-get", "update"], "reading the package lists")?;
    if !plan.backports.is_empty() {
        let release = format!("{BACKPORTS_OF}-backports");
        get(sudo, &["-t", &release], &plan.backports)?;
    }
    if !plan.packages.is_empty() {
        get(sudo, &[], &plan.packages)?;
    }
    Ok(())
}

fn get(sudo: &[&str], options: &[&str], packages: &[Package]) -> Result<(), SetupError> {
    let packages: Vec<&str> = packages.iter().map(|package| existing(package)).collect();
    let mut words = vec![
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
        // Somebody else may be installing.
        "-o",
        "DPkg::Lock::Timeout=120",
    ];
    words.extend(options);
    words.extend(&packages);
    run(sudo, &words, &format!("installing {}", packages.join(" ")))
}

/// The first of the names that apt knows.
fn existing(package: &Package) -> &'static str {
    let known = |name: &&&str| {
        let mut show = Command::new("apt-cache");
        show.args(["show", "--no-all-versions", name]);
        command::run(&mut show, "looking at the package lists", None, None)
            .is_ok_and(|finished| finished.success())
    };
    package
        .names
        .iter()
        .find(known)
        .unwrap_or(&package.names[0])
}

fn run(sudo: &[&str], words: &[&str], what: &str) -> Result<(), SetupError> {
    let mut all: Vec<&str> = sudo.to_vec();
    // sudo does not pass the environment on.
    all.extend(["env", "DEBIAN_FRONTEND=noninteractive"]);
    all.extend(words);
    let mut command = Command::new(all[0]);
    command.args(&all[1..]);
    let log = crate::target_dir().join("viommu-setup.log");
    let finished = command::run(&mut command, what, Some(APT_LIMIT), Some(&log))?;
    if finished.success() {
        return Ok(());
    }
    Err(SetupError::Failed {
        command: quoted(all),
        output: finished.explain(15),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_distribution_gets_a_list() {
        let needs = [Need::Qemu(Arch::Riscv64), Need::Linker];
        let other = Distribution::Other("Fedora Linux 43".into());
        let text = plan(&other, &needs).err().unwrap().to_string();
        assert!(text.contains("Fedora Linux 43"), "{text}");
        assert!(
            text.contains("qemu-system-riscv64 9.0.0 or newer"),
            "{text}"
        );
        assert!(text.contains("ld.lld"), "{text}");
        let old = plan(&Distribution::Ubuntu(24, 4), &needs).err().unwrap();
        assert!(old.to_string().contains("Ubuntu 24.04"));
    }

    #[test]
    fn only_what_is_missing_is_planned() {
        let plan = plan(&Distribution::Debian(Some(13)), &[Need::Linker]).unwrap();
        assert_eq!(plan.source, None);
        assert!(plan.backports.is_empty());
        assert_eq!(plan.packages[0].names, ["lld"]);
    }
}
