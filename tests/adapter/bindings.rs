//! Binding, unbinding, and several endpoints at once.

use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::{BufferDirection, Error, Hal};
use virtio_iommu::adapters::virtio_drivers::{
    AdapterOptions, BindError, Endpoint, IommuHal, NotTranslated, UnbindError, Usage,
};
use virtio_iommu::dma::{DmaDevice, DmaLimits};
use virtio_iommu::{EndpointId, MapError, bind_endpoint};

use crate::block::open;
use crate::desk::{Desk, ENDPOINTS, OldHal, TestPlatform, behind, open_transport};
use crate::fake::{Kind, SECTOR};
use crate::model::memory::Refuse;

fn dma(desk: &Desk, limits: DmaLimits) -> DmaDevice<TestPlatform> {
    DmaDevice::attach(&desk.domains[0], EndpointId(ENDPOINTS[0]), limits).unwrap()
}

#[test]
fn one_device_at_a_time() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    assert_eq!(Disk::unbind().unwrap_err(), UnbindError::NotBound);
    assert_eq!(Disk::usage(), Usage::default());
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let second = dma(&desk, DmaLimits::default());
    let (again, requests, _) = desk.cost(|| Disk::bind(second, AdapterOptions::default()));
    assert_eq!((again, requests.as_str()), (Err(BindError::Bound), ""));

    let transport = behind::<Disk>(&fake);
    assert_eq!(Disk::unbind().unwrap_err(), UnbindError::InUse);
    let second = open_transport::<Disk>(&fake);
    assert_eq!(second.unwrap_err(), NotTranslated::InUse);
    // The first one still works.
    let mut disk = VirtIOBlk::<IommuHal<Disk>, _>::new(transport).unwrap();
    assert_eq!(Disk::unbind().unwrap_err(), UnbindError::InUse);
    let mut seen = [0; SECTOR];
    disk.read_blocks(2, &mut seen).unwrap();
    drop(disk);
    desk.close::<Disk>(0, &fake);
    // And once more.
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    drop(open::<Disk>(&fake));
    desk.close::<Disk>(0, &fake);
    assert_eq!(desk.live_pages(), 0);
}

#[test]
fn nothing_is_left_of_a_failure() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default();
    for limits in [
        DmaLimits::default().with_boundary(0x1_0000),
        DmaLimits::default().with_max_segment(0x1_0000),
    ] {
        let refused = Disk::bind(dma(&desk, limits), options);
        assert_eq!(refused, Err(BindError::Limits));
    }
    for which in 0..2 {
        let number = desk.model.ram().allocations() + which;
        desk.model.ram().refuse(Some(Refuse::Only(number)));
        let refused = Disk::bind(dma(&desk, DmaLimits::default()), options);
        assert_eq!(refused, Err(BindError::OutOfMemory));
        assert_eq!((desk.at_device(0), desk.live_pages()), (0, 0));
    }
    desk.model.ram().refuse(None);
    // No address for so much: the domain has room for 256 mappings, but the endpoint for few.
    let narrow = dma(&desk, DmaLimits::address_bits(16));
    let refused = Disk::bind(narrow, options);
    assert_eq!(refused, Err(BindError::Map(MapError::OutOfIova)));
    assert_eq!((desk.at_device(0), desk.live_pages()), (0, 0));
}

#[test]
fn an_endpoint_stays_bound_while_something_is_in_use() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_bounce_up_to(0);
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    let mut page = desk.pages(1);
    for len in [100, 4096] {
        let buffer = std::ptr::NonNull::from(&mut page[..len]);
        for direction in [
            BufferDirection::DriverToDevice,
            BufferDirection::DeviceToDriver,
        ] {
            // SAFETY: the buffer is there.
            let at = unsafe { IommuHal::<Disk>::share(buffer, direction) };
            assert_eq!(Disk::unbind().unwrap_err(), UnbindError::InUse);
            // SAFETY: as it was shared.
            unsafe { IommuHal::<Disk>::unshare(at, buffer, direction) };
        }
    }
    let transport = behind::<Disk>(&fake);
    let (at, virt) = IommuHal::<Disk>::dma_alloc(1, BufferDirection::Both);
    drop(transport);
    assert_eq!(Disk::unbind().unwrap_err(), UnbindError::InUse);
    // SAFETY: from `dma_alloc`.
    assert_eq!(unsafe { IommuHal::<Disk>::dma_dealloc(at, virt, 1) }, 0);
    drop(page);
    desk.close::<Disk>(0, &fake);
    assert_eq!(desk.live_pages(), 0);
}

