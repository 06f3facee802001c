//! The basic cycle: bring-up, attach, map, DMA both ways, unmap, detach, nothing left.

use virtio_iommu::{
    Access, Bypass, DomainId, DomainRange, EndpointId, Features, Iommu, Iova, MapOptions,
};

use super::dma_lab::PAGE;
use super::lab::{self, Baseline, Lab, SHUT_DOWN_CHECKS, buffer, copy, done, shut_down};
use crate::arch::{self, Firmware};
use crate::buffer::Pattern;
use crate::command_line;
use crate::edu::{self, Edu};
use crate::machine::FoundBy;
use crate::platform::KernelPlatform;
use crate::refusal::{NO_DOMAIN, NO_MAPPING, Refusal, no_fault};
use crate::report::{Checked, Report};

/// `basic`: everything, with the facts of the device as QEMU has them by default.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(3 + FACTS_CHECKS + CYCLE_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    report.equal(
        "iommu_is_described_by_the_firmware",
        lab.machine.found_by,
        FoundBy::Firmware,
    );
    let endpoint = lab.endpoints(report)?[0];
    let function = u32::from(lab.edus[0].function().0);
    report.equal("endpoint_id_is_the_requester_id", endpoint.0, function);
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    facts(report, &iommu, endpoint, 4096, default_input_end(firmware));
    cycle(report, &iommu, &mut lab.edus[0], endpoint)?;
    shut_down(report, iommu, before)
}

/// The last I/O virtual address, as the machine has it by default. Where QEMU's machines do not
/// limit it, the boot arguments say so.
pub fn default_input_end(firmware: &Firmware) -> u64 {
    let bits = command_line::input_bits(firmware.arguments);
    let bits = bits.unwrap_or(match arch::NAME {
        "aarch64" => 48,
        "x86_64" => 39,
        _ => 64,
    });
    u64::MAX >> (64 - bits)
}

/// How many checks [`facts`] does.
pub const FACTS_CHECKS: u32 = 9;

/// What the device said about itself, and what the driver made of it.
pub fn facts(
    report: &mut Report,
    iommu: &Iommu<KernelPlatform>,
    endpoint: EndpointId,
    granule: u64,
    input_end: u64,
) {
    let wanted = Features::INPUT_RANGE
        | Features::DOMAIN_RANGE
        | Features::MAP_UNMAP
        | Features::PROBE
        | Features::MMIO
        | Features::BYPASS_CONFIG
        | Features::VERSION_1;
    report.equal(
        "features_of_qemu_are_accepted",
        iommu.features() & wanted,
        wanted,
    );
    report.equal(
        "nothing_is_accepted_that_was_not_offered",
        iommu.features().bits() & !iommu.offered_features(),
        0,
    );
    let geometry = iommu.geometry();
    report.equal("granule", geometry.granule(), granule);
    report.equal(
        "input_range_starts_at_0",
        geometry.input_range().start().0,
        0,
    );
    report.equal(
        "input_range_ends",
        geometry.input_range().end().0,
        input_end,
    );
    report.equal(
        "domain_range",
        Some(geometry.domain_range()),
        DomainRange::new(DomainId(0), DomainId(u32::MAX)),
    );
    report.equal("probe_size", geometry.probe_size(), Some(512));
    report.equal("bypass_is_locked", iommu.bypass(), Bypass::Locked);
    report.that(
        "endpoint_is_known",
        iommu.endpoints().any(|known| known == endpoint),
    );
}

/// How many checks [`cycle`] does.
pub const CYCLE_CHECKS: u32 = 20;

