//! A device that refuses one request among many: all or nothing, and the buffer comes back.

use crate::each;
use virtio_iommu::dma::{FromDevice, ToDevice};
use virtio_iommu::{DomainOptions, MapError, RequestError, Status, UnmapError};

use crate::desk::{Buf, Desk, kinds};
use crate::model::requests::Request;
use crate::model::script::{Answer, Order};
use crate::model::spec::status;
use crate::rig::{is_map, is_unmap};
use crate::ways::done;

const REFUSED: RequestError = RequestError::Status(Status::NoMem);

/// More than share a notification.
const PIECES: usize = 70;

fn list(desk: &Desk, pieces: usize) -> Vec<Buf> {
    (0..pieces).map(|_| desk.alloc(1)).collect()
}

/// The k-th MAP from now on is answered as given, and every UNMAP as given.
fn spoil(desk: &Desk, k: usize, map: Answer, unmap: Answer) {
    let mut maps = 0;
    desk.model.script(move |seen| match seen.request {
        Request::Map { .. } => {
            maps += 1;
            if maps == k + 1 {
                map.clone()
            } else {
                Answer::honest()
            }
        }
        Request::Unmap { .. } => unmap.clone(),
        _ => Answer::honest(),
    });
}

#[test]
fn a_list_with_a_refusal_at_each_place() {
    for _ in each!() {
        let desk = Desk::with(DomainOptions::new(PIECES + 2), Default::default());
        let kept = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let mut buffer = list(&desk, PIECES);
        for k in 0..PIECES {
            if k % 3 == 0 {
                let order = Order::AnswerShuffled(k as u64);
                desk.model.with(|d| d.knobs.order = order);
            }
            spoil(&desk, k, Answer::status(status::NOMEM), Answer::honest());
            let (failure, requests, _) =
                desk.cost(|| desk.device.map::<ToDevice, _>(buffer).unwrap_err());
            assert_eq!(failure.error, MapError::Request(REFUSED), "refused at {k}");
            // The way back is one request.
            assert_eq!(kinds(&requests), "M".repeat(PIECES) + "U");
            buffer = failure.buffer.expect("the buffer");
            assert_eq!(buffer.len(), PIECES);
            assert_eq!((desk.at_device(), desk.domain.mapped()), (1, 1));
            assert_eq!(desk.domain.quarantined(), 0);
        }
        desk.model.honest();
        // All the room that there was is there.
        let mapping = desk.device.map::<ToDevice, _>(buffer).unwrap();
        drop(done(mapping).unmap().unwrap());
        drop(done(kept).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn a_refusal_of_the_only_piece_needs_no_way_back() {
    for _ in each!() {
        let desk = Desk::new();
        spoil(&desk, 0, Answer::status(status::NOMEM), Answer::honest());
        let (failure, requests, kicks) =
            desk.cost(|| desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap_err());
        assert_eq!((kinds(&requests).as_str(), kicks), ("M", 1));
        assert_eq!(failure.error, MapError::Request(REFUSED));
        drop(failure.buffer.expect("the buffer"));
        desk.assert_empty();
        // The device gives the request back without an answer: that is a refusal.
        spoil(&desk, 0, Answer::unwritten(), Answer::honest());
        let failure = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap_err();
        assert_eq!(failure.error, MapError::Request(RequestError::NotWritten));
        drop(failure.buffer.expect("the buffer"));
        desk.assert_empty();
    }
}

#[test]
fn a_way_back_that_is_refused_keeps_the_buffer() {
    for _ in each!() {
        for k in 0..5 {
            let desk = Desk::new();
            let no = Answer::status(status::DEVERR);
            spoil(&desk, k, Answer::status(status::NOMEM), no);
            let failure = desk
                .device
                .map::<FromDevice, _>(list(&desk, 5))
                .unwrap_err();
            assert_eq!(failure.error, MapError::Exposed(REFUSED), "refused at {k}");
            assert!(failure.buffer.is_none());
            // The parts that are mapped lead to memory that nobody else has.
            let found = desk.model.mappings(desk.domain.id().0).unwrap();
            assert_eq!(found.len(), 4);
            for mapping in found {
                assert!(desk.model.ram().is_live(mapping.phys, 0x1000));
            }
            assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 5));
            // As long as the device refuses, the memory stays.
            assert_eq!(desk.release(), (0, 1));
            assert_eq!(desk.pages(), 5);
            desk.model.honest();
            assert_eq!(desk.release(), (1, 0));
            desk.assert_empty();
        }
    }
}

#[test]
fn a_list_without_an_answer_at_each_place() {
    for _ in each!() {
        for k in 0..5 {
            let desk = Desk::new();
            spoil(&desk, k, Answer::late_effect(), Answer::honest());
            let failure = desk
                .device
                .map::<FromDevice, _>(list(&desk, 5))
                .unwrap_err();
            assert!(matches!(failure.error, MapError::Exposed(_)));
            assert!(failure.buffer.is_none());
            assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 5));
            desk.model.honest();
            assert_eq!(desk.release(), (0, 1));
            assert_eq!((desk.pages(), desk.at_device()), (5, 0));
            // It comes at last, to memory that was kept for it.
            desk.model.with(|d| d.release(1));
            let found = desk.model.mappings(desk.domain.id().0).unwrap();
            assert_eq!(found.len(), 1);
            assert!(desk.model.ram().is_live(found[0].phys, 0x1000));
            assert_eq!(desk.release(), (1, 0));
            desk.assert_empty();
        }
    }
}

