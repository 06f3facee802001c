//! Pools that a device sees, and nothing but the pools.

use alloc::vec::Vec;

use virtio_iommu::dma::{Bounce, BounceError, BounceOptions, Transfer};
use virtio_iommu::{Access, DomainOptions, Iova};

use super::dma_lab::{BENCH_CHECKS, Bench, Cost, PAGE, Pages, bytes_of, compare, peek, phys};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::platform::{self, KernelPlatform};
use crate::refusal::{drain, no_fault};
use crate::report::{Checked, Report};

const OLD: Pattern = Pattern::Seed(0xb07c_0001);
const NEW: Pattern = Pattern::Seed(0xb07c_0002);

/// The pools, in pages: what the device can read, and what it can write.
const POOLS: [usize; 2] = [2, 2];
/// Transfers at once, in each direction.
const TRANSFERS: usize = 4;

/// `dma-bounce`: transfers through pools, what is around the pools, and what happens when they
/// are full.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(3 + TRANSFER + BORDERS + EXHAUSTION + QUARANTINE + 1 + BENCH_CHECKS);
    let mut bench = Bench::open(report, firmware, DomainOptions::new(16))?;
    let pages = platform::live_pages();
    let options = BounceOptions::default()
        .with_pools(POOLS[0] * PAGE, POOLS[1] * PAGE)
        .with_transfers(TRANSFERS);
    let (pools, cost) = Cost::measure(|| Bounce::new(&bench.device, options));
    let pools = report.require("pools_are_mapped", pools)?;
    report.equal("with_a_request_for_each", cost, Cost::of(2, 2));
    report.equal(
        "each_has_a_guard_in_front",
        platform::live_pages() - pages,
        POOLS[0] + POOLS[1] + 2,
    );
    transfer(report, &mut bench, &pools)?;
    borders(report, &mut bench, &pools)?;
    exhaustion(report, &mut bench, &pools)?;
    quarantine(report, &mut bench, &pools)?;
    // SAFETY: every transfer has ended.
    let closed = unsafe { pools.close() };
    report.that("pools_are_closed", closed.is_ok());
    bench.close(report)
}

const TRANSFER: u32 = 5;

fn transfer(report: &mut Report, bench: &mut Bench, pools: &Bounce<KernelPlatform>) -> Checked {
    const LEN: usize = 100;
    let data = bytes_of(NEW, 0, LEN);
    let (place, cost) = Cost::measure(|| pools.to_device(&data));
    let place = report.need("to_device", place)?;
    let at = place.device_addr().0;
    let seen = bench.read(report, at, LEN)?;
    report.equal(
        "edu_reads_a_copy_that_took_no_request",
        (compare(&seen, |i| NEW.at(i)), cost),
        (Ok(()), Cost::NONE),
    );
    bench.refuse_write("edu_cannot_change_it", report, at, &[1; 8])?;
    let ((), cost) = Cost::measure(|| place.finish());
    report.equal("the_end_takes_no_request", cost, Cost::NONE);

    let (place, begun) = Cost::measure(|| pools.from_device(LEN));
    let place = report.need("from_device", place)?;
    bench.write(report, place.device_addr().0, &bytes_of(OLD, 0, LEN))?;
    let mut copy = [0; LEN];
    let (copied, ended) = Cost::measure(|| place.finish_into(&mut copy));
    report.equal(
        "a_copy_of_what_edu_wrote_takes_no_request",
        (copied, compare(&copy, |i| OLD.at(i)), begun, ended),
        (true, Ok(()), Cost::NONE, Cost::NONE),
    );
    no_fault("nothing_was_refused", report, &bench.iommu);
    Ok(())
}

const BORDERS: u32 = 9;

/// Nothing outside of the pools is reachable, to the byte.
fn borders(report: &mut Report, bench: &mut Bench, pools: &Bounce<KernelPlatform>) -> Checked {
    let domain = bench.domain();
    // The first place of a pool that nobody uses is anywhere in it: the ledger knows where it is.
    let to_device = report.need("to_device", pools.to_device(&[1]))?;
    let from_device = report.need("from_device", pools.from_device(1))?;
    let [readable, writable] = [to_device.device_addr(), from_device.device_addr()].map(|inside| {
        let mut first = inside.0 & !(PAGE as u64 - 1);
        while domain.translate(Iova(first - 1)).is_some() {
            first -= PAGE as u64;
        }
        first
    });
    to_device.finish();
    from_device.finish();
    let after = |first: u64, pages: usize| first + (pages * PAGE) as u64;

    let past = after(readable, POOLS[0]);
    bench.refuse_read("the_byte_behind_is_not_readable", report, past, 1)?;
    let past = after(writable, POOLS[1]);
    bench.refuse_write("the_byte_behind_is_not_writable", report, past, &[1])?;
    bench.refuse_read(
        "the_second_byte_in_front_is_not_readable",
        report,
        readable - 2,
        1,
    )?;
    bench.refuse_write(
        "the_second_byte_in_front_is_not_writable",
        report,
        writable - 2,
        &[1],
    )?;

    // The byte in front: refused, or QEMU takes it for that of the guard.
    let guard = |first: u64| {
        domain
            .translate(Iova(first))
            .map(|(phys, _)| phys.0 - PAGE as u64)
    };
    let guards = guard(readable).zip(guard(writable));
    let (read_guard, write_guard) = report.need("guards", guards.ok_or("no pool"))?;
    // Enough of all other memory to be given a guard, if one could be.
    let mut others: Vec<Pages> = Vec::new();
    let content = bytes_of(OLD, 0, PAGE);
    while others.len() < 1024
        && let Some(mut page) = bench.device.alloc(PAGE)
    {
        page.copy_from_slice(&content);
        others.push(page);
    }
    let seen = bench.read(report, readable - 1, 1)?;
    report.equal("the_byte_in_front_is_zero", seen, [0]);
    let refusal = bench.refusal(Access::READ, readable - 1, 1);
    let faults = drain(&bench.iommu);
    report.that(
        "refused_or_of_the_guard",
        faults.is_empty() || refusal.compare(&faults).is_ok(),
    );
    bench.write(report, writable - 1, &[0x99])?;
    let faults = drain(&bench.iommu);
    let refused = !faults.is_empty();
    let refusal = bench.refusal(Access::WRITE, writable - 1, 1);
    report.that(
        "a_write_is_refused_or_goes_to_the_guard",
        match refused {
            true => refusal.compare(&faults).is_ok(),
            false => peek(write_guard, PAGE).last() == Some(&0x99),
        },
    );
    let guards = [read_guard, write_guard];
    report.that(
        "nobody_else_gets_the_guards",
        others.iter().all(|page| !guards.contains(&phys(page))),
    );
    let intact = others
        .iter()
        .all(|page| compare(page, |i| OLD.at(i)).is_ok());
    report.that(
        "all_other_memory_is_untouched",
        intact && !others.is_empty(),
    );
    Ok(())
}

