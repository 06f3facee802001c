//! Drivers that go while their device is at work.

use std::time::Duration;

use virtio_drivers::device::blk::{BlkReq, BlkResp};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint, UnbindError};
use virtio_iommu::bind_endpoint;

use crate::block::{Blk, open};
use crate::desk::{Desk, ENDPOINTS, OldHal, TestPlatform, behind};
use crate::exhausted::message;
use crate::fake::{Kind, SECTOR};
use crate::model::requests::Request;
use crate::model::script::Answer;

fn strict() -> AdapterOptions {
    let options = AdapterOptions::default().with_bounce_up_to(0);
    options.with_reset_timeout(Duration::from_millis(100))
}

/// Starts to read a page and a sector, and never looks at them again.
fn begin<E: Endpoint>(disk: &mut Blk<E>, page: &mut [u8], sector: &mut [u8]) {
    for (at, buffer) in [page, sector].into_iter().enumerate() {
        let request = Box::leak(Box::new(BlkReq::default()));
        let answer = Box::leak(Box::new(BlkResp::default()));
        // SAFETY: the callers do not touch the buffers before the disk is gone.
        unsafe { disk.read_blocks_nb(at, request, buffer, answer) }.unwrap();
    }
}

#[test]
fn what_was_in_flight_is_free_after_the_reset() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let before = (desk.live_pages(), desk.at_device(0));
    fake.with(|d| d.holds = true);
    let mut disk = open::<Disk>(&fake);
    let (mut page, mut sector) = (desk.pages(1), [0; SECTOR]);
    begin(&mut disk, &mut page, &mut sector);
    fake.fetch(0);
    let usage = Disk::usage();
    assert!(usage.from_device.used > 0 && usage.to_device.used > 0);
    assert_eq!((usage.mapped, usage.queues), (1, 2));
    drop(disk);
    let usage = Disk::usage();
    assert_eq!((usage.from_device.used, usage.to_device.used), (0, 0));
    assert_eq!((usage.mapped, usage.queues, usage.waiting), (0, 0, 0));
    drop(page);
    assert_eq!((desk.live_pages(), desk.at_device(0)), before);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn late_data_before_the_reset_lands_in_memory_that_nobody_was_given() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    fake.with(|d| {
        d.holds = true;
        d.resets = false;
    });
    let mut disk = open_stubborn::<Disk>(&fake);
    let (mut page, mut sector) = (desk.pages(1), [0; SECTOR]);
    begin(&mut disk, &mut page, &mut sector);
    fake.fetch(0);
    let live = desk.live_pages();
    drop(disk);
    // It did not confirm: nothing is handed back, not even its registers.
    assert!(!fake.with(|d| d.dropped));
    assert_eq!(desk.live_pages(), live, "queue memory, window");
    let usage = Disk::usage();
    assert_eq!((usage.queues, usage.waiting, usage.mapped), (0, 2, 0));
    assert!(usage.from_device.used > 0, "places of the window");
    assert!(Disk::binding().is_stuck());
    assert_eq!(Disk::unbind().unwrap_err(), UnbindError::NotReset);
    assert_eq!(
        desk.domains[0].quarantined(),
        1,
        "the addresses of the page"
    );
    assert_eq!(
        desk.model
            .writes(fake.with(|d| d.endpoint), page_iova(&fake)),
        None
    );
    // What it resolved before, it may yet write: into the page that was lent, which is its
    // owner's affair, and into the window; into nothing that is handed out now.
    let others: Vec<_> = (0..64).map(|_| desk.pages(1)).collect();
    let places = fake.write_late(0xdd);
    assert!(places.len() >= 3);
    assert!(others.iter().all(|page| page.iter().all(|byte| *byte == 0)));
    assert!(
        places
            .iter()
            .all(|place| others.iter().all(|page| *place & !0xfff != page.phys))
    );
    // Nobody gets queue memory either until it is reset.
    let refused = virtio_drivers::device::blk::VirtIOBlk::<
        virtio_iommu::adapters::virtio_drivers::IommuHal<Disk>,
        _,
    >::new(fake.transport());
    assert!(refused.is_err());

    fake.with(|d| {
        d.resets = true;
        d.holds = false;
    });
    let mut disk = open::<Disk>(&fake);
    assert!(!Disk::binding().is_stuck());
    assert_eq!(
        (Disk::usage().waiting, Disk::usage().from_device.used),
        (0, 0)
    );
    disk.read_blocks(3, &mut sector).unwrap();
    assert!(fake.with(|d| d.disk[3 * SECTOR..][..SECTOR] == sector));
    drop(disk);
    // SAFETY: the endpoint was reset, and has confirmed that.
    let released = unsafe { desk.domains[0].release_quarantine() };
    assert_eq!((released.released, released.kept), (1, 0));
    drop((page, others));
    desk.close::<Disk>(0, &fake);
    assert_eq!(desk.live_pages(), 0);
}

/// Opens a disk that does not confirm resets, except those of its opening.
fn open_stubborn<E: Endpoint>(fake: &crate::fake::Fake) -> Blk<E> {
    fake.with(|d| d.resets = true);
    let disk = open::<E>(fake);
    fake.with(|d| d.resets = false);
    disk
}

