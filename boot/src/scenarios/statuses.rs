//! Refusals: of the device, and of the driver before the device is asked.

use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_iommu::{
    Access, AttachError, EndpointError, EndpointId, Iommu, Iova, IovaRange, MapError, MapOptions,
    Options, RequestError, StartError, Status, UnmapError,
};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, hold, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::logger;
use crate::platform::KernelPlatform;
use crate::report::{Checked, Report};

/// No device has this place: the last function of the last slot of the last bus.
const NOBODY: EndpointId = EndpointId(0xffff);

/// `statuses`: what the device refuses arrives with its status, and what the specification
/// forbids never reaches the device.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(20 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let memory = buffer(report, 4 * 4096, Pattern::Byte(0))?;
    let page = memory.part(0, 4096);
    let before = Baseline::now();

    // An endpoint that the device does not know.
    let transport = report.need("transport", lab.machine.iommu_transport())?;
    let list = [endpoint, NOBODY];
    let result = Iommu::start(transport, KernelPlatform, &list, Options::default());
    let error = EndpointError::Probe(RequestError::Status(Status::NoEnt));
    report.equal(
        "probe_of_nobody_is_noent",
        result.err(),
        Some(StartError::Endpoint {
            endpoint: NOBODY,
            error,
        }),
    );
    let after = Baseline::now();
    report.equal("the_failed_start_left_nothing_behind", after, before);
    let transport = report.need("transport", lab.machine.iommu_transport())?;
    let status = transport.get_status();
    report.that(
        "the_device_was_given_up",
        status.contains(DeviceStatus::FAILED) && !status.contains(DeviceStatus::DRIVER_OK),
    );
    core::mem::forget(transport);
    hold(report, "failed")?;
    let iommu = lab.start(report)?;

    // From here on the driver says no by itself.
    let domain = report.need("domain", iommu.create_domain(2))?;
    let other = report.need("domain", iommu.create_domain(2))?;
    let requests = logger::requests();
    let refused = domain.attach(NOBODY);
    report.equal(
        "attach_of_nobody",
        refused,
        Err(AttachError::UnknownEndpoint),
    );
    let refused = domain.detach(endpoint);
    report.equal(
        "detach_without_attach",
        refused,
        Err(AttachError::NotAttached),
    );
    let map_at = |iova, phys, access| {
        // SAFETY: only the device under test uses the buffer; it outlives the attachment.
        unsafe { domain.map_at(Iova(iova), phys, access) }
    };
    let refused = map_at(0x10_0000, page, Access::READ);
    report.equal("map_without_endpoint", refused, Err(MapError::NotAttached));
    report.equal(
        "none_of_it_reached_the_device",
        logger::requests(),
        requests,
    );

    report.need("attach", domain.attach(endpoint))?;
    let range = report.need(
        "map",
        map_at(0x10_0000, memory.part(0, 2 * 4096), Access::READ),
    )?;
    let requests = logger::requests();
    let refused = domain.attach(endpoint);
    report.equal(
        "attach_twice",
        refused,
        Err(AttachError::Attached(domain.id())),
    );
    let refused = other.attach(endpoint);
    report.equal(
        "attach_elsewhere",
        refused,
        Err(AttachError::Attached(domain.id())),
    );
    for (name, iova, phys, access, error) in [
        (
            "map_without_access",
            0x20_0000,
            page,
            Access::empty(),
            MapError::NoAccess,
        ),
        (
            "map_mmio_alone",
            0x20_0000,
            page,
            Access::MMIO,
            MapError::NoAccess,
        ),
        (
            "map_odd_address",
            0x20_0800,
            page,
            Access::READ,
            MapError::Misaligned,
        ),
        (
            "map_odd_memory",
            0x20_0000,
            memory.part(0x800, 4096),
            Access::READ,
            MapError::Misaligned,
        ),
        (
            "map_odd_length",
            0x20_0000,
            memory.part(0, 0x800),
            Access::READ,
            MapError::Misaligned,
        ),
        (
            "map_over_a_mapping",
            0x10_1000,
            page,
            Access::READ,
            MapError::InUse,
        ),
        ("map_null", 0, page, Access::READ, MapError::OutOfRange),
    ] {
        report.equal(name, map_at(iova, phys, access), Err(error));
    }
    let options = MapOptions::new(Access::READ).with_limit(Iova(0xfff));
    // SAFETY: as above.
    let refused = unsafe { domain.map(page, options) };
    report.equal(
        "map_below_an_impossible_limit",
        refused,
        Err(MapError::OutOfIova),
    );
    let half = report.need("range", IovaRange::from_len(range.start(), 4096).ok_or(()))?;
    let refused = domain.unmap(half);
    report.equal(
        "unmap_half_a_mapping",
        refused,
        Err(UnmapError::NotMapped(half)),
    );
    report.equal(
        "none_of_it_reached_the_device_either",
        logger::requests(),
        requests,
    );
    report.need("unmap", domain.unmap(range))?;
    drop((domain, other));
    shut_down(report, iommu, before)
}
