//! Two endpoints, two address spaces.

use virtio_iommu::{Access, Iova};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, copy, done, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::refusal::{NO_MAPPING, Refusal, no_fault};
use crate::report::{Checked, Report};

const DATA: [Pattern; 2] = [Pattern::Seed(0x2d0a_0001), Pattern::Seed(0x2d0b_0001)];
const OLD: [Pattern; 2] = [Pattern::Seed(0x2d0a_0002), Pattern::Seed(0x2d0b_0002)];

/// In both domains: the same address, different memory.
const SHARED: Iova = Iova(0x10_0000);
/// The source, in the first domain and in the second: different addresses.
const SOURCE: [Iova; 2] = [Iova(0x20_0000), Iova(0x30_0000)];

/// `two-domains`: neither endpoint sees the other's mappings.
pub fn two_domains(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(14 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 2)?;
    let endpoints = lab.endpoints(report)?;
    let ids = [endpoints[0], endpoints[1]];
    drop(endpoints);
    report.that("two_endpoints", ids[0] != ids[1]);
    let sources = [
        buffer(report, 4096, DATA[0])?,
        buffer(report, 4096, DATA[1])?,
    ];
    let mut targets = [buffer(report, 4096, OLD[0])?, buffer(report, 4096, OLD[1])?];
    let before = Baseline::now();
    let iommu = lab.start(report)?;

    let domains = [
        report.need("domain", iommu.create_domain(4))?,
        report.need("domain", iommu.create_domain(4))?,
    ];
    report.that("two_domains", domains[0].id() != domains[1].id());
    for i in 0..2 {
        report.need("attach", domains[i].attach(ids[i]))?;
        // SAFETY: only the devices under test use the buffers; all outlive the attachments.
        let target = unsafe { domains[i].map_at(SHARED, targets[i].range(), Access::WRITE) };
        report.need("map_target", target)?;
        // SAFETY: as above.
        let source = unsafe { domains[i].map_at(SOURCE[i], sources[i].range(), Access::READ) };
        report.need("map_source", source)?;
    }

    // The same address leads each to its own memory.
    let first = &mut lab.edus[0];
    copy(report, first, SOURCE[0].0, SHARED.0, 4096)?;
    let seen = targets[0].compare(DATA[0]);
    report.equal("first_writes_its_own_memory", seen, Ok(()));
    let seen = targets[1].compare(OLD[1]);
    report.equal("first_does_not_write_that_of_the_second", seen, Ok(()));
    let second = &mut lab.edus[1];
    copy(report, second, SOURCE[1].0, SHARED.0, 4096)?;
    let seen = targets[1].compare(DATA[1]);
    report.equal("second_writes_its_own_memory", seen, Ok(()));
    let seen = targets[0].compare(DATA[0]);
    report.equal("second_does_not_write_that_of_the_first", seen, Ok(()));
    no_fault("nothing_was_refused", report, &iommu);

    // What is mapped for the one alone is not there for the other.
    for (i, who) in ["first", "second"].into_iter().enumerate() {
        targets[i].fill(OLD[i]);
        let other = SOURCE[1 - i].0;
        done(report, lab.edus[i].read_memory(other, 64))?;
        let refusal = Refusal {
            endpoint: ids[i],
            reasons: NO_MAPPING,
            start: other,
            len: 64,
            access: Access::READ,
        };
        refusal.check("read_in_the_other_domain_is_reported", report, &iommu);
        done(report, lab.edus[i].write_memory(SHARED.0, 64))?;
        let held = targets[i].compare_part(0, 64, |_| 0);
        report.equal(&alloc::format!("{who}_read_zeros"), held, Ok(()));
    }

    // The end of the one is not the end of the other.
    report.need("detach", domains[0].detach(ids[0]))?;
    targets[1].fill(OLD[1]);
    copy(report, &mut lab.edus[1], SOURCE[1].0, SHARED.0, 4096)?;
    let seen = targets[1].compare(DATA[1]);
    report.equal("second_works_on_when_the_first_is_gone", seen, Ok(()));
    no_fault("second_is_not_refused", report, &iommu);
    drop(domains);
    shut_down(report, iommu, before)
}
