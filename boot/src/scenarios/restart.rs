//! A driver that starts on what another one left behind.

use virtio_iommu::{Access, DomainId, DomainRange, Iova, MapOptions};

use super::lab::{Lab, buffer, copy, done};
use crate::buffer::Pattern;
use crate::device_tree::MachineTree;
use crate::edu::{self, MAX_TRANSFER};
use crate::refusal::{NO_DOMAIN, NO_MAPPING, Refusal, no_fault};
use crate::report::{Checked, Report};

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
pub fn run(report: &mut Report, tree: &MachineTree) -> Checked {
    report.plan(26);
    let mut lab = Lab::open(report, tree, 2)?;
    let endpoints = lab.endpoints(report)?;
    let (a, b) = (endpoints[0], endpoints[1]);
    let source = buffer(report, 4096, DATA)?;
    let mut secret = buffer(report, 4096, OLD)?;
    let ids = |first, last| DomainRange::new(DomainId(first), DomainId(last));

    // The first driver knows one endpoint, and is forgotten in the middle of its work.
    let first = lab.start_with("first_driver_starts", report, &[a], ids(10, 20))?;
    let domain = report.need("domain", first.create_domain(4))?;
    report.equal("it_uses_the_lowest_of_its_ids", domain.id(), DomainId(10));
    report.need("attach", domain.attach(a))?;
    let access = Access::READ | Access::WRITE;
    // SAFETY: only the devices under test use the buffers, which live as long as this scenario;
    // that the mapping ends before is what is checked.
    let stale = unsafe { domain.map_at(STALE, secret.range(), access) };
    report.need("map", stale)?;
    // SAFETY: as above.
    let mapped = unsafe { domain.map_at(SOURCE, source.range(), Access::READ) };
    report.need("map", mapped)?;
    copy(report, &mut lab.edus[0], SOURCE.0, STALE.0, MAX_TRANSFER)?;
    report.equal("its_mapping_works", secret.compare(DATA), Ok(()));
    secret.fill(SECRET);
    core::mem::forget(domain);
    core::mem::forget(first);

    // The second one knows both, and has other ids.
    let second = lab.start_with("second_driver_starts", report, &[a, b], ids(100, 200))?;
    let mut refusal = |report: &mut Report, name: &str, reasons, edu: usize, at: Iova| {
        done(report, lab.edus[edu].write_memory(at.0, 64))?;
        let refusal = Refusal {
            endpoint: [a, b][edu],
            reasons,
            start: at.0,
            len: 64,
            access: Access::WRITE,
        };
        refusal.check(name, report, &second);
        Ok(())
    };
    refusal(report, "old_endpoint_is_locked_out", NO_DOMAIN, 0, STALE)?;
    refusal(report, "new_endpoint_is_locked_out", NO_DOMAIN, 1, STALE)?;
    report.equal("secret_is_untouched", secret.compare(SECRET), Ok(()));

    let domain = report.need("domain", second.create_domain(4))?;
    report.equal("second_driver_uses_its_own_ids", domain.id(), DomainId(100));
    report.require("old_endpoint_is_attached", domain.attach(a))?;
    refusal(report, "old_mapping_is_gone", NO_MAPPING, 0, STALE)?;
    refusal(report, "old_source_is_gone", NO_MAPPING, 0, SOURCE)?;
    refusal(report, "new_endpoint_is_still_out", NO_DOMAIN, 1, STALE)?;
    report.equal("secret_is_still_untouched", secret.compare(SECRET), Ok(()));

    // The old address again, with other memory behind it.
    let target = buffer(report, 4096, OLD)?;
    // SAFETY: as above.
    let mapped = unsafe { domain.map_at(STALE, target.range(), Access::WRITE) };
    report.require("old_address_can_be_mapped", mapped)?;
    let options = MapOptions::new(Access::READ).with_limit(edu::LIMIT);
    // SAFETY: as above.
    let mapped = unsafe { domain.map(source.range(), options) };
    let from = report.need("map", mapped)?.start().0;
    copy(report, &mut lab.edus[0], from, STALE.0, MAX_TRANSFER)?;
    report.equal("it_leads_to_the_new_memory", target.compare(DATA), Ok(()));
    report.equal("and_not_to_the_old", secret.compare(SECRET), Ok(()));
    no_fault("nothing_was_refused", report, &second);
    core::mem::forget(domain);
    core::mem::forget(second);

    // The third has the ids of the second, and knows the other endpoint only: the first one is
    // still in a domain of the second, with its mappings. Nobody may enter it with them.
    let third = lab.start_with("third_driver_starts", report, &[b], ids(100, 200))?;
    let domain = report.need("domain", third.create_domain(4))?;
    let id = domain.id().0;
    report.that("it_uses_the_ids_of_the_second", (100..=200).contains(&id));
    report.require("new_endpoint_is_attached", domain.attach(b))?;
    let older = target;
    let target = buffer(report, 4096, OLD)?;
    for (name, at) in [
        ("mapping_of_the_second_is_not_there", STALE.0),
        ("its_source_is_not_there", from),
    ] {
        done(report, lab.edus[1].write_memory(at, 64))?;
        let refusal = Refusal {
            endpoint: b,
            reasons: NO_MAPPING,
            start: at,
            len: 64,
            access: Access::WRITE,
        };
        refusal.check(name, report, &third);
    }
    report.equal(
        "memory_of_the_second_is_untouched",
        older.compare(DATA),
        Ok(()),
    );
    // SAFETY: as above.
    let mapped = unsafe { domain.map_at(STALE, target.range(), Access::WRITE) };
    report.need("map", mapped)?;
    // SAFETY: as above.
    let mapped = unsafe { domain.map_at(SOURCE, source.range(), Access::READ) };
    report.need("map", mapped)?;
    copy(report, &mut lab.edus[1], SOURCE.0, STALE.0, MAX_TRANSFER)?;
    report.equal("third_driver_works", target.compare(DATA), Ok(()));
    report.equal("secret_was_never_touched", secret.compare(SECRET), Ok(()));
    drop(domain);
    report.require("device_confirms_its_reset", third.shutdown())?;
    Ok(())
}
