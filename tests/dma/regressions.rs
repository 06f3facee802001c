//! Defects that this suite has found, each by the shortest way to it.

use crate::each;
use std::sync::Arc;
use std::time::Duration;

use virtio_iommu::dma::{Bounce, BounceOptions, DmaLimits, FromDevice, ToDevice};
use virtio_iommu::{AttachError, DomainOptions, MapError};

use crate::buffers::shuffled;
use crate::desk::Desk;
use crate::model::PLAIN;
use crate::model::memory::Refuse;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::rig::{self, GRANULE, RW};
use crate::ways::done;

#[test]
fn a_release_leaves_what_a_handle_still_stands_for() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<FromDevice, _>(desk.filled(1, 1)).unwrap();
        let old = done(mapping).defer();
        desk.model
            .answer_once(rig::is_unmap, Answer::status(status::DEVERR));
        desk.domain.flush().unwrap_err();
        desk.model.honest();
        assert_eq!(desk.domain.quarantined(), 1);
        // The device has confirmed the second UNMAP: nothing is in doubt, but for the handle.
        assert_eq!(desk.release(), (1, 0));
        assert_eq!((desk.domain.quarantined(), desk.at_device()), (0, 0));
        // A mapping after it must be none of the old handle's business.
        let mapping = desk.device.map::<ToDevice, _>(desk.filled(1, 2)).unwrap();
        let at = mapping.device_addr();
        let phys = desk.model.reads(PLAIN, at.0).unwrap();
        let new = done(mapping).defer();
        let (result, requests, _) = desk.cost(|| old.reclaim());
        drop(result.expect("the buffer of the old handle"));
        assert_eq!(requests, []);
        assert_eq!(desk.domain.deferred(), 1);
        let mapping = new.reuse().unwrap();
        assert_eq!(mapping.device_addr(), at);
        assert_eq!(desk.model.reads(PLAIN, at.0), Some(phys));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn one_unmap_for_neighbours_spares_what_is_between_others() {
    for _ in each!() {
        let desk = Desk::new();
        let at = |page: u64| {
            let phys = rig::phys(0x100_0000 + page * GRANULE, GRANULE);
            rig::map_at(&desk.domain, page * GRANULE, phys, RW).unwrap()
        };
        let [a, x, b, c] = [at(2), at(3), at(4), at(6)];
        // The last of them is a neighbour of the first, but for what is between the two.
        desk.domain.unmap_all(&[b, c, a]).unwrap();
        assert_eq!(desk.domain.mapped(), 1);
        let lands = desk.model.reads(PLAIN, x.start().0);
        assert_eq!(lands, Some(0x100_3000), "unmapped by accident");
        desk.domain.unmap(x).unwrap();
    }
}

#[test]
fn an_unmap_that_may_yet_come_keeps_its_hole_free() {
    for _ in each!() {
        let desk = Desk::new();
        let options = |page: u64| rig::phys(0x100_0000 + page * GRANULE, GRANULE);
        let at = |page: u64| rig::map_at(&desk.domain, page * GRANULE, options(page), RW);
        let list = [at(2).unwrap(), at(4).unwrap()];
        desk.model.answer_once(rig::is_unmap, Answer::late_effect());
        desk.domain.unmap_all(&list).unwrap_err();
        assert_eq!(desk.domain.quarantined(), 2);
        // What is mapped now would go with the late UNMAP.
        if let Ok(between) = at(3) {
            desk.model.with(|d| d.release(1));
            let lands = desk.model.reads(PLAIN, between.start().0);
            assert_eq!(lands, Some(0x100_3000), "unmapped by accident");
        }
        assert_eq!(at(3), Err(MapError::InUse));
        desk.model.with(|d| d.release(1));
        assert_eq!(desk.release(), (2, 0));
        at(3).unwrap();
    }
}

#[test]
fn a_domain_gives_back_what_was_left_to_it() {
    for _ in each!() {
        let desk = Desk::new();
        let domain = Arc::new(desk.iommu.create_domain(4).unwrap());
        let other = rig::endpoint(crate::model::OTHER);
        let device = virtio_iommu::dma::DmaDevice::attach(&domain, other, DmaLimits::default());
        let device = device.unwrap();
        let mapping = device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        drop(done(mapping).defer());
        assert_eq!(desk.pages(), 1);
        drop((device, domain));
        // The endpoint was done, and it is detached: nobody can reach the page.
        assert_eq!(desk.pages(), 0, "lost with the domain");
    }
}

