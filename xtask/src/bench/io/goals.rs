//! What an I/O behind the IOMMU should cost, and whether it does.

use super::super::goals::Goal;
use super::super::table::number;
use super::OURS;
use super::rows::IoRow;
use crate::arch::Arch;

/// Counts are of whole requests: this is nothing.
const ALMOST: f64 = 1e-9;

/// Modes in which the disk never reaches anything but what it was given.
pub const CONTAINED: [&str; 2] = ["strict", "bounce"];

/// The shape of an I/O: device, size, layout; and how it is called.
type Shape = (&'static str, u64, &'static str, &'static str);

const BLK_SMALL: Shape = ("blk", 4 << 10, "contiguous", "blk 4K");
const BLK_ROW: Shape = ("blk", 128 << 10, "contiguous", "blk 128K contiguous");
const BLK_SCATTERED: Shape = ("blk", 128 << 10, "scattered", "blk 128K scattered");
const NVME_SMALL: Shape = ("nvme", 4 << 10, "contiguous", "nvme 4K");

/// Requests and notifications per I/O, at most.
const COUNTS: [(Shape, &str, Option<f64>, f64); 8] = [
    (BLK_SMALL, "bounce", Some(0.0), 0.0),
    (BLK_SMALL, "strict", Some(2.0), 2.0),
    (BLK_SMALL, "deferred", Some(0.05), 0.02),
    (BLK_SMALL, "deferred-fresh", None, 1.05),
    (BLK_SCATTERED, "strict", Some(33.0), 2.0),
    (BLK_ROW, "strict", Some(2.0), 2.0),
    (NVME_SMALL, "strict", Some(2.0), 2.0),
    (NVME_SMALL, "bounce", Some(0.0), 0.0),
];

/// Instructions added per I/O, at most, on aarch64; of `bounce` beside the copy.
const ADDED: [(Shape, &str, f64); 4] = [
    (BLK_SMALL, "bounce", 600.0),
    (BLK_SMALL, "strict", 1000.0),
    (BLK_SMALL, "deferred", 500.0),
    (BLK_SCATTERED, "strict", 8000.0),
];

/// Microseconds added per I/O to `static`, at most; of `bounce` beside the copy.
const LONGER: [(Shape, &str, f64); 2] = [(BLK_SMALL, "bounce", 1.0), (BLK_SMALL, "deferred", 0.5)];

/// All goals, on all architectures.
#[must_use]
pub fn goals(rows: &[IoRow]) -> Vec<Goal> {
    Arch::ALL
        .iter()
        .flat_map(|arch| of_arch(rows, *arch))
        .collect()
}

fn of_arch(rows: &[IoRow], arch: Arch) -> Vec<Goal> {
    let here: Vec<&IoRow> = rows.iter().filter(|row| row.arch == arch.name()).collect();
    let mut goals = Vec::new();
    for (shape, mode, requests, kicks) in COUNTS {
        let name = shape.3;
        let what = match requests {
            Some(most) => {
                format!("{name} {mode}: at most {most} requests and {kicks} notifications")
            }
            None => format!("{name} {mode}: at most {kicks} notifications"),
        };
        goals.push(Goal::new(
            &what,
            arch.name(),
            counts(&here, shape, mode, requests, kicks),
        ));
    }
    if arch == Arch::Aarch64 {
        for (shape, mode, most) in ADDED {
            let beside = beside(mode);
            let what = format!(
                "{} {mode}: at most {most} instructions added{beside}",
                shape.3
            );
            let judged = added(&here, shape, mode, most);
            goals.push(Goal::new(&what, arch.name(), judged));
        }
    }
    for (shape, mode, most) in LONGER {
        let beside = beside(mode);
        let what = format!("{} {mode}: at most {most} µs over static{beside}", shape.3);
        let judged = longer(&here, shape, mode, most);
        goals.push(Goal::new(&what, arch.name(), judged));
    }
    const ABOVE: &str = "I/Os per second over bypass: contained above Linux in every case";
    goals.push(Goal::new(ABOVE, arch.name(), above(&here)));
    const FASTER: &str = "I/Os per second: contained above Linux in every case";
    goals.push(Goal::new(FASTER, arch.name(), faster(&here)));
    goals
}

fn beside(mode: &str) -> &'static str {
    match mode {
        "bounce" => ", beside the copy",
        _ => "",
    }
}

/// Our rows of a shape in a mode; all of them count.
fn ours<'a>(here: &[&'a IoRow], shape: Shape, mode: &str) -> Vec<&'a IoRow> {
    let (device, size, layout, _) = shape;
    let is_it = |row: &&&IoRow| {
        row.system == OURS
            && row.mode == mode
            && (&*row.device, row.size, &*row.layout) == (device, size, layout)
    };
    here.iter().filter(is_it).copied().collect()
}

