//! What is booted: the scenarios of the kernel, the machine that each needs, and what its trace must show.

mod adapter;
mod dma;
mod driver;
mod interrupts;
mod io;

use super::disk::{Disk, Drive};
use super::expect::{Expect, Kind, Region, WantedFault};
use super::peer::Frames;
use super::request::Range;
use super::verdict::Wanted;
use xtask::abilities::{Abilities, Need};
use xtask::conformance::Oracle;
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
    /// What QEMU's devices must have for it: without, it is not applicable.
    pub needs: &'static [Need],
    /// What is booted.
    pub boot: Boot,
    /// Arguments of QEMU that add devices, in the order of their slots.
    pub devices: &'static [&'static str],
    /// Arguments of QEMU that an architecture needs besides.
    pub machine: fn(Arch) -> &'static [&'static str],
    /// What is on the drive `disk`, if a device has it.
    pub disk: Option<Disk>,
    /// All other drives.
    pub drives: &'static [Drive],
    /// What the guest sends to the peer at the other end of the network `net`, if a device has it.
    pub peer: Option<Frames>,
    /// How time passes.
    pub clock: Clock,
    /// Checks that may be skipped.
    pub skips: &'static [&'static str],
    /// What the trace must show.
    pub expect: fn(Arch) -> Expect,
    /// The moments at which the guest waits, for QEMU's monitor to be asked.
    pub holds: &'static [&'static str],
    /// The rules that the run proves, by which oracle.
    pub proves: &'static [(Oracle, &'static [&'static str])],
}

impl Scenario {
    /// The boot arguments, for a QEMU that can do this much.
    pub fn append(&self, abilities: &Abilities) -> String {
        match self.boot {
            Boot::Scenario => {
                let hold = if self.holds.is_empty() { "" } else { " hold" };
                let bits = match abilities.has(AW_BITS) {
                    true => "",
                    // No machine limits the addresses of its IOMMU.
                    false => " input-bits=64",
                };
                format!("scenario={}{hold}{bits}", self.guest.unwrap_or(self.name))
            }
            Boot::Demo => "run=demo".into(),
        }
    }

    /// What the trace of a QEMU must show that can do this much.
    pub fn expected(&self, arch: Arch, abilities: &Abilities) -> Expect {
        let expect = (self.expect)(arch);
        Expect {
            input_end: match abilities.has(AW_BITS) {
                true => expect.input_end,
                false => expect.input_end.map(|_| u64::MAX),
            },
            tells_leaves: abilities.tells_leaves,
            ..expect
        }
    }

    /// What is on its disks.
    pub fn drives(&self) -> impl Iterator<Item = Drive> + use<> {
        let disk = self.disk.map(Disk::drive);
        disk.into_iter().chain(self.drives.iter().copied())
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
    needs: &[],
    boot: Boot::Scenario,
    devices: &["-device", IOMMU, "-device", EDU],
    machine: |_| &[],
    disk: None,
    drives: &[],
    peer: None,
    clock: Clock::Instructions,
    skips: &[],
    expect: plain,
    holds: &[],
    proves: &[],
};

const IOMMU: &str = "virtio-iommu-pci";
/// The IOMMU can be told how many bits of address it has; machines tell it.
const AW_BITS: Need = Need {
    device: IOMMU,
    property: "aw-bits",
};
/// The IOMMU can be told how large its granule is.
const GRANULE: Need = Need {
    device: IOMMU,
    property: "granule",
};
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

/// The machines that have virtio-mmio slots.
const VIRT: &[Arch] = &[Arch::Riscv64, Arch::Aarch64];

/// Two CPUs, which the emulator runs in turn.
pub const TWO_CPUS: fn(Arch) -> &'static [&'static str] = |_| &["-smp", "2"];
/// Two CPUs, each in a thread of its own.
pub const TWO_THREADS: fn(Arch) -> &'static [&'static str] =
    |_| &["-smp", "2", "-accel", "tcg,thread=multi"];

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
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        driver::ROWS,
        interrupts::ROWS,
        dma::ROWS,
        io::ROWS,
        adapter::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// A self test of the harness: a scenario without devices.
pub const fn selftest(name: &'static str) -> Scenario {
    Scenario {
        name,
        devices: &[],
        expect: none,
        ..BASE
    }
}
