//! Which packages apt offers, in which versions.

use std::collections::BTreeMap;
use std::process::Command;

use super::SetupError;
use super::distribution::Distribution;
use super::packages;
use super::sources::backports_of;
use crate::command;
use crate::toolchain::parse_version;

/// A package that apt knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Whether it is installed.
    pub installed: bool,
    /// The first two numbers of the version that would be installed.
    pub version: (u32, u32),
}

/// The packages of one suite, by name.
pub type Packages = BTreeMap<String, Package>;

/// What apt offers of what this project may need.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// What it offers by itself.
    pub release: Packages,
    /// The suite of backports that is used, and what it offers.
    pub backports: Option<(String, Packages)>,
    /// Nothing of this was read from lists: all packages that are known by name are taken to be
    /// offered, in versions that will do.
    pub is_assumed: bool,
}

impl Catalogue {
    /// Asks apt, whose lists may be old or absent.
    ///
    /// # Errors
    ///
    /// Apt cannot be asked.
    pub fn read(distribution: &Distribution) -> Result<Self, SetupError> {
        let backports = match distribution.release_that_needs_backports() {
            None => None,
            Some(release) => {
                let suite = backports_of(release);
                let packages = ask(Some(&suite))?;
                Some((suite, packages))
            }
        };
        Ok(Self {
            release: ask(None)?,
            backports,
            is_assumed: false,
        })
    }

    /// What the same suites will offer, by all that is known, once their lists are read.
    #[must_use]
    pub fn assumed(&self) -> Self {
        let backports = self.backports.as_ref();
        Self {
            release: Packages::new(),
            backports: backports.map(|(suite, _)| (suite.clone(), Packages::new())),
            is_assumed: true,
        }
    }
}

fn ask(suite: Option<&str>) -> Result<Packages, SetupError> {
    let mut question = Command::new("apt-cache");
    question.env("LC_ALL", "C");
    if let Some(suite) = suite {
        question.args(["-t", suite]);
    }
    question.arg("policy").args(packages::all_names());
    let finished = command::run(&mut question, "looking at the package lists", None, None)?;
    // A suite that apt has no list of is an error to it, and nothing new to us.
    Ok(if finished.success() {
        parse(&finished.tail)
    } else {
        Packages::new()
    })
}

/// Reads the answer to `apt-cache policy`. Packages without a candidate are left out.
#[must_use]
pub fn parse(answer: &str) -> Packages {
    let mut packages = Packages::new();
    let mut name = "";
    let mut installed = false;
    for line in answer.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end().trim_end_matches(':');
            installed = false;
        } else if let Some(version) = line.strip_prefix("  Installed: ") {
            installed = version.trim() != "(none)";
        } else if let Some(version) = line.strip_prefix("  Candidate: ")
            && let Some(version) = upstream(version.trim())
        {
            packages.insert(name.to_owned(), Package { installed, version });
        }
    }
    packages
}

/// The first two numbers of a package's version, without its epoch.
fn upstream(version: &str) -> Option<(u32, u32)> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    parse_version(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_apt_are_read() {
        let answer = "\
qemu-system-riscv:
  Installed: (none)
  Candidate: 1:10.0.2+ds-2+deb13u1~bpo12+1
  Version table:
     1:10.0.2+ds-2+deb13u1~bpo12+1 100
        100 http://mirror.invalid/debian bookworm-backports/main amd64 Packages
qemu-system-riscv64:
  Installed: (none)
  Candidate: (none)
  Version table:
rustc-web:
  Installed: 1.85.0+dfsg3-1~deb12u3
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
 *** 1.85.0+dfsg3-1~deb12u3 100
lld:
  Installed: (none)
  Candidate: 1:14.0-55.7~deb12u1
";
        let package = |installed, version| Package { installed, version };
        let expected = [
            ("lld", package(false, (14, 0))),
            ("qemu-system-riscv", package(false, (10, 0))),
            ("rustc-web", package(true, (1, 96))),
        ];
        let expected = expected.map(|(name, package)| (name.to_owned(), package));
        assert_eq!(parse(answer), Packages::from(expected));
        assert_eq!(parse(""), Packages::new());
        assert_eq!(parse("N: Unable to locate package x\n"), Packages::new());
    }

    #[test]
    fn epochs_are_no_versions() {
        assert_eq!(upstream("1:9.0.2+ds-4ubuntu5"), Some((9, 0)));
        assert_eq!(upstream("1.96.1+dfsg1-2~bpo13+1"), Some((1, 96)));
        assert_eq!(upstream("1.6-1"), Some((1, 6)));
        assert_eq!(upstream("(none)"), None);
    }
}