/// The address of the page that the device was told.
fn page_iova(fake: &crate::fake::Fake) -> u64 {
    let taken = fake.with(|d| d.taken.clone());
    let parts = taken.iter().flat_map(|chain| &chain.parts);
    let page = parts.clone().find(|part| part.len == 4096);
    page.expect("a page").iova
}

#[test]
fn an_unmap_of_queue_memory_that_is_not_confirmed_keeps_the_memory() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let disk = open::<Disk>(&fake);
    let live = desk.live_pages();
    let is_unmap = |request: &Request| matches!(request, Request::Unmap { .. });
    desk.model.answer_once(is_unmap, Answer::never());
    drop(disk);
    // One of the two regions came back.
    assert_eq!(desk.live_pages(), live - 1);
    assert_eq!(desk.domains[0].quarantined(), 1);
    desk.model.honest();
    let _ = Disk::unbind().expect("nothing in use");
    // SAFETY: the endpoint was reset.
    let released = unsafe { desk.domains[0].release_quarantine() };
    assert_eq!((released.released, released.kept), (0, 1));
    // The request that was never answered may yet take effect.
    desk.model.allow_leaks();
}

#[test]
fn an_unmap_of_a_buffer_in_flight_that_is_not_confirmed_does_not_give_the_memory_back() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    fake.with(|d| d.holds = true);
    let mut disk = open::<Disk>(&fake);
    let (mut page, mut sector) = (desk.pages(1), [0; SECTOR]);
    begin(&mut disk, &mut page, &mut sector);
    let is_unmap = |request: &Request| matches!(request, Request::Unmap { .. });
    desk.model.answer_once(is_unmap, Answer::never());
    let text = message(|| drop(disk));
    assert!(text.contains("Disk") && text.contains("cannot go back"));
    assert_eq!(desk.domains[0].quarantined(), 1);
    desk.model.honest();
    desk.model.allow_leaks();
}

#[test]
fn queue_memory_goes_one_way_and_each_region_by_itself() {
    use virtio_drivers::{BufferDirection, Hal};
    type H<E> = virtio_iommu::adapters::virtio_drivers::IommuHal<E>;
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let transport = behind::<Disk>(&fake);
    let wanted = [
        (BufferDirection::DriverToDevice, (true, false)),
        (BufferDirection::DeviceToDriver, (false, true)),
        (BufferDirection::Both, (true, true)),
    ];
    let mut regions = Vec::new();
    for (direction, reach) in wanted {
        let (at, virt) = H::<Disk>::dma_alloc(2, direction);
        regions.push((at, virt, reach));
    }
    let reach = |at| {
        let [read, written] = [
            desk.model.reads(ENDPOINTS[0], at),
            desk.model.writes(ENDPOINTS[0], at),
        ];
        (read.is_some(), written.is_some())
    };
    // Neither the first one nor the last.
    for which in [1, 1, 0] {
        for (at, _, wanted) in &regions {
            assert_eq!((reach(*at), reach(at + 0x1000)), (*wanted, *wanted));
        }
        let (at, virt, _) = regions.remove(which);
        // SAFETY: from `dma_alloc`.
        assert_eq!(unsafe { H::<Disk>::dma_dealloc(at, virt, 2) }, 0);
        assert_eq!(reach(at), (false, false));
    }
    drop(transport);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn memory_given_back_before_the_reset_waits_for_it() {
    use virtio_drivers::transport::{DeviceStatus, Transport};
    use virtio_drivers::{BufferDirection, Hal};
    type H<E> = virtio_iommu::adapters::virtio_drivers::IommuHal<E>;
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let mut transport = behind::<Disk>(&fake);
    let live = desk.live_pages();
    // Before the device is told anything, memory comes back at once.
    let (at, virt) = H::<Disk>::dma_alloc(2, BufferDirection::Both);
    assert_ne!(at, 0);
    assert_eq!(virt.addr().get() % 4096, 0);
    assert_eq!(desk.live_pages(), live + 2);
    // SAFETY: from `dma_alloc`.
    assert_eq!(unsafe { H::<Disk>::dma_dealloc(at, virt, 2) }, 0);
    assert_eq!(desk.live_pages(), live);
    // Afterwards it waits.
    transport.set_status(DeviceStatus::ACKNOWLEDGE);
    let (at, virt) = H::<Disk>::dma_alloc(1, BufferDirection::DeviceToDriver);
    // SAFETY: from `dma_alloc`.
    assert_eq!(unsafe { H::<Disk>::dma_dealloc(at, virt, 1) }, 0);
    assert_eq!((desk.live_pages(), Disk::usage().waiting), (live + 1, 1));
    // SAFETY: nobody uses it; it is not the driver's any more.
    assert_ne!(unsafe { H::<Disk>::dma_dealloc(at, virt, 1) }, 0);
    transport.set_status(DeviceStatus::empty());
    assert_eq!((desk.live_pages(), Disk::usage().waiting), (live, 0));
    drop(transport);
    desk.close::<Disk>(0, &fake);
}
