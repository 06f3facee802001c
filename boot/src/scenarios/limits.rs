//! What the device says it can do is what is asked of it: ranges, granules, reserved regions.

use alloc::vec::Vec;

use virtio_iommu::{
    Access, Bypass, Features, Iova, IovaRange, MapError, MapOptions, ReservedKind, ReservedRegion,
};

use super::basic::{CYCLE_CHECKS, FACTS_CHECKS, cycle, default_input_end, facts};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, copy, done, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::edu;
use crate::refusal::{NO_MAPPING, Refusal};
use crate::report::{Checked, Report};

const DATA: Pattern = Pattern::Seed(0x1117_0001);
const OLD: Pattern = Pattern::Seed(0x1117_0002);

/// `aw-bits-39`: an IOMMU with 39 bits of address.
pub fn aw_bits_39(report: &mut Report, firmware: &Firmware) -> Checked {
    const END: u64 = (1 << 39) - 1;
    report.plan(9 + FACTS_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let source = buffer(report, 4096, DATA)?;
    let mut target = buffer(report, 4096, OLD)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    facts(report, &iommu, endpoint, 4096, END);
    let domain = report.need("domain", iommu.create_domain(8))?;
    report.need("attach", domain.attach(endpoint))?;

    for (name, start) in [
        ("first_page_beyond_is_refused", END + 1),
        ("far_beyond_is_refused", 1 << 48),
    ] {
        // SAFETY: only the device under test uses the buffers; both outlive the attachment.
        let beyond = unsafe { domain.map_at(Iova(start), target.range(), Access::WRITE) };
        report.equal(name, beyond, Err(MapError::OutOfRange));
    }
    // SAFETY: as above.
    let across = unsafe { domain.map_at(Iova(u64::MAX - 0xfff), target.range(), Access::WRITE) };
    report.that("the_end_of_64_bits_is_refused", across.is_err());

    // Without a limit the driver takes the highest addresses, which have to be within 39 bits.
    // SAFETY: as above.
    let from = unsafe { domain.map(source.range(), MapOptions::new(Access::READ)) };
    let from = report.require("source_is_mapped", from)?;
    report.that(
        "address_is_within_39_bits",
        from.end().0 <= END && from.start().0 > END / 2,
    );
    // SAFETY: as above.
    let to = unsafe { domain.map(target.range(), MapOptions::new(Access::WRITE)) };
    let to = report.need("map_target", to)?;
    let (from, to) = (from.start().0, to.start().0);
    copy(report, &mut lab.edus[0], from, to, 4096)?;
    report.equal("edu_moved_every_byte", target.compare(DATA), Ok(()));

    // An address whose lower 39 bits are those of a mapping.
    target.fill(OLD);
    done(report, lab.edus[0].write_memory((END + 1) | to, 64))?;
    let refusal = Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start: (END + 1) | to,
        len: 64,
        access: Access::WRITE,
    };
    refusal.check("dma_beyond_is_reported", report, &iommu);
    report.equal("dma_beyond_goes_nowhere", target.compare(OLD), Ok(()));
    drop(domain);
    shut_down(report, iommu, before)
}

