//! What the boots of one system give: a row for each case and mode, medians with their spread.
//!
//! Who the guest is makes no difference here. Times of different boots are never compared: the host
//! may be twice as fast in the next minute. Ratios are those of single rounds of single boots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::boot::{Boot, Measure};
use super::record::{Case, Phase};

/// A median, and what 10 % and 90 % of the samples are below. In the file: a list of the three.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 3]", into = "[f64; 3]")]
pub struct Spread {
    /// The median.
    pub value: f64,
    /// The 10th percentile.
    pub low: f64,
    /// The 90th percentile.
    pub high: f64,
}

impl From<[f64; 3]> for Spread {
    fn from([value, low, high]: [f64; 3]) -> Self {
        Self { value, low, high }
    }
}

impl From<Spread> for [f64; 3] {
    fn from(spread: Spread) -> Self {
        [spread.value, spread.low, spread.high]
    }
}

impl Spread {
    /// Of some samples, in thousandths; `None` of none.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let last = samples.len().checked_sub(1)?;
        // Between two samples, if there is none in the place.
        let at = |part: f64| {
            let place = part * last as f64;
            let (below, above) = (
                samples[place.floor() as usize],
                samples[place.ceil() as usize],
            );
            let value = below + (above - below) * place.fract();
            (value * 1000.0).round() / 1000.0
        };
        Some(Self {
            value: at(0.5),
            low: at(0.1),
            high: at(0.9),
        })
    }
}

/// One case in one mode of one system. What was not measured is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IoRow {
    /// [`super::SECTION`].
    pub section: String,
    /// [`super::OURS`], or another system.
    pub system: String,
    /// The emulated architecture.
    pub arch: String,
    /// `blk` or `nvme`.
    pub device: String,
    /// `read` or `write`.
    pub operation: String,
    /// `seq` or `rand`.
    pub pattern: String,
    /// Bytes of an I/O.
    pub size: u64,
    /// `contiguous` or `scattered`: the pages of the buffer.
    pub layout: String,
    /// I/Os at once.
    pub depth: u32,
    /// How memory is shown to the disk.
    pub mode: String,
    /// MAP requests per I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maps: Option<Spread>,
    /// UNMAP requests per I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmaps: Option<Spread>,
    /// Notifications of the IOMMU per I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kicks: Option<Spread>,
    /// Instructions of the guest per I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<Spread>,
    /// How many more than without translation: than `none`, or `bypass` where there is no `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<Spread>,
    /// I/Os per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<Spread>,
    /// The median of what an I/O takes, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<Spread>,
    /// What 99 % of them take at the most, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<Spread>,
    /// I/Os per second, as a part of those of `bypass` in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_bypass: Option<Spread>,
    /// How much longer an I/O takes than in the mode `static`, in the same round, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_static_us: Option<Spread>,
}

impl IoRow {
    /// What is done.
    #[must_use]
    pub fn case(&self) -> Case {
        Case {
            device: self.device.clone(),
            operation: self.operation.clone(),
            pattern: self.pattern.clone(),
            size: self.size,
            layout: self.layout.clone(),
            depth: self.depth,
        }
    }

    /// MAP and UNMAP requests per I/O.
    #[must_use]
    pub fn requests(&self) -> Option<f64> {
        Some(self.maps?.value + self.unmaps?.value)
    }

    /// Microseconds of an I/O, the others at the same time being counted as one.
    #[must_use]
    pub fn us(&self) -> Option<f64> {
        Some(1e6 / self.iops?.value)
    }

    /// The order of the file, and of the page.
    pub(crate) fn key(&self) -> impl Ord + use<> {
        let Case {
            device,
            operation,
            pattern,
            size,
            layout,
            depth,
        } = self.case();
        let mode = MODES.iter().position(|mode| *mode == self.mode);
        (
            (self.arch.clone(), device, size, layout),
            (operation, pattern, depth),
            (
                self.system != super::OURS,
                self.system.clone(),
                mode,
                self.mode.clone(),
            ),
        )
    }
}

/// All modes, in the order in which they are told.
pub const MODES: [&str; 10] = [
    "none",
    "bypass",
    "static",
    "strict",
    "lazy",
    "bounce",
    "deferred",
    "deferred-fresh",
    "copy",
    "requests",
];

/// What was seen of a case in a mode, per I/O.
#[derive(Default)]
struct Samples {
    maps: Vec<f64>,
    unmaps: Vec<f64>,
    kicks: Vec<f64>,
    instructions: Vec<f64>,
    iops: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    over_bypass: Vec<f64>,
    over_static_us: Vec<f64>,
}