#[test]
fn pools_that_were_never_complete_leave_nothing() {
    for _ in each!() {
        // The pool for the other direction finds no memory; and no addresses.
        for fail in 0..2 {
            let options = DomainOptions::new(if fail == 0 { 16 } else { 1 });
            let desk = Desk::with(options, DmaLimits::default());
            if fail == 0 {
                let next = desk.model.ram().allocations();
                desk.model.ram().refuse(Some(Refuse::Only(next + 1)));
            }
            Bounce::new(&desk.device, BounceOptions::default()).unwrap_err();
            desk.assert_empty();
        }
    }
}

#[test]
fn a_place_in_a_pool_keeps_to_the_limits_of_the_endpoint() {
    for _ in each!() {
        let limits = DmaLimits::default()
            .with_align(256)
            .with_boundary(0x1000)
            .with_max_segment(0x600);
        let desk = Desk::with(DomainOptions::new(16), limits);
        let bounce = Bounce::new(&desk.device, BounceOptions::default()).unwrap();
        let mut places = Vec::new();
        for len in [100, 3000, 64, 1500, 5000, 4096, 700, 1] {
            places.push(bounce.from_device(len).unwrap());
        }
        for place in &places {
            assert_eq!(place.device_addr().0 % 256, 0, "alignment");
            let mut next = place.device_addr().0;
            for segment in place.segments() {
                let (start, end) = (segment.start().0, segment.end().0);
                assert_eq!(start, next);
                assert!(end - start < 0x600);
                assert_eq!(start / 0x1000, end / 0x1000, "{place:?} crosses a boundary");
                next = end + 1;
            }
            let first = place.device_addr().0;
            assert_eq!(next - first, place.len() as u64);
            if place.len() <= 0x1000 {
                assert_eq!(first / 0x1000, (next - 1) / 0x1000, "{place:?} is cut");
            }
        }
        places
            .into_iter()
            .for_each(virtio_iommu::dma::Bounced::finish);
        // SAFETY: the endpoint is a function of the test.
        assert!(unsafe { bounce.close() }.is_ok());
        desk.assert_empty();
    }
}

#[test]
fn holes_between_pieces_do_not_make_a_boundary_impossible() {
    for _ in each!() {
        let limits = DmaLimits::default().with_boundary(0x4000);
        let desk = Desk::with(DomainOptions::new(16), limits);
        // Four pages, and three holes: more than from one boundary to the next.
        let buffer = shuffled(desk.alloc(4), &[3, 2, 1, 0]);
        let mapping = desk.device.map_apart::<ToDevice, _>(buffer);
        let mapping = mapping.unwrap_or_else(|failure| panic!("{failure}"));
        for segment in mapping.segments() {
            assert_eq!(segment.start().0 / 0x4000, segment.end().0 / 0x4000);
        }
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn what_waits_for_an_unmap_does_not_crowd_the_quarantine_out() {
    for _ in each!() {
        let options = DomainOptions::new(64)
            .with_quarantine(2)
            .with_deferred(8, Duration::from_secs(1));
        let desk = Desk::with(options, DmaLimits::default());
        for _ in 0..2 {
            let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
            drop(done(mapping).defer());
        }
        drop(desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap());
        assert_eq!((desk.domain.quarantined(), desk.domain.lost()), (1, 0));
        assert_eq!(desk.release(), (1, 0));
        desk.domain.flush().unwrap();
        desk.assert_empty();
    }
}

#[test]
fn starting_over_waits_for_mappings_that_are_on_their_way() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let desk = Desk::new();
        let domain = desk.iommu.create_domain(8).unwrap();
        let other = rig::endpoint(crate::model::OTHER);
        desk.model
            .answer_once(rig::is_attach, Answer::done_never_told());
        domain.attach(other).unwrap_err();
        desk.model.clock().for_threads();
        desk.model.answer_once(rig::is_map, Answer::late());
        let phys = rig::phys(0x100_0000, GRANULE);
        std::thread::scope(|scope| {
            let mapping = scope.spawn(|| rig::map(&domain, phys, RW));
            while desk.model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            // It would clear the domain at the device, with the mapping that is not recorded yet.
            let reserving = rig::endpoint(crate::model::RESERVING);
            let attached = domain.attach(reserving);
            desk.model.with(|d| d.release(1));
            let at = mapping.join().unwrap().unwrap();
            let lands = desk.model.reads(crate::model::OTHER, at.start().0);
            assert_eq!(lands, Some(0x100_0000), "unmapped by accident");
            assert_eq!(attached, Err(AttachError::Busy));
            domain.attach(reserving).unwrap();
            assert_eq!(
                desk.model.reads(crate::model::RESERVING, at.start().0),
                Some(0x100_0000)
            );
        });
    }
}
