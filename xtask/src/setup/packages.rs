//! Which packages supply what is missing.
//!
//! The choice is made by the versions that apt offers, not by a table of releases: a table ages.

use std::fmt;

use super::catalogue::{Catalogue, Packages};
use super::distribution::Distribution;
use super::missing::Missing;
use crate::arch::Arch;
use crate::qemu;
use crate::toolchain::OLDEST_RUSTC;

/// Packages that are installed by one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The suite that they, and what they depend on, come from, if it is not the release itself.
    pub suite: Option<String>,
    /// Their names.
    pub packages: Vec<&'static str>,
}

/// Something that the distribution does not have, or not in a version that is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What it is for.
    pub missing: Missing,
    /// The newest version that there is.
    pub newest: Option<(u32, u32)>,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.missing)?;
        match self.newest {
            Some((major, minor)) => write!(f, " (the newest package is of {major}.{minor})")?,
            None => write!(f, " (no package by the names that are known)")?,
        }
        match self.missing {
            Missing::Qemu(..) => write!(f, "; QEMU_DIR can name the folder of another QEMU"),
            Missing::Std(_) => write!(f, "; rustup, where it can download, will do"),
            Missing::Component(name) => write!(f, "; `rustup component add {name}` adds it"),
            _ => Ok(()),
        }
    }
}

/// A compiler in packages. All must be of one version.
struct Compiler {
    rustc: &'static str,
    cargo: &'static str,
    source: &'static str,
    clippy: &'static str,
}

const PLAIN: Compiler = Compiler {
    rustc: "rustc",
    cargo: "cargo",
    source: "rust-src",
    clippy: "rust-clippy",
};

/// The compiler that Debian builds browsers with: newer than that of the release.
const WEB: Compiler = Compiler {
    rustc: "rustc-web",
    cargo: "cargo-web",
    source: "rust-web-src",
    clippy: "rust-web-clippy",
};

const LINKER: &str = "lld";

/// The names of all packages that might be chosen.
#[must_use]
pub fn all_names() -> Vec<&'static str> {
    let mut names = vec![LINKER];
    for compiler in [&PLAIN, &WEB] {
        names.extend([
            compiler.rustc,
            compiler.cargo,
            compiler.source,
            compiler.clippy,
        ]);
    }
    for arch in Arch::ALL {
        names.extend(arch.qemu_packages());
        names.extend(arch.firmware().map(|firmware| firmware.package));
    }
    names
}

/// Chooses packages for all that is missing.
///
/// # Errors
///
/// What cannot be had from this distribution.
pub fn choose(
    missing: &[Missing],
    distribution: &Distribution,
    catalogue: &Catalogue,
) -> Result<Vec<Install>, Vec<Unavailable>> {
    let mut plan = Vec::new();
    let mut unavailable = Vec::new();
    match choose_qemu(missing, catalogue) {
        Ok(install) => plan.extend(install),
        Err(entries) => unavailable.extend(entries),
    }
    let mut packages = Vec::new();
    match choose_compiler(missing, distribution, catalogue) {
        Ok(names) => packages.extend(names),
        Err(entries) => unavailable.extend(entries),
    }
    if missing.contains(&Missing::Linker) {
        packages.push(LINKER);
    }
    unavailable.extend(
        missing
            .iter()
            .filter(|entry| matches!(entry, Missing::Component(_)))
            .map(|entry| Unavailable {
                missing: entry.clone(),
                newest: None,
            }),
    );
    if !unavailable.is_empty() {
        return Err(unavailable);
    }
    if !packages.is_empty() {
        plan.push(Install {
            suite: None,
            packages,
        });
    }
    Ok(plan)
}

/// The packages of QEMU and its firmware share files, so all of them come from one suite.
fn choose_qemu(
    missing: &[Missing],
    catalogue: &Catalogue,
) -> Result<Option<Install>, Vec<Unavailable>> {
    let wanted: Vec<&Missing> = missing.iter().filter(|entry| entry.is_of_qemu()).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let release = (None, &catalogue.release);
    let backports = catalogue
        .backports
        .as_ref()
        .map(|(suite, packages)| (Some(suite.clone()), packages));
    // Where backports are used at all, the release itself is known to be too old.
    let suites = backports.into_iter().chain([release]);
    let mut failed = Vec::new();
    for (suite, packages) in suites {
        match choose_qemu_of(&wanted, packages, catalogue.is_assumed) {
            Ok(packages) => return Ok(Some(Install { suite, packages })),
            Err(unavailable) if failed.is_empty() => failed = unavailable,
            Err(_) => {}
        }
    }
    Err(failed)
}

