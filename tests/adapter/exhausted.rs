//! No place, no room, no answer: what the trait cannot say is said with the name of the endpoint
//! and of the option.

use std::panic::{AssertUnwindSafe, catch_unwind};

use virtio_drivers::device::blk::{BlkReq, BlkResp};
use virtio_drivers::{BufferDirection, Hal};
use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint, IommuHal};
use virtio_iommu::{DomainOptions, bind_endpoint};

use crate::block::open;
use crate::desk::{Desk, OldHal, TestPlatform};
use crate::fake::{Kind, SECTOR};
use crate::model::requests::Request;
use crate::model::script::Answer;

/// The message that `work` panics with.
pub fn message<R>(work: impl FnOnce() -> R) -> String {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(_) => panic!("no panic"),
        Err(panic) => *panic.downcast::<String>().expect("a message"),
    }
}

#[test]
fn a_window_without_a_place_names_the_option() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_window(0x1000, 0x2000);
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    let mut disk = open::<Disk>(&fake);
    let mut sectors = vec![0; 17 * SECTOR];
    let requests = desk.model.request_count();
    let text = message(|| disk.read_blocks(0, &mut sectors));
    assert!(text.contains("Disk"), "{text}");
    assert!(text.contains("8704 bytes"), "{text}");
    assert!(
        text.contains("AdapterOptions::window_from_device"),
        "{text}"
    );
    let text = message(|| disk.write_blocks(0, &sectors));
    assert!(text.contains("AdapterOptions::window_to_device"), "{text}");
    // Whole pages, which do not begin at one, have no other way either.
    let mut pages = desk.pages(5);
    let text = message(|| disk.read_blocks(0, &mut pages[256..256 + 0x4000]));
    assert!(text.contains("16384 bytes"), "{text}");
    assert!(
        text.contains("AdapterOptions::window_from_device"),
        "{text}"
    );
    assert_eq!(desk.model.request_count(), requests, "nothing was exposed");
    drop(disk);
    // What fits, fits.
    let mut disk = open::<Disk>(&fake);
    disk.read_blocks(0, &mut sectors[..7 * SECTOR]).unwrap();
    drop(disk);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn whole_pages_are_mapped_when_the_window_is_full_and_copied_when_the_table_is() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    for (bounce_up_to, order) in [(0x1000, ["", "M"]), (0, ["M", ""])] {
        let options = AdapterOptions::default().with_bounce_up_to(bounce_up_to);
        // A page for data, and one for answers.
        let options = options.with_window(0x1000, 0x2000).with_mappings(1);
        let fake = desk.device::<Disk>(0, Kind::Block, options);
        fake.with(|d| d.holds = true);
        let mut disk = open::<Disk>(&fake);
        let mut pages = [desk.pages(1), desk.pages(1), desk.pages(1)];
        let mut heads: [(BlkReq, BlkResp); 3] = Default::default();
        for (at, wanted) in order.into_iter().enumerate() {
            let (request, answer) = &mut heads[at];
            let page = &mut pages[at];
            // SAFETY: the buffers are not touched until the answers.
            let begin = || unsafe { disk.read_blocks_nb(8 * at, request, page, answer) };
            let (begun, requests, _) = desk.cost(begin);
            assert_eq!((begun.is_ok(), requests.as_str()), (true, wanted));
        }
        fake.fetch(0);
        for at in 0..2 {
            fake.complete(0);
            let token = disk.peek_used().unwrap();
            let (request, answer) = &mut heads[at];
            // SAFETY: the same buffers.
            unsafe { disk.complete_read_blocks(token, request, &mut pages[at], answer) }.unwrap();
            assert!(fake.with(|d| d.disk[8 * at * SECTOR..][..0x1000] == pages[at][..]));
        }
        let text = message(|| {
            for ((request, answer), page) in heads.iter_mut().zip(&mut pages) {
                // SAFETY: the buffers are not touched until the disk is dropped.
                unsafe { disk.read_blocks_nb(0, request, page, answer) }.unwrap();
            }
        });
        assert!(
            text.contains("AdapterOptions::window_from_device"),
            "{text}"
        );
        drop((disk, pages));
        desk.close::<Disk>(0, &fake);
    }
}

