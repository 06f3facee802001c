//! Transfers that nobody has said are over: what becomes of their memory and their addresses.

use crate::each;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use virtio_iommu::DomainOptions;
use virtio_iommu::dma::{Bidirectional, FromDevice, ToDevice};

use crate::buffers::shuffled;
use crate::desk::{Desk, kinds, phys_of};
use crate::model::PLAIN;
use crate::rig::endpoint;
use crate::ways::done;

#[test]
fn dropped_in_mid_flight() {
    for _ in each!() {
        let desk = Desk::new();
        let buffer = desk.alloc(2);
        let phys = phys_of(&buffer);
        let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
        let iova = mapping.iova();
        let (_, requests, kicks) = desk.cost(|| drop(mapping));
        assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
        assert_eq!(desk.model.writes(PLAIN, iova.start().0), None);
        assert_eq!((desk.domain.quarantined(), desk.domain.mapped()), (1, 0));
        assert_eq!(desk.pages(), 2, "given back");
        // Neither the pages nor the addresses are used for anything else, whatever is asked for.
        let mut others = Vec::new();
        for i in 0..40 {
            let mapping = desk
                .device
                .map::<Bidirectional, _>(desk.filled(2, i))
                .unwrap();
            assert!(!mapping.iova().overlaps(&iova));
            others.push(mapping);
        }
        // An access that the endpoint began before lands in nobody's memory.
        desk.late_write(phys, &[0xbd; 0x2000]);
        for (i, mapping) in others.into_iter().enumerate() {
            let buffer = done(mapping).unmap().unwrap();
            assert!(buffer.iter().all(|byte| *byte == i as u8));
        }
        assert_eq!((desk.domain.quarantined(), desk.domain.lost()), (1, 0));
        let (released, requests, _) = desk.cost(|| desk.release());
        assert_eq!((released, requests.len()), ((1, 0), 0));
        desk.assert_empty();
        // The addresses are to be had again.
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(2)).unwrap();
        assert_eq!(mapping.iova(), iova);
        drop(done(mapping).unmap().unwrap());
    }
}

#[test]
fn every_kind_of_transfer_is_quarantined_when_it_is_dropped() {
    for _ in each!() {
        let desk = Desk::new();
        drop(desk.device.share(desk.alloc(1)).unwrap());
        drop(desk.device.window(desk.alloc(1)).unwrap());
        drop(
            desk.device
                .map::<ToDevice, _>(vec![desk.alloc(1), desk.alloc(1)])
                .unwrap(),
        );
        let apart = shuffled(desk.alloc(2), &[1, 0]);
        drop(desk.device.map_apart::<ToDevice, _>(apart).unwrap());
        let reused = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        drop(done(reused).reuse());
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let exchanged = desk
            .device
            .exchange::<_, _, _, ToDevice>(done(mapping), desk.alloc(1));
        drop(exchanged.unmapped.unwrap());
        drop(exchanged.mapped.unwrap());
        let parked = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        drop(done(parked).defer().reuse().unwrap());
        assert_eq!((desk.domain.quarantined(), desk.pages()), (7, 9));
        assert_eq!(desk.at_device(), 0);
        assert_eq!(desk.release(), (7, 0));
        desk.assert_empty();
    }
}

#[test]
fn the_word_alone_unmaps_and_frees() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let (_, requests, kicks) = desk.cost(|| drop(done(mapping)));
        assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
        desk.assert_empty();
    }
}

#[test]
fn unwinding_quarantines() {
    for _ in each!() {
        let desk = Desk::new();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mapping = desk.device.map::<FromDevice, _>(desk.alloc(3)).unwrap();
            let _other = desk.device.share(desk.alloc(1)).unwrap();
            assert!(mapping.len() > 0x3000, "in the midst of a transfer");
        }));
        assert!(result.is_err());
        assert_eq!((desk.domain.quarantined(), desk.pages()), (2, 4));
        assert_eq!(desk.at_device(), 0);
        assert_eq!(desk.release(), (2, 0));
        desk.assert_empty();
    }
}