/// The largest of some figures, all of which have to be there.
fn worst(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let figures: Option<Vec<f64>> = figures.collect();
    figures?.into_iter().max_by(f64::total_cmp)
}

fn counts(
    here: &[&IoRow],
    shape: Shape,
    mode: &str,
    requests: Option<f64>,
    kicks: f64,
) -> Option<(bool, String)> {
    let rows = ours(here, shape, mode);
    let asked = worst(rows.iter().map(|row| row.requests()))?;
    let told = worst(rows.iter().map(|row| Some(row.kicks?.value)))?;
    let met = requests.is_none_or(|most| asked <= most + ALMOST) && told <= kicks + ALMOST;
    Some((met, format!("{asked:.3} and {told:.3}")))
}

/// The row of what is no I/O, for a row of an I/O.
fn aside<'a>(here: &[&'a IoRow], row: &IoRow, mode: &str) -> Option<&'a IoRow> {
    let mut case = row.case();
    case.pattern = "seq".into();
    case.depth = 1;
    let is_it =
        |other: &&&IoRow| other.system == row.system && other.mode == mode && other.case() == case;
    here.iter().find(is_it).copied()
}

/// What `bounce` copies is not counted.
fn copy_of(here: &[&IoRow], row: &IoRow, figure: fn(&IoRow) -> Option<f64>) -> Option<f64> {
    match &*row.mode {
        "bounce" => figure(aside(here, row, "copy")?),
        _ => Some(0.0),
    }
}

fn added(here: &[&IoRow], shape: Shape, mode: &str, most: f64) -> Option<(bool, String)> {
    let rows = ours(here, shape, mode);
    let worst = worst(rows.iter().map(|row| {
        let copy = copy_of(here, row, |copy| Some(copy.instructions?.value))?;
        Some(row.added?.value - copy)
    }))?;
    Some((worst <= most, format!("{} instructions", number(worst))))
}

/// The median of the cases in which I/Os come one by one: single ones are noise.
fn longer(here: &[&IoRow], shape: Shape, mode: &str, most: f64) -> Option<(bool, String)> {
    let mut rows = ours(here, shape, mode);
    rows.retain(|row| row.depth == 1);
    let figures: Option<Vec<f64>> = rows
        .iter()
        .map(|row| Some(row.over_static_us?.value - copy_of(here, row, IoRow::us)?))
        .collect();
    let median = super::rows::Spread::of(figures?)?.value;
    Some((median <= most, format!("{median:.2} µs")))
}

/// A case in which both were measured: the best of ours that is contained, the best of the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair<'a> {
    /// Ours.
    pub own: &'a IoRow,
    /// The other system's.
    pub other: &'a IoRow,
}

impl Pair<'_> {
    /// Both figures: I/Os per second over bypass.
    #[must_use]
    pub fn figures(&self) -> (f64, f64) {
        let figure = |row: &IoRow| row.over_bypass.map_or(0.0, |spread| spread.value);
        (figure(self.own), figure(self.other))
    }
}

/// All cases in which there is something to compare.
#[must_use]
pub fn pairs<'a>(here: &[&'a IoRow]) -> Vec<Pair<'a>> {
    let best = |of: &IoRow, own: bool| {
        let modes: &[&str] = if own { &CONTAINED } else { &["strict", "lazy"] };
        let of_case = here.iter().filter(|row| {
            (row.system == OURS) == own
                && row.arch == of.arch
                && row.case() == of.case()
                && modes.contains(&&*row.mode)
                && row.over_bypass.is_some()
        });
        let figure = |row: &&IoRow| row.over_bypass.map_or(0.0, |spread| spread.value);
        of_case
            .copied()
            .max_by(|a, b| figure(a).total_cmp(&figure(b)))
    };
    // One row of each case stands for it.
    let cases = here
        .iter()
        .filter(|row| row.system == OURS && row.mode == "bypass");
    cases
        .filter_map(|row| {
            Some(Pair {
                own: best(row, true)?,
                other: best(row, false)?,
            })
        })
        .collect()
}

fn above(here: &[&IoRow]) -> Option<(bool, String)> {
    let pairs = pairs(here);
    let lead = |pair: &Pair<'_>| {
        let (own, other) = pair.figures();
        own - other
    };
    let least = pairs.iter().min_by(|a, b| lead(a).total_cmp(&lead(b)))?;
    let won = pairs.iter().filter(|pair| lead(pair) > 0.0).count();
    let (own, other) = least.figures();
    let text = format!(
        "{won} of {}; at the least {own:.2} next to {other:.2}",
        pairs.len()
    );
    Some((won == pairs.len(), text))
}

