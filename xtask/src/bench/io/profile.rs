//! Where the time of an I/O goes: what stands between a mode and `bypass`.

use std::collections::BTreeSet;

use super::super::table::Table;
use super::OURS;
use super::page::called;
use super::rows::IoRow;

/// What the columns are.
pub const HEAD: &str = "\
Where the time of an I/O goes, in microseconds, one after the other at depth 1. **Translation** is `static` over `bypass`:
what QEMU takes to look addresses up, however good a driver is. **Requests** are those of `strict` measured alone, and
**beside** is what `strict` takes besides them over `static`: an UNMAP costs the disk the translations that QEMU had kept.
**Copy** is that of `bounce` measured alone. Figures of one line are of the same boots; a negative one is noise.
";

/// The table of one architecture; empty if nothing was timed.
#[must_use]
pub fn table(rows: &[IoRow], arch: &str) -> String {
    let here: Vec<&IoRow> = rows
        .iter()
        .filter(|row| row.arch == arch && row.depth == 1 && row.pattern == "seq")
        .collect();
    let others: BTreeSet<&str> = here.iter().map(|row| &*row.system).collect();
    let others: Vec<&str> = others.into_iter().filter(|name| *name != OURS).collect();
    let mut head: Vec<String> = [
        "µs of an I/O",
        "bypass",
        "translation",
        "strict: requests",
        "beside",
        "bounce: copy",
        "beside",
        "deferred",
    ]
    .map(Into::into)
    .into();
    for system in &others {
        head.push(format!("{system} bypass"));
        head.extend(["strict", "lazy"].map(|mode| format!("{system} {mode} adds")));
    }
    let mut table = Table {
        head,
        rows: Vec::new(),
    };
    let bypass = here.iter().filter(|row| is(row, OURS, "bypass"));
    for whole in bypass {
        let of = |system: &str, mode: &str| {
            let mut found = here.iter().filter(|row| row.case() == whole.case());
            found.find(|row| is(row, system, mode)).copied()
        };
        // Paired, round by round.
        let over = |mode: &str| Some(of(OURS, mode)?.over_static_us?.value);
        let alone = |mode: &str| of(OURS, mode)?.us();
        let mut cells = vec![
            format!(
                "{} {} {}",
                whole.device,
                whole.operation,
                called(whole.size, &whole.layout)
            ),
            cell(whole.us()),
            cell(over("bypass").map(|us| -us)),
            cell(alone("requests")),
            cell(less(over("strict"), alone("requests"))),
            cell(alone("copy")),
            cell(less(over("bounce"), alone("copy"))),
            cell(over("deferred")),
        ];
        for system in &others {
            let us = |mode: &str| of(system, mode)?.us();
            cells.push(cell(us("bypass")));
            cells.extend(["strict", "lazy"].map(|mode| cell(less(us(mode), us("bypass")))));
        }
        table.rows.push(cells);
    }
    match table.rows.is_empty() {
        true => String::new(),
        false => table.markdown(),
    }
}

fn is(row: &IoRow, system: &str, mode: &str) -> bool {
    (&*row.system, &*row.mode) == (system, mode)
}

fn less(all: Option<f64>, part: Option<f64>) -> Option<f64> {
    Some(all? - part?)
}

fn cell(us: Option<f64>) -> String {
    us.map_or("–".into(), |us| format!("{us:.1}"))
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{even, row};
    use super::*;

    /// A row in which an I/O takes so long, and so much longer than in `static`.
    fn timed(system: &str, mode: &str, us: f64, over: Option<f64>) -> IoRow {
        let mut row = row(system, mode);
        row.iops = even(1e6 / us);
        row.over_static_us = over.and_then(even);
        row
    }

    #[test]
    fn an_io_is_taken_apart() {
        let mut rows = vec![
            timed("ours", "bypass", 20.0, Some(-5.0)),
            timed("ours", "static", 25.0, Some(0.0)),
            timed("ours", "strict", 42.0, Some(17.5)),
            timed("ours", "requests", 10.0, None),
            timed("ours", "bounce", 28.0, Some(3.0)),
            timed("ours", "copy", 2.5, None),
            timed("linux", "bypass", 80.0, None),
            timed("linux", "strict", 140.0, None),
        ];
        let text = table(&rows, "aarch64");
        let cells: Vec<&str> = text
            .lines()
            .last()
            .unwrap()
            .split('|')
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        let expected = [
            "blk read 4K",
            "20.0",
            "5.0",
            "10.0",
            "7.5",
            "2.5",
            "0.5",
            "–",
            "80.0",
            "60.0",
            "–",
        ];
        assert_eq!(cells, expected, "{text}");
        assert!(text.starts_with("| µs of an I/O | bypass"), "{text}");
        // Other depths, other architectures.
        assert_eq!(table(&rows, "riscv64"), "");
        for row in &mut rows {
            row.depth = 16;
        }
        assert_eq!(table(&rows, "aarch64"), "");
    }
}
