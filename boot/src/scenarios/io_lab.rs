//! What the scenarios of disks start from: drives behind the IOMMU, each in a domain of its own,
//! with contents that the host side knows, too.

use alloc::sync::Arc;
use alloc::vec::Vec;

use virtio_iommu::dma::{DmaDevice, DmaLimits};
use virtio_iommu::topology::Placement;
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{Domain, DomainOptions, EndpointId, Iommu, IovaRange};

use super::dma_lab::{PAGE, Pages, phys};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, shut_down};
use crate::arch::Firmware;
use crate::block::{BlockDevice, BlockError, Failed, Finished, Operation, Route, Segment};
use crate::platform::KernelPlatform;
use crate::report::{Checked, Report};

/// The size of a sector, in bytes: the block of all drives here.
pub const SECTOR: usize = 512;
/// The size of each drive, in sectors.
pub const SECTORS: u64 = 8192;
/// The first of the sectors that are turned around, and how many: the host side looks at them.
pub const WRITTEN: u64 = 4096;
/// As much as is written there.
pub const WRITTEN_SECTORS: u64 = 640;

/// Which bytes are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As the host side has made them.
    Fresh,
    /// All bits turned around.
    Turned,
}

/// What is on the drive with a number at an offset, a multiple of 8: words that are all different.
fn word(number: u32, offset: usize, state: State) -> [u8; 8] {
    let count = (offset / 8 + 1) as u64 | u64::from(number) << 32;
    let word = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    match state {
        State::Fresh => word.to_le_bytes(),
        State::Turned => (!word).to_le_bytes(),
    }
}

/// Fills a buffer with what is on a drive from a sector on.
pub fn load(bytes: &mut [u8], number: u32, sector: u64, state: State) {
    let start = sector as usize * SECTOR;
    for (index, bytes) in bytes.chunks_mut(8).enumerate() {
        let word = word(number, start + 8 * index, state);
        bytes.copy_from_slice(&word[..bytes.len()]);
    }
}

/// Whether a buffer has what is on a drive from a sector on.
pub fn holds(bytes: &[u8], number: u32, sector: u64, state: State) -> bool {
    let start = sector as usize * SECTOR;
    let mut words = bytes.chunks(8).enumerate();
    words.all(|(index, bytes)| {
        let word = word(number, start + 8 * index, state);
        bytes == &word[..bytes.len()]
    })
}

/// The same for a list of buffers.
pub fn all_hold(list: &[Pages], number: u32, sector: u64, state: State) -> bool {
    let mut at = sector;
    list.iter().all(|pages| {
        let held = holds(pages, number, at, state);
        at += (pages.len() / SECTOR) as u64;
        held
    })
}

/// The same for a list of buffers that are filled.
pub fn load_all(list: &mut [Pages], number: u32, sector: u64, state: State) {
    let mut at = sector;
    for pages in list {
        load(pages, number, at, state);
        at += (pages.len() / SECTOR) as u64;
    }
}

/// How the memory of a transfer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One page.
    Page,
    /// 32 pages in a row.
    Contiguous,
    /// 32 pages of which no two are neighbours.
    Scattered,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Page, Self::Contiguous, Self::Scattered];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Page => "4k",
            Self::Contiguous => "128k_contiguous",
            Self::Scattered => "128k_scattered",
        }
    }

    /// Its size, in sectors.
    pub const fn sectors(self) -> usize {
        match self {
            Self::Page => PAGE / SECTOR,
            Self::Contiguous | Self::Scattered => 32 * PAGE / SECTOR,
        }
    }

    /// How many runs of pages it has.
    pub const fn runs(self) -> usize {
        match self {
            Self::Page | Self::Contiguous => 1,
            Self::Scattered => 32,
        }
    }

    /// Where it is written to: each has a place of its own.
    pub const fn place(self) -> u64 {
        WRITTEN
            + match self {
                Self::Page => 0,
                Self::Contiguous => 128,
                Self::Scattered => 128 + 256,
            }
    }

    /// Memory of that shape.
    pub fn pages(
        self,
        report: &mut Report,
        device: &DmaDevice<KernelPlatform>,
    ) -> Checked<Vec<Pages>> {
        let run = |report: &mut Report, bytes: usize| {
            let pages = device.alloc(bytes);
            report.need("memory", pages.ok_or("no memory left"))
        };
        if self != Self::Scattered {
            let bytes = self.sectors() * SECTOR;
            return Ok(alloc::vec![run(report, bytes)?]);
        }
        let mut pages = Vec::new();
        for _ in 0..2 * self.runs() {
            pages.push(run(report, PAGE)?);
        }
        // Between two of these is at least one that is not.
        pages.sort_by_key(phys);
        Ok(pages.into_iter().step_by(2).collect())
    }
}

/// Segments of a mapping, as a disk takes them.
pub fn segments(
    report: &mut Report,
    ranges: impl Iterator<Item = IovaRange>,
) -> Checked<Vec<Segment>> {
    let segments: Option<Vec<Segment>> = ranges.map(Segment::of).collect();
    report.need("segments", segments.ok_or("one is too long"))
}

/// An endpoint with a domain of its own, and a disk in it.
pub struct Place {
    /// The function.
    pub function: Function,
    /// Its name at the IOMMU.
    pub endpoint: EndpointId,
    /// What buffers are mapped with.
    pub device: DmaDevice<KernelPlatform>,
}

