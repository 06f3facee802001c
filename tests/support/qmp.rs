//! QEMU's monitor as a second judge, while the guest waits: what was negotiated, where the queues are.

use std::fmt;
use xtask::monitor::{Element, Queue, Snapshot};

/// What the kernel says before it waits.
pub const MARK: &str = "@viommu 1 hold ";

/// Bytes of a fault record.
const EVENT: u64 = 24;
/// Bytes of a PROBE that the device reads, and of every tail.
const PROBE: u64 = 72;
const TAIL: u64 = 4;
/// What QEMU's device offers as `probe_size`.
const PROBE_SIZE: u64 = 512;

/// The features that this driver accepts where they are offered.
const KNOWN: [&str; 8] = [
    "VIRTIO_IOMMU_F_INPUT_RANGE",
    "VIRTIO_IOMMU_F_DOMAIN_RANGE",
    "VIRTIO_IOMMU_F_MAP_UNMAP",
    "VIRTIO_IOMMU_F_PROBE",
    "VIRTIO_IOMMU_F_MMIO",
    "VIRTIO_IOMMU_F_BYPASS_CONFIG",
    "VIRTIO_F_VERSION_1",
    "VIRTIO_F_IOMMU_PLATFORM",
];

/// What the monitor said at one hold, or why it did not.
#[derive(Clone, Debug)]
pub struct Visit {
    /// What the guest calls the moment.
    pub hold: String,
    /// The device.
    pub seen: Result<Snapshot, String>,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The guest waited at other moments.
    Holds(Vec<String>),
    /// The monitor did not answer.
    Silent(String),
    /// A moment that nothing is known about.
    Moment(String),
    /// Status bits.
    Status(Vec<String>),
    /// The device has given up.
    Broken,
    /// A feature was accepted that should not be, or not accepted that should.
    Feature(String),
    /// The size of a queue, or the address of a part of it.
    Queue(usize, u64),
    /// Posted event buffers, and how many there should be.
    Events(u64, u64),
    /// A buffer of a queue.
    Element(usize, Element),
    /// No PROBE among the requests.
    NoProbe,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU's monitor: {self:?}")
    }
}

/// Judges what the monitor said; `wanted` are the moments at which the guest must wait, in order.
pub fn judge(visits: &[Visit], wanted: &[&str]) -> Vec<Wrong> {
    let holds: Vec<String> = visits.iter().map(|visit| visit.hold.clone()).collect();
    if holds != wanted {
        return vec![Wrong::Holds(holds)];
    }
    let mut wrong = Vec::new();
    for visit in visits {
        match &visit.seen {
            Err(why) => wrong.push(Wrong::Silent(why.clone())),
            Ok(seen) => moment(&visit.hold, seen, &mut wrong),
        }
    }
    wrong
}

fn moment(hold: &str, seen: &Snapshot, wrong: &mut Vec<Wrong>) {
    match hold {
        "running" => {
            running(seen, wrong);
            requests(seen, wrong);
        }
        // Long after: the PROBE is gone from the ring.
        "polled" => running(seen, wrong),
        "failed" => {
            let given_up = seen
                .status
                .iter()
                .any(|bit| bit == "VIRTIO_CONFIG_S_FAILED");
            let ok = seen
                .status
                .iter()
                .any(|bit| bit == "VIRTIO_CONFIG_S_DRIVER_OK");
            if !given_up || ok {
                wrong.push(Wrong::Status(seen.status.clone()));
            }
        }
        other => wrong.push(Wrong::Moment(other.to_owned())),
    }
}

fn running(seen: &Snapshot, wrong: &mut Vec<Wrong>) {
    let mut status: Vec<&str> = seen.status.iter().map(String::as_str).collect();
    status.sort_unstable();
    let complete = ["ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK"];
    let complete = complete.map(|bit| format!("VIRTIO_CONFIG_S_{bit}"));
    if status != complete {
        wrong.push(Wrong::Status(seen.status.clone()));
    }
    if seen.broken {
        wrong.push(Wrong::Broken);
    }
    features(seen, wrong);
    for (number, queue) in seen.queues.iter().enumerate() {
        parts(number, queue, wrong);
    }
    let Some(events) = seen.queues.get(1) else {
        wrong.push(Wrong::Events(0, 0));
        return;
    };
    let posted = u64::from(events.available.wrapping_sub(events.used));
    if posted != events.size {
        wrong.push(Wrong::Events(posted, events.size));
    }
    let fits = |element: &&Element| element.readable != 0 || element.writable < EVENT;
    let small = events.elements.iter().filter(fits);
    wrong.extend(small.map(|element| Wrong::Element(1, *element)));
}

fn features(seen: &Snapshot, wrong: &mut Vec<Wrong>) {
    if seen.unknown != 0 {
        wrong.push(Wrong::Feature(format!("{:#x}", seen.unknown)));
    }
    for name in &seen.accepted {
        if !seen.offered.contains(name) || !KNOWN.contains(&name.as_str()) {
            wrong.push(Wrong::Feature(name.clone()));
        }
    }
    for name in &seen.offered {
        if KNOWN.contains(&name.as_str()) && !seen.accepted.contains(name) {
            wrong.push(Wrong::Feature(name.clone()));
        }
    }
    // Without these there is no such driver.
    for name in ["VIRTIO_F_VERSION_1", "VIRTIO_IOMMU_F_MAP_UNMAP"] {
        if !seen.accepted.iter().any(|accepted| accepted == name) {
            wrong.push(Wrong::Feature(name.to_owned()));
        }
    }
}

fn parts(number: usize, queue: &Queue, wrong: &mut Vec<Wrong>) {
    if !queue.size.is_power_of_two() {
        wrong.push(Wrong::Queue(number, queue.size));
    }
    for (address, align) in queue.parts.into_iter().zip([16, 2, 4]) {
        if address == 0 || address % align != 0 {
            wrong.push(Wrong::Queue(number, address));
        }
    }
}

/// Every request has its tail, and a PROBE the place for its properties: to the byte.
fn requests(seen: &Snapshot, wrong: &mut Vec<Wrong>) {
    let Some(queue) = seen.queues.first() else {
        wrong.push(Wrong::NoProbe);
        return;
    };
    let mut probes = 0;
    for element in &queue.elements {
        let expected = if element.readable == PROBE {
            probes += 1;
            PROBE_SIZE + TAIL
        } else {
            TAIL
        };
        if element.writable != expected || element.readable < 20 {
            wrong.push(Wrong::Element(0, *element));
        }
    }
    if probes == 0 {
        wrong.push(Wrong::NoProbe);
    }
}
