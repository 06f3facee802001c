//! The disk of `virtio-drivers`, unchanged, behind the IOMMU: whole pages are mapped, copied, or
//! stay mapped.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_iommu::adapters::virtio_drivers::{Endpoint, IommuHal};
use virtio_iommu::bind_endpoint;

use super::adapter_lab::{DESK_CHECKS, Desk, Mode, TIMEOUT, Transport};
use super::dma_lab::{Cost, PAGE, Pages, compare, fill};
use super::lab::hold;
use crate::arch::Firmware;
use crate::block::BlockDevice;
use crate::block::virtio::VirtioBlk;
use crate::platform::{KernelHal, KernelPlatform};
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

bind_endpoint!(
    /// The only disk.
    pub struct Disk: KernelPlatform, KernelHal
);

/// Its driver.
pub type Blk = VirtIOBlk<IommuHal<Disk>, Transport<Disk>>;

/// The size of the disk, in sectors.
const SECTORS: u64 = 128;
/// The sector that is written: the host side looks at it at the end.
const WRITTEN: usize = 9;
/// Sectors in a page.
const PER_PAGE: usize = PAGE / SECTOR_SIZE;

/// What is on the disk at an offset, as the host side has made it: words that are all different.
pub fn on_disk(offset: usize) -> u8 {
    let word = (offset as u64 / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[offset % 8]
}

/// Whether a buffer has what is on the disk from a sector on.
pub fn has(buffer: &[u8], sector: usize) -> bool {
    compare(buffer, |offset| on_disk(sector * SECTOR_SIZE + offset)).is_ok()
}

/// `adapter-blk-strict`.
pub fn strict(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, Mode::Strict)
}

/// `adapter-blk-bounce`.
pub fn bounce(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, Mode::Bounce)
}

/// `adapter-blk-deferred`.
pub fn deferred(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, Mode::Deferred)
}

fn run(report: &mut Report, firmware: &Firmware, mode: Mode) -> Checked {
    report.plan(DESK_CHECKS + 1 + SHORT + WHOLE + MANY + WRITE + 2);
    let desk = Desk::open::<Disk>(report, firmware, VirtioBlk::ID, mode.options())?;
    let mut disk = open(report, &desk)?;
    short(report, &mut disk)?;
    whole(report, &desk, &mut disk, mode)?;
    many(report, &desk, &mut disk)?;
    write(report, &desk, &mut disk)?;
    let usage = Disk::usage();
    let mapped = match mode {
        Mode::Bounce => usage.most_mapped == 0,
        Mode::Strict | Mode::Deferred => usage.most_mapped > 0,
    };
    report.that(
        "pages_were_mapped_as_the_mode_says",
        mapped && usage.mapped == 0 && (usage.deferred > 0) == (mode == Mode::Deferred),
    );
    report.need("flush", desk.domain.flush())?;
    drop(disk);
    let pages = crate::platform::live_pages();
    report.equal("its_memory_came_back", pages, desk.pages);
    desk.close::<Disk>(report)
}

/// The driver: one check.
pub fn open(report: &mut Report, desk: &Desk) -> Checked<Blk> {
    let transport = desk.behind::<Disk>(report)?;
    let transport = report.need("behind_the_iommu", transport)?;
    report.require("the_disk_is_up", Blk::new(transport))
}

/// Reads sectors, and waits for as long as it may take.
pub fn read(report: &mut Report, disk: &mut Blk, sector: usize, into: &mut [u8]) -> Checked {
    let (mut request, mut answer) = (BlkReq::default(), BlkResp::default());
    // SAFETY: nobody touches the buffers before the answer; without one, nothing goes on here.
    let token = unsafe { disk.read_blocks_nb(sector, &mut request, into, &mut answer) };
    let token = report.need("read", token)?;
    wait(report, disk, token)?;
    // SAFETY: the same buffers.
    let read = unsafe { disk.complete_read_blocks(token, &request, into, &mut answer) };
    report.need("read", read)
}

fn wait(report: &mut Report, disk: &mut Blk, token: u16) -> Checked {
    let answered = Disk::binding().wait_until(TIMEOUT, || disk.peek_used() == Some(token));
    report.need("answer_in_time", answered.then_some(()).ok_or(token))
}

/// Writes what the host side looks for at the end, from the stack.
pub fn turn(report: &mut Report, disk: &mut Blk) -> Checked {
    let data: [u8; SECTOR_SIZE] =
        core::array::from_fn(|offset| !on_disk(WRITTEN * SECTOR_SIZE + offset));
    let (mut request, mut answer) = (BlkReq::default(), BlkResp::default());
    // SAFETY: nobody touches the buffers before the answer; without one, nothing goes on here.
    let token = unsafe { disk.write_blocks_nb(WRITTEN, &mut request, &data, &mut answer) };
    let token = report.need("write", token)?;
    wait(report, disk, token)?;
    // SAFETY: the same buffers.
    let wrote = unsafe { disk.complete_write_blocks(token, &request, &data, &mut answer) };
    report.need("write", wrote)
}

const SHORT: u32 = 4;

