//! Many devices behind one IOMMU, each in a domain of its own, some of which misbehave.

use alloc::format;
use alloc::vec::Vec;

use virtio_iommu::dma::{Bidirectional, DmaDevice, Mapping};
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{Access, DomainOptions, EndpointId, Fault, Iommu, Iova};

use super::dma_lab::{PAGE, Pages, back, compare, fill, peek, phys};
use super::io_lab::{Place, SECTOR, SECTORS, Shape, State, WRITTEN, all_hold, load_all, segments};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, done, shut_down};
use crate::arch::Firmware;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::block::{BlockDevice, BlockError, Failed, Operation, Segment, Ticket};
use crate::buffer::Pattern;
use crate::edu::Edu;
use crate::platform::KernelPlatform;
use crate::refusal::{NO_MAPPING, Refusal, drain, no_fault};
use crate::report::{Checked, Report};

/// Of each kind of disk.
const EACH: usize = 2;
/// What each disk may reach besides its data, in pages: more than QEMU makes up for in a virtio
/// device that reaches for it without leave.
const SECRET_PAGES: usize = 4;
/// What is there.
const SECRET: Pattern = Pattern::Seed(0x3a2d_0001);
/// What the `edu` would write over it.
const GRAFFITI: Pattern = Pattern::Seed(0x3a2d_0002);
/// As much as it tries, in bytes.
const ATTEMPT: usize = 64;
/// Sectors of a page.
const PER_PAGE: usize = PAGE / SECTOR;

type Single = Mapping<Pages, Bidirectional, KernelPlatform>;
type Data = Mapping<Vec<Pages>, Bidirectional, KernelPlatform>;

/// `many-devices`: all work at once; one that misbehaves is contained, and the others go on.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(2 + 4 * ROUND + PRYING + 2 * BROKEN + 1 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let blks = Place::find(report, &lab, VirtioBlk::ID)?;
    let nvmes = Place::find(report, &lab, Nvme::ID)?;
    report.equal("disks", (blks.len(), nvmes.len()), (EACH, EACH));
    let own = lab.endpoints(report)?[0];
    let disks = blks.iter().chain(&nvmes);
    let mut endpoints: Vec<EndpointId> = disks.map(|(_, endpoint)| *endpoint).collect();
    endpoints.push(own);
    let before = Baseline::now();
    let iommu = lab.start_with("driver_starts", report, &endpoints, None)?;
    let mut blk = Group::<VirtioBlk>::open(report, &mut lab, &iommu, &blks, 0)?;
    let mut nvme = Group::<Nvme>::open(report, &mut lab, &iommu, &nvmes, EACH)?;

    round(report, &iommu, (&mut blk, &mut nvme), "at_first")?;
    prying(report, &mut lab.edus[0], own, &iommu, (&blk, &nvme))?;
    blk.break_one(report, &iommu, Err(BlockError::NeedsReset), "blk")?;
    round(
        report,
        &iommu,
        (&mut blk, &mut nvme),
        "while_a_blk_is_broken",
    )?;
    blk.repair(report, &mut lab, "blk")?;
    // QEMU drops what cannot be transferred, and does not tell: only the IOMMU does.
    nvme.break_one(report, &iommu, Ok(Ok(())), "nvme")?;
    round(
        report,
        &iommu,
        (&mut blk, &mut nvme),
        "while_an_nvme_is_broken",
    )?;
    nvme.repair(report, &mut lab, "nvme")?;
    round(report, &iommu, (&mut blk, &mut nvme), "at_last")?;

    let left = blk.close(report)? + nvme.close(report)?;
    report.equal("nothing_is_mapped_quarantined_or_lost", left, 0);
    shut_down(report, iommu, before)?;
    // They were there before.
    drop((blks, nvmes, endpoints));
    Ok(())
}

/// One disk, and memory that it may reach and was not told of.
struct Unit<D> {
    place: Place,
    number: u32,
    /// `None` while it is broken.
    disk: Option<D>,
    /// What it was broken with.
    broken: Option<D>,
    secret: Single,
    /// Where that is in memory.
    phys: u64,
    /// How many pages were written to the disk.
    written: u64,
}

