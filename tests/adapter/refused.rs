//! Devices that would go around the IOMMU, or do not go along; and registers that misbehave.

use std::time::Duration;

use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal};
use virtio_iommu::adapters::virtio_drivers::{
    AdapterOptions, Endpoint, IommuHal, NotTranslated, UnbindError,
};
use virtio_iommu::bind_endpoint;

use crate::desk::{Desk, OldHal, TestPlatform, behind, open_transport};
use crate::fake::{ACCESS_PLATFORM, FAILED, INDIRECT, Kind, NEEDS_RESET, NET_MAC};

/// What the status of a device is that was begun, and given up.
const GIVEN_UP: u32 = FAILED | 1 | 2;

#[test]
fn a_device_that_goes_around_is_refused_and_the_message_says_how_to_change_it() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.offered &= !ACCESS_PLATFORM);
    let error = open_transport::<Disk>(&fake).unwrap_err();
    assert_eq!(error, NotTranslated::GoesAround);
    let text = error.to_string();
    assert!(
        text.contains("iommu_platform=on,disable-legacy=on"),
        "{text}"
    );
    // It was left in peace.
    assert_eq!(
        fake.with(|d| (d.status, d.accepted, d.dropped)),
        (0, 0, true)
    );
    // And can be had with the option.
    fake.with(|d| d.offered |= ACCESS_PLATFORM);
    drop(behind::<Disk>(&fake));
    // But not as a device of before the standard, whose addresses are physical.
    fake.with(|d| d.legacy = true);
    let error = open_transport::<Disk>(&fake).unwrap_err();
    assert_eq!(error, NotTranslated::GoesAround);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn a_device_that_refuses_the_bit_is_refused() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    assert_eq!(
        open_transport::<Disk>(&crate::fake::Fake::new(&desk.model, 0, Kind::Block)).unwrap_err(),
        NotTranslated::NotBound
    );
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.refuses = true);
    let error = open_transport::<Disk>(&fake).unwrap_err();
    assert_eq!(error, NotTranslated::Refused);
    assert_eq!(fake.with(|d| (d.status, d.dropped)), (0, true));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn features_that_the_device_refuses_later_are_an_error_of_the_driver() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    bind_endpoint!(struct Card: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.refuses_bit = INDIRECT);
    let refused = VirtIOBlk::<IommuHal<Disk>, _>::new(behind::<Disk>(&fake));
    assert_eq!(refused.err(), Some(Error::Unsupported));
    desk.close::<Disk>(0, &fake);

    let fake = desk.device::<Card>(1, Kind::Net, AdapterOptions::default());
    fake.with(|d| d.refuses_bit = NET_MAC);
    let refused = VirtIONetRaw::<IommuHal<Card>, _, 16>::new(behind::<Card>(&fake));
    assert_eq!(refused.err(), Some(Error::Unsupported));
    // By hand: it is FAILED, has no queues, and stays so until its reset.
    let mut transport = behind::<Card>(&fake);
    let begun = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(begun);
    transport.write_driver_features(1 << 32 | NET_MAC);
    transport.set_status(begun | DeviceStatus::FEATURES_OK);
    assert_eq!(fake.with(|d| d.status), GIVEN_UP);
    assert_eq!(transport.max_queue_size(0), 0);
    assert_eq!(
        transport.read_config_space::<u8>(0),
        Err(Error::Unsupported)
    );
    assert_eq!(
        transport.write_config_space(0, 1_u8),
        Err(Error::Unsupported)
    );
    transport.queue_set(0, 16, 0x10_0000, 0x10_1000, 0x10_2000);
    assert!(!transport.queue_used(0));
    transport.finish_init();
    transport.notify(0);
    assert_eq!(fake.with(|d| (d.status, d.notified)), (GIVEN_UP, 0));
    transport.set_status(DeviceStatus::empty());
    assert_eq!(transport.max_queue_size(0), 64);
    // A driver that accepts nothing at all is no driver of a device behind the IOMMU, even if the
    // device does not mind.
    fake.with(|d| d.lenient = true);
    transport.set_status(begun);
    transport.set_status(begun | DeviceStatus::FEATURES_OK);
    assert_eq!(fake.with(|d| d.status), GIVEN_UP);
    drop(transport);
    desk.close::<Card>(1, &fake);
}

