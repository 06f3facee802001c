//! What the driver makes of answers that are wrong, late, lies, or never come.

use crate::model::device::Mode;
use crate::model::requests::Request;
use crate::model::script::{Answer, Effect, Id, When};
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{
    self, GRANULE, ONE_WAIT, RW, TestDomain, TestIommu, domain, endpoint, map, map_at, pages, phys,
    start,
};
use virtio_iommu::{
    AttachError, CreateError, IovaRange, MapError, Options, RequestError, Status, UnmapError,
};

const STATUSES: [(u8, Status); 12] = [
    (status::IOERR, Status::IoErr),
    (status::UNSUPP, Status::Unsupp),
    (status::DEVERR, Status::DevErr),
    (status::INVAL, Status::Inval),
    (status::RANGE, Status::Range),
    (status::NOENT, Status::NoEnt),
    (status::FAULT, Status::Fault),
    (status::NOMEM, Status::NoMem),
    (9, Status::Unknown(9)),
    (0x7f, Status::Unknown(0x7f)),
    (0x80, Status::Unknown(0x80)),
    (0xfe, Status::Unknown(0xfe)),
];

/// Answers from which the driver cannot know what happened.
fn unclear() -> Vec<Answer> {
    let mut list = vec![
        Answer::never(),
        Answer::done_never_told(),
        Answer::late(),
        Answer::late_effect(),
        Answer::needs_reset(),
        Answer {
            effect: Effect::AtOnce,
            ..Answer::needs_reset()
        },
        // The used length claims what was not written.
        Answer::claims(4),
        Answer::honest().with_jump(1),
        Answer::honest().with_jump(1000),
        Answer::honest().with_jump(0x8000),
    ];
    for len in [1, 2, 3, 5, 8, 516, u32::MAX] {
        list.push(Answer::honest().with_len(len));
        list.push(Answer::claims(len));
    }
    for id in [
        Id::OwnTail,
        Id::Idle,
        Id::Raw(64),
        Id::Raw(0xffff),
        Id::Raw(0x1_0000),
        Id::Raw(u32::MAX),
    ] {
        list.push(Answer::honest().with_id(id));
    }
    list
}

/// One endpoint in one domain with one mapping.
struct Bench {
    iommu: TestIommu,
    domain: TestDomain,
    mapped: IovaRange,
    model: Model,
}

impl Bench {
    fn new() -> Self {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 16, &[PLAIN]);
        let mapped = map(&domain, pages(&model, 1), RW).unwrap();
        Self {
            iommu,
            domain,
            mapped,
            model,
        }
    }

    /// Runs `work` and checks that it is bounded.
    fn bounded<R>(&self, waits: u64, work: impl FnOnce() -> R) -> R {
        let calls = self.model.clock().calls();
        let result = work();
        let calls = self.model.clock().calls() - calls;
        assert!(calls <= waits * ONE_WAIT, "{calls} looks at the clock");
        result
    }

    /// What the driver says about the mappings agrees with the device as far as can be known: it
    /// translates nothing but what is mapped or quarantined.
    fn judge(&self) {
        let known = self.domain.mapped() + self.domain.quarantined();
        let found = self.model.mappings(self.domain.id().0).unwrap_or_default();
        assert!(found.len() <= known, "{found:x?}, known {known}");
    }
}

#[test]
fn every_failing_status_of_a_map() {
    for (code, expected) in STATUSES {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, Answer::status(code));
        let memory = pages(&bench.model, 1);
        let error = map(&bench.domain, memory, RW).unwrap_err();
        assert_eq!(error, MapError::Request(RequestError::Status(expected)));
        assert!(!error.may_be_exposed());
        assert_eq!((bench.domain.mapped(), bench.domain.quarantined()), (1, 0));
        // The address is free again, and the next try succeeds.
        let at = map(&bench.domain, memory, RW).unwrap();
        assert_eq!(
            bench.model.reads(PLAIN, at.start().0),
            Some(memory.start().0)
        );
        bench.judge();
    }
}

#[test]
fn every_failing_status_of_an_unmap_quarantines() {
    for (code, expected) in STATUSES {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_unmap, Answer::status(code));
        let error = bench.domain.unmap(bench.mapped).unwrap_err();
        let expected = UnmapError::Quarantined(RequestError::Status(expected));
        assert_eq!(error, expected);
        assert_eq!((bench.domain.mapped(), bench.domain.quarantined()), (0, 1));
        quarantined(&bench, bench.mapped);
        bench.judge();
    }
}

