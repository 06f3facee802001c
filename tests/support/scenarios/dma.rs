//! The DMA interface.

use super::*;

/// The rows.
pub const ROWS: &[Scenario] = &[
    Scenario {
        name: "dma-strict",
        expect: |arch| Expect {
            maps: 7,
            faults: &[UNMAPPED, READ, WRITTEN],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "dma-scatter",
        expect: |arch| Expect {
            maps: 28,
            faults: &[UNMAPPED],
            merged: 6,
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "dma-deferred",
        expect: |arch| Expect {
            maps: 20,
            faults: &[UNMAPPED],
            merged: 8,
            ..machine(arch)
        },
        proves: &[(Oracle::Trace, &["DN-UNMAP-2", "DN-UNMAP-3", "DV-UNM-7"])],
        ..BASE
    },
    Scenario {
        name: "dma-bounce",
        expect: |arch| Expect {
            maps: 5,
            faults: &[UNMAPPED, WRITTEN],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "dma-coherent",
        expect: |arch| Expect {
            maps: 3,
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "dma-window",
        expect: |arch| Expect {
            maps: 3,
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "late-dma",
        devices: &[
            "-device",
            IOMMU,
            "-device",
            "virtio-blk-pci,drive=disk,iommu_platform=on,disable-legacy=on",
        ],
        // Four sectors a second: one that follows eight others waits for two seconds.
        disk: Some(Disk {
            options: "throttling.iops-total=4,throttling.iops-size=512",
            sectors: 128,
            written: 9,
        }),
        // The throttle has the time of the host.
        clock: Clock::Host,
        expect: |arch| Expect {
            maps: 11,
            faults: &[WITHOUT_DOMAIN],
            ..machine(arch)
        },
        ..BASE
    },
];