/// Attach, map, DMA in both directions, unmap, detach; each step judged by memory and by faults.
pub fn cycle(
    report: &mut Report,
    iommu: &Iommu<KernelPlatform>,
    edu: &mut Edu,
    endpoint: EndpointId,
) -> Checked {
    const SOURCE: Pattern = Pattern::Seed(0x5eed_0001);
    const OLD: Pattern = Pattern::Seed(0x5eed_0002);
    let granule = iommu.geometry().granule() as usize;
    let source = buffer(report, granule, SOURCE)?;
    // The middle third is mapped; the others are there to see an overrun.
    let mut target = buffer(report, 3 * granule, OLD)?;
    let middle = target.part(granule, granule);

    let domain = report.require("domain_is_created", iommu.create_domain(8))?;
    report.require("endpoint_is_attached", domain.attach(endpoint))?;
    let options = |access| MapOptions::new(access).with_limit(edu::LIMIT);
    // SAFETY: only the device under test uses the buffers; both outlive the attachment.
    let mapped = unsafe { domain.map(source.range(), options(Access::READ)) };
    let from_range = report.require("source_is_mapped", mapped)?;
    // SAFETY: as above.
    let mapped = unsafe { domain.map(middle, options(Access::WRITE)) };
    let to_range = report.require("target_is_mapped", mapped)?;
    let (from, to) = (from_range.start().0, to_range.start().0);
    report.that(
        "addresses_are_aligned_apart_and_below_the_mask",
        [from_range, to_range].iter().all(|range| {
            range.start().0.is_multiple_of(granule as u64)
                && range.len() == Some(granule as u64)
                && range.end() <= edu::LIMIT
        }) && from.abs_diff(to) >= 2 * granule as u64,
    );
    report.equal("two_mappings", domain.mapped(), 2);

    // The last page of a granule: the far end of a mapping that is larger than a page.
    let tail = granule - PAGE;
    let (tail_from, tail_to) = (from + tail as u64, to + tail as u64);
    copy(report, edu, tail_from, tail_to, PAGE)?;
    let written = target.compare_part(granule + tail, PAGE, |offset| SOURCE.at(offset - granule));
    report.equal("edu_moved_every_byte", written, Ok(()));
    report.equal("source_is_untouched", source.compare(SOURCE), Ok(()));
    let below = target.compare_part(0, granule + tail, |offset| OLD.at(offset));
    report.equal("memory_below_is_untouched", below, Ok(()));
    let above = target.compare_part(2 * granule, granule, |offset| OLD.at(offset));
    report.equal("memory_above_is_untouched", above, Ok(()));

    // A short transfer between odd addresses.
    const SKIP: usize = 0x123;
    const INTO: usize = 0x765;
    const LEN: usize = 61;
    target.fill(OLD);
    let (odd_from, odd_to) = (from + SKIP as u64, to + INTO as u64);
    copy(report, edu, odd_from, odd_to, LEN)?;
    let short = |offset: usize| match offset.checked_sub(granule + INTO) {
        Some(index @ 0..LEN) => SOURCE.at(SKIP + index),
        _ => OLD.at(offset),
    };
    let seen = target.compare_part(0, target.len(), short);
    report.equal("short_transfer_is_exact", seen, Ok(()));
    no_fault("nothing_was_refused", report, iommu);

    report.require("target_is_unmapped", domain.unmap(to_range))?;
    done(report, edu.write_memory(to, 64))?;
    let seen = target.compare_part(0, target.len(), short);
    report.equal("unmap_ends_access", seen, Ok(()));
    let refusal = Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start: to,
        len: 64,
        access: Access::WRITE,
    };
    refusal.check("unmapped_access_is_reported", report, iommu);

    report.require("source_is_unmapped", domain.unmap(from_range))?;
    report.require("endpoint_is_detached", domain.detach(endpoint))?;
    target.fill(OLD);
    done(report, edu.write_memory(to, 64))?;
    report.equal("detach_ends_access", target.compare(OLD), Ok(()));
    let refusal = Refusal {
        reasons: match iommu.bypass() {
            Bypass::Locked => NO_DOMAIN,
            // It went back to an empty domain of the driver's own.
            Bypass::NotConfigurable => NO_MAPPING,
        },
        ..refusal
    };
    refusal.check("access_without_a_domain_is_reported", report, iommu);
    report.equal(
        "nothing_is_left_in_the_domain",
        (domain.mapped(), domain.quarantined()),
        (0, 0),
    );
    Ok(())
}

/// `boot-bypass-off`: an IOMMU that protects from the first moment, before any driver.
pub fn boot_bypass_off(report: &mut Report, firmware: &Firmware) -> Checked {
    const OLD: Pattern = Pattern::Seed(0x5eed_0003);
    const NEW: Pattern = Pattern::Seed(0x5eed_0004);
    report.plan(2 + 5 + CYCLE_CHECKS + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let target = buffer(report, 4096, OLD)?;
    let before = Baseline::now();

    done(report, lab.edus[0].write_memory(target.phys(), 64))?;
    report.equal(
        "dma_is_blocked_before_the_driver",
        target.compare(OLD),
        Ok(()),
    );
    let iommu = lab.start(report)?;
    report.equal("bypass_is_locked", iommu.bypass(), Bypass::Locked);
    done(report, lab.edus[0].write_memory(target.phys(), 64))?;
    report.equal("dma_is_blocked_before_attach", target.compare(OLD), Ok(()));
    let refusal = Refusal {
        endpoint,
        reasons: NO_DOMAIN,
        start: target.phys(),
        len: 64,
        access: Access::WRITE,
    };
    refusal.check("access_without_a_domain_is_reported", report, &iommu);

    // The same address once more, allowed: what was blocked is not out of the device's reach.
    {
        let source = buffer(report, 4096, NEW)?;
        let domain = report.need("domain", iommu.create_domain(2))?;
        report.need("attach", domain.attach(endpoint))?;
        let (at, other) = (Iova(target.phys()), Iova(source.phys()));
        // SAFETY: only the device under test uses the buffers; both outlive the attachment.
        let mapped = unsafe { domain.map_at(at, target.range(), Access::WRITE) };
        report.require("target_is_mapped_at_its_physical_address", mapped)?;
        // SAFETY: as above.
        let mapped = unsafe { domain.map_at(other, source.range(), Access::READ) };
        report.need("map_source", mapped)?;
        copy(report, &mut lab.edus[0], other.0, at.0, PAGE)?;
        report.equal("edu_reaches_that_address", target.compare(NEW), Ok(()));
    }
    cycle(report, &iommu, &mut lab.edus[0], endpoint)?;
    lab::shut_down(report, iommu, before)
}
