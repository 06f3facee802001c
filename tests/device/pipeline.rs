//! Many requests in flight: one kick, any order, all or nothing, several threads.

use crate::each;
use crate::model::device::Mode;
use crate::model::requests::Request;
use crate::model::script::{Answer, Id, Order};
use crate::model::spec::{REQUEST_QUEUE, feature, status};
use crate::model::{Model, OTHER, PLAIN, RESERVING, heap};
use crate::rig::{
    self, GRANULE, ONE_WAIT, RW, TestDomain, TestIommu, domain, endpoint, map, map_all, pages,
    phys, start, try_start_with,
};
use virtio_iommu::{
    Access, IovaRange, MapError, MapOptions, Options, PhysRange, RequestError, Status,
};
use xtask::conformance::{Oracle, proves};

const READ: MapOptions = MapOptions::new(Access::READ);

/// `count` pieces of one page, and of more, at different places.
fn pieces(count: u64) -> Vec<PhysRange> {
    (0..count)
        .map(|i| phys(0x10_0000 + i * 0x1_0000, (1 + i % 3) * GRANULE))
        .collect()
}

/// A driver with a ring large enough for 64 requests at once.
fn wide() -> (Model, TestIommu, TestDomain) {
    let model = Model::new();
    model.with(|d| d.knobs.queue_sizes = [256, 64]);
    let iommu = start(&model, &[PLAIN, OTHER]);
    let domain = domain(&iommu, 512, &[PLAIN]);
    (model, iommu, domain)
}

fn kicks<R>(model: &Model, work: impl FnOnce() -> R) -> (R, u64) {
    let count = || model.with(|d| d.kicks(REQUEST_QUEUE));
    let before = count();
    let result = work();
    (result, count() - before)
}

/// Each piece is where the driver says.
fn all_there(model: &Model, places: &[IovaRange], pieces: &[PhysRange]) {
    for (at, piece) in places.iter().zip(pieces) {
        assert_eq!(model.reads(PLAIN, at.start().0), Some(piece.start().0));
        assert_eq!(model.reads(PLAIN, at.end().0), Some(piece.end().0));
    }
}

#[test]
fn sixty_four_requests_take_one_kick() {
    let _proof = proves(Oracle::Model, &["GV-NOTIF-1"]);
    for _ in each!() {
        let (model, _iommu, domain) = wide();
        let pieces = pieces(64);
        let (places, used) = kicks(&model, || map_all(&domain, &pieces, READ).unwrap());
        assert_eq!(used, 1);
        all_there(&model, &places, &pieces);
        assert_eq!(model.mappings(domain.id().0).unwrap().len(), 64);
        let (result, used) = kicks(&model, || domain.unmap_all(&places));
        assert_eq!((result, used), (Ok(()), 1));
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
        assert_eq!(domain.mapped(), 0);
    }
}

#[test]
fn more_than_a_batch_takes_a_kick_per_batch() {
    for _ in each!() {
        let (model, _iommu, domain) = wide();
        let pieces = pieces(200);
        let (places, used) = kicks(&model, || map_all(&domain, &pieces, READ).unwrap());
        assert_eq!(used, 4);
        all_there(&model, &places, &pieces);
        let apart = rig::apart(&places);
        let (result, used) = kicks(&model, || domain.unmap_all(&apart));
        assert_eq!((result, used), (Ok(()), 4));
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
    }
}

#[test]
fn a_single_request_takes_one_kick() {
    let _proof = proves(Oracle::Model, &["GV-NOTIF-1"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let (model, _iommu, domain) = wide();
        let (at, used) = kicks(&model, || {
            map(&domain, phys(0x1_0000, GRANULE), RW).unwrap()
        });
        assert_eq!(used, 1);
        let (_, used) = kicks(&model, || domain.unmap(at).unwrap());
        assert_eq!(used, 1);
        let (_, used) = kicks(&model, || domain.attach(endpoint(OTHER)).unwrap());
        assert_eq!(used, 1);
    }
}

#[test]
fn answers_in_any_order_reach_those_who_asked() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
        let mut orders = vec![Order::AnswerReversed, Order::Reversed];
        orders.extend((1..20).map(Order::AnswerShuffled));
        for order in orders {
            let (model, _iommu, domain) = wide();
            model.with(|d| d.knobs.order = order);
            let pieces = pieces(64);
            // One of them is refused: the right one must be believed to be.
            let places = map_all(&domain, &pieces, READ).unwrap();
            all_there(&model, &places, &pieces);
            let bad = places[17].start().0;
            model.answer_once(
                move |r| matches!(r, Request::Unmap { start, .. } if *start == bad),
                Answer::status(status::DEVERR),
            );
            domain.unmap_all(&rig::apart(&places)).unwrap_err();
            assert_eq!((domain.mapped(), domain.quarantined()), (0, 1), "{order:?}");
            let left = model.mappings(domain.id().0).unwrap();
            assert_eq!(left.len(), 1);
            assert_eq!(left[0].start, bad);
            // Only the address of the refused one is not to be had again.
            for (i, at) in places.iter().enumerate() {
                let again = rig::map_at(&domain, at.start().0, pieces[i], RW);
                assert_eq!(again.is_ok(), i != 17, "{order:?}, {i}");
            }
        }
    }
}

