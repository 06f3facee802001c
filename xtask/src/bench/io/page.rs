//! The tables of disks, and where another system is better.

use std::fmt::Write;

use super::super::table::{Table, number};
use super::OURS;
use super::goals::{Pair, pairs};
use super::rows::{IoRow, Spread};

/// What the columns are.
pub const HEAD: &str = "\
Per I/O: requests (MAP and UNMAP) and notifications that reached the IOMMU, instructions of the guest and how many of them
are added by the IOMMU (more than `none`, or than `bypass` where there is no `none`), I/Os per second as a part of those of
`bypass` in the same round, and what half and 99 % of the I/Os take at the most. In parentheses: what 10 % and 90 % of the
samples are below. Here are random places at depth 1, and the last three columns at depth 16; sequential places are in the
data file, and in the goals.
";

/// The pictures, for the page.
pub const PICTURES: [(&str, &str); 3] = [
    ("I/Os per second over bypass", super::plot::IOPS),
    ("Instructions added per I/O", super::plot::INSTRUCTIONS),
    ("Requests per I/O", super::plot::REQUESTS),
];

/// The tables of one architecture: one for each device, size, layout and operation.
#[must_use]
pub fn tables(rows: &[IoRow], arch: &str) -> String {
    let mut here: Vec<&IoRow> = rows.iter().filter(|row| row.arch == arch).collect();
    here.sort_by_cached_key(|row| row.key());
    let shape = |row: &IoRow| {
        (
            row.device.clone(),
            row.size,
            row.layout.clone(),
            row.operation.clone(),
        )
    };
    let mut shapes: Vec<_> = here.iter().map(|row| shape(row)).collect();
    shapes.dedup();
    let mut text = String::new();
    for one in shapes {
        let of_shape: Vec<&IoRow> = here
            .iter()
            .filter(|row| shape(row) == one)
            .copied()
            .collect();
        let (device, size, layout, operation) = one;
        let what = format!("{device} {operation} {}", called(size, &layout));
        let _ = write!(text, "\n{}", table(&what, &of_shape).markdown());
    }
    text
}

/// The size and the layout of a buffer, in words.
#[must_use]
pub fn called(size: u64, layout: &str) -> String {
    match size {
        4096 => "4K".into(),
        size => format!("{}K {layout}", size / 1024),
    }
}

fn table(what: &str, rows: &[&IoRow]) -> Table {
    let head = [
        what,
        "requests",
        "notifications",
        "instructions",
        "added",
        "of bypass",
        "p50 µs",
        "p99 µs",
        "of bypass, 16",
        "p50 µs, 16",
        "p99 µs, 16",
    ];
    let shown = |row: &&&IoRow| {
        let is_io = row.mode != "copy" && row.mode != "requests";
        row.depth == 1 && (row.pattern == "rand" || !is_io)
    };
    let line = |row: &&IoRow| {
        let deep = rows.iter().find(|other| {
            other.depth != 1
                && (&other.system, &other.mode, &other.pattern)
                    == (&row.system, &row.mode, &row.pattern)
        });
        let name = match &*row.system {
            OURS => row.mode.clone(),
            system => format!("{system} {}", row.mode),
        };
        let share = |row: &IoRow| cell(row.over_bypass, 2);
        // What is no I/O has no percentiles.
        let p50 = |row: &IoRow| match row.p50_us {
            None => row.us().map_or("–".into(), |us| format!("{us:.1}")),
            some => cell(some, 1),
        };
        let count = |count: Option<f64>| count.map_or("–".into(), |count| format!("{count:.2}"));
        let dash = || "–".to_owned();
        vec![
            name,
            count(row.requests()),
            count(row.kicks.map(|kicks| kicks.value)),
            cell(row.instructions, 0),
            cell(row.added, 0),
            share(row),
            p50(row),
            cell(row.p99_us, 1),
            deep.map_or_else(dash, |row| share(row)),
            deep.map_or_else(dash, |row| cell(row.p50_us, 1)),
            deep.map_or_else(dash, |row| cell(row.p99_us, 1)),
        ]
    };
    Table {
        head: head.map(Into::into).into(),
        rows: rows.iter().filter(shown).map(line).collect(),
    }
}

