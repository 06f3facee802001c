//! Memory that the CPU and a device share for good: rings, and a region that is mapped once.

use virtio_iommu::{DomainOptions, PhysAddr};

use super::dma_lab::{BENCH_CHECKS, Bench, Cost, PAGE, back, bytes_of, compare, phys};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::edu;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

const OLD: Pattern = Pattern::Seed(0xc0de_0001);
const NEW: Pattern = Pattern::Seed(0xc0de_0002);

/// `dma-coherent`: values go to and fro through shared memory, as those of a ring do.
pub fn coherent(report: &mut Report, firmware: &Firmware) -> Checked {
    /// Where the CPU writes an index, where the device writes one, and where entries are.
    const MINE: usize = 0;
    const THEIRS: usize = 0x40;
    const ENTRIES: usize = 0x80;
    const ROUNDS: u32 = 4;
    report.plan(9 + BENCH_CHECKS);
    let mut bench = Bench::open(report, firmware, DomainOptions::new(8))?;
    let mut ring = bench.pages(report, 1)?;
    // The CPU fills it as it likes before the device gets to see it.
    ring[ENTRIES..ENTRIES + 4].copy_from_slice(&[1, 2, 3, 4]);
    let place = phys(&ring);
    let ring = report.require("memory_is_shared", bench.device.share(ring))?;
    let at = ring.device_addr().0;
    let seen = bench.read(report, at + ENTRIES as u64, 4)?;
    report.equal(
        "both_see_what_was_in_it",
        (ring.read(ENTRIES), seen.as_slice()),
        (Some([1_u8, 2, 3, 4]), &[1, 2, 3, 4][..]),
    );
    let (exchanged, cost) = Cost::measure(|| -> Checked<bool> {
        let mut right = true;
        for round in 1..=ROUNDS {
            let slot = ENTRIES + 8 * round as usize;
            let entry = 0x1111_2222_3333_4444_u64.wrapping_mul(round.into());
            right &= ring.write(slot, entry) && ring.write(MINE, round);
            // The device looks at the index, takes the entry, and answers.
            let index = bench.read(report, at + MINE as u64, 4)?;
            let taken = bench.read(report, at + slot as u64, 8)?;
            bench.write(report, at + THEIRS as u64, &index)?;
            bench.write(report, at + slot as u64, &(!entry).to_le_bytes())?;
            right &= taken == entry.to_le_bytes()
                && ring.read(THEIRS) == Some(round.to_le())
                && ring.read(slot) == Some((!entry).to_le());
        }
        Ok(right)
    });
    report.equal("values_go_to_and_fro", exchanged, Ok(true));
    report.equal("without_a_request", cost, Cost::NONE);
    report.equal(
        "nothing_beyond_the_end",
        (ring.read::<u32>(PAGE - 3), ring.write(PAGE - 3, 0_u32)),
        (None, false),
    );
    no_fault("nothing_was_refused", report, &bench.iommu);
    // SAFETY: every transfer has ended.
    let ring = back(report, unsafe { ring.complete() }.unmap())?;
    report.equal("the_pages_come_back", phys(&ring), place);
    let theirs = ring[THEIRS..THEIRS + 4].to_vec();
    report.equal("with_what_edu_wrote", theirs, ROUNDS.to_le_bytes());
    bench.refuse_write("edu_does_not_reach_them_any_more", report, at, &[1; 8])?;
    drop((ring, seen));
    bench.close(report)
}

/// `dma-window`: one region, mapped once, and addresses by offset.
pub fn window(report: &mut Report, firmware: &Firmware) -> Checked {
    const PAGES: usize = 16;
    /// Where in the region, and how much.
    const FROM: usize = 5 * PAGE + 0x123;
    const TO: usize = 11 * PAGE + 0xf00;
    const LEN: usize = 0x777;
    report.plan(11 + BENCH_CHECKS);
    let mut bench = Bench::open(report, firmware, DomainOptions::new(8))?;
    let region = bench.filled(report, PAGES, OLD)?;
    let place = phys(&region);
    let (window, cost) = Cost::measure(|| bench.device.window(region));
    let window = report.require("a_region_is_mapped", window)?;
    report.equal("with_one_request", cost, Cost::of(1, 1));
    let first = report.need("first", window.device_addr(0, 1).ok_or("nowhere"))?;
    let last = report.need(
        "last",
        window.device_addr(PAGES * PAGE - 1, 1).ok_or("nowhere"),
    )?;
    report.that(
        "it_is_below_the_mask",
        last <= edu::LIMIT && last.0 - first.0 == (PAGES * PAGE) as u64 - 1,
    );
    let from = report.need("from", window.device_addr(FROM, LEN).ok_or("nowhere"))?;
    let by_phys = window.device_addr_of(PhysAddr(place + TO as u64));
    let to = report.need("to", by_phys.ok_or("nowhere"))?;
    report.equal(
        "physical_addresses_lead_to_the_same",
        Some(to),
        window.device_addr(TO, LEN),
    );
    report.equal(
        "nothing_beyond_the_ends",
        (
            window.device_addr(PAGES * PAGE - 1, 2),
            window.device_addr(PAGES * PAGE, 0),
            window.device_addr(usize::MAX, 2),
            window.device_addr_of(PhysAddr(place - 1)),
            window.device_addr_of(PhysAddr(place + (PAGES * PAGE) as u64)),
        ),
        (None, None, None, None, None),
    );

    let (moved, cost) = Cost::measure(|| -> Checked {
        let written = window.write(FROM, &bytes_of(NEW, 0, LEN));
        report.need("write", written.then_some(()).ok_or(LEN))?;
        let data = bench.read(report, from.0, LEN)?;
        bench.write(report, to.0, &data)
    });
    moved?;
    report.equal("transfers_take_no_request", cost, Cost::NONE);
    let mut copy = [0; LEN];
    let copied = window.read(TO, &mut copy);
    report.equal(
        "edu_moved_every_byte",
        (copied, compare(&copy, |i| NEW.at(i))),
        (true, Ok(())),
    );
    no_fault("nothing_was_refused", report, &bench.iommu);
    bench.refuse_read("the_byte_behind_is_out_of_reach", report, last.0 + 1, 1)?;
    // SAFETY: every transfer has ended.
    let region = back(report, unsafe { window.complete() }.unmap())?;
    let expected = |offset: usize| match (offset.checked_sub(FROM), offset.checked_sub(TO)) {
        (_, Some(index @ 0..LEN)) | (Some(index @ 0..LEN), _) => NEW.at(index),
        _ => OLD.at(offset),
    };
    report.equal(
        "the_region_comes_back",
        (phys(&region), compare(&region, expected)),
        (place, Ok(())),
    );
    bench.refuse_write("and_is_out_of_reach", report, to.0, &[1; 8])?;
    drop(region);
    bench.close(report)
}
