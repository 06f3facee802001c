//! What the driver makes of answers that come late, or never.

use crate::bench::{Bench, quarantined};
use crate::each;
use crate::model::device::Mode;
use crate::model::requests::Request;
use crate::model::script::{Answer, When};
use crate::model::spec::{feature, status};
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{
    self, GRANULE, ONE_WAIT, RW, TestDomain, TestIommu, domain, endpoint, map, map_at, pages, start,
};
use virtio_iommu::{
    AttachError, CreateError, IovaRange, MapError, Options, RequestError, UnmapError,
};
use xtask::conformance::{Oracle, proves};

#[test]
fn a_late_map_is_neither_lost_nor_reused() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
        for answer in [Answer::late(), Answer::late_effect()] {
            let bench = Bench::new();
            bench.model.answer_once(rig::is_map, answer);
            let late = rig::iova(0x50_0000, GRANULE);
            let memory = pages(&bench.model, 1);
            map_at(&bench.domain, late.start().0, memory, RW).unwrap_err();
            // Others go on meanwhile.
            let next = map(&bench.domain, pages(&bench.model, 1), RW).unwrap();
            assert_eq!(bench.model.with(|d| d.release(9)), 1);
            assert!(bench.model.reads(PLAIN, late.start().0).is_some());
            // The answer is taken for nobody's: it neither confirms nor disturbs another request.
            bench.domain.unmap(next).unwrap();
            assert_eq!(bench.domain.quarantined(), 1);
            quarantined(&bench, late);
            bench.judge();
            // The last DETACH ends the domain at the device, and what was mapped late with it.
            bench.domain.detach(endpoint(PLAIN)).unwrap();
            bench.domain.attach(endpoint(PLAIN)).unwrap();
            assert_eq!(bench.model.reads(PLAIN, late.start().0), None);
            let kept = bench.model.reads(PLAIN, bench.mapped.start().0);
            assert!(kept.is_some(), "the confirmed mapping returns");
        }
    }
}

#[test]
fn a_wait_ends_with_its_time() {
    for _ in each!() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, Answer::late());
        let before = bench.model.clock().calls();
        map(&bench.domain, pages(&bench.model, 1), RW).unwrap_err();
        // Each look takes a millisecond: one at the beginning, and then the second.
        assert_eq!(bench.model.clock().calls() - before, 1_001);
    }
}

#[test]
fn a_map_that_is_answered_together_with_an_unmap_may_have_come_after_it() {
    for _ in each!() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, Answer::late_effect());
        let late = rig::iova(0x50_0000, GRANULE);
        let memory = pages(&bench.model, 1);
        map_at(&bench.domain, late.start().0, memory, RW).unwrap_err();
        bench.model.script(|_| Answer::late());
        bench.model.on_tick(|device, _| {
            if device.waiting() == 2 {
                device.release(2);
            }
        });
        // SAFETY: the endpoints are functions of the test, and do nothing.
        let released = unsafe { bench.domain.release_quarantine() };
        bench.model.honest();
        let reaches = bench.model.reads(PLAIN, late.start().0);
        assert!(
            released.kept == 1 || reaches.is_none(),
            "released, says the driver, and leads to {reaches:x?}"
        );
    }
}

#[test]
fn quarantine_does_not_end_while_an_endpoint_may_yet_come_in() {
    let bench = Bench::new();
    bench
        .model
        .answer_once(rig::is_unmap, Answer::status(status::DEVERR));
    bench.domain.unmap(bench.mapped).unwrap_err();
    bench
        .model
        .answer_once(rig::is_attach, Answer::late_effect());
    bench.domain.attach(endpoint(OTHER)).unwrap_err();
    let release = || {
        // SAFETY: the endpoints are functions of the test, and do nothing.
        let released = unsafe { bench.domain.release_quarantine() };
        (released.released, released.kept)
    };
    assert_eq!(release(), (0, 1));
    bench.model.with(|d| d.release(9));
    assert_eq!(release(), (1, 0));
}