/// The addresses are neither handed out nor taken, nor unmapped again.
fn quarantined(bench: &Bench, range: IovaRange) {
    let memory = phys(0x1_0000, range.len().unwrap());
    let (result, requests) = bench
        .model
        .requests_during(|| map_at(&bench.domain, range.start().0, memory, RW));
    assert!(
        matches!(result, Err(MapError::InUse | MapError::NotAttached)),
        "{result:?}"
    );
    assert_eq!(requests, []);
    let (result, requests) = bench.model.requests_during(|| bench.domain.unmap(range));
    assert_eq!(result, Err(UnmapError::NotMapped(range)));
    assert_eq!(requests, []);
    assert_eq!(bench.domain.translate(range.start()), None);
    // And `map` goes elsewhere.
    if let Ok(at) = map(&bench.domain, phys(0x1_0000, GRANULE), RW) {
        assert!(!at.overlaps(&range));
        bench.domain.unmap(at).unwrap();
    }
}

#[test]
fn every_failing_status_of_an_attach_and_a_detach() {
    for (code, expected) in STATUSES {
        let bench = Bench::new();
        let refused = AttachError::Request(RequestError::Status(expected));
        bench.model.answer_once(rig::is_attach, Answer::status(code));
        let error = bench.domain.attach(endpoint(OTHER)).unwrap_err();
        assert_eq!(error, refused);
        assert_eq!(bench.model.domain_of(OTHER), None);
        bench.domain.attach(endpoint(OTHER)).unwrap();
        bench.model.answer_once(rig::is_detach, Answer::status(code));
        match bench.domain.detach(endpoint(OTHER)) {
            // The device says that the endpoint is not in the domain.
            Ok(()) => assert!([status::NOENT, status::INVAL].contains(&code)),
            Err(error) => {
                assert_eq!(error, refused);
                assert_eq!(bench.domain.endpoints(), 2);
                bench.domain.detach(endpoint(OTHER)).unwrap();
                assert_eq!(bench.model.domain_of(OTHER), None);
            }
        }
    }
}

#[test]
fn dn_ops_3_used_length_0_is_a_failure() {
    let bench = Bench::new();
    bench.model.answer_once(rig::is_map, Answer::unwritten());
    let error = map(&bench.domain, pages(&bench.model, 1), RW).unwrap_err();
    assert_eq!(error, MapError::Request(RequestError::NotWritten));
    bench.model.answer_once(rig::is_unmap, Answer::unwritten());
    let error = bench.domain.unmap(bench.mapped).unwrap_err();
    assert_eq!(error, UnmapError::Quarantined(RequestError::NotWritten));
    bench.model.answer_once(rig::is_attach, Answer::unwritten());
    let error = bench.domain.attach(endpoint(OTHER)).unwrap_err();
    assert_eq!(error, AttachError::Request(RequestError::NotWritten));
    bench.model.answer_once(rig::is_detach, Answer::unwritten());
    let error = bench.domain.detach(endpoint(PLAIN)).unwrap_err();
    assert_eq!(error, AttachError::Request(RequestError::NotWritten));
    bench.judge();
}

#[test]
fn dn_ops_3_a_status_that_the_used_length_does_not_cover_is_not_read() {
    // cloud-hypervisor: the status is there, and the length is 0.
    let bench = Bench::new();
    bench
        .model
        .answer_once(rig::is_map, Answer::honest().with_len(0));
    let error = map(&bench.domain, pages(&bench.model, 1), RW).unwrap_err();
    assert!(matches!(
        error,
        MapError::Request(RequestError::NotWritten) | MapError::Exposed(_)
    ));
}

#[test]
fn dn_ops_2_rubbish_behind_the_status_changes_nothing() {
    let model = Model::new();
    model.script(|_| Answer::honest().with_reserved([0xff, 0x80, 1]));
    let iommu = start(&model, &[PLAIN]);
    let domain = domain(&iommu, 4, &[PLAIN]);
    let at = map(&domain, pages(&model, 1), RW).unwrap();
    assert!(model.reads(PLAIN, at.start().0).is_some());
    domain.unmap(at).unwrap();
    domain.detach(endpoint(PLAIN)).unwrap();
}

#[test]
fn gv_vq_5_a_map_that_is_not_clearly_answered_is_quarantined() {
    for answer in unclear() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_map, answer.clone());
        let memory = pages(&bench.model, 1);
        let at = 0x50_0000;
        let result = bench.bounded(3, || map_at(&bench.domain, at, memory, RW));
        match result.unwrap_err() {
            MapError::Exposed(RequestError::Unconfirmed) => {
                assert_eq!(bench.domain.quarantined(), 1, "{answer:?}");
            }
            other => panic!("{other:?} after {answer:?}"),
        }
        quarantined(&bench, rig::iova(at, GRANULE));
        bench.judge();
    }
}

#[test]
fn gv_vq_5_an_unmap_that_is_not_clearly_answered_is_quarantined() {
    for answer in unclear() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_unmap, answer.clone());
        let result = bench.bounded(2, || bench.domain.unmap(bench.mapped));
        let expected = UnmapError::Quarantined(RequestError::Unconfirmed);
        assert_eq!(result, Err(expected), "{answer:?}");
        assert_eq!((bench.domain.mapped(), bench.domain.quarantined()), (0, 1));
        quarantined(&bench, bench.mapped);
        bench.judge();
    }
}

