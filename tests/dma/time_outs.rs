//! Answers that come late, or never: what may yet take effect is not used again.

use crate::each;
use virtio_iommu::dma::{FromDevice, Mapping, ToDevice};
use virtio_iommu::{MapError, Options, RequestError, UnmapError};

use crate::desk::{Buf, Desk, kinds, phys_of};
use crate::model::platform::ModelPlatform;
use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{endpoint, is_detach, is_map, is_unmap};
use crate::ways::done;
use xtask::conformance::{Oracle, proves};

const UNCONFIRMED: RequestError = RequestError::Unconfirmed;

#[test]
fn an_unmap_without_an_answer() {
    for _ in each!() {
        for answer in [Answer::never(), Answer::done_never_told()] {
            let desk = Desk::new();
            let buffer = desk.alloc(1);
            let phys = phys_of(&buffer);
            let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
            let iova = mapping.iova();
            desk.model.answer_once(is_unmap, answer);
            let error = done(mapping).unmap().unwrap_err();
            assert_eq!(error, UnmapError::Quarantined(UNCONFIRMED));
            assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 1));
            assert!(desk.model.ram().is_live(phys, 0x1000));
            // The endpoint has been reset, but the IOMMU has the request still.
            assert_eq!(desk.release(), (0, 1));
            assert_eq!(desk.pages(), 1);
            let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
            assert!(!mapping.iova().overlaps(&iova));
            drop(done(mapping).unmap().unwrap());
            // A new IOMMU knows nothing of it; the memory stays lost with the domain.
            let Desk {
                device,
                domain,
                iommu,
                mut model,
                ..
            } = desk;
            drop((device, domain, iommu));
            model.expect_leak(1);
        }
    }
}

#[test]
fn a_map_without_an_answer_keeps_the_buffer() {
    for _ in each!() {
        for answer in [Answer::never(), Answer::done_never_told()] {
            let mut desk = Desk::new();
            desk.model.answer_once(is_map, answer);
            let failure = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap_err();
            assert_eq!(failure.error, MapError::Exposed(UNCONFIRMED));
            assert!(failure.error.may_be_exposed() && failure.buffer.is_none());
            assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 1));
            assert_eq!(desk.release(), (0, 1));
            assert_eq!(desk.pages(), 1);
            desk.model.expect_leak(1);
        }
    }
}

/// The one mapping that the device has, if any.
fn reach(desk: &Desk) -> Option<(u64, u64)> {
    let list = desk.model.mappings(desk.domain.id().0)?;
    list.first().map(|mapping| (mapping.start, mapping.phys))
}

#[test]
fn a_map_that_takes_effect_long_after_it_was_given_up() {
    for _ in each!() {
        let desk = Desk::new();
        let buffer = desk.alloc(1);
        let phys = phys_of(&buffer);
        desk.model.answer_once(is_map, Answer::late_effect());
        let failure = desk.device.map::<FromDevice, _>(buffer).unwrap_err();
        assert!(failure.buffer.is_none());
        desk.model.honest();
        // A release before the MAP was carried out sends an UNMAP, which succeeds and proves nothing.
        let (released, requests, _) = desk.cost(|| desk.release());
        assert_eq!((released, kinds(&requests).as_str()), ((0, 1), "U"));
        assert_eq!(reach(&desk), None);
        desk.model.with(|d| d.release(1));
        let (at, lands) = reach(&desk).expect("mapped at last");
        assert_eq!(lands, phys);
        assert!(desk.model.ram().is_live(phys, 0x1000));
        // Now it is certain what another UNMAP does.
        assert_eq!(desk.release(), (1, 0));
        assert_eq!(desk.model.writes(PLAIN, at), None);
        desk.assert_empty();
    }
}