#[test]
fn a_mapping_whose_restoring_was_late_is_not_reached_after_its_unmap() {
    for _ in each!() {
        let bench = Bench::new();
        bench.domain.detach(endpoint(PLAIN)).unwrap();
        // The mapping is restored late, and the endpoint does not leave because of that.
        let mut restored = false;
        bench.model.script(move |seen| {
            if rig::is_map(&seen.request) {
                restored = true;
                Answer::late_effect()
            } else if restored {
                Answer::status(status::DEVERR)
            } else {
                Answer::honest()
            }
        });
        bench.domain.attach(endpoint(PLAIN)).unwrap_err();
        bench.model.honest();
        let ended = bench.domain.unmap(bench.mapped);
        bench.model.with(|d| d.release(9));
        let reaches = bench.model.reads(PLAIN, bench.mapped.start().0);
        assert!(
            ended.is_err() || reaches.is_none(),
            "unmapped, says the driver, and leads to {reaches:x?}"
        );
    }
}

#[test]
fn a_late_unmap_does_not_hit_a_new_mapping() {
    for _ in each!() {
        let bench = Bench::new();
        bench
            .model
            .answer_once(rig::is_unmap, Answer::late_effect());
        bench.domain.unmap(bench.mapped).unwrap_err();
        let places: Vec<IovaRange> = (0..8)
            .map(|_| map(&bench.domain, pages(&bench.model, 1), RW).unwrap())
            .collect();
        bench.model.with(|d| d.release(9));
        for at in places {
            assert!(bench.model.reads(PLAIN, at.start().0).is_some(), "{at}");
        }
        assert_eq!(bench.model.reads(PLAIN, bench.mapped.start().0), None);
    }
}

#[test]
fn a_late_attach_lets_no_endpoint_back_into_a_domain_that_it_has_left() {
    for _ in each!() {
        // The ATTACH is still with the device, which need not keep the order of its requests.
        let bench = Bench::new();
        bench
            .model
            .answer_once(rig::is_attach, Answer::late_effect());
        bench.domain.attach(endpoint(OTHER)).unwrap_err();
        let left = bench.domain.detach(endpoint(OTHER));
        bench.model.with(|d| d.release(9));
        let reaches = bench.model.reads(OTHER, bench.mapped.start().0);
        assert!(
            left.is_err() || reaches.is_none(),
            "detached, says the driver, and reaches {reaches:x?}"
        );
    }
}

#[test]
fn an_attach_that_is_answered_together_with_a_detach_may_have_come_after_it() {
    for _ in each!() {
        let bench = Bench::new();
        bench
            .model
            .answer_once(rig::is_attach, Answer::late_effect());
        bench.domain.attach(endpoint(OTHER)).unwrap_err();
        // The endpoint leaves at once, and comes back before the driver hears of either.
        bench.model.script(|_| Answer::late());
        bench.model.on_tick(|device, _| {
            if device.waiting() == 2 {
                device.release(2);
            }
        });
        let left = bench.domain.detach(endpoint(OTHER));
        bench.model.honest();
        let reaches = bench.model.reads(OTHER, bench.mapped.start().0);
        assert!(
            left.is_err() || reaches.is_none(),
            "detached, says the driver, and reaches {reaches:x?}"
        );
    }
}

/// `OTHER` is not attached for certain to a domain with one mapping, because the device answers the
/// first, second, … ATTACH like that. Endpoints rest in a domain.
fn late_to_attach(
    model: &Model,
    answer: impl Fn(u32) -> Answer + Send + 'static,
) -> (TestIommu, TestDomain, IovaRange) {
    model.with(|d| d.knobs.offered &= !feature::BYPASS_CONFIG);
    let iommu = start(model, &[PLAIN, OTHER]);
    let domain = domain(&iommu, 4, &[PLAIN]);
    let at = map(&domain, pages(model, 1), RW).unwrap();
    let mut attaches = 0;
    model.script(move |seen| match seen.request {
        Request::Attach { .. } => {
            attaches += 1;
            answer(attaches)
        }
        _ => Answer::honest(),
    });
    let error = domain.attach(endpoint(OTHER)).unwrap_err();
    assert_eq!(error, AttachError::Request(RequestError::Unconfirmed));
    model.honest();
    (iommu, domain, at)
}