#[test]
fn forgetting_leaks_and_does_nothing_else() {
    for _ in each!() {
        let mut desk = Desk::new();
        let buffer = desk.alloc(1);
        let phys = phys_of(&buffer);
        let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
        let iova = mapping.iova();
        std::mem::forget(mapping);
        let other = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        assert!(!other.iova().overlaps(&iova));
        // It is still mapped, and its memory is still there.
        assert_eq!(desk.model.writes(PLAIN, iova.start().0), Some(phys));
        assert!(desk.model.ram().is_live(phys, 0x1000));
        drop(done(other).unmap().unwrap());
        assert_eq!((desk.domain.mapped(), desk.domain.quarantined()), (1, 0));
        assert_eq!(desk.pages(), 1);
        assert_eq!(desk.release(), (0, 0));
        // What was forgotten holds its domain, and with it the device.
        let leaked = desk.model.ram().live_pages();
        desk.model.expect_leak(leaked);
    }
}

#[test]
fn a_full_quarantine_loses_what_comes_and_counts_it() {
    for _ in each!() {
        let mut desk = Desk::with(
            DomainOptions::new(64).with_quarantine(3),
            Default::default(),
        );
        let mut phys = Vec::new();
        for _ in 0..5 {
            let buffer = desk.alloc(1);
            phys.push(phys_of(&buffer));
            drop(desk.device.map::<FromDevice, _>(buffer).unwrap());
        }
        assert_eq!((desk.domain.quarantined(), desk.domain.lost()), (5, 2));
        assert_eq!((desk.at_device(), desk.pages()), (0, 5));
        // The addresses come back, and the memory that was kept; what is lost is lost.
        assert_eq!(desk.release(), (5, 0));
        assert_eq!((desk.domain.quarantined(), desk.domain.lost()), (0, 2));
        assert_eq!(desk.pages(), 2);
        let live = phys
            .iter()
            .filter(|at| desk.model.ram().is_live(**at, 0x1000));
        assert_eq!(live.count(), 2);
        // There is room again.
        drop(desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap());
        assert_eq!((desk.domain.quarantined(), desk.domain.lost()), (1, 2));
        assert_eq!(desk.release(), (1, 0));
        desk.model.expect_leak(2);
    }
}

#[test]
fn a_domain_takes_its_quarantine_along() {
    for _ in each!() {
        let mut desk = Desk::new();
        let domain = std::sync::Arc::new(desk.iommu.create_domain(8).unwrap());
        desk.device.clone().detach().unwrap();
        let device =
            virtio_iommu::dma::DmaDevice::attach(&domain, endpoint(PLAIN), Default::default())
                .unwrap();
        let memory = desk.alloc(2);
        let phys = phys_of(&memory);
        let buffer = shuffled(memory, &[1, 0]);
        let drops = buffer.drops();
        drop(device.map::<FromDevice, _>(buffer).unwrap());
        assert_eq!(domain.quarantined(), 1);
        drop((device, domain));
        // Nobody can say any more that the endpoint is done.
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        assert!(desk.model.ram().is_live(phys, 0x2000));
        assert_eq!(desk.pages(), 2);
        desk.model.expect_leak(2);
    }
}

#[test]
fn detaching_is_no_word_for_a_transfer() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        desk.device.clone().detach().unwrap();
        let (_, requests, _) = desk.cost(|| drop(mapping));
        // The device does not know the domain any more; the endpoint may still be writing.
        assert_eq!(requests, []);
        assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 1));
        assert_eq!(desk.release(), (1, 0));
        desk.assert_empty();
    }
}

#[test]
fn a_release_drops_each_buffer_once() {
    for _ in each!() {
        let desk = Desk::new();
        let mut drops = Vec::new();
        for pages in 1..9 {
            let order: Vec<usize> = (0..pages).rev().collect();
            let buffer = shuffled(desk.alloc(pages), &order);
            drops.push(buffer.drops());
            drop(desk.device.map::<FromDevice, _>(buffer).unwrap());
        }
        let dropped = || {
            drops
                .iter()
                .map(|d| d.load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        assert_eq!(dropped(), [0; 8]);
        assert_eq!(desk.release(), (8, 0));
        assert_eq!(dropped(), [1; 8]);
        assert_eq!(desk.release(), (0, 0));
        assert_eq!(dropped(), [1; 8]);
        desk.assert_empty();
    }
}
