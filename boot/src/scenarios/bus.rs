//! Where devices are: behind a bridge, behind no IOMMU, behind an IOMMU that is no PCI function.

use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_iommu::topology::{IommuLocation, Placement, RequesterId, Segment};
use virtio_iommu::{EndpointId, PhysAddr};

use super::basic::{CYCLE_CHECKS, FACTS_CHECKS, cycle, facts};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, done, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::machine::{self, FoundBy};
use crate::platform::KernelHal;
use crate::refusal::{NO_DOMAIN, Refusal};
use crate::report::{Checked, Report};

const OLD: Pattern = Pattern::Seed(0xb05e_0001);

/// `root-port`: an endpoint behind a bridge has the id that our walk gave it.
pub fn root_port(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(5 + CYCLE_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let function = lab.edus[0].function();
    let bridge = lab.machine.pci.function(function);
    let bridge = bridge.and_then(|edu| lab.machine.pci.function(edu.parent?));
    let bridge = bridge.and_then(|bridge| bridge.bridge.as_ref());
    report.that("edu_is_behind_a_bridge", bridge.is_some());
    let secondary = bridge.map(|bridge| bridge.secondary);
    report.equal(
        "it_is_on_the_bus_of_the_bridge",
        secondary,
        Some(function.bus()),
    );
    report.that("that_bus_has_a_number", function.bus() != 0);
    let endpoint = lab.endpoints(report)?[0];
    report.equal(
        "endpoint_id_is_the_requester_id",
        endpoint.0,
        u32::from(function.0),
    );
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    cycle(report, &iommu, &mut lab.edus[0], endpoint)?;
    shut_down(report, iommu, before)
}

/// `mmio`: an IOMMU that no firmware describes, on virtio-mmio, with a table of the kernel's own.
pub fn mmio(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(5 + FACTS_CHECKS + CYCLE_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    report.equal(
        "no_firmware_describes_it",
        lab.machine.found_by,
        FoundBy::OwnTable,
    );
    let location = lab.machine.iommu();
    report.that(
        "it_is_on_virtio_mmio",
        matches!(location, Ok(IommuLocation::Mmio { .. })),
    );
    let endpoint = lab.endpoints(report)?[0];
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    // The limits that machines put on their IOMMU are not for this one.
    facts(report, &iommu, endpoint, 4096, u64::MAX);
    cycle(report, &iommu, &mut lab.edus[0], endpoint)?;
    // Its faults were polled for, and it has asked for attention all the same.
    report.that("it_interrupts", iommu.handle_interrupt().raised);
    report.that("and_is_acknowledged", !iommu.handle_interrupt().raised);
    shut_down(report, iommu, before)
}

/// `not-behind`: some devices are not behind the IOMMU, which is an answer.
pub fn not_behind(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(12 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let function = lab.edus[0].function();
    let endpoint = EndpointId(u32::from(function.0));
    let iommu_function = lab.iommu_function(report)?;
    let topology = &lab.machine.topology;
    report.that(
        "edu_is_behind",
        matches!(lab.edus[0].placement(), Placement::Behind { endpoint: e, .. } if e == endpoint),
    );
    let segment = Segment(0);
    report.equal(
        "the_iommu_itself_is_not_behind",
        topology.pci(segment, iommu_function),
        Placement::NotBehind,
    );
    let beside = |id: u16| topology.pci(segment, RequesterId(id));
    let (below, above) = (iommu_function.0 - 1, iommu_function.0 + 1);
    report.that(
        "its_neighbours_are_behind",
        [below, above]
            .iter()
            .all(|id| beside(*id) != Placement::NotBehind),
    );
    report.equal(
        "another_segment_is_not_behind",
        topology.pci(Segment(1), function),
        Placement::NotBehind,
    );
    let slots = lab.machine.slots.iter();
    let behind = slots
        .filter(|slot| topology.platform_at(**slot).next().is_some())
        .count();
    report.equal("no_virtio_mmio_slot_is_behind", behind, 0);

    // It is also true: with everything locked down, such a device goes on by physical address.
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let target = buffer(report, 4096, OLD)?;
    done(report, lab.edus[0].write_memory(target.phys(), 64))?;
    let refusal = Refusal {
        endpoint,
        reasons: NO_DOMAIN,
        // The default mask of the device cuts the address off.
        start: target.phys() & crate::edu::LIMIT.0,
        len: 64,
        access: virtio_iommu::Access::WRITE,
    };
    refusal.check("edu_is_refused", report, &iommu);
    report.equal("edu_writes_nothing", target.compare(OLD), Ok(()));
    let rng = lab.machine.slots.iter().find_map(|base| entropy(*base));
    let transport = report.require("entropy_device_on_virtio_mmio", rng.ok_or("none"))?;
    let rng = VirtIORng::<KernelHal, _>::new(transport);
    let mut rng = report.require("entropy_device_starts", rng)?;
    let mut bytes = [0; 64];
    let len = report.require("entropy_device_answers", rng.request_entropy(&mut bytes))?;
    let nonzero = bytes[..len.min(bytes.len())]
        .iter()
        .filter(|byte| **byte != 0);
    report.that("its_dma_arrives", nonzero.count() > len / 2);
    drop(rng);
    shut_down(report, iommu, before)
}

/// The transport to an entropy device, if that is what the slot has.
fn entropy(base: PhysAddr) -> Option<impl Transport> {
    let transport = machine::slot(base)?;
    (transport.device_type() == DeviceType::EntropySource).then_some(transport)
}
