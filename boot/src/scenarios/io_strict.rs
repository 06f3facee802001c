//! Disks, with a mapping for each transfer: what arrives, and what it costs.

use alloc::format;
use alloc::vec::Vec;

use virtio_iommu::DomainOptions;
use virtio_iommu::dma::{FromDevice, Mapping, ToDevice};

use super::dma_lab::{Cost, PAGE, Pages, back};
use super::io_lab::{
    SECTOR, SECTORS, SHELF_CHECKS, Shape, Shelf, State, WRITTEN, WRITTEN_SECTORS, all_done,
    all_hold, done, holds, load_all, segments,
};
use super::lab::hold;
use super::watch;
use crate::arch::Firmware;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::block::{BlockDevice, BlockError, Operation, Segment};
use crate::console::println;
use crate::interrupts::counters;
use crate::platform::KernelPlatform;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

/// `blk-strict`.
pub fn blk(report: &mut Report, firmware: &Firmware) -> Checked {
    run::<VirtioBlk>(report, firmware)
}

/// `nvme-strict`.
pub fn nvme(report: &mut Report, firmware: &Firmware) -> Checked {
    run::<Nvme>(report, firmware)
}

fn run<D: BlockDevice>(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(
        SHELF_CHECKS
            + 3 * SHAPE
            + IN_PIECES
            + EXCHANGED
            + MANY
            + FULL
            + NONSENSE
            + ASLEEP
            + REST
            + 1,
    );
    // Not later: the controller keeps its memory.
    watch::start(report, firmware)?;
    let mut shelf = Shelf::<D>::open(report, firmware, DomainOptions::new(128))?;
    for shape in Shape::ALL {
        one_by_one(report, &mut shelf, shape)?;
    }
    in_pieces(report, &mut shelf)?;
    exchanged(report, &mut shelf)?;
    many(report, &mut shelf)?;
    full(report, &mut shelf)?;
    nonsense(report, &mut shelf)?;
    asleep(report, &mut shelf, firmware)?;
    rest(report, &mut shelf)?;
    no_fault("nothing_was_refused", report, &shelf.iommu);
    shelf.close(report)
}

const SHAPE: u32 = 5;

/// Reads and writes, one at a time.
fn one_by_one<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>, shape: Shape) -> Checked {
    let Shelf { place, disk, .. } = shelf;
    let name = |what: &str| format!("{}_{what}", shape.name());
    // One for each run, and one to unmap them all.
    let wanted = Cost::of(shape.runs() + 1, 2);
    let at = shape.place();

    let pages = shape.pages(report, &place.device)?;
    let (mapping, begun) = Cost::measure(|| place.device.map::<FromDevice, _>(pages));
    let mapping = report.need("map", mapping)?;
    let list = segments(report, mapping.segments())?;
    done(report, disk, Operation::Read, at, &list)?;
    // SAFETY: the disk has said that it is done.
    let completed = unsafe { mapping.complete() };
    let (pages, ended) = Cost::measure(|| completed.unmap());
    let mut pages = back(report, pages)?;
    report.that(&name("is_read"), all_hold(&pages, 0, at, State::Fresh));
    report.equal(&name("is_read_for"), sum(begun, ended), wanted);

    load_all(&mut pages, 0, at, State::Turned);
    let (mapping, begun) = Cost::measure(|| place.device.map::<ToDevice, _>(pages));
    let mapping = report.need("map", mapping)?;
    let list = segments(report, mapping.segments())?;
    done(report, disk, Operation::Write, at, &list)?;
    // SAFETY: the disk has said that it is done.
    let completed = unsafe { mapping.complete() };
    let (pages, ended) = Cost::measure(|| completed.unmap());
    let mut pages = back(report, pages)?;
    report.equal(&name("is_written_for"), sum(begun, ended), wanted);
    report.that(
        &name("that_was_written_is_untouched"),
        all_hold(&pages, 0, at, State::Turned),
    );

    load_all(&mut pages, 0, at, State::Fresh);
    let pages = read(report, shelf, at, pages)?;
    report.that(
        &name("is_read_back"),
        all_hold(&pages, 0, at, State::Turned),
    );
    Ok(())
}

