//! From what a run of the tests has kept to the data of the report.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::{fs, io};

use super::data::{Data, Entry as Row, HOST};
use super::proof::Record;
use super::scan::{self, Function};
use super::{Oracle, rules};

/// The personality of what is no model.
const QEMU: &str = "qemu";
/// A test of the host without a model.
const NONE: &str = "none";

/// Everything that was kept in a folder.
///
/// # Errors
///
/// The file system, or a line that is not a record.
pub fn records(dir: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir)? {
        for line in fs::read_to_string(entry?.path())?.lines() {
            records.push(serde_json::from_str(line)?);
        }
    }
    Ok(records)
}

/// One record of each test and each architecture: a test with many cases keeps one for each case.
fn together(records: &[Record]) -> Vec<Record> {
    let mut tests: BTreeMap<(&str, u32, Option<&str>), Record> = BTreeMap::new();
    for record in records {
        let key = (record.place.as_str(), record.line, record.arch.as_deref());
        match tests.entry(key) {
            Entry::Vacant(place) => {
                place.insert(record.clone());
            }
            Entry::Occupied(mut place) => {
                let known = place.get_mut();
                let met = known.personalities.iter().chain(&record.personalities);
                let mut met: Vec<String> = met.cloned().collect();
                // The last one is the red one.
                let last = if known.green { record } else { &*known };
                if let Some(last) = last.personalities.last().cloned() {
                    met.retain(|personality| *personality != last);
                    met.sort();
                    met.dedup();
                    met.push(last);
                }
                known.personalities = met;
                known.green &= record.green;
            }
        }
    }
    tests.into_values().collect()
}

/// Tests that claim something, and of which nothing was kept: they have not run.
#[must_use]
pub fn silent(functions: &[Function], records: &[Record]) -> Vec<String> {
    let ran = |function: &&Function| {
        let of = |record: &Record| record.place == function.file && record.line == function.line;
        !records.iter().any(of)
    };
    let silent = functions.iter().filter(ran);
    silent.map(|function| function.name.clone()).collect()
}

/// The report of a run.
#[must_use]
pub fn data(
    functions: &[Function],
    records: &[Record],
    date: String,
    qemu: BTreeMap<String, String>,
) -> Data {
    let mut entries: Vec<Row> = rules::all()
        .map(|rule| Row {
            id: rule.id.into(),
            level: rule.level.name().into(),
            section: rule.section.into(),
            text: rule.text.into(),
            state: rule.state.name().into(),
            reason: rule.state.reason().map(str::to_owned),
            needs: rule.oracles.to_vec(),
            oracles: Vec::new(),
            tests: Vec::new(),
            results: BTreeMap::new(),
        })
        .collect();
    let (not_run, ran): (Vec<Record>, Vec<Record>) = together(records)
        .into_iter()
        .partition(|record| record.not_applicable.is_some());
    let mut not_applicable: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for record in not_run {
        let place = record.arch.unwrap_or_else(|| HOST.to_owned());
        let of = not_applicable.entry(place).or_default();
        of.insert(record.place, record.not_applicable.unwrap_or_default());
    }
    for record in &ran {
        let place = record.arch.as_deref().unwrap_or(HOST);
        let name = match &record.arch {
            Some(_) => record.place.as_str(),
            None => scan::name_of(functions, &record.place, record.line).unwrap_or(&record.place),
        };
        for (oracle, ids) in &record.proves {
            for id in ids {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.id == *id) {
                    add(entry, place, name, *oracle, record);
                }
            }
        }
    }
    for entry in &mut entries {
        entry.tests.sort();
        entry.tests.dedup();
        entry.oracles.sort();
        entry.oracles.dedup();
    }
    Data {
        date,
        qemu,
        not_applicable,
        rules: entries,
        long_runs: Vec::new(),
    }
}

fn add(entry: &mut Row, place: &str, name: &str, oracle: Oracle, record: &Record) {
    entry.tests.push(name.to_owned());
    entry.oracles.push(oracle);
    let found = entry.results.entry(place.to_owned()).or_default();
    let found = found.entry(oracle).or_default();
    let default = [if record.arch.is_some() { QEMU } else { NONE }.to_owned()];
    let met = match record.personalities.as_slice() {
        [] => &default[..],
        met => met,
    };
    for (index, personality) in met.iter().enumerate() {
        let tally = found.entry(personality.clone()).or_default();
        if record.green || index + 1 < met.len() {
            tally.green += 1;
        } else {
            tally.red += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::data::{Tally, Verdict};
    use crate::conformance::{html, markdown};

    fn record(line: u32, green: bool, personalities: &[&str]) -> Record {
        Record {
            place: "tests/a.rs".into(),
            line,
            arch: None,
            green,
            not_applicable: None,
            personalities: personalities.iter().map(|p| (*p).to_owned()).collect(),
            proves: vec![(Oracle::Ret, vec!["DN-MAP-3".into()])],
        }
    }

    #[test]
    fn the_last_personality_is_the_red_one() {
        let functions = [Function {
            name: "a::first".into(),
            file: "tests/a.rs".into(),
            line: 3,
            claims: vec![],
        }];
        let guest = Record {
            place: "basic".into(),
            arch: Some("riscv64".into()),
            proves: vec![(Oracle::Trace, vec!["DN-OPS-4".into()])],
            ..record(0, true, &[])
        };
        let kept = [
            record(3, true, &["qemu", "strict"]),
            record(3, false, &["strict", "qemu"]),
            record(3, true, &["qemu", "strict"]),
            guest,
        ];
        let data = data(&functions, &kept, "2026-01-01".into(), BTreeMap::new());
        let rule = |id: &str| data.rules.iter().find(|rule| rule.id == id).unwrap();
        let map = rule("DN-MAP-3");
        assert_eq!(map.tests, ["a::first"]);
        let results = &map.results[HOST][&Oracle::Ret];
        assert_eq!(results["strict"], Tally { green: 1, red: 0 });
        assert_eq!(results["qemu"], Tally { green: 0, red: 1 });
        assert_eq!(map.whole(), Verdict::Red);
        // It needs RET, too.
        let range = rule("DN-OPS-4");
        assert_eq!(range.verdict("riscv64", Oracle::Trace), Verdict::Green);
        assert_eq!(range.whole(), Verdict::Red);
        assert_eq!(rule("GV-PACKED").whole(), Verdict::Open);
        assert_eq!(data.places(), [HOST, "riscv64"]);
        assert_eq!(silent(&functions, &kept[3..]), ["a::first"]);
        assert!(silent(&functions, &kept).is_empty());
        assert!(data.not_applicable.is_empty());
        // What is written is read again.
        let text = data.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Data>(&text).unwrap(), data);
    }

    #[test]
    fn what_is_not_applicable_is_neither_green_nor_red() {
        let kept = [Record {
            place: "granule-64k".into(),
            arch: Some("aarch64".into()),
            not_applicable: Some("no such property".into()),
            proves: vec![(Oracle::Trace, vec!["DN-OPS-4".into()])],
            ..record(0, false, &[])
        }];
        let data = data(&[], &kept, "2026-01-01".into(), BTreeMap::new());
        assert_eq!(
            data.not_applicable["aarch64"]["granule-64k"],
            "no such property"
        );
        assert_eq!(data.places(), [""; 0]);
        let line = "- Not applicable on aarch64: `granule-64k`, because no such property\n";
        assert!(markdown::page(&data).contains(line));
        assert!(html::page(&data).contains("granule-64k, because no such property"));
        let text = data.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Data>(&text).unwrap(), data);
    }
}