#[test]
fn a_late_attach_is_not_forgotten_for_what_was_refused_before_or_after_it() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        // The device does not move endpoints: ATTACH is refused, DETACH done, and the second
        // ATTACH is late. Where the endpoint rests meanwhile is refused, too, or not.
        for rests in [true, false] {
            let model = Model::new();
            let (_iommu, domain, at) = late_to_attach(&model, move |attach| match attach {
                1 => Answer::status(status::UNSUPP),
                2 => Answer::late_effect(),
                _ if rests => Answer::honest(),
                _ => Answer::status(status::NOMEM),
            });
            model.with(|d| d.release(9));
            // It is in the domain: that it counts as a member keeps the memory mapped for it.
            let reaches = model.reads(OTHER, at.start().0);
            assert!(reaches.is_some(), "{rests} {:?}", model.domain_of(OTHER));
            assert_eq!(domain.endpoints(), 2);
        }
    }
}

#[test]
fn an_endpoint_that_is_late_to_rest_belongs_to_nobody_else() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        // ATTACH is refused, and the one that brings the endpoint back to where it rests is late:
        // it would take it out of any domain that it is attached to meanwhile.
        let model = Model::new();
        let (iommu, domain, at) = late_to_attach(&model, |attach| match attach {
            1 => Answer::status(status::NOMEM),
            _ => Answer::late_effect(),
        });
        let other = iommu.create_domain(1).unwrap();
        let owner = Err(AttachError::Attached(domain.id()));
        assert_eq!(other.attach(endpoint(OTHER)), owner);
        model.with(|d| d.release(9));
        assert_eq!(model.reads(OTHER, at.start().0), None);
    }
}

#[test]
fn a_late_attach_lets_no_endpoint_into_a_later_domain_of_the_same_id() {
    let _proof = proves(Oracle::Model, &["DV-UNM-3"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let first = iommu.create_domain(4).unwrap();
        model.answer_once(rig::is_attach, Answer::late_effect());
        first.attach(endpoint(OTHER)).unwrap_err();
        drop(first);
        let second = domain(&iommu, 4, &[PLAIN]);
        let at = map(&second, pages(&model, 1), RW).unwrap();
        model.with(|d| d.release(9));
        let reaches = model.reads(OTHER, at.start().0);
        assert_eq!(reaches, None, "an endpoint of nobody");
    }
}

#[test]
fn a_late_question_about_a_domain_id_does_not_empty_a_later_domain() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        // `create_domain` asks whether the id is free by an UNMAP of everything.
        model.answer_once(rig::is_unmap, Answer::late_effect());
        iommu.create_domain(4).unwrap_err();
        let domain = domain(&iommu, 4, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        model.with(|d| d.release(9));
        let reaches = model.reads(PLAIN, at.start().0);
        assert!(reaches.is_some(), "unmapped by a request of long ago");
    }
}

#[test]
fn a_domain_with_quarantined_mappings_does_not_give_its_id_to_another() {
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, Answer::late_effect());
        map_at(&bench.domain, 0x50_0000, pages(&bench.model, 1), RW).unwrap_err();
        let Bench {
            iommu,
            domain: first,
            model,
            ..
        } = bench;
        let id = first.id();
        drop(first);
        assert_eq!(model.domain_of(PLAIN), None);
        let second = domain(&iommu, 4, &[PLAIN]);
        assert_ne!(second.id(), id);
        model.with(|d| d.release(9));
        assert_eq!(model.reads(PLAIN, 0x50_0000), None);
        drop(second);
        drop(iommu);
    }
}

