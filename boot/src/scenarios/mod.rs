//! The scenarios of the test suite: a name, and a function.
//!
//! `scenario=NAME` in the boot arguments runs one of them. The host side has the same names, and
//! starts the machine that each needs:
//!
//! | scenarios | devices |
//! |---|---|
//! | `selftest-…` | none; two CPUs for `selftest-two-cpus`, `selftest-second-…` and `selftest-both-panic` |
//! | `basic`, `batch-64`, `event-overflow`, `statuses` | IOMMU, `edu` |
//! | `faults` | IOMMU, `edu` with a `dma_mask` of 64 bits |
//! | `boot-bypass-off`, `aw-bits-39` | IOMMU with that property, `edu` as for `faults` |
//! | `granule-64k`, `iommu-platform`, `reserved-regions` | IOMMU with that property, `edu` |
//! | `two-domains`, `restart` | IOMMU, two `edu` |
//! | `two-cpus` | IOMMU, two `edu`, two CPUs |
//! | `root-port` | IOMMU, `edu` behind a `pcie-root-port` |
//! | `pci-bridge`, `pcie-pci-bridge` | IOMMU, two `edu` behind that bridge |
//! | `mmio` | IOMMU on virtio-mmio, `edu` |
//! | `fault-interrupt`, `fault-storm` | IOMMU, `edu`; each interrupt controller; the `edu` on the line of the IOMMU or not, or behind bridges |
//! | `msi` | IOMMU, `edu`; GICv2, GICv3, `aia=aplic-imsic`, local APIC |
//! | `msi-unmapped` | IOMMU, `edu`; `aia=aplic-imsic` |
//! | `doorbell-refused` | as `msi-unmapped`, with a reserved region over the doorbell |
//! | `dma-…` | IOMMU, `edu` |
//! | `late-dma` | IOMMU, a throttled virtio-blk disk |
//! | `blk-…`, `nvme-…` | IOMMU, a virtio-blk or an NVMe disk |
//! | `disks-around` | IOMMU, a virtio-blk disk that goes around it, another, an NVMe disk |
//! | `many-devices` | IOMMU, two virtio-blk and two NVMe disks, `edu` as for `faults` |
//! | `adapter-blk-…`, `adapter-window` | IOMMU, a virtio-blk disk |
//! | `adapter-net-…` | IOMMU, a virtio-net card, a peer at its other end |
//! | `adapter-dropped` | as `late-dma` |
//! | `adapter-refused` | IOMMU, a virtio-blk disk that goes around it |
//! | `not-behind` | IOMMU, `edu`, entropy device on virtio-mmio |
//! | `clock` | `edu` |
//! | `config-ports` (x86_64) | any |

mod adapter_blk;
mod adapter_dropped;
mod adapter_lab;
mod adapter_net;
mod adapter_refused;
mod adapter_window;
mod basic;
mod bus;
mod clock;
#[cfg(target_arch = "x86_64")]
mod config_ports;
mod dma_bounce;
mod dma_deferred;
mod dma_lab;
mod dma_scatter;
mod dma_shared;
mod dma_strict;
mod faults;
mod groups;
mod interrupts;
mod io_around;
mod io_bounce;
mod io_deferred;
mod io_faults;
mod io_lab;
mod io_strict;
mod isolation;
mod lab;
mod late_dma;
mod limits;
mod many_devices;
mod messages;
mod pipeline;
mod restart;
mod second_cpu;
mod selftest;
mod statuses;
mod two_cpus;
mod watch;

use crate::arch::Firmware;
use crate::console::println;
use crate::report::{Checked, EXIT_FAIL, Report};

/// Runs the checks of a scenario.
type Scenario = fn(&mut Report, &Firmware) -> Checked;