/// Something that a disk does.
struct UnderWay {
    ticket: Ticket,
    data: Data,
}

impl<D: BlockDevice> Unit<D> {
    fn open(
        report: &mut Report,
        lab: &mut Lab,
        iommu: &Iommu<KernelPlatform>,
        (function, endpoint): &(Function, EndpointId),
        number: usize,
    ) -> Checked<Self> {
        let options = DomainOptions::new(64);
        let place = Place::attach(report, iommu, function.clone(), *endpoint, options)?;
        let disk = report.need("disk", place.open::<D>(lab))?;
        let size = (disk.block_size(), disk.blocks());
        let right = size == (SECTOR, SECTORS);
        report.need("size", right.then_some(()).ok_or(size))?;

        // In each domain at another address.
        let gap = map(report, &place.device, 1 + 2 * SECRET_PAGES * number)?;
        let pages = place.device.alloc(SECRET_PAGES * PAGE);
        let mut pages = report.need("memory", pages.ok_or("no memory left"))?;
        fill(&mut pages, |offset| SECRET.at(offset));
        let phys = phys(&pages);
        let secret = report.need("map", place.device.map(pages))?;
        // SAFETY: the disk was never told of it.
        back(report, unsafe { gap.complete() }.unmap())?;
        Ok(Self {
            place,
            number: number as u32,
            disk: Some(disk),
            broken: None,
            secret,
            phys,
            written: 0,
        })
    }

    /// Whether nobody has written where the disk may reach.
    fn is_whole(&self) -> bool {
        let seen = peek(self.phys, SECRET_PAGES * PAGE);
        compare(&seen, |offset| SECRET.at(offset)).is_ok()
    }

    /// Where the next page goes.
    fn place_on_disk(&self) -> u64 {
        WRITTEN + PER_PAGE as u64 * self.written
    }

    /// Begins to write a page, or to read it back, if the disk works.
    fn begin(&mut self, report: &mut Report, operation: Operation) -> Checked<Option<UnderWay>> {
        let at = self.place_on_disk();
        let Some(disk) = &mut self.disk else {
            return Ok(None);
        };
        let mut pages = Shape::Page.pages(report, &self.place.device)?;
        if operation == Operation::Write {
            load_all(&mut pages, self.number, at, State::Turned);
        }
        let data: Data = report.need("map", self.place.device.map(pages))?;
        let list = segments(report, data.segments())?;
        let ticket = disk.offer(operation, at, PER_PAGE, &list);
        let ticket = report.need("offer", ticket)?;
        disk.submit();
        Ok(Some(UnderWay { ticket, data }))
    }

    /// Waits for it. Whether the page is right.
    fn finish(&mut self, report: &mut Report, under_way: UnderWay) -> Checked<bool> {
        let at = self.place_on_disk();
        let UnderWay { ticket, data } = under_way;
        let disk = report.need("disk", self.disk.as_mut().ok_or("it is broken"))?;
        let (finished, result) = report.need("wait", disk.wait())?;
        report.need("transfer", result)?;
        report.need("ticket", (finished == ticket).then_some(()).ok_or(finished))?;
        // SAFETY: the disk has said that it is done.
        let pages = back(report, unsafe { data.complete() }.unmap())?;
        Ok(all_hold(&pages, self.number, at, State::Turned))
    }
}

/// All disks of a kind.
struct Group<D>(Vec<Unit<D>>);

const BROKEN: u32 = 6;

impl<D: BlockDevice> Group<D> {
    fn open(
        report: &mut Report,
        lab: &mut Lab,
        iommu: &Iommu<KernelPlatform>,
        found: &[(Function, EndpointId)],
        first: usize,
    ) -> Checked<Self> {
        let mut units = Vec::new();
        for (index, one) in found.iter().enumerate() {
            units.push(Unit::open(report, lab, iommu, one, first + index)?);
        }
        Ok(Self(units))
    }

    fn begin(
        &mut self,
        report: &mut Report,
        operation: Operation,
    ) -> Checked<Vec<Option<UnderWay>>> {
        let units = self.0.iter_mut();
        units.map(|unit| unit.begin(report, operation)).collect()
    }

