//! What the figures should be, and whether they are.

use std::fmt;

use super::compare::{Comparison, Line, comparisons, is_ours, ratio};
use super::data::Row;
use super::table::number;
use crate::arch::Arch;

/// Rivals that offer what the allocator offers: alignment, and a limit.
const FULL_RIVALS: [&str; 1] = ["vm-allocator"];

/// Whether a goal is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// Nobody knows.
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::NotMeasured => "not measured",
        })
    }
}

/// A goal, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// What is wanted.
    pub what: String,
    /// On which architecture, or of which kind.
    pub place: String,
    /// What was measured.
    pub measured: String,
    /// Whether that is enough.
    pub verdict: Verdict,
}

impl Goal {
    fn new(what: &str, place: &str, judged: Option<(bool, String)>) -> Self {
        let (verdict, measured) = match judged {
            Some((true, measured)) => (Verdict::Met, measured),
            Some((false, measured)) => (Verdict::Missed, measured),
            None => (Verdict::NotMeasured, "–".into()),
        };
        Self {
            what: what.into(),
            place: place.into(),
            measured,
            verdict,
        }
    }
}

/// All goals of the sections in `sections`.
#[must_use]
pub fn goals(rows: &[Row], sections: &[&str]) -> Vec<Goal> {
    let all = comparisons(rows);
    let mut goals = Vec::new();
    for section in sections {
        match *section {
            super::guest::SECTION => {
                goals.extend(Arch::ALL.iter().flat_map(|arch| requests(&all, *arch)))
            }
            "iova" => goals.extend(iova(&all)),
            "ledger" => goals.push(ledger(&all)),
            _ => {}
        }
    }
    goals
}

/// The sections that have goals.
pub const SECTIONS: [&str; 3] = [super::guest::SECTION, "iova", "ledger"];

fn find<'a, 'r>(
    all: &'a [Comparison<'r>],
    section: &str,
    arch: Option<&str>,
    unit: &str,
) -> Option<&'a Comparison<'r>> {
    all.iter()
        .find(|one| (one.section, one.arch, one.unit) == (section, arch, unit))
}

