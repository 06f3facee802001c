//! What the figures should be, and whether they are.

use std::fmt::{self, Write};

use super::compare::{Comparison, FLOOR, Line, comparisons, ratio};
use super::counts;
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
    pub(super) fn new(what: &str, place: &str, judged: Option<(bool, String)>) -> Self {
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
            "iova" => {
                goals.extend(iova(&all));
                goals.push(steps(&all));
            }
            "ledger" => goals.extend(ledger(&all)),
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
    let part = |name: &str| {
        let row = of("instructions")?
            .others
            .iter()
            .find(|row| row.name == name)?;
        Some(row.value)
    };
    let mut alone = within(170.0, &[("map", 1), ("unmap", 1)]);
    if let (Some((_, text)), Some(lock), Some(notify)) = (&mut alone, part("lock"), part("notify"))
    {
        let _ = write!(
            text,
            "; of these lock {}, notify {}",
            number(lock),
            number(notify)
        );
    }
    let goal = |what, judged| Goal::new(what, arch.name(), judged);
    vec![
        goal(
            "a request in a batch of 64: at most 80 instructions",
            within(80.0, &[("map", 64), ("unmap", 64)]),
        ),
        goal("a request alone: at most 170 instructions", alone),
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
        let shares = lines.iter().filter_map(|line| {
            let own = line.rows.get(OWN)?.value;
            let allowed = line.best_rival().map_or(25.0, |best| best.value.max(25.0));
            Some((own / allowed, own, line))
        });
        let worst = shares.max_by(|a, b| a.0.total_cmp(&b.0));
        let judged = worst.map(|(share, own, line)| {
            let mut text = format!(
                "{} ns at {}, {share:.2}x of what is allowed",
                number(own),
                line.size
            );
            if let Some(floor) = line.rows.get(FLOOR).map(|row| row.value) {
                let (floor, rest) = (number(floor), number(own - floor));
                let _ = write!(text, "; floor {floor}, ours minus floor {rest}");
            }
            (share <= 1.0, text)
        });
        goals.push(Goal::new(FAST, name, judged));

        // With few ranges, and with many.
        let ends = |who: &str| {
            let at = |size| {
                let line = lines.iter().find(|line| line.size == size)?;
                Some(line.rows.get(who)?.value)
            };
            at(100).zip(at(1_000_000))
        };
        let judged = ends(OWN).map(|(few, many)| {
            let told = |few, many| format!("{} to {}", number(few), number(many));
            let growth = many / few;
            let mut text = format!("{growth:.2}x, {} ns", told(few, many));
            if let Some((floor_few, floor_many)) = ends(FLOOR) {
                let floor = told(floor_few, floor_many);
                let rest = told(few - floor_few, many - floor_many);
                let _ = write!(text, "; floor {floor}, ours minus floor {rest}");
            }
            (growth <= 1.3, text)
        });
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

/// What one operation visits at most, with a million ranges.
fn steps(all: &[Comparison<'_>]) -> Goal {
    const WHAT: &str = "worst alloc and free at 10^6: at most 5 log2(n) nodes visited";
    const LIVE: u64 = 1_000_000;
    const KINDS: [&str; 3] = ["alloc", "alloc-long", "free"];
    let judged = find(all, "iova", None, counts::NODES).and_then(|nodes| {
        let worst = |kind: &&str| {
            let line = line(nodes, &format!("{}{kind}", counts::STEPS), LIVE)?;
            Some(line.rows.get("ours")?.value)
        };
        let worst: Option<Vec<f64>> = KINDS.iter().map(worst).collect();
        let worst = worst?.into_iter().fold(0.0, f64::max);
        let factor = worst / (LIVE as f64).log2();
        Some((factor <= 5.0, format!("{worst} nodes, {factor:.2} log2(n)")))
    });
    Goal::new(WHAT, "–", judged)
}

/// The ledger, asked by name and by exact range, against what everybody would take; and its size.
fn ledger(all: &[Comparison<'_>]) -> Vec<Goal> {
    const FAST: &str = "insert and remove at 10^5: at least 1.5x faster than BTreeMap";
    const SMALL: &str = "at most 48 bytes per mapping";
    let factor = |own: &str| {
        let line = line(find(all, "ledger", None, "ns")?, "exchange", 100_000)?;
        // The better of the two orders of addresses.
        let factor = ratio(line.best_rival()?, line.rows.get(own)?);
        Some((factor >= 1.5, format!("{factor:.2}x")))
    };
    let size = find(all, "ledger", None, counts::BYTES).and_then(|bytes| {
        let row = bytes.others.iter().find(|row| row.name == "mapping")?;
        Some((row.value <= 48.0, format!("{} bytes", row.value)))
    });
    vec![
        Goal::new(FAST, "by name", factor("ours")),
        Goal::new(FAST, "by range", factor("ours-by-range")),
        Goal::new(SMALL, "–", size),
    ]
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
        assert_eq!(ring[1], (Verdict::Missed, "1.35x, 20.0 to 27.0 ns".into()));
        assert_eq!(
            ring[2],
            (Verdict::Missed, "48.0x, vm-allocator at 1000".into())
        );
        let random = judge(&rows, "iova", "random");
        assert_eq!(random[0].0, Verdict::Met);
        assert_eq!([random[1].0, random[2].0], [Verdict::NotMeasured; 2]);
        assert_eq!(judge(&[], "iova", "–").len(), 4);
    }

    #[test]
    fn the_floor_explains_and_is_no_rival() {
        let rows = [
            row("iova", "ours", "random", 100, 15.0),
            row("iova", "memory-alone", "random", 100, 2.0),
            row("iova", "ours", "random", 1_000_000, 60.0),
            row("iova", "memory-alone", "random", 1_000_000, 45.5),
        ];
        let judged = judge(&rows, "iova", "random");
        let (fast, flat) = (
            "60.0 ns at 1000000, 2.40x of what is allowed; floor 45.5, ours minus floor 14.5",
            "4.00x, 15.0 to 60.0 ns; floor 2.00 to 45.5, ours minus floor 13.0 to 14.5",
        );
        assert_eq!(judged[0], (Verdict::Missed, fast.into()));
        assert_eq!(judged[1], (Verdict::Missed, flat.into()));
        assert_eq!(judged[2].0, Verdict::NotMeasured);
    }

    /// A row of something that is not time.
    fn counted(section: &str, rival: &str, name: &str, size: u64, value: f64, unit: &str) -> Row {
        Row {
            unit: unit.into(),
            ..row(section, rival, name, size, value)
        }
    }

    #[test]
    fn the_goal_of_steps() {
        let steps = |name, worst| counted("iova", "ours", name, 1_000_000, worst, "nodes");
        let mut rows = vec![
            steps("steps-alloc", 40.0),
            steps("steps-alloc-long", 99.0),
            steps("steps-free", 60.0),
            // Nobody promised anything of these.
            steps("steps-lookup", 200.0),
            counted("iova", "ours", "steps-alloc", 100, 200.0, "nodes"),
        ];
        let judged = |rows: &[Row]| {
            let goals = goals(rows, &["iova"]);
            let goal = goals.into_iter().find(|goal| goal.what.contains("nodes"));
            goal.map(|goal| (goal.verdict, goal.measured)).unwrap()
        };
        let met = (Verdict::Met, "99 nodes, 4.97 log2(n)".to_owned());
        assert_eq!(judged(&rows), met);
        rows[2].value = 100.0;
        let missed = (Verdict::Missed, "100 nodes, 5.02 log2(n)".to_owned());
        assert_eq!(judged(&rows), missed);
        rows.remove(1);
        assert_eq!(judged(&rows), (Verdict::NotMeasured, "–".to_owned()));
    }

    #[test]
    fn the_goals_of_the_ledger() {
        let mut rows = vec![
            row("ledger", "ours", "exchange", 100_000, 100.0),
            row("ledger", "ours-by-range", "exchange", 100_000, 110.0),
            row("ledger", "btreemap", "exchange", 100_000, 151.0),
            row("ledger", "btreemap-random", "exchange", 100_000, 300.0),
            row("ledger", "btreemap", "exchange", 1_000, 1.0),
            row("ledger", "btreemap", "lookup", 100_000, 1.0),
            counted("ledger", "", "mapping", 1, 48.0, "bytes"),
        ];
        let by_name = judge(&rows, "ledger", "by name");
        assert_eq!(by_name, [(Verdict::Met, "1.51x".into())]);
        let by_range = judge(&rows, "ledger", "by range");
        assert_eq!(by_range, [(Verdict::Missed, "1.37x".into())]);
        let size = judge(&rows, "ledger", "–");
        assert_eq!(size, [(Verdict::Met, "48 bytes".into())]);
        rows[6].value = 49.0;
        let size = judge(&rows, "ledger", "–");
        assert_eq!(size, [(Verdict::Missed, "49 bytes".into())]);
        let nothing = goals(&rows[..1], &["ledger"]);
        let verdicts: Vec<Verdict> = nothing.iter().map(|goal| goal.verdict).collect();
        assert_eq!(verdicts, [Verdict::NotMeasured; 3]);
    }

    #[test]
    fn a_request_alone_is_told_with_its_parts() {
        let count = "riscv64 instructions";
        let rows = [
            row(count, "pipeline", "map", 1, 190.0),
            row(count, "pipeline", "unmap", 1, 186.0),
            row(count, "", "lock", 1, 24.5),
            row(count, "", "notify", 1, 40.0),
        ];
        let text = "190.0 instructions; of these lock 24.5, notify 40.0";
        let judged = judge(&rows, "requests", "riscv64");
        assert_eq!(judged[1], (Verdict::Missed, text.into()));
    }
}
