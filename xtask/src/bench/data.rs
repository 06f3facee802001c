//! `docs/performance.json`: rows, and what they were measured with.
//!
//! One row a line, in a fixed order, so that a change of the file shows what has changed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::io::rows::IoRow;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The benchmark.
    pub section: String,
    /// What was done.
    pub name: String,
    /// The emulated architecture, if it was measured in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// By whom; see [`super::compare::OURS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rival: Option<String>,
    /// How many at once, or among how many.
    pub size: u64,
    /// The median.
    pub value: f64,
    /// Of the value and of the spread; for one of what the name says.
    pub unit: String,
    /// The lower end of the spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The upper end of the spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// What measures it again.
    pub command: String,
    /// Columns of one section only.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// What the rows of a section, on an architecture, were measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The section.
    pub section: String,
    /// The architecture, if it was in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// What was booted, where it is not this kernel alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The version of QEMU, if it was in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<String>,
    /// The version of the compiler.
    pub rustc: String,
    /// The processor of the host.
    pub cpu: String,
    /// The versions of the rivals that are crates.
    pub rivals: BTreeMap<String, String>,
    /// The command lines that measured, with paths seen from the root of the project.
    pub commands: Vec<String>,
    /// How it was measured, and what the spread is.
    pub how: String,
    /// What one section only has to tell.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// What was measured with what.
    pub runs: Vec<Run>,
    /// The figures.
    pub rows: Vec<Row>,
    /// Those of disks, which have columns of their own.
    #[serde(default)]
    pub io: Vec<IoRow>,
}

/// Why the file is not read, or not written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what this program writes.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl Data {
    /// Reads the file; one that does not exist is empty.
    ///
    /// # Errors
    ///
    /// [`DataError`].
    pub fn read(file: &Path) -> Result<Self, DataError> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(serde_json::from_str(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the file, and its folder.
    ///
    /// # Errors
    ///
    /// [`DataError`].
    pub fn write(&self, file: &Path) -> Result<(), DataError> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        Ok(std::fs::write(file, self.to_json()?)?)
    }

    /// Puts what was just measured in the place of what is there of the same section, of the same
    /// system, on the same architecture. All else stays.
    pub fn merge(&mut self, new: Self) {
        let key = |run: &Run| (run.section.clone(), run.arch.clone(), run.system.clone());
        let replaced: Vec<_> = new.runs.iter().map(key).collect();
        let stays = |section: &str, arch: Option<&str>, system: Option<&str>| {
            !replaced
                .iter()
                .any(|(s, a, y)| (&**s, a.as_deref(), y.as_deref()) == (section, arch, system))
        };
        self.runs
            .retain(|run| stays(&run.section, run.arch.as_deref(), run.system.as_deref()));
        self.rows
            .retain(|row| stays(&row.section, row.arch.as_deref(), None));
        self.io
            .retain(|row| stays(&row.section, Some(&row.arch), Some(&row.system)));
        self.runs.extend(new.runs);
        self.rows.extend(new.rows);
        self.io.extend(new.io);
        self.sort();
    }

    /// Puts everything into the order of the file.
    pub fn sort(&mut self) {
        let key = |run: &Run| {
            let ours = run.system.as_deref() == Some(super::io::OURS);
            (
                run.section.clone(),
                run.arch.clone(),
                !ours,
                run.system.clone(),
            )
        };
        self.runs.sort_by_cached_key(key);
        self.io.sort_by_cached_key(IoRow::key);
        self.rows.sort_by(|a, b| {
            let key = |row: &Row| {
                let Row {
                    section,
                    name,
                    arch,
                    rival,
                    size,
                    unit,
                    ..
                } = row.clone();
                (section, arch, unit, name, size, rival)
            };
            key(a).cmp(&key(b))
        });
    }

    /// The text of the file.
    ///
    /// # Errors
    ///
    /// A value that JSON does not have, such as an infinite one.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut text = String::from("{\n");
        list(&mut text, "runs", &self.runs)?;
        text.push_str(",\n");
        list(&mut text, "rows", &self.rows)?;
        text.push_str(",\n");
        list(&mut text, "io", &self.io)?;
        text.push_str("\n}\n");
        Ok(text)
    }
}