#[test]
fn a_full_domain_is_named() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    // Two halves of a window, two regions of a queue.
    let desk = Desk::with(DomainOptions::new(4));
    let options = AdapterOptions::default()
        .with_bounce_up_to(0)
        .with_window(0x2000, 0x2000);
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    let mut disk = open::<Disk>(&fake);
    let mut pages = desk.pages(3);
    let text = message(|| disk.read_blocks(0, &mut pages));
    assert!(text.contains("DomainOptions::mappings"), "{text}");
    // A page that fits in the window is copied, after all.
    drop(disk);
    let mut disk = open::<Disk>(&fake);
    assert_eq!(disk.write_blocks(0, &pages[..SECTOR]), Ok(()));
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn a_small_buffer_for_both_directions_is_none() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let mut bytes = [0; 16];
    let buffer = std::ptr::NonNull::from(&mut bytes[..]);
    // SAFETY: the buffer is there.
    let text = message(|| unsafe { IommuHal::<Disk>::share(buffer, BufferDirection::Both) });
    assert!(text.contains("Disk"), "{text}");
    let mut page = desk.pages(1);
    let buffer = std::ptr::NonNull::from(&mut page[..]);
    // SAFETY: the buffer is there.
    let at = unsafe { IommuHal::<Disk>::share(buffer, BufferDirection::Both) };
    assert_eq!(
        desk.model.reads(crate::desk::ENDPOINTS[0], at),
        Some(page.phys)
    );
    assert_eq!(
        desk.model.writes(crate::desk::ENDPOINTS[0], at),
        Some(page.phys)
    );
    // SAFETY: as it was shared.
    unsafe { IommuHal::<Disk>::unshare(at, buffer, BufferDirection::Both) };
    assert_eq!(desk.model.reads(crate::desk::ENDPOINTS[0], at), None);
    drop(page);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn addresses_that_were_never_given_out_are_counted_and_change_nothing() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, AdapterOptions::default());
    let mut bytes = [7; 300];
    let buffer = std::ptr::NonNull::from(&mut bytes[..]);
    let give_back = |at: u64, direction| {
        // SAFETY: the buffer is there; nothing is shared at the address, which is the point.
        unsafe { IommuHal::<Disk>::unshare(at, buffer, direction) };
    };
    let (to, from) = (
        BufferDirection::DriverToDevice,
        BufferDirection::DeviceToDriver,
    );
    // SAFETY: the buffer is there.
    let at = unsafe { IommuHal::<Disk>::share(buffer, from) };
    give_back(0, to);
    give_back(0, from);
    give_back(at + 64, from);
    give_back(at + 512, from);
    give_back(u64::MAX, BufferDirection::Both);
    assert_eq!(Disk::usage().unknown, 5);
    assert_eq!(Disk::usage().from_device.used, 512);
    give_back(at, from);
    give_back(at, from);
    assert_eq!(Disk::usage().unknown, 6);
    assert_eq!(Disk::usage().from_device.used, 0);
    assert!(bytes.iter().all(|byte| *byte == 0));
    // The same in the other direction.
    // SAFETY: the buffer is there.
    let at = unsafe { IommuHal::<Disk>::share(buffer, to) };
    give_back(at + 64, to);
    give_back(at + 512, to);
    assert_eq!(
        (Disk::usage().unknown, Disk::usage().to_device.used),
        (8, 512)
    );
    give_back(at, to);
    give_back(at, to);
    assert_eq!(
        (Disk::usage().unknown, Disk::usage().to_device.used),
        (9, 0)
    );
    // A place that is shorter than what is to come back.
    let mut short = [0; 64];
    let short = std::ptr::NonNull::from(&mut short[..]);
    // SAFETY: the buffer is there.
    let at = unsafe { IommuHal::<Disk>::share(short, from) };
    let longer = std::ptr::NonNull::from(&mut bytes[..65]);
    // SAFETY: the buffer is there; another is shared at the address, which is the point.
    unsafe { IommuHal::<Disk>::unshare(at, longer, from) };
    assert_eq!(
        (Disk::usage().unknown, Disk::usage().from_device.used),
        (10, 64)
    );
    // SAFETY: as it was shared.
    unsafe { IommuHal::<Disk>::unshare(at, short, from) };
    assert_eq!(Disk::usage().from_device.used, 0);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn an_unmap_that_is_not_confirmed_does_not_give_the_memory_back() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    for answer in [Answer::never(), Answer::status(6), Answer::needs_reset()] {
        let desk = Desk::new();
        let options = AdapterOptions::default().with_bounce_up_to(0);
        let fake = desk.device::<Disk>(0, Kind::Block, options);
        let mut disk = open::<Disk>(&fake);
        let mut page = desk.pages(1);
        let is_unmap = |request: &Request| matches!(request, Request::Unmap { .. });
        desk.model.answer_once(is_unmap, answer);
        let text = message(|| disk.read_blocks(0, &mut page));
        assert!(
            text.contains("Disk") && text.contains("cannot go back"),
            "{text}"
        );
        assert_eq!(desk.domains[0].quarantined(), 1);
        desk.model.honest();
        drop((disk, page));
        let _ = Disk::unbind();
        // Where the IOMMU has said that it needs a reset, nothing is confirmed any more.
        desk.model.allow_leaks();
    }
}

#[test]
fn a_map_that_is_not_confirmed_does_not_either() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_bounce_up_to(0);
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    let mut disk = open::<Disk>(&fake);
    let mut pages = desk.pages(1);
    let is_map = |request: &Request| matches!(request, Request::Map { .. });
    desk.model.answer_once(is_map, Answer::never());
    let text = message(|| disk.read_blocks(0, &mut pages));
    assert!(text.contains("Disk") && text.contains("exposed"), "{text}");
    // Refused for good: the buffer is copied.
    desk.model.answer_once(is_map, Answer::status(4));
    drop(disk);
    let mut disk = open_again::<Disk>(&fake, &desk);
    let result = disk.read_blocks(0, &mut pages);
    assert_eq!(result, Ok(()));
    drop((disk, pages));
    let _ = Disk::unbind().expect("nothing in use");
}

fn open_again<E: Endpoint>(fake: &crate::fake::Fake, desk: &Desk) -> crate::block::Blk<E> {
    desk.model.honest();
    let disk = open::<E>(fake);
    let is_map = |request: &Request| matches!(request, Request::Map { .. });
    desk.model.answer_once(is_map, Answer::status(4));
    disk
}
