//! `docs/performance.md`, and what is printed: tables, goals, and where we lose.

use std::fmt::Write;

use super::compare::{Comparison, comparisons, is_ours};
use super::data::{Data, Row, Run};
use super::goals::{self, Goal};
use super::table::{Table, number};

/// A spread below this part of the value is not told.
const QUIET: f64 = 0.005;

const HEAD: &str = "\
# Performance

What the parts of this project cost, next to those who do the same. `cargo xtask bench` measures it, writes the rows to
[performance.json](performance.json), and makes this page of them: it is not edited by hand.

In the cells: the figure, and its spread where that is more than half a percent. A ratio is to the best rival of the line;
below 1 is better than all of them.
";

/// What was just measured, for a terminal.
#[must_use]
pub fn told(data: &Data) -> String {
    let mut text = String::new();
    let all = comparisons(&data.rows);
    for run in &data.runs {
        let _ = writeln!(text, "\n{}\n", title(run));
        let _ = writeln!(text, "{}\n", with(run));
        for comparison in all.iter().filter(|one| is_of(one, run)) {
            text.push_str(&figures(comparison));
            text.push('\n');
        }
    }
    let mut sections: Vec<&str> = data.runs.iter().map(|run| &*run.section).collect();
    sections.dedup();
    let mut goals = goals::goals(&data.rows, &sections);
    let place = |goal: &Goal| {
        let mut archs = data.runs.iter().filter_map(|run| run.arch.as_deref());
        data.runs.iter().any(|run| run.arch.is_none()) || archs.any(|arch| arch == goal.place)
    };
    // Of the other architectures nothing was said.
    goals.retain(place);
    if !goals.is_empty() {
        let _ = writeln!(text, "{}", goal_table(&goals));
    }
    text
}

/// The page.
#[must_use]
pub fn page(data: &Data) -> String {
    let all = comparisons(&data.rows);
    let mut text = String::from(HEAD);
    let goals = goals::goals(&data.rows, &goals::SECTIONS);
    let _ = write!(text, "\n## Goals\n\n{}", goal_table(&goals));
    let _ = write!(text, "\n## Where we lose\n\n{}", losses(&all));
    let mut sections: Vec<&str> = data.runs.iter().map(|run| &*run.section).collect();
    sections.dedup();
    for section in sections {
        let _ = write!(text, "\n## {section}\n");
        let mut how = "";
        for run in data.runs.iter().filter(|run| run.section == section) {
            if run.how != how {
                how = &run.how;
                let _ = write!(text, "\n{how}\n");
            }
            if let Some(arch) = &run.arch {
                let _ = write!(text, "\n### {section} on {arch}\n");
            }
            let _ = write!(text, "\n{}\n", with(run));
            for comparison in all.iter().filter(|one| is_of(one, run)) {
                let _ = write!(text, "\n{}", figures(comparison));
            }
            let _ = write!(text, "\n```sh\n{}\n```\n", run.commands.join("\n"));
        }
    }
    text
}

fn is_of(comparison: &Comparison<'_>, run: &Run) -> bool {
    (comparison.section, comparison.arch) == (&*run.section, run.arch.as_deref())
}

fn title(run: &Run) -> String {
    match &run.arch {
        Some(arch) => format!("{} on {arch}", run.section),
        None => run.section.clone(),
    }
}

/// What it was measured with.
fn with(run: &Run) -> String {
    let mut parts = Vec::new();
    if let Some(qemu) = &run.qemu {
        parts.push(format!("QEMU {qemu}"));
    }
    parts.push(format!("rustc {}", run.rustc));
    parts.extend(
        run.rivals
            .iter()
            .map(|(name, version)| format!("{name} {version}")),
    );
    format!("With {}; on {}.", parts.join(", "), run.cpu)
}

fn figures(comparison: &Comparison<'_>) -> String {
    let own: Vec<&str> = comparison
        .columns
        .iter()
        .copied()
        .filter(|c| is_ours(c))
        .collect();
    let compared = own.len() < comparison.columns.len();
    let mut head = vec![comparison.unit.to_owned(), "size".into()];
    head.extend(comparison.columns.iter().map(|column| (*column).to_owned()));
    if compared {
        head.extend(own.iter().map(|own| format!("ratio of {own}")));
    }
    let rows = comparison.lines.iter().map(|line| {
        let mut cells = vec![line.name.to_owned(), line.size.to_string()];
        let figures = comparison
            .columns
            .iter()
            .map(|column| line.rows.get(column));
        cells.extend(figures.map(|row| row.map_or("–".into(), |row| cell(row))));
        if compared {
            let ratios = own.iter().map(|own| line.ratio(own));
            cells.extend(ratios.map(|ratio| ratio.map_or("–".into(), factor)));
        }
        cells
    });
    let table = Table {
        rows: rows.collect(),
        head,
    };
    let mut text = String::new();
    if !table.rows.is_empty() {
        text.push_str(&table.markdown());
    }
    for row in &comparison.others {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{}: {} {}", row.name, cell(row), row.unit);
    }
    text
}

fn cell(row: &Row) -> String {
    let value = number(row.value);
    match (row.low, row.high) {
        (Some(low), Some(high)) if (high - low) > QUIET * row.value => {
            format!("{value} ({}–{})", number(low), number(high))
        }
        _ => value,
    }
}