#[test]
fn map_all_is_all_or_nothing_with_a_refusal_at_each_place() {
    for _ in each!() {
        let count = 70;
        for k in 0..count {
            let (model, _iommu, domain) = wide();
            let kept = map(&domain, phys(0x5000, GRANULE), RW).unwrap();
            let mut maps = 0;
            model.script(move |seen| {
                if !rig::is_map(&seen.request) {
                    return Answer::honest();
                }
                maps += 1;
                if maps == k + 1 {
                    Answer::status(status::NOMEM)
                } else {
                    Answer::honest()
                }
            });
            let error = map_all(&domain, &pieces(count), READ).unwrap_err();
            let expected = MapError::Request(RequestError::Status(Status::NoMem));
            assert_eq!(error, expected, "refused at {k}");
            assert_eq!((domain.mapped(), domain.quarantined()), (1, 0));
            let found = model.mappings(domain.id().0).unwrap();
            assert_eq!(found.len(), 1, "refused at {k}");
            assert_eq!(found[0].start, kept.start().0);
            model.honest();
            let all = pieces(count);
            let places = map_all(&domain, &all, READ).unwrap();
            all_there(&model, &places, &all);
        }
    }
}

#[test]
fn map_all_without_an_answer_at_each_place_leaves_only_that_one_in_doubt() {
    for _ in each!() {
        let count = 20;
        for k in 0..count {
            for answer in [Answer::never(), Answer::done_never_told()] {
                let (model, _iommu, domain) = wide();
                let mut maps = 0;
                let done = answer.clone();
                model.script(move |seen| {
                    maps += u64::from(rig::is_map(&seen.request));
                    if rig::is_map(&seen.request) && maps == k + 1 {
                        done.clone()
                    } else {
                        Answer::honest()
                    }
                });
                let calls = model.clock().calls();
                let error = map_all(&domain, &pieces(count), READ).unwrap_err();
                assert!(model.clock().calls() - calls <= 2 * ONE_WAIT);
                assert_eq!(error, MapError::Exposed(RequestError::Unconfirmed));
                assert_eq!((domain.mapped(), domain.quarantined()), (0, 1));
                let found = model.mappings(domain.id().0).unwrap();
                assert_eq!(
                    found.len(),
                    usize::from(answer == Answer::done_never_told())
                );
            }
        }
    }
}

#[test]
fn a_roll_back_that_fails_exposes_and_quarantines() {
    for _ in each!() {
        let (model, _iommu, domain) = wide();
        let mut maps = 0;
        model.script(move |seen| {
            maps += usize::from(rig::is_map(&seen.request));
            match seen.request {
                Request::Map { .. } if maps == 3 => Answer::status(status::NOMEM),
                Request::Unmap { .. } => Answer::status(status::DEVERR),
                _ => Answer::honest(),
            }
        });
        let error = map_all(&domain, &pieces(5), READ).unwrap_err();
        assert!(error.may_be_exposed(), "{error:?}");
        assert_eq!((domain.mapped(), domain.quarantined()), (0, 4));
        assert_eq!(model.mappings(domain.id().0).unwrap().len(), 4);
    }
}

#[test]
fn a_ring_of_two_slots_carries_a_hundred_requests() {
    let _proof = proves(Oracle::Model, &["GV-VQ-2", "GV-VQ-3"]);
    for _ in each!() {
        for mode in [Mode::OnNotify, Mode::OnTick(1)] {
            let model = Model::new();
            model.with(|d| d.knobs.queue_sizes = [4, 4]);
            let iommu = start(&model, &[PLAIN, RESERVING]);
            model.with(|d| d.knobs.mode = mode);
            let domain = domain(&iommu, 256, &[PLAIN]);
            let pieces = pieces(100);
            let places = map_all(&domain, &pieces, READ).unwrap();
            all_there(&model, &places, &pieces);
            domain.unmap_all(&places).unwrap();
            assert_eq!(model.mappings(domain.id().0), Some(vec![]));
        }
    }
}

