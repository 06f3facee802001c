//! UNMAPs that are put off: what they cost, how long they wait, and who has the memory meanwhile.

use crate::each;
use std::time::Duration;

use virtio_iommu::dma::{Deferred, FromDevice, ToDevice};
use virtio_iommu::{DomainOptions, Iova};

use crate::desk::{Buf, Desk, kinds, phys_of};
use crate::model::PLAIN;
use crate::model::platform::ModelPlatform;
use crate::ways::done;
use xtask::conformance::{Oracle, proves};

type Parked = Deferred<Buf, FromDevice, ModelPlatform>;

fn park(desk: &Desk) -> Parked {
    done(desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap()).defer()
}

fn desk(deferred: usize, age: Duration) -> Desk {
    let options = DomainOptions::new(400).with_deferred(deferred, age);
    Desk::with(options, Default::default())
}

const LONG: Duration = Duration::from_secs(1_000);

#[test]
fn using_it_again_takes_no_request() {
    for _ in each!() {
        let desk = desk(8, LONG);
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        let at = mapping.device_addr();
        let (mapping, requests, kicks) = desk.cost(|| {
            let parked = done(mapping).defer();
            assert_eq!((desk.domain.deferred(), desk.domain.mapped()), (1, 1));
            assert!(!parked.is_revoked());
            // The endpoint reaches it all the while.
            assert_eq!(desk.dma_write(at.0, b"late"), 4);
            let mut seen = [0; 4];
            assert!(parked.read(0, &mut seen) && &seen == b"late");
            assert!(parked.write(0x10, b"next"));
            parked.reuse().unwrap()
        });
        assert_eq!((requests.len(), kicks), (0, 0));
        assert_eq!((mapping.device_addr(), desk.domain.deferred()), (at, 0));
        assert_eq!(desk.domain.poll(u64::MAX), None);
        let buffer = done(mapping).unmap().unwrap();
        assert_eq!(&buffer[0x10..0x14], b"next");
        drop(buffer);
        desk.assert_empty();
    }
}

#[test]
fn neighbours_are_one_request_whatever_their_age() {
    let _proof = proves(Oracle::Model, &["DN-UNMAP-2", "DN-UNMAP-3", "DV-UNM-7"]);
    for _ in each!() {
        let desk = desk(64, LONG);
        let mut list: Vec<_> = (0..40)
            .map(|_| desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap())
            .collect();
        // Not in the order of their addresses.
        for i in 0..list.len() {
            list.swap(i, i * 7 % 40);
        }
        let handles: Vec<Parked> = list.into_iter().map(|m| done(m).defer()).collect();
        let (result, requests, kicks) = desk.cost(|| desk.domain.flush());
        assert_eq!((result, kinds(&requests).as_str(), kicks), (Ok(()), "U", 1));
        assert_eq!(desk.at_device(), 0);
        assert_eq!(desk.pages(), 40, "the handles have the memory");
        let (_, requests, _) = desk.cost(|| {
            for handle in handles {
                assert!(handle.is_revoked());
                drop(handle.reclaim().unwrap());
            }
        });
        assert_eq!(requests, []);
        desk.assert_empty();
    }
}

#[test]
fn what_stays_between_them_is_spared() {
    let _proof = proves(Oracle::Model, &["DN-UNMAP-2"]);
    for _ in each!() {
        let desk = desk(256, LONG);
        let list: Vec<_> = (0..260)
            .map(|_| desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap())
            .collect();
        let mut stays = Vec::new();
        for (i, mapping) in list.into_iter().enumerate() {
            match i % 2 {
                0 => stays.push(mapping),
                _ => drop(done(mapping).defer()),
            }
        }
        // The quarantine has room for 64 of them; the others were unmapped when they were dropped.
        assert_eq!(desk.domain.deferred(), 64);
        let (result, requests, kicks) = desk.cost(|| desk.domain.flush());
        assert_eq!((result, requests.len(), kicks), (Ok(()), 64, 1));
        assert_eq!((desk.at_device(), desk.pages()), (130, 130));
        for mapping in &stays {
            assert_eq!(desk.dma_write(mapping.device_addr().0, b"here"), 4);
        }
        stays
            .into_iter()
            .for_each(|m| drop(done(m).unmap().unwrap()));
        desk.assert_empty();
    }
}

#[test]
fn more_than_a_batch_takes_a_kick_for_each() {
    for _ in each!() {
        let desk = desk(256, LONG);
        let list: Vec<_> = (0..300)
            .map(|_| desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap())
            .collect();
        let mut stays = Vec::new();
        let mut handles = Vec::new();
        for (i, mapping) in list.into_iter().enumerate() {
            match i % 2 {
                0 => stays.push(mapping),
                _ => handles.push(done(mapping).defer()),
            }
        }
        let (result, requests, kicks) = desk.cost(|| desk.domain.flush());
        assert_eq!((result, requests.len(), kicks), (Ok(()), 150, 3));
        handles.into_iter().for_each(|h| drop(h.reclaim().unwrap()));
        stays
            .into_iter()
            .for_each(|m| drop(done(m).unmap().unwrap()));
        desk.assert_empty();
    }
}

#[test]
fn nobody_gets_the_memory_or_the_addresses_before() {
    for _ in each!() {
        let desk = desk(64, LONG);
        let parked = park(&desk);
        let at = desk.model.mappings(desk.domain.id().0).unwrap()[0];
        let (_, requests, _) = desk.cost(|| drop(parked));
        assert_eq!(requests, []);
        assert!(desk.model.ram().is_live(at.phys, 0x1000));
        assert_eq!(desk.dma_write(at.start, b"late"), 4);
        for _ in 0..20 {
            let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
            assert!(!mapping.iova().contains(Iova(at.start)));
            drop(done(mapping).unmap().unwrap());
        }
        assert_eq!(desk.model.writes(PLAIN, at.start), Some(at.phys));
        desk.domain.flush().unwrap();
        assert!(!desk.model.ram().is_live(at.phys, 0x1000));
        desk.assert_empty();
    }
}

