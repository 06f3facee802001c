//! What was measured with what: versions of rivals, compilers and emulators; the processor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// A `Cargo.lock`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub struct Lock {
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
}

/// Why there are no versions.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The system.
    #[error("Cargo.lock: {0}")]
    Io(#[from] std::io::Error),
    /// It is no lock file.
    #[error("Cargo.lock: {0}")]
    Toml(#[from] toml::de::Error),
}

impl Lock {
    /// Reads a lock file.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub fn read(file: &Path) -> Result<Self, LockError> {
        Ok(Self::parse(&std::fs::read_to_string(file)?)?)
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The versions of those of `names` that are crates. Where a crate is there more than once,
    /// all of its versions.
    pub fn versions<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> BTreeMap<String, String> {
        let known = names.into_iter().filter_map(|name| {
            let same = self.package.iter().filter(|package| package.name == name);
            let versions: Vec<&str> = same.map(|package| package.version.as_str()).collect();
            (!versions.is_empty()).then(|| (name.to_owned(), versions.join(", ")))
        });
        known.collect()
    }
}

/// The processor of this machine, in its own words.
#[must_use]
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    match model(&info) {
        Some(model) => format!("{model}, {count} threads"),
        None => format!("{}, {count} threads", std::env::consts::ARCH),
    }
}

fn model(info: &str) -> Option<&str> {
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_file() {
        let lock = Lock::parse(
            "version = 4\n\n\
             [[package]]\nname = \"a\"\nversion = \"0.1.3\"\ndependencies = [\n \"b\",\n]\n\n\
             [[package]]\nname = \"b\"\nversion = \"1.0.0\"\nsource = \"registry\"\n\n\
             [[package]]\nname = \"b\"\nversion = \"2.0.0\"\n",
        )
        .unwrap();
        let expected = BTreeMap::from([
            ("a".to_owned(), "0.1.3".to_owned()),
            ("b".to_owned(), "1.0.0, 2.0.0".to_owned()),
        ]);
        assert_eq!(lock.versions(["b", "BTreeMap", "a", "b"]), expected);
        assert!(Lock::parse("package = 3").is_err());
    }

    #[test]
    fn our_own_lock_file_is_read() {
        let lock = Lock::read(&crate::project_root().join("Cargo.lock")).unwrap();
        assert_eq!(
            lock.versions(["virtio-drivers"])["virtio-drivers"],
            "0.13.0"
        );
    }

    #[test]
    fn the_processor_is_named() {
        let info = "processor\t: 0\nvendor_id\t: X\nmodel name\t: A Processor @ 2 GHz\n";
        assert_eq!(model(info), Some("A Processor @ 2 GHz"));
        assert_eq!(model("processor\t: 0\n"), None);
    }
}
