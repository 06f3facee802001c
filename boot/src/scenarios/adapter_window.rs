//! How large a window has to be: `usage` tells in time, and whole pages find another way.

use virtio_drivers::device::blk::SECTOR_SIZE;
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint};

use super::adapter_blk::{Disk, has, open, read, turn};
use super::adapter_lab::{DESK_CHECKS, Desk};
use super::dma_lab::{Cost, PAGE, phys};
use crate::arch::Firmware;
use crate::block::BlockDevice;
use crate::block::virtio::VirtioBlk;
use crate::report::{Checked, Report};

/// The longest buffer of the load that is not whole pages, in sectors.
const LONGEST: usize = 19;

/// `adapter-window`.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(DESK_CHECKS + 11);
    let desk = Desk::open::<Disk>(report, firmware, VirtioBlk::ID, AdapterOptions::default())?;
    let mut disk = open(report, &desk)?;
    let mut buffer = alloc::vec![0; LONGEST * SECTOR_SIZE + 1];
    let mut load = |report: &mut Report, disk: &mut _| -> Checked<bool> {
        let mut right = true;
        for sectors in [1, 7, LONGEST] {
            let odd = &mut buffer[1..1 + sectors * SECTOR_SIZE];
            read(report, disk, sectors, odd)?;
            right &= has(odd, sectors);
        }
        Ok(right)
    };
    let right = load(report, &mut disk)?;
    report.that("a_load_is_carried_out", right);
    let usage = Disk::usage();
    let (to, from) = (usage.to_device, usage.from_device);
    report.that(
        "usage_tells_how_much_of_the_window_it_took",
        from.used == 0 && from.most >= LONGEST * SECTOR_SIZE && from.most < from.size,
    );
    report.that("and_in_the_other_direction", to.most > 0 && to.used == 0);
    drop(disk);

    // As much as was ever in use, in whole pages, and a page for what is cut into small places.
    let pages = |bytes: usize| bytes.next_multiple_of(PAGE) + PAGE;
    let device = report.need("unbind", Disk::unbind())?;
    let small = AdapterOptions::default().with_window(pages(to.most), pages(from.most));
    report.require("it_is_bound_with_so_much", Disk::bind(device, small))?;
    let mut disk = open(report, &desk)?;
    let right = load(report, &mut disk)?;
    report.that("the_same_load_is_carried_out", right);
    let size = Disk::usage().from_device.size;
    report.equal("with_a_window_of_so_much", size, pages(from.most));

    // What is longer than the window is refused by a panic, unless it is whole pages.
    let mut whole = desk.alloc(report, size / PAGE + 1)?;
    let ((), cost) = {
        let (done, cost) = Cost::measure(|| read(report, &mut disk, 0, &mut whole));
        (done?, cost)
    };
    report.that("whole_pages_need_no_window", has(&whole, 0));
    report.equal("they_are_mapped", cost, Cost::of(2, 2));
    report.that(
        "at_no_physical_address",
        desk.is_elsewhere(&whole) && phys(&whole) != 0,
    );
    turn(report, &mut disk)?;
    drop((disk, whole, buffer));
    desk.close::<Disk>(report)
}
