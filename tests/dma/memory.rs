//! Out of memory at every single allocation: errors, and nothing leaked. And nothing is allocated
//! once everything is set up.

use crate::each;
use std::time::Duration;

use virtio_iommu::dma::{Bounce, BounceError, BounceOptions, DmaLimits, FromDevice, ToDevice};
use virtio_iommu::{CreateError, DomainOptions, StartError};

use crate::desk::{Desk, wide_model};
use crate::model::memory::Refuse;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN, RESERVING, heap};
use crate::rig::{self, is_unmap};
use crate::ways::done;

/// The k-th allocation of pages from now on fails.
fn refuse(model: &Model, k: u64) {
    let next = model.ram().allocations() + k;
    model.ram().refuse(Some(Refuse::Only(next)));
}

#[test]
fn bring_up_without_pages_at_each_allocation() {
    for _ in each!() {
        for k in 0.. {
            let model = wide_model();
            refuse(&model, k);
            let before = model.ram().allocations();
            match rig::try_start(&model, &[PLAIN, OTHER, RESERVING]) {
                Ok(iommu) => {
                    assert!(k >= 3, "only {k} allocations");
                    assert!(model.ram().allocations() - before <= k);
                    drop(iommu);
                    return;
                }
                Err(error) => assert_eq!(error, StartError::OutOfMemory, "at {k}"),
            }
            rig::assert_clean(&model);
        }
    }
}

#[test]
fn pools_without_pages_at_each_allocation() {
    for _ in each!() {
        let desk = Desk::new();
        for k in 0..2 {
            refuse(&desk.model, k);
            let error = Bounce::new(&desk.device, BounceOptions::default()).unwrap_err();
            assert_eq!(error, BounceError::OutOfMemory, "at {k}");
            desk.assert_empty();
        }
        refuse(&desk.model, 0);
        assert!(desk.device.alloc(1).is_none());
        desk.model.ram().refuse(None);
        assert!(desk.device.alloc(usize::MAX).is_none());
        assert!(desk.device.alloc(usize::MAX - 0xfff).is_none());
        desk.assert_empty();
    }
}

#[test]
fn domains_without_a_heap_at_each_allocation() {
    for _ in each!(but [(Crosvm, "no DOMAIN_RANGE"), (CloudHypervisor, "no DOMAIN_RANGE")]) {
        let model = wide_model().narrow();
        let desk = Desk::on(model, DomainOptions::new(256), DmaLimits::default());
        let before = desk.model.request_count();
        for k in 0.. {
            let (result, failed) = heap::fail_at(k, || desk.iommu.create_domain(100));
            match result {
                Ok(_) => {
                    assert!(!failed);
                    assert!(k >= 3, "only {k} allocations");
                    break;
                }
                Err(error) => {
                    assert_eq!(error, CreateError::OutOfMemory, "at {k}");
                    assert!(failed);
                }
            }
        }
        // None of them has taken an id along.
        let mut domains = Vec::new();
        let error = loop {
            match desk.iommu.create_domain(1) {
                Ok(domain) => domains.push(domain),
                Err(error) => break error,
            }
        };
        assert_eq!(error, CreateError::NoDomainId);
        // 3 to 40, without the scratch domain and the one of the desk.
        assert_eq!(domains.len(), 36);
        drop(domains);
        assert!(desk.model.request_count() >= before);
        for vast in [
            DomainOptions::new(usize::MAX),
            DomainOptions::new(1 << 40),
            DomainOptions::new(1).with_quarantine(usize::MAX),
            DomainOptions::new(1).with_deferred(usize::MAX, Duration::ZERO),
            DomainOptions::new(1).with_deferred(1 << 31, Duration::ZERO),
        ] {
            let (result, _) = match vast.deferred {
                // The host might have memory for it.
                0x8000_0000 => heap::fail_at(1, || desk.iommu.create_domain(vast)),
                _ => (desk.iommu.create_domain(vast), false),
            };
            assert_eq!(result.unwrap_err(), CreateError::OutOfMemory, "{vast:?}");
        }
    }
}

#[test]
fn pools_without_a_heap_at_each_allocation_that_can_fail() {
    for _ in each!() {
        let desk = Desk::new();
        let total = heap::count(|| {
            let bounce = Bounce::new(&desk.device, BounceOptions::default()).unwrap();
            // SAFETY: the endpoint was told of nothing.
            assert!(unsafe { bounce.close() }.is_ok());
        });
        // The books of the two pools. What holds each of them together comes last, and cannot fail.
        assert!(total > 3, "only {total} allocations");
        for k in 0..total - 2 {
            let options = BounceOptions::default();
            let (result, failed) = heap::fail_at(k, || Bounce::new(&desk.device, options));
            assert!(failed);
            assert_eq!(result.unwrap_err(), BounceError::OutOfMemory, "at {k}");
            desk.assert_empty();
        }
    }
}

