//! UNMAPs that are put off: what they save, how long memory stays exposed, and that it ends.

use alloc::vec::Vec;
use core::time::Duration;

use virtio_iommu::dma::{Deferred, FromDevice, Mapping};
use virtio_iommu::{DomainOptions, UnmapError};

use super::dma_lab::{BENCH_CHECKS, Bench, Cost, PAGE, Pages, back, bytes_of, compare};
use super::watch;
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::clock;
use crate::interrupts::{self, TimedOut};
use crate::platform::{self, KernelPlatform};
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

const NEW: Pattern = Pattern::Seed(0xdefe_0001);
const AGAIN: Pattern = Pattern::Seed(0xdefe_0002);

/// How many UNMAPs may be put off.
const COUNT: usize = 8;
/// How long. A transfer of `edu` takes 100 ms.
const AGE: Duration = Duration::from_secs(2);

type Parked = Deferred<Pages, FromDevice, KernelPlatform>;

/// `dma-deferred`: batches of UNMAPs, bounded by their number and their age.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(1 + FLUSH + AGE_CHECKS + COUNT_CHECKS + BENCH_CHECKS);
    watch::start(report, firmware)?;
    let options = DomainOptions::new(64).with_deferred(COUNT, AGE);
    let mut bench = Bench::open(report, firmware, options)?;
    flush(report, &mut bench)?;
    age(report, &mut bench)?;
    count(report, &mut bench)?;
    bench.close(report)
}

/// Maps a page for the device to write.
fn map(report: &mut Report, bench: &Bench) -> Checked<Mapping<Pages, FromDevice, KernelPlatform>> {
    let page = bench.pages(report, 1)?;
    report.need("map", bench.device.map(page))
}

/// Maps pages, has them done with, and puts their UNMAPs off: at no cost.
fn park(report: &mut Report, bench: &Bench, count: usize) -> Checked<(Vec<Parked>, Cost)> {
    let mut mappings = Vec::new();
    for _ in 0..count {
        mappings.push(map(report, bench)?);
    }
    // SAFETY: no transfer was begun.
    let done = mappings
        .into_iter()
        .map(|mapping| unsafe { mapping.complete() });
    let done: Vec<_> = done.collect();
    Ok(Cost::measure(|| {
        done.into_iter().map(|done| done.defer()).collect()
    }))
}

/// Takes all buffers back.
fn reclaim(parked: Vec<Parked>) -> (Result<Vec<Pages>, UnmapError>, Cost) {
    Cost::measure(|| parked.into_iter().map(Deferred::reclaim).collect())
}

const FLUSH: u32 = 13;

fn flush(report: &mut Report, bench: &mut Bench) -> Checked {
    let (mut parked, cost) = park(report, bench, COUNT)?;
    report.equal("putting_off_costs_nothing", cost, Cost::NONE);
    report.equal("they_are_still_mapped", bench.domain().mapped(), COUNT + 2);

    // One is wanted again.
    let again = report.need("one", parked.pop().ok_or("none"))?;
    let (again, cost) = Cost::measure(|| again.reuse());
    let again = report.require("one_is_used_again", again)?;
    report.equal("using_again_costs_nothing", cost, Cost::NONE);
    let at = again.device_addr().0;
    bench.write(report, at, &bytes_of(NEW, 0, PAGE))?;
    let mut copy = [0; PAGE];
    let copied = again.read(0, &mut copy);
    report.equal(
        "edu_writes_to_it",
        (copied, compare(&copy, |i| NEW.at(i))),
        (true, Ok(())),
    );
    // SAFETY: the transfer has ended.
    let again = unsafe { again.complete() }.defer();
    bench.write(report, at, &bytes_of(AGAIN, 0, PAGE))?;
    let copied = again.read(0, &mut copy);
    report.equal(
        "edu_still_reaches_it_when_it_is_put_off",
        (copied, compare(&copy, |i| AGAIN.at(i))),
        (true, Ok(())),
    );
    no_fault("nothing_was_refused", report, &bench.iommu);
    // One is left to the domain, which gives its page back.
    let pages = platform::live_pages();
    drop(parked.pop());
    report.equal(
        "the_domain_keeps_what_is_dropped",
        platform::live_pages(),
        pages,
    );

    let (flushed, cost) = Cost::measure(|| bench.domain().flush());
    report.require("all_are_unmapped", flushed)?;
    // The host side sees that it removed all of them.
    report.equal("neighbours_in_one_request", cost, Cost::of(1, 1));
    report.equal("and_then_drops_it", platform::live_pages(), pages - 1);
    bench.refuse_write("edu_does_not_reach_it_any_more", report, at, &[1; 64])?;
    parked.push(again);
    let revoked = parked.iter().all(Deferred::is_revoked);
    let (pages, cost) = reclaim(parked);
    let pages = back(report, pages)?;
    let last = pages.last().map(|page| compare(page, |i| AGAIN.at(i)));
    report.equal(
        "buffers_come_back_at_no_cost",
        (revoked, cost, pages.len(), last),
        (true, Cost::NONE, COUNT - 1, Some(Ok(()))),
    );
    Ok(())
}