/// A figure, and its spread where that shows.
fn cell(spread: Option<Spread>, digits: usize) -> String {
    let Some(Spread { value, low, high }) = spread else {
        return "–".into();
    };
    let [value, low, high] = [value, low, high].map(|figure| format!("{figure:.digits$}"));
    match low == high || digits == 0 {
        true => value,
        false => format!("{value} ({low}–{high})"),
    }
}

/// Every case in which another system comes closer to its own bypass.
#[must_use]
pub fn losses(rows: &[IoRow]) -> String {
    let head = ["where", "what", "ours", "", "other", ""];
    let mut table = Table {
        head: head.map(Into::into).into(),
        rows: Vec::new(),
    };
    let all: Vec<&IoRow> = rows.iter().collect();
    for pair in pairs(&all) {
        let (own, other) = pair.figures();
        if own > other {
            continue;
        }
        let Pair {
            own: ours,
            other: theirs,
        } = pair;
        let called = called(ours.size, &ours.layout);
        table.rows.push(vec![
            format!("{} on {}", ours.section, ours.arch),
            format!(
                "{} {} {} {called}, depth {}",
                ours.device, ours.operation, ours.pattern, ours.depth
            ),
            ours.mode.clone(),
            number(own),
            format!("{} {}", theirs.system, theirs.mode),
            number(other),
        ]);
    }
    match table.rows.is_empty() {
        true => String::new(),
        false => format!(
            "Where another system keeps more of its own I/Os per second over bypass:\n\n{}",
            table.markdown()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{even, row};
    use super::*;

    fn rows() -> Vec<IoRow> {
        let mut all = Vec::new();
        for (system, mode, share) in [
            ("ours", "bypass", 1.0),
            ("ours", "strict", 0.5),
            ("linux", "lazy", 0.6),
        ] {
            for depth in [1, 16] {
                let mut row = row(system, mode);
                (row.pattern, row.depth) = ("rand".into(), depth);
                (row.maps, row.unmaps, row.kicks) = (even(1.0), even(1.0), even(1.0));
                row.over_bypass = Some([share, share - 0.1, share].into());
                row.p50_us = even(f64::from(depth));
                all.push(row);
            }
        }
        all
    }

    #[test]
    fn the_modes_are_the_lines() {
        let expected = "
| blk read 4K | requests | notifications | instructions | added |        of bypass | p50 µs | p99 µs |    of bypass, 16 | p50 µs, 16 | p99 µs, 16 |
| ----------- | -------: | ------------: | -----------: | ----: | ---------------: | -----: | -----: | ---------------: | ---------: | ---------: |
| bypass      |     2.00 |          1.00 |            – |     – | 1.00 (0.90–1.00) |    1.0 |      – | 1.00 (0.90–1.00) |       16.0 |          – |
| strict      |     2.00 |          1.00 |            – |     – | 0.50 (0.40–0.50) |    1.0 |      – | 0.50 (0.40–0.50) |       16.0 |          – |
| linux lazy  |     2.00 |          1.00 |            – |     – | 0.60 (0.50–0.60) |    1.0 |      – | 0.60 (0.50–0.60) |       16.0 |          – |
";
        assert_eq!(tables(&rows(), "aarch64"), expected);
        assert_eq!(tables(&rows(), "riscv64"), "");
    }

    #[test]
    fn losses_are_told() {
        let text = losses(&rows());
        assert_eq!(text.lines().count(), 2 + 2 + 2, "{text}");
        assert!(
            text.contains(
                "| io on aarch64 | blk read rand 4K, depth 16 | strict | 0.50 | linux lazy | 0.60 |"
            ),
            "{text}"
        );
        let mut rows = rows();
        rows.retain(|row| row.system == "ours");
        assert_eq!(losses(&rows), "");
    }
}
