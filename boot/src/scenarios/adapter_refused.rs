//! A disk that would do DMA around the IOMMU: QEMU's without `iommu_platform=on`.

use alloc::string::ToString;

use virtio_drivers::Error;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint, IommuHal, NotTranslated};

use super::adapter_blk::Disk;
use super::adapter_lab::{DESK_CHECKS, Desk};
use crate::arch::Firmware;
use crate::block::BlockDevice;
use crate::block::virtio::VirtioBlk;
use crate::console::println;
use crate::platform;
use crate::report::{Checked, Report};

/// `adapter-refused`.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(DESK_CHECKS + 5);
    let desk = Desk::open::<Disk>(report, firmware, VirtioBlk::ID, AdapterOptions::default())?;
    let refused = desk.behind::<Disk>(report)?.err();
    report.equal("it_is_refused", refused, Some(NotTranslated::GoesAround));
    let message = refused.map(|error| error.to_string()).unwrap_or_default();
    println!("{message}");
    report.that(
        "and_the_message_says_what_is_missing",
        message.contains("iommu_platform=on,disable-legacy=on"),
    );
    drop(message);
    // Whoever forgets the wrapper does not get far either.
    let plain = desk.transport::<Disk>(report)?;
    let forgot = VirtIOBlk::<IommuHal<Disk>, _>::new(plain).err();
    report.equal(
        "without_the_wrapper_there_is_no_queue",
        forgot,
        Some(Error::DmaError),
    );
    let usage = Disk::usage();
    report.equal(
        "it_was_given_nothing",
        (usage.queues, usage.waiting, usage.mapped),
        (0, 0, 0),
    );
    report.equal("and_holds_nothing", platform::live_pages(), desk.pages);
    desk.close::<Disk>(report)
}