#[test]
fn an_unmap_that_takes_effect_long_after_it_was_given_up() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        let iova = mapping.iova();
        desk.model.answer_once(is_unmap, Answer::late_effect());
        done(mapping).unmap().unwrap_err();
        desk.model.honest();
        assert_eq!(
            desk.release(),
            (0, 1),
            "the late UNMAP would end a later mapping"
        );
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        assert!(!mapping.iova().overlaps(&iova));
        desk.model.with(|d| d.release(1));
        assert!(desk.model.reads(PLAIN, mapping.device_addr().0).is_some());
        assert_eq!(desk.release(), (1, 0));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn a_flush_that_is_never_answered_quarantines_the_run() {
    for _ in each!() {
        let desk = Desk::new();
        let mut handles = Vec::new();
        for _ in 0..3 {
            let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
            handles.push(done(mapping).defer());
        }
        desk.model.answer_once(is_unmap, Answer::late());
        let (error, requests, _) = desk.cost(|| desk.domain.flush().unwrap_err());
        assert_eq!(error, UnmapError::Quarantined(UNCONFIRMED));
        assert_eq!(kinds(&requests), "U");
        desk.model.honest();
        assert_eq!((desk.domain.quarantined(), desk.domain.deferred()), (3, 0));
        let last = handles.pop().unwrap();
        drop(handles.pop());
        let failure = last.reuse().unwrap_err();
        assert!(failure.buffer.is_none() && failure.error.may_be_exposed());
        let error = handles.pop().unwrap().reclaim().unwrap_err();
        assert_eq!(error, UnmapError::Quarantined(UNCONFIRMED));
        assert_eq!(desk.pages(), 3);
        assert_eq!(desk.release(), (0, 3));
        desk.model.with(|d| d.release(1));
        assert_eq!(desk.release(), (3, 0));
        desk.assert_empty();
    }
}

#[test]
fn an_exchange_without_answers() {
    for _ in each!() {
        for (unmap, map) in [(true, false), (false, true), (true, true)] {
            let mut desk = Desk::new();
            let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
            desk.model.script(move |seen| match seen.request {
                Request::Unmap { .. } if unmap => Answer::never(),
                Request::Map { .. } if map => Answer::never(),
                _ => Answer::honest(),
            });
            let result = desk
                .device
                .exchange::<_, _, _, ToDevice>(done(mapping), desk.alloc(1));
            assert_eq!(result.unmapped.is_err(), unmap);
            assert_eq!(result.mapped.is_err(), map);
            if let Err(failure) = &result.mapped {
                assert!(failure.buffer.is_none());
            }
            let in_doubt = usize::from(unmap) + usize::from(map);
            assert_eq!(desk.domain.quarantined(), in_doubt);
            drop(result.unmapped);
            desk.model.honest();
            drop(result.mapped.map(|mapping| done(mapping).unmap().unwrap()));
            assert_eq!(desk.pages(), in_doubt);
            assert_eq!(desk.release(), (0, in_doubt));
            desk.model.expect_leak(in_doubt);
        }
    }
}

#[test]
fn dropping_while_the_device_is_silent_ends_in_time() {
    for _ in each!() {
        let mut desk = Desk::new();
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        desk.model.script(|_| Answer::never());
        let looks = desk.model.clock().calls();
        drop(mapping);
        assert!(desk.model.clock().calls() - looks < 3_000);
        assert_eq!((desk.domain.quarantined(), desk.pages()), (1, 1));
        desk.model.honest();
        assert_eq!(desk.release(), (0, 1));
        desk.model.expect_leak(1);
    }
}

#[test]
fn a_device_that_breaks_down_keeps_the_memory() {
    for _ in each!() {
        let mut desk = Desk::new();
        let held = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        desk.model.answer_once(is_map, Answer::needs_reset());
        let failure = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err();
        assert!(failure.buffer.is_none());
        // From now on nothing is sent: a buffer that the device never heard of comes back.
        let failure = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err();
        assert_eq!(failure.error, MapError::Request(RequestError::NotRunning));
        assert!(failure.buffer.is_some());
        drop(failure);
        done(held).unmap().unwrap_err();
        assert_eq!((desk.domain.quarantined(), desk.pages()), (2, 2));
        assert_eq!(desk.release(), (0, 2));
        desk.model.expect_leak(2);
    }
}

