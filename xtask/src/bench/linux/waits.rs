//! Leaves the wait for the disks out of what Linux' I/Os take in instructions.
//!
//! A disk may be quick enough for Linux to see the end of an I/O before it has found nothing to do. If not, it goes idle
//! and comes back, for thousands of instructions. How often that happens is up to the host, and differs from phase to
//! phase. The guest says how often it waited, and what I/Os of each kind took: what a wait takes is the difference.

use super::super::io::record::Phase;

/// The kind of such a record.
pub const KIND: &str = "waits";
/// What each begins with.
const MARK: &str = "@viommu 1 waits ";

/// What a guest says of the waits of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// How many of them there were.
    count: u64,
    /// The instructions of an I/O that was waited for: the median. Nothing if there were but a few.
    with: Option<u64>,
    /// Those of another one.
    without: Option<u64>,
}

impl Waits {
    /// Reads what follows the mark.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut number = |key: &str| {
            let value = words.next()?.strip_prefix(key)?.strip_prefix('=')?;
            value.parse::<u64>().ok()
        };
        let some = |number| (number > 0).then_some(number);
        let waits = Self {
            count: number("count")?,
            with: some(number("with")?),
            without: some(number("without")?),
        };
        words.next().is_none().then_some(waits)
    }
}

/// All of a log, in order.
///
/// # Errors
///
/// A record that is not of the known form, in words.
pub fn read(serial: &str) -> Result<Vec<Waits>, String> {
    let records = serial
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix(MARK));
    records
        .map(|text| Waits::parse(text).ok_or_else(|| format!("waits of an unknown form: `{text}`")))
        .collect()
}

/// What one wait takes in instructions: the median over the phases that had I/Os of both kinds. Nothing, if none had:
/// then all waited, or none did, and all are alike.
fn cost(waits: &[Waits]) -> u64 {
    let both = waits
        .iter()
        .filter_map(|waits| waits.with?.checked_sub(waits.without?));
    let mut all: Vec<u64> = both.collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// Takes the waits out of `phases`.
///
/// # Errors
///
/// The phases and the waits are not of one boot, in words.
pub fn leave_out(phases: &mut [Phase], waits: &[Waits]) -> Result<(), String> {
    if phases.len() != waits.len() {
        return Err(format!(
            "{} phases have {} waits",
            phases.len(),
            waits.len()
        ));
    }
    let cost = cost(waits);
    for (phase, waits) in phases.iter_mut().zip(waits) {
        let taken = cost * waits.count;
        let left = phase.instructions.and_then(|all| all.checked_sub(taken));
        let wrong = || format!("{waits:?} of {cost} instructions cannot be of {phase:?}");
        phase.instructions = Some(left.filter(|left| *left > 0).ok_or_else(wrong)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::io::record::phases;
    use super::*;

    fn told(instructions: &[u64]) -> Vec<Phase> {
        let line = |all| {
            format!(
                "@viommu 1 io device=blk op=read pattern=seq size=4096 layout=contiguous depth=1 mode=none ios=10 \
                 instructions={all}\n"
            )
        };
        let log: String = instructions.iter().map(line).collect();
        phases(&log).unwrap()
    }

    #[test]
    fn waits_are_left_out() {
        let log = "noise\n\
                   @viommu 1 waits count=4 with=1500 without=1000\r\n\
                   @viommu 1 waits count=0 with=0 without=1000\r\n\
                   @viommu 1 waits count=10 with=2520 without=2000\r\n\
                   @viommu 1 waits count=3 with=1000 without=501\r\n";
        let waits = read(log).unwrap();
        let mut phases = told(&[12_000, 10_000, 25_200, 7_000]);
        // 500, 520, 499.
        assert_eq!(cost(&waits), 500);
        leave_out(&mut phases, &waits).unwrap();
        let left: Vec<_> = phases
            .iter()
            .filter_map(|phase| phase.instructions)
            .collect();
        assert_eq!(left, [10_000, 10_000, 20_200, 5_500]);
    }

    #[test]
    fn where_all_are_alike_nothing_is_left_out() {
        let waits = read("@viommu 1 waits count=10 with=1500 without=0\n").unwrap();
        let mut phases = told(&[15_000]);
        leave_out(&mut phases, &waits).unwrap();
        assert_eq!(phases[0].instructions, Some(15_000));
    }

    #[test]
    fn waits_of_something_else_are_refused() {
        let waits = read("@viommu 1 waits count=10 with=1500 without=1000\n").unwrap();
        assert!(leave_out(&mut told(&[5_000]), &waits).is_err());
        assert!(leave_out(&mut told(&[9_000, 9_000]), &waits).is_err());
        for bad in [
            "count=1 with=1",
            "count=x with=1 without=1",
            "count=1 with=1 without=1 more=1",
        ] {
            assert!(read(&format!("{MARK}{bad}\n")).is_err(), "{bad}");
        }
    }
}
