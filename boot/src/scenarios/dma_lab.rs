//! What the scenarios of the DMA API start from: one `edu`, attached, and a place where what it
//! reads can be seen.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use virtio_iommu::dma::{DmaBuffer, DmaDevice, DmaLimits, FromDevice, Mapping, PageBuf, ToDevice};
use virtio_iommu::{Access, Domain, DomainOptions, EndpointId, Iommu, UnmapError};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, shut_down};
use crate::arch::Firmware;
use crate::buffer::{Difference, Pattern};
use crate::counted;
use crate::edu::Edu;
use crate::logger;
use crate::memory::direct_map;
use crate::platform::KernelPlatform;
use crate::refusal::{NO_MAPPING, Refusal};
use crate::report::{Checked, Report};

/// The size of a page, and the granule of the IOMMU, in bytes.
pub const PAGE: usize = 4096;

/// Pages of the kernel that can be mapped.
pub type Pages = PageBuf<KernelPlatform>;

/// How many checks [`Bench::open`] and [`Bench::close`] do.
pub const BENCH_CHECKS: u32 = 2 + SHUT_DOWN_CHECKS;

/// One `edu` behind a running driver.
pub struct Bench {
    /// The device that does DMA.
    pub edu: Edu,
    /// Its name at the IOMMU.
    pub endpoint: EndpointId,
    /// The driver.
    pub iommu: Iommu<KernelPlatform>,
    /// What its driver maps buffers with.
    pub device: DmaDevice<KernelPlatform>,
    /// Where the device writes what it has read.
    seen: Mapping<Pages, FromDevice, KernelPlatform>,
    /// Where the device reads what it shall write.
    given: Mapping<Pages, ToDevice, KernelPlatform>,
    before: Baseline,
    /// Was there before, and is there afterwards.
    _lab: Lab,
}

impl Bench {
    /// Starts the driver for one `edu` with the address bits that it has by default: one check.
    pub fn open(report: &mut Report, firmware: &Firmware, options: DomainOptions) -> Checked<Self> {
        let mut lab = Lab::open(report, firmware, 1)?;
        let endpoint = lab.endpoints(report)?[0];
        let before = Baseline::now();
        let iommu = lab.start(report)?;
        let domain = Arc::new(report.need("domain", iommu.create_domain(options))?);
        let limits = DmaLimits::address_bits(28);
        let device = DmaDevice::attach(&domain, endpoint, limits);
        let device = report.need("attach", device)?;
        let seen = device.map(pages(report, &device, 1)?);
        let given = device.map(pages(report, &device, 1)?);
        let edu = report.need("edu", lab.edus.pop().ok_or("it is gone"))?;
        Ok(Self {
            edu,
            _lab: lab,
            endpoint,
            iommu,
            device,
            seen: report.need("map", seen)?,
            given: report.need("map", given)?,
            before,
        })
    }

    /// The address space.
    pub fn domain(&self) -> Arc<Domain<KernelPlatform>> {
        self.device.domain().clone()
    }

    /// Zeroed pages.
    pub fn pages(&self, report: &mut Report, count: usize) -> Checked<Pages> {
        pages(report, &self.device, count)
    }

    /// Pages with a pattern.
    pub fn filled(&self, report: &mut Report, count: usize, pattern: Pattern) -> Checked<Pages> {
        let mut pages = self.pages(report, count)?;
        fill(&mut pages, |offset| pattern.at(offset));
        Ok(pages)
    }

    /// What the device reads at an address.
    pub fn read(&mut self, report: &mut Report, from: u64, len: usize) -> Checked<Vec<u8>> {
        // What a refused write would leave there is not taken for what was read.
        let stale = self.seen.write(0, &[0xee; PAGE]);
        report.need("reset_of_what_was_seen", stale.then_some(()).ok_or(len))?;
        let to = self.seen.device_addr().0;
        report.need("edu_copies", self.edu.copy(from, to, len))?;
        let mut bytes = vec![0; len];
        let copied = self.seen.read(0, &mut bytes);
        report.need("seen", copied.then_some(bytes).ok_or(len))
    }

    /// Has the device write bytes to an address.
    pub fn write(&mut self, report: &mut Report, to: u64, bytes: &[u8]) -> Checked {
        let copied = self.given.write(0, bytes);
        report.need("given", copied.then_some(()).ok_or(bytes.len()))?;
        let from = self.given.device_addr().0;
        report.need("edu_copies", self.edu.copy(from, to, bytes.len()))
    }

    /// An access of the device that has to be refused.
    pub fn refusal(&self, access: Access, start: u64, len: usize) -> Refusal {
        Refusal {
            endpoint: self.endpoint,
            reasons: NO_MAPPING,
            start,
            len: len as u64,
            access,
        }
    }