#[test]
fn an_access_one_byte_below_a_window_reaches_nobody() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    // Some devices look one byte too far, and find the byte before the window in physical memory.
    let desk = Desk::new();
    let before = desk.pages(1);
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let mappings = desk.model.mappings(desk.domains[0].id().0).unwrap();
    assert_eq!(mappings.len(), 2);
    for mapping in mappings {
        let guard = mapping.phys - 0x1000;
        let is_its_own = desk.model.ram().is_live(guard, 0x1001);
        assert!(is_its_own && guard != before.phys);
    }
    drop(before);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn a_driver_whose_transport_was_not_wrapped_fails() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let refused = VirtIOBlk::<IommuHal<Disk>, _>::new(fake.transport());
    assert_eq!(refused.err(), Some(Error::DmaError));
    // Nor does one without a device at all.
    desk.close::<Disk>(0, &fake);
    let (address, _) = IommuHal::<Disk>::dma_alloc(1, BufferDirection::Both);
    assert_eq!(address, 0);
}

#[test]
fn out_of_memory_is_an_error_of_the_driver() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    for which in 0..2 {
        let number = desk.model.ram().allocations() + which;
        desk.model.ram().refuse(Some(Refuse::Only(number)));
        let refused = VirtIOBlk::<IommuHal<Disk>, _>::new(behind::<Disk>(&fake));
        assert_eq!(refused.err(), Some(Error::DmaError));
        assert_eq!((Disk::usage().queues, Disk::usage().waiting), (0, 0));
    }
    desk.close::<Disk>(0, &fake);
    assert_eq!(desk.live_pages(), 0);
}

#[test]
fn registers_are_found_as_before() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    // SAFETY: nothing is accessed.
    let at = unsafe { IommuHal::<Disk>::mmio_phys_to_virt(0x4000_0000, 4) };
    assert_eq!(at.addr().get(), 0x4000_0001);
}

#[test]
fn two_endpoints_at_once_and_neither_reaches_the_other() {
    bind_endpoint!(struct First: TestPlatform, OldHal);
    bind_endpoint!(struct Second: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_bounce_up_to(0);
    let fakes = [
        desk.device::<First>(0, Kind::Block, options),
        desk.device::<Second>(1, Kind::Block, options),
    ];
    fakes[1].with(|d| d.disk.reverse());
    let (mut first, mut second) = (open::<First>(&fakes[0]), open::<Second>(&fakes[1]));
    let mut pages = [desk.pages(2), desk.pages(2)];
    for sector in 0..16 {
        first.read_blocks(sector, &mut pages[0]).unwrap();
        second.read_blocks(sector, &mut pages[1]).unwrap();
        for (fake, pages) in fakes.iter().zip(&pages) {
            assert!(fake.with(|d| d.disk[sector * SECTOR..][..0x2000] == pages[..]));
        }
    }
    // While both have a page, the addresses of one mean nothing, or something of its own, to the
    // other: no byte of the other's memory is in reach.
    for fake in &fakes {
        fake.with(|d| d.holds = true);
    }
    let (mut request, mut answer) = Default::default();
    // SAFETY: the buffers are not touched until the disk is dropped.
    unsafe { first.read_blocks_nb(0, &mut request, &mut pages[0], &mut answer) }.unwrap();
    fakes[0].fetch(0);
    for chain in fakes[0].with(|d| d.taken.clone()) {
        for part in chain.parts {
            let mine = desk.model.reads(ENDPOINTS[0], part.iova);
            let mine = mine.or(desk.model.writes(ENDPOINTS[0], part.iova));
            assert!(mine.is_some());
            let theirs = desk.model.reads(ENDPOINTS[1], part.iova);
            let theirs = theirs.or(desk.model.writes(ENDPOINTS[1], part.iova));
            assert!(theirs.is_none() || theirs != mine);
        }
    }
    drop((first, second, pages));
    desk.close::<First>(0, &fakes[0]);
    desk.close::<Second>(1, &fakes[1]);
    assert_eq!(desk.live_pages(), 0);
}