fn sum(begun: Cost, ended: Cost) -> Cost {
    Cost::of(begun.requests + ended.requests, begun.kicks + ended.kicks)
}

/// Reads into pages.
fn read<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    first: u64,
    pages: Vec<Pages>,
) -> Checked<Vec<Pages>> {
    let mapping = shelf.place.device.map::<FromDevice, _>(pages);
    let mapping = report.need("map", mapping)?;
    let list = segments(report, mapping.segments())?;
    done(report, &mut shelf.disk, Operation::Read, first, &list)?;
    // SAFETY: the disk has said that it is done.
    back(report, unsafe { mapping.complete() }.unmap())
}

const IN_PIECES: u32 = 2;

/// 32 segments, none of which is next to another for the disk either.
fn in_pieces<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    const AT: u64 = 1000;
    let Shelf { place, disk, .. } = shelf;
    let pages = Shape::Scattered.pages(report, &place.device)?;
    let mapping = place.device.map_apart::<FromDevice, _>(pages);
    let mapping = report.need("map", mapping)?;
    let list = segments(report, mapping.segments())?;
    report.equal("segments_with_holes_between_them", list.len(), 32);
    done(report, disk, Operation::Read, AT, &list)?;
    // SAFETY: the disk has said that it is done.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;
    report.that("are_read", all_hold(&pages, 0, AT, State::Fresh));
    Ok(())
}

const EXCHANGED: u32 = 2;

/// The end of a transfer and the beginning of the next with one notification.
fn exchanged<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    const TIMES: usize = 16;
    let Shelf { place, disk, .. } = shelf;
    let page = |report: &mut Report| {
        let mut pages = Shape::Page.pages(report, &place.device)?;
        report.need("memory", pages.pop().ok_or("no page"))
    };
    let first = page(report)?;
    let mut spare = page(report)?;
    let mut mapping: Mapping<Pages, FromDevice, KernelPlatform> =
        report.need("map", place.device.map(first))?;
    let mut right = 0;
    let mut cost = Cost::NONE;
    for turn in 0..TIMES {
        let at = (24 * turn) as u64;
        let list = segments(report, mapping.segments())?;
        done(report, disk, Operation::Read, at, &list)?;
        // SAFETY: the disk has said that it is done.
        let completed = unsafe { mapping.complete() };
        let (result, one) = Cost::measure(|| place.device.exchange(completed, spare));
        spare = back(report, result.unmapped)?;
        mapping = report.need("map", result.mapped)?;
        right += usize::from(holds(&spare, 0, at, State::Fresh));
        cost = sum(cost, one);
    }
    // SAFETY: the disk was never told of the last one.
    back(report, unsafe { mapping.complete() }.unmap())?;
    report.equal("pages_are_exchanged", right, TIMES);
    report.equal(
        "for_one_notification_each",
        cost,
        Cost::of(2 * TIMES, TIMES as u64),
    );
    Ok(())
}

/// Requests at once.
const AT_ONCE: usize = 16;
const MANY: u32 = 4;

