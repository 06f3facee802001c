//! Buffers that are alike, one after the other or at once: none is taken for another.

use std::ptr::NonNull;
use std::time::Duration;

use virtio_drivers::{BufferDirection, Hal};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint, IommuHal};
use virtio_iommu::{DomainOptions, bind_endpoint};

use crate::block::{Blk, open};
use crate::desk::{AS_THEY_ARE, Buffer, Desk, ENDPOINTS, OldHal, TestPlatform};
use crate::exhausted::message;
use crate::fake::{Fake, Kind, SECTOR};
use crate::model::requests::Request;
use crate::model::script::Answer;

/// Orders of four pages of which the first is the same, and no two are neighbours.
const ORDERS: [[usize; 4]; 2] = [[0, 2, 1, 3], [0, 3, 2, 1]];

fn strict() -> AdapterOptions {
    AdapterOptions::default().with_bounce_up_to(0)
}

fn put_off(mappings: usize) -> Desk {
    Desk::with(DomainOptions::new(mappings).with_deferred(64, Duration::from_secs(1000)))
}

fn deferred() -> AdapterOptions {
    // SAFETY: the tests use the pages for nothing else.
    unsafe { strict().deferred() }
}

/// Pages with a group of four in them, and where that begins.
fn group(desk: &Desk) -> (Buffer, usize) {
    let pages = desk.pages(7);
    let skip = pages.phys.next_multiple_of(0x4000) - pages.phys;
    (pages, skip as usize)
}

/// Reads four pages that are in some order, looks at them, and says what it took.
fn read<E: Endpoint>(
    desk: &Desk,
    fake: &Fake,
    disk: &mut Blk<E>,
    buffer: &mut [u8],
    order: [usize; 4],
) -> String {
    desk.arrange(order);
    buffer.fill(0xee);
    let (result, requests, _) = desk.cost(|| disk.read_blocks(8, buffer));
    result.unwrap();
    desk.arrange(AS_THEY_ARE);
    let content = fake.with(|d| d.disk[8 * SECTOR..][..0x4000].to_vec());
    for (page, place) in content.chunks(0x1000).zip(order) {
        assert_eq!(buffer[place * 0x1000..][..0x1000], *page, "{order:?}");
    }
    requests
}

#[test]
fn buffers_that_begin_with_the_same_page_are_told_apart() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = put_off(256);
    let fake = desk.device::<Disk>(0, Kind::Block, deferred());
    let mut disk = open::<Disk>(&fake);
    let (mut pages, skip) = group(&desk);
    let buffer = &mut pages[skip..skip + 0x4000];
    let [first, second] = ORDERS;
    for (order, wanted) in [
        (first, "MMMM"),
        (first, ""),
        (second, "UMMMM"),
        (AS_THEY_ARE, "M"),
        (second, ""),
        (AS_THEY_ARE, ""),
        (first, "UMMMM"),
    ] {
        let requests = read(&desk, &fake, &mut disk, buffer, order);
        assert_eq!(requests, wanted, "{order:?}");
    }
    // A part of it, and all of it.
    for (len, wanted) in [(0x1000, "M"), (0x2000, "M"), (0x1000, ""), (0x2000, "")] {
        let (result, requests, _) = desk.cost(|| disk.read_blocks(0, &mut buffer[..len]));
        assert_eq!((result, requests.as_str()), (Ok(()), wanted));
        assert!(fake.with(|d| d.disk[..len] == buffer[..len]));
    }
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn an_unmap_of_the_others_that_is_not_confirmed_does_not_give_the_memory_back() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = put_off(256);
    let fake = desk.device::<Disk>(0, Kind::Block, deferred());
    let mut disk = open::<Disk>(&fake);
    let (mut pages, skip) = group(&desk);
    let buffer = &mut pages[skip..skip + 0x4000];
    read(&desk, &fake, &mut disk, buffer, ORDERS[0]);
    let is_unmap = |request: &Request| matches!(request, Request::Unmap { .. });
    desk.model.answer_once(is_unmap, Answer::never());
    desk.arrange(ORDERS[1]);
    let text = message(|| disk.read_blocks(8, buffer));
    assert!(text.contains("cannot go back"), "{text}");
    desk.arrange(AS_THEY_ARE);
    desk.model.honest();
    drop((disk, pages));
    let _ = Disk::unbind();
    desk.model.allow_leaks();
}

#[test]
fn buffers_at_once_are_told_apart_in_any_order() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    const COUNT: usize = 32;
    let fake = desk.device::<Disk>(0, Kind::Block, strict().with_mappings(COUNT));
    let mut random = 1_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (random >> 33) as usize % end
    };
    // Of many lengths, so that their addresses are in no row.
    let lengths = (0..COUNT).map(|_| 1 + below(8));
    let mut buffers: Vec<Buffer> = lengths.map(|pages| desk.pages(pages)).collect();
    let to_driver = BufferDirection::DeviceToDriver;
    for _ in 0..20 {
        let mut shared: Vec<(u64, usize)> = Vec::new();
        for (at, buffer) in buffers.iter_mut().enumerate() {
            // SAFETY: the buffer is there, and nobody uses it.
            let iova = unsafe { IommuHal::<Disk>::share((&mut buffer[..]).into(), to_driver) };
            shared.push((iova, at));
        }
        assert_eq!(Disk::usage().mapped, COUNT);
        while !shared.is_empty() {
            for (iova, at) in &shared {
                let found = desk.model.writes(ENDPOINTS[0], *iova);
                assert_eq!(found, Some(buffers[*at].phys), "mapped, not copied");
            }
            let (iova, at) = shared.swap_remove(below(shared.len()));
            let buffer = NonNull::from(&mut buffers[at][..]);
            // SAFETY: as it was shared.
            unsafe { IommuHal::<Disk>::unshare(iova, buffer, to_driver) };
            assert_eq!(desk.model.writes(ENDPOINTS[0], iova), None);
        }
    }
    assert_eq!((Disk::usage().mapped, Disk::usage().unknown), (0, 0));
    drop(buffers);
    desk.close::<Disk>(0, &fake);
}