/// A field with a list, one element a line.
fn list<T: Serialize>(text: &mut String, name: &str, all: &[T]) -> Result<(), serde_json::Error> {
    let _ = write!(text, "\"{name}\": [");
    for (i, one) in all.iter().enumerate() {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(&serde_json::to_string(one)?);
    }
    text.push_str("\n]");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(section: &str, arch: Option<&str>, name: &str, size: u64, value: f64) -> Row {
        Row {
            section: section.into(),
            name: name.into(),
            arch: arch.map(Into::into),
            rival: Some("ours".into()),
            size,
            value,
            unit: "ns".into(),
            low: None,
            high: Some(9.5),
            command: "cargo xtask bench".into(),
            more: BTreeMap::new(),
        }
    }

    fn run(section: &str, arch: Option<&str>, rustc: &str) -> Run {
        Run {
            section: section.into(),
            arch: arch.map(Into::into),
            system: None,
            qemu: None,
            rustc: rustc.into(),
            cpu: "a processor".into(),
            rivals: BTreeMap::from([("vm-allocator".into(), "0.1.3".into())]),
            commands: vec!["cargo bench".into()],
            how: "medians".into(),
            more: BTreeMap::new(),
        }
    }

    #[test]
    fn the_text_is_one_row_a_line() {
        let mut data = Data {
            runs: vec![run("iova", None, "1.95.0")],
            rows: vec![
                row("iova", None, "ring", 100, 21.5),
                row("iova", None, "random", 1000, 3.0),
                row("iova", None, "random", 100, 2.0),
            ],
            io: Vec::new(),
        };
        data.sort();
        let expected = r#"{
"runs": [
{"section":"iova","rustc":"1.95.0","cpu":"a processor","rivals":{"vm-allocator":"0.1.3"},"commands":["cargo bench"],"how":"medians"}
],
"rows": [
{"section":"iova","name":"random","rival":"ours","size":100,"value":2.0,"unit":"ns","high":9.5,"command":"cargo xtask bench"},
{"section":"iova","name":"random","rival":"ours","size":1000,"value":3.0,"unit":"ns","high":9.5,"command":"cargo xtask bench"},
{"section":"iova","name":"ring","rival":"ours","size":100,"value":21.5,"unit":"ns","high":9.5,"command":"cargo xtask bench"}
],
"io": [
]
}
"#;
        assert_eq!(data.to_json().unwrap(), expected);
        assert_eq!(serde_json::from_str::<Data>(expected).unwrap(), data);
    }

    #[test]
    fn only_what_was_measured_is_replaced() {
        let mut data = Data::default();
        let arch = Some("riscv64");
        data.merge(Data {
            runs: vec![
                run("requests", arch, "1"),
                run("requests", Some("x86_64"), "1"),
            ],
            rows: vec![
                row("requests", arch, "map", 1, 1.0),
                row("requests", arch, "gone", 1, 1.0),
                row("requests", Some("x86_64"), "map", 1, 1.0),
            ],
            io: Vec::new(),
        });
        data.merge(Data {
            runs: vec![run("requests", arch, "2")],
            rows: vec![row("requests", arch, "map", 1, 2.0)],
            io: Vec::new(),
        });
        let rows = [
            row("requests", arch, "map", 1, 2.0),
            row("requests", Some("x86_64"), "map", 1, 1.0),
        ];
        assert_eq!(data.rows, rows);
        let runs = [
            run("requests", arch, "2"),
            run("requests", Some("x86_64"), "1"),
        ];
        assert_eq!(data.runs, runs);
    }

    #[test]
    fn the_rows_of_each_system_are_replaced_by_themselves() {
        use crate::bench::io::rows::tests::row as io_row;
        let arch = Some("aarch64");
        let of = |system: &str, rustc: &str, modes: &[&str]| Data {
            runs: vec![Run {
                system: Some(system.into()),
                ..run("io", arch, rustc)
            }],
            rows: Vec::new(),
            io: modes.iter().map(|mode| io_row(system, mode)).collect(),
        };
        let mut data = Data::default();
        data.merge(of("linux", "1", &["strict", "lazy"]));
        data.merge(of("ours", "1", &["bounce", "strict"]));
        data.merge(of("linux", "2", &["lazy"]));
        let rows = [
            io_row("ours", "strict"),
            io_row("ours", "bounce"),
            io_row("linux", "lazy"),
        ];
        assert_eq!(data.io, rows);
        let runs: Vec<_> = data.runs.iter().map(|run| &*run.rustc).collect();
        assert_eq!(runs, ["1", "2"]);
        let text = data.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Data>(&text).unwrap(), data);
    }
}