/// Every scenario.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("basic", basic::run),
    ("faults", faults::run),
    ("two-domains", isolation::two_domains),
    ("two-cpus", two_cpus::run),
    ("root-port", bus::root_port),
    ("boot-bypass-off", basic::boot_bypass_off),
    ("aw-bits-39", limits::aw_bits_39),
    ("granule-64k", limits::granule_64k),
    ("iommu-platform", limits::iommu_platform),
    ("reserved-regions", limits::reserved_regions),
    ("restart", restart::run),
    ("mmio", bus::mmio),
    ("batch-64", pipeline::batch_64),
    ("event-overflow", pipeline::event_overflow),
    ("statuses", statuses::run),
    ("not-behind", bus::not_behind),
    ("clock", clock::run),
    #[cfg(target_arch = "x86_64")]
    ("config-ports", config_ports::run),
    ("pci-bridge", groups::pci_bridge),
    ("pcie-pci-bridge", groups::pcie_pci_bridge),
    ("fault-interrupt", interrupts::fault_interrupt),
    ("fault-storm", interrupts::fault_storm),
    ("msi", messages::msi),
    ("msi-unmapped", messages::msi_unmapped),
    ("doorbell-refused", messages::doorbell_refused),
    ("dma-strict", dma_strict::run),
    ("dma-scatter", dma_scatter::run),
    ("dma-deferred", dma_deferred::run),
    ("dma-bounce", dma_bounce::run),
    ("dma-coherent", dma_shared::coherent),
    ("dma-window", dma_shared::window),
    ("late-dma", late_dma::run),
    ("blk-strict", io_strict::blk),
    ("blk-bounce", io_bounce::blk),
    ("blk-deferred", io_deferred::blk),
    ("blk-faults", io_faults::blk),
    ("nvme-strict", io_strict::nvme),
    ("nvme-bounce", io_bounce::nvme),
    ("nvme-deferred", io_deferred::nvme),
    ("nvme-faults", io_faults::nvme),
    ("disks-around", io_around::run),
    ("many-devices", many_devices::run),
    ("adapter-blk-strict", adapter_blk::strict),
    ("adapter-blk-bounce", adapter_blk::bounce),
    ("adapter-blk-deferred", adapter_blk::deferred),
    ("adapter-net-strict", adapter_net::strict),
    ("adapter-net-bounce", adapter_net::bounce),
    ("adapter-net-deferred", adapter_net::deferred),
    ("adapter-refused", adapter_refused::run),
    ("adapter-dropped", adapter_dropped::run),
    ("adapter-window", adapter_window::run),
    ("selftest-pass", selftest::pass),
    ("selftest-fail", selftest::fail),
    ("selftest-panic", selftest::panic),
    ("selftest-trap", selftest::trap),
    ("selftest-triple-fault", selftest::triple_fault),
    ("selftest-hang", selftest::hang),
    ("selftest-firmware-off", selftest::firmware_off),
    ("selftest-truncated", selftest::truncated),
    ("selftest-miscount", selftest::miscount),
    ("selftest-exit-zero", selftest::exit_zero),
    ("selftest-silent", selftest::silent),
    ("selftest-two-cpus", second_cpu::works),
    ("selftest-second-panics", second_cpu::panics),
    ("selftest-second-traps", second_cpu::traps),
    ("selftest-second-hangs", second_cpu::hangs),
    ("selftest-both-panic", second_cpu::both_panic),
];

/// Runs a scenario, and returns the exit code.
pub fn run(name: &str, firmware: &Firmware) -> u32 {
    let mut report = Report::begin();
    let Some((_, scenario)) = SCENARIOS.iter().find(|(known, _)| *known == name) else {
        report.plan(1);
        report.fail(
            "known_scenario",
            format_args!("no scenario has the name {name:?}"),
        );
        return report.end();
    };
    println!("scenario {name}");
    if scenario(&mut report, firmware).is_err() {
        println!("scenario {name}: stopped early");
        let _ = report.end();
        return EXIT_FAIL;
    }
    report.end()
}