#[test]
fn slots_of_requests_that_are_never_answered_run_out_and_come_back_late() {
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.queue_sizes = [16, 16]);
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 64, &[PLAIN]);
        model.script(|seen| {
            if rig::is_map(&seen.request) {
                Answer::late()
            } else {
                Answer::honest()
            }
        });
        let mut unconfirmed = 0;
        let error = loop {
            let calls = model.clock().calls();
            let error = map(&domain, pages(&model, 1), RW).unwrap_err();
            assert!(model.clock().calls() - calls <= 2 * ONE_WAIT);
            match error {
                MapError::Exposed(RequestError::Unconfirmed) => unconfirmed += 1,
                other => break other,
            }
            assert!(unconfirmed < 16);
        };
        assert_eq!(error, MapError::Request(RequestError::NoSlot));
        assert!((5..=8).contains(&unconfirmed), "{unconfirmed}");
        assert_eq!(domain.quarantined(), unconfirmed);
        assert_eq!(model.with(|d| d.waiting()), unconfirmed);
        // The device remembers them at last.
        model.honest();
        model.with(|d| d.release(99));
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        domain.unmap(at).unwrap();
        assert_eq!(domain.quarantined(), unconfirmed);
    }
}

#[test]
fn gv_stat_2_needs_reset_is_noticed_at_once_and_not_only_when_time_is_up() {
    let _proof = proves(Oracle::Model, &["GV-STAT-2"]);
    for _ in each!() {
        for kind in [rig::is_map, rig::is_unmap, rig::is_attach, rig::is_detach] {
            let bench = Bench::new();
            bench.model.answer_once(kind, Answer::needs_reset());
            let calls = bench.model.clock().calls();
            let _ = bench.domain.attach(endpoint(OTHER));
            let _ = map(&bench.domain, pages(&bench.model, 1), RW);
            let _ = bench.domain.unmap(bench.mapped);
            let _ = bench.domain.detach(endpoint(PLAIN));
            let calls = bench.model.clock().calls() - calls;
            assert!(calls <= 20, "{calls} looks at the clock");
            assert!(!bench.model.with(|d| d.is_live()));
            // Nothing is sent to a device that needs a reset.
            let (result, requests) = bench
                .model
                .requests_during(|| map(&bench.domain, pages(&bench.model, 1), RW));
            assert_eq!(
                result,
                Err(MapError::Request(RequestError::NotRunning)),
                "and nothing is exposed"
            );
            assert_eq!(requests, []);
            let error = bench.iommu.create_domain(1).unwrap_err();
            assert_eq!(error, CreateError::Request(RequestError::NotRunning));
        }
    }
}

#[test]
fn needs_reset_in_the_middle_of_a_wait_is_noticed() {
    let _proof = proves(Oracle::Model, &["GV-STAT-2"]);
    for _ in each!() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, Answer::never());
        let start = bench.model.clock().calls();
        bench.model.on_tick(move |device, calls| {
            if calls == start + 300 {
                device.break_down();
            }
        });
        let error = map(&bench.domain, pages(&bench.model, 1), RW).unwrap_err();
        assert_eq!(error, MapError::Exposed(RequestError::Unconfirmed));
        let calls = bench.model.clock().calls() - start;
        assert!((300..500).contains(&calls), "{calls}");
    }
}

#[test]
fn an_answer_in_the_last_moment_counts() {
    for _ in each!() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, Answer::late());
        let start = bench.model.clock().calls();
        bench.model.on_tick(move |device, calls| {
            if calls == start + 995 {
                device.release(9);
            }
        });
        let memory = pages(&bench.model, 1);
        let at = map(&bench.domain, memory, RW).unwrap();
        assert_eq!(
            bench.model.reads(PLAIN, at.start().0),
            Some(memory.start().0)
        );
    }
}

#[test]
fn a_stopped_clock_does_not_stop_the_driver() {
    for _ in each!() {
        let bench = Bench::new();
        bench.model.clock().set_step(0);
        bench.model.clock().set_limit(20_000_000);
        bench.model.with(|d| d.registers.limit = Some(20_000_000));
        bench.model.answer_once(rig::is_map, Answer::never());
        let error = map(&bench.domain, pages(&bench.model, 1), RW).unwrap_err();
        assert_eq!(error, MapError::Exposed(RequestError::Unconfirmed));
        bench.model.clock().set_step(1_000_000);
    }
}

