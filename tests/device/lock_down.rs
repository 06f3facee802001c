//! The end of the bring-up: what endpoints can reach afterwards, whatever was there before
//! (§5.13.5).

use crate::each;
use crate::model::registers::Access as Register;
use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::feature;
use crate::model::unit::{Endpoint, Mapping};
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::rig::{self, ONE_WAIT, assert_clean, is_failed, start, try_start, try_start_with};
use virtio_iommu::{
    Bypass, DomainId, DomainRange, EndpointError, EndpointId, Options, RequestError, StartError,
    Status,
};
use xtask::conformance::{Oracle, proves};

#[test]
fn after_start_no_endpoint_of_the_list_reaches_memory() {
    let _proof = proves(Oracle::Model, &["DV-CFG-3"]);
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        let model = Model::new();
        assert_eq!(model.reads(PLAIN, 0x8000_0000), Some(0x8000_0000));
        let iommu = start(&model, &[PLAIN, OTHER]);
        assert_eq!(iommu.bypass(), Bypass::Locked);
        for id in [PLAIN, OTHER] {
            assert_eq!(model.domain_of(id), None);
            assert_eq!(model.reads(id, 0x8000_0000), None);
        }
        let listed: Vec<EndpointId> = iommu.endpoints().collect();
        assert_eq!(listed, [EndpointId(PLAIN), EndpointId(OTHER)]);
    }
}

#[test]
fn without_bypass_config_endpoints_stay_in_the_scratch_domain() {
    let _proof = proves(Oracle::Model, &["DN-CFG-1", "DV-CFG-3"]);
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::BYPASS_CONFIG);
        let iommu = start(&model, &[PLAIN, OTHER]);
        assert_eq!(iommu.bypass(), Bypass::NotConfigurable);
        let scratch = iommu.scratch_domain().0;
        for id in [PLAIN, OTHER] {
            assert_eq!(model.domain_of(id), Some(scratch));
            assert_eq!(model.reads(id, 0x8000_0000), None);
        }
        let writes = model.log().into_iter();
        let mut writes = writes.filter(|a| matches!(a, Register::ConfigWrite { .. }));
        assert_eq!(writes.next(), None);
        // And they come back there from a domain.
        let domain = rig::domain(&iommu, 4, &[PLAIN]);
        assert_eq!(model.domain_of(PLAIN), Some(domain.id().0));
        drop(domain);
        assert_eq!(model.domain_of(PLAIN), Some(scratch));
    }
}

#[test]
fn dn_init_2_probe_attach_detach_per_endpoint_in_this_order() {
    let _proof = proves(
        Oracle::Model,
        &[
            "DN-INIT-2",
            "DN-OPS-1",
            "DN-ATTACH-1",
            "DN-ATTACH-4",
            "DN-DETACH-1",
            "DN-PROBE-1",
            "DN-PROBE-2",
        ],
    );
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING, PLAIN, OTHER, OTHER]);
        let scratch = iommu.scratch_domain().0;
        let mut expected = Vec::new();
        for endpoint in [PLAIN, RESERVING, OTHER] {
            expected.push(Request::Probe { endpoint });
            expected.push(Request::Attach {
                domain: scratch,
                endpoint,
                flags: 0,
            });
            expected.push(Request::Detach {
                domain: scratch,
                endpoint,
            });
        }
        let mut requests = model.requests();
        // The id of the scratch domain is asked about before.
        requests.retain(|request| !rig::is_unmap(request));
        assert_eq!(requests, expected);
        assert_eq!(model.with(|d| d.unit.domains.len()), 0);
        drop(iommu);
    }
}

#[test]
fn an_empty_list_is_a_device_without_endpoints() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[]);
        assert_eq!(iommu.endpoints().count(), 0);
        assert_eq!(
            model.reads(PLAIN, 0x1000),
            None,
            "bypass is off all the same"
        );
    }
}

/// What an earlier driver left behind on a device like QEMU.
fn stale() -> Model {
    let model = Model::new();
    model.with(|d| {
        d.unit.quirks.state_outlives_reset = true;
        d.unit.quirks.reattach_drops_mappings = true;
        let mapping = Mapping {
            start: 0x1000,
            end: 0x1fff,
            phys: 0x8000_0000,
            flags: 3,
        };
        d.unit.endpoints.insert(0x77, Endpoint::default());
        // The first domain, the last one, one in the middle, and one with a stranger in it.
        d.unit.seed(PLAIN, 3, &[mapping]);
        d.unit.seed(OTHER, 40, &[mapping]);
        d.unit.seed(RESERVING, 20, &[mapping]);
        d.unit.seed(0x77, 4, &[mapping]);
    });
    model
}

#[test]
fn dv_rst_t_what_an_earlier_driver_left_is_scrubbed() {
    let _proof = proves(
        Oracle::Model,
        &["DV-RST-T", "DV-ATT-7", "DV-ATT-8", "DV-UNM-3"],
    );
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        let model = stale();
        let iommu = start(&model, &[PLAIN, OTHER, RESERVING]);
        for id in [PLAIN, OTHER, RESERVING] {
            assert_eq!(model.reads(id, 0x1000), None);
            assert_eq!(model.domain_of(id), None);
        }
        // No domain of ours is one that a stranger is in, and none starts with old mappings.
        let stranger = model.domain_of(0x77).unwrap();
        for id in [PLAIN, OTHER, RESERVING] {
            let domain = rig::domain(&iommu, 4, &[id]);
            assert_ne!(domain.id().0, stranger);
            assert_eq!(model.mappings(domain.id().0), Some(vec![]));
            assert_eq!(model.reads(id, 0x1000), None);
            std::mem::forget(domain);
        }
        // The forgotten domains keep their handles alive: the end is by hand.
        iommu.shutdown().unwrap();
    }
}

