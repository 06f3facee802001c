//! Which buffers are copied, mapped, or stay mapped; and what each costs in requests.

use std::time::Duration;

use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, Endpoint};
use virtio_iommu::{DomainOptions, bind_endpoint};

use crate::block::open;
use crate::desk::{Buffer, Desk, OldHal, TestPlatform};
use crate::fake::{Fake, Kind, SECTOR};

/// Sectors per page.
const PER_PAGE: usize = 8;

fn strict() -> AdapterOptions {
    AdapterOptions::default().with_bounce_up_to(0)
}

fn deferred() -> AdapterOptions {
    // SAFETY: the tests use the pages for nothing else.
    unsafe { strict().deferred() }
}

fn on_disk(fake: &Fake, sector: usize, len: usize) -> Vec<u8> {
    fake.with(|d| d.disk[sector * SECTOR..][..len].to_vec())
}

#[test]
fn whole_pages_cost_a_map_and_an_unmap_each() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let mut disk = open::<Disk>(&fake);
    let mut pages = desk.pages(3);
    pages.fill(0x5a);
    let (result, requests, kicks) = desk.cost(|| disk.read_blocks(8, &mut pages));
    assert_eq!((result, requests.as_str(), kicks), (Ok(()), "MU", 2));
    assert_eq!(pages[..], on_disk(&fake, 8, pages.len()));
    pages.reverse();
    let wanted = pages.to_vec();
    let (result, requests, _) = desk.cost(|| disk.write_blocks(32, &pages));
    assert_eq!((result, requests.as_str()), (Ok(()), "MU"));
    assert_eq!(on_disk(&fake, 32, wanted.len()), wanted);
    assert_eq!(pages[..], wanted);
    // Half a page, and pages that do not begin at one.
    for part in [0..2048, 512..512 + 4096] {
        let (result, requests, _) = desk.cost(|| disk.read_blocks(1, &mut pages[part.clone()]));
        assert_eq!((result, requests.as_str()), (Ok(()), ""));
        assert_eq!(pages[part.clone()], on_disk(&fake, 1, part.len()));
    }
    let usage = Disk::usage();
    assert_eq!((usage.mapped, usage.most_mapped), (0, 1));
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn up_to_a_length_whole_pages_are_copied() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let options = AdapterOptions::default().with_bounce_up_to(0x2000);
    let fake = desk.device::<Disk>(0, Kind::Block, options);
    let mut disk = open::<Disk>(&fake);
    for (count, wanted) in [(1, ""), (2, ""), (3, "MU")] {
        let mut pages = desk.pages(count);
        let (result, requests, _) = desk.cost(|| disk.read_blocks(0, &mut pages));
        assert_eq!((result, requests.as_str()), (Ok(()), wanted));
        assert_eq!(pages[..], on_disk(&fake, 0, pages.len()));
    }
    drop(disk);
    desk.close::<Disk>(0, &fake);
}

#[test]
fn pages_without_an_address_are_copied() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let mut disk = open::<Disk>(&fake);
    let mut pages = desk.pages(2);
    // All of them, or the second one alone.
    for first in [pages.phys, pages.phys + 0x1000] {
        pages.fill(0x5a);
        desk.hide_pages_from(first);
        let (result, requests, _) = desk.cost(|| disk.read_blocks(0, &mut pages));
        assert_eq!((result, requests.as_str()), (Ok(()), ""));
        assert_eq!(pages[..], on_disk(&fake, 0, pages.len()));
        pages.reverse();
        let wanted = pages.to_vec();
        let (result, requests, _) = desk.cost(|| disk.write_blocks(32, &pages));
        assert_eq!((result, requests.as_str()), (Ok(()), ""));
        assert_eq!(on_disk(&fake, 32, wanted.len()), wanted);
    }
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