#[test]
fn slots_that_are_never_given_back_run_out() {
    for _ in each!() {
        // Two descriptors for PROBE, two for all else.
        let mut options = Options::default();
        options.queue_size = 4;
        let model = Model::new();
        let mut desk = Desk::tuned(model, 64.into(), Default::default(), options);
        let held = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        desk.model.answer_once(is_map, Answer::never());
        let failure = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err();
        assert!(failure.buffer.is_none());
        // The only slot is with the device: nothing can be sent.
        let (failure, requests, _) =
            desk.cost(|| desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err());
        assert_eq!(failure.error, MapError::Request(RequestError::NoSlot));
        assert_eq!(requests, []);
        assert!(failure.buffer.is_some());
        drop(failure);
        let error = done(held).unmap().unwrap_err();
        assert_eq!(error, UnmapError::Quarantined(RequestError::NoSlot));
        assert_eq!((desk.domain.quarantined(), desk.pages()), (2, 2));
        desk.model.honest();
        desk.model.expect_leak(2);
    }
}

#[test]
fn one_slot_is_enough_for_a_list() {
    for _ in each!() {
        let mut options = Options::default();
        options.queue_size = 4;
        let desk = Desk::tuned(Model::new(), 64.into(), Default::default(), options);
        let list: Vec<_> = (0..9).map(|i| desk.filled(1, i)).collect();
        let (mapping, requests, kicks) =
            desk.cost(|| desk.device.map::<ToDevice, _>(list).unwrap());
        assert_eq!((kinds(&requests).as_str(), kicks), ("MMMMMMMMM", 9));
        let next: Vec<_> = (0..3).map(|_| desk.alloc(1)).collect();
        let result = desk
            .device
            .exchange::<_, _, _, FromDevice>(done(mapping), next);
        drop(result.unmapped.unwrap());
        drop(done(result.mapped.unwrap()).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn a_refusal_that_was_carried_out_all_the_same() {
    let _proof = proves(Oracle::Model, &["DV-UNM-6"]);
    for _ in each!() {
        // UNMAP is done, and the device says that it was not.
        let desk = Desk::new();
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        desk.model
            .answer_once(is_unmap, Answer::done_but_status(status::DEVERR));
        done(mapping).unmap().unwrap_err();
        desk.model.honest();
        assert_eq!(
            (desk.domain.quarantined(), desk.at_device(), desk.pages()),
            (1, 0, 1)
        );
        assert_eq!(desk.release(), (1, 0));
        desk.assert_empty();
    }
}

#[test]
fn memory_that_a_late_map_exposes_again_is_not_given_back() {
    let ways: [(&str, usize, Way); 4] = [
        ("unmap", 1, |_, mapping| done(mapping).unmap().is_ok()),
        ("defer", 1, |desk, mapping| {
            let put_off = done(mapping).defer();
            let _ = desk.domain.flush();
            put_off.reclaim().is_ok()
        }),
        ("exchange", 1, |desk, mapping| {
            let next = desk.alloc(1);
            let result = desk
                .device
                .exchange::<_, _, _, FromDevice>(done(mapping), next);
            result.unmapped.is_ok()
        }),
        ("exchange of a list", 1, |desk, mapping| {
            let next = vec![desk.alloc(1), desk.alloc(1)];
            let result = desk
                .device
                .exchange::<_, _, _, FromDevice>(done(mapping), next);
            result.unmapped.is_ok()
        }),
    ];
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        for (name, maps, way) in ways {
            let mut desk = Desk::new();
            let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
            let at = mapping.device_addr().0;
            // Another endpoint gets the mapping once more, but the MAP is late; and it stays.
            desk.model.answer_once(is_detach, Answer::never());
            desk.domain.detach(endpoint(PLAIN)).unwrap_err();
            desk.model.script(|seen| match seen.request {
                Request::Map { .. } => Answer::late_effect(),
                Request::Detach { .. } => Answer::never(),
                _ => Answer::honest(),
            });
            desk.domain.attach(endpoint(OTHER)).unwrap_err();
            // The UNMAP is carried out, then the MAP of before; then all are answered.
            desk.model.script(|_| Answer::late());
            desk.model.on_tick(move |device, _| {
                if device.waiting() > maps {
                    device.release(9);
                }
            });
            let given_back = way(&desk, mapping);
            assert!(desk.model.reads(OTHER, at).is_some(), "{name}: no test");
            assert!(!given_back, "{name}");
            assert!(desk.domain.quarantined() >= 1, "{name}");
            let left = desk.pages();
            desk.model.expect_leak(left);
        }
    }
}

/// Ends a mapping; tells whether its memory came back.
type Way = fn(&Desk, Mapping<Buf, ToDevice, ModelPlatform>) -> bool;
