//! A driver that starts on what another one left behind.

use core::mem::forget;

use virtio_iommu::{Access, Domain, DomainId, DomainRange, EndpointId, FaultReason, Iommu, Iova};

use super::lab::{Lab, buffer, copy, done};
use crate::arch::Firmware;
use crate::buffer::{Buffer, Pattern};
use crate::edu::Edu;
use crate::platform::KernelPlatform;
use crate::refusal::{NO_DOMAIN, NO_MAPPING, Refusal, no_fault};
use crate::report::{Checked, Report, Stop};

const SECRET: Pattern = Pattern::Seed(0x4e57_0001);
const DATA: Pattern = Pattern::Seed(0x4e57_0002);
const OLD: Pattern = Pattern::Seed(0x4e57_0003);

/// Where the first driver maps its secret.
const STALE: Iova = Iova(0x20_0000);
/// Where its source is.
const SOURCE: Iova = Iova(0x30_0000);

/// `restart`: three drivers in one life of the machine; the first two leave everything behind.
///
/// QEMU keeps attachments and mappings over a reset of the device, and `bypass = 0`, too.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(28);
    let mut lab = Lab::open(report, firmware, 2)?;
    let endpoints = lab.endpoints(report)?;
    let (a, b) = (endpoints[0], endpoints[1]);
    drop(endpoints);
    let source = buffer(report, 4096, DATA)?;
    let mut secret = buffer(report, 4096, OLD)?;
    let ids = |first, last| DomainRange::new(DomainId(first), DomainId(last));

    // The first driver knows one endpoint, and is forgotten in the middle of its work.
    let first = lab.start_with("first_driver_starts", report, &[a], ids(10, 20))?;
    let domain = report.need("domain", first.create_domain(4))?;
    report.equal("it_uses_the_lowest_of_its_ids", domain.id(), DomainId(10));
    report.need("attach", domain.attach(a))?;
    map(
        report,
        &domain,
        STALE,
        &secret,
        Access::READ | Access::WRITE,
    )?;
    map(report, &domain, SOURCE, &source, Access::READ)?;
    copy(report, &mut lab.edus[0], SOURCE.0, STALE.0, 4096)?;
    report.equal("its_mapping_works", secret.compare(DATA), Ok(()));
    secret.fill(SECRET);
    forget((domain, first));

    // The second one has the same ids, and knows the other endpoint only: the first is still in a
    // domain of the first driver, with its mappings. Nobody may get in there by accident.
    let second = lab.start_with("second_driver_starts", report, &[b], ids(10, 20))?;
    let edu = &mut lab.edus[1];
    refused(
        report,
        &second,
        "new_endpoint_is_locked_out",
        (edu, b),
        NO_DOMAIN,
        STALE,
    )?;
    let domain = report.need("domain", second.create_domain(4))?;
    let id = domain.id().0;
    report.that("it_has_an_id_of_the_first", (10..=20).contains(&id));
    report.require("new_endpoint_is_attached", domain.attach(b))?;
    let edu = &mut lab.edus[1];
    refused(
        report,
        &second,
        "old_mapping_is_not_there",
        (edu, b),
        NO_MAPPING,
        STALE,
    )?;
    let edu = &mut lab.edus[1];
    refused(
        report,
        &second,
        "old_source_is_not_there",
        (edu, b),
        NO_MAPPING,
        SOURCE,
    )?;
    report.equal("secret_is_untouched", secret.compare(SECRET), Ok(()));
    let target = buffer(report, 4096, OLD)?;
    map(report, &domain, STALE, &target, Access::WRITE)?;
    map(report, &domain, SOURCE, &source, Access::READ)?;
    copy(report, &mut lab.edus[1], SOURCE.0, STALE.0, 4096)?;
    report.equal("the_new_mapping_works", target.compare(DATA), Ok(()));
    report.equal("the_old_one_does_not", secret.compare(SECRET), Ok(()));
    forget((domain, second));

    // The third one has other ids, and knows both: all that the others left is gone at once.
    let mut older = target;
    older.fill(SECRET);
    let third = lab.start_with("third_driver_starts", report, &[b, a], ids(100, 200))?;
    let [edu_a, edu_b] = &mut lab.edus[..] else {
        return Err(Stop);
    };
    refused(
        report,
        &third,
        "first_is_locked_out",
        (edu_a, a),
        NO_DOMAIN,
        STALE,
    )?;
    refused(
        report,
        &third,
        "second_is_locked_out",
        (edu_b, b),
        NO_DOMAIN,
        STALE,
    )?;
    let domain = report.need("domain", third.create_domain(4))?;
    report.equal("it_uses_its_own_ids", domain.id(), DomainId(100));
    report.require("first_is_attached", domain.attach(a))?;
    refused(
        report,
        &third,
        "old_mapping_is_gone",
        (edu_a, a),
        NO_MAPPING,
        STALE,
    )?;
    refused(
        report,
        &third,
        "old_source_is_gone",
        (edu_a, a),
        NO_MAPPING,
        SOURCE,
    )?;
    refused(
        report,
        &third,
        "second_is_still_locked_out",
        (edu_b, b),
        NO_DOMAIN,
        STALE,
    )?;
    report.equal("secret_is_still_untouched", secret.compare(SECRET), Ok(()));
    report.equal("that_of_the_second_too", older.compare(SECRET), Ok(()));

    // The old address again, with other memory behind it.
    let mut target = buffer(report, 4096, OLD)?;
    map(report, &domain, STALE, &target, Access::WRITE)?;
    map(report, &domain, SOURCE, &source, Access::READ)?;
    copy(report, edu_a, SOURCE.0, STALE.0, 4096)?;
    report.equal(
        "old_address_leads_to_new_memory",
        target.compare(DATA),
        Ok(()),
    );
    report.equal("and_not_to_the_old", secret.compare(SECRET), Ok(()));
    no_fault("nothing_was_refused", report, &third);
    target.fill(OLD);
    refused(
        report,
        &third,
        "second_is_out_to_the_end",
        (edu_b, b),
        NO_DOMAIN,
        STALE,
    )?;
    report.equal("and_wrote_nothing", target.compare(OLD), Ok(()));
    drop(domain);
    report.require("device_confirms_its_reset", third.shutdown())?;
    Ok(())
}

/// Maps a buffer, whole.
fn map(
    report: &mut Report,
    domain: &Domain<KernelPlatform>,
    at: Iova,
    buffer: &Buffer,
    access: Access,
) -> Checked {
    // SAFETY: only the devices under test use the buffers, which live as long as the scenario;
    // that mappings end before, whatever became of their driver, is what it checks.
    let mapped = unsafe { domain.map_at(at, buffer.range(), access) };
    report.need("map", mapped)?;
    Ok(())
}

/// One check: a write of a device is reported as one that was refused.
#[track_caller]
fn refused(
    report: &mut Report,
    iommu: &Iommu<KernelPlatform>,
    name: &str,
    (edu, endpoint): (&mut Edu, EndpointId),
    reasons: &'static [FaultReason],
    at: Iova,
) -> Checked {
    done(report, edu.write_memory(at.0, 64))?;
    let refusal = Refusal {
        endpoint,
        reasons,
        start: at.0,
        len: 64,
        access: Access::WRITE,
    };
    refusal.check(name, report, iommu);
    Ok(())
}