/// The request queue: the pipeline without allocator and ledger, as the rival has none.
fn requests(all: &[Comparison<'_>], arch: Arch) -> Vec<Goal> {
    const OWN: &str = "pipeline";
    let of = |unit| find(all, super::guest::SECTION, Some(arch.name()), unit);
    let value = |name: &str, size: u64| {
        let line = line(of("instructions")?, name, size)?;
        Some(line.rows.get(OWN)?.value)
    };
    // All of them have to be within the limit, and to be there.
    let within = |limit: f64, figures: &[(&str, u64)]| {
        let values: Option<Vec<f64>> = figures.iter().map(|(n, s)| value(n, *s)).collect();
        let worst = values?.into_iter().fold(0.0, f64::max);
        Some((worst <= limit, format!("{} instructions", number(worst))))
    };
    let times = || {
        let time = of("ns")?;
        let ratios: Option<Vec<f64>> = ["map", "unmap"]
            .iter()
            .map(|name| line(time, name, 64)?.ratio(OWN))
            .collect();
        let worst = ratios?.into_iter().fold(0.0, f64::max);
        Some((worst <= 0.75, format!("{worst:.2}x")))
    };
    let goal = |what, judged| Goal::new(what, arch.name(), judged);
    vec![
        goal(
            "a request in a batch of 64: at most 80 instructions",
            within(80.0, &[("map", 64), ("unmap", 64)]),
        ),
        goal(
            "a request alone: at most 170 instructions",
            within(170.0, &[("map", 1), ("unmap", 1)]),
        ),
        goal(
            "UNMAP and MAP with one kick: at most 230 instructions",
            within(230.0, &[("unmap+map", 1)]),
        ),
        goal(
            "a batch of 64: at most 0.75x the time of the library's queue",
            times(),
        ),
    ]
}

fn line<'a, 'r>(comparison: &'a Comparison<'r>, name: &str, size: u64) -> Option<&'a Line<'r>> {
    comparison
        .lines
        .iter()
        .find(|line| line.name == name && line.size == size)
}

/// The allocator, for each lifetime that was measured.
fn iova(all: &[Comparison<'_>]) -> Vec<Goal> {
    const OWN: &str = "ours";
    const FAST: &str = "alloc and free: at most 25 ns, or no slower than the fastest rival";
    const FLAT: &str = "at most 1.3x from 10^2 to 10^6 live ranges";
    const FAR: &str = "at least 50x faster than a rival with alignment and limit";
    let Some(iova) = find(all, "iova", None, "ns") else {
        return [FAST, FLAT, FAR]
            .map(|what| Goal::new(what, "–", None))
            .into();
    };
    let mut names: Vec<&str> = iova.lines.iter().map(|line| line.name).collect();
    names.dedup();
    let mut goals = Vec::new();
    for name in names {
        let mut lines: Vec<&Line<'_>> =
            iova.lines.iter().filter(|line| line.name == name).collect();
        lines.retain(|line| line.rows.contains_key(OWN));
        lines.sort_by_key(|line| line.size);

        // The worst of all sizes: how much of what is allowed it takes.
        let share = |line: &&Line<'_>| {
            let own = line.rows.get(OWN)?.value;
            let allowed = line.best_rival().map_or(25.0, |best| best.value.max(25.0));
            Some((own / allowed, own, line.size))
        };
        let worst = lines
            .iter()
            .filter_map(share)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let judged = worst.map(|(share, own, size)| {
            let text = format!(
                "{} ns at {size}, {share:.2}x of what is allowed",
                number(own)
            );
            (share <= 1.0, text)
        });
        goals.push(Goal::new(FAST, name, judged));

        let at = |size| {
            Some(
                lines
                    .iter()
                    .find(|line| line.size == size)?
                    .rows
                    .get(OWN)?
                    .value,
            )
        };
        let growth = at(100).zip(at(1_000_000)).map(|(few, many)| many / few);
        let judged = growth.map(|growth| (growth <= 1.3, format!("{growth:.2}x")));
        goals.push(Goal::new(FLAT, name, judged));

        // Where the most ranges are live that both were measured with.
        let against = |rival: &str| {
            let both = lines
                .iter()
                .rev()
                .find(|line| line.rows.contains_key(rival))?;
            Some((
                ratio(both.rows.get(rival)?, both.rows.get(OWN)?),
                rival.to_owned(),
                both.size,
            ))
        };
        let factors = FULL_RIVALS.iter().filter_map(|rival| against(rival));
        let least = factors.min_by(|a, b| a.0.total_cmp(&b.0));
        let judged = least.map(|(factor, rival, size)| {
            let text = format!("{}x, {rival} at {size}", number(factor));
            (factor >= 50.0, text)
        });
        goals.push(Goal::new(FAR, name, judged));
    }
    goals
}

/// The ledger, against what everybody would take.
fn ledger(all: &[Comparison<'_>]) -> Goal {
    const WHAT: &str = "insert and remove at 10^5: at least 1.5x faster than BTreeMap";
    let factor = find(all, "ledger", None, "ns").and_then(|ledger| {
        let at = |line: &&Line<'_>| line.size == 100_000 && line.name.starts_with("insert");
        let line = ledger.lines.iter().find(at)?;
        let own = line.rows.iter().find(|(rival, _)| is_ours(rival))?.1;
        Some((ratio(line.rows.get("BTreeMap")?, own), line.name))
    });
    match factor {
        Some((factor, name)) => {
            Goal::new(WHAT, name, Some((factor >= 1.5, format!("{factor:.2}x"))))
        }
        None => Goal::new(WHAT, "–", None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::row;
    use super::*;

    fn judge(rows: &[Row], section: &str, place: &str) -> Vec<(Verdict, String)> {
        let goals = goals(rows, &[section]);
        let here = goals.into_iter().filter(|goal| goal.place == place);
        here.map(|goal| (goal.verdict, goal.measured)).collect()
    }

    #[test]
    fn goals_of_requests() {
        let count = "riscv64 instructions";
        let time = "riscv64 ns";
        let mut rows = vec![
            row(count, "pipeline", "map", 64, 80.0),
            row(count, "pipeline", "unmap", 64, 70.0),
            row(count, "pipeline", "map", 1, 160.0),
            row(count, "pipeline", "unmap", 1, 170.5),
            row(count, "pipeline", "unmap+map", 1, 216.0),
            row(time, "pipeline", "map", 64, 1300.0),
            row(time, "virtio-drivers", "map", 64, 2000.0),
            row(time, "pipeline", "unmap", 64, 1600.0),
            row(time, "virtio-drivers", "unmap", 64, 2000.0),
        ];
        let expected = [
            (Verdict::Met, "80.0 instructions".to_owned()),
            (Verdict::Missed, "170.5 instructions".to_owned()),
            (Verdict::Met, "216.0 instructions".to_owned()),
            (Verdict::Missed, "0.80x".to_owned()),
        ];
        assert_eq!(judge(&rows, "requests", "riscv64"), expected);
        let nothing = (Verdict::NotMeasured, "–".to_owned());
        assert_eq!(judge(&rows, "requests", "x86_64"), vec![nothing.clone(); 4]);
        // Half of the figures is no goal met.
        rows.retain(|row| row.name != "unmap");
        let judged = judge(&rows, "requests", "riscv64");
        assert_eq!([&judged[0], &judged[1], &judged[3]], [&nothing; 3]);
        // The public API does more than the rival: it is not what the goals are about.
        for row in &mut rows {
            row.rival = Some("domain".into());
        }
        assert_eq!(judge(&rows, "requests", "riscv64"), vec![nothing; 4]);
    }

    #[test]
    fn goals_of_the_allocator() {
        let rows = [
            row("iova", "ours", "ring", 100, 20.0),
            row("iova", "ours", "ring", 1000, 30.0),
            row("iova", "ours", "ring", 1_000_000, 27.0),
            row("iova", "range-alloc", "ring", 1000, 40.0),
            row("iova", "vm-allocator", "ring", 100, 30.0),
            row("iova", "vm-allocator", "ring", 1000, 1440.0),
            row("iova", "ours", "random", 100, 20.0),
        ];
        let ring = judge(&rows, "iova", "ring");
        // At 10^6 nobody else is there, and 25 ns are allowed.
        assert_eq!(
            ring[0],
            (
                Verdict::Missed,
                "27.0 ns at 1000000, 1.08x of what is allowed".into()
            )
        );
        assert_eq!(ring[1], (Verdict::Missed, "1.35x".into()));
        assert_eq!(
            ring[2],
            (Verdict::Missed, "48.0x, vm-allocator at 1000".into())
        );
        let random = judge(&rows, "iova", "random");
        assert_eq!(random[0].0, Verdict::Met);
        assert_eq!([random[1].0, random[2].0], [Verdict::NotMeasured; 2]);
        assert_eq!(judge(&[], "iova", "–").len(), 3);
    }

    #[test]
    fn the_goal_of_the_ledger() {
        let rows = [
            row("ledger", "ours", "insert+remove", 100_000, 100.0),
            row("ledger", "BTreeMap", "insert+remove", 100_000, 151.0),
            row("ledger", "BTreeMap", "lookup", 100_000, 1.0),
        ];
        let judged = judge(&rows, "ledger", "insert+remove");
        assert_eq!(judged, [(Verdict::Met, "1.51x".into())]);
        assert_eq!(judge(&rows[..1], "ledger", "–")[0].0, Verdict::NotMeasured);
    }
}
