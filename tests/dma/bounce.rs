//! Pools: what a transfer costs, what the endpoint finds, and what happens when they are used up.

use crate::each;
use virtio_iommu::dma::{
    Bounce, BounceError, BounceOptions, Bounced, DmaLimits, FromDevice, ToDevice, Transfer,
};
use virtio_iommu::{DomainOptions, MapError};

use crate::desk::{Desk, kinds};
use crate::model::PLAIN;
use crate::model::platform::ModelPlatform;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::rig::is_map;

type Pools = Bounce<ModelPlatform>;

fn pools(desk: &Desk, options: BounceOptions) -> Pools {
    Bounce::new(&desk.device, options).expect("pools")
}

fn small() -> BounceOptions {
    BounceOptions::default().with_pools(0x1000, 0x1000)
}

/// Ends the pools; the endpoint has been told.
fn close(pools: Pools) {
    // SAFETY: the endpoint is a function of the test.
    assert!(unsafe { pools.close() }.is_ok());
}

#[test]
fn a_transfer_takes_no_request() {
    for _ in each!() {
        let desk = Desk::new();
        let (bounce, requests, kicks) = desk.cost(|| pools(&desk, small()));
        assert_eq!((kinds(&requests).as_str(), kicks), ("MM", 2));
        let (_, requests, kicks) = desk.cost(|| {
            for round in 0..100_u8 {
                let out = bounce.to_device(&[round; 700]).unwrap();
                let into = bounce.from_device(700).unwrap();
                let seen = desk.dma_read(out.device_addr().0, 700).unwrap();
                assert_eq!(seen, [round; 700]);
                assert_eq!(desk.dma_write(into.device_addr().0, &seen), 700);
                out.finish();
                let mut back = [0; 700];
                assert!(into.finish_into(&mut back));
                assert_eq!(back, [round; 700]);
            }
        });
        assert_eq!((requests.len(), kicks), (0, 0));
        let (_, requests, _) = desk.cost(|| close(bounce));
        assert_eq!(kinds(&requests), "UU");
        desk.assert_empty();
    }
}

