//! What is measured on the host: `cargo bench`, and what Criterion leaves behind.
//!
//! Benchmarks are called `section/name/rival/size`. Criterion keeps a folder for each, with the
//! estimates of the last run in `new`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::SystemTime;

use serde::Deserialize;

use super::counts;
use super::data::{Data, Row, Run};
use super::versions::{Lock, LockError, cpu};
use crate::ci::host_cargo;
use crate::command::quoted;
use crate::toolchain;

/// What measures time: by name, because not all benchmarks do, and a pattern would ask for what the
/// others need.
const WORDS: [&str; 9] = [
    "bench",
    "--package",
    "virtio-iommu",
    "--features",
    "internals",
    "--bench",
    "iova",
    "--bench",
    "ledger",
];
/// What measures it again, and writes it down.
const COMMAND: &str = "cargo xtask bench --host";

/// Why there are no figures from the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Cargo could not be started.
    #[error("cargo: {0}")]
    Start(std::io::Error),
    /// It failed, and has said why.
    #[error("`cargo {0}` failed ({1})")]
    Failed(String, ExitStatus),
    /// There is nothing new in the folder.
    #[error("`cargo {words}` has measured nothing: no new estimates in {dir}", words = quoted(WORDS), dir = .0.display())]
    Nothing(PathBuf),
    /// What is counted is not told as it should be.
    #[error("`cargo {words}`: {0}", words = quoted(counts::WORDS))]
    Counts(String),
    /// Something in there cannot be read.
    #[error("{}: {why}", .file.display())]
    Read {
        /// What.
        file: PathBuf,
        /// Why not.
        why: String,
    },
    /// A benchmark with a name of its own.
    #[error("the benchmark `{0}` is not called section/name/rival/size")]
    Name(String),
    /// No versions.
    #[error("{0}")]
    Lock(#[from] LockError),
}

/// Runs the benchmarks of the host; returns a part of the data for each section.
///
/// # Errors
///
/// [`HostError`].
pub fn measure() -> Result<Vec<Data>, HostError> {
    println!("== on the host: cargo {}", quoted(WORDS));
    let dir = crate::target_dir().join("criterion");
    let started = SystemTime::now();
    let mut cargo = host_cargo();
    // Where they are looked for.
    cargo.args(WORDS).env("CRITERION_HOME", &dir);
    let status = cargo.status().map_err(HostError::Start)?;
    if !status.success() {
        return Err(HostError::Failed(quoted(WORDS), status));
    }
    let mut rows = rows_in(&dir, started)?;
    if rows.is_empty() {
        return Err(HostError::Nothing(dir));
    }
    rows.extend(counted()?);
    let lock = Lock::read(&crate::project_root().join("Cargo.lock"))?;
    let rustc = toolchain::callers_rustc_version().unwrap_or_else(|| "unknown".into());
    Ok(by_section(rows)
        .into_iter()
        .map(|(section, rows)| {
            let rivals: BTreeSet<&str> =
                rows.iter().filter_map(|row| row.rival.as_deref()).collect();
            let run = Run {
                section,
                arch: None,
                system: None,
                qemu: None,
                rustc: rustc.clone(),
                cpu: cpu(),
                rivals: lock.versions(rivals.into_iter().chain(["criterion"])),
                commands: [&WORDS[..], &counts::WORDS]
                    .map(|words| format!("cargo {}", quoted(words)))
                    .into(),
                how: "On the host. Time by Criterion: medians, with their 95 % confidence interval as spread; \
                      for one element where the benchmark says how many it handles. Nodes: how many of its tree \
                      one operation visits, the worst of all and the average; counted by a build of its own, \
                      which is not timed."
                    .into(),
                more: BTreeMap::new(),
            };
            Data {
                runs: vec![run],
                rows,
                ..Data::default()
            }
        })
        .collect())
}