#[test]
fn gv_vq_5_an_attach_that_is_not_clearly_answered_counts_as_attached() {
    for answer in unclear() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_attach, answer.clone());
        let result = bench.bounded(2, || bench.domain.attach(endpoint(OTHER)));
        let expected = AttachError::Request(RequestError::Unconfirmed);
        assert_eq!(result, Err(expected), "{answer:?}");
        assert_eq!(bench.domain.endpoints(), 2, "{answer:?}");
        // It cannot be given to anyone else meanwhile.
        if let Ok(other) = bench.iommu.create_domain(1) {
            let result = other.attach(endpoint(OTHER));
            assert_eq!(result, Err(AttachError::Attached(bench.domain.id())));
        }
        bench.model.honest();
    }
}

#[test]
fn gv_vq_5_a_detach_that_is_not_clearly_answered_leaves_the_endpoint_attached() {
    for answer in unclear() {
        let bench = Bench::new();
        bench.model.answer_once(rig::is_detach, answer.clone());
        let result = bench.bounded(2, || bench.domain.detach(endpoint(PLAIN)));
        let expected = AttachError::Request(RequestError::Unconfirmed);
        assert_eq!(result, Err(expected), "{answer:?}");
        assert_eq!(bench.domain.endpoints(), 1, "{answer:?}");
        bench.model.honest();
    }
}