const AGE_CHECKS: u32 = 9;

/// Nothing but the clock: `poll` in time is all that is needed.
fn age(report: &mut Report, bench: &mut Bench) -> Checked {
    let domain = bench.domain();
    report.equal("nothing_is_due", domain.poll(clock::now()), None);
    let began = clock::now();
    let (mut parked, _) = park(report, bench, 1)?;
    let parked = report.need("one", parked.pop().ok_or("none"))?;
    let (deadline, cost) = Cost::measure(|| domain.poll(clock::now()));
    let deadline = report.require("something_is_due_later", deadline.ok_or("nothing"))?;
    report.equal("nothing_is_sent_early", cost, Cost::NONE);
    let age = AGE.as_nanos() as u64;
    report.that(
        "within_its_age",
        (began + age..=clock::now() + age).contains(&deadline),
    );
    // Nothing happens meanwhile: the CPU is stopped until the timer wakes it.
    let rest = Duration::from_nanos(deadline.saturating_sub(clock::now()));
    let slept = interrupts::sleep_until(rest, || false);
    report.equal("the_cpu_is_stopped_until_then", slept, Err(TimedOut));
    let (next, cost) = Cost::measure(|| domain.poll(clock::now()));
    report.equal("one_request_when_it_is_due", cost, Cost::of(1, 1));
    report.equal(
        "nothing_is_due_any_more",
        (next, parked.is_revoked()),
        (None, true),
    );
    report.that("it_was_in_time", clock::now() - began < 2 * age);
    let page = back(report, parked.reclaim())?;
    report.equal("the_page_comes_back", page.len(), PAGE);
    Ok(())
}

const COUNT_CHECKS: u32 = 6;

/// When no more can be put off, those that were are sent.
fn count(report: &mut Report, bench: &mut Bench) -> Checked {
    let (mut parked, cost) = park(report, bench, COUNT)?;
    report.equal("as_many_as_there_is_room_for", cost, Cost::NONE);
    let (more, cost) = park(report, bench, 1)?;
    report.equal("one_more_sends_them_all", cost, Cost::of(1, 1));
    report.that(
        "and_is_put_off_itself",
        parked.iter().all(Deferred::is_revoked) && !more.iter().any(Deferred::is_revoked),
    );
    parked.extend(more);
    let (pages, cost) = reclaim(parked);
    let pages = back(report, pages)?;
    report.equal("all_come_back", pages.len(), COUNT + 1);
    report.equal("with_a_request_for_the_last", cost, Cost::of(1, 1));
    report.equal("nothing_is_due", bench.domain().poll(clock::now()), None);
    Ok(())
}
