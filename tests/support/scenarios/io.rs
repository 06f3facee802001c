//! Disks behind the IOMMU.

use super::*;

/// A virtio-blk disk on the drive `disk0`.
const BLK: &[&str] = &[
    "-device",
    IOMMU,
    "-device",
    "virtio-blk-pci,drive=disk0,iommu_platform=on,disable-legacy=on",
];

/// An NVMe disk on the drive `disk0`.
const NVME: &[&str] = &["-device", IOMMU, "-device", "nvme,drive=disk0,serial=0"];

/// A drive of 4 MiB, of which the guest writes so many sectors.
const fn drive(name: &'static str, number: u32, written: usize) -> Drive {
    Drive {
        name,
        number,
        filter: "",
        options: "",
        sectors: 8192,
        written: (4096, written),
    }
}

/// One disk. The host does its work in time of its own.
const ONE: Scenario = Scenario {
    drives: &[drive("disk0", 0, 640)],
    clock: Clock::Host,
    ..BASE
};

/// One disk with a sector that cannot be read.
const BAD: Scenario = Scenario {
    drives: &[Drive {
        filter: "blkdebug::",
        options: "file.inject-error.0.event=none,file.inject-error.0.iotype=read,\
                  file.inject-error.0.sector=200,file.inject-error.0.errno=5",
        ..drive("disk0", 0, 256)
    }],
    ..ONE
};

/// Mappings for each transfer: all shapes, 32 scattered pages with one notification.
fn strict(arch: Arch) -> Expect {
    Expect {
        // The last one of a row of exchanges.
        unused: Some(1),
        maps: 266,
        batches: &[(Kind::Map, 32), (Kind::Map, 1), (Kind::Unmap, 1)],
        merged: 32,
        ..machine(arch)
    }
}

/// Nothing but the pools, the memory that the disk shares with its driver, and no request later.
fn bounce(arch: Arch) -> Expect {
    Expect {
        unused: Some(0),
        maps: 3,
        ..machine(arch)
    }
}

/// Few requests, and those for many mappings at once.
fn deferred(arch: Arch) -> Expect {
    Expect {
        unused: Some(0),
        maps: 1 + 128 + 2 * (1 + 1 + 32) + 16,
        merged: 32,
        ..machine(arch)
    }
}

/// Transfers that are refused in the middle, and queues that are out of reach.
fn faults(arch: Arch) -> Expect {
    Expect {
        maps: 79,
        faults: &[UNMAPPED, WITHOUT_DOMAIN],
        ..machine(arch)
    }
}

/// A device reads its queues and what is written or sent where it was told: with READ, in its domain.
pub const TRANSLATED: (Oracle, &[&str]) = (Oracle::Dma, &["DN-MAP-6", "DV-ATT-12"]);
/// The IOMMU is as it should be while a device is at work.
pub const LOOKED_AT: (Oracle, &[&str]) = (
    Oracle::Qmp,
    &[
        "DN-FEAT-1",
        "GV-FEAT-1",
        "GV-V1",
        "GV-VQ-1",
        "GV-PCI-3",
        "DN-PROBE-1",
        "DN-FAULT-T1",
    ],
);
/// One UNMAP ends the 32 mappings of a transfer.
const MERGED: (Oracle, &[&str]) = (Oracle::Trace, &["DN-UNMAP-2", "DV-UNM-7"]);
/// Each endpoint is probed before it is attached.
const PROBED: (Oracle, &[&str]) = (Oracle::Trace, &["DN-INIT-2"]);

/// The rows.
pub const ROWS: &[Scenario] = &[
    Scenario {
        name: "blk-strict",
        devices: BLK,
        expect: strict,
        // Transfers are under way at the second one.
        holds: &["running", "polled"],
        proves: &[TRANSLATED, MERGED, LOOKED_AT],
        ..ONE
    },
    Scenario {
        name: "blk-bounce",
        devices: BLK,
        expect: bounce,
        proves: &[TRANSLATED],
        ..ONE
    },
    Scenario {
        name: "blk-deferred",
        devices: BLK,
        expect: deferred,
        proves: &[TRANSLATED, MERGED],
        ..ONE
    },
    Scenario {
        name: "blk-faults",
        devices: BLK,
        expect: faults,
        proves: &[
            TRANSLATED,
            (Oracle::Dma, &["DV-OPS-6", "DV-DET-4", "DV-FLT-R"]),
        ],
        ..BAD
    },
    Scenario {
        name: "disks-around",
        devices: &[
            "-device",
            IOMMU,
            "-device",
            "virtio-blk-pci,drive=disk0,disable-legacy=on",
            "-device",
            "virtio-blk-pci,drive=disk1,iommu_platform=on,disable-legacy=on",
            "-device",
            "nvme,drive=disk2,serial=2",
        ],
        drives: &[
            drive("disk0", 0, 8),
            drive("disk1", 1, 8),
            drive("disk2", 2, 8),
        ],
        expect: |arch| Expect {
            maps: 0,
            endpoints: &[0x10, 0x18, 0x20],
            pass_through: true,
            ..machine(arch)
        },
        proves: &[PROBED],
        ..ONE
    },
    Scenario {
        name: "many-devices",
        devices: &[
            "-device",
            IOMMU,
            "-device",
            "virtio-blk-pci,drive=disk0,iommu_platform=on,disable-legacy=on",
            "-device",
            "virtio-blk-pci,drive=disk1,iommu_platform=on,disable-legacy=on",
            "-device",
            "nvme,drive=disk2,serial=2",
            "-device",
            "nvme,drive=disk3,serial=3",
            "-device",
            WIDE_EDU,
        ],
        // Three pages by those that are broken for a while, four by the others.
        drives: &[
            drive("disk0", 0, 24),
            drive("disk1", 1, 32),
            drive("disk2", 2, 24),
            drive("disk3", 3, 32),
        ],
        expect: |arch| Expect {
            maps: 4 * 3 + 2 + 2 * 14 + 2 * 2 + 1,
            endpoints: &[0x10, 0x18, 0x20, 0x28, 0x30],
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        proves: &[TRANSLATED, PROBED],
        ..ONE
    },
    Scenario {
        name: "nvme-strict",
        devices: NVME,
        expect: strict,
        // Transfers are under way at the second one.
        holds: &["running", "polled"],
        proves: &[TRANSLATED, MERGED, LOOKED_AT],
        ..ONE
    },
    Scenario {
        name: "nvme-bounce",
        devices: NVME,
        expect: bounce,
        proves: &[TRANSLATED],
        ..ONE
    },
    Scenario {
        name: "nvme-deferred",
        devices: NVME,
        expect: deferred,
        proves: &[TRANSLATED, MERGED],
        ..ONE
    },
    Scenario {
        name: "nvme-faults",
        devices: NVME,
        expect: faults,
        proves: &[
            TRANSLATED,
            (Oracle::Dma, &["DV-OPS-6", "DV-DET-4", "DV-FLT-R"]),
        ],
        ..BAD
    },
];