/// The heads of the chains that `work` puts in the ring, in their order.
fn heads<R>(model: &Model, work: impl FnOnce() -> R) -> (R, Vec<u16>) {
    let before = model.request_count();
    let result = work();
    let heads = model.with(|d| d.seen[before..].iter().map(|seen| seen.head).collect());
    (result, heads)
}

/// The heads of `count` requests that have the queue to themselves: the first slots, in order.
fn alone(count: u16) -> Vec<u16> {
    (0..count).map(|slot| 2 * slot).collect()
}

/// Nobody has a slot, neither for one request nor for many.
fn nobody_has_a_slot(model: &Model, domain: &TestDomain) {
    let pieces = pieces(64);
    let (places, seen) = heads(model, || map_all(domain, &pieces, READ).unwrap());
    assert_eq!(seen, alone(64));
    all_there(model, &places, &pieces);
    let (result, seen) = heads(model, || domain.unmap_all(&rig::apart(&places)));
    assert_eq!((result, seen), (Ok(()), alone(64)));
    for _ in 0..3 {
        let (at, seen) = heads(model, || map(domain, pieces[0], RW).unwrap());
        assert_eq!(seen, alone(1));
        let (result, seen) = heads(model, || domain.unmap(at));
        assert_eq!((result, seen), (Ok(()), alone(1)));
    }
}

#[test]
fn a_batch_beside_requests_in_flight_keeps_off_their_slots() {
    let (model, _iommu, domain) = wide();
    let mut left = 3;
    model.script(move |seen| {
        let late = rig::is_map(&seen.request) && left > 0;
        left -= usize::from(late);
        if late {
            Answer::late()
        } else {
            Answer::honest()
        }
    });
    // Nobody waits for these any more; the device still has them.
    let (result, taken) = heads(&model, || map_all(&domain, &pieces(3), READ));
    assert_eq!(result, Err(MapError::Exposed(RequestError::Unconfirmed)));
    let taken = &taken[..3];
    assert_eq!(taken, alone(3));
    let pieces = pieces(64);
    let (places, seen) = heads(&model, || map_all(&domain, &pieces, READ).unwrap());
    assert_eq!(seen.len(), 64);
    assert!(seen.iter().all(|head| !taken.contains(head)), "{seen:?}");
    all_there(&model, &places, &pieces);
    domain.unmap_all(&rig::apart(&places)).unwrap();
    // The late answers are nobody's, whatever is asked next.
    assert_eq!(model.with(|d| d.release(3)), 3);
    let at = map(&domain, pieces[0], RW).unwrap();
    domain.unmap(at).unwrap();
    assert_eq!((domain.mapped(), domain.quarantined()), (0, 3));
    nobody_has_a_slot(&model, &domain);
}

#[test]
fn what_is_answered_at_once_is_not_waited_for() {
    // A ring with room for a batch, and for nothing else.
    let model = Model::new();
    model.with(|d| {
        d.knobs.queue_sizes = [128, 64];
        d.knobs.offered &= !feature::PROBE;
    });
    let iommu = start(&model, &[PLAIN]);
    let domain = domain(&iommu, 512, &[PLAIN]);
    let before = model.clock().calls();
    for count in [1, 2, 63, 64, 65, 200] {
        let pieces = pieces(count);
        let places = map_all(&domain, &pieces, READ).unwrap();
        all_there(&model, &places, &pieces);
        domain.unmap_all(&rig::apart(&places)).unwrap();
    }
    assert_eq!(model.clock().calls(), before, "a look at the clock");
}

#[test]
fn a_batch_ends_with_its_last_answer() {
    for _ in each!() {
        let (model, _iommu, domain) = wide();
        let mut count = 0;
        model.script(move |_| {
            count += 1;
            if count <= 3 {
                Answer::honest()
            } else {
                Answer::late()
            }
        });
        model.on_tick(|device, _| {
            device.release(64);
        });
        let before = model.clock().calls();
        let places = map_all(&domain, &pieces(5), READ).unwrap();
        let looks = model.clock().calls() - before;
        assert!(looks < 10, "{looks} looks at the clock");
        all_there(&model, &places, &pieces(5));
    }
}

