//! The benchmark in the guest: not how fast anything is, but that it measures what it says.
//!
//! The figures are those of a few rounds and are not looked at closer than that they are there, and can be: the
//! counter is judged in the guest. That the requests were made, by whom, and how often, QEMU's trace says.

use super::records;
use super::scenarios::{Clock, Scenario, selftest};
use super::trace::{Event, Trace};
use super::verdict::{End, PASSED, Run};
use std::fmt::Write;
use xtask::bench::guest::{DEVICES, Measure};

/// Rounds of a test.
const ROUNDS: u32 = 2;

/// The rival's domain. The driver under test takes the lowest ids.
const RIVALS_DOMAIN: u32 = 500;

/// What is measured of everybody, and in batches of how many.
const FIGURES: [(&str, u64); 7] = [
    ("map", 1),
    ("map", 8),
    ("map", 64),
    ("unmap", 1),
    ("unmap", 8),
    ("unmap", 64),
    ("unmap+map", 1),
];

/// What is measured of nobody: a measurement of nothing, and parts of a request.
const PARTS: [&str; 3] = ["overhead", "lock", "notify"];

/// What is measured of the public API besides, each by itself.
const OF_DOMAIN: [&str; 6] = [
    "map-at",
    "dma-strict",
    "dma-exchange",
    "dma-deferred",
    "dma-bounce",
    "dma-place",
];

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// What is measured.
    pub measure: Measure,
    /// The machine.
    pub scenario: Scenario,
    /// The figures are in this unit, and above the first number and below the second.
    pub unit: &'static str,
    /// What a figure can be at all: fewer instructions than it has registers to fill are not a request.
    pub plausible: (f64, f64),
}

/// The boots of `cargo xtask bench`.
pub const BENCHES: [Bench; 2] = [
    Bench {
        measure: Measure::Instructions,
        scenario: Scenario {
            machine: |_| Measure::Instructions.clock(),
            ..machine("bench-requests-instructions")
        },
        unit: "instructions",
        plausible: (20.0, 100_000.0),
    },
    Bench {
        measure: Measure::Time,
        scenario: Scenario {
            machine: |_| Measure::Time.clock(),
            ..machine("bench-requests-time")
        },
        unit: "ns",
        // The host may be busy with something else for any time.
        plausible: (1.0, f64::MAX),
    },
];

/// The machine of the benchmarks, without a clock of its own.
pub const fn machine(name: &'static str) -> Scenario {
    Scenario {
        devices: &DEVICES,
        clock: Clock::Host,
        ..selftest(name)
    }
}

impl Bench {
    /// The boot arguments.
    pub fn append(&self) -> String {
        self.measure.append(ROUNDS)
    }

    /// What is wrong with a run, in words; nothing if nothing is.
    pub fn judge(&self, run: &Run) -> String {
        let mut wrong = String::new();
        if run.end != End::Exited(PASSED) {
            let _ = writeln!(wrong, "the end is {:?}", run.end);
        }
        let log = match records::parse(&run.serial) {
            Ok(log) => log,
            Err(broken) => return wrong + &broken.to_string(),
        };
        for check in &log.checks {
            if check.outcome != records::Outcome::Passed {
                let _ = writeln!(wrong, "{check:?}");
            }
        }
        let mut wanted: Vec<(&str, &str, u64)> = PARTS.map(|name| ("none", name, 1)).into();
        for rival in ["virtio-drivers", "pipeline", "domain"] {
            wanted.extend(FIGURES.iter().map(|(name, size)| (rival, *name, *size)));
        }
        wanted.extend(OF_DOMAIN.map(|name| ("domain", name, 1)));
        let mut found: Vec<(&str, &str, u64)> = Vec::new();
        for figure in &log.figures {
            found.push((&figure.rival, &figure.name, figure.size));
            let (least, most) = self.plausible;
            let low = if figure.rival == "none" { 0.0 } else { least };
            let own = ["pipeline", "domain"].contains(&&*figure.rival);
            let compared = own && !OF_DOMAIN.contains(&&*figure.name);
            if figure.unit != self.unit
                || figure.value <= low
                || figure.value >= most
                || figure.paired.is_some() != compared
            {
                let _ = writeln!(wrong, "not plausible: {figure:?}");
            }
        }
        wanted.sort_unstable();
        found.sort_unstable();
        if wanted != found {
            let _ = writeln!(wrong, "the figures are {found:?} instead of {wanted:?}");
        }

        // Each figure says how often it was done.
        let done = |rivals: bool, names: &[&str]| -> u64 {
            let figures = log.figures.iter().filter(|figure| {
                (figure.rival == "virtio-drivers") == rivals && names.contains(&&*figure.name)
            });
            figures.map(|figure| figure.done).sum()
        };
        let trace = run.trace.as_deref().map(Trace::parse);
        let Some(Ok(trace)) = trace else {
            return wrong + "there is no trace, or none that can be read\n";
        };
        let traced = |rivals: bool, of: fn(&Event) -> Option<u32>| {
            trace.count(|event| of(event).is_some_and(|domain| (domain == RIVALS_DOMAIN) == rivals))
                as u64
        };
        let mapped: fn(&Event) -> Option<u32> = |event| match event {
            Event::Map { domain, .. } => Some(*domain),
            _ => None,
        };
        let unmapped: fn(&Event) -> Option<u32> = |event| match event {
            // Not the requests: one can be for several mappings.
            Event::UnmapDone { domain, .. } => Some(*domain),
            _ => None,
        };
        for rivals in [true, false] {
            let told = [
                done(
                    rivals,
                    &["map", "map-at", "unmap+map", "dma-strict", "dma-exchange"],
                ),
                done(
                    rivals,
                    &["unmap", "unmap+map", "dma-strict", "dma-exchange"],
                ),
            ];
            let seen = [traced(rivals, mapped), traced(rivals, unmapped)];
            if told != seen || told[0] == 0 {
                let _ = writeln!(
                    wrong,
                    "mapped and unmapped by the rival ({rivals}): {told:?} told, {seen:?} traced"
                );
            }
        }
        wrong
    }
}