/// The rows of a system.
#[must_use]
pub fn rows(system: &str, arch: &str, boots: &[Boot]) -> Vec<IoRow> {
    let mut all: BTreeMap<(Case, String), Samples> = BTreeMap::new();
    for boot in boots {
        match boot.measure {
            Measure::Counts => counted(&mut all, boot),
            Measure::Instructions => {
                for phase in &boot.phases {
                    let samples = all.entry(key(phase)).or_default();
                    let each = phase.instructions.map(|all| all as f64 / phase.ios as f64);
                    samples.instructions.extend(each);
                }
            }
            Measure::Time => timed(&mut all, boot),
        }
    }
    let base: BTreeMap<Case, f64> = all
        .keys()
        .filter_map(|(case, _)| {
            let of = |mode: &str| {
                let samples = all.get(&(case.clone(), mode.to_owned()))?;
                Some(Spread::of(samples.instructions.clone())?.value)
            };
            Some((case.clone(), of("none").or_else(|| of("bypass"))?))
        })
        .collect();
    let mut rows: Vec<IoRow> = all
        .into_iter()
        .map(|((case, mode), samples)| {
            let added = base.get(&case).map(|base| {
                let added = samples.instructions.iter().map(|each| each - base);
                added.collect()
            });
            // What is no I/O adds nothing to one.
            let is_io = mode != "copy" && mode != "requests";
            IoRow {
                section: super::SECTION.into(),
                system: system.into(),
                arch: arch.into(),
                device: case.device,
                operation: case.operation,
                pattern: case.pattern,
                size: case.size,
                layout: case.layout,
                depth: case.depth,
                mode,
                maps: Spread::of(samples.maps),
                unmaps: Spread::of(samples.unmaps),
                kicks: Spread::of(samples.kicks),
                instructions: Spread::of(samples.instructions),
                added: added.filter(|_| is_io).and_then(Spread::of),
                iops: Spread::of(samples.iops),
                p50_us: Spread::of(samples.p50_us),
                p99_us: Spread::of(samples.p99_us),
                over_bypass: Spread::of(samples.over_bypass),
                over_static_us: Spread::of(samples.over_static_us),
            }
        })
        .collect();
    rows.sort_by_cached_key(IoRow::key);
    rows
}

fn key(phase: &Phase) -> (Case, String) {
    (phase.case.clone(), phase.mode.clone())
}

fn counted(all: &mut BTreeMap<(Case, String), Samples>, boot: &Boot) {
    for (phase, counts) in boot.phases.iter().zip(&boot.counts) {
        let samples = all.entry(key(phase)).or_default();
        let each = |count: u64| count as f64 / phase.ios as f64;
        samples.maps.push(each(counts.maps));
        samples.unmaps.push(each(counts.unmaps));
        samples.kicks.push(each(counts.kicks));
    }
}