/// Runs what counts, and shows what it says.
fn counted() -> Result<Vec<Row>, HostError> {
    println!("== on the host: cargo {}", quoted(counts::WORDS));
    let mut cargo = host_cargo();
    cargo.args(counts::WORDS).stderr(Stdio::inherit());
    let output = cargo.output().map_err(HostError::Start)?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    if !output.status.success() {
        return Err(HostError::Failed(quoted(counts::WORDS), output.status));
    }
    counts::rows(&text, COMMAND).map_err(HostError::Counts)
}

fn by_section(rows: Vec<Row>) -> BTreeMap<String, Vec<Row>> {
    let mut sections: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        sections.entry(row.section.clone()).or_default().push(row);
    }
    sections
}

/// `benchmark.json`, as far as it matters here.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    #[serde(default)]
    throughput: Option<Throughput>,
}

#[derive(Deserialize)]
enum Throughput {
    Elements(u64),
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

/// `estimates.json`, as far as it matters here: nanoseconds per iteration.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// The rows of all benchmarks under `dir` whose estimates are not older than `since`.
fn rows_in(dir: &Path, since: SystemTime) -> Result<Vec<Row>, HostError> {
    let mut rows = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        if !dir.is_dir() {
            continue;
        }
        if dir.file_name().is_some_and(|name| name == "new") {
            let file = dir.join("estimates.json");
            // The clock of a file system may be a little behind.
            let slack = std::time::Duration::from_secs(1);
            let fresh = |time| time + slack >= since;
            if file
                .metadata()
                .and_then(|data| data.modified())
                .is_ok_and(fresh)
            {
                let estimates = read(&file, &file_text(&file)?)?;
                let file = dir.join("benchmark.json");
                let benchmark = read(&file, &file_text(&file)?)?;
                rows.push(row(benchmark, estimates)?);
            }
            continue;
        }
        let entries = dir.read_dir().map_err(|error| unreadable(&dir, &error))?;
        for entry in entries {
            dirs.push(entry.map_err(|error| unreadable(&dir, &error))?.path());
        }
    }
    Ok(rows)
}

fn file_text(file: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))
}

fn read<T: for<'de> Deserialize<'de>>(file: &Path, text: &str) -> Result<T, HostError> {
    serde_json::from_str(text).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, why: &dyn std::error::Error) -> HostError {
    HostError::Read {
        file: file.into(),
        why: why.to_string(),
    }
}