#[test]
fn nothing_is_allocated_once_everything_is_set_up() {
    for _ in each!() {
        let options = DomainOptions::new(256).with_deferred(4, Duration::from_secs(1));
        let desk = Desk::with(options, Default::default());
        let bounce = Bounce::new(&desk.device, BounceOptions::default()).unwrap();
        let mut buffer = Some(desk.alloc(1));
        let mut other = Some(desk.alloc(2));
        let mut list = Some((0..9).map(|_| desk.alloc(1)).collect::<Vec<_>>());
        let mut next = Some((0..9).map(|_| desk.alloc(1)).collect::<Vec<_>>());
        let spare: Vec<_> = (0..8).map(|_| desk.alloc(1)).collect();
        let mut spare = spare.into_iter();
        let count = heap::count(|| {
            for _ in 0..3 {
                // Strict, of one piece and of many, in one run and apart.
                let mapping = desk
                    .device
                    .map::<FromDevice, _>(buffer.take().unwrap())
                    .unwrap();
                buffer = Some(done(mapping).reuse()).map(|m| done(m).unmap().unwrap());
                let mapping = desk
                    .device
                    .map_apart::<ToDevice, _>(list.take().unwrap())
                    .unwrap();
                assert_eq!(mapping.segments().count(), 9);
                // Exchanges.
                let result = desk
                    .device
                    .exchange::<_, _, _, FromDevice>(done(mapping), next.take().unwrap());
                list = Some(result.unmapped.unwrap());
                let result = desk.device.exchange::<_, _, _, FromDevice>(
                    done(result.mapped.unwrap()),
                    other.take().unwrap(),
                );
                next = Some(result.unmapped.unwrap());
                // Put off, taken back, left alone, flushed, polled.
                let parked = done(result.mapped.unwrap()).defer();
                let parked = done(parked.reuse().unwrap()).defer();
                desk.domain.flush().unwrap();
                let parked = done(parked.reuse().unwrap()).defer();
                other = Some(parked.reclaim().unwrap());
                let mapping = desk
                    .device
                    .map::<ToDevice, _>(spare.next().unwrap())
                    .unwrap();
                drop(done(mapping).defer());
                assert_eq!(desk.domain.poll(u64::MAX), None);
                // Given up.
                drop(
                    desk.device
                        .map::<ToDevice, _>(spare.next().unwrap())
                        .unwrap(),
                );
                // Through the pools.
                let out = bounce.to_device(&[1; 100]).unwrap();
                let into = bounce.from_device(100).unwrap();
                assert_eq!((out.segments().count(), into.segments().count()), (1, 1));
                assert!(into.finish_into(&mut [0; 100]));
                drop(out);
            }
        });
        assert_eq!(count, 0, "allocations");
        assert_eq!(desk.domain.quarantined(), 3);
        desk.release();
        drop((buffer, other, list, next, spare));
        // SAFETY: the endpoint is a function of the test.
        assert!(unsafe { bounce.close() }.is_ok());
        desk.assert_empty();
    }
}

#[test]
fn failures_allocate_nothing_either() {
    for _ in each!() {
        let desk = Desk::with(DomainOptions::new(4), Default::default());
        let mut list = Some(vec![desk.alloc(1), desk.alloc(1)]);
        let [single, parked] = [desk.alloc(1), desk.alloc(1)];
        let mapping = desk.device.map::<ToDevice, _>(single).unwrap();
        let parked = done(desk.device.map::<ToDevice, _>(parked).unwrap()).defer();
        let count = heap::count(|| {
            // Two nodes are left, and three are wanted.
            let failure = desk
                .device
                .map::<ToDevice, _>(list.take().unwrap())
                .unwrap_err();
            list = failure.buffer;
            desk.model
                .answer_once(is_unmap, Answer::status(status::DEVERR));
            desk.domain.flush().unwrap_err();
            parked.reclaim().unwrap_err();
            desk.model.answer_once(is_unmap, Answer::never());
            done(mapping).unmap().unwrap_err();
        });
        // `answer_once` boxes what it is given, twice.
        assert!(count <= 2, "{count} allocations");
        assert_eq!(list.map(|list| list.len()), Some(2));
        assert_eq!((desk.domain.quarantined(), desk.release()), (2, (1, 1)));
        let mut desk = desk;
        desk.model.expect_leak(1);
    }
}