#[test]
fn a_late_map_is_neither_lost_nor_reused() {
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

#[test]
fn a_late_unmap_does_not_hit_a_new_mapping() {
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

#[test]
fn a_late_attach_lets_no_endpoint_back_into_a_domain_that_it_has_left() {
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

#[test]
fn a_late_attach_lets_no_endpoint_into_a_later_domain_of_the_same_id() {
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

#[test]
fn a_late_question_about_a_domain_id_does_not_empty_a_later_domain() {
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

#[test]
fn a_domain_with_quarantined_mappings_does_not_give_its_id_to_another() {
    let bench = Bench::new();
    bench
        .model
        .answer_once(rig::is_map, Answer::late_effect());
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

#[test]
fn slots_of_requests_that_are_never_answered_run_out_and_come_back_late() {
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

#[test]
fn gv_vq_3_used_entries_for_nobody_stop_the_device_and_nothing_panics() {
    for id in [
        Id::Raw(1),
        Id::Raw(63),
        Id::Raw(64),
        Id::Raw(0x8000),
        Id::Raw(0xffff_fffe),
        Id::Idle,
        Id::OwnTail,
    ] {
        let bench = Bench::new();
        bench
            .model
            .answer_once(rig::is_unmap, Answer::honest().with_id(id));
        bench.domain.unmap(bench.mapped).unwrap_err();
        bench.model.honest();
        // Whatever the driver thinks of the device now, it says so, at once or in time.
        let result = bench.bounded(2, || map(&bench.domain, pages(&bench.model, 1), RW));
        if let Err(error) = result {
            assert_eq!(error, MapError::Request(RequestError::NotRunning));
        }
        // A reset works in any case.
        bench.iommu.shutdown().unwrap();
    }
}

#[test]
fn an_answer_that_comes_twice_confirms_nothing_else() {
    let bench = Bench::new();
    bench
        .model
        .answer_once(rig::is_map, Answer::honest().twice());
    let memory = pages(&bench.model, 1);
    let _ = bench.bounded(3, || map(&bench.domain, memory, RW));
    // The second copy must not answer the next request in the same slot, which gets no answer.
    bench.model.script(|_| Answer::never());
    let result = bench.bounded(3, || map(&bench.domain, memory, RW));
    assert!(result.is_err(), "{result:?}");
    bench.model.honest();
    bench.judge();
}

#[test]
fn an_answer_under_the_name_of_another_request_in_flight() {
    // Two MAPs with one kick; the device answers the first under the name of the second, which it
    // did not carry out.
    let bench = Bench::new();
    let mut maps = 0;
    bench.model.script(move |seen| {
        if !rig::is_map(&seen.request) {
            return Answer::honest();
        }
        maps += 1;
        match maps {
            1 => Answer::honest().with_id(Id::Other),
            _ => Answer::never(),
        }
    });
    let pieces = [pages(&bench.model, 1), pages(&bench.model, 1)];
    let options = virtio_iommu::MapOptions::new(RW);
    let result = bench.bounded(4, || rig::map_all(&bench.domain, &pieces, options));
    // Nothing tells the driver which one it was; whatever it believes, one is unconfirmed.
    let error = result.unwrap_err();
    assert!(error.may_be_exposed(), "{error:?}");
    bench.model.honest();
    let found = bench.model.mappings(bench.domain.id().0).unwrap();
    let known = bench.domain.mapped() + bench.domain.quarantined();
    assert!(found.len() <= known + 1, "{found:x?}, known {known}");
}

#[test]
fn gv_stat_2_needs_reset_is_noticed_at_once_and_not_only_when_time_is_up() {
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

#[test]
fn needs_reset_in_the_middle_of_a_wait_is_noticed() {
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

#[test]
fn an_answer_in_the_last_moment_counts() {
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

#[test]
fn a_stopped_clock_does_not_stop_the_driver() {
    let bench = Bench::new();
    bench.model.clock().set_step(0);
    bench.model.clock().set_limit(20_000_000);
    bench.model.with(|d| d.registers.limit = Some(20_000_000));
    bench.model.answer_once(rig::is_map, Answer::never());
    let error = map(&bench.domain, pages(&bench.model, 1), RW).unwrap_err();
    assert_eq!(error, MapError::Exposed(RequestError::Unconfirmed));
    bench.model.clock().set_step(1_000_000);
}

#[test]
fn the_time_limit_is_the_callers() {
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

#[test]
fn mappings_that_cannot_be_restored_leave_the_endpoint_detached() {
    for k in 0..3 {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let places: Vec<IovaRange> = (0..3)
            .map(|_| map(&domain, pages(&model, 1), RW).unwrap())
            .collect();
        domain.detach(endpoint(PLAIN)).unwrap();
        let mut maps = 0;
        model.script(move |seen| {
            maps += usize::from(rig::is_map(&seen.request));
            if rig::is_map(&seen.request) && maps == k + 1 {
                Answer::status(status::NOMEM)
            } else {
                Answer::honest()
            }
        });
        let error = domain.attach(endpoint(PLAIN)).unwrap_err();
        let expected = AttachError::Replay(RequestError::Status(Status::NoMem));
        assert_eq!(error, expected);
        assert_eq!(model.domain_of(PLAIN), None);
        assert_eq!((domain.endpoints(), domain.mapped()), (0, 3));
        model.honest();
        domain.attach(endpoint(OTHER)).unwrap();
        for at in places {
            assert!(model.reads(OTHER, at.start().0).is_some());
        }
    }
}

#[test]
fn an_attach_without_an_answer_does_not_lose_the_mappings_of_the_domain() {
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

#[test]
fn a_detach_without_an_answer_does_not_lose_the_mappings_of_the_domain() {
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

#[test]
fn unsupp_for_an_endpoint_that_moves_is_answered_with_a_detach() {
    // §5.13.6.3.2: a device that cannot detach implicitly; endpoints rest in the scratch domain.
    let model = Model::new();
    model.with(|d| {
        d.knobs.offered &= !crate::model::spec::feature::BYPASS_CONFIG;
        d.unit.quirks.no_implicit_detach = true;
    });
    let iommu = start(&model, &[PLAIN]);
    let domain = domain(&iommu, 4, &[PLAIN]);
    assert_eq!(model.domain_of(PLAIN), Some(domain.id().0));
    domain.detach(endpoint(PLAIN)).unwrap();
    let scratch = iommu.scratch_domain().0;
    assert_eq!(model.domain_of(PLAIN), Some(scratch));
}

#[test]
fn dv_att_4_a_device_with_one_endpoint_per_domain_says_so() {
    let model = Model::new();
    model.with(|d| d.unit.quirks.endpoints_per_domain = Some(1));
    let iommu = start(&model, &[PLAIN, OTHER]);
    let domain = domain(&iommu, 4, &[PLAIN]);
    let error = domain.attach(endpoint(OTHER)).unwrap_err();
    let expected = AttachError::Request(RequestError::Status(Status::Unsupp));
    assert_eq!(error, expected);
    assert_eq!(domain.endpoints(), 1);
    rig::domain(&iommu, 4, &[OTHER]);
}

#[test]
fn refusals_with_length_zero_are_failures_and_not_successes() {
    let model = Model::new();
    model.with(|d| {
        d.knobs.refusals_have_length_zero = true;
        d.unit.quirks.mappings_per_domain = Some(1);
    });
    let iommu = start(&model, &[PLAIN]);
    let domain = domain(&iommu, 4, &[PLAIN]);
    map(&domain, pages(&model, 1), RW).unwrap();
    let error = map(&domain, pages(&model, 1), RW).unwrap_err();
    assert_eq!(error, MapError::Request(RequestError::NotWritten));
    assert_eq!((domain.mapped(), domain.quarantined()), (1, 0));
}

#[test]
fn an_unconfirmed_request_and_an_unconfirmed_reset_keep_all_memory() {
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

#[test]
fn requests_of_a_device_that_takes_its_time_are_all_confirmed() {
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
