//! The package sources of this machine, in both syntaxes of apt, and the source of backports that
//! is made from them.

use std::fmt::Write;
use std::path::Path;

/// One enabled source of binary packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The mirrors.
    pub uris: Vec<String>,
    /// The suites: `bookworm`, `bookworm-updates`.
    pub suites: Vec<String>,
    /// The components: `main`.
    pub components: Vec<String>,
    /// `Signed-By` as written: file names or key ids, or a whole key of several lines.
    pub signed_by: Option<String>,
    /// `Trusted` as written.
    pub trusted: Option<String>,
}

impl Source {
    fn offers(&self, suite: &str) -> bool {
        self.suites.iter().any(|known| known == suite)
            && self.components.iter().any(|known| known == "main")
    }

    /// A CD is no mirror that could have another suite.
    fn is_mirror(&self) -> bool {
        !self.uris.is_empty() && !self.uris.iter().any(|uri| uri.starts_with("cdrom:"))
    }
}

/// Reads the sources that apt would read in `etc`, which is `/etc/apt`. What cannot be read is
/// skipped: apt says so better than we could.
#[must_use]
pub fn read(etc: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    if let Ok(text) = std::fs::read_to_string(etc.join("sources.list")) {
        sources.extend(parse_one_line(&text));
    }
    let mut files: Vec<_> = std::fs::read_dir(etc.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    for file in files {
        let parse = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => parse_one_line,
            Some("sources") => parse_deb822,
            // Backups, disabled files: apt does not read them either.
            _ => continue,
        };
        if let Ok(text) = std::fs::read_to_string(&file) {
            sources.extend(parse(&text));
        }
    }
    sources
}

/// Reads the one-line syntax, `deb [option=value …] URI suite component…`.
#[must_use]
pub fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    // `deb-src` is not for us; and `deb` ends with a space, or with the bracket of the options.
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let mut rest = rest.trim_start();
    let mut source = Source::default();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        for option in options.split_whitespace() {
            match option.split_once('=') {
                Some(("signed-by", value)) => source.signed_by = Some(value.replace(',', " ")),
                Some(("trusted", value)) => source.trusted = Some(value.to_owned()),
                _ => {}
            }
        }
        rest = after.trim_start();
    }
    if rest.starts_with("cdrom:") {
        return None;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    source.uris.push(words.next()?);
    source.suites.push(words.next()?);
    source.components.extend(words);
    Some(source)
}

/// Reads the deb822 syntax: stanzas of `Field: value`, with continuation lines.
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(from_stanza(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line.trim_end());
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.push((field.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn from_stanza(stanza: &[(String, String)]) -> Option<Source> {
    let field = |name: &str| {
        let found = stanza.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    };
    let words = |name: &str| -> Vec<String> {
        let value = field(name).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect()
    };
    let enabled = field("enabled").unwrap_or("yes").to_lowercase();
    if matches!(
        enabled.as_str(),
        "no" | "false" | "0" | "off" | "without" | "disable"
    ) || !words("types").iter().any(|word| word == "deb")
    {
        return None;
    }
    let text = |name| {
        field(name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    };
    Some(Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: text("signed-by"),
        trusted: text("trusted"),
    })
}

/// The suite of the backports for `release`.
#[must_use]
pub fn backports_of(release: &str) -> String {
    format!("{release}-backports")
}

/// Whether the backports for `release` are among the sources.
#[must_use]
pub fn has_backports(sources: &[Source], release: &str) -> bool {
    let suite = backports_of(release);
    sources.iter().any(|source| source.offers(&suite))
}

/// A source file for the backports for `release`, with the mirror, and the key, that this machine
/// uses for the release itself. `None` if it has no mirror for it.
#[must_use]
pub fn backports_file(sources: &[Source], release: &str) -> Option<String> {
    let text = suite_file(sources, release, &backports_of(release))?;
    Some(format!(
        "# Added by `cargo xtask` of virtio-iommu: the QEMU of this release is too old for it.\n{text}"
    ))
}

/// A source file for `suite`, with the mirror, and the key, that this machine uses for its release itself. `None` if it
/// has no mirror for it.
#[must_use]
pub fn suite_file(sources: &[Source], release: &str, suite: &str) -> Option<String> {
    let updates = format!("{release}-updates");
    // A release may be named by its age.
    let mirror = [release, &updates, "oldstable", "stable"]
        .into_iter()
        .find_map(|suite| {
            let mut mirrors = sources.iter().filter(|source| source.is_mirror());
            mirrors.find(|source| source.offers(suite))
        })?;
    let mut text = String::new();
    let uris = mirror.uris.join(" ");
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "Types: deb\nURIs: {uris}\nSuites: {suite}\nComponents: main\n"
    );
    let kept = [
        ("Signed-By", &mirror.signed_by),
        ("Trusted", &mirror.trusted),
    ];
    for (field, value) in kept {
        if let Some(value) = value {
            // A key of several lines begins on the line after the field.
            let space = if value.starts_with('\n') { "" } else { " " };
            let _ = writeln!(text, "{field}:{space}{value}");
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests;
