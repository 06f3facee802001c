//! Many pieces of memory at one range of addresses, and what QEMU makes of its seams.

use alloc::vec::Vec;

use virtio_iommu::dma::{Bidirectional, FromDevice, ToDevice};
use virtio_iommu::{DomainOptions, Iova};

use super::dma_lab::{BENCH_CHECKS, Bench, Cost, PAGE, Pages, back, bytes_of, compare, fill, phys};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::console::println;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

const NEW: Pattern = Pattern::Seed(0x5ca7_0001);

/// Pages that are taken from the allocator, by physical address.
const POOL: usize = 32;

/// What page number `number` of the pool has at `offset`.
fn content(number: usize, offset: usize) -> u8 {
    Pattern::Seed(0x5ca7_1000 + number as u32).at(offset)
}

/// `dma-scatter`: scattered pages as one range; neighbours in one request; holes where they are
/// wanted.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(ONE_RANGE + MERGED + APART + SEAMS + BENCH_CHECKS);
    let mut bench = Bench::open(report, firmware, DomainOptions::new(64))?;
    let mut pool = in_a_row(report, &bench)?;
    for (number, page) in pool.iter_mut().enumerate() {
        fill(page, |offset| content(number, offset));
    }
    let mut pool: Vec<Option<Pages>> = pool.into_iter().map(Some).collect();
    one_range(report, &mut bench, &mut pool)?;
    merged(report, &mut bench, &mut pool)?;
    apart(report, &mut bench, &mut pool)?;
    seams(report, &mut bench, &mut pool)?;
    drop(pool);
    bench.close(report)
}

/// Pages that are one behind the other in memory.
fn in_a_row(report: &mut Report, bench: &Bench) -> Checked<Vec<Pages>> {
    let mut pages = Vec::new();
    for _ in 0..4 * POOL {
        pages.push(bench.pages(report, 1)?);
    }
    pages.sort_by_key(phys);
    let distance = ((POOL - 1) * PAGE) as u64;
    let is_row = |row: &[Pages]| phys(&row[POOL - 1]) - phys(&row[0]) == distance;
    let first = pages.windows(POOL).position(is_row);
    let first = report.need("pages_in_a_row", first.ok_or("there are none"))?;
    Ok(pages.drain(first..first + POOL).collect())
}

/// Takes pages out of the pool.
fn take(pool: &mut [Option<Pages>], numbers: &[usize]) -> Vec<Pages> {
    let pages = numbers.iter().map(|number| pool[*number].take());
    pages.flatten().collect()
}

/// Puts them back.
fn put(pool: &mut [Option<Pages>], numbers: &[usize], pages: Vec<Pages>) {
    for (number, page) in numbers.iter().zip(pages) {
        pool[*number] = Some(page);
    }
}

/// What is in a list of pages, at an offset from its beginning.
fn listed(numbers: &[usize], offset: usize) -> u8 {
    content(numbers[offset / PAGE], offset % PAGE)
}

const ONE_RANGE: u32 = 7;

/// Pages that are nowhere near each other, at addresses without a gap.
fn one_range(report: &mut Report, bench: &mut Bench, pool: &mut [Option<Pages>]) -> Checked {
    const NUMBERS: [usize; 4] = [9, 3, 15, 6];
    // Less than a transfer of the device, so that one of them lies across the seam.
    const SKIP: usize = PAGE / 4;
    let mapping = bench.device.map::<ToDevice, _>(take(pool, &NUMBERS));
    let mapping = report.require("scattered_pages_are_mapped", mapping)?;
    report.equal("at_one_range", mapping.segments().count(), 1);
    let at = mapping.device_addr().0;
    for seam in [1, 3] {
        let from = seam * PAGE - SKIP;
        let seen = bench.read(report, at + from as u64, PAGE)?;
        let expected = |offset: usize| listed(&NUMBERS, from + offset);
        report.equal("edu_reads_across_a_seam", compare(&seen, expected), Ok(()));
    }
    // SAFETY: every transfer has ended.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;

    let mapping = report.need("map", bench.device.map::<FromDevice, _>(pages))?;
    let at = mapping.device_addr().0 + (2 * PAGE - SKIP) as u64;
    bench.write(report, at, &bytes_of(NEW, 0, PAGE))?;
    // SAFETY: every transfer has ended.
    let mut pages = back(report, unsafe { mapping.complete() }.unmap())?;
    let expected = |offset: usize| match offset.checked_sub(2 * PAGE - SKIP) {
        Some(index @ 0..PAGE) => NEW.at(index),
        // The endpoint has seen what was in it: no need to hide it.
        _ => listed(&NUMBERS, offset),
    };
    let mut each = pages.iter().enumerate();
    let written =
        each.try_for_each(|(i, page)| compare(page, |offset| expected(i * PAGE + offset)));
    report.equal("edu_writes_across_a_seam", written, Ok(()));
    let others = pool.iter().enumerate().all(|(number, page)| match page {
        Some(page) => compare(page, |offset| content(number, offset)).is_ok(),
        None => true,
    });
    report.that("pages_in_between_are_untouched", others);
    no_fault("nothing_was_refused", report, &bench.iommu);
    for (number, page) in NUMBERS.iter().zip(&mut pages) {
        fill(page, |offset| content(*number, offset));
    }
    put(pool, &NUMBERS, pages);
    Ok(())
}

const MERGED: u32 = 6;

