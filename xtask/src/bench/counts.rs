//! What is counted on the host, and not timed: nodes visited by one operation, bytes of a mapping.
//!
//! The benchmark `steps` says it, in a build of its own: counting would slow what is timed.

use std::collections::BTreeMap;

use super::compare::AVERAGE;
use super::data::Row;

/// What counts.
pub const WORDS: [&str; 7] = [
    "bench",
    "--package",
    "virtio-iommu",
    "--features",
    "count-steps",
    "--bench",
    "steps",
];

/// The unit of what an operation visits.
pub const NODES: &str = "nodes";
/// The unit of what a mapping takes.
pub const BYTES: &str = "bytes";
/// Before the kind of operation, in the name of a row.
pub const STEPS: &str = "steps-";

/// Reads all lines of the benchmark; `command` is what measures it again.
///
/// # Errors
///
/// What is wrong, with the line: one that is of no known form, there twice, or an average above the
/// worst. No line at all of one of the two forms.
pub fn rows(text: &str, command: &str) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        let row = row(line, command).ok_or_else(|| format!("an unknown line: `{line}`"))?;
        let key = |row: &Row| (row.section.clone(), row.name.clone(), row.size);
        if rows.iter().any(|other| key(other) == key(&row)) {
            return Err(format!("this is there twice: `{line}`"));
        }
        rows.push(row);
    }
    for unit in [NODES, BYTES] {
        if !rows.iter().any(|row| row.unit == unit) {
            return Err(format!("no figure in {unit}"));
        }
    }
    Ok(rows)
}

/// `steps SECTION KIND SIZE average=X worst=N`, or `size SECTION NAME BYTES`.
fn row(line: &str, command: &str) -> Option<Row> {
    let words: Vec<&str> = line.split(' ').collect();
    let counted =
        |section: &str, name: String, rival: Option<&str>, size, value: u64, unit: &str| Row {
            section: section.into(),
            name,
            arch: None,
            rival: rival.map(Into::into),
            size,
            value: value as f64,
            unit: unit.into(),
            low: None,
            high: None,
            command: command.into(),
            more: BTreeMap::new(),
        };
    match words[..] {
        ["steps", section, kind, size, average, worst] => {
            let average: f64 = average.strip_prefix("average=")?.parse().ok()?;
            let worst: u64 = worst.strip_prefix("worst=")?.parse().ok()?;
            // Neither is a number that is none.
            if !(0.0..=worst as f64).contains(&average) {
                return None;
            }
            let name = format!("{STEPS}{kind}");
            let size = size.parse().ok()?;
            let mut row = counted(section, name, Some("ours"), size, worst, NODES);
            row.more.insert(AVERAGE.into(), average.into());
            Some(row)
        }
        ["size", section, name, bytes] => {
            let bytes = bytes.parse().ok()?;
            Some(counted(section, name.into(), None, 1, bytes, BYTES))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
steps iova alloc 100 average=1.250 worst=14
steps iova free 100 average=2.000 worst=2
size ledger mapping 48
";

    #[test]
    fn lines_become_rows() {
        let alloc = Row {
            section: "iova".into(),
            name: "steps-alloc".into(),
            arch: None,
            rival: Some("ours".into()),
            size: 100,
            value: 14.0,
            unit: "nodes".into(),
            low: None,
            high: None,
            command: "measure".into(),
            more: BTreeMap::from([("average".into(), 1.25.into())]),
        };
        let free = Row {
            name: "steps-free".into(),
            value: 2.0,
            more: BTreeMap::from([("average".into(), 2.0.into())]),
            ..alloc.clone()
        };
        let size = Row {
            section: "ledger".into(),
            name: "mapping".into(),
            rival: None,
            size: 1,
            value: 48.0,
            unit: "bytes".into(),
            more: BTreeMap::new(),
            ..alloc.clone()
        };
        assert_eq!(rows(TEXT, "measure"), Ok(vec![alloc, free, size]));
    }

    #[test]
    fn other_lines_are_refused() {
        for (old, new) in [
            ("steps iova", "steps"),
            ("steps iova", "stops iova"),
            ("alloc 100", "alloc many"),
            ("average=1.250", "average=x"),
            ("average=1.250", "average=nan"),
            ("average=1.250", "average=14.5"),
            ("average=1.250", "1.250"),
            ("worst=14", "worst=-14"),
            ("worst=14", "worst=14 more"),
            ("free", "alloc"),
            ("mapping 48", "mapping"),
            ("mapping 48", "mapping 48.0"),
            ("size ledger mapping 48\n", ""),
            ("size ledger", "\nsize ledger"),
        ] {
            let text = TEXT.replacen(old, new, 1);
            assert_ne!(text, TEXT, "{old}");
            assert!(rows(&text, "measure").is_err(), "{text}");
        }
        assert!(rows("size ledger mapping 48\n", "measure").is_err());
        assert!(rows("", "measure").is_err());
    }
}
