//! `cargo xtask test --report`: runs every test, keeps what each proves, and writes the pages.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::data::{Data, DataError};
use super::long_runs::{self, LongRun, LongRuns};
use super::proof::PROOFS_VARIABLE;
use super::{collect, html, markdown, scan};
use crate::Arch;
use crate::ci::{self, CheckError};
use crate::qemu::{Qemu, QemuError};

/// Why there is no report, or one that is not green.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The tests are red. The report is written all the same, and shows it.
    #[error("{0}")]
    Tests(#[from] CheckError),
    /// QEMU is not there.
    #[error("{0}")]
    Qemu(#[from] QemuError),
    /// The file system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The data.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The long runs.
    #[error("{file}: {0}", file = long_runs::FILE)]
    LongRuns(#[from] toml::de::Error),
    /// A claim that makes no sense.
    #[error("{0}")]
    Claim(String),
    /// Tests that claim something have not run.
    #[error("nothing was kept of {}: not run", .0.join(", "))]
    Silent(Vec<String>),
}

/// The three files of the report, in a folder.
#[must_use]
pub fn files(docs: &Path) -> [PathBuf; 3] {
    ["json", "md", "html"].map(|extension| docs.join(format!("conformance.{extension}")))
}

/// Runs the tests on all of `archs`, and writes the report.
///
/// # Errors
///
/// [`ReportError`].
pub fn run(archs: &[Arch]) -> Result<(), ReportError> {
    let root = crate::project_root();
    let functions = scan::functions(root)?.map_err(|gap| ReportError::Claim(gap.to_string()))?;
    let mut qemu = BTreeMap::new();
    for &arch in archs {
        let version = Qemu::find(arch)?.version.to_string();
        qemu.insert(arch.name().to_owned(), version);
    }
    let dir = crate::target_dir().join("proofs");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let tests = ci::test_keeping(archs, &[(PROOFS_VARIABLE, &dir.to_string_lossy())]);
    let records = collect::records(&dir)?;
    let mut data = collect::data(&functions, &records, today(), qemu);
    data.long_runs = long_runs(root)?;
    write(&data, &root.join("docs"))?;
    tests?;
    let silent = collect::silent(&functions, &records);
    if silent.is_empty() {
        Ok(())
    } else {
        Err(ReportError::Silent(silent))
    }
}

/// Makes the pages again, of what the last run has found out and of what long runs have reached.
///
/// # Errors
///
/// [`ReportError`].
pub fn page_alone() -> Result<(), ReportError> {
    let docs = crate::project_root().join("docs");
    let [json, ..] = files(&docs);
    let mut data = Data::read(&json)?;
    data.long_runs = long_runs(crate::project_root())?;
    write(&data, &docs)
}

fn long_runs(root: &Path) -> Result<Vec<LongRun>, ReportError> {
    let text = fs::read_to_string(root.join(long_runs::FILE))?;
    Ok(LongRuns::parse(&text)?.run)
}

fn write(data: &Data, docs: &Path) -> Result<(), ReportError> {
    let texts = [
        data.to_json().map_err(DataError::from)?,
        markdown::page(data),
        html::page(data),
    ];
    fs::create_dir_all(docs)?;
    for (file, text) in files(docs).iter().zip(texts) {
        fs::write(file, text)?;
        println!("{}", file.display());
    }
    Ok(())
}

/// The day, in UTC.
pub(crate) fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    civil(now.map_or(0, |now| now.as_secs() / 86_400))
}

/// A day since the beginning of 1970, as year, month and day of the Gregorian calendar.
fn civil(days: u64) -> String {
    // Years begin in March, so that the day that is not always there is the last one.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::rules;

    #[test]
    fn days_are_counted() {
        for (days, date) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_453, "2025-12-31"),
            (20_454, "2026-01-01"),
        ] {
            assert_eq!(civil(days), date);
        }
    }

    /// This very run replaces the files: what is there now may be of another table.
    fn being_written() -> bool {
        std::env::var_os(PROOFS_VARIABLE).is_some()
    }

    #[test]
    fn the_committed_pages_are_those_of_the_committed_data() {
        if being_written() {
            return;
        }
        let [json, markdown, html] = files(&crate::project_root().join("docs"));
        let data = Data::read(&json).unwrap();
        assert_eq!(fs::read_to_string(&json).unwrap(), data.to_json().unwrap());
        assert!(fs::read_to_string(markdown).unwrap() == markdown::page(&data));
        assert!(fs::read_to_string(html).unwrap() == html::page(&data));
    }

    #[test]
    fn the_committed_data_has_the_rules_of_the_table() {
        if being_written() {
            return;
        }
        let [json, ..] = files(&crate::project_root().join("docs"));
        let data = Data::read(&json).unwrap();
        assert_eq!(data.long_runs, long_runs(crate::project_root()).unwrap());
        let table: Vec<&str> = rules::all().map(|rule| rule.id).collect();
        let found: Vec<&str> = data.rules.iter().map(|rule| rule.id.as_str()).collect();
        assert_eq!(found, table);
        for (rule, found) in rules::all().zip(&data.rules) {
            assert_eq!(found.state, rule.state.name(), "{}", rule.id);
            assert_eq!(found.level, rule.level.name(), "{}", rule.id);
            assert_eq!(found.needs, rule.oracles, "{}", rule.id);
        }
    }
}
