//! Disks, with UNMAPs that are put off: buffers that recur take no request, others one.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use virtio_iommu::DomainOptions;
use virtio_iommu::dma::{Deferred, Direction, FromDevice, Mapping, ToDevice};

use super::dma_lab::{Cost, PAGE, Pages, back};
use super::io_lab::{
    SECTOR, SHELF_CHECKS, Shape, Shelf, State, WRITTEN, all_done, done, holds, load, load_all,
    segments,
};
use crate::arch::Firmware;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::block::{BlockDevice, Operation};
use crate::console::println;
use crate::platform::KernelPlatform;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

/// How many UNMAPs can be put off, and for how long: longer than this takes.
const ROOM: usize = 64;
const AGE: Duration = Duration::from_secs(60);
/// Requests at once.
const AT_ONCE: usize = 16;

/// `blk-deferred`.
pub fn blk(report: &mut Report, firmware: &Firmware) -> Checked {
    run::<VirtioBlk>(report, firmware)
}

/// `nvme-deferred`.
pub fn nvme(report: &mut Report, firmware: &Firmware) -> Checked {
    run::<Nvme>(report, firmware)
}

fn run<D: BlockDevice>(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(SHELF_CHECKS + 3 * RECURRING + MANY + NEW + 1);
    let options = DomainOptions::new(512).with_deferred(ROOM, AGE);
    let mut shelf = Shelf::<D>::open(report, firmware, options)?;
    for shape in Shape::ALL {
        recurring(report, &mut shelf, shape)?;
    }
    many(report, &mut shelf)?;
    new(report, &mut shelf)?;
    no_fault("nothing_was_refused", report, &shelf.iommu);
    shelf.close(report)
}

type Parked<W> = Deferred<Vec<Pages>, W, KernelPlatform>;

/// Has the disk use a buffer that waits for its UNMAP, and puts that off once more.
fn again<D: BlockDevice, W: Direction>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    parked: Parked<W>,
    operation: Operation,
    first: u64,
) -> Checked<Parked<W>> {
    let mapping = report.need("reuse", parked.reuse())?;
    once(report, shelf, mapping, operation, first)
}

/// Has the disk use a buffer, and puts its UNMAP off.
fn once<D: BlockDevice, W: Direction>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    mapping: Mapping<Vec<Pages>, W, KernelPlatform>,
    operation: Operation,
    first: u64,
) -> Checked<Parked<W>> {
    let list = segments(report, mapping.segments())?;
    done(report, &mut shelf.disk, operation, first, &list)?;
    // SAFETY: the disk has said that it is done.
    Ok(unsafe { mapping.complete() }.defer())
}

/// Whether a buffer has what is on the disk.
fn has(parked: &Parked<FromDevice>, shape: Shape, first: u64, state: State) -> bool {
    let mut copy = vec![0; shape.sectors() * SECTOR];
    parked.read(0, &mut copy) && holds(&copy, 0, first, state)
}

const RECURRING: u32 = 5;

/// Buffers that are used again and again.
fn recurring<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>, shape: Shape) -> Checked {
    const TIMES: u64 = 8;
    let name = |what: &str| format!("{}_{what}", shape.name());
    let step = shape.sectors() as u64;
    let pages = shape.pages(report, &shelf.place.device)?;
    let mapping = shelf.place.device.map::<FromDevice, _>(pages);
    let mapping = report.need("map", mapping)?;
    let mut parked = once(report, shelf, mapping, Operation::Read, 0)?;
    let mut right = u64::from(has(&parked, shape, 0, State::Fresh));
    let mut costs = Vec::new();
    for turn in 1..TIMES {
        let at = turn * step;
        let (result, cost) = Cost::measure(|| again(report, shelf, parked, Operation::Read, at));
        parked = result?;
        costs.push(cost);
        right += u64::from(has(&parked, shape, at, State::Fresh));
    }
    report.equal(&name("is_read_again_and_again"), right, TIMES);
    let free = costs.iter().all(|cost| *cost == Cost::NONE);
    report.equal(&name("for_no_request"), (free, costs.len()), (true, 7));

    let at = shape.place();
    let mut pages = shape.pages(report, &shelf.place.device)?;
    load_all(&mut pages, 0, at, State::Turned);
    let mapping = shelf.place.device.map::<ToDevice, _>(pages);
    let mapping = report.need("map", mapping)?;
    // First something else, so that the second time makes the difference.
    let mut data = vec![0; shape.sectors() * SECTOR];
    let changed = mapping.write(0, &data);
    let written = once(report, shelf, mapping, Operation::Write, at)?;
    load(&mut data, 0, at, State::Turned);
    let changed = changed && written.write(0, &data);
    let (written, cost) = Cost::measure(|| again(report, shelf, written, Operation::Write, at));
    let written = written?;
    report.equal(
        &name("is_changed_and_written_again"),
        (changed, cost),
        (true, Cost::NONE),
    );
    parked = again(report, shelf, parked, Operation::Read, at)?;
    let right = has(&parked, shape, at, State::Turned);
    report.that(&name("is_read_back"), right);
    let (ended, cost) = Cost::measure(|| (parked.reclaim(), written.reclaim()));
    back(report, ended.0)?;
    back(report, ended.1)?;
    // Neighbours share a request; which these are depends on what was free.
    report.that(
        &name("comes_back_for_two_requests_at_most"),
        (1..=2).contains(&cost.requests) && (1..=2).contains(&cost.kicks),
    );
    Ok(())
}

