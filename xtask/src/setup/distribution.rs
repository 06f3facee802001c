//! Which distribution this machine runs, read from `os-release`.

use std::path::Path;

/// Where the file is, most important first.
const FILES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// A distribution, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// `ID`: `debian`, `ubuntu`, `fedora`; empty if it is not said.
    pub id: String,
    /// `ID_LIKE`: what it descends from.
    pub like: Vec<String>,
    /// `VERSION_ID` as major and minor number; rolling releases have none.
    pub version: Option<(u32, u32)>,
    /// `VERSION_CODENAME`, which is the name of its package suite.
    pub codename: Option<String>,
    /// `PRETTY_NAME`, for messages.
    pub name: String,
}

impl Distribution {
    /// The distribution of this machine; all empty if it does not say.
    #[must_use]
    pub fn of_this_machine() -> Self {
        FILES
            .iter()
            .find_map(|file| std::fs::read_to_string(Path::new(file)).ok())
            .map_or_else(|| Self::parse(""), |text| Self::parse(&text))
    }

    /// Reads the text of an `os-release` file. Lines that make no sense are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut distribution = Self::default();
        for line in text.lines() {
            let Some((key, value)) = assignment(line) else {
                continue;
            };
            match key {
                "ID" => distribution.id = value.to_lowercase(),
                "ID_LIKE" => {
                    distribution.like = value.split_whitespace().map(str::to_lowercase).collect();
                }
                "VERSION_ID" => distribution.version = version(&value),
                "VERSION_CODENAME" if !value.is_empty() => distribution.codename = Some(value),
                "PRETTY_NAME" => distribution.name = value,
                _ => {}
            }
        }
        if distribution.name.is_empty() {
            distribution.name = if distribution.id.is_empty() {
                "an unnamed distribution".into()
            } else {
                distribution.id.clone()
            };
        }
        distribution
    }

    /// Whether it is Debian, Ubuntu, or made from them: its packages have Debian's names.
    #[must_use]
    pub fn has_debian_packages(&self) -> bool {
        let is_known = |id: &str| matches!(id, "debian" | "ubuntu");
        is_known(&self.id) || self.like.iter().any(|id| is_known(id))
    }

    /// Whether it is known to have all that is needed, once its package lists are new. Of others,
    /// the lists are believed.
    #[must_use]
    pub fn is_new_enough(&self) -> bool {
        // Testing and unstable have no version.
        self.id == "debian" && self.version.is_none_or(|(major, _)| major >= 12)
    }

    /// The name of the release whose QEMU is too old, but whose backports have a newer one.
    #[must_use]
    pub fn release_that_needs_backports(&self) -> Option<&str> {
        // Debian 11 has backports, too, but of a QEMU that is still too old.
        match (self.id.as_str(), self.version) {
            ("debian", Some((12, _))) => Some(self.codename.as_deref().unwrap_or("bookworm")),
            _ => None,
        }
    }
}

/// Splits `KEY=value`, whose value is quoted as for a shell.
fn assignment(line: &str) -> Option<(&str, String)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let words = shlex::split(value)?;
    Some((key.trim(), words.join(" ")))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().map_or(Ok(0), str::parse).ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN_12: &str = "\
PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"
NAME=\"Debian GNU/Linux\"
VERSION_ID=\"12\"
VERSION=\"12 (bookworm)\"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL=\"https://example.invalid/\"
";

    fn parse(id: &str, like: &str, version: &str, codename: &str) -> Distribution {
        let like = format!("ID_LIKE=\"{like}\"");
        Distribution::parse(&format!(
            "ID={id}\n{like}\nVERSION_ID=\"{version}\"\nVERSION_CODENAME={codename}\n"
        ))
    }

    #[test]
    fn debian_12_is_read() {
        let expected = Distribution {
            id: "debian".into(),
            like: Vec::new(),
            version: Some((12, 0)),
            codename: Some("bookworm".into()),
            name: "Debian GNU/Linux 12 (bookworm)".into(),
        };
        assert_eq!(Distribution::parse(DEBIAN_12), expected);
        let odd = DEBIAN_12.replace('\n', "\r\n\r\n  # a comment = x\nnonsense\n");
        assert_eq!(Distribution::parse(&odd), expected);
        assert_eq!(expected.release_that_needs_backports(), Some("bookworm"));
    }

    #[test]
    fn only_debian_12_needs_backports() {
        for (id, version, codename) in [
            ("debian", "11", "bullseye"),
            ("debian", "13", "trixie"),
            ("debian", "", "forky"),
            ("ubuntu", "24.04", "noble"),
            ("ubuntu", "12", "x"),
            ("fedora", "42", ""),
        ] {
            let found = parse(id, "", version, codename);
            assert_eq!(found.release_that_needs_backports(), None, "{found:?}");
        }
        // An image without the code name is still bookworm.
        let bare = parse("debian", "", "12", "");
        assert_eq!(bare.release_that_needs_backports(), Some("bookworm"));
    }

    #[test]
    fn what_is_known_to_be_new_enough_is_debian() {
        for (id, version, expected) in [
            ("debian", "11", false),
            ("debian", "12", true),
            ("debian", "13", true),
            ("debian", "", true),
            ("ubuntu", "24.04", false),
            ("", "", false),
        ] {
            assert_eq!(
                parse(id, "", version, "").is_new_enough(),
                expected,
                "{id} {version}"
            );
        }
    }

    #[test]
    fn families_are_told_apart() {
        for (id, like, expected) in [
            ("debian", "", true),
            ("ubuntu", "debian", true),
            ("linuxmint", "ubuntu debian", true),
            ("raspbian", "debian", true),
            ("'Debian'", "", true),
            ("fedora", "", false),
            ("rocky", "rhel centos fedora", false),
            ("arch", "", false),
            ("", "", false),
        ] {
            assert_eq!(
                parse(id, like, "1", "x").has_debian_packages(),
                expected,
                "{id}"
            );
        }
    }

    #[test]
    fn versions_are_numbers_or_nothing() {
        assert_eq!(parse("ubuntu", "", "24.10", "").version, Some((24, 10)));
        assert_eq!(parse("debian", "", "13", "").version, Some((13, 0)));
        for text in ["", "rolling", "12.x", "99999999999"] {
            assert_eq!(parse("debian", "", text, "").version, None, "{text}");
        }
    }

    #[test]
    fn an_empty_or_broken_file_is_no_distribution() {
        for text in ["", "ID", "ID=\"debian", "=debian", "# ID=debian", "\0"] {
            let found = Distribution::parse(text);
            assert!(!found.has_debian_packages(), "{text:?}");
            assert_eq!(found.name, "an unnamed distribution", "{text:?}");
        }
        assert_eq!(Distribution::parse("ID=nixos").name, "nixos");
    }
}