#[test]
fn the_time_limit_is_the_callers() {
    for _ in each!() {
        let model = Model::new();
        let mut options = Options::default();
        options.timeout = std::time::Duration::from_millis(50);
        let iommu = rig::try_start_with(&model, &[PLAIN], options).unwrap();
        let domain = domain(&iommu, 4, &[PLAIN]);
        model.answer_once(rig::is_map, Answer::never());
        let calls = model.clock().calls();
        map(&domain, pages(&model, 1), RW).unwrap_err();
        let calls = model.clock().calls() - calls;
        assert!((40..70).contains(&calls), "{calls}");
    }
}

#[test]
fn an_attach_without_an_answer_does_not_lose_the_mappings_of_the_domain() {
    for _ in each!() {
        // The domain has mappings and no endpoint; the ATTACH that brings it back is not confirmed.
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        domain.detach(endpoint(PLAIN)).unwrap();
        model.answer_once(rig::is_attach, Answer::never());
        domain.attach(endpoint(PLAIN)).unwrap_err();
        // Another endpoint is attached, and confirmed: it sees what the domain says to have mapped.
        domain.attach(endpoint(OTHER)).unwrap();
        assert_eq!(domain.mapped(), 1);
        assert!(
            model.reads(OTHER, at.start().0).is_some(),
            "mapped() is 1, and the device translates nothing"
        );
    }
}

#[test]
fn a_detach_without_an_answer_does_not_lose_the_mappings_of_the_domain() {
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        // The DETACH of the only endpoint took effect, and with it the domain ended; nobody told.
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        model.answer_once(rig::is_detach, Answer::done_never_told());
        domain.detach(endpoint(PLAIN)).unwrap_err();
        assert_eq!(model.mappings(domain.id().0), None);
        // Another endpoint is attached, and confirmed: it sees what the domain says to have mapped.
        domain.attach(endpoint(OTHER)).unwrap();
        assert_eq!(domain.mapped(), 1);
        assert!(
            model.reads(OTHER, at.start().0).is_some(),
            "mapped() is 1, and the device translates nothing"
        );
    }
}

#[test]
fn an_unconfirmed_request_and_an_unconfirmed_reset_keep_all_memory() {
    let _proof = proves(Oracle::Model, &["GV-VQ-6"]);
    for _ in each!() {
        let mut bench = Bench::new();
        bench.model.script(|_| Answer::never());
        bench.domain.unmap(bench.mapped).unwrap_err();
        let held = bench.model.ram().live_pages();
        bench
            .model
            .with(|d| d.knobs.reset = crate::model::config::ResetBehaviour::Never);
        bench.model.expect_leak(held);
        let Bench {
            iommu,
            domain,
            model,
            ..
        } = bench;
        iommu.shutdown().unwrap_err();
        drop(domain);
        assert_eq!(model.ram().live_pages(), held);
    }
}

#[test]
fn requests_of_a_device_that_takes_its_time_are_all_confirmed() {
    for _ in each!() {
        let bench = Bench::new();
        bench.model.with(|d| d.knobs.mode = Mode::OnTick(1));
        let at = map(&bench.domain, pages(&bench.model, 1), RW).unwrap();
        bench.domain.unmap(at).unwrap();
        bench.domain.unmap(bench.mapped).unwrap();
        assert_eq!(bench.domain.quarantined(), 0);
        assert_eq!(When::Now, Answer::honest().when);
        assert!(matches!(
            bench.model.requests().last(),
            Some(Request::Unmap { .. })
        ));
    }
}

