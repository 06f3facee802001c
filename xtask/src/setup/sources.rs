//! The package sources of the machine: where its mirror is, and whether backports are on.
//!
//! Both syntaxes of apt are read; nothing about any mirror is written in this project.

use std::path::{Path, PathBuf};

/// One place where apt looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address of the mirror.
    pub uri: String,
    /// The release, such as `bookworm` or `bookworm-updates`.
    pub suite: String,
    /// The key file that it is signed by, if it names one.
    pub signed_by: Option<String>,
}

/// Reads all sources below an `/etc/apt`.
#[must_use]
pub fn read(apt: &Path) -> Vec<Source> {
    let mut files = vec![apt.join("sources.list")];
    if let Ok(parts) = std::fs::read_dir(apt.join("sources.list.d")) {
        let mut parts: Vec<PathBuf> = parts.flatten().map(|part| part.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(paragraphs(&text)),
            _ => {}
        }
    }
    sources
}

/// Reads `deb [options] uri suite components…`.
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace();
    Some(Source {
        uri: words.next()?.to_owned(),
        suite: words.next()?.to_owned(),
        signed_by: signed_by.map(str::to_owned),
    })
}

/// Reads paragraphs of `Name: value` (deb822).
fn paragraphs(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.starts_with('#'))
        .collect();
    lines
        .split(|line| line.is_empty())
        .flat_map(paragraph)
        .collect()
}

fn paragraph(lines: &[&str]) -> Vec<Source> {
    let field = |wanted: &str| -> Option<String> {
        let at = lines.iter().position(|line| {
            line.split_once(':')
                .is_some_and(|(name, _)| name.eq_ignore_ascii_case(wanted))
        })?;
        let (_, first) = lines[at].split_once(':')?;
        let more = lines[at + 1..]
            .iter()
            .take_while(|line| line.starts_with([' ', '\t']));
        let value: Vec<&str> = std::iter::once(first).chain(more.copied()).collect();
        Some(value.join(" ").trim().to_owned())
    };
    let enabled = field("Enabled").is_none_or(|value| !value.eq_ignore_ascii_case("no"));
    let binary = field("Types").is_some_and(|types| types.split_whitespace().any(|t| t == "deb"));
    let (Some(uris), Some(suites), true, true) = (field("URIs"), field("Suites"), enabled, binary)
    else {
        return Vec::new();
    };
    // A key may be given in place, over many lines; only a file can be named again.
    let signed_by = field("Signed-By").filter(|key| key.starts_with('/') && !key.contains(' '));
    let mut sources = Vec::new();
    for uri in uris.split_whitespace() {
        for suite in suites.split_whitespace() {
            sources.push(Source {
                uri: uri.to_owned(),
                suite: suite.to_owned(),
                signed_by: signed_by.clone(),
            });
        }
    }
    sources
}

/// What is to be done to have `suite`-backports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backports {
    /// Nothing: the source is there.
    Present,
    /// A file with this text.
    Missing(String),
    /// The machine does not say where its mirror is.
    NoMirror,
}

/// Looks for the backports of a release among the sources.
#[must_use]
pub fn backports(sources: &[Source], release: &str) -> Backports {
    let suite = format!("{release}-backports");
    if sources.iter().any(|source| source.suite == suite) {
        return Backports::Present;
    }
    let Some(main) = sources.iter().find(|source| source.suite == release) else {
        return Backports::NoMirror;
    };
    let mut text = format!(
        "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
        main.uri
    );
    if let Some(key) = &main.signed_by {
        text.push_str(&format!("Signed-By: {key}\n"));
    }
    Backports::Missing(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, key: Option<&str>) -> Source {
        Source {
            uri: uri.into(),
            suite: suite.into(),
            signed_by: key.map(str::to_owned),
        }
    }

    #[test]
    fn one_line_sources_of_all_shapes() {
        for (line, expected) in [
            (
                "deb http://m/debian bookworm main",
                Some(source("http://m/debian", "bookworm", None)),
            ),
            (
                "deb [arch=amd64 signed-by=/k.gpg]   http://m/debian\tbookworm-updates main # no",
                Some(source(
                    "http://m/debian",
                    "bookworm-updates",
                    Some("/k.gpg"),
                )),
            ),
            ("# deb http://m/debian bookworm main", None),
            ("deb-src http://m/debian bookworm main", None),
            ("deb http://m/debian", None),
            ("deb [broken http://m/debian bookworm", None),
            ("", None),
        ] {
            assert_eq!(one_line(line), expected, "{line}");
        }
    }

    #[test]
    fn paragraphs_of_all_shapes() {
        let text = "# a comment\nTypes: deb deb-src\nURIs: http://m/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\nSigned-By: /usr/share/k.gpg\n\n\
                    types: deb\nuris: http://m/security\nsuites: bookworm-security\nEnabled: yes\nSigned-By:\n -----BEGIN\n .\n key\n\n\
                    Types: deb\nURIs: http://m/off\nSuites: off\nEnabled: no\n\nTypes: deb-src\nURIs: http://m/src\nSuites: src\n";
        assert_eq!(
            paragraphs(text),
            [
                source("http://m/debian", "bookworm", Some("/usr/share/k.gpg")),
                source(
                    "http://m/debian",
                    "bookworm-updates",
                    Some("/usr/share/k.gpg")
                ),
                source("http://m/security", "bookworm-security", None),
            ]
        );
    }

    #[test]
    fn backports_come_from_the_machines_own_mirror_once() {
        let main = source("http://m/debian", "bookworm", Some("/k.gpg"));
        let other = source("http://o/other", "stable", None);
        assert_eq!(
            backports(&[other.clone(), main.clone()], "bookworm"),
            Backports::Missing(
                "Types: deb\nURIs: http://m/debian\nSuites: bookworm-backports\nComponents: main\nSigned-By: /k.gpg\n"
                    .into()
            )
        );
        let present = source("http://x/debian", "bookworm-backports", None);
        assert_eq!(backports(&[main, present], "bookworm"), Backports::Present);
        assert_eq!(backports(&[other], "bookworm"), Backports::NoMirror);
    }
}
