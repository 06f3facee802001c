//! A driver that is dropped while its disk reads: the disk is reset first, and what it still does
//! lands in no memory that somebody else has.

use core::hint;
use core::time::Duration;

use alloc::boxed::Box;
use alloc::vec::Vec;

use virtio_drivers::device::blk::{BlkReq, BlkResp};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint};

use super::adapter_blk::{Disk, has, open, turn};
use super::adapter_lab::{DESK_CHECKS, Desk, TIMEOUT};
use super::dma_lab::{PAGE, Pages, bytes_of, peek, phys};
use crate::arch::Firmware;
use crate::block::BlockDevice;
use crate::block::virtio::VirtioBlk;
use crate::buffer::Pattern;
use crate::clock::{self, Deadline};
use crate::console::println;
use crate::platform;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

/// A read of a page holds up the next for 2 seconds: see the throttle of the host side.
const BAIT_AT: usize = 16;
/// What is read when the driver goes.
const VICTIM_AT: usize = 32;
/// Longer than any request is held up.
const HELD_UP: Duration = Duration::from_millis(2500);
/// How long the disk may take to fetch a request.
const FETCH: Duration = Duration::from_millis(300);
/// Pages that are handed out afterwards.
const OTHERS: usize = 4096;

/// `adapter-dropped`.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(DESK_CHECKS + 11);
    let options = AdapterOptions::default()
        .with_bounce_up_to(0)
        .with_reset_timeout(TIMEOUT);
    let desk = Desk::open::<Disk>(report, firmware, VirtioBlk::ID, options)?;
    let pages = platform::live_pages();
    let mut disk = open(report, &desk)?;
    turn(report, &mut disk)?;

    let (mut bait, mut victim) = (desk.alloc(report, 1)?, desk.alloc(report, 1)?);
    let mut requests = [Box::<BlkReq>::default(), Box::default()];
    let mut answers = [Box::<BlkResp>::default(), Box::default()];
    let mut tokens = [0; 2];
    let what = [(BAIT_AT, &mut bait), (VICTIM_AT, &mut victim)];
    for (at, (sector, page)) in what.into_iter().enumerate() {
        let (request, answer) = (&mut requests[at], &mut answers[at]);
        // SAFETY: nobody touches the buffers before the answer, or the end of the disk.
        let token = unsafe { disk.read_blocks_nb(sector, request, page, answer) };
        tokens[at] = report.need("read", token)?;
    }
    let answered = Disk::binding().wait_until(TIMEOUT, || disk.peek_used() == Some(tokens[0]));
    report.that("a_read_is_answered", answered);
    let (request, answer) = (&requests[0], &mut answers[0]);
    // SAFETY: the same buffers.
    let read = unsafe { disk.complete_read_blocks(tokens[0], request, &mut bait, answer) };
    report.need("read", read)?;
    report.that("with_what_is_on_the_disk", has(&bait, BAIT_AT));
    let deadline = Deadline::after(FETCH);
    while !deadline.passed() {
        hint::spin_loop();
    }
    report.equal("another_is_under_way", disk.peek_used(), None);
    let usage = Disk::usage();
    report.that(
        "and_has_a_page_and_places_in_the_window",
        usage.mapped == 1 && usage.from_device.used > 0 && usage.to_device.used > 0,
    );

    let place = phys(&victim);
    let began = clock::now();
    drop(disk);
    let took = clock::now() - began;
    let usage = Disk::usage();
    report.equal(
        "the_driver_is_dropped_and_has_nothing_left",
        (usage.mapped, usage.queues, usage.waiting),
        (0, 0, 0),
    );
    report.equal(
        "nor_in_the_window",
        (usage.from_device.used, usage.to_device.used),
        (0, 0),
    );
    // QEMU finishes what it has fetched before a reset returns: the proof that it was under way.
    let drained = has(&peek(place, PAGE), VICTIM_AT);
    println!(
        "dropped in {} ms; the read {}",
        took / 1_000_000,
        if drained {
            "ended before"
        } else {
            "was given up"
        }
    );
    drop((bait, victim));
    report.equal("every_page_came_back", platform::live_pages(), pages);

    let content = bytes_of(Pattern::Seed(0xad0b_0001), 0, PAGE);
    let mut others: Vec<Pages> = Vec::with_capacity(OTHERS);
    for _ in 0..OTHERS {
        let mut page = desk.alloc(report, 1)?;
        page.copy_from_slice(&content);
        others.push(page);
    }
    report.that(
        "the_page_is_handed_out_again",
        others.iter().any(|page| phys(page) == place),
    );
    let deadline = Deadline::after(HELD_UP);
    while !deadline.passed() {
        hint::spin_loop();
    }
    report.that(
        "and_nothing_arrives_in_what_was_handed_out",
        others.iter().all(|page| peek(phys(page), PAGE) == content),
    );
    drop((others, content, requests, answers));
    no_fault("nothing_was_refused", report, &desk.iommu);
    desk.close::<Disk>(report)
}
