//! Which distribution this is, and which of its packages hold what is needed.

use super::Need;
use crate::arch::Arch;

/// A Linux distribution, as far as its packages differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Debian, by release; `None` for testing and unstable.
    Debian(Option<u32>),
    /// Ubuntu, by year and month.
    Ubuntu(u32, u32),
    /// Anything else, by the name it gives itself.
    Other(String),
}

/// A package that has to be installed: one of these names, the first that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The names.
    pub names: &'static [&'static str],
    /// It is needed in the version of the backports.
    pub backport: bool,
}

impl Distribution {
    /// Reads `/etc/os-release`.
    #[must_use]
    pub fn parse(os_release: &str) -> Self {
        let field = |wanted: &str| {
            os_release.lines().find_map(|line| {
                let (name, value) = line.trim().split_once('=')?;
                (name == wanted).then(|| value.trim_matches(['"', '\'']).to_owned())
            })
        };
        let version = field("VERSION_ID").unwrap_or_default();
        let mut numbers = version.split('.').map(str::parse::<u32>);
        match field("ID").unwrap_or_default().as_str() {
            "debian" => Self::Debian(numbers.next().and_then(Result::ok)),
            "ubuntu" => match (numbers.next(), numbers.next()) {
                (Some(Ok(year)), Some(Ok(month))) => Self::Ubuntu(year, month),
                _ => Self::Other("an Ubuntu without a version".into()),
            },
            _ => Self::Other(
                field("PRETTY_NAME")
                    .or_else(|| field("ID"))
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| "a system without a name".into()),
            ),
        }
    }

    /// The package for a need; `None` where the distribution has none that is new enough.
    #[must_use]
    pub fn package(&self, need: Need) -> Option<Package> {
        let compiler = self.compiler()?;
        let names: &[&str] = match need {
            Need::Qemu(Arch::Riscv64) => &["qemu-system-riscv", "qemu-system-misc"],
            Need::Qemu(Arch::Aarch64) => &["qemu-system-arm"],
            Need::Firmware => &["opensbi"],
            Need::Linker => &["lld"],
            Need::Rustc => compiler.rustc,
            Need::Cargo => compiler.cargo,
            Need::RustSource => compiler.source,
            Need::Clippy => compiler.clippy,
        };
        Some(Package {
            names,
            backport: self.needs_backports() && matches!(need, Need::Qemu(_) | Need::Firmware),
        })
    }

    /// Whether QEMU has to come from the backports: Debian 12 has 7.2.
    #[must_use]
    pub fn needs_backports(&self) -> bool {
        *self == Self::Debian(Some(12))
    }

    /// The packages of a compiler that is new enough, on releases that have a QEMU, too.
    fn compiler(&self) -> Option<&'static Compiler> {
        match self {
            // The compiler that their browsers are built with is far newer than their own.
            Self::Debian(Some(12 | 13)) => Some(&WEB),
            Self::Debian(Some(release)) if *release < 12 => None,
            Self::Debian(_) => Some(&PLAIN),
            Self::Ubuntu(year, month) if (*year, *month) >= (24, 10) => Some(&PLAIN),
            Self::Ubuntu(..) | Self::Other(_) => None,
        }
    }
}

struct Compiler {
    rustc: &'static [&'static str],
    cargo: &'static [&'static str],
    source: &'static [&'static str],
    clippy: &'static [&'static str],
}

const WEB: Compiler = Compiler {
    rustc: &["rustc-web"],
    cargo: &["cargo-web"],
    source: &["rust-web-src"],
    clippy: &["rust-web-clippy"],
};

const PLAIN: Compiler = Compiler {
    rustc: &["rustc"],
    cargo: &["cargo"],
    source: &["rust-src"],
    clippy: &["rust-clippy"],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_recognised() {
        for (text, expected) in [
            (
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n",
                Distribution::Debian(Some(12)),
            ),
            (
                "ID=debian\nVERSION_CODENAME=forky\n",
                Distribution::Debian(None),
            ),
            (
                "ID=ubuntu\nVERSION_ID='24.10'\n",
                Distribution::Ubuntu(24, 10),
            ),
            (
                "  ID=ubuntu\r\nVERSION_ID=\"25.04\"\r\n",
                Distribution::Ubuntu(25, 4),
            ),
            (
                "ID=fedora\nPRETTY_NAME=\"Fedora Linux 43\"\n",
                Distribution::Other("Fedora Linux 43".into()),
            ),
            ("ID=arch", Distribution::Other("arch".into())),
            ("", Distribution::Other("a system without a name".into())),
            (
                "ID=\nPRETTY_NAME=\"\"",
                Distribution::Other("a system without a name".into()),
            ),
        ] {
            assert_eq!(Distribution::parse(text), expected, "{text}");
        }
    }

    fn names(distribution: &Distribution, need: Need) -> Option<(&'static str, bool)> {
        let package = distribution.package(need)?;
        Some((package.names[0], package.backport))
    }

    #[test]
    fn packages_are_those_that_are_new_enough() {
        let qemu = Need::Qemu(Arch::Riscv64);
        for (distribution, expected) in [
            (Distribution::Debian(Some(11)), None),
            (
                Distribution::Debian(Some(12)),
                Some(("qemu-system-riscv", true)),
            ),
            (
                Distribution::Debian(Some(13)),
                Some(("qemu-system-riscv", false)),
            ),
            (
                Distribution::Debian(None),
                Some(("qemu-system-riscv", false)),
            ),
            (Distribution::Ubuntu(24, 4), None),
            (
                Distribution::Ubuntu(24, 10),
                Some(("qemu-system-riscv", false)),
            ),
            (Distribution::Other("x".into()), None),
        ] {
            assert_eq!(names(&distribution, qemu), expected, "{distribution:?}");
        }
        let rustc = |distribution| names(&distribution, Need::Rustc);
        assert_eq!(
            rustc(Distribution::Debian(Some(12))),
            Some(("rustc-web", false))
        );
        assert_eq!(
            rustc(Distribution::Debian(Some(13))),
            Some(("rustc-web", false))
        );
        assert_eq!(
            rustc(Distribution::Debian(Some(14))),
            Some(("rustc", false))
        );
        assert_eq!(rustc(Distribution::Ubuntu(26, 4)), Some(("rustc", false)));
    }
}
