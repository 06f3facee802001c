//! Disks that are not translated: one that goes around the IOMMU, and two in a domain that lets
//! them through.

use alloc::vec::Vec;

use virtio_iommu::topology::pci::Function;

use super::dma_lab::PAGE;
use super::io_lab::{Place, SECTOR, SECTORS, State, WRITTEN, done, holds, load};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, shut_down};
use crate::arch::Firmware;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::block::{BlockDevice, BlockError, Operation, Route, Segment};
use crate::memory::frames::Frames;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};
use virtio_iommu::dma::{DmaDevice, DmaLimits};

/// Runs of bytes of a transfer: pages that are nowhere near each other.
const PAGES: usize = 32;

/// `disks-around`: what a driver that asks for the IOMMU refuses, and how disks work without it.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(1 + 2 + 3 * WORKS + 1 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 0)?;
    let disks = Place::find(report, &lab, VirtioBlk::ID)?;
    let [(around, around_endpoint), (behind, endpoint)] = &disks[..] else {
        return report.need("two_disks", Err(disks.len()));
    };
    let nvme = Place::find(report, &lab, Nvme::ID)?;
    let nvme = report.need("an_nvme_disk", nvme.first().ok_or("there is none"))?;
    let before = Baseline::now();
    let endpoints = [*around_endpoint, *endpoint, nvme.1];
    let iommu = lab.start_with("driver_starts", report, &endpoints, None)?;

    let domain = report.need("domain", iommu.create_domain(8))?;
    let domain = alloc::sync::Arc::new(domain);
    let device = DmaDevice::attach(&domain, *around_endpoint, DmaLimits::default());
    let device = report.need("attach", device)?;
    let opened = VirtioBlk::open(&mut lab.machine, around, Route::Translated(&device));
    report.equal(
        "a_disk_that_goes_around_is_refused",
        opened.err(),
        Some(BlockError::GoesAround),
    );
    report.equal("with_nothing_mapped", domain.mapped(), 0);
    // Still attached, to a domain without a mapping: nothing of it is translated.
    works::<VirtioBlk>(report, &mut lab, around, 0, "around")?;
    drop((device, domain));

    let through = report.need("bypass", iommu.create_bypass_domain())?;
    for endpoint in [*endpoint, nvme.1] {
        // SAFETY: the drivers of these disks tell them of memory of their own, and of nothing else.
        report.need("attach", unsafe { through.attach(endpoint) })?;
    }
    works::<VirtioBlk>(report, &mut lab, behind, 1, "let_through")?;
    works::<Nvme>(report, &mut lab, &nvme.0, 2, "nvme_let_through")?;
    for endpoint in [*endpoint, nvme.1] {
        report.need("detach", through.detach(endpoint))?;
    }
    no_fault("nothing_was_refused", report, &iommu);
    drop(through);
    shut_down(report, iommu, before)
}

const WORKS: u32 = 4;

/// A disk by physical addresses: scattered pages to read, a page to write.
fn works<D: BlockDevice>(
    report: &mut Report,
    lab: &mut Lab,
    function: &Function,
    number: u32,
    name: &str,
) -> Checked {
    const AT: u64 = 128;
    let disk = D::open(&mut lab.machine, function, Route::Untranslated);
    let mut disk = report.need("open", disk)?;
    let size = (disk.block_size(), disk.blocks());
    report.equal(&alloc::format!("{name}_is_up"), size, (SECTOR, SECTORS));
    let mut frames = Vec::new();
    for _ in 0..2 * PAGES {
        let one = Frames::new(core::num::NonZeroUsize::MIN, PAGE);
        frames.push(report.need("memory", one.ok_or("no memory left"))?);
    }
    frames.sort_by_key(Frames::phys);
    // No two are neighbours.
    let mut frames: Vec<Frames> = frames.into_iter().step_by(2).collect();
    let list: Vec<Segment> = frames
        .iter()
        .map(|frame| Segment::new(frame.phys(), PAGE as u32))
        .collect();
    done(report, &mut disk, Operation::Read, AT, &list)?;
    let per_page = (PAGE / SECTOR) as u64;
    let right = frames
        .iter()
        .zip(0..)
        .all(|(frame, index)| holds(bytes(frame), number, AT + per_page * index, State::Fresh));
    report.that(&alloc::format!("{name}_reads_scattered_pages"), right);

    load(bytes_mut(&mut frames[7]), number, WRITTEN, State::Turned);
    done(report, &mut disk, Operation::Write, WRITTEN, &list[7..8])?;
    done(report, &mut disk, Operation::Read, WRITTEN, &list[3..4])?;
    report.that(
        &alloc::format!("{name}_reads_what_it_wrote"),
        holds(bytes(&frames[3]), number, WRITTEN, State::Turned),
    );
    report.require(&alloc::format!("{name}_confirms_its_reset"), disk.close())?;
    Ok(())
}

/// What is in a frame that no disk uses.
fn bytes(frame: &Frames) -> &[u8] {
    // SAFETY: the frames are memory, initialised, and theirs who has them; a disk that was told of
    // them has said that it is done.
    unsafe { core::slice::from_raw_parts(frame.virt().as_ptr(), frame.len()) }
}

fn bytes_mut(frame: &mut Frames) -> &mut [u8] {
    // SAFETY: as above, and borrowed mutably.
    unsafe { core::slice::from_raw_parts_mut(frame.virt().as_ptr(), frame.len()) }
}