/// Many requests at once, in whatever order they are done.
fn many<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    // The first page was written before.
    let at = |index: usize| WRITTEN + (8 * (index % AT_ONCE)) as u64;
    let mut pages = Vec::new();
    for index in 0..AT_ONCE {
        let mut page = Shape::Page.pages(report, &shelf.place.device)?;
        load_all(&mut page, 0, at(index), State::Turned);
        pages.push(page);
    }

    let Shelf { place, disk, .. } = shelf;
    let mut mappings = Vec::new();
    let mut tickets = Vec::new();
    let mut cost = Cost::NONE;
    for (index, page) in pages.into_iter().enumerate() {
        let (mapping, one) = Cost::measure(|| place.device.map::<ToDevice, _>(page));
        let mapping = report.need("map", mapping)?;
        cost = sum(cost, one);
        let list = segments(report, mapping.segments())?;
        let ticket = disk.offer(Operation::Write, at(index), PAGE / SECTOR, &list);
        tickets.push(report.need("offer", ticket)?);
        mappings.push(mapping);
    }
    disk.submit();
    hold(report, "polled")?;
    let order = all_done(report, disk, AT_ONCE)?;
    let answered = tickets
        .iter()
        .all(|ticket| order.iter().filter(|(other, _)| other == ticket).count() == 1);
    report.that("each_of_many_writes_is_answered_once", answered);
    let mut pages = Vec::new();
    for mapping in mappings {
        // SAFETY: the disk has said that it is done with all of them.
        let completed = unsafe { mapping.complete() };
        let (page, one) = Cost::measure(|| completed.unmap());
        pages.push(back(report, page)?);
        cost = sum(cost, one);
    }
    let each = Cost::of(2 * AT_ONCE, 2 * AT_ONCE as u64);
    report.equal("for_two_requests_each", cost, each);

    let mut mappings = Vec::new();
    let mut indices = [None; 64];
    for (index, mut page) in pages.into_iter().enumerate() {
        load_all(&mut page, 0, at(index), State::Fresh);
        let mapping = place.device.map::<FromDevice, _>(page);
        let mapping = report.need("map", mapping)?;
        let list = segments(report, mapping.segments())?;
        let ticket = disk.offer(Operation::Read, at(index), PAGE / SECTOR, &list);
        let ticket = report.need("offer", ticket)?;
        indices[ticket.number()] = Some(index);
        mappings.push(Some(mapping));
        // The first half is under way while the rest is made.
        if index == AT_ONCE / 2 {
            disk.submit();
        }
    }
    disk.submit();
    let mut right = 0;
    for _ in 0..AT_ONCE {
        let (ticket, result) = report.need("wait", disk.wait())?;
        report.need("read", result)?;
        let index = indices[ticket.number()].take();
        let index = report.need("answer", index.ok_or("answered before"))?;
        let mapping = mappings[index].take();
        let mapping = report.need("answer", mapping.ok_or("answered before"))?;
        // SAFETY: the disk has said that it is done with this one.
        let page = back(report, unsafe { mapping.complete() }.unmap())?;
        right += usize::from(all_hold(&page, 0, at(index), State::Turned));
    }
    report.equal("all_are_read_back_in_any_order", right, AT_ONCE);
    let more = report.need("poll", disk.poll())?;
    report.equal("and_nothing_else_is_answered", more, None);
    Ok(())
}

const FULL: u32 = 3;

/// As many requests as there can be.
fn full<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    const AT: u64 = 333;
    let Shelf { place, disk, .. } = shelf;
    let depth = disk.depth();
    let pages = place.device.alloc(depth * SECTOR);
    let pages = report.need("memory", pages.ok_or("no memory left"))?;
    let mapping = report.need("map", place.device.map::<FromDevice, _>(pages))?;
    let base = mapping.device_addr().0;
    let sector = |number: usize| Segment::new(base + (SECTOR * number) as u64, SECTOR as u32);
    for number in 0..depth {
        let first = AT + number as u64;
        let ticket = disk.offer(Operation::Read, first, 1, &[sector(number)]);
        // It is answered below with all others.
        let _ = report.need("offer", ticket)?;
    }
    report.that("sixteen_or_more_at_once", depth >= 16);
    let ticket = disk.offer(Operation::Read, AT, 1, &[sector(0)]);
    report.equal("and_no_more_than_it_says", ticket, Err(BlockError::Full));
    disk.submit();
    all_done(report, disk, depth)?;
    // SAFETY: the disk has said that it is done with all of them.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;
    let right = holds(&pages[..depth * SECTOR], 0, AT, State::Fresh);
    report.that("all_are_read", right);
    Ok(())
}

const NONSENSE: u32 = 1;

