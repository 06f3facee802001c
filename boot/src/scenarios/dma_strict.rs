//! Buffers that are mapped for one transfer: the directions, and what comes back.

use virtio_iommu::DomainOptions;
use virtio_iommu::dma::{Bidirectional, FromDevice, ToDevice};

use super::dma_lab::{BENCH_CHECKS, Bench, Cost, PAGE, back, bytes_of, compare, peek, phys};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::edu;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

const OLD: Pattern = Pattern::Seed(0x57c1_0001);
const NEW: Pattern = Pattern::Seed(0x57c1_0002);

/// `dma-strict`: map, DMA, unmap, in each direction; and the next map with the last unmap.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(TO_DEVICE + FROM_DEVICE + BIDIRECTIONAL + EXCHANGE + BENCH_CHECKS);
    let mut bench = Bench::open(report, firmware, DomainOptions::new(8))?;
    to_device(report, &mut bench)?;
    from_device(report, &mut bench)?;
    bidirectional(report, &mut bench)?;
    exchange(report, &mut bench)?;
    bench.close(report)
}

const TO_DEVICE: u32 = 9;

fn to_device(report: &mut Report, bench: &mut Bench) -> Checked {
    let buffer = bench.filled(report, 1, OLD)?;
    let place = phys(&buffer);
    let mapping = bench.device.map::<ToDevice, _>(buffer);
    let mapping = report.require("to_device_is_mapped", mapping)?;
    let at = mapping.device_addr().0;
    report.that(
        "addresses_are_below_the_mask",
        mapping.iova().end() <= edu::LIMIT && mapping.len() == PAGE,
    );
    let seen = bench.read(report, at, PAGE)?;
    report.equal(
        "edu_reads_every_byte",
        compare(&seen, |i| OLD.at(i)),
        Ok(()),
    );
    no_fault("nothing_was_refused", report, &bench.iommu);
    let data = bytes_of(NEW, 0, 64);
    bench.refuse_write("to_device_is_read_only", report, at, &data)?;

    // SAFETY: every transfer has ended.
    let (buffer, cost) = Cost::measure(|| unsafe { mapping.complete() }.unmap());
    let mut buffer = back(report, buffer)?;
    report.equal("unmap_is_one_request", cost, Cost::of(1, 1));
    report.equal(
        "the_same_buffer_comes_back_unchanged",
        (phys(&buffer), compare(&buffer, |i| OLD.at(i))),
        (place, Ok(())),
    );
    buffer.fill(0x77);
    bench.refuse_read("unmapped_memory_is_out_of_reach", report, at, 64)?;
    bench.refuse_write("in_both_directions", report, at, &data)?;
    report.need("buffer_is_left_alone", compare(&buffer, |_| 0x77))
}

const FROM_DEVICE: u32 = 7;

fn from_device(report: &mut Report, bench: &mut Bench) -> Checked {
    const SKIP: usize = 0x123;
    const LEN: usize = 0x765;
    let buffer = bench.filled(report, 1, OLD)?;
    let place = phys(&buffer);
    let mapping = bench.device.map::<FromDevice, _>(buffer);
    let mapping = report.require("from_device_is_mapped", mapping)?;
    let at = mapping.device_addr().0;
    // A device may be able to read what it is only meant to write.
    let exposed = compare(&peek(place, PAGE), |_| 0);
    report.equal("what_was_in_it_is_gone", exposed, Ok(()));
    bench.refuse_read("from_device_is_write_only", report, at, 64)?;

    let data = bytes_of(NEW, 0, LEN);
    bench.write(report, at + SKIP as u64, &data)?;
    let expected = |offset: usize| match offset.checked_sub(SKIP) {
        Some(index @ 0..LEN) => NEW.at(index),
        _ => 0,
    };
    let mut copy = [0xff; PAGE];
    let copied = mapping.read(0, &mut copy);
    report.equal(
        "the_driver_copies_what_edu_wrote",
        (copied, compare(&copy, expected)),
        (true, Ok(())),
    );
    no_fault("nothing_else_was_refused", report, &bench.iommu);
    // SAFETY: every transfer has ended.
    let buffer = back(report, unsafe { mapping.complete() }.unmap())?;
    report.equal(
        "the_buffer_comes_back_with_the_data",
        (phys(&buffer), compare(&buffer, expected)),
        (place, Ok(())),
    );
    bench.refuse_write("late_data_is_refused", report, at, &data)?;
    report.need("late_data_is_nowhere", compare(&buffer, expected))
}

const BIDIRECTIONAL: u32 = 4;

fn bidirectional(report: &mut Report, bench: &mut Bench) -> Checked {
    // One of the two transfers of a page lies across the border.
    const SKIP: usize = PAGE / 4;
    let buffer = bench.filled(report, 2, OLD)?;
    let mapping = bench.device.map::<Bidirectional, _>(buffer);
    let mapping = report.require("bidirectional_is_mapped", mapping)?;
    let at = mapping.device_addr().0;
    // Across the border of the two pages.
    let seen = bench.read(report, at + SKIP as u64, PAGE)?;
    let read = compare(&seen, |i| OLD.at(SKIP + i));
    report.equal("edu_reads_what_the_cpu_wrote", read, Ok(()));
    bench.write(report, at + SKIP as u64, &bytes_of(NEW, 0, PAGE))?;
    no_fault(
        "nothing_was_refused_in_either_direction",
        report,
        &bench.iommu,
    );
    // SAFETY: every transfer has ended.
    let buffer = back(report, unsafe { mapping.complete() }.unmap())?;
    let expected = |offset: usize| match offset.checked_sub(SKIP) {
        Some(index @ 0..PAGE) => NEW.at(index),
        _ => OLD.at(offset),
    };
    report.equal(
        "the_cpu_reads_what_edu_wrote",
        compare(&buffer, expected),
        Ok(()),
    );
    Ok(())
}

const EXCHANGE: u32 = 6;

fn exchange(report: &mut Report, bench: &mut Bench) -> Checked {
    let first = bench.pages(report, 1)?;
    let second = bench.filled(report, 1, OLD)?;
    let mapping = report.need("map", bench.device.map::<FromDevice, _>(first))?;
    let before = mapping.device_addr().0;
    bench.write(report, before, &bytes_of(NEW, 0, PAGE))?;
    // SAFETY: the transfer has ended.
    let done = unsafe { mapping.complete() };
    let exchange = || bench.device.exchange::<_, _, _, ToDevice>(done, second);
    let (exchanged, cost) = Cost::measure(exchange);
    let first = report.require("one_buffer_comes_back", exchanged.unmapped)?;
    let mapping = report.require("another_is_mapped", exchanged.mapped)?;
    report.equal("with_one_notification", cost, Cost::of(2, 1));
    report.equal("it_has_the_data", compare(&first, |i| NEW.at(i)), Ok(()));
    let after = mapping.device_addr().0;
    let seen = bench.read(report, after, PAGE)?;
    report.equal("edu_reads_the_other", compare(&seen, |i| OLD.at(i)), Ok(()));
    bench.refuse_write("the_first_is_out_of_reach", report, before, &[1; 64])?;
    // SAFETY: every transfer has ended.
    back(report, unsafe { mapping.complete() }.unmap())?;
    Ok(())
}
