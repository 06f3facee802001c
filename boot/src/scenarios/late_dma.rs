//! Data that arrives after its buffer was unmapped: a read of a disk that was under way.
//!
//! QEMU's disk resolves addresses when it fetches a request. A confirmed UNMAP comes too late for
//! what it has fetched, and so do DETACH and a reset of the IOMMU; only a reset of the disk is a
//! word of the disk itself. The disk is throttled, so that "under way" takes seconds.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint;
use core::time::Duration;

use virtio_iommu::dma::{DmaDevice, DmaLimits};
use virtio_iommu::topology::Placement;
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{Domain, EndpointId, Iommu};

use super::dma_lab::{Cost, PAGE, Pages, back, bytes_of, compare, fill, peek, phys};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, shut_down};
use crate::arch::Firmware;
use crate::block::virtio::VirtioBlk;
use crate::block::{self, BlockDevice, BlockError, Ticket};
use crate::buffer::Pattern;
use crate::clock::{self, Deadline};
use crate::console::println;
use crate::platform::{self, KernelPlatform};
use crate::refusal::{NO_DOMAIN, drain, no_fault};
use crate::report::{Checked, Report};

/// The disk.
type Disk = block::Disk<VirtioBlk>;

/// The size of a sector, in bytes.
const SECTOR: usize = 512;
/// The size of the disk, in sectors.
const SECTORS: u64 = 128;
/// The sector that is written: the host side looks at it at the end.
const WRITTEN: u64 = 9;
/// A read of so many sectors holds up the next for 2 seconds: see the throttle of the host side.
const BAIT: usize = 8;
/// Where it begins: below all others, because QEMU sorts what it fetches at once.
const BAIT_AT: u64 = 16;
/// Longer than any request is held up.
const HELD_UP: Duration = Duration::from_millis(2500);
/// The longest wait for late data.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pages that are handed out while data is on its way.
const OTHERS: usize = 4096;

/// What is on the disk at an offset, as the host side has made it: words that are all different.
fn on_disk(offset: usize) -> u8 {
    let word = (offset as u64 / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[offset % 8]
}

/// What is in memory that the disk must leave alone.
fn theirs() -> Vec<u8> {
    bytes_of(Pattern::Seed(0x1a7e_0001), 0, PAGE)
}

/// What is written to the disk: all its bits turned around.
fn turned(offset: usize) -> u8 {
    !on_disk(offset)
}

/// Compares a buffer with sectors.
fn has(buffer: &[u8], sector: u64, content: fn(usize) -> u8) -> bool {
    let start = sector as usize * SECTOR;
    compare(&buffer[..SECTOR], |offset| content(start + offset)).is_ok()
}

/// `late-dma`: the whole of the promise that quarantine makes.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(2 + PLAIN + UNDER_WAY + LANDS + RESET + DETACHED + 1 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 0)?;
    let (vendor, device) = VirtioBlk::ID;
    let found = lab.machine.pci.find(vendor, device).next().cloned();
    let function = report.need("disk", found.ok_or("there is no disk"))?;
    let endpoint = match lab.machine.placement(&function) {
        Placement::Behind { endpoint, .. } => Ok(endpoint),
        Placement::NotBehind => Err("the disk is not behind the IOMMU"),
    };
    let endpoint = report.need("endpoint", endpoint)?;
    let before = Baseline::now();
    let iommu = lab.start_with("driver_starts", report, &[endpoint], None)?;
    let domain = report.need("domain", iommu.create_domain(64))?;
    let domain = Arc::new(domain);
    let device = DmaDevice::attach(&domain, endpoint, DmaLimits::default());
    let device = report.need("attach", device)?;
    let pages = platform::live_pages();

    let mut desk = Desk {
        iommu,
        domain,
        device,
        endpoint,
        function,
        lab,
    };
    let disk = desk.open();
    let mut disk = report.require("disk_is_up", disk)?;
    plain(report, &desk, &mut disk)?;
    let first = under_way(report, &desk, &mut disk, 33)?;
    lands(report, &desk, &mut disk, &first, 33)?;
    reset(report, &desk, disk, first, pages)?;
    let mut disk = report.need("disk", desk.open())?;
    detached(report, &desk, &mut disk)?;
    report.need("reset", disk.reset())?;
    // SAFETY: the only endpoint was reset after the last mapping was given up, and confirmed it.
    let released = unsafe { desk.domain.release_quarantine() };
    report.need(
        "release",
        (released.released == 1).then_some(()).ok_or(released),
    )?;

    let Desk {
        iommu,
        domain,
        device,
        ..
    } = desk;
    report.equal(
        "nothing_is_mapped_quarantined_lost_or_held",
        (
            domain.mapped(),
            domain.quarantined(),
            domain.lost(),
            platform::live_pages(),
        ),
        (0, 0, 0, pages),
    );
    drop((device, domain));
    shut_down(report, iommu, before)
}