/// What makes no sense never reaches the disk.
fn nonsense<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    let disk = &mut shelf.disk;
    let one = Segment::new(0x1000, SECTOR as u32);
    let many = alloc::vec![one; disk.max_segments() + 1];
    let mut refused = 0;
    for (first, blocks, list) in [
        (0, 1, &[][..]),
        (0, 0, &[][..]),
        (0, 2, &[one][..]),
        (0, 1, &[one, one][..]),
        (SECTORS, 1, &[one][..]),
        (u64::MAX, 1, &[one][..]),
        (0, usize::MAX, &[one][..]),
        (0, 1, &[Segment::new(u64::MAX, SECTOR as u32)][..]),
        (0, 1, &[one, Segment::new(0x2000, 0)][..]),
        (0, many.len(), &many[..]),
    ] {
        let ticket = disk.offer(Operation::Read, first, blocks, list);
        refused += u32::from(ticket == Err(BlockError::Request));
    }
    disk.submit();
    let answer = report.need("poll", disk.poll())?;
    report.equal("nonsense_is_refused", (refused, answer), (10, None));
    Ok(())
}

const ASLEEP: u32 = 4;

/// The CPU is stopped until the disk interrupts.
fn asleep<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    firmware: &Firmware,
) -> Checked {
    /// The disk may be faster than the sleep, now and then.
    const ROUNDS: usize = 100;
    const INTERRUPTS: u64 = 4;
    /// Reads at once: enough work for a while.
    const READS: usize = 8;
    const EACH: usize = Shape::Contiguous.sectors();
    let function = shelf.place.function.address.function;
    let line = shelf.lab.machine.line(firmware, function);
    let line = report.require("interrupt_of_the_disk_is_routed", line)?;
    report.need("handler", shelf.disk.wake_on(line))?;
    let Shelf { place, disk, .. } = shelf;
    let mut list = Vec::new();
    for _ in 0..READS {
        list.extend(Shape::Contiguous.pages(report, &place.device)?);
    }
    let mapping = report.need("map", place.device.map::<FromDevice, _>(list))?;
    let mut rounds = 0;
    while rounds < ROUNDS && counters().taken < INTERRUPTS {
        for number in 0..READS {
            let offset = EACH * number;
            let address = mapping.device_addr().0 + (offset * SECTOR) as u64;
            let segment = Segment::new(address, (EACH * SECTOR) as u32);
            let ticket = disk.offer(Operation::Read, offset as u64, EACH, &[segment]);
            // It is answered below with all others.
            let _ = report.need("offer", ticket)?;
        }
        disk.submit();
        all_done(report, disk, READS)?;
        rounds += 1;
    }
    println!("{:?} in {rounds} rounds", counters());
    report.that("the_disk_wakes_the_cpu", counters().taken >= INTERRUPTS);
    // SAFETY: the disk has said that it is done with all of them.
    let list = back(report, unsafe { mapping.complete() }.unmap())?;
    report.that("when_it_is_done", all_hold(&list, 0, 0, State::Fresh));
    Ok(())
}

const REST: u32 = 2;

/// All that was written, and what is before it.
fn rest<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    let untouched = read_all(report, shelf, WRITTEN - 8, 8)?;
    report.that(
        "sectors_before_are_untouched",
        holds(&untouched, 0, WRITTEN - 8, State::Fresh),
    );
    let all = read_all(report, shelf, WRITTEN, WRITTEN_SECTORS as usize)?;
    report.that(
        "all_that_was_written_is_there",
        holds(&all, 0, WRITTEN, State::Turned),
    );
    Ok(())
}

/// Reads sectors one page after the other.
fn read_all<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    first: u64,
    sectors: usize,
) -> Checked<Vec<u8>> {
    let mut all = Vec::new();
    let mut pages = Shape::Page.pages(report, &shelf.place.device)?;
    for offset in (0..sectors).step_by(PAGE / SECTOR) {
        pages = read(report, shelf, first + offset as u64, pages)?;
        pages.iter().for_each(|page| all.extend_from_slice(page));
    }
    all.truncate(sectors * SECTOR);
    Ok(all)
}
