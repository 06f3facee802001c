//! What is booted: the scenarios of the kernel, the machine that each needs, and what its trace must show.

use super::disk::Disk;
use super::expect::{Expect, Kind, Region, WantedFault};
use super::request::Range;
use super::verdict::Wanted;
use xtask::{Arch, demo};

/// How the guest's clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// With the instructions: 1024 ns each, and an idle machine does not wait. `edu` takes 100 ms for a transfer,
    /// which is 0.1 s of real time otherwise.
    Instructions,
    /// With the host's: where the device works in a thread of its own, time must not run away from it.
    Host,
}

/// What the kernel is asked to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// `scenario=NAME`.
    Scenario,
    /// `run=demo`.
    Demo,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name.
    pub name: &'static str,
    /// The kernel's name for it, if that is another: several machines can run the same.
    pub guest: Option<&'static str>,
    /// Where it runs.
    pub archs: &'static [Arch],
    /// What is booted.
    pub boot: Boot,
    /// Arguments of QEMU that add devices, in the order of their slots.
    pub devices: &'static [&'static str],
    /// Arguments of QEMU that an architecture needs besides.
    pub machine: fn(Arch) -> &'static [&'static str],
    /// What is on the drive `disk`, if a device has it.
    pub disk: Option<Disk>,
    /// How time passes.
    pub clock: Clock,
    /// Checks that may be skipped.
    pub skips: &'static [&'static str],
    /// What the trace must show.
    pub expect: fn(Arch) -> Expect,
}

impl Scenario {
    /// The boot arguments.
    pub fn append(&self) -> String {
        match self.boot {
            Boot::Scenario => format!("scenario={}", self.guest.unwrap_or(self.name)),
            Boot::Demo => "run=demo".into(),
        }
    }

    /// How its output is judged.
    pub fn wanted(&self) -> Wanted<'static> {
        match self.boot {
            Boot::Scenario => Wanted::Scenario(self.skips),
            Boot::Demo => Wanted::Demo,
        }
    }
}

const BASE: Scenario = Scenario {
    name: "",
    guest: None,
    archs: &Arch::ALL,
    boot: Boot::Scenario,
    devices: &["-device", IOMMU, "-device", EDU],
    machine: |_| &[],
    disk: None,
    clock: Clock::Instructions,
    skips: &[],
    expect: plain,
};

const IOMMU: &str = "virtio-iommu-pci";
/// Puts 28 bits of address on the bus.
const EDU: &str = "edu";
/// Reaches all memory by physical address, where it is allowed to.
const WIDE_EDU: &str = "edu,dma_mask=0xffffffffffffffff";

/// An access of an endpoint that has no domain.
const WITHOUT_DOMAIN: WantedFault = fault(0, 0x100);
/// An access to what is not mapped; QEMU does not say in which direction.
const UNMAPPED: WantedFault = fault(2, 0x100);
/// A read of what is mapped write-only.
const READ: WantedFault = fault(2, 0x101);
/// A write of what is mapped read-only.
const WRITTEN: WantedFault = fault(2, 0x102);

const fn fault(reason: u32, flags: u32) -> WantedFault {
    WantedFault {
        reason,
        flags,
        least: 1,
    }
}

/// The reserved regions of `reserved-regions`.
const REGIONS: [Region; 2] = [
    Region {
        subtype: 0,
        range: Range {
            start: 0x0800_0000,
            end: 0x080f_ffff,
        },
    },
    Region {
        subtype: 1,
        range: Range {
            start: 0x0a00_0000,
            end: 0x0a0f_ffff,
        },
    },
];

/// Where message-signalled interrupts go on the aarch64 machine: the v2m frame of its GICv2.
const V2M: [Region; 1] = [Region {
    subtype: 1,
    range: Range {
        start: 0x0802_0000,
        end: 0x0802_0fff,
    },
}];

/// Where message-signalled interrupts go on a PC.
const LOCAL_APIC: [Region; 1] = [Region {
    subtype: 1,
    range: Range {
        start: 0xfee0_0000,
        end: 0xfeef_ffff,
    },
}];

/// Where message-signalled interrupts go with a GICv3: its ITS.
const ITS: [Region; 1] = [Region {
    subtype: 1,
    range: Range {
        start: 0x0809_0000,
        end: 0x0809_ffff,
    },
}];

/// The interrupt file of the first hart, reserved against what it is for.
const DOORBELL: [Region; 1] = [Region {
    subtype: 0,
    range: Range {
        start: 0x2800_0000,
        end: 0x2800_0fff,
    },
}];

/// riscv64 with message-signalled interrupts.
const IMSIC: fn(Arch) -> &'static [&'static str] = |_| &["-M", "virt,aia=aplic-imsic"];
/// aarch64 with a GICv3 and its ITS.
const GICV3: fn(Arch) -> &'static [&'static str] = |_| &["-M", "virt,gic-version=3"];

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

/// The machines that have virtio-mmio slots.
const VIRT: &[Arch] = &[Arch::Riscv64, Arch::Aarch64];

/// Two CPUs, which the emulator runs in turn.
pub const TWO_CPUS: fn(Arch) -> &'static [&'static str] = |_| &["-smp", "2"];
/// Two CPUs, each in a thread of its own.
pub const TWO_THREADS: fn(Arch) -> &'static [&'static str] =
    |_| &["-smp", "2", "-accel", "tcg,thread=multi"];

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

/// The device as the machine has it by default.
fn machine(arch: Arch) -> Expect {
    let (input_end, reserved): (u64, &[Region]) = match arch {
        Arch::Riscv64 => (u64::MAX, &[]),
        Arch::Aarch64 => ((1 << 48) - 1, &V2M),
        Arch::X86_64 => ((1 << 39) - 1, &LOCAL_APIC),
    };
    Expect {
        granule: Some(4096),
        input_end: Some(input_end),
        reserved: Some(reserved),
        ..Expect::PLAIN
    }
}

/// The basic cycle: two mappings, an access after UNMAP and one after DETACH.
fn plain(arch: Arch) -> Expect {
    Expect {
        maps: 2,
        faults: &[UNMAPPED, WITHOUT_DOMAIN],
        ..machine(arch)
    }
}

fn none(_: Arch) -> Expect {
    Expect::NO_IOMMU
}

/// All that is booted but the self tests of the harness.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "basic",
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
        ..BASE
    },
    Scenario {
        name: "aw-bits-39",
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
        ..BASE
    },
    Scenario {
        name: "granule-64k",
        devices: &["-device", "virtio-iommu-pci,granule=64k", "-device", EDU],
        expect: |arch| Expect {
            maps: 4,
            granule: Some(0x1_0000),
            ..plain(arch)
        },
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
        ..BASE
    },
    Scenario {
        name: "statuses",
        expect: |arch| Expect {
            failed_starts: 1,
            refusals: true,
            ..machine(arch)
        },
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
            faults: &[UNMAPPED, WITHOUT_DOMAIN],
            ..machine(arch)
        },
        ..BASE
    },
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

/// A self test of the harness: a scenario without devices.
pub const fn selftest(name: &'static str) -> Scenario {
    Scenario {
        name,
        devices: &[],
        expect: none,
        ..BASE
    }
}