#[test]
fn a_late_clearing_of_a_domain_does_not_empty_a_later_domain() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let first = domain(&iommu, 4, &[PLAIN]);
        map(&first, pages(&model, 1), RW).unwrap();
        first.detach(endpoint(PLAIN)).unwrap();
        // The first ATTACH is in doubt, so that the second one clears the domain; that is late.
        model.answer_once(rig::is_attach, Answer::late_effect());
        first.attach(endpoint(PLAIN)).unwrap_err();
        model.answer_once(rig::is_unmap, Answer::late_effect());
        first.attach(endpoint(OTHER)).unwrap_err();
        assert_eq!(model.with(|d| d.waiting()), 2);
        // The ATTACH comes back, and both endpoints leave.
        model.with(|d| d.release_one(0));
        first.detach(endpoint(PLAIN)).unwrap();
        assert_eq!(first.endpoints(), 0);
        drop(first);
        let second = domain(&iommu, 4, &[PLAIN]);
        let at = map(&second, pages(&model, 1), RW).unwrap();
        model.with(|d| d.release_one(0));
        let reaches = model.reads(PLAIN, at.start().0);
        assert!(reaches.is_some(), "unmapped by a request of long ago");
    }
}

#[test]
fn a_replay_that_comes_late_maps_nothing_that_was_unmapped_since() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        late_replay(&model, &domain);
        model.honest();
        let result = domain.unmap(at);
        model.with(|d| d.release(9));
        let unconfirmed = UnmapError::Quarantined(RequestError::Unconfirmed);
        assert_eq!(
            result,
            Err(unconfirmed),
            "{:x?}",
            model.reads(OTHER, at.start().0)
        );
        assert_eq!(domain.quarantined(), 1);
    }
}

#[test]
fn a_replay_that_comes_late_finds_no_domain() {
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        domain.detach(endpoint(PLAIN)).unwrap();
        model.answer_once(rig::is_map, Answer::late_effect());
        domain.attach(endpoint(OTHER)).unwrap_err();
        assert_eq!(model.domain_of(OTHER), None);
        // The device does not know the domain: nothing is sent, and the memory is free.
        domain.unmap(at).unwrap();
        let again = domain.attach(endpoint(OTHER));
        model.with(|d| d.release(9));
        assert_eq!(model.reads(OTHER, at.start().0), None, "{again:?}");
        // Once the MAP has come, to nothing, the domain can be used.
        domain.attach(endpoint(OTHER)).unwrap();
        assert_eq!(model.reads(OTHER, at.start().0), None);
    }
}

#[test]
fn a_replay_that_is_answered_during_an_unmap_may_come_after_it() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        for count in 1..4 {
            let model = Model::new();
            let iommu = start(&model, &[PLAIN, OTHER]);
            let domain = domain(&iommu, 8, &[PLAIN]);
            let all: Vec<_> = (0..count)
                .map(|_| map(&domain, pages(&model, 1), RW).unwrap())
                .collect();
            late_replay(&model, &domain);
            // The UNMAPs are carried out, then the MAPs of before; then all are answered.
            model.script(|_| Answer::late());
            model.on_tick(move |device, _| {
                if device.waiting() > count {
                    device.release(9);
                }
            });
            let result = domain.unmap_all(&all);
            let reached: Vec<_> = all
                .iter()
                .filter(|at| model.reads(OTHER, at.start().0).is_some())
                .collect();
            assert_eq!(reached.len(), count, "the test does what it says");
            let unconfirmed = UnmapError::Quarantined(RequestError::Unconfirmed);
            assert_eq!(result, Err(unconfirmed), "{reached:x?} are reached");
            assert_eq!(domain.quarantined(), count);
        }
    }
}

/// The next endpoint gets all mappings once more, but these MAPs are late; and it stays.
fn late_replay(model: &Model, domain: &rig::TestDomain) {
    model.answer_once(rig::is_detach, Answer::never());
    domain.detach(endpoint(PLAIN)).unwrap_err();
    model.script(|seen| match seen.request {
        Request::Map { .. } => Answer::late_effect(),
        Request::Detach { .. } => Answer::never(),
        _ => Answer::honest(),
    });
    domain.attach(endpoint(OTHER)).unwrap_err();
}
