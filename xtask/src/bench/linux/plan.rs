//! What the Linux guest does: which disks it has, and in which order it measures what.
//!
//! The guest is told line by line, and told again in its records, so that what it says can be compared with what it was
//! told. In each round of a case every mode comes once, one right after the other, in an order that is rotated from
//! round to round: what else the host does falls on all of them.

use std::fmt::Write;

use super::super::io::boot::Measure;
use super::super::io::record::{Case, Phase};
use crate::setup::linux::Linux;

/// A disk of the machine. All are of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `blk` or `nvme`.
    pub device: &'static str,
    /// `none`, `bypass`, `strict` or `lazy`.
    pub mode: &'static str,
}

/// All disks. An NVMe behind the IOMMU has no way around it.
pub const DISKS: [Disk; 7] = [
    disk("blk", "none"),
    disk("blk", "bypass"),
    disk("blk", "strict"),
    disk("blk", "lazy"),
    disk("nvme", "bypass"),
    disk("nvme", "strict"),
    disk("nvme", "lazy"),
];

const fn disk(device: &'static str, mode: &'static str) -> Disk {
    Disk { device, mode }
}

/// The slot of the first disk on the PCI bus; the others follow.
const FIRST_SLOT: usize = 5;
/// The slot of the `edu` whose Interrupt Line marks phases.
pub const MARKER_SLOT: usize = FIRST_SLOT + DISKS.len();

/// The slot of a disk.
#[must_use]
pub const fn slot(disk: usize) -> usize {
    FIRST_SLOT + disk
}

/// Bytes of the disks.
pub const SPACE: u64 = 64 << 20;
/// How many blocks at the start of the disks hold their number, for the guest to see that it reads.
pub const STAMPED: u64 = 16;
/// Bytes of such a block.
pub const BLOCK: u64 = 4096;

/// Bytes of a small I/O, and of a large one.
const SMALL: u64 = 4 << 10;
const LARGE: u64 = 128 << 10;
/// I/Os at once, at most.
const DEEP: u32 = 16;

/// UNMAPs that are put off are sent after 10 ms at the latest: they must not fall on the next mode.
const REST: &str = "rest 25\n";

/// All that is done with a kind of disk.
fn cases(device: &str) -> Vec<Case> {
    // One page is contiguous.
    let shapes = [
        (SMALL, "contiguous"),
        (LARGE, "contiguous"),
        (LARGE, "scattered"),
    ];
    let mut cases = Vec::new();
    for (size, layout) in shapes {
        for operation in ["read", "write"] {
            for pattern in ["seq", "rand"] {
                cases.extend([1, DEEP].map(|depth| Case {
                    device: device.into(),
                    operation: operation.into(),
                    pattern: pattern.into(),
                    size,
                    layout: layout.into(),
                    depth,
                }));
            }
        }
    }
    cases
}

/// How many I/Os a phase has.
fn ios(case: &Case) -> u64 {
    match case.size {
        SMALL => 128,
        _ => 32,
    }
}

/// What a guest is told, and what it has to say.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The lines of `/plan`.
    pub text: String,
    /// The phases, without what they took.
    pub phases: Vec<Phase>,
}

impl Plan {
    /// Makes one, of `rounds` rounds of each case.
    #[must_use]
    pub fn new(linux: &Linux, measure: Measure, rounds: u32) -> Self {
        let mut plan = Self {
            text: String::new(),
            phases: Vec::new(),
        };
        plan.machine(linux, measure);
        for (number, device) in ["blk", "nvme"].into_iter().enumerate() {
            for (place, case) in cases(device).iter().enumerate() {
                let ios = ios(case);
                // Far apart, so that no two phases with random places have the same ones but by chance.
                let seed = ((number * 100 + place) as u64) << 32;
                let disks = DISKS.iter().enumerate();
                let mut disks: Vec<usize> = disks
                    .filter(|(_, disk)| disk.device == device)
                    .map(|(index, _)| index)
                    .collect();
                for disk in &disks {
                    plan.order("warm", *disk, case, ios.div_ceil(4), seed);
                }
                for round in 0..rounds {
                    let first = u64::from(round) * ios;
                    let first = match &*case.pattern {
                        "rand" => seed + first,
                        _ => first,
                    };
                    for disk in &disks {
                        plan.order("phase", *disk, case, ios, first);
                        plan.phases.push(Phase {
                            case: case.clone(),
                            mode: DISKS[*disk].mode.into(),
                            ios,
                            ns: None,
                            p50: None,
                            p99: None,
                            instructions: None,
                        });
                    }
                    disks.rotate_left(1);
                }
            }
        }
        plan
    }