#[test]
fn each_pool_goes_one_way() {
    for _ in
        each!(but [(Crosvm, "WRITE implies READ"), (CloudHypervisor, "access flags are ignored")])
    {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let out = bounce.to_device(&[1]).unwrap();
        let into = bounce.from_device(1).unwrap();
        let (out_at, in_at) = (out.device_addr().0, into.device_addr().0);
        assert!(desk.model.reads(PLAIN, out_at).is_some());
        assert_eq!(desk.model.writes(PLAIN, out_at), None);
        assert_eq!(desk.model.reads(PLAIN, in_at), None);
        assert!(desk.model.writes(PLAIN, in_at).is_some());
        // Reads beyond the end of the transfer give nothing, though the pool goes on.
        let mut two = [9; 2];
        assert!(!into.read(0, &mut two) && !into.read(usize::MAX, &mut two));
        assert!(into.read(1, &mut []));
        assert_eq!(two, [9; 2]);
        assert!(!into.finish_into(&mut two));
        out.finish();
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn used_up_is_an_error_that_exposes_nothing() {
    for _ in each!() {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let held = bounce.from_device(0x1000).unwrap();
        let (_, requests, _) = desk.cost(|| {
            assert_eq!(bounce.from_device(1).unwrap_err(), BounceError::Exhausted);
        });
        assert_eq!(requests, []);
        assert_eq!(bounce.from_device(0).unwrap_err(), BounceError::Length);
        assert_eq!(bounce.from_device(0x1001).unwrap_err(), BounceError::Length);
        assert_eq!(
            bounce.from_device(usize::MAX).unwrap_err(),
            BounceError::Length
        );
        assert_eq!(bounce.to_device(&[]).unwrap_err(), BounceError::Length);
        // The other direction is not concerned.
        bounce.to_device(&[1; 0x1000]).unwrap().finish();
        held.finish();
        bounce.from_device(0x1000).unwrap().finish();
        close(bounce);
        // Not more transfers than asked for.
        let bounce = pools(&desk, small().with_transfers(3));
        let list: Vec<_> = (0..3).map(|_| bounce.to_device(&[1]).unwrap()).collect();
        assert_eq!(bounce.to_device(&[1]).unwrap_err(), BounceError::Exhausted);
        list.into_iter().for_each(Bounced::finish);
        bounce.to_device(&[1]).unwrap().finish();
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn a_pool_without_transfers_has_room_for_all_that_fit() {
    const BYTES: usize = 16 << 17;
    // Whatever was there before, and in whichever order it came back.
    let lengths = [4096, 128 << 10, 700, 96 << 10, 64, BYTES, 1536, 128 << 10];
    for _ in each!() {
        let desk = Desk::new();
        let options = small().with_pools(0x1000, BYTES);
        let bounce = pools(&desk, options.with_transfers(BYTES / 64));
        for (round, len) in lengths.into_iter().enumerate() {
            let fit = BYTES / len.next_multiple_of(64);
            // A few short ones, but long ones until there are no more.
            let count = fit.min(22);
            let take = |_| bounce.from_device(len).expect("there is room");
            let mut places: Vec<_> = (0..count).map(take).collect();
            if count == fit {
                assert_eq!(bounce.from_device(len).unwrap_err(), BounceError::Exhausted);
            }
            for (number, place) in places.iter().enumerate() {
                let number = (number as u32 + 1).to_le_bytes();
                let first = place.device_addr().0;
                assert_eq!(desk.dma_write(first, &number), 4);
                assert_eq!(desk.dma_write(first + len as u64 - 4, &number), 4);
            }
            for (number, place) in places.iter().enumerate() {
                let mut seen = [[0; 4]; 2];
                let [first, last] = &mut seen;
                assert!(place.read(0, first) && place.read(len - 4, last));
                assert_eq!(seen.map(u32::from_le_bytes), [number as u32 + 1; 2]);
            }
            if round % 3 == 0 {
                places.reverse();
            }
            let half = places.len() / 2;
            places.rotate_left(half * (round % 2));
            places.into_iter().for_each(Bounced::finish);
        }
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn who_wants_to_falls_back_to_a_mapping() {
    for _ in each!() {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let held = [bounce.to_device(&[0; 0x1000]).unwrap()];
        let into = bounce.from_device(0x1000).unwrap();
        let (out, requests, kicks) = desk.cost(|| bounce.to_device_or_map(b"beside").unwrap());
        assert!(matches!(out, Transfer::Mapped(_)));
        assert_eq!((kinds(&requests).as_str(), kicks), ("M", 1));
        let seen = desk.dma_read(out.device_addr().0, 0x1000).unwrap();
        assert_eq!(&seen[..6], b"beside");
        assert!(seen[6..].iter().all(|byte| *byte == 0));
        let back = bounce.from_device_or_map(4).unwrap();
        assert!(matches!(back, Transfer::Mapped(_)));
        desk.dma_write(back.device_addr().0, b"here");
        let mut bytes = [0; 4];
        // SAFETY: the endpoint is a function of the test.
        assert_eq!(unsafe { back.finish_into(&mut bytes) }, Ok(true));
        assert_eq!(&bytes, b"here");
        // SAFETY: as above.
        unsafe { out.finish() }.unwrap();
        assert_eq!(
            bounce.to_device_or_map(&[]).unwrap_err(),
            BounceError::Length
        );
        assert_eq!(
            bounce.from_device_or_map(0).unwrap_err(),
            BounceError::Length
        );
        // What does not fit at all is mapped, too; and what fits is not.
        let large = bounce.from_device_or_map(0x2001).unwrap();
        assert!(matches!(large, Transfer::Mapped(_)));
        // SAFETY: as above.
        unsafe { large.finish() }.unwrap();
        into.finish();
        let fits = bounce.from_device_or_map(100).unwrap();
        assert!(matches!(fits, Transfer::Bounced(_)));
        // SAFETY: as above.
        assert_eq!(unsafe { fits.finish_into(&mut [0; 101]) }, Ok(false));
        held.into_iter().for_each(Bounced::finish);
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn a_fallback_that_fails_leaves_nothing() {
    for _ in each!() {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let held = bounce.to_device(&[0; 0x1000]).unwrap();
        let before = desk.pages();
        let next = desk.model.ram().allocations();
        desk.model
            .ram()
            .refuse(Some(crate::model::memory::Refuse::Only(next)));
        assert_eq!(
            bounce.to_device_or_map(&[1]).unwrap_err(),
            BounceError::OutOfMemory
        );
        desk.model.ram().refuse(None);
        desk.model
            .answer_once(is_map, Answer::status(status::NOMEM));
        let error = bounce.to_device_or_map(&[1]).unwrap_err();
        assert!(matches!(error, BounceError::Map(MapError::Request(_))));
        assert_eq!((desk.pages(), desk.domain.quarantined()), (before, 0));
        // A transfer that is dropped beside the pool is quarantined with its pages.
        desk.model.honest();
        drop(bounce.to_device_or_map(&[1]).unwrap());
        assert_eq!((desk.pages(), desk.domain.quarantined()), (before + 1, 1));
        assert_eq!(desk.release(), (1, 0));
        held.finish();
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn a_place_that_is_dropped_is_not_used_again() {
    for _ in each!() {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let dropped = bounce.from_device(0x400).unwrap();
        let late = desk.model.writes(PLAIN, dropped.device_addr().0).unwrap();
        let (_, requests, _) = desk.cost(|| drop(dropped));
        assert_eq!(requests, []);
        assert_eq!((bounce.quarantined(), desk.domain.quarantined()), (1, 0));
        for round in 0..50_u8 {
            let places: Vec<_> = (0..3).map(|_| bounce.from_device(0x400).unwrap()).collect();
            assert_eq!(bounce.from_device(1).unwrap_err(), BounceError::Exhausted);
            for place in &places {
                desk.dma_write(place.device_addr().0, &[round; 0x400]);
            }
            // The endpoint finishes at last what it began before.
            desk.late_write(late, &[0xbd; 0x400]);
            for place in places {
                let mut bytes = [0; 0x400];
                assert!(place.finish_into(&mut bytes));
                assert_eq!(bytes, [round; 0x400]);
            }
        }
        assert_eq!(bounce.release_quarantine(), 1);
        assert_eq!((bounce.quarantined(), bounce.release_quarantine()), (0, 0));
        let places: Vec<_> = (0..4).map(|_| bounce.from_device(0x400).unwrap()).collect();
        places.into_iter().for_each(Bounced::finish);
        drop(bounce.to_device(&[1]).unwrap());
        assert_eq!(bounce.quarantined(), 1);
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn pools_do_not_go_while_a_transfer_is_left() {
    for _ in each!() {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let place = bounce.to_device(b"still here").unwrap();
        // SAFETY: the endpoint is a function of the test.
        let bounce = unsafe { bounce.close() }.expect_err("a transfer is left");
        let at = place.device_addr().0;
        assert_eq!(desk.dma_read(at, 10).unwrap(), b"still here");
        drop(bounce);
        // The transfer keeps its pool; the other one is quarantined.
        assert_eq!((desk.domain.quarantined(), desk.at_device()), (1, 1));
        assert_eq!(desk.dma_read(at, 10).unwrap(), b"still here");
        place.finish();
        assert_eq!((desk.domain.quarantined(), desk.at_device()), (2, 0));
        assert_eq!(desk.pages(), 4);
        assert_eq!(desk.release(), (2, 0));
        desk.assert_empty();
    }
}

#[test]
fn options_that_make_no_sense() {
    for _ in each!() {
        let desk = Desk::new();
        let new = |options| Bounce::new(&desk.device, options).map(close);
        for odd in [
            small().with_align(0),
            small().with_align(3),
            small().with_align(0x2000),
            small().with_pools(0, 1),
            small().with_pools(1, 0),
        ] {
            assert_eq!(new(odd).unwrap_err(), BounceError::Length, "{odd:?}");
            assert_eq!(desk.domain.quarantined(), 0);
        }
        let vast = new(small().with_pools(usize::MAX, 1)).unwrap_err();
        assert_eq!(vast, BounceError::OutOfMemory);
        let many = new(small().with_transfers(usize::MAX)).unwrap_err();
        assert_eq!(many, BounceError::OutOfMemory);
        let none = pools(&desk, small().with_transfers(0));
        assert_eq!(none.to_device(&[1]).unwrap_err(), BounceError::Exhausted);
        close(none);
        // Byte by byte, if one wants to.
        let tight = pools(&desk, small().with_align(1).with_transfers(0x1001));
        let places: Vec<_> = (0..0x1000).map(|_| tight.from_device(1).unwrap()).collect();
        assert_eq!(tight.from_device(1).unwrap_err(), BounceError::Exhausted);
        let mut at: Vec<u64> = places.iter().map(|p| p.device_addr().0).collect();
        at.sort_unstable();
        at.dedup();
        assert_eq!(at.len(), 0x1000);
        places.into_iter().for_each(Bounced::finish);
        close(tight);
        desk.assert_empty();
    }
}

#[test]
fn an_access_one_byte_below_a_pool_reaches_nobody() {
    for _ in each!() {
        // Some devices look one byte too far, and find the byte before the pool in physical memory.
        let desk = Desk::with(DomainOptions::new(16), DmaLimits::default());
        let before = desk.filled(1, 0x99);
        let bounce = pools(&desk, small());
        for mapping in desk.model.mappings(desk.domain.id().0).unwrap() {
            let guard = mapping.phys - 0x1000;
            assert!(desk.model.ram().is_live(guard, 0x1001), "not of the pool");
            assert!(desk.peek(guard, 0x1000).iter().all(|byte| *byte == 0));
            desk.late_write(mapping.phys - 1, &[0xbd]);
        }
        assert!(before.iter().all(|byte| *byte == 0x99));
        drop(before);
        close(bounce);
        desk.assert_empty();
    }
}

#[test]
fn both_kinds_of_transfer_say_what_they_are() {
    for _ in each!() {
        let desk = Desk::new();
        let bounce = pools(&desk, small());
        let out: Bounced<ToDevice, _> = bounce.to_device(&[1, 2, 3]).unwrap();
        let into: Bounced<FromDevice, _> = bounce.from_device(5).unwrap();
        assert_eq!((out.len(), into.len()), (3, 5));
        assert!(format!("{out:?}").contains("3 bytes"));
        out.finish();
        into.finish();
        close(bounce);
        desk.assert_empty();
    }
}
