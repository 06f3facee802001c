//! The drivers of `virtio-drivers`, behind the IOMMU.

use super::io::{LOOKED_AT, TRANSLATED};
use super::*;

/// A disk whose addresses are those of the IOMMU.
const DISK: &str = "virtio-blk-pci,drive=disk,iommu_platform=on,disable-legacy=on";

const BLK: Scenario = Scenario {
    devices: &["-device", IOMMU, "-device", DISK],
    disk: Some(Disk {
        options: "cache=writeback",
        sectors: 128,
        written: 9,
    }),
    // The disk has a thread of its own.
    clock: Clock::Host,
    ..BASE
};

const NET: Scenario = Scenario {
    devices: &[
        "-device",
        IOMMU,
        "-device",
        "virtio-net-pci,netdev=net,iommu_platform=on,disable-legacy=on,romfile=",
    ],
    peer: Some(Frames {
        arps: 1,
        echoes: 40,
    }),
    // The peer has a thread of its own.
    clock: Clock::Host,
    ..BASE
};

/// Every UNMAP covers what was mapped, and nothing by half.
const UNMAPPED_AS_MAPPED: (Oracle, &[&str]) = (Oracle::Trace, &["DN-UNMAP-2"]);

/// The rows.
pub const ROWS: &[Scenario] = &[
    Scenario {
        name: "adapter-blk-strict",
        // Two halves of a window, two regions of a queue, and each buffer of whole pages.
        expect: |arch| Expect {
            unused: Some(0),
            maps: 4 + 9 + 8 + 1,
            ..machine(arch)
        },
        // Transfers are under way at the second one.
        holds: &["running", "polled"],
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED, LOOKED_AT],
        ..BLK
    },
    Scenario {
        name: "adapter-blk-bounce",
        expect: |arch| Expect {
            unused: Some(0),
            maps: 4,
            ..machine(arch)
        },
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED],
        ..BLK
    },
    Scenario {
        name: "adapter-blk-deferred",
        expect: |arch| Expect {
            unused: Some(0),
            maps: 4 + 1 + 8 + 1,
            ..machine(arch)
        },
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED],
        ..BLK
    },
    Scenario {
        name: "adapter-net-strict",
        // Two halves of a window, four regions of queues, eight pages, and one for each frame.
        expect: |arch| Expect {
            // One half of the window, and what was to be received when the card is dropped.
            unused: Some(1 + 8),
            maps: 2 + 4 + 8 + 41,
            ..machine(arch)
        },
        // Transfers are under way at the second one.
        holds: &["running", "polled"],
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED, LOOKED_AT],
        ..NET
    },
    Scenario {
        name: "adapter-net-bounce",
        expect: |arch| Expect {
            unused: Some(0),
            maps: 2 + 4,
            ..machine(arch)
        },
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED],
        ..NET
    },
    Scenario {
        name: "adapter-net-deferred",
        expect: |arch| Expect {
            // One half of the window: what is received is whole pages.
            unused: Some(1),
            maps: 2 + 4 + 8,
            ..machine(arch)
        },
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED],
        ..NET
    },
    Scenario {
        name: "adapter-window",
        expect: |arch| Expect {
            maps: 2 * 4 + 1,
            ..machine(arch)
        },
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED],
        ..BLK
    },
    Scenario {
        name: "adapter-refused",
        devices: &[
            "-device",
            IOMMU,
            "-device",
            "virtio-blk-pci,drive=disk,disable-legacy=on",
            "-drive",
            "driver=null-co,if=none,id=disk,size=64K",
        ],
        disk: None,
        expect: |arch| Expect {
            maps: 2,
            ..machine(arch)
        },
        ..BLK
    },
    Scenario {
        name: "adapter-dropped",
        devices: &[
            "-device",
            IOMMU,
            "-device",
            // The driver leaks its indirect tables if it is dropped while they are in use.
            "virtio-blk-pci,drive=disk,iommu_platform=on,disable-legacy=on,indirect_desc=off",
        ],
        // Four sectors a second: one that follows eight others waits for two seconds.
        disk: Some(Disk {
            options: "throttling.iops-total=4,throttling.iops-size=512",
            sectors: 128,
            written: 9,
        }),
        expect: |arch| Expect {
            maps: 4 + 2,
            ..machine(arch)
        },
        proves: &[TRANSLATED, UNMAPPED_AS_MAPPED],
        ..BLK
    },
];