#[test]
fn a_device_is_started_twice_with_other_ids_and_endpoints() {
    let _proof = proves(Oracle::Model, &["DV-RST-T", "DV-CFG-4"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        model.with(|d| d.unit.quirks.state_outlives_reset = true);
        let first = start(&model, &[PLAIN, OTHER]);
        let domain = rig::domain(&first, 4, &[PLAIN, OTHER]);
        let page = rig::pages(&model, 1);
        let mapped = rig::map(&domain, page, rig::RW).unwrap();
        let at = mapped.start().0;
        assert_eq!(model.reads(PLAIN, at), Some(page.start().0));
        // The first driver ends without a DETACH, as one that crashed.
        std::mem::forget(domain);
        first.shutdown().unwrap();
        assert_eq!(model.reads(PLAIN, at), Some(page.start().0), "like QEMU");
        let mut options = Options::default();
        options.domain_ids = DomainRange::new(DomainId(10), DomainId(12));
        let second = try_start_with(&model, &[OTHER, PLAIN, RESERVING], options).unwrap();
        for id in [PLAIN, OTHER, RESERVING] {
            assert_eq!(model.reads(id, at), None);
        }
        assert_eq!(second.scratch_domain(), DomainId(12));
        let domains = [PLAIN, OTHER].map(|id| rig::domain(&second, 4, &[id]));
        assert_eq!(domains.each_ref().map(|d| d.id().0), [10, 11]);
        assert!(second.create_domain(1).is_err());
        assert_eq!(model.reads(PLAIN, at), None);
    }
}

/// How many requests a bring-up for these two endpoints sends.
fn requests_of_a_bring_up() -> usize {
    let model = Model::new();
    drop(start(&model, &[PLAIN, RESERVING]));
    model.request_count()
}

#[test]
fn needs_reset_instead_of_an_answer_to_each_request_of_the_bring_up() {
    let _proof = proves(Oracle::Model, &["GV-STAT-2", "GV-INIT-5"]);
    for _ in each!() {
        for k in 0..requests_of_a_bring_up() {
            let model = Model::new();
            model.script(move |seen| {
                if seen.number == k {
                    Answer::needs_reset()
                } else {
                    Answer::honest()
                }
            });
            let calls = model.clock().calls();
            let error = try_start(&model, &[PLAIN, RESERVING]).unwrap_err();
            assert!(model.clock().calls() - calls <= ONE_WAIT, "{k}: {error}");
            assert!(is_failed(&model), "{k}: {error}");
            assert_clean(&model);
        }
    }
}

#[test]
fn an_answer_that_never_comes_to_each_request_of_the_bring_up() {
    for _ in each!() {
        for k in 0..requests_of_a_bring_up() {
            let model = Model::new();
            model.script(move |seen| {
                if seen.number == k {
                    Answer::never()
                } else {
                    Answer::honest()
                }
            });
            let calls = model.clock().calls();
            let error = try_start(&model, &[PLAIN, RESERVING]).unwrap_err();
            assert!(
                model.clock().calls() - calls <= 2 * ONE_WAIT,
                "{k}: {error}"
            );
            assert!(is_failed(&model), "{k}: {error}");
            assert_clean(&model);
        }
    }
}

#[test]
fn every_failing_status_to_each_endpoint_request_of_the_bring_up() {
    let _proof = proves(Oracle::Model, &["GV-INIT-5", "DV-OPS-3"]);
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        type Kind = (fn(&Request) -> bool, fn(RequestError) -> EndpointError);
        let kinds: [Kind; 3] = [
            (rig::is_probe, EndpointError::Probe),
            (rig::is_attach, EndpointError::Scrub),
            (rig::is_detach, EndpointError::Scrub),
        ];
        for (kind, wrap) in kinds {
            for (code, status) in [
                (1, Status::IoErr),
                (2, Status::Unsupp),
                (3, Status::DevErr),
                (4, Status::Inval),
                (5, Status::Range),
                (6, Status::NoEnt),
                (7, Status::Fault),
                (8, Status::NoMem),
                (9, Status::Unknown(9)),
                (0x80, Status::Unknown(0x80)),
            ] {
                let model = Model::new();
                model.answer_once(kind, Answer::status(code));
                let error = try_start(&model, &[PLAIN]).unwrap_err();
                assert_eq!(
                    error,
                    StartError::Endpoint {
                        endpoint: EndpointId(PLAIN),
                        error: wrap(RequestError::Status(status)),
                    }
                );
                assert!(is_failed(&model));
                assert_clean(&model);
            }
        }
    }
}

#[test]
fn dv_prb_2_an_endpoint_that_does_not_exist() {
    let _proof = proves(Oracle::Model, &["DV-PRB-2"]);
    for _ in each!(but[(CloudHypervisor, "every endpoint exists")]) {
        let model = Model::new();
        let error = try_start(&model, &[PLAIN, 0x999]).unwrap_err();
        assert_eq!(
            error,
            StartError::Endpoint {
                endpoint: EndpointId(0x999),
                error: EndpointError::Probe(RequestError::Status(Status::NoEnt)),
            }
        );
        assert!(is_failed(&model));
    }
}
