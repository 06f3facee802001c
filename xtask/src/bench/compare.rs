//! Who is how much slower than whom.

use std::collections::BTreeMap;

use super::data::Row;

/// The names under which this project's own code is measured: the best known first.
///
/// `ours-by-range` is the ledger asked by exact range instead of by name, `pipeline` is requests
/// alone, `domain` is the public API with all that belongs to it.
pub const OURS: [&str; 4] = ["ours", "ours-by-range", "pipeline", "domain"];

/// The name of what is nobody's: the memory of a range is read and written, and nothing is done
/// with it. No rival can be faster, and it is none.
pub const FLOOR: &str = "memory-alone";

/// A column that rows of counts have: the average, where the value is the worst.
pub const AVERAGE: &str = "average";

/// A column that some rows have: how many times slower they are than the one rival, measured in the
/// same moments, which is better than the ratio of two medians.
pub const PAIRED: &str = "paired";

/// Whether rows of this name in `rival` are of this project's own code.
#[must_use]
pub fn is_ours(rival: &str) -> bool {
    OURS.contains(&rival)
}

/// Whether rows of this name in `rival` are of somebody else, who can be better than us.
#[must_use]
pub fn is_rival(rival: &str) -> bool {
    !is_ours(rival) && rival != FLOOR
}

/// Rows of one section, architecture and unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison<'a> {
    /// The section.
    pub section: &'a str,
    /// The architecture, if it was measured in the guest.
    pub arch: Option<&'a str>,
    /// The unit.
    pub unit: &'a str,
    /// Who was measured: our own first, then the rivals by name, then the floor.
    pub columns: Vec<&'a str>,
    /// What was measured.
    pub lines: Vec<Line<'a>>,
    /// Rows of nobody.
    pub others: Vec<&'a Row>,
}

/// What was measured of everybody.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// What was done.
    pub name: &'a str,
    /// How many at once, or among how many.
    pub size: u64,
    /// By whom.
    pub rows: BTreeMap<&'a str, &'a Row>,
}

impl<'a> Line<'a> {
    /// The best of the rivals.
    #[must_use]
    pub fn best_rival(&self) -> Option<&'a Row> {
        let rivals = self.rows.values().filter(|row| of_rival(row)).copied();
        rivals.min_by(|a, b| slowness(a).total_cmp(&slowness(b)))
    }

    /// How many times slower `own` is than the best rival: below 1 is faster.
    #[must_use]
    pub fn ratio(&self, own: &str) -> Option<f64> {
        let (own, best) = (self.rows.get(own)?, self.best_rival()?);
        let mut rivals = self.rows.values().filter(|row| of_rival(row));
        let paired = own.more.get(PAIRED).and_then(serde_json::Value::as_f64);
        match (rivals.next(), rivals.next(), paired) {
            (Some(_), None, Some(paired)) => Some(paired),
            _ => Some(ratio(own, best)),
        }
    }
}

/// How many times slower one row is than another of the same unit.
#[must_use]
pub fn ratio(one: &Row, other: &Row) -> f64 {
    slowness(one) / slowness(other)
}

/// Time, or what else should be small; of rates, the inverse.
fn slowness(row: &Row) -> f64 {
    if row.unit.ends_with("/s") {
        1.0 / row.value
    } else {
        row.value
    }
}

fn of_rival(row: &Row) -> bool {
    row.rival.as_deref().is_some_and(is_rival)
}