#[test]
fn a_device_is_left_as_after_its_reset_whatever_it_did_before() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.status = 0xf);
    let transport = behind::<Disk>(&fake);
    assert_eq!(fake.with(|d| (d.status, d.accepted)), (0, 0));
    drop(transport);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn a_device_that_does_not_confirm_a_later_reset_has_no_queues() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_reset_timeout(Duration::from_millis(10));
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    let mut transport = behind::<Disk>(&fake);
    transport.set_status(DeviceStatus::ACKNOWLEDGE);
    fake.with(|d| d.resets = false);
    transport.set_status(DeviceStatus::empty());
    assert!(Disk::binding().is_stuck());
    assert_eq!(transport.max_queue_size(0), 0);
    let refused = transport.read_config_space::<u32>(0);
    assert_eq!(refused, Err(Error::Unsupported));
    // And gets no memory, although its transport is there.
    let (at, _) = IommuHal::<Disk>::dma_alloc(1, BufferDirection::Both);
    assert_eq!(at, 0);
    fake.with(|d| d.resets = true);
    transport.set_status(DeviceStatus::empty());
    assert!(!Disk::binding().is_stuck());
    assert_eq!(transport.max_queue_size(0), 64);
    drop(transport);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn a_device_that_does_not_confirm_its_reset_is_refused_in_time() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_reset_timeout(Duration::from_millis(500));
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    fake.with(|d| {
        d.status = 0xf;
        d.resets = false;
    });
    let looks = desk.model.clock().calls();
    let error = open_transport::<Disk>(&fake).unwrap_err();
    assert_eq!(error, NotTranslated::NotReset);
    let looks = desk.model.clock().calls() - looks;
    assert!(
        (490..=520).contains(&looks),
        "{looks} looks of a millisecond"
    );
    assert!(!fake.with(|d| d.dropped), "dropping it would wait for ever");
    assert_eq!(Disk::unbind().unwrap_err(), UnbindError::NotReset);
    fake.with(|d| d.resets = true);
    drop(behind::<Disk>(&fake));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn fields_of_eight_bytes_and_fields_that_never_rest() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let mut transport = behind::<Disk>(&fake);
    assert_eq!(transport.read_config_space::<u64>(0), Ok(64));
    let wide = 0x0102_0304_0506_0708_u64;
    assert_eq!(transport.write_config_space(8, wide), Ok(()));
    assert_eq!(transport.read_config_space::<u64>(8), Ok(wide));
    assert_eq!(transport.read_config_space::<u32>(12), Ok(0x0102_0304));
    let beyond = transport.read_config_space::<u64>(60);
    assert_eq!(beyond, Err(Error::ConfigSpaceTooSmall));
    fake.with(|d| d.unsteady = true);
    assert_eq!(transport.read_config_space::<u64>(0), Err(Error::IoError));
    let never = transport.read_consistent(|| Ok(1));
    assert_eq!(never, Err(Error::IoError));
    let refused = VirtIOBlk::<IommuHal<Disk>, _>::new(transport);
    assert_eq!(refused.err(), Some(Error::IoError));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn a_device_that_needs_a_reset_ends_a_wait() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.holds = true);
    let mut disk = crate::block::open::<Disk>(&fake);
    let second = Duration::from_secs(1);
    let looks = desk.model.clock().calls();
    assert!(!Disk::binding().wait_until(second, || false));
    assert!((990..=1010).contains(&(desk.model.clock().calls() - looks)));
    assert!(Disk::binding().wait_until(second, || true));
    // When the time is over, there is a last look.
    let mut looks = [false, true].into_iter();
    assert!(Disk::binding().wait_until(Duration::ZERO, || looks.next().unwrap()));
    // A change of the configuration is none of the device.
    fake.with(|d| d.interrupt = 2);
    disk.ack_interrupt();
    assert!(!Disk::binding().needs_reset());
    let mut count = 0;
    let ended = Disk::binding().wait_until(second, || {
        count += 1;
        if count == 5 {
            fake.with(|d| {
                d.status |= NEEDS_RESET;
                d.interrupt = 2;
            });
        }
        disk.ack_interrupt();
        false
    });
    assert!(!ended && Disk::binding().needs_reset());
    assert!(count < 10, "{count}");
    drop(disk);
    assert!(!Disk::binding().needs_reset());
    desk.close::<Disk>(0, &fake);
}
