//! What QEMU's monitor may say: one state that is as it must be, and each way in which one is not.

use crate::support::qmp::{Visit, Wrong, judge};
use libtest_mimic::Trial;
use xtask::monitor::{Element, Queue, Snapshot};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// A device that runs, with one PROBE and one ATTACH behind it.
fn good() -> Snapshot {
    let features = [
        "VIRTIO_IOMMU_F_MAP_UNMAP",
        "VIRTIO_IOMMU_F_PROBE",
        "VIRTIO_F_VERSION_1",
    ];
    let element = |readable, writable| Element {
        readable,
        writable,
        descriptors: 2,
    };
    Snapshot {
        offered: [names(&features), names(&["VIRTIO_F_RING_RESET"])].concat(),
        accepted: names(&features),
        unknown: 0,
        status: names(&[
            "VIRTIO_CONFIG_S_ACKNOWLEDGE",
            "VIRTIO_CONFIG_S_DRIVER",
            "VIRTIO_CONFIG_S_FEATURES_OK",
            "VIRTIO_CONFIG_S_DRIVER_OK",
        ]),
        broken: false,
        queues: vec![
            Queue {
                size: 4,
                parts: [0x1000, 0x2002, 0x3004],
                available: 2,
                used: 2,
                elements: vec![element(72, 516), element(20, 4)],
            },
            Queue {
                size: 4,
                parts: [0x4000, 0x5000, 0x6000],
                available: 1,
                used: 0xfffd,
                elements: vec![element(0, 24); 4],
            },
        ],
    }
}

fn visit(hold: &str, seen: Snapshot) -> Visit {
    Visit {
        hold: hold.to_owned(),
        seen: Ok(seen),
    }
}

type Change = fn(&mut Snapshot);

const WRONG: &[(&str, Change)] = &[
    ("no_driver_ok", |s| drop(s.status.pop())),
    ("failed", |s| s.status.push("VIRTIO_CONFIG_S_FAILED".into())),
    ("broken", |s| s.broken = true),
    ("probe_declined", |s| drop(s.accepted.remove(1))),
    ("version_declined", |s| drop(s.accepted.pop())),
    ("not_offered", |s| drop(s.offered.remove(0))),
    ("not_known", |s| {
        s.accepted.push("VIRTIO_F_RING_RESET".into())
    }),
    ("without_a_name", |s| s.unknown = 8),
    ("odd_size", |s| s.queues[0].size = 3),
    ("odd_table", |s| s.queues[0].parts[0] = 0x1008),
    ("odd_available_ring", |s| s.queues[1].parts[1] = 0x5001),
    ("odd_used_ring", |s| s.queues[1].parts[2] = 0x6002),
    ("no_queue", |s| s.queues[1].parts[2] = 0),
    ("an_event_buffer_less", |s| s.queues[1].available = 0),
    ("no_event_buffer", |s| s.queues[1].available = 0xfffd),
    ("small_event_buffer", |s| {
        s.queues[1].elements[2].writable = 16
    }),
    ("probe_too_small", |s| {
        s.queues[0].elements[0].writable = 512
    }),
    ("probe_too_large", |s| {
        s.queues[0].elements[0].writable = 520
    }),
    ("tail_too_large", |s| s.queues[0].elements[1].writable = 8),
    ("no_probe", |s| s.queues[0].elements.truncate(0)),
];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("monitor::what_is_as_it_must_be", || {
            assert_eq!(judge(&[visit("running", good())], &["running"]), []);
            assert_eq!(judge(&[], &[]), []);
            let given_up = Snapshot {
                status: names(&["VIRTIO_CONFIG_S_FAILED"]),
                ..Snapshot::default()
            };
            assert_eq!(judge(&[visit("failed", given_up)], &["failed"]), []);
            Ok(())
        }),
        Trial::test("monitor::other_moments", || {
            let once = [visit("running", good())];
            for wanted in [&[][..], &["failed"], &["running", "running"]] {
                assert!(matches!(judge(&once, wanted)[..], [Wrong::Holds(_)]));
            }
            let failed = judge(&[visit("failed", good())], &["failed"]);
            assert!(matches!(failed[..], [Wrong::Status(_)]));
            let never = judge(&[visit("never", good())], &["never"]);
            assert!(matches!(never[..], [Wrong::Moment(_)]));
            Ok(())
        }),
        Trial::test("monitor::no_answer", || {
            let silent = Visit {
                hold: "running".into(),
                seen: Err("closed".into()),
            };
            assert!(matches!(
                judge(&[silent], &["running"])[..],
                [Wrong::Silent(_)]
            ));
            Ok(())
        }),
    ];
    trials.extend(WRONG.iter().map(|(name, change)| {
        Trial::test(format!("monitor::{name}"), move || {
            let mut seen = good();
            change(&mut seen);
            assert_ne!(judge(&[visit("running", seen)], &["running"]), []);
            Ok(())
        })
    }));
    trials
}
