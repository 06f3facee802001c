//! Two CPUs, two endpoints, one IOMMU, at the same time.

use alloc::sync::Arc;
use core::time::Duration;

use virtio_iommu::{
    Access, AttachError, CreateError, Domain, EndpointId, Iommu, Iova, IovaRange, MapError,
    MapOptions, PhysRange, UnmapError,
};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, shut_down};
use crate::arch::Firmware;
use crate::buffer::{Buffer, Difference, Pattern};
use crate::cpus;
use crate::edu::{self, Edu, EduError, MAX_TRANSFER};
use crate::platform::KernelPlatform;
use crate::refusal::drain;
use crate::report::{Checked, Report};

/// The longest wait for the second CPU. An emulator that runs both in turn lets time pass meanwhile.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Address spaces that a CPU makes, uses and drops.
const ROUNDS: usize = 3;
/// Batches of mappings without DMA: in each of those address spaces, and in the shared one.
const BATCHES: usize = 50;
const SHARED_BATCHES: usize = 150;
/// The most mappings of a batch.
const PIECES: usize = 4;

const OLD: Pattern = Pattern::Byte(0x11);

/// What went wrong on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Create(CreateError),
    Attach(AttachError),
    Map(MapError),
    Unmap(UnmapError),
    Edu(EduError),
    /// DMA went elsewhere, or came from elsewhere.
    Data(Difference),
    /// An address does not lead where it was mapped to.
    Translation(Iova),
    /// Something is still mapped there, or was given up.
    Left(usize, usize),
}

/// What a CPU works with, and nobody else.
struct Side {
    edu: Edu,
    endpoint: EndpointId,
    source: Buffer,
    target: Buffer,
    /// Memory for mappings without DMA: every second page, so that none are neighbours.
    pieces: Buffer,
    seed: u32,
}

/// What a CPU has to tell: which it was, and an access of its endpoint in each round that had to
/// be refused.
type Told = (usize, Result<[Iova; ROUNDS], Failure>);

/// `two-cpus`: each CPU with its own endpoint, in address spaces of its own and in a shared one.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(11 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 2)?;
    let endpoints = lab.endpoints(report)?;
    let ids = [endpoints[0], endpoints[1]];
    drop(endpoints);
    report.that("two_endpoints", ids[0] != ids[1]);
    let first = Side::new(report, &mut lab, ids[0], 0x2c90_0000)?;
    let second = Side::new(report, &mut lab, ids[1], 0x2c91_0000)?;
    let before = Baseline::now();
    let iommu = lab.start_with("driver_starts", report, &ids, None)?;

    // Each in address spaces of its own.
    let handle = iommu.clone();
    let job = cpus::spawn(firmware, move || in_own_domains(&handle, second));
    let job = report.require("second_cpu_starts", job)?;
    let (first, told) = in_own_domains(&iommu, first);
    let (second, told_by_second) = report.require("second_cpu_comes_back", job.join(TIMEOUT))?;
    let told = [told, told_by_second];
    check(report, "own_domains", told);
    check_faults(report, &iommu, ids, told);

    // Both in the same.
    let domain = report.need("domain", iommu.create_domain(2 * (PIECES + 2)))?;
    for id in ids {
        report.need("attach", domain.attach(id))?;
    }
    let domain = Arc::new(domain);
    let shared = domain.clone();
    let job = cpus::spawn(firmware, move || in_shared_domain(&shared, second));
    let job = report.need("start", job)?;
    let (first, told) = in_shared_domain(&domain, first);
    let (second, told_by_second) = report.require("second_cpu_comes_back", job.join(TIMEOUT))?;
    check(report, "shared_domain", [told, told_by_second]);
    let left = (domain.mapped(), domain.quarantined());
    report.equal("nothing_is_left_in_it", left, (0, 0));
    let faults = drain(&iommu).len();
    report.equal("nothing_was_refused_in_it", faults, 0);
    drop(domain);
    shut_down(report, iommu, before)?;
    drop((first, second));
    Ok(())
}

impl Side {
    /// Takes the first of the devices that are left.
    fn new(report: &mut Report, lab: &mut Lab, endpoint: EndpointId, seed: u32) -> Checked<Self> {
        Ok(Self {
            edu: lab.edus.remove(0),
            endpoint,
            source: buffer(report, 4096, OLD)?,
            target: buffer(report, 4096, OLD)?,
            pieces: buffer(report, 2 * PIECES * 4096, OLD)?,
            seed,
        })
    }