fn choose_qemu_of(
    wanted: &[&Missing],
    packages: &Packages,
    is_assumed: bool,
) -> Result<Vec<&'static str>, Vec<Unavailable>> {
    let oldest = (qemu::WHOLE.major, qemu::WHOLE.minor);
    let mut names: Vec<&'static str> = Vec::new();
    let mut unavailable = Vec::new();
    for entry in wanted {
        if let Missing::Qemu(arch, _) = entry {
            match newest_enough(arch.qemu_packages(), packages, oldest, is_assumed) {
                Ok(name) => names.push(name),
                Err(newest) => unavailable.push(Unavailable {
                    missing: (*entry).clone(),
                    newest,
                }),
            }
        }
        if let Missing::Qemu(arch, _) | Missing::Firmware(arch) = entry
            && let Some(firmware) = arch.firmware()
        {
            // It may come with QEMU's own package, and have none of its own.
            if is_assumed || packages.contains_key(firmware.package) {
                names.push(firmware.package);
            } else if matches!(entry, Missing::Firmware(_)) {
                unavailable.push(Unavailable {
                    missing: (*entry).clone(),
                    newest: None,
                });
            }
        }
    }
    let mut seen = Vec::new();
    names.retain(|name| {
        !seen.contains(name) && {
            seen.push(name);
            true
        }
    });
    if unavailable.is_empty() {
        Ok(names)
    } else {
        Err(unavailable)
    }
}

/// The first of the names that is offered in a version of at least `oldest`; else the newest
/// version that any of them has.
fn newest_enough(
    names: &[&'static str],
    packages: &Packages,
    oldest: (u32, u32),
    is_assumed: bool,
) -> Result<&'static str, Option<(u32, u32)>> {
    if is_assumed {
        return names.first().copied().ok_or(None);
    }
    let version = |name: &&str| packages.get(*name).map(|package| package.version);
    names
        .iter()
        .find(|name| version(name).is_some_and(|version| version >= oldest))
        .copied()
        .ok_or_else(|| names.iter().filter_map(version).max())
}

fn choose_compiler(
    missing: &[Missing],
    distribution: &Distribution,
    catalogue: &Catalogue,
) -> Result<Vec<&'static str>, Vec<Unavailable>> {
    let packages = &catalogue.release;
    let mut std = missing
        .iter()
        .filter(|entry| matches!(entry, Missing::Std(_)));
    let std = std.next();
    let clippy = missing.contains(&Missing::KernelClippy);
    let Some(first) = std.or(clippy.then_some(&Missing::KernelClippy)) else {
        return Ok(Vec::new());
    };
    let needed = |compiler: &Compiler| -> Vec<&'static str> {
        let mut names = Vec::new();
        if std.is_some() {
            names.extend([compiler.rustc, compiler.cargo, compiler.source]);
        }
        if clippy {
            names.push(compiler.clippy);
        }
        names
    };
    let mut compilers = [&PLAIN, &WEB];
    let is_installed = |name: &str| packages.get(name).is_some_and(|package| package.installed);
    // They cannot be installed side by side. Without lists: what these two releases have.
    if is_installed(WEB.rustc)
        || (catalogue.is_assumed
            && distribution.id == "debian"
            && matches!(distribution.version, Some((12 | 13, _))))
    {
        compilers.reverse();
    }
    let mut newest = None;
    for compiler in compilers {
        let names = needed(compiler);
        if catalogue.is_assumed {
            return Ok(names);
        }
        let versions: Option<Vec<_>> = names
            .iter()
            .map(|name| packages.get(*name).map(|package| package.version))
            .collect();
        if let Some(version) = versions.and_then(|versions| versions.into_iter().min()) {
            if version >= OLDEST_RUSTC {
                return Ok(names);
            }
            newest = newest.max(Some(version));
        }
    }
    Err(vec![Unavailable {
        missing: first.clone(),
        newest,
    }])
}

#[cfg(test)]
mod tests;