/// The kernel's pages are exchanged with their neighbours: what the device finds at a page is what
/// the CPU finds at the other.
fn exchanged(bytes: &[u8]) -> Vec<u8> {
    let pairs = bytes.chunks(0x2000);
    pairs
        .flat_map(|pair| [&pair[0x1000..], &pair[..0x1000]].concat())
        .collect()
}

/// Pages of which the first is an even one, so that pairs are exchanged inside.
fn even_pages(desk: &Desk, count: usize) -> (Buffer, usize) {
    let pages = desk.pages(count + 1);
    let skip = (pages.phys as usize) % 0x2000;
    (pages, skip)
}

#[test]
fn scattered_pages_are_one_buffer() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    let fake = desk.device::<Disk>(0, Kind::Block, strict());
    let mut disk = open::<Disk>(&fake);
    let (mut pages, skip) = even_pages(&desk, 4);
    desk.swap_pages(true);
    let buffer = &mut pages[skip..skip + 0x4000];
    let (result, requests, kicks) = desk.cost(|| disk.read_blocks(8, buffer));
    assert_eq!((result, requests.as_str(), kicks), (Ok(()), "MMMMU", 2));
    assert_eq!(exchanged(buffer), on_disk(&fake, 8, 0x4000));
    buffer
        .iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = (i / 7) as u8);
    let (result, requests, _) = desk.cost(|| disk.write_blocks(0, buffer));
    assert_eq!((result, requests.as_str()), (Ok(()), "MMMMU"));
    assert_eq!(exchanged(buffer), on_disk(&fake, 0, 0x4000));
    desk.swap_pages(false);
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn buffers_that_recur_cost_nothing_when_deferred() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::with(DomainOptions::new(256).with_deferred(64, Duration::from_secs(1000)));
    let fake = desk.device::<Disk>(0, Kind::Block, deferred());
    let mut disk = open::<Disk>(&fake);
    let mut pages = [desk.pages(1), desk.pages(2)];
    let mut all = String::new();
    for round in 0..20 {
        for pages in &mut pages {
            let sector = round % 4 * PER_PAGE;
            let (result, requests, _) = desk.cost(|| disk.read_blocks(sector, pages));
            result.unwrap();
            assert_eq!(pages[..], on_disk(&fake, sector, pages.len()));
            all += &requests;
        }
    }
    // The same pages in the other direction are another mapping.
    let (_, requests, _) = desk.cost(|| disk.write_blocks(0, &pages[0]).unwrap());
    assert_eq!((all.as_str(), requests.as_str()), ("MM", "M"));
    assert_eq!(Disk::usage().deferred, 3);
    assert_eq!(desk.domains[0].deferred(), 3);
    // Revoked in time: then they have to be mapped again.
    let (_, requests, kicks) = desk.cost(|| desk.domains[0].flush().unwrap());
    assert!(kicks == 1 && requests.chars().all(|kind| kind == 'U'));
    let (_, requests, _) = desk.cost(|| disk.read_blocks(0, &mut pages[1]).unwrap());
    assert_eq!(requests, "M");
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn what_is_deferred_is_told_apart_by_every_page() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::with(DomainOptions::new(256).with_deferred(64, Duration::from_secs(1000)));
    let fake = desk.device::<Disk>(0, Kind::Block, deferred());
    let mut disk = open::<Disk>(&fake);
    let (mut pages, skip) = even_pages(&desk, 4);
    let buffer = &mut pages[skip..skip + 0x4000];
    let cost = |disk: &mut crate::block::Blk<Disk>, buffer: &mut [u8]| {
        let (result, requests, _) = desk.cost(|| disk.read_blocks(8, buffer));
        result.unwrap();
        requests
    };
    // As neighbours, and exchanged: the one is not the other, although all of it is the same.
    assert_eq!(cost(&mut disk, buffer), "M");
    desk.swap_pages(true);
    assert_eq!(cost(&mut disk, buffer), "MMMM");
    assert_eq!(exchanged(buffer), on_disk(&fake, 8, 0x4000));
    assert_eq!(cost(&mut disk, buffer), "");
    assert_eq!(exchanged(buffer), on_disk(&fake, 8, 0x4000));
    desk.swap_pages(false);
    assert_eq!(cost(&mut disk, buffer), "");
    assert_eq!(buffer[..], on_disk(&fake, 8, 0x4000));
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn more_buffers_than_there_is_room_for_push_the_oldest_out() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::with(DomainOptions::new(24).with_deferred(64, Duration::from_secs(1000)));
    let fake = desk.device::<Disk>(0, Kind::Block, deferred().with_mappings(8));
    let mut disk = open::<Disk>(&fake);
    let mut pages: Vec<Buffer> = (0..40).map(|_| desk.pages(1)).collect();
    for _ in 0..3 {
        for (at, page) in pages.iter_mut().enumerate() {
            disk.read_blocks(at, page).unwrap();
            assert_eq!(page[..], on_disk(&fake, at, page.len()));
        }
    }
    let usage = Disk::usage();
    assert!(usage.deferred <= 8);
    assert!(usage.from_device.most < 4096, "a page was copied");
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn the_one_that_was_put_off_last_is_not_the_first_to_go() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::with(DomainOptions::new(64).with_deferred(64, Duration::from_secs(1000)));
    let fake = desk.device::<Disk>(0, Kind::Block, deferred().with_mappings(4));
    let mut disk = open::<Disk>(&fake);
    let mut pages: Vec<Buffer> = (0..6).map(|_| desk.pages(1)).collect();
    let mut requests = Vec::new();
    for at in [0, 1, 2, 3, 4, 5, 4, 3] {
        let (result, cost, _) = desk.cost(|| disk.read_blocks(at, &mut pages[at]));
        result.unwrap();
        assert_eq!(pages[at][..], on_disk(&fake, at, 4096));
        requests.push(cost);
    }
    assert_eq!(requests, ["M", "M", "M", "M", "M", "M", "", ""]);
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn what_is_put_off_makes_room_in_a_full_domain() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    // Two halves of a window, two regions of a queue, and four pages.
    let desk = Desk::with(DomainOptions::new(8).with_deferred(64, Duration::from_secs(1000)));
    let fake = desk.device::<Disk>(0, Kind::Block, deferred());
    let mut disk = open::<Disk>(&fake);
    let mut pages: Vec<Buffer> = (0..12).map(|_| desk.pages(1)).collect();
    for (at, page) in pages.iter_mut().enumerate() {
        let (result, requests, _) = desk.cost(|| disk.read_blocks(at, page));
        result.unwrap();
        assert!(requests.ends_with('M'), "{at}: {requests}");
        assert_eq!(page[..], on_disk(&fake, at, page.len()));
    }
    assert!(Disk::usage().from_device.most < 4096, "a page was copied");
    drop((disk, pages));
    desk.close::<Disk>(0, &fake);
}

#[test]
fn memory_is_concealed_before_it_is_mapped() {
    bind_endpoint!(struct Disk: TestPlatform, OldHal);
    let desk = Desk::new();
    for (options, begins_with) in [(strict(), 0), (strict().with_conceal(false), 0x5a)] {
        let fake = desk.device::<Disk>(0, Kind::Block, options);
        fake.with(|d| d.holds = true);
        let mut disk = open::<Disk>(&fake);
        let mut page = desk.pages(1);
        page.fill(0x5a);
        let mut request = Default::default();
        let mut answer = Default::default();
        // SAFETY: the buffers are not touched until the disk is dropped.
        unsafe { disk.read_blocks_nb(0, &mut request, &mut page, &mut answer) }.unwrap();
        fake.fetch(0);
        let seen = desk.model.ram().read(page.phys, 4096).unwrap();
        assert_eq!(seen, [begins_with; 4096]);
        drop(disk);
        drop(page);
        desk.close::<Disk>(0, &fake);
    }
}