fn row(benchmark: Benchmark, estimates: Estimates) -> Result<Row, HostError> {
    let Benchmark {
        full_id,
        throughput,
    } = benchmark;
    let words: Vec<&str> = full_id.split('/').collect();
    let (section, name, rival, size) = match words[..] {
        [section, name, rival, size] => match size.parse() {
            Ok(size) => (section, name, rival, size),
            Err(_) => return Err(HostError::Name(full_id)),
        },
        _ => return Err(HostError::Name(full_id)),
    };
    let each = match throughput {
        Some(Throughput::Elements(elements)) if elements > 0 => elements as f64,
        _ => 1.0,
    };
    let Estimate {
        point_estimate,
        confidence_interval: interval,
    } = estimates.median;
    // To a thousandth of a nanosecond: the rest is noise.
    let rounded = |nanoseconds: f64| (nanoseconds / each * 1000.0).round() / 1000.0;
    Ok(Row {
        section: section.into(),
        name: name.into(),
        arch: None,
        rival: Some(rival.into()),
        size,
        value: rounded(point_estimate),
        unit: "ns".into(),
        low: Some(rounded(interval.lower_bound)),
        high: Some(rounded(interval.upper_bound)),
        command: COMMAND.into(),
        more: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// As Criterion 0.8 writes them.
    const BENCHMARK: &str = r#"{"group_id":"iova/random","function_id":"ours","value_str":"1000",
        "throughput":{"Elements":10},"full_id":"iova/random/ours/1000",
        "directory_name":"iova_random/ours/1000","title":"iova/random/ours/1000"}"#;
    const ESTIMATES: &str = r#"{"mean":{"confidence_interval":{"confidence_level":0.95,
        "lower_bound":1.0,"upper_bound":3.0},"point_estimate":2.0,"standard_error":0.1},
        "median":{"confidence_interval":{"confidence_level":0.95,"lower_bound":199.99996,
        "upper_bound":221.5},"point_estimate":210.12349,"standard_error":0.2},"slope":null}"#;

    /// A folder as Criterion leaves it, gone with this value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("viommu-bench-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn add(&self, dir: &str, benchmark: &str, estimates: &str) {
            let dir = self.0.join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("benchmark.json"), benchmark).unwrap();
            std::fs::write(dir.join("estimates.json"), estimates).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn estimates_become_rows_per_element() {
        let folder = Folder::new("rows");
        folder.add("iova_random/ours/1000/new", BENCHMARK, ESTIMATES);
        folder.add("iova_random/ours/1000/base", BENCHMARK, ESTIMATES);
        let bytes = BENCHMARK
            .replace(r#"{"Elements":10}"#, r#"{"Bytes":10}"#)
            .replace("ours", "BTreeMap");
        folder.add("iova_random/BTreeMap/1000/new", &bytes, ESTIMATES);
        std::fs::create_dir_all(folder.0.join("report")).unwrap();
        let mut rows = rows_in(&folder.0, SystemTime::now() - Duration::from_secs(60)).unwrap();
        rows.sort_by(|a, b| a.rival.cmp(&b.rival));
        let ours = Row {
            section: "iova".into(),
            name: "random".into(),
            arch: None,
            rival: Some("ours".into()),
            size: 1000,
            value: 21.012,
            unit: "ns".into(),
            low: Some(20.0),
            high: Some(22.15),
            command: COMMAND.into(),
            more: BTreeMap::new(),
        };
        let other = Row {
            rival: Some("BTreeMap".into()),
            value: 210.123,
            low: Some(200.0),
            high: Some(221.5),
            ..ours.clone()
        };
        assert_eq!(rows, [other, ours]);
    }

    #[test]
    fn every_benchmark_of_the_manifest_is_run() {
        let text = std::fs::read_to_string(crate::project_root().join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let mut known: Vec<&str> = manifest["bench"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bench| bench["name"].as_str().unwrap())
            .collect();
        known.sort_unstable();
        let named = |words: &[&'static str]| -> Vec<&str> {
            let pairs = words.windows(2).filter(|pair| pair[0] == "--bench");
            pairs.map(|pair| pair[1]).collect()
        };
        let mut run = named(&WORDS);
        run.extend(named(&counts::WORDS));
        run.sort_unstable();
        assert_eq!(run, known);
        // Counting would slow what is timed.
        assert!(!WORDS.contains(&"count-steps"));
    }

    #[test]
    fn what_an_earlier_run_has_left_is_not_taken() {
        let folder = Folder::new("old");
        folder.add("iova_random/ours/1000/new", BENCHMARK, ESTIMATES);
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(rows_in(&folder.0, later).unwrap(), []);
        assert_eq!(rows_in(&folder.0.join("none"), later).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        let since = SystemTime::now() - Duration::from_secs(60);
        for (name, benchmark, estimates) in [
            (
                "id",
                BENCHMARK.replace("iova/random/ours/1000", "iova/ours/1000"),
                ESTIMATES.into(),
            ),
            (
                "size",
                BENCHMARK.replace("ours/1000", "ours/many"),
                ESTIMATES.into(),
            ),
            ("json", "{".into(), ESTIMATES.into()),
            (
                "median",
                BENCHMARK.into(),
                ESTIMATES.replace("median", "mode"),
            ),
        ] {
            let folder = Folder::new(name);
            folder.add("x/new", &benchmark, &estimates);
            assert!(rows_in(&folder.0, since).is_err(), "{name}");
        }
    }
}