    /// How many pages were right.
    fn finish(&mut self, report: &mut Report, all: Vec<Option<UnderWay>>) -> Checked<usize> {
        let mut right = 0;
        for (unit, under_way) in self.0.iter_mut().zip(all) {
            if let Some(under_way) = under_way {
                right += usize::from(unit.finish(report, under_way)?);
            }
        }
        Ok(right)
    }

    fn working(&self) -> usize {
        let disks = self.0.iter();
        disks.filter(|unit| unit.disk.is_some()).count()
    }

    fn next_page(&mut self) {
        let units = self.0.iter_mut().filter(|unit| unit.disk.is_some());
        units.for_each(|unit| unit.written += 1);
    }

    fn is_whole(&self) -> bool {
        self.0.iter().all(Unit::is_whole)
    }

    /// Has the first disk write over what the second may reach, in the middle of a transfer.
    fn break_one(
        &mut self,
        report: &mut Report,
        iommu: &Iommu<KernelPlatform>,
        expected: Result<Result<(), Failed>, BlockError>,
        name: &str,
    ) -> Checked {
        let name = |what: &str| format!("{name}_{what}");
        let [first, second] = &mut self.0[..] else {
            return report.need("two", Err("not two disks"));
        };
        let hole = second.secret.device_addr();
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(map(report, &first.place.device, 1)?);
        }
        let domain = first.place.domain();
        let pages = (0..SECRET_PAGES as u64).map(|page| Iova(hole.0 + page * PAGE as u64));
        let known = pages.filter(|page| domain.translate(*page).is_some());
        report.equal(&name("knows_nothing_of_the_other"), known.count(), 0);

        let list = [
            Segment::new(ends[0].device_addr().0, PAGE as u32),
            Segment::new(hole.0, (SECRET_PAGES * PAGE) as u32),
            Segment::new(ends[1].device_addr().0, PAGE as u32),
        ];
        let mut disk = report.need("disk", first.disk.take().ok_or("it is broken"))?;
        let sectors = (2 + SECRET_PAGES) * PER_PAGE;
        let ticket = report.need("offer", disk.offer(Operation::Read, 0, sectors, &list))?;
        disk.submit();
        let ended = disk.wait();
        let ended = ended.map(|(finished, done)| (finished == ticket).then_some(done));
        report.equal(&name("ends"), ended, expected.map(Some));
        let faults = drain(iommu);
        let fits = |fault: &Fault| {
            let offset = fault.address.and_then(|at| at.0.checked_sub(hole.0));
            fault.endpoint == first.place.endpoint
                && NO_MAPPING.contains(&fault.reason)
                && offset.is_some_and(|offset| offset < (SECRET_PAGES * PAGE) as u64)
        };
        let odd = faults.iter().find(|fault| !fits(fault));
        report.equal(
            &name("is_reported"),
            (faults.is_empty(), odd),
            (false, None),
        );
        first.broken = Some(disk);
        // Nobody has said that the disk is done with these.
        drop(ends);
        report.equal(&name("is_quarantined"), domain.quarantined(), 2);
        Ok(())
    }

    /// Resets the disk that was broken, and opens it again.
    fn repair(&mut self, report: &mut Report, lab: &mut Lab, name: &str) -> Checked {
        let name = |what: &str| format!("{name}_{what}");
        let unit = self.0.first_mut();
        let unit = report.need("one", unit.ok_or("no disk"))?;
        let disk = report.need("broken", unit.broken.take().ok_or("it is not"))?;
        report.require(&name("is_reset"), disk.close())?;
        // SAFETY: the only endpoint was reset after the last mapping was given up, and confirmed it.
        let end = unsafe { unit.place.domain().release_quarantine() };
        report.equal(&name("is_released"), (end.released, end.kept), (2, 0));
        unit.disk = Some(report.need("disk", unit.place.open::<D>(lab))?);
        Ok(())
    }

    /// Resets all, and says what is left in their domains.
    fn close(self, report: &mut Report) -> Checked<usize> {
        let mut left = 0;
        for unit in self.0 {
            let disk = report.need("disk", unit.disk.ok_or("it is broken"))?;
            report.need("reset", disk.close())?;
            // SAFETY: the disk was reset, and never told of it.
            back(report, unsafe { unit.secret.complete() }.unmap())?;
            let domain = unit.place.domain();
            left += domain.mapped() + domain.quarantined() + domain.lost();
        }
        Ok(left)
    }
}