fn factor(ratio: f64) -> String {
    format!("{}x", number(ratio))
}

fn goal_table(goals: &[Goal]) -> String {
    let head = ["goal", "where", "measured", "verdict"];
    let row = |goal: &Goal| {
        vec![
            goal.what.clone(),
            goal.place.clone(),
            goal.measured.clone(),
            goal.verdict.to_string(),
        ]
    };
    let table = Table {
        head: head.map(Into::into).into(),
        rows: goals.iter().map(row).collect(),
    };
    table.markdown()
}

/// Every line on which somebody is better than us.
fn losses(all: &[Comparison<'_>]) -> String {
    let head = [
        "where", "what", "size", "unit", "ours", "", "rival", "", "ratio",
    ];
    let mut table = Table {
        head: head.map(Into::into).into(),
        rows: Vec::new(),
    };
    for comparison in all {
        let place = match comparison.arch {
            Some(arch) => format!("{} on {arch}", comparison.section),
            None => comparison.section.to_owned(),
        };
        let own: Vec<&str> = comparison
            .columns
            .iter()
            .copied()
            .filter(|c| is_ours(c))
            .collect();
        for line in &comparison.lines {
            for own in &own {
                let figures = (line.ratio(own), line.rows.get(own), line.best_rival());
                let (Some(ratio), Some(row), Some(best)) = figures else {
                    continue;
                };
                if ratio <= 1.0 {
                    continue;
                }
                table.rows.push(vec![
                    place.clone(),
                    line.name.into(),
                    line.size.to_string(),
                    comparison.unit.into(),
                    (*own).into(),
                    number(row.value),
                    best.rival.clone().unwrap_or_default(),
                    number(best.value),
                    factor(ratio),
                ]);
            }
        }
    }
    if table.rows.is_empty() {
        return "Nowhere, of what was measured.\n".into();
    }
    table.markdown()
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::row;
    use super::*;
    use std::collections::BTreeMap;

    fn data() -> Data {
        let mut noisy = row("riscv64 ns", "virtio-drivers", "map", 64, 2000.0);
        (noisy.low, noisy.high) = (Some(1900.0), Some(2400.0));
        let mut quiet = row("riscv64 ns", "pipeline", "map", 64, 1300.0);
        (quiet.low, quiet.high) = (Some(1299.0), Some(1301.0));
        Data {
            runs: vec![Run {
                section: "requests".into(),
                arch: Some("riscv64".into()),
                qemu: Some("10.0.2".into()),
                rustc: "1.95.0".into(),
                cpu: "A Processor, 2 threads".into(),
                rivals: BTreeMap::from([("virtio-drivers".into(), "0.13.0".into())]),
                commands: vec!["qemu one".into(), "qemu two".into()],
                how: "In turns.".into(),
                more: BTreeMap::new(),
            }],
            rows: vec![
                noisy,
                quiet,
                row("riscv64 ns", "domain", "map", 64, 2500.0),
                row("riscv64 ns", "", "overhead", 1, 216.7),
            ],
        }
    }

    const TABLE: &str = "\
| ns  | size | pipeline | domain |   virtio-drivers | ratio of pipeline | ratio of domain |
| --- | ---: | -------: | -----: | ---------------: | ----------------: | --------------: |
| map |   64 |     1300 |   2500 | 2000 (1900–2400) |             0.65x |           1.25x |

overhead: 216.7 ns
";

    #[test]
    fn the_page_is_made_of_the_rows() {
        let text = page(&data());
        let (head, rest) = text.split_once("\n## Goals\n\n").unwrap();
        assert_eq!(head, HEAD.strip_suffix('\n').unwrap().to_owned() + "\n");
        let (goals, rest) = rest.split_once("\n## Where we lose\n\n").unwrap();
        // Four for each architecture, three and one for the host; two lines of head.
        assert_eq!(goals.lines().count(), 2 + 3 * 4 + 3 + 1);
        assert_eq!(
            goals
                .lines()
                .filter(|line| line.contains("not measured"))
                .count(),
            16
        );
        let expected = format!(
            "\
| where               | what | size | unit | ours   |      | rival          |      | ratio |
| ------------------- | ---- | ---: | ---- | ------ | ---: | -------------- | ---: | ----: |
| requests on riscv64 | map  |   64 | ns   | domain | 2500 | virtio-drivers | 2000 | 1.25x |

## requests

In turns.

### requests on riscv64

With QEMU 10.0.2, rustc 1.95.0, virtio-drivers 0.13.0; on A Processor, 2 threads.

{TABLE}
```sh
qemu one
qemu two
```
"
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn a_terminal_gets_the_same_tables_and_its_own_goals() {
        let mut data = data();
        let count = "riscv64 instructions";
        data.rows
            .push(row(count, "pipeline", "unmap+map", 1, 231.0));
        let text = told(&data);
        assert!(text.contains(TABLE), "{text}");
        let goals: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("riscv64 |"))
            .collect();
        assert_eq!(goals.len(), 4, "{text}");
        assert!(goals[2].contains("missed"), "{text}");
        assert!(!text.contains("x86_64"), "{text}");
    }

    #[test]
    fn nothing_measured_is_a_page_too() {
        let text = page(&Data::default());
        assert!(text.contains("not measured"));
        assert!(text.ends_with("## Where we lose\n\nNowhere, of what was measured.\n"));
    }
}