/// Who does what here.
struct Desk {
    iommu: Iommu<KernelPlatform>,
    domain: Arc<Domain<KernelPlatform>>,
    device: DmaDevice<KernelPlatform>,
    endpoint: EndpointId,
    function: Function,
    lab: Lab,
}

impl Desk {
    fn open(&mut self) -> Result<Disk, BlockError> {
        Disk::open(&mut self.lab.machine, &self.function, &self.device)
    }

    fn page(&self, report: &mut Report) -> Checked<Pages> {
        let page = self.device.alloc(PAGE);
        report.need("memory", page.ok_or("no memory left"))
    }

    /// Many pages, all with content that is not the disk's.
    fn others(&self, report: &mut Report, count: usize) -> Checked<Vec<Pages>> {
        let content = theirs();
        let mut others = Vec::with_capacity(count);
        for _ in 0..count {
            let mut page = self.page(report)?;
            page.copy_from_slice(&content);
            others.push(page);
        }
        Ok(others)
    }
}

/// Whether nobody has written to pages that were handed out.
fn untouched(others: &[Pages]) -> bool {
    let content = theirs();
    others.iter().all(|page| peek(phys(page), PAGE) == content)
}

/// Waits for something that the disk does.
fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after(PATIENCE);
    while !condition() {
        if deadline.passed() {
            return false;
        }
        hint::spin_loop();
    }
    true
}

const PLAIN: u32 = 5;

/// Reads and writes that are waited for.
fn plain(report: &mut Report, desk: &Desk, disk: &mut Disk) -> Checked {
    report.equal("size", disk.blocks(), SECTORS);
    let seen = report.require("a_sector_is_read", disk.read(5, 1))?;
    report.that("with_what_is_on_the_disk", has(&seen, 5, on_disk));
    let mut data = desk.page(report)?;
    fill(&mut data, |offset| {
        turned(WRITTEN as usize * SECTOR + offset)
    });
    report.need("write", disk.write(WRITTEN, 1, data))?;
    let seen = report.need("read", disk.read(WRITTEN, 1))?;
    report.that("a_written_sector_is_read_back", has(&seen, WRITTEN, turned));
    no_fault("nothing_was_refused", report, &desk.iommu);
    Ok(())
}

/// A page that the disk is going to write to, although nobody says so any more.
struct Abandoned {
    phys: u64,
    iova: virtio_iommu::Iova,
    ticket: Ticket,
}

/// Has the disk begin to read a sector, and gives the buffer up.
///
/// How the disk is known to have fetched the request: the one that was submitted together with
/// it is answered.
fn abandon(report: &mut Report, desk: &Desk, disk: &mut Disk, sector: u64) -> Checked<Abandoned> {
    let (bait, page) = (desk.page(report)?, desk.page(report)?);
    let bait = report.need("map", desk.device.map(bait))?;
    let mapping = report.need("map", desk.device.map(page))?;
    let first = report.need("offer", disk.offer_read(BAIT_AT, BAIT, &bait))?;
    let ticket = report.need("offer", disk.offer_read(sector, 1, &mapping))?;
    disk.submit();
    let bait_done = report.need("bait", disk.wait(first))?;
    report.need("bait", bait_done)?;
    // SAFETY: the disk has answered.
    back(report, unsafe { bait.complete() }.unmap())?;

    let iova = mapping.device_addr();
    let place = desk.domain.translate(iova).ok_or("not mapped");
    let (place, _) = report.need("translate", place)?;
    let ((), cost) = Cost::measure(|| drop(mapping));
    report.need("unmap", (cost == Cost::of(1, 1)).then_some(()).ok_or(cost))?;
    let done = report.need("poll", disk.is_done(&ticket))?;
    report.need("still_under_way", (!done).then_some(()).ok_or("too slow"))?;
    Ok(Abandoned {
        phys: place.0,
        iova,
        ticket,
    })
}

const UNDER_WAY: u32 = 4;

/// An unmapped page of which the disk has yet to hear.
fn under_way(report: &mut Report, desk: &Desk, disk: &mut Disk, sector: u64) -> Checked<Abandoned> {
    let pages = platform::live_pages();
    let victim = abandon(report, desk, disk, sector)?;
    report.pass("a_buffer_is_dropped_while_the_disk_reads");
    report.equal("it_is_unmapped", desk.domain.translate(victim.iova), None);
    report.equal("and_quarantined", desk.domain.quarantined(), 1);
    report.equal("with_its_page", platform::live_pages(), pages + 1);
    Ok(victim)
}

const LANDS: u32 = 7;