/// Buffers on the stack, and in the heap, wherever they begin.
fn short(report: &mut Report, disk: &mut Blk) -> Checked {
    report.equal("size", disk.capacity(), SECTORS);
    let mut sector = [0; SECTOR_SIZE];
    let (done, cost) = Cost::measure(|| read(report, disk, 5, &mut sector));
    done?;
    report.that("a_sector_is_read_to_the_stack", has(&sector, 5));
    let mut odd = vec![0xee; 3 * SECTOR_SIZE + 2];
    let end = odd.len() - 1;
    let (done, more) = Cost::measure(|| read(report, disk, 70, &mut odd[1..end]));
    done?;
    report.that(
        "and_three_to_an_odd_address_and_no_further",
        has(&odd[1..end], 70) && odd[0] == 0xee && odd[end] == 0xee,
    );
    report.equal(
        "without_a_request_of_the_iommu",
        (cost, more),
        (Cost::NONE, Cost::NONE),
    );
    Ok(())
}

const WHOLE: u32 = 5;

/// Whole pages, once and again.
fn whole(report: &mut Report, desk: &Desk, disk: &mut Blk, mode: Mode) -> Checked {
    let mut pages = desk.alloc(report, 4)?;
    fill(&mut pages, |_| 0xee);
    let (done, first) = Cost::measure(|| read(report, disk, 0, &mut pages));
    done?;
    report.that("whole_pages_are_read", has(&pages, 0));
    report.equal(
        "with_so_many_requests",
        first.requests,
        mode.requests(false),
    );
    let (mut requests, mut right) = (0, true);
    const ROUNDS: usize = 8;
    for round in 1..=ROUNDS {
        let (done, cost) = Cost::measure(|| read(report, disk, PER_PAGE * round, &mut pages));
        done?;
        requests += cost.requests;
        right &= has(&pages, PER_PAGE * round);
    }
    report.that("and_again_and_again", right);
    report.equal(
        "with_so_many_requests_each",
        requests,
        ROUNDS * mode.requests(true),
    );
    report.that(
        "the_disk_knows_no_physical_address",
        desk.is_elsewhere(&pages),
    );
    // In the end, because a disk may still reach them.
    report.need("flush", desk.domain.flush())
}

const MANY: u32 = 2;

/// A read under way.
struct Transfer {
    token: u16,
    sector: usize,
    request: Box<BlkReq>,
    answer: Box<BlkResp>,
    pages: Pages,
}

/// Several at once, whichever is done first.
fn many(report: &mut Report, desk: &Desk, disk: &mut Blk) -> Checked {
    const COUNT: usize = 8;
    let mut under_way: Vec<Transfer> = Vec::new();
    for at in 0..COUNT {
        let mut pages = desk.alloc(report, 1)?;
        let (mut request, mut answer) = (Box::<BlkReq>::default(), Box::<BlkResp>::default());
        // From the end to the beginning, so that a disk that sorts has something to do.
        let sector = PER_PAGE * (COUNT - at);
        // SAFETY: nobody touches the buffers before the answer; without one, nothing goes on here.
        let token = unsafe { disk.read_blocks_nb(sector, &mut request, &mut pages, &mut answer) };
        under_way.push(Transfer {
            token: report.need("read", token)?,
            sector,
            request,
            answer,
            pages,
        });
    }
    hold(report, "polled")?;
    let (mut right, mut count) = (true, 0);
    let mut done: Vec<Pages> = Vec::new();
    while !under_way.is_empty() {
        let mut used = None;
        let answered = Disk::binding().wait_until(TIMEOUT, || {
            used = disk.peek_used();
            used.is_some()
        });
        report.need("answer_in_time", answered.then_some(()).ok_or(count))?;
        let found = under_way.iter().position(|other| Some(other.token) == used);
        let found = report.need("token", found.ok_or(used))?;
        let mut transfer = under_way.swap_remove(found);
        let Transfer {
            token,
            request,
            answer,
            pages,
            ..
        } = &mut transfer;
        // SAFETY: the same buffers.
        let read = unsafe { disk.complete_read_blocks(*token, request, pages, answer) };
        report.need("read", read)?;
        right &= has(&transfer.pages, transfer.sector);
        done.push(transfer.pages);
        count += 1;
    }
    report.equal("many_at_once_are_read", (right, count), (true, COUNT));
    report.need("flush", desk.domain.flush())?;
    no_fault("nothing_was_refused", report, &desk.iommu);
    Ok(())
}

const WRITE: u32 = 2;

/// What is written is there afterwards: for the guest, and for the host, which looks at the end.
fn write(report: &mut Report, desk: &Desk, disk: &mut Blk) -> Checked {
    // A whole page, so that it goes the way of the mode: the sector, and what was around it.
    let first = WRITTEN / PER_PAGE * PER_PAGE;
    let mut pages = desk.alloc(report, 1)?;
    fill(&mut pages, |offset| {
        let byte = on_disk(first * SECTOR_SIZE + offset);
        match first + offset / SECTOR_SIZE {
            WRITTEN => !byte,
            _ => byte,
        }
    });
    let (mut request, mut answer) = (BlkReq::default(), BlkResp::default());
    // SAFETY: nobody touches the buffers before the answer; without one, nothing goes on here.
    let token = unsafe { disk.write_blocks_nb(first, &mut request, &pages, &mut answer) };
    let token = report.need("write", token)?;
    wait(report, disk, token)?;
    // SAFETY: the same buffers.
    let wrote = unsafe { disk.complete_write_blocks(token, &request, &pages, &mut answer) };
    report.require("a_page_is_written", wrote)?;
    let mut sector = [0; SECTOR_SIZE];
    read(report, disk, WRITTEN, &mut sector)?;
    let turned = |offset: usize| !on_disk(WRITTEN * SECTOR_SIZE + offset);
    report.equal("and_read_back", compare(&sector, turned), Ok(()));
    report.need("flush", desk.domain.flush())
}
