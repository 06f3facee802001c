//! The driver: bring-up, mappings, faults, topology, the demo.

use super::*;

/// Two CPUs at once.
const TWO_AT_ONCE: Scenario = Scenario {
    guest: Some("two-cpus"),
    devices: &["-device", IOMMU, "-device", EDU, "-device", EDU],
    machine: TWO_CPUS,
    expect: |arch| Expect {
        maps: 1500,
        endpoints: &[0x10, 0x18],
        faults: &[UNMAPPED],
        turns: 20,
        ..machine(arch)
    },
    ..BASE
};
/// The rows.
pub const ROWS: &[Scenario] = &[
    Scenario {
        name: "basic",
        holds: &["running"],
        proves: &[
            (
                Oracle::Trace,
                &[
                    "GV-INIT-1",
                    "GV-INIT-6",
                    "GV-STAT-1",
                    "DN-INIT-2",
                    "DN-CFG-1",
                    "DN-CFG-3",
                    "GV-NOTIF-1",
                    "GV-PCI-4",
                    "DN-UNMAP-2",
                ],
            ),
            (
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
            ),
            (
                Oracle::Dma,
                &["DV-ATT-12", "DV-DET-4", "DV-OPS-6", "DV-FLT-R", "DV-CFG-3"],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "faults",
        devices: &["-device", IOMMU, "-device", WIDE_EDU],
        expect: |arch| Expect {
            maps: 3,
            faults: &[WITHOUT_DOMAIN, UNMAPPED, READ, WRITTEN],
            ..machine(arch)
        },
        proves: &[(Oracle::Dma, &["DN-MAP-6", "DV-MAP-6", "DV-OPS-6"])],
        ..BASE
    },
    Scenario {
        name: "two-domains",
        devices: &["-device", IOMMU, "-device", EDU, "-device", EDU],
        expect: |arch| Expect {
            maps: 4,
            endpoints: &[0x10, 0x18],
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "two-cpus",
        ..TWO_AT_ONCE
    },
    Scenario {
        name: "two-cpus-threads",
        machine: TWO_THREADS,
        clock: Clock::Host,
        ..TWO_AT_ONCE
    },
    Scenario {
        name: "root-port",
        devices: &[
            "-device",
            "pcie-root-port,id=port0",
            "-device",
            IOMMU,
            "-device",
            "edu,bus=port0",
        ],
        expect: |arch| Expect {
            endpoints: &[0x100],
            ..plain(arch)
        },
        ..BASE
    },
    Scenario {
        name: "boot-bypass-off",
        devices: &[
            "-device",
            "virtio-iommu-pci,boot-bypass=off",
            "-device",
            WIDE_EDU,
        ],
        // The firmware would wait for a disk controller that reaches no memory.
        machine: |arch| match arch {
            Arch::X86_64 => &["-M", "q35,sata=off"],
            _ => &[],
        },
        expect: |arch| Expect {
            maps: 4,
            ..plain(arch)
        },
        holds: &["running"],
        proves: &[
            (
                Oracle::Trace,
                &[
                    "GV-INIT-1",
                    "GV-INIT-6",
                    "GV-STAT-1",
                    "DN-INIT-2",
                    "DN-CFG-1",
                    "DN-CFG-3",
                    "GV-NOTIF-1",
                ],
            ),
            (
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
            ),
            (Oracle::Dma, &["DV-OPS-6"]),
        ],
        ..BASE
    },
    Scenario {
        name: "aw-bits-39",
        needs: &[AW_BITS],
        devices: &[
            "-device",
            "virtio-iommu-pci,aw-bits=39",
            "-device",
            WIDE_EDU,
        ],
        expect: |arch| Expect {
            maps: 2,
            faults: &[UNMAPPED],
            input_end: Some((1 << 39) - 1),
            ..machine(arch)
        },
        proves: &[(Oracle::Trace, &["DN-OPS-4"])],
        ..BASE
    },
    Scenario {
        name: "granule-64k",
        needs: &[GRANULE],
        devices: &["-device", "virtio-iommu-pci,granule=64k", "-device", EDU],
        expect: |arch| Expect {
            maps: 4,
            granule: Some(0x1_0000),
            ..plain(arch)
        },
        holds: &["running"],
        proves: &[(
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
        )],
        ..BASE
    },
    Scenario {
        // Never with boot-bypass=off: the IOMMU's own rings would be cut off.
        name: "iommu-platform",
        devices: &[
            "-device",
            "virtio-iommu-pci,iommu_platform=on",
            "-device",
            EDU,
        ],
        // Without a bypass to lock, endpoints without a domain of the kernel's are in an empty one.
        expect: |arch| Expect {
            maps: 2,
            locks_bypass: false,
            attached: &[0x10],
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        holds: &["running"],
        proves: &[
            (Oracle::Trace, &["DN-CFG-1"]),
            (
                Oracle::Qmp,
                &[
                    "GV-ACC",
                    "DN-FEAT-1",
                    "GV-FEAT-1",
                    "GV-V1",
                    "GV-VQ-1",
                    "GV-PCI-3",
                    "DN-PROBE-1",
                    "DN-FAULT-T1",
                ],
            ),
        ],
        ..BASE
    },
    Scenario {
        // The other machines do not take the property: they set it themselves.
        name: "reserved-regions",
        archs: &[Arch::Riscv64],
        devices: &[
            "-device",
            r#"{"driver":"virtio-iommu-pci","reserved-regions":["0x8000000:0x80fffff:0","0xa000000:0xa0fffff:1"]}"#,
            // Behind plain `-device` arguments, JSON ones get the last slots.
            "-device",
            r#"{"driver":"edu"}"#,
        ],
        expect: |arch| Expect {
            maps: 48,
            reserved: Some(&REGIONS),
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        proves: &[(Oracle::Trace, &["DN-RESV-1", "DN-INIT-2"])],
        ..BASE
    },
    Scenario {
        name: "restart",
        devices: &["-device", IOMMU, "-device", EDU, "-device", EDU],
        expect: |arch| Expect {
            starts: 3,
            maps: 6,
            endpoints: &[0x10, 0x18],
            faults: &[WITHOUT_DOMAIN, UNMAPPED],
            ..machine(arch)
        },
        holds: &["running", "running", "running"],
        proves: &[
            (Oracle::Trace, &["GV-INIT-1", "GV-STAT-1"]),
            (
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
            ),
            (
                Oracle::Dma,
                &["DV-RST-T", "DV-ATT-7", "DV-ATT-8", "DV-CFG-4"],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "mmio",
        archs: VIRT,
        devices: &[
            "-global",
            "virtio-mmio.force-legacy=false",
            "-device",
            "virtio-iommu-device,primary-bus=pcie.0",
            "-device",
            EDU,
            // A register accessed with another width would be a line that the trace does not have.
            "-d",
            "guest_errors",
        ],
        clock: Clock::Host,
        // The limits that machines put on their IOMMU are not for this one; the first slot is free for the endpoint.
        expect: |arch| Expect {
            input_end: Some(u64::MAX),
            reserved: Some(&[]),
            endpoints: &[0x8],
            in_thread: true,
            ..plain(arch)
        },
        holds: &["running"],
        proves: &[
            (
                Oracle::Trace,
                &[
                    "GV-INIT-1",
                    "GV-INIT-6",
                    "GV-STAT-1",
                    "DN-INIT-2",
                    "DN-CFG-1",
                    "DN-CFG-3",
                    "GV-NOTIF-1",
                    "GV-MMIO-1",
                    "GV-MMIO-2",
                    "GV-MMIO-3",
                    "GV-MMIO-4",
                    "GV-SHM",
                ],
            ),
            (
                Oracle::Qmp,
                &[
                    "DN-FEAT-1",
                    "GV-FEAT-1",
                    "GV-V1",
                    "GV-VQ-1",
                    "DN-PROBE-1",
                    "DN-FAULT-T1",
                ],
            ),
        ],
        ..BASE
    },
    Scenario {
        name: "batch-64",
        expect: |arch| Expect {
            maps: 129,
            faults: &[UNMAPPED],
            batches: &[(Kind::Map, 64), (Kind::Unmap, 64)],
            ..machine(arch)
        },
        proves: &[(Oracle::Trace, &["GV-NOTIF-1"])],
        ..BASE
    },
    Scenario {
        name: "event-overflow",
        expect: |arch| Expect {
            maps: 0,
            faults: &[WantedFault {
                least: 256,
                ..UNMAPPED
            }],
            ..machine(arch)
        },
        holds: &["running", "polled"],
        proves: &[
            (Oracle::Qmp, &["DN-FAULT-T1"]),
            (Oracle::Dma, &["DV-FLT-T"]),
        ],
        ..BASE
    },
    Scenario {
        name: "statuses",
        expect: |arch| Expect {
            failed_starts: 1,
            refusals: true,
            ..machine(arch)
        },
        holds: &["failed", "running"],
        proves: &[
            (Oracle::Trace, &["GV-INIT-1", "GV-STAT-1", "DN-OPS-4"]),
            (Oracle::Qmp, &["GV-INIT-5"]),
        ],
        ..BASE
    },
    Scenario {
        name: "not-behind",
        archs: VIRT,
        devices: &[
            "-global",
            "virtio-mmio.force-legacy=false",
            "-device",
            IOMMU,
            "-device",
            EDU,
            "-device",
            "virtio-rng-device",
        ],
        // The entropy device has a thread of its own.
        clock: Clock::Host,
        expect: |arch| Expect {
            maps: 0,
            faults: &[WITHOUT_DOMAIN],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "clock",
        devices: &["-device", EDU],
        expect: none,
        ..BASE
    },
    Scenario {
        // The other machines have no ports.
        name: "config-ports",
        archs: &[Arch::X86_64],
        devices: &["-device", EDU],
        expect: none,
        ..BASE
    },
    Scenario {
        // Two behind a bridge that gives its own id for theirs.
        name: "pci-bridge",
        devices: &[
            "-device",
            "pci-bridge,id=bridge0,chassis_nr=1",
            "-device",
            IOMMU,
            "-device",
            "edu,bus=bridge0,addr=1.0",
            "-device",
            "edu,bus=bridge0,addr=2.0",
        ],
        expect: |arch| Expect {
            failed_starts: 1,
            endpoints: &[0x8],
            faults: &[UNMAPPED, WITHOUT_DOMAIN],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        // Two behind a bridge that calls both 00.0 of the bus behind it.
        name: "pcie-pci-bridge",
        devices: &[
            "-device",
            "pcie-pci-bridge,id=bridge0",
            "-device",
            IOMMU,
            "-device",
            "edu,bus=bridge0,addr=1.0",
            "-device",
            "edu,bus=bridge0,addr=2.0",
        ],
        expect: |arch| Expect {
            failed_starts: 1,
            endpoints: &[0x8, 0x100],
            together: &[0x8, 0x100],
            faults: &[UNMAPPED, WITHOUT_DOMAIN],
            ..machine(arch)
        },
        proves: &[(Oracle::Trace, &["DN-ATTACH-2"])],
        ..BASE
    },
    Scenario {
        // The machine of `cargo xtask run`.
        name: "demo",
        boot: Boot::Demo,
        devices: &[
            "-device",
            demo::DEVICES[0],
            "-device",
            demo::DEVICES[1],
            "-device",
            demo::DEVICES[2],
        ],
        expect: |arch| Expect {
            maps: 3,
            endpoints: match arch {
                // The board has a disk controller and an SMBus controller of its own.
                Arch::X86_64 => &[0x10, 0x18, 0xfa, 0xfb],
                _ => &[0x10, 0x18],
            },
            faults: &[WITHOUT_DOMAIN, UNMAPPED, WRITTEN],
            ..machine(arch)
        },
        ..BASE
    },
];