/// Zeroed pages that an endpoint may use.
fn map(report: &mut Report, device: &DmaDevice<KernelPlatform>, pages: usize) -> Checked<Single> {
    let pages = device.alloc(pages * PAGE);
    let pages = report.need("memory", pages.ok_or("no memory left"))?;
    report.need("map", device.map(pages))
}

const ROUND: u32 = 3;

/// All disks that work write a page and read it back, all at once.
fn round(
    report: &mut Report,
    iommu: &Iommu<KernelPlatform>,
    (blk, nvme): (&mut Group<VirtioBlk>, &mut Group<Nvme>),
    when: &str,
) -> Checked {
    let name = |what: &str| format!("{what}_{when}");
    let working = blk.working() + nvme.working();
    let mut right = 0;
    for operation in [Operation::Write, Operation::Read] {
        let all = (
            blk.begin(report, operation)?,
            nvme.begin(report, operation)?,
        );
        right += blk.finish(report, all.0)? + nvme.finish(report, all.1)?;
    }
    blk.next_page();
    nvme.next_page();
    // Both times the page was as it had to be.
    report.equal(&name("disks_write_and_read"), right, 2 * working);
    let whole = blk.is_whole() && nvme.is_whole();
    report.that(&name("nothing_else_is_touched"), whole);
    no_fault(&name("nothing_is_refused"), report, iommu);
    Ok(())
}

const PRYING: u32 = 2 + 2 * 4;

/// The `edu` goes where the disks may reach, and it may not.
fn prying(
    report: &mut Report,
    edu: &mut Edu,
    endpoint: EndpointId,
    iommu: &Iommu<KernelPlatform>,
    (blk, nvme): (&Group<VirtioBlk>, &Group<Nvme>),
) -> Checked {
    let domain = report.need("domain", iommu.create_domain(4))?;
    let domain = alloc::sync::Arc::new(domain);
    let device = DmaDevice::attach(&domain, endpoint, Default::default());
    let device = report.need("attach", device)?;
    let own = map(report, &device, 1)?;
    let at = own.device_addr().0;
    let graffiti: Vec<u8> = (0..ATTEMPT).map(|offset| GRAFFITI.at(offset)).collect();

    let of = |unit: &Single| unit.device_addr();
    let targets = blk.0.iter().map(|unit| of(&unit.secret));
    let targets = targets.chain(nvme.0.iter().map(|unit| of(&unit.secret)));
    let targets: Vec<Iova> = targets.collect();
    for target in targets {
        let known = domain.translate(target);
        report.need("not_its_own", known.map_or(Ok(()), Err))?;
        // It holds what it would write.
        let written = own.write(0, &graffiti);
        report.need("graffiti", written.then_some(()).ok_or("too short"))?;
        done(report, edu.read_memory(at, ATTEMPT))?;
        done(report, edu.write_memory(target.0, ATTEMPT))?;
        let refusal = |access| Refusal {
            endpoint,
            reasons: NO_MAPPING,
            start: target.0,
            len: ATTEMPT as u64,
            access,
        };
        refusal(Access::WRITE).check("edu_may_not_write_there", report, iommu);
        done(report, edu.read_memory(target.0, ATTEMPT))?;
        refusal(Access::READ).check("edu_may_not_read_there", report, iommu);
    }
    // What it reads last is what it holds now.
    done(report, edu.write_memory(at, ATTEMPT))?;
    let mut held = [0xee; ATTEMPT];
    let read = own.read(0, &mut held);
    report.equal("edu_has_read_nothing", (read, held), (true, [0; ATTEMPT]));
    report.that("nothing_was_written", blk.is_whole() && nvme.is_whole());
    // SAFETY: every transfer of the device has ended.
    back(report, unsafe { own.complete() }.unmap())?;
    Ok(())
}