    /// Has the device read where it may not: it reads zeros, and the IOMMU reports it. One check.
    pub fn refuse_read(
        &mut self,
        name: &str,
        report: &mut Report,
        from: u64,
        len: usize,
    ) -> Checked {
        let bytes = self.read(report, from, len)?;
        report.need("zeros_are_read", compare(&bytes, |_| 0))?;
        let refusal = self.refusal(Access::READ, from, len);
        refusal.check(name, report, &self.iommu);
        Ok(())
    }

    /// Has the device write where it may not, and sees that it is reported: one check. Who has
    /// the memory has to see that it is as it was.
    pub fn refuse_write(
        &mut self,
        name: &str,
        report: &mut Report,
        to: u64,
        bytes: &[u8],
    ) -> Checked {
        self.write(report, to, bytes)?;
        let refusal = self.refusal(Access::WRITE, to, bytes.len());
        refusal.check(name, report, &self.iommu);
        Ok(())
    }

    /// Stops the driver, after which nothing must be left.
    pub fn close(self, report: &mut Report) -> Checked {
        // SAFETY: every transfer that the device was told of has ended.
        let seen = unsafe { self.seen.complete() }.unmap();
        report.need("unmap", seen)?;
        // SAFETY: as above.
        let given = unsafe { self.given.complete() }.unmap();
        report.need("unmap", given)?;
        let domain = self.device.domain();
        report.equal(
            "nothing_is_mapped_quarantined_or_lost",
            (domain.mapped(), domain.quarantined(), domain.lost()),
            (0, 0, 0),
        );
        drop(self.device);
        shut_down(report, self.iommu, self.before)
    }
}

fn pages(report: &mut Report, device: &DmaDevice<KernelPlatform>, count: usize) -> Checked<Pages> {
    let pages = device.alloc(count * PAGE);
    report.need("memory", pages.ok_or("no memory left"))
}

/// A buffer comes back after its transfers; not worth a record when it does.
pub fn back<B>(report: &mut Report, result: Result<B, UnmapError>) -> Checked<B> {
    report.need("buffer_comes_back", result)
}

/// Writes over memory, byte by byte.
pub fn fill(bytes: &mut [u8], content: impl Fn(usize) -> u8) {
    for (offset, byte) in bytes.iter_mut().enumerate() {
        *byte = content(offset);
    }
}

/// `len` bytes of a pattern, from an offset.
pub fn bytes_of(pattern: Pattern, offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| pattern.at(at)).collect()
}

/// Compares memory, byte by byte, with what is expected at each offset.
///
/// # Errors
///
/// The first difference.
pub fn compare(bytes: &[u8], expected: impl Fn(usize) -> u8) -> Result<(), Difference> {
    let difference = |(offset, &seen): (usize, &u8)| {
        let expected = expected(offset);
        (seen != expected).then_some(Difference {
            offset,
            expected,
            seen,
        })
    };
    let first = bytes.iter().enumerate().find_map(difference);
    first.map_or(Ok(()), Err)
}

/// Where the first byte of a buffer is, physically.
pub fn phys(buffer: &Pages) -> u64 {
    let first = buffer.pieces().next();
    first.map_or(0, |piece| piece.phys.start().0)
}

/// What is in memory that may belong to nobody, or to a device.
pub fn peek(phys: u64, len: usize) -> Vec<u8> {
    let Some(first) = direct_map::pointer(phys, len as u64) else {
        return Vec::new();
    };
    let byte = |offset| {
        // SAFETY: the direct map covers the bytes.
        let at = unsafe { first.byte_add(offset) };
        // SAFETY: it is memory; whoever else uses it is a device, or nobody.
        unsafe { at.read_volatile() }
    };
    (0..len).map(byte).collect()
}

/// What something costs: requests, and accesses to registers of the IOMMU, of which a
/// notification is the only one on these ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Requests.
    pub requests: usize,
    /// Notifications.
    pub kicks: u64,
}

impl Cost {
    /// Nothing.
    pub const NONE: Self = Self::of(0, 0);

    /// So much.
    pub const fn of(requests: usize, kicks: u64) -> Self {
        Self { requests, kicks }
    }

    /// What `work` costs.
    pub fn measure<R>(work: impl FnOnce() -> R) -> (R, Self) {
        let (requests, accesses) = (logger::requests(), counted::accesses());
        let result = work();
        let cost = Self {
            requests: logger::requests() - requests,
            kicks: counted::accesses() - accesses,
        };
        (result, cost)
    }
}
