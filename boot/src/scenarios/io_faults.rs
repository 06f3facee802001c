//! Disks in trouble: a transfer whose middle is not mapped, a sector that cannot be read, queues
//! that are out of reach. All of it ends in bounded time; the disk is reset, and works again.

use alloc::format;
use alloc::vec::Vec;

use virtio_iommu::dma::{Bidirectional, FromDevice};
use virtio_iommu::{DomainOptions, Fault, FaultReason};

use super::dma_lab::{PAGE, Pages, back, compare, fill};
use super::io_lab::{
    SECTOR, SHELF_CHECKS, Shape, Shelf, State, WRITTEN, all_hold, done, holds, load_all, segments,
};
use crate::arch::Firmware;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::block::{BlockDevice, BlockError, Failed, Operation, Segment};
use crate::buffer::Pattern;
use crate::clock;
use crate::console::println;
use crate::refusal::{NO_DOMAIN, NO_MAPPING, drain, no_fault};
use crate::report::{Checked, Report};

/// What used to be mapped where a transfer finds nothing.
const THEIRS: Pattern = Pattern::Seed(0x10fa_0001);
/// Pages that are not there: more than QEMU puts up with in a virtio device.
const HOLE: usize = 4;
/// The sector that the host side makes unreadable.
const BAD: u64 = 200;
/// Trouble is over in this time, in nanoseconds; most of it is QEMU's, which reports a fault for
/// each word.
const BOUND: u64 = 5_000_000_000;

/// What QEMU's disks make of trouble.
struct Habits {
    /// How a transfer ends whose middle is not mapped.
    hole: Result<Result<(), Failed>, BlockError>,
    /// What is said of a sector that cannot be read.
    bad: Failed,
}

/// `blk-faults`.
pub fn blk(report: &mut Report, firmware: &Firmware) -> Checked {
    let habits = Habits {
        hole: Err(BlockError::NeedsReset),
        // VIRTIO_BLK_S_IOERR.
        bad: Failed(1),
    };
    run::<VirtioBlk>(report, firmware, &habits)
}

/// `nvme-faults`.
pub fn nvme(report: &mut Report, firmware: &Firmware) -> Checked {
    let habits = Habits {
        // QEMU drops what cannot be transferred, and does not tell: only the IOMMU does.
        hole: Ok(Ok(())),
        // Of the medium: Unrecovered Read Error.
        bad: Failed(0x281),
    };
    run::<Nvme>(report, firmware, &habits)
}

fn run<D: BlockDevice>(report: &mut Report, firmware: &Firmware, habits: &Habits) -> Checked {
    report.plan(SHELF_CHECKS + 2 * IN_THE_MIDDLE + UNREADABLE + OUT_OF_REACH + 2 + 1);
    let mut shelf = Shelf::<D>::open(report, firmware, DomainOptions::new(128))?;
    unreadable(report, &mut shelf, habits)?;
    let mut shelf = in_the_middle(report, shelf, Operation::Read, habits)?;
    let right = write_and_read(report, &mut shelf)?;
    report.that("the_disk_works_again", right);
    let shelf = in_the_middle(report, shelf, Operation::Write, habits)?;
    let mut shelf = out_of_reach(report, shelf)?;
    let right = write_and_read(report, &mut shelf)?;
    report.that("and_the_disk_still_works", right);
    no_fault("nothing_else_was_refused", report, &shelf.iommu);
    shelf.close(report)
}

/// Writes what the host side looks for, and reads it back.
fn write_and_read<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked<bool> {
    let Shelf { place, disk, .. } = shelf;
    let mut pages = Shape::Contiguous.pages(report, &place.device)?;
    load_all(&mut pages, 0, WRITTEN, State::Turned);
    let mapping = place.device.map::<Bidirectional, _>(pages);
    let mapping = report.need("map", mapping)?;
    let list = segments(report, mapping.segments())?;
    done(report, disk, Operation::Write, WRITTEN, &list)?;
    let blank = mapping.write(0, &[0; PAGE]);
    report.need("write", blank.then_some(()).ok_or("too short"))?;
    done(report, disk, Operation::Read, WRITTEN, &list)?;
    // SAFETY: the disk has said that it is done.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;
    Ok(all_hold(&pages, 0, WRITTEN, State::Turned))
}

