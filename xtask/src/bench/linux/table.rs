//! What came out of the Linux guest, as a table.

use std::collections::BTreeMap;

use super::super::io::record::Case;
use super::super::table::Table;
use super::LinuxRun;

/// What is known of a mode in a case: sums, and the times of single I/Os, by round.
#[derive(Default)]
struct Figures {
    ios: u64,
    counts: Option<[u64; 3]>,
    instructions: Option<(u64, u64)>,
    /// Nanoseconds for an I/O: the mean of a phase, its median, its 99th percentile.
    rounds: Vec<[f64; 3]>,
}

/// One row for each mode of each case, for each I/O: what reached the IOMMU, instructions, and times, of which the ratio
/// to the mode without translation is the median over the rounds.
#[must_use]
pub fn table(runs: &[LinuxRun]) -> Table {
    let mut all: BTreeMap<&Case, BTreeMap<&str, Figures>> = BTreeMap::new();
    for run in runs {
        for (index, phase) in run.phases.iter().enumerate() {
            let figures = all.entry(&phase.case).or_default();
            let figures = figures.entry(&phase.mode).or_default();
            let ios = phase.ios as f64;
            if let Some(counts) = run.counts.as_ref().and_then(|counts| counts.get(index)) {
                let [maps, unmaps, kicks] = figures.counts.get_or_insert_default();
                *maps += counts.maps;
                *unmaps += counts.unmaps;
                *kicks += counts.kicks;
                figures.ios += phase.ios;
            }
            if let Some(instructions) = phase.instructions {
                let (sum, ios) = figures.instructions.get_or_insert_default();
                *sum += instructions;
                *ios += phase.ios;
            }
            if let (Some(ns), Some(p50), Some(p99)) = (phase.ns, phase.p50, phase.p99) {
                figures
                    .rounds
                    .push([ns as f64 / ios, p50 as f64, p99 as f64]);
            }
        }
    }
    let head = [
        "case",
        "mode",
        "MAP",
        "UNMAP",
        "kicks",
        "instructions",
        "us",
        "p50 us",
        "p99 us",
        "times bypass",
    ];
    let mut rows = Vec::new();
    for (case, modes) in &all {
        let bypass = modes.get("bypass").map(|figures| &figures.rounds);
        for (mode, figures) in modes {
            let mut row = vec![
                format!(
                    "{} {} {} {} {} x{}",
                    case.device, case.operation, case.pattern, case.size, case.layout, case.depth
                ),
                (*mode).to_owned(),
            ];
            let ios = figures.ios as f64;
            row.extend(match figures.counts {
                Some(counts) => counts.map(|count| format!("{:.3}", count as f64 / ios)),
                None => [const { String::new() }; 3],
            });
            row.push(figures.instructions.map_or_else(String::new, |(sum, ios)| {
                format!("{:.0}", sum as f64 / ios as f64)
            }));
            let medians = [0, 1, 2]
                .map(|which| median(figures.rounds.iter().map(|round| round[which] / 1000.0)));
            row.extend(medians.map(|time| time.map_or_else(String::new, |us| format!("{us:.1}"))));
            let ratios = bypass.into_iter().flatten().zip(&figures.rounds);
            let ratio = median(ratios.map(|([bypass, ..], [time, ..])| time / bypass));
            row.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            rows.push(row);
        }
    }
    Table {
        head: head.map(String::from).into(),
        rows,
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
}

/// What was measured and how long it took.
#[must_use]
pub fn heading(run: &LinuxRun) -> String {
    let wait = run.wait.map_or_else(String::new, |wait| {
        format!(", {wait} instructions left out for each wait")
    });
    format!(
        "{} of Linux {} ({}): {} phases, {:.1} s{wait}\n{}",
        run.measure.name(),
        run.version,
        run.package,
        run.phases.len(),
        run.elapsed.as_secs_f64(),
        run.command
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::io::phases::Counts;
    use super::super::super::io::record::Phase;
    use super::super::Measure;
    use super::*;
    use std::time::Duration;

    fn run(measure: Measure, phases: &[(&str, u64)]) -> LinuxRun {
        let case = Case {
            device: "blk".into(),
            operation: "read".into(),
            pattern: "seq".into(),
            size: 4096,
            layout: "contiguous".into(),
            depth: 1,
        };
        let timed = measure == Measure::Time;
        let phases = phases.iter().map(|(mode, value)| Phase {
            case: case.clone(),
            mode: (*mode).into(),
            ios: 10,
            ns: timed.then_some(*value),
            p50: timed.then_some(value / 20),
            p99: timed.then_some(value / 5),
            instructions: (measure == Measure::Instructions).then_some(*value),
        });
        let phases: Vec<Phase> = phases.collect();
        let counts = phases.iter().map(|_| Counts {
            maps: 40,
            unmaps: 39,
            kicks: 80,
        });
        LinuxRun {
            measure,
            counts: (measure == Measure::Counts).then(|| counts.collect()),
            phases,
            version: "6.12.95".into(),
            package: "6.12.95-1".into(),
            wait: None,
            command: "qemu".into(),
            elapsed: Duration::from_secs(7),
        }
    }

    #[test]
    fn figures_are_of_an_io_and_ratios_of_rounds() {
        let counts = run(Measure::Counts, &[("strict", 0)]);
        let instructions = run(Measure::Instructions, &[("strict", 300), ("strict", 500)]);
        let rounds = [
            ("bypass", 10_000),
            ("strict", 20_000),
            ("strict", 90_000),
            ("bypass", 30_000),
            ("bypass", 40_000),
            ("strict", 40_000),
        ];
        let time = run(Measure::Time, &rounds);
        let text = table(&[counts, instructions, time]).markdown();
        let cells = |mode: &str| -> Vec<String> {
            let mut lines = text.lines().filter(|line| line.contains(mode));
            let line = lines.next_back().unwrap_or_default();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(
            cells(" strict ")[2..11],
            [
                "strict", "4.000", "3.900", "8.000", "40", "4.0", "2.0", "8.0", "2.00"
            ]
        );
        assert_eq!(cells(" bypass ")[7..11], ["3.0", "1.5", "6.0", "1.00"]);
    }
}