/// The data arrives: in the page that nobody was given.
fn lands(
    report: &mut Report,
    desk: &Desk,
    disk: &mut Disk,
    victim: &Abandoned,
    sector: u64,
) -> Checked {
    let began = clock::now();
    let others = desk.others(report, OTHERS)?;
    println!(
        "{OTHERS} pages handed out in {} ms",
        (clock::now() - began) / 1_000_000
    );
    report.that(
        "the_page_is_not_handed_out",
        others.iter().all(|page| phys(page) != victim.phys),
    );
    let early = compare(&peek(victim.phys, PAGE), |_| 0);
    let done = report.need("poll", disk.is_done(&victim.ticket))?;
    report.equal("data_is_still_to_come", (early, done), (Ok(()), false));
    let answered = wait_until(|| disk.is_done(&victim.ticket).unwrap_or(true));
    report.that("the_disk_says_that_it_is_done", answered);
    println!(
        "late data {} ms after the UNMAP",
        (clock::now() - began) / 1_000_000
    );
    let late = peek(victim.phys, PAGE);
    report.that(
        "late_data_is_in_the_quarantined_page",
        has(&late, sector, on_disk) && late[SECTOR..].iter().all(|byte| *byte == 0),
    );
    report.that("and_in_no_page_that_was_handed_out", untouched(&others));
    no_fault("the_iommu_has_seen_nothing", report, &desk.iommu);
    let more = desk.others(report, OTHERS / 8)?;
    report.that(
        "the_page_is_still_not_handed_out",
        desk.domain.quarantined() == 1 && more.iter().all(|page| phys(page) != victim.phys),
    );
    Ok(())
}

const RESET: u32 = 8;

/// The only way out of quarantine: the word of the disk, by its reset.
fn reset(
    report: &mut Report,
    desk: &Desk,
    mut disk: Disk,
    first: Abandoned,
    pages: usize,
) -> Checked {
    // Another read is under way when the reset begins.
    let second = abandon(report, desk, &mut disk, 77)?;
    let waiting = desk.domain.quarantined();
    report.equal("two_pages_are_quarantined", waiting, 2);
    report.require("the_disk_confirms_its_reset", disk.reset())?;
    let quiet = peek(second.phys, PAGE);
    // SAFETY: the only endpoint was reset after both mappings were given up, and confirmed it.
    let released = unsafe { desk.domain.release_quarantine() };
    report.equal(
        "the_quarantine_ends",
        (released.released, released.kept),
        (2, 0),
    );
    report.equal(
        "the_ledger_is_empty",
        (desk.domain.mapped(), desk.domain.quarantined()),
        (0, 0),
    );
    report.equal("every_page_came_back", platform::live_pages(), pages);

    let others = desk.others(report, OTHERS)?;
    let again = |phys_of: u64| others.iter().any(|page| phys(page) == phys_of);
    report.that(
        "the_pages_are_handed_out_again",
        again(first.phys) && again(second.phys),
    );
    let deadline = Deadline::after(HELD_UP);
    while !deadline.passed() {
        hint::spin_loop();
    }
    report.that("nothing_arrives_any_more", untouched(&others));
    no_fault("nothing_was_refused", report, &desk.iommu);
    let drained = has(&quiet, 77, on_disk);
    println!(
        "the read that was under way {} before the reset was confirmed",
        if drained { "ended" } else { "was given up" }
    );
    Ok(())
}

const DETACHED: u32 = 5;

/// DETACH comes too late as well.
fn detached(report: &mut Report, desk: &Desk, disk: &mut Disk) -> Checked {
    let victim = abandon(report, desk, disk, 101)?;
    report.require("the_disk_is_detached", desk.domain.detach(desk.endpoint))?;
    let early = compare(&peek(victim.phys, PAGE), |_| 0);
    report.equal("before_the_data_arrives", early, Ok(()));
    let arrived = wait_until(|| has(&peek(victim.phys, SECTOR), 101, on_disk));
    report.that("it_arrives_all_the_same", arrived);
    // The answer does not: the ring is resolved when it is used.
    let deadline = Deadline::after(Duration::from_millis(200));
    while !deadline.passed() {
        hint::spin_loop();
    }
    let done = report.need("poll", disk.is_done(&victim.ticket))?;
    let faults = drain(&desk.iommu);
    let of_the_ring = faults
        .iter()
        .all(|fault| fault.endpoint == desk.endpoint && NO_DOMAIN.contains(&fault.reason));
    report.equal(
        "without_an_answer_and_with_faults_for_the_ring_alone",
        (done, of_the_ring, faults.is_empty()),
        (false, true, false),
    );
    report.require(
        "the_disk_is_attached_again",
        desk.domain.attach(desk.endpoint),
    )?;
    Ok(())
}