#[test]
fn who_waits_for_a_slot_notifies_nobody() {
    let _proof = proves(Oracle::Model, &["GV-NOTIF-1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.queue_sizes = [16, 16]);
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 64, &[PLAIN]);
        model.script(|_| Answer::late());
        for slot in 0.. {
            assert!(slot < 16, "slots without end");
            let (result, used) = kicks(&model, || map(&domain, phys(0x1_0000, GRANULE), RW));
            match result.unwrap_err() {
                MapError::Exposed(RequestError::Unconfirmed) => assert_eq!(used, 1),
                error => {
                    assert_eq!(error, MapError::Request(RequestError::NoSlot));
                    assert_eq!(used, 0);
                    break;
                }
            }
        }
        model.honest();
        model.with(|d| d.release(16));
    }
}

#[test]
fn slots_that_come_back_out_of_order_are_all_free_again() {
    for order in [Order::AnswerReversed, Order::AnswerShuffled(7)] {
        let (model, _iommu, domain) = wide();
        for count in [2, 3, 64] {
            model.with(|d| d.knobs.order = order);
            let pieces = pieces(count);
            let places = map_all(&domain, &pieces, READ).unwrap();
            all_there(&model, &places, &pieces);
            domain.unmap_all(&rig::apart(&places)).unwrap();
            model.with(|d| d.knobs.order = Order::Fifo);
            nobody_has_a_slot(&model, &domain);
        }
    }
}

#[test]
fn abandoned_requests_hold_their_slots_until_the_last_answer() {
    let (model, _iommu, domain) = wide();
    model.script(|seen| {
        if rig::is_map(&seen.request) {
            Answer::late()
        } else {
            Answer::honest()
        }
    });
    for i in 0..3 {
        let piece = phys(0x100_0000 + i * 0x1_0000, GRANULE);
        map(&domain, piece, RW).unwrap_err();
    }
    model.honest();
    assert_eq!(model.with(|d| d.waiting()), 3);
    // The last one first, and the first one last.
    for at in [2, 1, 0] {
        let (place, seen) = heads(&model, || map(&domain, phys(0x5000, GRANULE), RW).unwrap());
        assert_ne!(seen, alone(1), "its slot is taken");
        domain.unmap(place).unwrap();
        model.with(|d| d.release_one(at));
    }
    // Whoever asks next finds the answer, and takes it for nobody's.
    let place = map(&domain, phys(0x5000, GRANULE), RW).unwrap();
    domain.unmap(place).unwrap();
    assert_eq!((domain.mapped(), domain.quarantined()), (0, 3));
    nobody_has_a_slot(&model, &domain);
}

#[test]
fn gv_vq_4_the_indices_wrap() {
    let _proof = proves(Oracle::Model, &["GV-VQ-4", "GV-VQ-2", "GV-VQ-3"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new();
        model.with(|d| d.knobs.queue_sizes = [8, 4]);
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        for _ in 0..33_500 {
            let at = map(&domain, phys(0x1_0000, GRANULE), RW).unwrap();
            domain.unmap(at).unwrap();
        }
        assert!(model.request_count() > 0x1_0000);
        // And those of the event queue.
        let mut got = 0;
        for at in 0..0x1_0010u64 {
            model.with(|d| d.dma_read(PLAIN, at, 1));
            got += iommu.poll_faults(|_| {});
        }
        assert_eq!(got, 0x1_0010);
    }
}

#[test]
fn an_answer_swapped_among_sixty_four_is_noticed_or_harmless() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
        for at in [0, 13, 63] {
            let (model, _iommu, domain) = wide();
            let mut maps = 0;
            model.script(move |seen| {
                maps += usize::from(rig::is_map(&seen.request));
                if rig::is_map(&seen.request) && maps == at + 1 {
                    Answer::honest().with_id(Id::Other)
                } else {
                    Answer::honest()
                }
            });
            let calls = model.clock().calls();
            let result = map_all(&domain, &pieces(64), READ);
            assert!(model.clock().calls() - calls <= 4 * ONE_WAIT);
            if let Ok(places) = result {
                all_there(&model, &places, &pieces(64));
            } else {
                let known = domain.mapped() + domain.quarantined();
                assert!(model.mappings(domain.id().0).unwrap().len() <= known);
            }
        }
    }
}