const UNREADABLE: u32 = 2;

/// A sector that cannot be read is an answer like others.
fn unreadable<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    habits: &Habits,
) -> Checked {
    let Shelf { place, disk, .. } = shelf;
    let pages = place.device.alloc(3 * PAGE);
    let pages = report.need("memory", pages.ok_or("no memory left"))?;
    let mapping = report.need("map", place.device.map::<FromDevice, _>(pages))?;
    // Not neighbours: QEMU reads those in one go.
    let firsts = [BAD - 64, BAD, BAD + 64];
    let mut tickets = Vec::new();
    for (index, first) in firsts.into_iter().enumerate() {
        let address = mapping.device_addr().0 + (index * PAGE) as u64;
        let segment = Segment::new(address, PAGE as u32);
        let ticket = disk.offer(Operation::Read, first, PAGE / SECTOR, &[segment]);
        tickets.push(report.need("offer", ticket)?);
    }
    disk.submit();
    let mut failed = Vec::new();
    for _ in &firsts {
        let (ticket, result) = report.need("wait", disk.wait())?;
        let index = tickets.iter().position(|other| *other == ticket);
        failed.extend(result.err().map(|failed| (index, failed)));
    }
    report.equal(
        "a_bad_sector_is_an_error",
        failed,
        alloc::vec![(Some(1), habits.bad)],
    );
    // SAFETY: the disk has said that it is done with all of them.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;
    let right = |index: usize| {
        let page = &pages[index * PAGE..(index + 1) * PAGE];
        holds(page, 0, firsts[index], State::Fresh)
    };
    report.that("and_the_others_are_read", right(0) && right(2));
    Ok(())
}

const IN_THE_MIDDLE: u32 = 8;

/// A transfer whose middle is not mapped.
fn in_the_middle<D: BlockDevice>(
    report: &mut Report,
    mut shelf: Shelf<D>,
    operation: Operation,
    habits: &Habits,
) -> Checked<Shelf<D>> {
    const AT: u64 = WRITTEN;
    let name = |what: &str| match operation {
        Operation::Read => format!("read_{what}"),
        Operation::Write => format!("write_{what}"),
    };
    let Shelf {
        place, disk, iommu, ..
    } = &mut shelf;
    let device = &place.device;
    let mut ends = Vec::new();
    for _ in 0..2 {
        let page = Shape::Page.pages(report, device)?;
        ends.push(report.need("map", device.map::<Bidirectional, _>(page))?);
    }
    let stale = device.alloc(HOLE * PAGE);
    let stale = report.need("memory", stale.ok_or("no memory left"))?;
    let stale = report.need("map", device.map::<FromDevice, _>(stale))?;
    let hole = stale.device_addr().0;
    // SAFETY: the disk was never told of it.
    let mut stale: Pages = back(report, unsafe { stale.complete() }.unmap())?;
    fill(&mut stale, |offset| THEIRS.at(offset));

    let list = [
        Segment::new(ends[0].device_addr().0, PAGE as u32),
        Segment::new(hole, (HOLE * PAGE) as u32),
        Segment::new(ends[1].device_addr().0, PAGE as u32),
    ];
    let began = clock::now();
    let sectors = (2 + HOLE) * PAGE / SECTOR;
    let ticket = disk.offer(operation, AT, sectors, &list);
    let ticket = report.need("offer", ticket)?;
    disk.submit();
    let ended = disk
        .wait()
        .map(|(finished, done)| (finished == ticket).then_some(done));
    let took = clock::now() - began;
    report.equal(&name("ends"), ended, habits.hole.map(Some));
    println!("after {} us", took / 1000);
    report.that(&name("ends_in_time"), took < BOUND);
    let faults = drain(iommu);
    let fits = |fault: &Fault| {
        let offset = fault.address.and_then(|at| at.0.checked_sub(hole));
        fault.endpoint == place.endpoint
            && NO_MAPPING.contains(&fault.reason)
            && offset.is_some_and(|offset| offset < (HOLE * PAGE) as u64)
    };
    let odd = faults.iter().find(|fault| !fits(fault));
    report.equal(
        &name("is_reported_for_the_hole_alone"),
        (faults.is_empty(), odd),
        (false, None),
    );
    let untouched = compare(&stale, |offset| THEIRS.at(offset));
    report.equal(&name("leaves_what_was_there_alone"), untouched, Ok(()));
    // Whatever the disk says, it was not what it was told to do.
    drop(ends);
    report.equal(
        &name("is_given_up"),
        (place.domain().mapped(), place.domain().quarantined()),
        // The memory that the driver shares with the disk is.
        (1, 2),
    );
    drop(stale);
    restart(report, shelf, &name("is_followed_by_a_reset"), 2, || {
        name("ends_the_quarantine")
    })
    .and_then(|mut shelf| {
        let right = fresh(report, &mut shelf)?;
        report.that(&name("is_followed_by_others"), right);
        Ok(shelf)
    })
}