/// The same of the figures themselves, which are of different boots.
fn faster(here: &[&IoRow]) -> Option<(bool, String)> {
    let pairs = pairs(here);
    let ratio = |pair: &Pair<'_>| Some(pair.own.iops?.value / pair.other.iops?.value);
    let ratios: Vec<f64> = pairs.iter().filter_map(ratio).collect();
    let least = ratios.iter().copied().min_by(f64::total_cmp)?;
    let won = ratios.iter().filter(|ratio| **ratio > 1.0).count();
    let text = format!("{won} of {}; at the least {least:.2}x", ratios.len());
    Some((won == ratios.len(), text))
}

#[cfg(test)]
mod tests {
    use super::super::super::goals::Verdict;
    use super::super::rows::tests::{even, row};
    use super::*;

    fn judge(rows: &[IoRow], what: &str) -> (Verdict, String) {
        let goals = goals(rows);
        let mut found = goals
            .into_iter()
            .filter(|goal| goal.place == "aarch64" && goal.what.starts_with(what));
        let goal = found.next().unwrap();
        assert_eq!(found.next(), None, "{what}");
        (goal.verdict, goal.measured)
    }

    #[test]
    fn the_worst_row_counts() {
        let mut one = row("ours", "strict");
        (one.maps, one.unmaps, one.kicks) = (even(1.0), even(1.0), even(1.0));
        let mut other = one.clone();
        (other.operation, other.maps) = ("write".into(), even(1.01));
        let what = "blk 4K strict: at most 2 requests";
        assert_eq!(judge(&[one.clone()], what).0, Verdict::Met);
        let judged = judge(&[one.clone(), other.clone()], what);
        assert_eq!(judged, (Verdict::Missed, "2.010 and 1.000".into()));
        other.maps = None;
        assert_eq!(judge(&[one.clone(), other], what).0, Verdict::NotMeasured);
        // Of somebody else, or somewhere else.
        one.system = "linux".into();
        assert_eq!(judge(&[one.clone()], what).0, Verdict::NotMeasured);
        assert_eq!(judge(&[], what).0, Verdict::NotMeasured);
    }

    #[test]
    fn the_copy_is_not_what_bounce_adds() {
        let mut bounce = row("ours", "bounce");
        (bounce.pattern, bounce.depth) = ("rand".into(), 1);
        (bounce.added, bounce.over_static_us) = (even(1500.0), even(3.0));
        let mut copy = row("ours", "copy");
        (copy.instructions, copy.iops) = (even(1000.0), even(400_000.0));
        let rows = [bounce, copy];
        let added = judge(&rows, "blk 4K bounce: at most 600 instructions");
        assert_eq!(added, (Verdict::Met, "500.0 instructions".into()));
        let longer = judge(&rows, "blk 4K bounce: at most 1 µs");
        assert_eq!(longer, (Verdict::Met, "0.50 µs".into()));
        let added = judge(&rows[..1], "blk 4K bounce: at most 600 instructions");
        assert_eq!(added.0, Verdict::NotMeasured);
    }

    #[test]
    fn linux_is_compared_with_what_is_contained() {
        let with = |system: &str, mode: &str, share: f64| {
            let mut row = row(system, mode);
            row.over_bypass = even(share);
            row
        };
        let mut rows = vec![
            with("ours", "bypass", 1.0),
            with("ours", "strict", 0.5),
            with("ours", "bounce", 0.7),
            with("ours", "deferred", 0.9),
            with("linux", "bypass", 1.0),
            with("linux", "strict", 0.6),
            with("linux", "lazy", 0.65),
        ];
        let what = "I/Os per second over bypass";
        let text = "1 of 1; at the least 0.70 next to 0.65";
        assert_eq!(judge(&rows, what), (Verdict::Met, text.into()));
        rows[6].over_bypass = even(0.7);
        let text = "0 of 1; at the least 0.70 next to 0.70";
        assert_eq!(judge(&rows, what), (Verdict::Missed, text.into()));
        let faster = "I/Os per second: contained";
        assert_eq!(judge(&rows, faster).0, Verdict::NotMeasured);
        for (row, iops) in rows.iter_mut().zip([9.0, 3.0, 4.0, 5.0, 9.0, 1.0, 2.0]) {
            row.iops = even(iops);
        }
        let text = "1 of 1; at the least 2.00x";
        assert_eq!(judge(&rows, faster), (Verdict::Met, text.into()));
        rows[6].iops = even(4.0);
        assert_eq!(judge(&rows, faster).0, Verdict::Missed);
        rows.truncate(4);
        assert_eq!(judge(&rows, what).0, Verdict::NotMeasured);
    }
}
