//! What must not work, and how it is reported.

use virtio_iommu::{Access, MapOptions};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, copy, done, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::edu;
use crate::refusal::{NO_DOMAIN, NO_MAPPING, Refusal, drain, no_fault};
use crate::report::{Checked, Report};

const OLD: Pattern = Pattern::Seed(0xfa17_0001);
const SECRET: Pattern = Pattern::Seed(0xfa17_0002);

/// Bytes of a transfer that is to be refused: few, because each word is a fault of its own.
const LEN: usize = 64;

/// `faults`: unmapped, read-only, write-only, over the edge, unattached after the lock-down.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(21 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    let before = Baseline::now();
    let secret = buffer(report, 4096, SECRET)?;
    let mut target = buffer(report, 2 * 4096, OLD)?;
    let mut window = buffer(report, 4096, OLD)?;

    // What follows is the work of the IOMMU, because without it everything is open.
    let (from, to) = (secret.phys(), target.phys());
    copy(report, &mut lab.edus[0], from, to, 4096)?;
    let open = target.compare_part(0, 4096, |offset| SECRET.at(offset));
    report.equal("before_the_driver_dma_passes", open, Ok(()));
    target.fill(OLD);

    let iommu = lab.start(report)?;
    let edu = &mut lab.edus[0];
    let refusal = |reasons, start, access| Refusal {
        endpoint,
        reasons,
        start,
        len: LEN as u64,
        access,
    };

    // Locked down, not attached.
    done(report, edu.read_memory(secret.phys(), LEN))?;
    let read = refusal(NO_DOMAIN, secret.phys(), Access::READ);
    read.check("locked_down_read_is_reported", report, &iommu);
    // Whatever the device holds now is written to the window later, to be looked at.
    done(report, edu.write_memory(target.phys(), LEN))?;
    report.equal(
        "locked_down_write_goes_nowhere",
        target.compare(OLD),
        Ok(()),
    );
    let write = refusal(NO_DOMAIN, target.phys(), Access::WRITE);
    write.check("locked_down_write_is_reported", report, &iommu);

    let domain = report.need("domain", iommu.create_domain(8))?;
    report.need("attach", domain.attach(endpoint))?;
    let options = |access| MapOptions::new(access).with_limit(edu::LIMIT);
    // SAFETY: only the device under test uses the buffers; all outlive the attachment.
    let view = unsafe { domain.map(window.range(), options(Access::READ | Access::WRITE)) };
    let view = report.need("map_window", view)?;
    let view_at = view.start().0;
    done(report, edu.write_memory(view_at, LEN))?;
    let held = window.compare_part(0, LEN, |_| 0);
    report.equal("locked_down_read_gets_zeros", held, Ok(()));

    // Attached, and nothing mapped there: the physical address of memory, for one.
    window.fill(OLD);
    done(report, edu.read_memory(secret.phys(), LEN))?;
    let read = refusal(NO_MAPPING, secret.phys(), Access::READ);
    read.check("unmapped_read_is_reported", report, &iommu);
    done(report, edu.write_memory(view_at, LEN))?;
    let held = window.compare_part(0, LEN, |_| 0);
    report.equal("unmapped_read_gets_zeros", held, Ok(()));
    done(report, edu.write_memory(target.phys(), LEN))?;
    report.equal("unmapped_write_goes_nowhere", target.compare(OLD), Ok(()));
    let write = refusal(NO_MAPPING, target.phys(), Access::WRITE);
    write.check("unmapped_write_is_reported", report, &iommu);

    // Read-only.
    // SAFETY: as above.
    let read_only = unsafe { domain.map(secret.range(), options(Access::READ)) };
    let read_only = report.need("map_read_only", read_only)?.start().0;
    done(report, edu.write_memory(read_only, LEN))?;
    report.equal("read_only_is_not_written", secret.compare(SECRET), Ok(()));
    let write = refusal(NO_MAPPING, read_only, Access::WRITE);
    write.check("read_only_write_is_reported", report, &iommu);
    copy(report, edu, read_only, view_at, 4096)?;
    report.equal("read_only_is_read", window.compare(SECRET), Ok(()));
    no_fault("read_only_read_is_allowed", report, &iommu);

    // Write-only: the specification lets devices allow the read.
    // SAFETY: as above; the target may be read, too.
    let write_only = unsafe { domain.map(target.part(0, 4096), options(Access::WRITE)) };
    let write_only = report.need("map_write_only", write_only)?;
    let start = write_only.start().0;
    copy(report, edu, read_only, start, LEN)?;
    let written = target.compare_part(0, 2 * 4096, |offset| match offset {
        0..LEN => SECRET.at(offset),
        _ => OLD.at(offset),
    });
    report.equal("write_only_is_written", written, Ok(()));
    no_fault("write_only_write_is_allowed", report, &iommu);
    target.fill(OLD);
    done(report, edu.read_memory(start, LEN))?;
    let faults = drain(&iommu);
    done(report, edu.write_memory(view_at, LEN))?;
    if faults.is_empty() {
        let held = window.compare_part(0, LEN, |offset| OLD.at(offset));
        report.equal("write_only_read_is_exact", held, Ok(()));
        report.skip(
            "write_only_read_is_reported",
            format_args!("the device lets endpoints read write-only mappings"),
        );
    } else {
        let held = window.compare_part(0, LEN, |_| 0);
        report.equal("write_only_read_gets_zeros", held, Ok(()));
        let read = refusal(NO_MAPPING, start, Access::READ);
        report.equal("write_only_read_is_reported", read.compare(&faults), Ok(()));
    }
    drop(faults);

    // Over the edge of a mapping, where memory goes on.
    let edge = write_only.end().0 + 1;
    done(report, edu.write_memory(edge - 32, LEN))?;
    let beyond = target.compare_part(4096, 4096, |offset| OLD.at(offset));
    report.equal("memory_behind_a_mapping_is_untouched", beyond, Ok(()));
    let over = Refusal {
        len: 32,
        ..refusal(NO_MAPPING, edge, Access::WRITE)
    };
    over.check("access_over_the_edge_is_reported", report, &iommu);
    let below = Refusal {
        len: 4096,
        ..refusal(NO_MAPPING, start - 4096, Access::WRITE)
    };
    done(report, edu.write_memory(start - 4096, 4))?;
    below.check("access_below_a_mapping_is_reported", report, &iommu);

    drop(domain);
    shut_down(report, iommu, before)
}