/// `granule-64k`: mappings come in units of 64 KiB.
pub fn granule_64k(report: &mut Report, firmware: &Firmware) -> Checked {
    const GRANULE: usize = 0x1_0000;
    report.plan(7 + FACTS_CHECKS + CYCLE_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let memory = buffer(report, 2 * GRANULE, OLD)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    facts(
        report,
        &iommu,
        endpoint,
        GRANULE as u64,
        default_input_end(firmware),
    );
    {
        let domain = report.need("domain", iommu.create_domain(8))?;
        report.need("attach", domain.attach(endpoint))?;
        let options = MapOptions::new(Access::READ).with_limit(edu::LIMIT);
        for (name, offset, len) in [
            ("a_page_is_refused", 0, 0x1000),
            ("an_odd_start_is_refused", 0x1000, GRANULE),
            ("an_odd_end_is_refused", 0, GRANULE + 0x1000),
        ] {
            // SAFETY: only the device under test uses the buffer; it outlives the attachment.
            let mapped = unsafe { domain.map(memory.part(offset, len), options) };
            report.equal(name, mapped, Err(MapError::Misaligned));
        }
        let whole = memory.part(0, GRANULE);
        // SAFETY: as above.
        let odd = unsafe { domain.map_at(Iova(0x11_1000), whole, Access::READ) };
        report.equal("an_odd_address_is_refused", odd, Err(MapError::Misaligned));
        // SAFETY: as above.
        let pieces =
            [0, GRANULE].map(|at| unsafe { domain.map(memory.part(at, GRANULE), options) });
        let first = report.need("map", pieces[0])?;
        let second = report.need("map", pieces[1])?;
        let starts = [first.start().0, second.start().0];
        report.that(
            "addresses_are_multiples_of_64_kib",
            starts
                .iter()
                .all(|start| start.is_multiple_of(GRANULE as u64)),
        );
        report.that(
            "a_granule_of_hole_is_between_them",
            starts[0].abs_diff(starts[1]) >= 2 * GRANULE as u64,
        );
    }
    cycle(report, &iommu, &mut lab.edus[0], endpoint)?;
    shut_down(report, iommu, before)
}

/// `iommu-platform`: the IOMMU offers ACCESS_PLATFORM for its own rings.
pub fn iommu_platform(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(3 + CYCLE_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    report.that(
        "access_platform_is_accepted",
        iommu.features().contains(Features::ACCESS_PLATFORM),
    );
    // Its own accesses may need what bypass gives: QEMU's translates them, through itself.
    report.that("bypass_is_left_alone", iommu.bypass() != Bypass::Locked);
    cycle(report, &iommu, &mut lab.edus[0], endpoint)?;
    shut_down(report, iommu, before)
}

/// `reserved-regions`: addresses that belong to nobody.
pub fn reserved_regions(report: &mut Report, firmware: &Firmware) -> Checked {
    const RESERVED: (u64, u64) = (0x0800_0000, 0x080f_ffff);
    const MSI: (u64, u64) = (0x0a00_0000, 0x0a0f_ffff);
    const MIB: usize = 1 << 20;
    /// From above the one to below the other, in mappings of 1 MiB.
    const TOP: Iova = Iova(0x0a4f_ffff);
    const MAPPINGS: usize = 48;
    report.plan(10 + SHUT_DOWN_CHECKS);
    let range = |(start, end)| IovaRange::new(Iova(start), Iova(end));
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let large = buffer(report, MIB, OLD)?;
    let page = large.part(0, 4096);
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let expected = [(RESERVED, ReservedKind::Reserved), (MSI, ReservedKind::Msi)]
        .map(|(bounds, kind)| range(bounds).map(|range| ReservedRegion { range, kind }));
    let seen = iommu.reserved_regions(endpoint).unwrap_or_default();
    report.equal("probe_reports_two_regions", seen.len(), 2);
    for (name, seen, expected) in [
        (
            "probe_reports_the_reserved_region",
            seen.first(),
            &expected[0],
        ),
        ("probe_reports_the_msi_region", seen.get(1), &expected[1]),
    ] {
        report.equal(name, seen, expected.as_ref());
    }
    let domain = report.need("domain", iommu.create_domain(MAPPINGS))?;
    report.need("attach", domain.attach(endpoint))?;
    for (name, start) in [
        ("start_of_the_reserved_region_is_refused", RESERVED.0),
        ("end_of_the_reserved_region_is_refused", RESERVED.1 - 0xfff),
        ("msi_region_is_refused", MSI.0 + 0x8_0000),
    ] {
        // SAFETY: only the device under test uses the buffer; it outlives the attachment.
        let mapped = unsafe { domain.map_at(Iova(start), page, Access::WRITE) };
        report.that(name, matches!(mapped, Err(MapError::Reserved(_))));
    }

    // Down from above the regions to below: the addresses handed out step around them.
    let options = MapOptions::new(Access::READ).with_limit(TOP);
    let mut ranges = Vec::with_capacity(MAPPINGS);
    for _ in 0..MAPPINGS {
        // SAFETY: as above; the same memory may be mapped many times.
        ranges.push(report.need("map", unsafe { domain.map(large.range(), options) })?);
    }
    let regions = [range(RESERVED), range(MSI)];
    let hit = ranges.iter().find(|mapping| {
        regions
            .iter()
            .flatten()
            .any(|region| region.overlaps(mapping))
    });
    report.equal("no_address_in_a_region_is_handed_out", hit, None);
    let lowest = ranges.iter().map(|range| range.start().0).min();
    report.that("and_the_regions_were_passed", lowest < Some(RESERVED.0));
    drop(ranges);

    // The device means it, too.
    done(report, lab.edus[0].write_memory(RESERVED.0, 64))?;
    let refusal = Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start: RESERVED.0,
        len: 64,
        access: Access::WRITE,
    };
    refusal.check("dma_to_the_reserved_region_is_reported", report, &iommu);
    drop(domain);
    shut_down(report, iommu, before)
}