    /// Maps memory, has the device copy it, and takes the mappings back; in between, mappings
    /// without DMA come and go. Returns where the target was.
    fn work(
        &mut self,
        domain: &Domain<KernelPlatform>,
        round: usize,
        batches: usize,
    ) -> Result<Iova, Failure> {
        let data = Pattern::Seed(self.seed + round as u32);
        self.source.fill(data);
        self.target.fill(OLD);
        let options = |access| MapOptions::new(access).with_limit(edu::LIMIT);
        // SAFETY: only the device of this CPU uses the buffers, which outlive the attachments.
        let from = unsafe { domain.map(self.source.range(), options(Access::READ)) };
        let from = from.map_err(Failure::Map)?;
        // SAFETY: as above.
        let to = unsafe { domain.map(self.target.range(), options(Access::WRITE)) };
        let to = to.map_err(Failure::Map)?;
        let read = self.edu.read_memory(from.start().0, MAX_TRANSFER);
        read.map_err(Failure::Edu)?;
        for batch in 0..batches / 2 {
            self.map_and_unmap(domain, batch)?;
        }
        let written = self.edu.write_memory(to.start().0, MAX_TRANSFER);
        written.map_err(Failure::Edu)?;
        let moved = |offset| match offset {
            0..MAX_TRANSFER => data.at(offset),
            _ => OLD.at(offset),
        };
        let seen = self.target.compare_part(0, self.target.len(), moved);
        seen.map_err(Failure::Data)?;
        for batch in batches / 2..batches {
            self.map_and_unmap(domain, batch)?;
        }
        domain.unmap_all(&[from, to]).map_err(Failure::Unmap)?;
        Ok(to.start())
    }

    /// A batch of mappings, which differs in size from the one before.
    fn map_and_unmap(&self, domain: &Domain<KernelPlatform>, batch: usize) -> Result<(), Failure> {
        let count = 1 + (batch + self.seed as usize) % PIECES;
        let pieces: [PhysRange; PIECES] =
            core::array::from_fn(|i| self.pieces.part(2 * i * 4096, 4096));
        let mut mapped = [IovaRange::single(Iova(0)); PIECES];
        let (pieces, mapped) = (&pieces[..count], &mut mapped[..count]);
        let options = MapOptions::new(Access::READ | Access::WRITE);
        // SAFETY: no device is told of the addresses, and the memory is for nothing else.
        unsafe { domain.map_all(pieces, options, mapped) }.map_err(Failure::Map)?;
        for (iova, piece) in mapped.iter().zip(pieces) {
            let led = domain.translate(iova.start()).map(|(phys, _)| phys);
            if led != Some(piece.start()) {
                return Err(Failure::Translation(iova.start()));
            }
        }
        domain.unmap_all(mapped).map_err(Failure::Unmap)
    }
}

/// In each round: an address space, made, used and dropped; after that, the device is refused.
fn in_own_domains(iommu: &Iommu<KernelPlatform>, mut side: Side) -> (Side, Told) {
    let mut refused = [Iova(0); ROUNDS];
    let mut work = || {
        for (round, place) in refused.iter_mut().enumerate() {
            let domain = iommu.create_domain(PIECES + 2).map_err(Failure::Create)?;
            domain.attach(side.endpoint).map_err(Failure::Attach)?;
            *place = side.work(&domain, round, BATCHES)?;
            side.target.fill(OLD);
            let written = side.edu.write_memory(place.0, 4);
            written.map_err(Failure::Edu)?;
            side.target.compare(OLD).map_err(Failure::Data)?;
            let left = (domain.mapped(), domain.quarantined());
            if left != (0, 0) {
                return Err(Failure::Left(left.0, left.1));
            }
        }
        Ok(())
    };
    let result = work();
    let told = (cpus::this().index(), result.map(|()| refused));
    (side, told)
}

/// The addresses that the one gives back may be the other's at once.
fn in_shared_domain(domain: &Domain<KernelPlatform>, mut side: Side) -> (Side, Told) {
    let result = side.work(domain, ROUNDS, SHARED_BATCHES);
    let told = (cpus::this().index(), result.map(|at| [at; ROUNDS]));
    (side, told)
}

/// Both CPUs were there, and nothing went wrong on either.
fn check(report: &mut Report, name: &str, told: [Told; 2]) {
    let said = told.map(|(cpu, result)| (cpu, result.map(|_| ())));
    report.equal(name, said, [(0, Ok(())), (1, Ok(()))]);
}

/// What had to be refused was refused, once, and nothing else was.
fn check_faults(
    report: &mut Report,
    iommu: &Iommu<KernelPlatform>,
    ids: [EndpointId; 2],
    told: [Told; 2],
) {
    let faults = drain(iommu);
    report.equal("faults_of_both_arrive", faults.len(), 2 * ROUNDS);
    let agree = ids.into_iter().zip(told).all(|(id, (_, refused))| {
        let of_this = faults.iter().filter(|fault| fault.endpoint == id);
        let expected = refused.unwrap_or([Iova(0); ROUNDS]);
        of_this.map(|fault| fault.address).eq(expected.map(Some))
    });
    report.that("and_say_who_and_where", agree);
}
