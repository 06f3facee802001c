//! The disk of `virtio-drivers`, unchanged.

use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, BehindIommu, Endpoint, IommuHal};
use virtio_iommu::bind_endpoint;

use crate::desk::{Desk, OldHal, TestPlatform, behind};
use crate::fake::{ACCESS_PLATFORM, EVENT_IDX, FakeTransport, INDIRECT, Kind, RING_PACKED, SECTOR};

pub type Blk<E> = VirtIOBlk<IommuHal<E>, BehindIommu<E, FakeTransport>>;

pub fn open<E: Endpoint>(fake: &crate::fake::Fake) -> Blk<E> {
    Blk::<E>::new(behind(fake)).expect("a disk")
}

#[test]
fn buffers_on_a_stack_take_no_request() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let mut disk = open::<Disk>(&fake);
    assert_eq!(disk.capacity(), 64);
    let accepted = fake.with(|d| d.accepted);
    assert_eq!(accepted & (ACCESS_PLATFORM | RING_PACKED), ACCESS_PLATFORM);

    let mut seen = [0; 2 * SECTOR];
    let (result, requests, kicks) = desk.cost(|| disk.read_blocks(5, &mut seen));
    assert_eq!((result, requests.as_str(), kicks), (Ok(()), "", 0));
    let wanted = fake.with(|d| d.disk[5 * SECTOR..7 * SECTOR].to_vec());
    assert_eq!(seen[..], wanted[..]);

    let data: [u8; SECTOR] = std::array::from_fn(|i| !(i as u8));
    // At an odd address, too.
    let mut odd = [0; SECTOR + 1];
    odd[1..].copy_from_slice(&data);
    let (result, requests, _) = desk.cost(|| disk.write_blocks(9, &odd[1..]));
    assert_eq!((result, requests.as_str()), (Ok(()), ""));
    assert!(fake.with(|d| d.disk[9 * SECTOR..10 * SECTOR] == data));
    let usage = Disk::usage();
    assert_eq!((usage.to_device.used, usage.from_device.used), (0, 0));
    assert!(usage.to_device.most >= SECTOR && usage.from_device.most >= 2 * SECTOR);
    assert_eq!((usage.queues, usage.mapped), (2, 0));
    drop(disk);
    assert!(fake.with(|d| d.dropped));
    desk.close::<Disk>(0, &fake);
    assert_eq!(desk.live_pages(), 0);
}

#[test]
fn with_and_without_what_rings_can_do() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    for without in [0, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX] {
        fake.with(|d| d.offered &= !without);
        let mut disk = open::<Disk>(&fake);
        for sector in 0..40 {
            let mut seen = [0; SECTOR];
            disk.read_blocks(sector, &mut seen).unwrap();
            assert!(fake.with(|d| d.disk[sector * SECTOR..][..SECTOR] == seen));
        }
        drop(disk);
        fake.with(|d| d.offered |= without);
    }
    desk.close::<Disk>(0, &fake);
}

#[test]
fn completions_in_another_order() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.holds = true);
    let mut disk = open::<Disk>(&fake);
    const COUNT: usize = 6;
    let mut requests: [BlkReq; COUNT] = Default::default();
    let mut answers: [BlkResp; COUNT] = Default::default();
    let mut data = vec![vec![0_u8; SECTOR]; COUNT];
    let mut tokens = Vec::new();
    for at in 0..COUNT {
        let (request, answer) = (&mut requests[at], &mut answers[at]);
        // SAFETY: the buffers are not touched until the end.
        let token = unsafe { disk.read_blocks_nb(3 * at, request, &mut data[at], answer) };
        tokens.push(token.unwrap());
    }
    fake.fetch(0);
    assert_eq!(fake.with(|d| d.taken.len()), COUNT);
    for at in [3, 0, 3, 1, 1, 0] {
        fake.complete(at);
        let token = disk.peek_used().expect("an answer");
        let at = tokens.iter().position(|known| *known == token).unwrap();
        let (request, answer) = (&requests[at], &mut answers[at]);
        // SAFETY: the same buffers.
        unsafe { disk.complete_read_blocks(token, request, &mut data[at], answer) }.unwrap();
        assert!(fake.with(|d| d.disk[3 * at * SECTOR..][..SECTOR] == data[at][..]));
    }
    drop(disk);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn lengths_that_are_lies() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    fake.with(|d| d.holds = true);
    let mut disk = open::<Disk>(&fake);
    for len in [0, 1, SECTOR as u32 + 2, u32::MAX] {
        let (mut request, mut answer) = (BlkReq::default(), BlkResp::default());
        let mut data = [[0xee; 64], [0xcc; 64], [0xee; 64]].concat();
        data.resize(SECTOR + 128, 0xee);
        let buffer = &mut data[64..64 + SECTOR];
        // SAFETY: the buffers are not touched until the end.
        let token = unsafe { disk.read_blocks_nb(1, &mut request, buffer, &mut answer) }.unwrap();
        if len == 0 {
            // An honest one first, so that there is an answer to be mistaken.
            fake.fetch(0);
            fake.with(|d| d.disk.fill(0));
            fake.complete(0);
            // SAFETY: the same buffers.
            unsafe { disk.complete_read_blocks(token, &request, buffer, &mut answer) }.unwrap();
            continue;
        }
        fake.fetch(0);
        // It answers without having done anything.
        let chain = fake.with(|d| d.taken.remove(0));
        fake.push_used(0, u32::from(chain.head), len);
        assert_eq!(disk.peek_used(), Some(token));
        // SAFETY: the same buffers.
        let result = unsafe { disk.complete_read_blocks(token, &request, buffer, &mut answer) };
        // Not an answer of before.
        assert_eq!(result, Err(Error::NotReady));
        // Never what was written elsewhere: zeros, which is all that ever was in the window.
        assert_eq!(buffer, [0; SECTOR]);
        assert_eq!(data[..64], [0xee; 64]);
        assert_eq!(data[64 + SECTOR..], [0xee; 64]);
    }
    drop(disk);
    desk.close::<Disk>(0, &fake);
}
