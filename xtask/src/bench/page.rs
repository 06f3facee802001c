//! `docs/performance.md`, and what is printed: tables, goals, and where we lose.

use std::fmt::Write;

use super::compare::{AVERAGE, Comparison, FLOOR, comparisons, is_ours, is_rival};
use super::data::{Data, Row, Run};
use super::goals::{self, Goal, Verdict};
use super::io;
use super::table::{Table, number};

/// A spread below this part of the value is not told.
const QUIET: f64 = 0.005;

const HEAD: &str = "\
# Performance

What the parts of this project cost, next to those who do the same. `cargo xtask bench` measures it, writes the rows to
[performance.json](performance.json), and makes this page of them: it is not edited by hand.

In the cells: the figure, and its spread where that is more than half a percent. A ratio is to the best rival of the line;
below 1 is better than all of them. The floor is no rival: it reads and writes the memory of one range, and does nothing
else.
";

/// Why, as far as it is known. Which of it shows in the figures above depends on the machine.
const REASONS: &str = "\
### Why

**Random lifetimes, 10^5 ranges and more.** The record of a random range is in no cache: a pair of alloc and free waits for
memory before it can do anything, and the more ranges there are, the longer. The floor (`memory-alone`) waits for the same
memory and does nothing else. What is ours is the difference of the two. Where the oldest range goes first (`ring`), the
records are read in order.

**The ledger by exact range, at 10^6.** It descends a binary tree, one comparison and one cache line a step; a node of
`BTreeMap` has up to 11 keys side by side, and takes fewer lines on the way. Whoever keeps the name of a mapping, as the DMA
interface does, does not descend.

**Requests alone.** Their figure has in it what a batch shares between its requests: the lock of the kernel, and the
notification of the transport. Both are measured by themselves (`lock`, `notify`). The lock masks interrupts and swaps a
word; the rival has none. The notification is the same for both.

**The public API (`domain`) next to a bare queue.** It finds addresses, records each mapping, refuses what must not be mapped,
and takes locks, so that several CPUs can use it. The rival does none of that: the addresses are constants, and it has one
user.

**Disks: instructions.** What `strict` adds is nearly all in the mode `requests`, which does the same without the I/O: two
requests and a notification, the locks around them, the look for addresses, the record of the mapping, and the segments for
the disk. The DMA interface by itself is in the section of requests (`dma-exchange`, `dma-deferred`). With 128K scattered there
are 32 MAPs and one UNMAP in it.

**Disks: I/Os per second over bypass, next to Linux.** Each system is compared with its own bypass. An I/O of this kernel takes
a small part of the instructions that it takes Linux, and what QEMU does for a MAP, an UNMAP or a translation is the same for
both: it is a larger part of the shorter I/O. The profile in each section has both: what is added to an I/O, and the I/O that it
is added to. The I/Os per second themselves are compared by a goal of their own. NVMe takes one MAP and one UNMAP from both.

**Disks: time over static.** It is what QEMU takes for the requests, and for translations that it has to look up again after an
UNMAP: see the profile in each section. `deferred` has no requests, and the time of so few instructions is near the noise.
";