    fn machine(&mut self, linux: &Linux, measure: Measure) {
        let mut lines = vec![
            format!("measure {}", measure.name()),
            format!("space {SPACE}"),
        ];
        // That of the IOMMU first: a disk that is found without it goes around it for ever.
        let modules = linux.iommu.iter().chain(&linux.disks);
        lines.extend(modules.map(|file| format!("load {file}")));
        lines.extend(DISKS.iter().enumerate().map(|(index, disk)| {
            let address = address(slot(index));
            format!("disk {} {} {address}", disk.device, disk.mode)
        }));
        lines.push("groups".into());
        lines.push(format!("marker {}", address(MARKER_SLOT)));
        for line in lines {
            self.text.push_str(&line);
            self.text.push('\n');
        }
    }

    fn order(&mut self, order: &str, disk: usize, case: &Case, ios: u64, first: u64) {
        let Case {
            device: _,
            operation,
            pattern,
            size,
            layout,
            depth,
        } = case;
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.text,
            "{order} {disk} {operation} {pattern} {size} {layout} {depth} {ios} {first}"
        );
        if DISKS[disk].mode == "lazy" {
            self.text.push_str(REST);
        }
    }
}

/// Where a slot is on the bus, in the words of sysfs.
fn address(slot: usize) -> String {
    format!("0000:00:{slot:02x}.0")
}

/// The start of the content of the disks. Nothing else is on them.
#[must_use]
pub fn content() -> Vec<u8> {
    let mut content = Vec::new();
    for block in 0..STAMPED {
        content.extend(block.to_le_bytes());
        content.resize(((block + 1) * BLOCK) as usize, 0);
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn plan(measure: Measure, rounds: u32) -> Plan {
        Plan::new(&Linux::sample(), measure, rounds)
    }

    #[test]
    fn modules_and_groups_come_in_the_order_that_linux_needs() {
        let text = plan(Measure::Time, 1).text;
        let expected = "\
measure time
space 67108864
load virtio-iommu.ko
load virtio_blk.ko
load nvme.ko
disk blk none 0000:00:05.0
disk blk bypass 0000:00:06.0
disk blk strict 0000:00:07.0
disk blk lazy 0000:00:08.0
disk nvme bypass 0000:00:09.0
disk nvme strict 0000:00:0a.0
disk nvme lazy 0000:00:0b.0
groups
marker 0000:00:0c.0
warm 0 read seq 4096 contiguous 1 32 0
";
        assert_eq!(&text[..expected.len()], expected);
    }

    #[test]
    fn every_mode_comes_once_in_each_round_in_a_rotated_order() {
        let plan = plan(Measure::Time, 3);
        let orders: Vec<&str> = plan
            .text
            .lines()
            .filter(|line| line.starts_with("phase "))
            .collect();
        assert_eq!(orders.len(), plan.phases.len());
        // Three shapes, two operations, two patterns, two depths.
        assert_eq!(plan.phases.len(), 24 * (4 + 3) * 3);
        let of_first_case = |round: usize| -> Vec<&str> {
            let round = &plan.phases[4 * round..4 * round + 4];
            round.iter().map(|phase| &*phase.mode).collect()
        };
        assert_eq!(of_first_case(0), ["none", "bypass", "strict", "lazy"]);
        assert_eq!(of_first_case(1), ["bypass", "strict", "lazy", "none"]);
        let mut times: BTreeMap<(&Case, &str), u32> = BTreeMap::new();
        for phase in &plan.phases {
            *times.entry((&phase.case, &phase.mode)).or_default() += 1;
        }
        assert!(times.values().all(|times| *times == 3), "{times:?}");
        // In a round, every mode has the same places.
        for round in orders.chunks(4).take(16) {
            let places = round
                .iter()
                .map(|order| order.split_once(" read seq ").map(|(_, rest)| rest));
            let places: Vec<_> = places.collect();
            assert!(places.iter().all(|place| *place == places[0]), "{round:?}");
        }
    }

    #[test]
    fn what_was_put_off_does_not_fall_on_the_next_mode() {
        let text = plan(Measure::Counts, 1).text;
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let is_lazy = ["warm 3 ", "phase 3 ", "warm 6 ", "phase 6 "]
                .iter()
                .any(|start| line.starts_with(start));
            assert_eq!(is_lazy, next.starts_with("rest "), "{line}\n{next}");
        }
    }

    #[test]
    fn blocks_hold_their_number() {
        let content = content();
        assert_eq!(content.len(), 16 * 4096);
        assert_eq!(content[3 * 4096..][..9], [3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