fn timed(all: &mut BTreeMap<(Case, String), Samples>, boot: &Boot) {
    // Nanoseconds per I/O, round by round.
    let mut rounds: BTreeMap<(Case, String), Vec<f64>> = BTreeMap::new();
    for phase in &boot.phases {
        let Some(ns) = phase.ns.filter(|ns| *ns > 0) else {
            continue;
        };
        let each = ns as f64 / phase.ios as f64;
        rounds.entry(key(phase)).or_default().push(each);
        let samples = all.entry(key(phase)).or_default();
        samples.iops.push(1e9 / each);
        let us = |ns: u64| ns as f64 / 1000.0;
        samples.p50_us.extend(phase.p50.map(us));
        samples.p99_us.extend(phase.p99.map(us));
    }
    for ((case, mode), own) in &rounds {
        if mode == "copy" || mode == "requests" {
            continue;
        }
        let pairs = |other: &str| {
            let other = rounds.get(&(case.clone(), other.to_owned()));
            let other = other.map(Vec::as_slice).unwrap_or_default();
            own.iter().copied().zip(other.iter().copied())
        };
        let samples = all.entry((case.clone(), mode.clone())).or_default();
        let ratios = pairs("bypass").map(|(own, bypass)| bypass / own);
        samples.over_bypass.extend(ratios);
        let longer = pairs("static").map(|(own, floor)| (own - floor) / 1000.0);
        samples.over_static_us.extend(longer);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::phases::Counts;
    use super::*;
    use std::time::Duration;

    pub(crate) fn case() -> Case {
        Case {
            device: "blk".into(),
            operation: "read".into(),
            pattern: "seq".into(),
            size: 4096,
            layout: "contiguous".into(),
            depth: 1,
        }
    }

    /// A row of [`case`], in which nothing was measured.
    pub(crate) fn row(system: &str, mode: &str) -> IoRow {
        let boot = boot(Measure::Counts, vec![phase(mode, 1)]);
        let mut rows = rows(system, "aarch64", &[boot]);
        let row = rows.remove(0);
        IoRow {
            maps: None,
            unmaps: None,
            kicks: None,
            ..row
        }
    }

    pub(crate) fn even(value: f64) -> Option<Spread> {
        Some([value; 3].into())
    }

    fn phase(mode: &str, ios: u64) -> Phase {
        Phase {
            case: case(),
            mode: mode.into(),
            ios,
            ns: None,
            p50: None,
            p99: None,
            instructions: None,
        }
    }

    fn boot(measure: Measure, phases: Vec<Phase>) -> Boot {
        Boot {
            measure,
            counts: vec![
                Counts {
                    maps: 20,
                    unmaps: 10,
                    kicks: 5
                };
                phases.len()
            ],
            phases,
            command: String::new(),
            elapsed: Duration::ZERO,
        }
    }

    fn time(mode: &str, ns: u64) -> Phase {
        Phase {
            ns: Some(ns),
            p50: Some(ns / 10),
            p99: Some(ns / 5),
            ..phase(mode, 10)
        }
    }

    #[test]
    fn the_spread_is_between_samples() {
        let samples = (0..=10).rev().map(f64::from).collect();
        assert_eq!(Spread::of(samples), Some([5.0, 1.0, 9.0].into()));
        assert_eq!(Spread::of(vec![1.0, 2.0]), Some([1.5, 1.1, 1.9].into()));
        assert_eq!(Spread::of(vec![0.12345]), Some([0.123; 3].into()));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn counts_are_per_io() {
        let boots = [boot(Measure::Counts, vec![phase("strict", 10)])];
        let rows = rows("ours", "aarch64", &boots);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].maps, rows[0].unmaps), (even(2.0), even(1.0)));
        assert_eq!((rows[0].kicks, rows[0].requests()), (even(0.5), Some(3.0)));
        assert_eq!((rows[0].iops, rows[0].instructions), (None, None));
    }

    #[test]
    fn instructions_are_those_more_than_the_least_mode_of_any_boot() {
        let with = |mode, instructions| Phase {
            instructions: Some(instructions),
            ..phase(mode, 10)
        };
        let boots = [
            boot(Measure::Instructions, vec![with("none", 1000)]),
            boot(
                Measure::Instructions,
                vec![with("bypass", 1200), with("strict", 3000), with("copy", 50)],
            ),
        ];
        let all = rows("linux", "aarch64", &boots);
        let added = |mode: &str| all.iter().find(|row| row.mode == mode).unwrap().added;
        assert_eq!((added("none"), added("strict")), (even(0.0), even(200.0)));
        assert_eq!(added("copy"), None);
        // There is no other way around.
        let all = rows("linux", "aarch64", &boots[1..]);
        let strict = all.iter().find(|row| row.mode == "strict").unwrap();
        assert_eq!(strict.added, even(180.0));
    }

    #[test]
    fn ratios_are_of_the_same_round_of_the_same_boot() {
        // The host is ten times as slow in the second round, and in the second boot has no bypass.
        let first = vec![
            time("bypass", 1000),
            time("static", 2000),
            time("strict", 4000),
            time("strict", 40_000),
            time("bypass", 10_000),
            time("static", 20_000),
        ];
        let boots = [
            boot(Measure::Time, first),
            boot(Measure::Time, vec![time("strict", 7)]),
        ];
        let rows = rows("ours", "aarch64", &boots);
        let strict = rows.iter().find(|row| row.mode == "strict").unwrap();
        assert_eq!(strict.over_bypass, even(0.25));
        let longer = strict.over_static_us.unwrap();
        assert_eq!((longer.value, longer.low, longer.high), (1.1, 0.38, 1.82));
        assert_eq!(strict.iops.unwrap().value, 2_500_000.0);
        assert_eq!(strict.p50_us.unwrap().value, 0.4);
        let order: Vec<&str> = rows.iter().map(|row| &*row.mode).collect();
        assert_eq!(order, ["bypass", "static", "strict"]);
    }

    #[test]
    fn a_row_is_one_line_with_lists() {
        let mut row = row("ours", "strict");
        row.kicks = Some([1.0, 0.5, 2.0].into());
        let text = serde_json::to_string(&row).unwrap();
        let expected = r#"{"section":"io","system":"ours","arch":"aarch64","device":"blk","operation":"read","pattern":"seq","size":4096,"layout":"contiguous","depth":1,"mode":"strict","kicks":[1.0,0.5,2.0]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<IoRow>(expected).unwrap(), row);
    }
}
