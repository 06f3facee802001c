//! Faults and messages by interrupt.

use super::*;

/// Faults that nobody polls for.
const FAULT_INTERRUPT: Scenario = Scenario {
    guest: Some("fault-interrupt"),
    expect: |arch| Expect {
        maps: 0,
        faults: &[UNMAPPED],
        ..machine(arch)
    },
    ..BASE
};

/// More faults at once than the queue has room for.
const FAULT_STORM: Scenario = Scenario {
    guest: Some("fault-storm"),
    expect: |arch| Expect {
        maps: 0,
        faults: &[WantedFault {
            least: 256,
            ..UNMAPPED
        }],
        ..machine(arch)
    },
    ..BASE
};

/// Messages to a doorbell, and one to where none is.
const MSI: Scenario = Scenario {
    guest: Some("msi"),
    expect: |arch| Expect {
        maps: 0,
        faults: &[UNMAPPED],
        ..machine(arch)
    },
    ..BASE
};
/// The rows.
pub const ROWS: &[Scenario] = &[
    Scenario {
        name: "fault-interrupt",
        ..FAULT_INTERRUPT
    },
    Scenario {
        name: "fault-interrupt-imsic",
        archs: &[Arch::Riscv64],
        machine: IMSIC,
        ..FAULT_INTERRUPT
    },
    Scenario {
        name: "fault-interrupt-gicv3",
        archs: &[Arch::Aarch64],
        machine: GICV3,
        expect: |arch| Expect {
            reserved: Some(&ITS),
            ..(FAULT_INTERRUPT.expect)(arch)
        },
        ..FAULT_INTERRUPT
    },
    Scenario {
        // On the same line as the IOMMU.
        name: "fault-interrupt-shared",
        devices: &["-device", IOMMU, "-device", "edu,addr=5.0"],
        expect: |arch| Expect {
            endpoints: &[0x28],
            ..(FAULT_INTERRUPT.expect)(arch)
        },
        ..FAULT_INTERRUPT
    },
    Scenario {
        // Two of the bridges above `edu` turn its pin, to a line that is neither theirs nor the IOMMU's.
        name: "fault-interrupt-switch",
        devices: &[
            "-device",
            IOMMU,
            "-device",
            "pcie-root-port,id=root,addr=4.0",
            "-device",
            "x3130-upstream,bus=root,id=up",
            "-device",
            "xio3130-downstream,bus=up,id=down,addr=2.0,chassis=1",
            "-device",
            "pcie-pci-bridge,bus=down,id=conventional",
            "-device",
            "edu,bus=conventional,addr=1.0",
        ],
        expect: |arch| Expect {
            endpoints: &[0x400],
            ..(FAULT_INTERRUPT.expect)(arch)
        },
        ..FAULT_INTERRUPT
    },
    Scenario {
        name: "fault-storm",
        proves: &[(Oracle::Dma, &["DV-FLT-T"])],
        ..FAULT_STORM
    },
    Scenario {
        name: "fault-storm-imsic",
        archs: &[Arch::Riscv64],
        machine: IMSIC,
        ..FAULT_STORM
    },
    Scenario {
        name: "fault-storm-gicv3",
        archs: &[Arch::Aarch64],
        machine: GICV3,
        expect: |arch| Expect {
            reserved: Some(&ITS),
            ..(FAULT_STORM.expect)(arch)
        },
        ..FAULT_STORM
    },
    Scenario {
        // A frame of the interrupt controller, or the local APICs, which the IOMMU lets through.
        name: "msi",
        archs: &[Arch::Aarch64, Arch::X86_64],
        ..MSI
    },
    Scenario {
        // The translation service tells devices apart by the ids that the IOMMU knows, too.
        name: "msi-gicv3",
        archs: &[Arch::Aarch64],
        machine: GICV3,
        expect: |arch| Expect {
            reserved: Some(&ITS),
            ..(MSI.expect)(arch)
        },
        ..MSI
    },
    Scenario {
        // Nothing is let through: the doorbell is mapped.
        name: "msi-imsic",
        archs: &[Arch::Riscv64],
        machine: IMSIC,
        expect: |arch| Expect {
            maps: 1,
            ..(MSI.expect)(arch)
        },
        proves: &[(Oracle::Dma, &["DN-RESV-T1"])],
        ..MSI
    },
    Scenario {
        name: "msi-unmapped",
        archs: &[Arch::Riscv64],
        machine: IMSIC,
        expect: |arch| Expect {
            maps: 1,
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        ..BASE
    },
    Scenario {
        name: "doorbell-refused",
        archs: &[Arch::Riscv64],
        machine: IMSIC,
        devices: &[
            "-device",
            r#"{"driver":"virtio-iommu-pci","reserved-regions":["0x28000000:0x28000fff:0"]}"#,
            "-device",
            r#"{"driver":"edu"}"#,
        ],
        expect: |arch| Expect {
            maps: 0,
            reserved: Some(&DOORBELL),
            faults: &[UNMAPPED],
            ..machine(arch)
        },
        ..BASE
    },
];