impl Place {
    /// Finds functions by their ids, and their endpoints.
    pub fn find(
        report: &mut Report,
        lab: &Lab,
        (vendor, device): (u16, u16),
    ) -> Checked<Vec<(Function, EndpointId)>> {
        let mut found = Vec::new();
        for function in lab.machine.pci.find(vendor, device) {
            let endpoint = match lab.machine.placement(function) {
                Placement::Behind { endpoint, .. } => Ok(endpoint),
                Placement::NotBehind => Err("the disk is not behind the IOMMU"),
            };
            let endpoint = report.need("endpoint", endpoint)?;
            found.push((function.clone(), endpoint));
        }
        Ok(found)
    }

    /// Attaches an endpoint to a new domain.
    pub fn attach(
        report: &mut Report,
        iommu: &Iommu<KernelPlatform>,
        function: Function,
        endpoint: EndpointId,
        options: DomainOptions,
    ) -> Checked<Self> {
        let domain = report.need("domain", iommu.create_domain(options))?;
        let device = DmaDevice::attach(&Arc::new(domain), endpoint, DmaLimits::default());
        Ok(Self {
            function,
            endpoint,
            device: report.need("attach", device)?,
        })
    }

    /// Brings the disk up.
    pub fn open<D: BlockDevice>(&self, lab: &mut Lab) -> Result<D, BlockError> {
        let route = Route::Translated(&self.device);
        D::open(&mut lab.machine, &self.function, route)
    }

    /// The address space.
    pub fn domain(&self) -> &Arc<Domain<KernelPlatform>> {
        self.device.domain()
    }
}

/// Shows a disk one request, and waits for its answer.
pub fn transfer<D: BlockDevice>(
    disk: &mut D,
    operation: Operation,
    first: u64,
    segments: &[Segment],
) -> Result<Result<(), Failed>, BlockError> {
    let bytes: usize = segments.iter().map(|segment| segment.bytes as usize).sum();
    let ticket = disk.offer(operation, first, bytes / disk.block_size(), segments)?;
    disk.submit();
    let (finished, done) = disk.wait()?;
    if finished != ticket {
        return Err(BlockError::Nonsense(finished.number() as u32));
    }
    Ok(done)
}

/// The same, for requests that have to be done.
pub fn done<D: BlockDevice>(
    report: &mut Report,
    disk: &mut D,
    operation: Operation,
    first: u64,
    segments: &[Segment],
) -> Checked {
    let done = transfer(disk, operation, first, segments);
    let done = report.need("transfer", done)?;
    report.need("transfer", done)
}

/// Waits for requests that have to be done, in whatever order, and says in which.
pub fn all_done<D: BlockDevice>(
    report: &mut Report,
    disk: &mut D,
    count: usize,
) -> Checked<Vec<Finished>> {
    let mut order = Vec::new();
    for _ in 0..count {
        let (ticket, done) = report.need("wait", disk.wait())?;
        report.need("transfer", done)?;
        order.push((ticket, done));
    }
    Ok(order)
}

/// How many checks [`Shelf::open`] and [`Shelf::close`] do.
pub const SHELF_CHECKS: u32 = 5 + SHUT_DOWN_CHECKS;

/// One drive behind the IOMMU, number 0, and its driver.
pub struct Shelf<D> {
    /// The machine.
    pub lab: Lab,
    /// The driver of the IOMMU.
    pub iommu: Iommu<KernelPlatform>,
    /// Where the disk is.
    pub place: Place,
    /// The disk.
    pub disk: D,
    before: Baseline,
}

impl Shelf<()> {
    /// Brings the disk up.
    pub fn reopen<D: BlockDevice>(mut self, report: &mut Report) -> Checked<Shelf<D>> {
        let disk = self.place.open::<D>(&mut self.lab);
        let disk = report.need("disk", disk)?;
        let Self {
            lab,
            iommu,
            place,
            before,
            ..
        } = self;
        Ok(Shelf {
            lab,
            iommu,
            place,
            disk,
            before,
        })
    }
}

impl<D: BlockDevice> Shelf<D> {
    /// Starts the drivers of the IOMMU and of the only drive of its kind: three checks.
    pub fn open(report: &mut Report, firmware: &Firmware, options: DomainOptions) -> Checked<Self> {
        let mut lab = Lab::open(report, firmware, 0)?;
        let mut others = Place::find(report, &lab, D::ID)?;
        let found = others.pop().filter(|_| others.is_empty());
        let (function, endpoint) = report.need("disk", found.ok_or("not exactly one"))?;
        drop(others);
        let before = Baseline::now();
        let iommu = lab.start_with("driver_starts", report, &[endpoint], None)?;
        let place = Place::attach(report, &iommu, function, endpoint, options)?;
        let disk = place.open::<D>(&mut lab);
        let disk = report.require("disk_is_up", disk)?;
        let size = (disk.block_size(), disk.blocks());
        report.equal("size", size, (SECTOR, SECTORS));
        Ok(Self {
            lab,
            iommu,
            place,
            disk,
            before,
        })
    }

    /// The disk, and all else.
    pub fn into_parts(self) -> (D, Shelf<()>) {
        let Self {
            lab,
            iommu,
            place,
            disk,
            before,
        } = self;
        let rest = Shelf {
            lab,
            iommu,
            place,
            disk: (),
            before,
        };
        (disk, rest)
    }

    /// Stops both drivers, after which nothing must be left.
    pub fn close(self, report: &mut Report) -> Checked {
        let (disk, rest) = self.into_parts();
        report.require("disk_confirms_its_reset", disk.close())?;
        let domain = rest.place.domain();
        report.equal(
            "nothing_is_mapped_quarantined_or_lost",
            (domain.mapped(), domain.quarantined(), domain.lost()),
            (0, 0, 0),
        );
        let Place {
            function, device, ..
        } = rest.place;
        drop(device);
        shut_down(report, rest.iommu, rest.before)?;
        // It was there before.
        drop(function);
        Ok(())
    }
}