/// What was just measured, for a terminal.
#[must_use]
pub fn told(data: &Data) -> String {
    let mut text = String::new();
    let all = comparisons(&data.rows);
    for run in &data.runs {
        let _ = writeln!(text, "\n{}\n", title(run));
        let _ = writeln!(text, "{}\n", with(run));
        if let (io::SECTION, Some(arch)) = (&*run.section, &run.arch) {
            // One table has all systems.
            let first = data.runs.iter().find(|other| is_same(other, run));
            if first == Some(run) {
                let _ = writeln!(text, "{}", io::page::tables(&data.io, arch));
            }
        }
        for comparison in all.iter().filter(|one| is_of(one, run)) {
            text.push_str(&figures(comparison));
            text.push('\n');
        }
    }
    let mut sections: Vec<&str> = data.runs.iter().map(|run| &*run.section).collect();
    sections.dedup();
    let mut goals = goals::goals(&data.rows, &sections);
    if sections.contains(&io::SECTION) {
        goals.extend(io::goals::goals(&data.io));
    }
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
    let mut goals = goals::goals(&data.rows, &goals::SECTIONS);
    goals.extend(io::goals::goals(&data.io));
    let _ = write!(text, "\n## Goals\n\n{}", goal_table(&goals));
    let _ = write!(
        text,
        "\n## Where we lose\n\n{}\n{}\n",
        missed(&goals),
        losses(&all)
    );
    let of_disks = io::page::losses(&data.io);
    if !of_disks.is_empty() {
        let _ = writeln!(text, "{of_disks}");
    }
    text.push_str(REASONS);
    let mut sections: Vec<&str> = data.runs.iter().map(|run| &*run.section).collect();
    sections.dedup();
    for section in sections {
        let _ = write!(text, "\n## {section}\n");
        if section == io::SECTION {
            disks(&mut text, data);
            continue;
        }
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

/// The section of disks: all systems of an architecture are in the same tables.
fn disks(text: &mut String, data: &Data) {
    let runs: Vec<&Run> = data
        .runs
        .iter()
        .filter(|run| run.section == io::SECTION)
        .collect();
    let mut told: Vec<&str> = Vec::new();
    for run in &runs {
        if !told.contains(&&*run.how) {
            told.push(&run.how);
            let _ = write!(text, "\n{}\n", run.how);
        }
    }
    let _ = write!(text, "\n{}", io::page::HEAD);
    for (title, file) in io::page::PICTURES {
        let name = file.rsplit('/').next().unwrap_or(file);
        let _ = write!(text, "\n![{title}]({name})\n");
    }
    let mut archs: Vec<&str> = runs.iter().filter_map(|run| run.arch.as_deref()).collect();
    archs.dedup();
    for arch in archs {
        let _ = write!(text, "\n### {} on {arch}\n", io::SECTION);
        let here = runs.iter().filter(|run| run.arch.as_deref() == Some(arch));
        for run in here.clone() {
            let system = run.system.as_deref().unwrap_or_default();
            let _ = write!(text, "\n{system}: {}\n", with(run));
        }
        text.push_str(&io::page::tables(&data.io, arch));
        let profile = io::profile::table(&data.io, arch);
        if !profile.is_empty() {
            let _ = write!(text, "\n{}\n{profile}", io::profile::HEAD);
        }
        for run in here {
            let _ = write!(text, "\n```sh\n{}\n```\n", run.commands.join("\n"));
        }
    }
}

fn is_same(one: &Run, other: &Run) -> bool {
    (&one.section, &one.arch) == (&other.section, &other.arch)
}

fn is_of(comparison: &Comparison<'_>, run: &Run) -> bool {
    (comparison.section, comparison.arch) == (&*run.section, run.arch.as_deref())
}

fn title(run: &Run) -> String {
    let system = match run.system.as_deref() {
        None | Some(io::OURS) => String::new(),
        Some(system) => format!(", {system}"),
    };
    match &run.arch {
        Some(arch) => format!("{} on {arch}{system}", run.section),
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
    let compared = comparison.columns.iter().any(|column| is_rival(column));
    let mut head = vec![comparison.unit.to_owned(), "size".into()];
    head.extend(comparison.columns.iter().map(|column| match *column {
        FLOOR => "floor (memory alone)".to_owned(),
        column => column.to_owned(),
    }));
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
    if let Some(average) = row.more.get(AVERAGE).and_then(serde_json::Value::as_f64) {
        return format!("{value} (average {})", number(average));
    }
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

/// The goals that are missed, and by how much.
fn missed(goals: &[Goal]) -> String {
    let missed: Vec<&Goal> = goals
        .iter()
        .filter(|goal| goal.verdict == Verdict::Missed)
        .collect();
    if missed.is_empty() {
        return "No goal is missed, of those that were measured.\n".into();
    }
    let mut text = String::from("Goals that are missed:\n\n");
    for goal in missed {
        let _ = writeln!(text, "* {} ({}): {}.", goal.what, goal.place, goal.measured);
    }
    text
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
        return "No rival is better, of those that were measured.\n".into();
    }
    format!("Where a rival is better:\n\n{}", table.markdown())
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
                system: None,
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
                row("riscv64 ns", "", "lock", 1, 3.25),
                row("riscv64 instructions", "pipeline", "unmap+map", 1, 231.0),
            ],
            io: Vec::new(),
        }
    }

    const TABLE: &str = "\
| ns  | size | pipeline | domain |   virtio-drivers | ratio of pipeline | ratio of domain |
| --- | ---: | -------: | -----: | ---------------: | ----------------: | --------------: |
| map |   64 |     1300 |   2500 | 2000 (1900–2400) |             0.65x |           1.25x |

overhead: 216.7 ns

lock: 3.25 ns
";

    const COUNTS: &str = "\
| instructions | size | pipeline |
| ------------ | ---: | -------: |
| unmap+map    |    1 |    231.0 |
";

    #[test]
    fn the_page_is_made_of_the_rows() {
        let text = page(&data());
        let (head, rest) = text.split_once("\n## Goals\n\n").unwrap();
        assert_eq!(head, HEAD.strip_suffix('\n').unwrap().to_owned() + "\n");
        let (goals, rest) = rest.split_once("\n## Where we lose\n\n").unwrap();
        // Four for each architecture, four and three for the host; two lines of head. And those of
        // disks: eleven for each architecture, four for one more.
        let of_disks = 3 * 12 + 4;
        assert_eq!(goals.lines().count(), 2 + 3 * 4 + 4 + 3 + of_disks);
        assert_eq!(
            goals
                .lines()
                .filter(|line| line.contains("not measured"))
                .count(),
            18 + of_disks
        );
        let expected = format!(
            "\
Goals that are missed:

* UNMAP and MAP with one kick: at most 230 instructions (riscv64): 231.0 instructions.

Where a rival is better:

| where               | what | size | unit | ours   |      | rival          |      | ratio |
| ------------------- | ---- | ---: | ---- | ------ | ---: | -------------- | ---: | ----: |
| requests on riscv64 | map  |   64 | ns   | domain | 2500 | virtio-drivers | 2000 | 1.25x |

{REASONS}
## requests

In turns.

### requests on riscv64

With QEMU 10.0.2, rustc 1.95.0, virtio-drivers 0.13.0; on A Processor, 2 threads.

{TABLE}
{COUNTS}
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
        let text = told(&data());
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
        let expected = "## Where we lose\n\n\
                        No goal is missed, of those that were measured.\n\n\
                        No rival is better, of those that were measured.\n\n\
                        ### Why\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.ends_with(REASONS));
    }

    #[test]
    fn the_floor_and_the_average_are_told_as_such() {
        let mut steps = row("iova", "ours", "steps-alloc", 100, 21.0);
        steps.unit = "nodes".into();
        steps.more.insert("average".into(), 4.5.into());
        let rows = [
            row("iova", "memory-alone", "ring", 100, 2.0),
            row("iova", "ours", "ring", 100, 20.0),
            steps,
            row("iova", "vm-allocator", "ring", 1000, 80.0),
        ];
        let all = comparisons(&rows);
        let expected = "\
| ns   | size | ours | vm-allocator | floor (memory alone) | ratio of ours |
| ---- | ---: | ---: | -----------: | -------------------: | ------------: |
| ring |  100 | 20.0 |            – |                 2.00 |             – |
| ring | 1000 |    – |         80.0 |                    – |             – |
";
        assert_eq!(figures(&all[0]), expected);
        let expected = "\
| nodes       | size |                ours |
| ----------- | ---: | ------------------: |
| steps-alloc |  100 | 21.0 (average 4.50) |
";
        assert_eq!(figures(&all[1]), expected);
        // Nobody to be compared with.
        let alone = comparisons(&rows[..2]);
        let text = figures(&alone[0]);
        assert!(!text.contains("ratio"), "{text}");
        assert!(losses(&alone).starts_with("No rival"));
    }
}