/// What is adjacent in memory takes one request; the host side counts, too.
fn merged(report: &mut Report, bench: &mut Bench, pool: &mut [Option<Pages>]) -> Checked {
    for (name, unmapped, numbers, requests) in [
        (
            "four_in_a_row_take_one_request",
            "and_one_to_unmap",
            [8, 9, 10, 11],
            1,
        ),
        (
            "two_and_two_take_two_requests",
            "and_one_to_unmap_them",
            [4, 5, 20, 21],
            2,
        ),
    ] {
        let pages = take(pool, &numbers);
        let (mapping, cost) = Cost::measure(|| bench.device.map::<ToDevice, _>(pages));
        let mapping = report.need("map", mapping)?;
        report.equal(name, cost, Cost::of(requests, 1));
        let from = PAGE / 4;
        let seen = bench.read(report, mapping.device_addr().0 + from as u64, PAGE)?;
        let expected = |offset: usize| listed(&numbers, from + offset);
        report.equal("edu_reads_them", compare(&seen, expected), Ok(()));
        // SAFETY: every transfer has ended.
        let done = unsafe { mapping.complete() };
        let (pages, cost) = Cost::measure(|| done.unmap());
        report.equal(unmapped, cost, Cost::of(1, 1));
        put(pool, &numbers, back(report, pages)?);
    }
    Ok(())
}

const APART: u32 = 6;

/// A hole between pieces.
fn apart(report: &mut Report, bench: &mut Bench, pool: &mut [Option<Pages>]) -> Checked {
    const NUMBERS: [usize; 4] = [12, 2, 3, 7];
    let pages = take(pool, &NUMBERS);
    let mapping = bench.device.map_apart::<Bidirectional, _>(pages);
    let mapping = report.require("pages_are_mapped_apart", mapping)?;
    let segments: Vec<_> = mapping.segments().collect();
    let lengths: Vec<_> = segments.iter().filter_map(|range| range.len()).collect();
    let page = PAGE as u64;
    report.equal("neighbours_stay_together", lengths, [page, 2 * page, page]);
    let holes = segments.windows(2);
    let wide = holes
        .clone()
        .all(|pair| pair[1].start().0 - pair[0].end().0 == page + 1);
    report.that("with_a_granule_between_the_others", wide);
    let firsts = [0, PAGE, 3 * PAGE];
    for (segment, first) in segments.iter().zip(firsts) {
        let len = PAGE.min(segment.len().unwrap_or(0) as usize);
        let seen = bench.read(report, segment.start().0, len)?;
        let read = compare(&seen, |offset| listed(&NUMBERS, first + offset));
        report.need("edu_reads_each_segment", read)?;
    }
    no_fault("edu_reads_all_segments", report, &bench.iommu);
    let hole = segments[0].end().0 + 1;
    bench.refuse_read("holes_are_out_of_reach", report, hole, 64)?;
    bench.refuse_write("to_writes_too", report, hole, &[1; 64])?;
    // SAFETY: every transfer has ended.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;
    put(pool, &NUMBERS, pages);
    Ok(())
}

const SEAMS: u32 = 5;

/// QEMU translates an access that begins with the last byte of a page through the mapping that
/// comes next, or does not: as its search tree happens to be. Then the access ends up one byte
/// below the memory of the next page. Up to 10.2 it does; whichever it does is written down.
fn seams(report: &mut Report, bench: &mut Bench, pool: &mut [Option<Pages>]) -> Checked {
    /// Behind each other, nowhere adjacent, so that what is one byte below is another page's.
    const NUMBERS: [usize; 6] = [27, 5, 19, 11, 23, 8];
    let pages = take(pool, &NUMBERS);
    let mapping = report.need("map", bench.device.map::<ToDevice, _>(pages))?;
    let at = mapping.device_addr().0;
    let (mut right, mut wrong) = (0, 0);
    for (index, number) in NUMBERS.iter().enumerate() {
        let last = (index + 1) * PAGE - 1;
        let seen = bench.read(report, at + last as u64, 1)?[0];
        let below_next = NUMBERS
            .get(index + 1)
            .map(|next| content(next - 1, PAGE - 1));
        if seen == content(*number, PAGE - 1) {
            right += 1;
        } else if Some(seen) == below_next {
            wrong += 1;
        }
    }
    println!("last bytes of scattered pages: {right} right, {wrong} from below the next page");
    report.equal(
        "a_last_byte_is_right_or_of_one_kind_of_wrong",
        right + wrong,
        6,
    );
    no_fault("and_never_refused", report, &bench.iommu);
    // SAFETY: every transfer has ended.
    let pages = back(report, unsafe { mapping.complete() }.unmap())?;

    let mapping = report.need("map", bench.device.map_apart::<Bidirectional, _>(pages))?;
    let mut right = 0;
    let ends: Vec<Iova> = mapping.segments().map(|segment| segment.end()).collect();
    for (end, number) in ends.iter().zip(NUMBERS) {
        let seen = bench.read(report, end.0, 1)?[0];
        right += u32::from(seen == content(number, PAGE - 1));
        bench.write(report, end.0, &[!seen])?;
    }
    report.equal("apart_every_last_byte_is_right", right, 6);
    no_fault("and_never_refused_either", report, &bench.iommu);
    // SAFETY: every transfer has ended.
    let mut pages = back(report, unsafe { mapping.complete() }.unmap())?;
    let written = pages.iter().zip(NUMBERS).all(|(page, number)| {
        let last = !content(number, PAGE - 1);
        compare(page, |offset| match offset {
            offset if offset == PAGE - 1 => last,
            offset => content(number, offset),
        })
        .is_ok()
    });
    let others = pool.iter().enumerate().all(|(number, page)| match page {
        Some(page) => compare(page, |offset| content(number, offset)).is_ok(),
        None => true,
    });
    report.that("apart_every_last_byte_is_written", written && others);
    pages.clear();
    Ok(())
}
