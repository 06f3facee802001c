//! Many requests in one kick, and more faults than there is room for.

use alloc::vec;
use alloc::vec::Vec;

use virtio_iommu::{Access, Iova, IovaRange, MapOptions, PhysRange};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, copy, done, hold, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::edu::{self, MAX_TRANSFER};
use crate::logger;
use crate::refusal::{NO_MAPPING, Refusal, drain, no_fault};
use crate::report::{Checked, Report};

const DATA: Pattern = Pattern::Seed(0x64b0_0001);
const OLD: Pattern = Pattern::Seed(0x64b0_0002);

/// `batch-64`: 64 mappings with one notification; the host side counts it.
pub fn batch_64(report: &mut Report, firmware: &Firmware) -> Checked {
    const COUNT: usize = 64;
    /// The ones that DMA goes through: the ends, and one in the middle.
    const TRIED: [usize; 3] = [0, 31, COUNT - 1];
    report.plan(18 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let source = buffer(report, 4096, DATA)?;
    // Every second page is mapped, so that no two of the mappings are neighbours in memory.
    let mut targets = buffer(report, 2 * COUNT * 4096, OLD)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let domain = report.need("domain", iommu.create_domain(COUNT + 1))?;
    report.need("attach", domain.attach(endpoint))?;
    let options = |access| MapOptions::new(access).with_limit(edu::LIMIT);
    // SAFETY: only the device under test uses the buffers; both outlive the attachment.
    let from = unsafe { domain.map(source.range(), options(Access::READ)) };
    let from = report.need("map_source", from)?;

    let pages: Vec<PhysRange> = (0..COUNT)
        .map(|i| targets.part(2 * i * 4096, 4096))
        .collect();
    let unset = report.need("range", IovaRange::from_len(Iova(0), 1).ok_or(()))?;
    let mut mapped = vec![unset; COUNT];
    let requests = logger::requests();
    // SAFETY: as above.
    let result = unsafe { domain.map_all(&pages, options(Access::WRITE), &mut mapped) };
    report.require("64_pages_are_mapped", result)?;
    report.equal("with_64_requests", logger::requests() - requests, COUNT);
    report.equal("domain_counts_them", domain.mapped(), COUNT + 1);
    let apart = |i: usize| (0..i).all(|j| !mapped[i].overlaps(&mapped[j]));
    report.that("all_at_different_addresses", (0..COUNT).all(apart));

    for i in TRIED {
        let to = mapped[i].start().0;
        copy(report, &mut lab.edus[0], from.start().0, to, 4096)?;
    }
    let expected = |offset: usize| match (offset / 4096, offset % 4096) {
        (page, rest) if page % 2 == 0 && TRIED.contains(&(page / 2)) => DATA.at(rest),
        _ => OLD.at(offset),
    };
    let seen = targets.compare_part(0, targets.len(), expected);
    report.equal("dma_reaches_those_pages_and_no_other", seen, Ok(()));
    no_fault("nothing_was_refused", report, &iommu);

    let requests = logger::requests();
    // In this order, no two neighbours follow each other.
    let apart = (0..COUNT).step_by(2).chain((1..COUNT).step_by(2));
    let apart: Vec<IovaRange> = apart.map(|i| mapped[i]).collect();
    report.require("64_pages_are_unmapped", domain.unmap_all(&apart))?;
    report.equal(
        "with_64_requests_again",
        logger::requests() - requests,
        COUNT,
    );
    report.equal(
        "domain_counts_one",
        (domain.mapped(), domain.quarantined()),
        (1, 0),
    );
    targets.fill(OLD);
    for (name, i) in [("first_is_gone", TRIED[0]), ("last_is_gone", TRIED[2])] {
        let start = mapped[i].start().0;
        done(report, lab.edus[0].write_memory(start, 64))?;
        let refusal = Refusal {
            endpoint,
            reasons: NO_MAPPING,
            start,
            len: 64,
            access: Access::WRITE,
        };
        refusal.check(name, report, &iommu);
    }
    report.equal("memory_is_left_alone", targets.compare(OLD), Ok(()));

    // SAFETY: as above.
    let result = unsafe { domain.map_all(&pages, options(Access::WRITE), &mut mapped) };
    report.require("64_pages_are_mapped_again", result)?;
    mapped.sort_by_key(IovaRange::start);
    let requests = logger::requests();
    report.require("neighbours_are_unmapped", domain.unmap_all(&mapped))?;
    report.equal("with_one_request", logger::requests() - requests, 1);
    for (name, i) in [("one_end_is_gone", 0), ("the_other_end_is_gone", COUNT - 1)] {
        let start = mapped[i].start().0;
        done(report, lab.edus[0].write_memory(start, 4))?;
        let refusal = Refusal {
            endpoint,
            reasons: NO_MAPPING,
            start,
            len: 4,
            access: Access::WRITE,
        };
        refusal.check(name, report, &iommu);
    }
    drop((pages, mapped, apart));
    drop(domain);
    shut_down(report, iommu, before)
}

/// `event-overflow`: more faults than the queue has buffers; some are lost, the queue is not.
pub fn event_overflow(report: &mut Report, firmware: &Firmware) -> Checked {
    /// One fault per word.
    const FAULTS: usize = MAX_TRANSFER / 4;
    const START: u64 = 0x40_0000;
    report.plan(14 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let domain = report.need("domain", iommu.create_domain(1))?;
    report.need("attach", domain.attach(endpoint))?;
    report.equal("no_fault_so_far", iommu.fault_counters().received, 0);
    report.equal("no_overflow_so_far", iommu.fault_counters().overflows, 0);

    let refusal = |start, len: usize| Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start,
        len: len as u64,
        access: Access::WRITE,
    };
    let mut total = 0;
    for round in ["first", "second"] {
        let seen = iommu.fault_counters().overflows;
        done(report, lab.edus[0].write_memory(START, MAX_TRANSFER))?;
        let faults = drain(&iommu);
        total += faults.len();
        report.that(
            &alloc::format!("{round}_flood_is_received_in_part"),
            (1..FAULTS).contains(&faults.len()),
        );
        let result = refusal(START, MAX_TRANSFER).compare(&faults);
        report.equal(&alloc::format!("{round}_flood_is_decoded"), result, Ok(()));
        let overflows = iommu.fault_counters().overflows - seen;
        report.equal(&alloc::format!("{round}_overflow_is_noticed"), overflows, 1);
        drop(faults);

        // Every buffer is back, so a later fault arrives, and arrives alone.
        let later = START + 0x10_0000;
        done(report, lab.edus[0].write_memory(later, 4))?;
        let faults = drain(&iommu);
        total += faults.len();
        let seen: Vec<Option<Iova>> = faults.iter().map(|fault| fault.address).collect();
        report.equal(
            &alloc::format!("later_fault_arrives_after_the_{round}_flood"),
            seen,
            vec![Some(Iova(later))],
        );
    }
    let counters = iommu.fault_counters();
    report.equal(
        "received_faults_are_counted",
        counters.received,
        total as u64,
    );
    report.equal("overflows_are_counted", counters.overflows, 2);
    report.equal(
        "nothing_was_malformed",
        counters.malformed + counters.ignored,
        0,
    );
    hold(report, "polled")?;
    drop(domain);
    shut_down(report, iommu, before)
}