/// Whether something is read that nobody writes.
fn fresh<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked<bool> {
    const AT: u64 = 1024;
    let Shelf { place, disk, .. } = shelf;
    let pages = Shape::Scattered.pages(report, &place.device)?;
    let mapping = report.need("map", place.device.map::<FromDevice, _>(pages))?;
    let list = segments(report, mapping.segments())?;
    done(report, disk, Operation::Read, AT, &list)?;
    // SAFETY: the disk has said that it is done.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;
    Ok(all_hold(&pages, 0, AT, State::Fresh))
}

/// Resets the disk, ends the quarantine of `count` buffers, and opens the disk again: two checks.
fn restart<D: BlockDevice>(
    report: &mut Report,
    shelf: Shelf<D>,
    reset: &str,
    count: usize,
    released: impl FnOnce() -> alloc::string::String,
) -> Checked<Shelf<D>> {
    let (disk, parts) = shelf.into_parts();
    report.require(reset, disk.close())?;
    // SAFETY: the only endpoint was reset after the last mapping was given up, and confirmed it.
    let end = unsafe { parts.place.domain().release_quarantine() };
    report.equal(&released(), (end.released, end.kept), (count, 0));
    parts.reopen(report)
}

const OUT_OF_REACH: u32 = 5;

/// The disk loses its queues, because its endpoint is taken out of the domain.
fn out_of_reach<D: BlockDevice>(report: &mut Report, mut shelf: Shelf<D>) -> Checked<Shelf<D>> {
    let Shelf {
        place, disk, iommu, ..
    } = &mut shelf;
    let page = Shape::Page.pages(report, &place.device)?;
    let mapping = report.need("map", place.device.map::<FromDevice, _>(page))?;
    let list = segments(report, mapping.segments())?;
    report.need("detach", place.domain().detach(place.endpoint))?;
    let began = clock::now();
    let ticket = disk.offer(Operation::Read, 0, PAGE / SECTOR, &list);
    // Nobody will say that it is finished.
    let _ = report.need("offer", ticket)?;
    disk.submit();
    let ended = disk.wait().map(|(_, done)| done);
    println!("after {} us", (clock::now() - began) / 1000);
    report.equal(
        "without_queues_the_disk_gives_up",
        ended,
        Err(BlockError::NeedsReset),
    );
    let faults = drain(iommu);
    let fits =
        |fault: &Fault| fault.endpoint == place.endpoint && NO_DOMAIN.contains(&fault.reason);
    let odd: Option<FaultReason> = faults
        .iter()
        .find(|fault| !fits(fault))
        .map(|fault| fault.reason);
    report.equal("which_is_reported", (faults.is_empty(), odd), (false, None));
    drop(mapping);
    report.require(
        "it_is_attached_again",
        place.domain().attach(place.endpoint),
    )?;
    restart(report, shelf, "and_reset", 1, || "and_opened".into())
}