/// Sorts rows by what can be compared.
#[must_use]
pub fn comparisons(rows: &[Row]) -> Vec<Comparison<'_>> {
    let mut all: Vec<Comparison<'_>> = Vec::new();
    for row in rows {
        let (section, arch, unit) = (&*row.section, row.arch.as_deref(), &*row.unit);
        let same =
            |one: &Comparison<'_>| (one.section, one.arch, one.unit) == (section, arch, unit);
        let index = all.iter().position(same).unwrap_or_else(|| {
            all.push(Comparison {
                section,
                arch,
                unit,
                columns: Vec::new(),
                lines: Vec::new(),
                others: Vec::new(),
            });
            all.len() - 1
        });
        let comparison = &mut all[index];
        let Some(rival) = row.rival.as_deref() else {
            comparison.others.push(row);
            continue;
        };
        if !comparison.columns.contains(&rival) {
            comparison.columns.push(rival);
        }
        let same = |line: &&mut Line<'_>| (line.name, line.size) == (&*row.name, row.size);
        match comparison.lines.iter_mut().find(same) {
            Some(line) => {
                line.rows.insert(rival, row);
            }
            None => comparison.lines.push(Line {
                name: &row.name,
                size: row.size,
                rows: BTreeMap::from([(rival, row)]),
            }),
        }
    }
    for comparison in &mut all {
        comparison.columns.sort_by_key(|column| {
            let own = OURS.iter().position(|name| name == column);
            (*column == FLOOR, own.unwrap_or(OURS.len()), *column)
        });
    }
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row of a benchmark in the guest, or on the host.
    pub(crate) fn row(place: &str, rival: &str, name: &str, size: u64, value: f64) -> Row {
        let (section, arch, unit) = match place.split_once(' ') {
            Some((arch, unit)) => ("requests", Some(arch.to_owned()), unit),
            None => (place, None, "ns"),
        };
        Row {
            section: section.into(),
            name: name.into(),
            arch,
            rival: (!rival.is_empty()).then(|| rival.into()),
            size,
            value,
            unit: unit.into(),
            low: None,
            high: None,
            command: "cargo xtask bench".into(),
            more: BTreeMap::new(),
        }
    }

    #[test]
    fn rows_are_compared_where_they_can_be() {
        let rows = [
            row("riscv64 ns", "virtio-drivers", "map", 64, 1250.0),
            row("riscv64 ns", "domain", "map", 64, 2500.0),
            row("riscv64 ns", "pipeline", "map", 64, 1000.0),
            row("riscv64 ns", "pipeline", "map", 8, 1500.0),
            row("riscv64 ns", "", "overhead", 1, 200.0),
            row("riscv64 instructions", "pipeline", "map", 64, 60.0),
            row("iova", "ours", "ring", 100, 20.0),
            row("iova", "b", "ring", 100, 10.0),
            row("iova", "a", "ring", 100, 40.0),
        ];
        let all = comparisons(&rows);
        let [time, instructions, iova] = &all[..] else {
            panic!("{all:#?}");
        };
        assert_eq!(time.columns, ["pipeline", "domain", "virtio-drivers"]);
        assert_eq!((time.lines.len(), time.others.len()), (2, 1));
        assert_eq!(time.lines[0].ratio("pipeline"), Some(0.8));
        assert_eq!(time.lines[0].ratio("domain"), Some(2.0));
        assert_eq!(time.lines[1].ratio("pipeline"), None);
        assert_eq!(instructions.lines[0].best_rival(), None);
        assert_eq!(iova.columns, ["ours", "a", "b"]);
        assert_eq!(iova.lines[0].ratio("ours"), Some(2.0));
        assert_eq!(iova.lines[0].ratio("none"), None);
    }

    #[test]
    fn a_ratio_of_the_same_moments_is_taken_where_there_is_one_rival() {
        let mut rows = vec![
            row("riscv64 ns", "pipeline", "map", 64, 1000.0),
            row("riscv64 ns", "virtio-drivers", "map", 64, 1250.0),
        ];
        rows[0].more.insert(PAIRED.into(), 0.7.into());
        assert_eq!(comparisons(&rows)[0].lines[0].ratio("pipeline"), Some(0.7));
        rows.push(row("riscv64 ns", "another", "map", 64, 2000.0));
        assert_eq!(comparisons(&rows)[0].lines[0].ratio("pipeline"), Some(0.8));
    }

    #[test]
    fn the_floor_is_no_rival() {
        let mut rows = vec![
            row("iova", "memory-alone", "ring", 100, 2.0),
            row("iova", "ours", "ring", 100, 20.0),
            row("iova", "vm-allocator", "ring", 100, 80.0),
            row("iova", "memory-alone", "ring", 1000, 3.0),
            row("iova", "ours", "ring", 1000, 30.0),
        ];
        // One rival and a floor are one rival.
        rows[1].more.insert(PAIRED.into(), 0.2.into());
        let all = comparisons(&rows);
        assert_eq!(all[0].columns, ["ours", "vm-allocator", "memory-alone"]);
        let best = all[0].lines[0].best_rival().map(|row| row.value);
        assert_eq!(
            (best, all[0].lines[0].ratio("ours")),
            (Some(80.0), Some(0.2))
        );
        assert_eq!(all[0].lines[1].best_rival(), None);
        assert_eq!(all[0].lines[1].ratio("ours"), None);
    }

    #[test]
    fn of_rates_the_higher_is_the_better() {
        let mut rows = [
            row("io", "ours", "read", 4096, 200.0),
            row("io", "a", "read", 4096, 100.0),
            row("io", "b", "read", 4096, 50.0),
        ];
        for row in &mut rows {
            row.unit = "MB/s".into();
        }
        let all = comparisons(&rows);
        assert_eq!(all[0].lines[0].ratio("ours"), Some(0.5));
    }
}