#[test]
fn threads_share_a_device_and_each_gets_its_own_answers() {
    for _ in each!() {
        for mode in [Mode::OnNotify, Mode::OnTick(2)] {
            let model = Model::new();
            model.with(|d| {
                d.knobs.queue_sizes = [16, 16];
                d.knobs.mode = mode;
                d.knobs.order = Order::AnswerReversed;
            });
            model.clock().for_threads();
            let iommu = start(&model, &[PLAIN, OTHER]);
            let shared = domain(&iommu, 256, &[PLAIN]);
            let own = domain(&iommu, 256, &[OTHER]);
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    let domain = if thread == 3 { &own } else { &shared };
                    let id = if thread == 3 { OTHER } else { PLAIN };
                    let model = &model;
                    scope.spawn(move || {
                        for round in 0..60u64 {
                            let base = (1 + thread) * 0x1000_0000 + round * 0x10_0000;
                            let pieces: Vec<PhysRange> = (0..1 + round % 7)
                                .map(|i| phys(base + i * 0x1_0000, GRANULE))
                                .collect();
                            let places = map_all(domain, &pieces, READ).unwrap();
                            for (at, piece) in places.iter().zip(&pieces) {
                                let lands = model.reads(id, at.start().0);
                                assert_eq!(lands, Some(piece.start().0));
                            }
                            domain.unmap_all(&places).unwrap();
                            for at in &places {
                                // Another thread may have mapped something else there since.
                                let lands = model.reads(id, at.start().0);
                                assert!(
                                    lands.is_none_or(|p| !(base..base + 0x10_0000).contains(&p))
                                );
                            }
                        }
                    });
                }
            });
            for domain in [&shared, &own] {
                assert_eq!((domain.mapped(), domain.quarantined()), (0, 0));
                assert_eq!(model.mappings(domain.id().0), Some(vec![]));
            }
            assert_eq!(model.clock().calls_under_lock(), 0);
        }
    }
}

#[test]
fn endpoints_come_and_go_while_others_map() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        model.clock().for_threads();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 64, &[PLAIN]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    match map(&domain, phys(0x1_0000, GRANULE), RW) {
                        Ok(at) => {
                            while domain.unmap(at) == Err(virtio_iommu::UnmapError::Busy) {
                                std::thread::yield_now();
                            }
                        }
                        Err(error) => assert_eq!(error, MapError::Busy),
                    }
                }
            });
            scope.spawn(|| {
                for _ in 0..200 {
                    while domain.attach(endpoint(OTHER)).is_err() {
                        std::thread::yield_now();
                    }
                    while domain.detach(endpoint(OTHER)).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        });
        assert_eq!((domain.mapped(), domain.quarantined()), (0, 0));
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
        assert_eq!(model.domain_of(OTHER), None);
    }
}

#[test]
fn nothing_is_allocated_on_the_way_of_map_and_unmap() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let (model, iommu, domain) = wide();
        let pieces = pieces(64);
        let mut places = vec![rig::iova(0, 1); 64];
        let platform = model.ram().allocations();
        let count = heap::count(|| {
            for _ in 0..3 {
                // SAFETY: nobody but the model reads the memory.
                unsafe { domain.map_all(&pieces, READ, &mut places) }.unwrap();
                domain.unmap_all(&places).unwrap();
                let at = map(&domain, pieces[0], RW).unwrap();
                assert!(domain.translate(at.start()).is_some());
                domain.unmap(at).unwrap();
                // Refusals neither.
                assert!(domain.unmap(at).is_err());
                assert!(map(&domain, phys(1, 1), RW).is_err());
            }
            model.with(|d| d.dma_read(PLAIN, 0x1234, 4));
            assert_eq!(iommu.poll_faults(|_| {}), 1);
        });
        assert_eq!(count, 0, "allocations");
        assert_eq!(model.ram().allocations(), platform);
        // The counter does count.
        assert!(heap::count(|| drop(std::hint::black_box(vec![0u8; 32]))) > 0);
    }
}

#[test]
fn failures_allocate_nothing_either() {
    for _ in each!() {
        let model = Model::new();
        let mut options = Options::default();
        options.queue_size = 16;
        let iommu = try_start_with(&model, &[PLAIN], options).unwrap();
        let domain = domain(&iommu, 64, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        model.script(|_| Answer::never());
        let pieces = pieces(3);
        let mut places = vec![rig::iova(0, 1); 3];
        let count = heap::count(|| {
            // SAFETY: nobody but the model reads the memory.
            unsafe { domain.map_all(&pieces, READ, &mut places) }.unwrap_err();
            domain.unmap(at).unwrap_err();
        });
        assert_eq!(count, 0, "allocations");
    }
}
