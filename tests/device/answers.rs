//! What the driver makes of answers that are wrong, or lies.

use crate::bench::{Bench, quarantined};
use crate::each;
use crate::model::script::{Answer, Effect, Id};
use crate::model::spec::{feature, status};
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{self, GRANULE, RW, domain, endpoint, map, map_at, pages, start};
use virtio_iommu::{AttachError, IovaRange, MapError, RequestError, Status, UnmapError};
use xtask::conformance::{Oracle, proves};

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

#[test]
fn every_failing_status_of_a_map() {
    let _proof = proves(Oracle::Model, &["DV-OPS-3"]);
    for _ in each!() {
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
}

#[test]
fn every_failing_status_of_an_unmap_quarantines() {
    let _proof = proves(Oracle::Model, &["DV-OPS-3", "DV-UNM-6"]);
    for _ in each!() {
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
}

#[test]
fn every_failing_status_of_an_attach_and_a_detach() {
    let _proof = proves(Oracle::Model, &["DV-OPS-3", "DV-DET-2", "DV-DET-3"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        for (code, expected) in STATUSES {
            let bench = Bench::new();
            let refused = AttachError::Request(RequestError::Status(expected));
            bench
                .model
                .answer_once(rig::is_attach, Answer::status(code));
            let error = bench.domain.attach(endpoint(OTHER)).unwrap_err();
            assert_eq!(error, refused);
            assert_eq!(bench.model.domain_of(OTHER), None);
            bench.domain.attach(endpoint(OTHER)).unwrap();
            bench
                .model
                .answer_once(rig::is_detach, Answer::status(code));
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
}

#[test]
fn dn_ops_3_used_length_0_is_a_failure() {
    let _proof = proves(Oracle::Model, &["DN-OPS-3", "DV-OPS-2"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
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
}

#[test]
fn dn_ops_3_a_status_that_the_used_length_does_not_cover_is_not_read() {
    let _proof = proves(Oracle::Model, &["DN-OPS-3", "GV-VQ-5"]);
    for _ in each!() {
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
}

#[test]
fn dn_ops_2_rubbish_behind_the_status_changes_nothing() {
    let _proof = proves(Oracle::Model, &["DN-OPS-2", "DV-OPS-5"]);
    for _ in each!() {
        let model = Model::new();
        model.script(|_| Answer::honest().with_reserved([0xff, 0x80, 1]));
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap();
        assert!(model.reads(PLAIN, at.start().0).is_some());
        domain.unmap(at).unwrap();
        domain.detach(endpoint(PLAIN)).unwrap();
    }
}

#[test]
fn gv_vq_5_a_map_that_is_not_clearly_answered_is_quarantined() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
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
}

#[test]
fn gv_vq_5_an_unmap_that_is_not_clearly_answered_is_quarantined() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
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
}

#[test]
fn gv_vq_5_an_attach_that_is_not_clearly_answered_counts_as_attached() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
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
}

#[test]
fn gv_vq_5_a_detach_that_is_not_clearly_answered_leaves_the_endpoint_attached() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
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
}

#[test]
fn gv_vq_3_used_entries_for_nobody_stop_the_device_and_nothing_panics() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
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
}

#[test]
fn an_answer_that_comes_twice_confirms_nothing_else() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
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
}

#[test]
fn an_answer_under_the_name_of_another_request_in_flight() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!() {
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
}

#[test]
fn mappings_that_cannot_be_restored_leave_the_endpoint_detached() {
    let _proof = proves(Oracle::Model, &["DV-MAP-4"]);
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
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
}

#[test]
fn unsupp_for_an_endpoint_that_moves_is_answered_with_a_detach() {
    let _proof = proves(Oracle::Model, &["DV-ATT-9"]);
    for _ in each!(but [(Qemu, "moves endpoints"), (CloudHypervisor, "moves endpoints")]) {
        // §5.13.6.3.2: a device that cannot detach implicitly; endpoints rest in the scratch domain.
        let model = Model::new();
        model.with(|d| {
            d.knobs.offered &= !feature::BYPASS_CONFIG;
            d.unit.quirks.no_implicit_detach = true;
        });
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        assert_eq!(model.domain_of(PLAIN), Some(domain.id().0));
        domain.detach(endpoint(PLAIN)).unwrap();
        let scratch = iommu.scratch_domain().0;
        assert_eq!(model.domain_of(PLAIN), Some(scratch));
    }
}

#[test]
fn dv_att_4_a_device_with_one_endpoint_per_domain_says_so() {
    let _proof = proves(Oracle::Model, &["DV-ATT-5"]);
    for _ in each!(but[(CloudHypervisor, "refusals have used length 0")]) {
        // Endpoints rest in a domain, or nowhere; what is refused may have left where it was.
        for (rests, leaves) in [(false, false), (true, false), (true, true)] {
            let model = Model::new();
            model.with(|d| {
                d.unit.quirks.endpoints_per_domain = Some(1);
                d.unit.quirks.refused_attach_detaches |= leaves;
                if rests {
                    d.knobs.offered &= !feature::BYPASS_CONFIG;
                }
            });
            let iommu = start(&model, &[PLAIN, OTHER]);
            let domain = domain(&iommu, 4, &[PLAIN]);
            let error = domain.attach(endpoint(OTHER)).unwrap_err();
            let expected = AttachError::Request(RequestError::Status(Status::Unsupp));
            assert_eq!(error, expected, "{rests} {leaves}");
            assert_eq!(domain.endpoints(), 1);
            assert_ne!(model.domain_of(OTHER), Some(domain.id().0));
            rig::domain(&iommu, 4, &[OTHER]);
        }
    }
}

#[test]
fn refusals_with_length_zero_are_failures_and_not_successes() {
    let _proof = proves(Oracle::Model, &["DN-OPS-3"]);
    for _ in each!() {
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
}
