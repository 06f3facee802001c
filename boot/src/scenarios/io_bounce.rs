//! Disks that see pools and nothing else: a copy for each transfer, and no request.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use virtio_iommu::DomainOptions;
use virtio_iommu::dma::{Bounce, BounceError, BounceOptions};

use super::dma_lab::{Cost, PAGE};
use super::io_lab::{
    SECTOR, SHELF_CHECKS, Shape, Shelf, State, WRITTEN, all_done, done, holds, load, segments,
};
use crate::arch::Firmware;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::block::{BlockDevice, Operation};
use crate::platform::KernelPlatform;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

/// The size of each pool, in bytes.
const POOL: usize = 256 << 10;
/// Requests at once.
const AT_ONCE: usize = 16;

/// `blk-bounce`.
pub fn blk(report: &mut Report, firmware: &Firmware) -> Checked {
    run::<VirtioBlk>(report, firmware)
}

/// `nvme-bounce`.
pub fn nvme(report: &mut Report, firmware: &Firmware) -> Checked {
    run::<Nvme>(report, firmware)
}

fn run<D: BlockDevice>(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(SHELF_CHECKS + 1 + 3 * ONE + ODD + MANY + 1 + 2);
    let mut shelf = Shelf::<D>::open(report, firmware, DomainOptions::new(16))?;
    let options = BounceOptions::default().with_pools(POOL, POOL);
    let (pools, cost) = Cost::measure(|| Bounce::new(&shelf.place.device, options));
    let pools = report.need("pools", pools)?;
    report.equal("pools_take_a_request_each", cost, Cost::of(2, 2));
    for shape in Shape::ALL {
        // All lie in the pools in the same way; each has a place of its own on the disk.
        one(report, &mut shelf, &pools, shape)?;
    }
    odd(report, &mut shelf, &pools)?;
    many(report, &mut shelf, &pools)?;
    let (place, cost) = Cost::measure(|| pools.from_device(POOL + 1));
    report.equal(
        "more_than_a_pool_is_refused_before_anything_is_exposed",
        (place.err(), cost),
        (Some(BounceError::Length), Cost::NONE),
    );
    no_fault("nothing_was_refused", report, &shelf.iommu);
    // SAFETY: every transfer has ended.
    let closed = unsafe { pools.close() };
    report.that("pools_are_closed", closed.is_ok());
    shelf.close(report)
}

type Pools = Bounce<KernelPlatform>;

/// What a read copies out of the pool.
fn read<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    pools: &Pools,
    first: u64,
    bytes: usize,
) -> Checked<Vec<u8>> {
    let place = report.need("from_device", pools.from_device(bytes))?;
    let list = segments(report, place.segments())?;
    done(report, &mut shelf.disk, Operation::Read, first, &list)?;
    let mut copy = vec![0; bytes];
    let copied = place.finish_into(&mut copy);
    report.need("copy", copied.then_some(copy).ok_or("too short"))
}

/// Writes what is copied into the pool.
fn write<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    pools: &Pools,
    first: u64,
    bytes: &[u8],
) -> Checked {
    let place = report.need("to_device", pools.to_device(bytes))?;
    let list = segments(report, place.segments())?;
    done(report, &mut shelf.disk, Operation::Write, first, &list)?;
    place.finish();
    Ok(())
}

const ONE: u32 = 3;

/// Reads and writes, one at a time.
fn one<D: BlockDevice>(
    report: &mut Report,
    shelf: &mut Shelf<D>,
    pools: &Pools,
    shape: Shape,
) -> Checked {
    let name = |what: &str| format!("{}_{what}", shape.name());
    let (at, bytes) = (shape.place(), shape.sectors() * SECTOR);
    let (seen, reading) = Cost::measure(|| read(report, shelf, pools, at, bytes));
    let mut data = seen?;
    report.that(&name("is_read"), holds(&data, 0, at, State::Fresh));
    load(&mut data, 0, at, State::Turned);
    let (written, writing) = Cost::measure(|| write(report, shelf, pools, at, &data));
    written?;
    report.equal(
        &name("is_read_and_written_for_no_request"),
        (reading, writing),
        (Cost::NONE, Cost::NONE),
    );
    let seen = read(report, shelf, pools, at, bytes)?;
    report.that(&name("is_read_back"), holds(&seen, 0, at, State::Turned));
    Ok(())
}

const ODD: u32 = 2;

/// Data that begins in the middle of a page, and takes one page more.
fn odd<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>, pools: &Pools) -> Checked {
    const AT: u64 = 256;
    let bytes = Shape::Contiguous.sectors() * SECTOR;
    let nudge = report.need("from_device", pools.from_device(64))?;
    let place = report.need("from_device", pools.from_device(bytes))?;
    let list = segments(report, place.segments())?;
    let start = place.device_addr().0 % PAGE as u64;
    report.that("data_begins_in_the_middle_of_a_page", start != 0);
    done(report, &mut shelf.disk, Operation::Read, AT, &list)?;
    let mut copy = vec![0; bytes];
    let copied = place.finish_into(&mut copy);
    report.that("and_is_read", copied && holds(&copy, 0, AT, State::Fresh));
    nudge.finish();
    Ok(())
}

const MANY: u32 = 2;

/// Many requests at once, in whatever order they are done.
fn many<D: BlockDevice>(report: &mut Report, shelf: &mut Shelf<D>, pools: &Pools) -> Checked {
    let at = |index: usize| WRITTEN + (8 * index) as u64;
    let disk = &mut shelf.disk;
    let (written, cost) = Cost::measure(|| -> Checked {
        let mut places = Vec::new();
        for index in 0..AT_ONCE {
            let mut data = vec![0; PAGE];
            load(&mut data, 0, at(index), State::Turned);
            let place = report.need("to_device", pools.to_device(&data))?;
            let list = segments(report, place.segments())?;
            let ticket = disk.offer(Operation::Write, at(index), PAGE / SECTOR, &list);
            // It is answered below with all others.
            let _ = report.need("offer", ticket)?;
            places.push(place);
        }
        disk.submit();
        all_done(report, disk, AT_ONCE)?;
        places.into_iter().for_each(|place| place.finish());
        Ok(())
    });
    written?;
    report.equal("many_writes_take_no_request", cost, Cost::NONE);

    let mut places: Vec<_> = Vec::new();
    let mut indices = [None; 64];
    for index in 0..AT_ONCE {
        let place = report.need("from_device", pools.from_device(PAGE))?;
        let list = segments(report, place.segments())?;
        let ticket = disk.offer(Operation::Read, at(index), PAGE / SECTOR, &list);
        let ticket = report.need("offer", ticket)?;
        indices[ticket.number()] = Some(index);
        places.push(Some(place));
    }
    disk.submit();
    let mut right = 0;
    for _ in 0..AT_ONCE {
        let (ticket, result) = report.need("wait", disk.wait())?;
        report.need("read", result)?;
        let index = indices[ticket.number()].take();
        let index = report.need("answer", index.ok_or("answered before"))?;
        let place = places[index].take();
        let place = report.need("answer", place.ok_or("answered before"))?;
        let mut copy = vec![0; PAGE];
        let copied = place.finish_into(&mut copy);
        right += usize::from(copied && holds(&copy, 0, at(index), State::Turned));
    }
    report.equal("all_are_read_back_in_any_order", right, AT_ONCE);
    Ok(())
}