const EXHAUSTION: u32 = 8;

fn exhaustion(report: &mut Report, bench: &mut Bench, pools: &Bounce<KernelPlatform>) -> Checked {
    let mut places = Vec::new();
    for _ in 0..TRANSFERS {
        places.push(report.need("to_device", pools.to_device(&[1; 64]))?);
    }
    let (full, cost) = Cost::measure(|| pools.to_device(&[1]));
    report.equal(
        "a_full_pool_says_so",
        full.err(),
        Some(BounceError::Exhausted),
    );
    report.equal("at_no_cost", cost, Cost::NONE);
    let large = pools.from_device(POOLS[1] * PAGE + 1);
    report.equal(
        "so_does_a_small_one",
        large.err(),
        Some(BounceError::Length),
    );

    let data = bytes_of(NEW, 0, PAGE);
    let (transfer, cost) = Cost::measure(|| pools.to_device_or_map(&data));
    let transfer = report.need("to_device_or_map", transfer)?;
    report.equal(
        "pages_of_its_own_are_the_way_out",
        (matches!(transfer, Transfer::Mapped(_)), cost),
        (true, Cost::of(1, 1)),
    );
    let seen = bench.read(report, transfer.device_addr().0, PAGE)?;
    report.equal("edu_reads_them", compare(&seen, |i| NEW.at(i)), Ok(()));
    // SAFETY: the transfer has ended.
    let ended = unsafe { transfer.finish() };
    report.require("and_is_done", ended)?;
    places.into_iter().for_each(|place| place.finish());
    let (transfer, cost) = Cost::measure(|| pools.to_device_or_map(&data));
    let transfer = report.need("to_device_or_map", transfer)?;
    report.equal(
        "with_room_the_pool_is_used",
        (matches!(transfer, Transfer::Bounced(_)), cost),
        (true, Cost::NONE),
    );
    // SAFETY: no transfer was begun.
    report.need("finish", unsafe { transfer.finish() })?;
    no_fault("nothing_was_refused", report, &bench.iommu);
    Ok(())
}

const QUARANTINE: u32 = 6;

/// A transfer whose driver gave up.
fn quarantine(report: &mut Report, bench: &mut Bench, pools: &Bounce<KernelPlatform>) -> Checked {
    let lost = report.need("from_device", pools.from_device(64))?;
    let at = lost.device_addr();
    let ((), cost) = Cost::measure(|| drop(lost));
    report.equal(
        "a_place_is_quarantined",
        (pools.quarantined(), cost),
        (1, Cost::NONE),
    );
    // Late data goes to a place that nobody is given.
    let mut places = Vec::new();
    while let Ok(place) = pools.from_device(64) {
        places.push(place);
    }
    report.equal("the_others_are_left", places.len(), TRANSFERS - 1);
    report.that(
        "nobody_gets_that_place",
        places.iter().all(|place| place.device_addr() != at),
    );
    let mut before = [[0; 64]; TRANSFERS];
    for (place, before) in places.iter().zip(&mut before) {
        report.need("read", place.read(0, before).then_some(()).ok_or(64))?;
    }
    bench.write(report, at.0, &bytes_of(NEW, 0, 64))?;
    let mut same = true;
    for (place, before) in places.iter().zip(&before) {
        let mut after = [0; 64];
        same &= place.read(0, &mut after) && after == *before;
    }
    report.that("nobody_sees_late_data", same);
    places.into_iter().for_each(|place| place.finish());
    report.equal("the_quarantine_ends", pools.release_quarantine(), 1);
    let mut places = Vec::new();
    while let Ok(place) = pools.from_device(64) {
        places.push(place);
    }
    report.equal(
        "all_places_are_back",
        (places.len(), pools.quarantined()),
        (TRANSFERS, 0),
    );
    places.into_iter().for_each(|place| place.finish());
    Ok(())
}