#[test]
fn an_exchange_with_a_refusal_at_each_place() {
    for _ in each!() {
        for k in 0..=PIECES {
            for refuse_unmap in [false, true] {
                let desk = Desk::new();
                let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
                let mut first = true;
                let mut maps = 0;
                desk.model.script(move |seen| {
                    if is_unmap(&seen.request) && std::mem::take(&mut first) && refuse_unmap {
                        return Answer::status(status::DEVERR);
                    }
                    maps += usize::from(is_map(&seen.request));
                    match is_map(&seen.request) && maps == k + 1 {
                        true => Answer::status(status::NOMEM),
                        false => Answer::honest(),
                    }
                });
                let next = list(&desk, PIECES);
                let result = desk
                    .device
                    .exchange::<_, _, _, ToDevice>(done(mapping), next);
                match result.unmapped {
                    Ok(buffer) => {
                        assert!(!refuse_unmap);
                        drop(buffer);
                    }
                    Err(error) => {
                        assert!(refuse_unmap);
                        let why = RequestError::Status(Status::DevErr);
                        assert_eq!(error, UnmapError::Quarantined(why));
                    }
                }
                match result.mapped {
                    Ok(mapping) => {
                        assert_eq!(k, PIECES);
                        drop(done(mapping).unmap().unwrap());
                    }
                    Err(failure) => {
                        assert_eq!(failure.error, MapError::Request(REFUSED), "refused at {k}");
                        assert_eq!(failure.buffer.expect("the buffer").len(), PIECES);
                    }
                }
                let left = usize::from(refuse_unmap);
                assert_eq!((desk.domain.quarantined(), desk.at_device()), (left, left));
                assert_eq!(desk.pages(), left);
                desk.model.honest();
                assert_eq!(desk.release(), (left, 0));
                desk.assert_empty();
            }
        }
    }
}

#[test]
fn an_exchange_that_cannot_be_planned_ends_all_the_same() {
    for _ in each!() {
        let desk = Desk::with(DomainOptions::new(1), Default::default());
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        let result = desk
            .device
            .exchange::<_, _, _, ToDevice>(done(mapping), desk.alloc(1));
        drop(result.unmapped.unwrap());
        let failure = result.mapped.unwrap_err();
        assert_eq!(failure.error, MapError::Full);
        drop(failure.buffer.expect("the buffer"));
        desk.assert_empty();
    }
}

#[test]
fn a_refused_flush_quarantines_its_run_and_no_other() {
    for _ in each!() {
        for refused in 0..3_usize {
            let desk = Desk::new();
            // Three runs of neighbours, kept apart by mappings that stay.
            let mut runs = Vec::new();
            let mut between = Vec::new();
            for _ in 0..3 {
                let run: Vec<_> = (0..4)
                    .map(|_| desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap())
                    .collect();
                runs.push(run);
                between.push(desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap());
            }
            let handles: Vec<Vec<_>> = runs
                .into_iter()
                .map(|run| run.into_iter().map(|m| done(m).defer()).collect())
                .collect();
            let mut seen_unmaps = 0;
            desk.model.script(move |seen| {
                seen_unmaps += usize::from(is_unmap(&seen.request));
                match seen_unmaps == refused + 1 {
                    true => Answer::status(status::DEVERR),
                    false => Answer::honest(),
                }
            });
            let (error, requests, kicks) = desk.cost(|| desk.domain.flush().unwrap_err());
            assert!(matches!(error, UnmapError::Quarantined(_)));
            assert_eq!((kinds(&requests).as_str(), kicks), ("UUU", 1));
            desk.model.honest();
            assert_eq!((desk.domain.quarantined(), desk.domain.deferred()), (4, 0));
            let mut freed = 0;
            for handle in handles.into_iter().flatten() {
                freed += usize::from(handle.reclaim().is_ok());
            }
            assert_eq!(freed, 8);
            assert_eq!(desk.pages(), 4 + 3);
            assert_eq!(desk.release(), (4, 0));
            between
                .into_iter()
                .for_each(|m| drop(done(m).unmap().unwrap()));
            desk.assert_empty();
        }
    }
}

#[test]
fn a_buffer_that_cannot_be_mapped_again_comes_back() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<FromDevice, _>(list(&desk, 4)).unwrap();
        let parked = done(mapping).defer();
        desk.domain.flush().unwrap();
        assert!(parked.is_revoked());
        spoil(&desk, 2, Answer::status(status::NOMEM), Answer::honest());
        let failure = parked.reuse().unwrap_err();
        assert_eq!(failure.error, MapError::Request(REFUSED));
        assert_eq!(failure.buffer.expect("the buffer").len(), 4);
        desk.assert_empty();
    }
}

#[test]
fn a_refused_drop_quarantines_until_the_device_relents() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        desk.model.script(|_| Answer::status(status::DEVERR));
        drop(mapping);
        assert_eq!((desk.domain.quarantined(), desk.at_device()), (1, 1));
        assert_eq!(desk.release(), (0, 1));
        assert_eq!(desk.pages(), 1);
        desk.model.honest();
        assert_eq!(desk.release(), (1, 0));
        desk.assert_empty();
    }
}