const MANY: u32 = 3;

/// Many requests at once, with buffers that recur.
fn many<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    const TURNS: usize = 4;
    let at = |index: usize| WRITTEN + (8 * index) as u64;
    let mut parked: Vec<Parked<ToDevice>> = Vec::new();
    for index in 0..AT_ONCE {
        let mut pages = Shape::Page.pages(report, &shelf.place.device)?;
        load_all(&mut pages, 0, at(index), State::Turned);
        let mapping = shelf.place.device.map::<ToDevice, _>(pages);
        let mapping = report.need("map", mapping)?;
        // SAFETY: the disk was never told of it.
        parked.push(unsafe { mapping.complete() }.defer());
    }
    let disk = &mut shelf.disk;
    let (result, cost) = Cost::measure(|| -> Checked {
        for _ in 0..TURNS {
            let mut mappings = Vec::new();
            for (index, one) in parked.drain(..).enumerate() {
                let mapping = report.need("reuse", one.reuse())?;
                let list = segments(report, mapping.segments())?;
                let ticket = disk.offer(Operation::Write, at(index), PAGE / SECTOR, &list);
                // It is answered below with all others.
                let _ = report.need("offer", ticket)?;
                mappings.push(mapping);
            }
            disk.submit();
            all_done(report, disk, AT_ONCE)?;
            for mapping in mappings {
                // SAFETY: the disk has said that it is done with all of them.
                parked.push(unsafe { mapping.complete() }.defer());
            }
        }
        Ok(())
    });
    result?;
    report.equal("many_at_once_take_no_request", cost, Cost::NONE);
    let (flushed, cost) = Cost::measure(|| shelf.place.domain().flush());
    report.need("flush", flushed)?;
    println!("{AT_ONCE} buffers: {cost:?} to unmap them");
    report.that("one_notification_unmaps_all", cost.kicks == 1);
    let count = parked.len();
    for one in parked {
        back(report, one.reclaim())?;
    }
    report.equal("all_come_back", count, AT_ONCE);
    Ok(())
}

const NEW: u32 = 3;

/// Buffers that never recur: a request to map each, and few to unmap all.
fn new<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>) -> Checked {
    const READS: usize = 2 * ROOM;
    /// 1.05 notifications for each.
    const KICKS: u64 = (READS + READS / 20) as u64;
    let mut right = 0;
    let mut total = Cost::NONE;
    for turn in 0..READS {
        let at = (8 * turn) as u64;
        let pages = Shape::Page.pages(report, &shelf.place.device)?;
        let (parked, cost) = Cost::measure(|| {
            let mapping = shelf.place.device.map::<FromDevice, _>(pages);
            let mapping = report.need("map", mapping)?;
            once(report, shelf, mapping, Operation::Read, at)
        });
        let parked = parked?;
        total.requests += cost.requests;
        total.kicks += cost.kicks;
        right += usize::from(has(&parked, Shape::Page, at, State::Fresh));
        // The domain has it now, and frees it when it is unmapped.
    }
    report.equal("new_buffers_are_read", right, READS);
    let (flushed, cost) = Cost::measure(|| shelf.place.domain().flush());
    report.need("flush", flushed)?;
    total.requests += cost.requests;
    total.kicks += cost.kicks;
    println!("{READS} new buffers: {total:?}");
    report.that(
        "for_little_more_than_one_notification",
        total.kicks <= KICKS,
    );
    report.that(
        "and_one_request_to_map_each",
        total.requests >= READS && total.requests <= 2 * READS,
    );
    Ok(())
}