#[test]
fn reclaiming_sends_the_unmap_if_it_was_not_sent() {
    for _ in each!() {
        let desk = desk(8, LONG);
        let [first, second] = [park(&desk), park(&desk)];
        let (buffer, requests, kicks) = desk.cost(|| first.reclaim().unwrap());
        assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
        drop(buffer);
        assert_eq!(desk.domain.deferred(), 1);
        drop(second.reclaim().unwrap());
        assert_eq!(desk.domain.poll(u64::MAX), None);
        desk.assert_empty();
    }
}

#[test]
fn after_a_flush_it_takes_one_map_at_the_same_place() {
    for _ in each!() {
        let desk = desk(8, LONG);
        let list = vec![desk.filled(1, 1), desk.filled(2, 2)];
        let pieces = [phys_of(&list[0]), phys_of(&list[1])];
        let mapping = desk.device.map_apart::<ToDevice, _>(list).unwrap();
        let iova = mapping.iova();
        let parked = done(mapping).defer();
        desk.domain.flush().unwrap();
        let (mapping, requests, kicks) = desk.cost(|| parked.reuse().unwrap());
        assert_eq!((kinds(&requests).as_str(), kicks), ("MM", 1));
        assert_eq!(mapping.iova(), iova);
        let start = iova.start().0;
        assert_eq!(desk.model.reads(PLAIN, start), Some(pieces[0]));
        assert_eq!(desk.model.reads(PLAIN, start + 0x1000), None);
        assert_eq!(desk.model.reads(PLAIN, start + 0x2000), Some(pieces[1]));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn a_full_list_is_sent_and_then_there_is_room() {
    for _ in each!() {
        let desk = desk(4, LONG);
        let mut handles: Vec<Parked> = (0..4).map(|_| park(&desk)).collect();
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        let (fifth, requests, kicks) = desk.cost(|| done(mapping).defer());
        assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
        assert_eq!(desk.domain.deferred(), 1);
        assert!(handles.iter().all(Parked::is_revoked) && !fifth.is_revoked());
        handles.push(fifth);
        handles.into_iter().for_each(|h| drop(h.reclaim().unwrap()));
        desk.assert_empty();
        // Without room for any, it is unmapped at once.
        let desk = self::desk(0, LONG);
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        let (parked, requests, _) = desk.cost(|| done(mapping).defer());
        assert_eq!(kinds(&requests), "U");
        assert!(parked.is_revoked());
        let mapping = parked.reuse().unwrap();
        assert_eq!(desk.dma_write(mapping.device_addr().0, b"x"), 1);
        drop(done(mapping).defer());
        desk.assert_empty();
    }
}

#[test]
fn age_is_bounded_by_whoever_polls() {
    for _ in each!() {
        let age = Duration::from_millis(10);
        let desk = desk(8, age);
        desk.model.clock().set_step(0);
        assert_eq!(desk.domain.poll(0), None);
        let first = park(&desk);
        let deadline = desk.domain.poll(0).expect("a deadline");
        desk.model.clock().advance(4_000_000);
        let second = park(&desk);
        assert_eq!(desk.domain.poll(deadline - 1), Some(deadline));
        assert_eq!(desk.domain.deferred(), 2);
        // Once the oldest is taken back, the next one counts.
        let mapping = first.reuse().unwrap();
        assert_eq!(desk.domain.poll(deadline), Some(deadline + 4_000_000));
        assert_eq!(desk.domain.deferred(), 1);
        let (next, requests, _) = desk.cost(|| desk.domain.poll(deadline + 4_000_000));
        assert_eq!((next, kinds(&requests).as_str()), (None, "U"));
        assert!(second.is_revoked());
        drop(second);
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn without_an_endpoint_nothing_has_to_be_sent() {
    for _ in each!() {
        let desk = desk(8, LONG);
        let [kept, dropped, again] = [park(&desk), park(&desk), park(&desk)];
        drop(dropped);
        desk.device.clone().detach().unwrap();
        let (result, requests, _) = desk.cost(|| desk.domain.flush());
        assert_eq!((result, requests.len()), (Ok(()), 0));
        assert_eq!(desk.pages(), 2);
        drop(kept.reclaim().unwrap());
        let failure = again.reuse().unwrap_err();
        assert_eq!(failure.error, virtio_iommu::MapError::NotAttached);
        drop(failure.buffer.expect("the buffer"));
        desk.assert_empty();
    }
}

#[test]
fn an_endpoint_that_comes_back_finds_what_was_put_off() {
    for _ in each!() {
        let desk = desk(8, LONG);
        let parked = park(&desk);
        let at = desk.model.mappings(desk.domain.id().0).unwrap()[0];
        desk.device.clone().detach().unwrap();
        assert_eq!(desk.model.writes(PLAIN, at.start), None);
        desk.domain.attach(crate::rig::endpoint(PLAIN)).unwrap();
        let (mapping, requests, _) = desk.cost(|| parked.reuse().unwrap());
        assert_eq!(requests, []);
        assert_eq!(desk.model.writes(PLAIN, at.start), Some(at.phys));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn addresses_are_free_once_their_unmap_is_confirmed_and_the_memory_is_back() {
    for _ in each!() {
        let desk = desk(8, LONG);
        // More often than the domain has room for mappings.
        for _ in 0..500 {
            let parked = park(&desk);
            desk.domain.flush().unwrap();
            assert!(parked.is_revoked());
            drop(parked.reclaim().unwrap());
        }
        desk.assert_empty();
    }
}
