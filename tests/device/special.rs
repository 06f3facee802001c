//! Domains in which drivers map nothing: blocked, identity, bypass.

use crate::each;
use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::{feature, status};
use crate::model::unit::Access::Write;
use crate::model::unit::Landing;
use crate::model::{Model, OTHER, PLAIN, REGIONS, RESERVING};
use crate::rig::{self, GRANULE, RW, assert_clean, endpoint, phys, start, try_start};
use virtio_iommu::{
    Access, AttachError, CreateError, IdentityDomain, Iova, MapError, PhysRange, RequestError,
};
use xtask::conformance::{Oracle, proves};

type Identity = IdentityDomain<crate::model::platform::ModelPlatform>;

fn identity(iommu: &rig::TestIommu, ranges: &[PhysRange], access: Access) -> Identity {
    // SAFETY: the memory belongs to the model, whose endpoints are functions of the test.
    unsafe { iommu.create_identity_domain(ranges, access) }.unwrap()
}

/// Addresses around the edges of some places.
fn around(places: &[u64]) -> impl Iterator<Item = u64> {
    let near = places
        .iter()
        .flat_map(|at| [at.wrapping_sub(GRANULE), at.wrapping_sub(1), *at, at + 1]);
    near.collect::<Vec<_>>().into_iter()
}

#[test]
fn a_blocked_endpoint_reaches_nothing_but_its_messages() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let blocked = iommu.create_blocked_domain().unwrap();
        for id in [PLAIN, RESERVING] {
            blocked.attach(endpoint(id)).unwrap();
        }
        assert_eq!(blocked.endpoints(), 2);
        assert_eq!(model.mappings(blocked.id().0), Some(vec![]));
        for at in around(&[0x1000, 0x10_0000, REGIONS[0].start, 1 << 40]) {
            assert_eq!(
                (model.reads(PLAIN, at), model.writes(PLAIN, at)),
                (None, None)
            );
            assert_eq!(model.reads(RESERVING, at), None, "{at:#x}");
        }
        let message = REGIONS[1].start;
        let rings = model.with(|d| d.translate(RESERVING, message, Write));
        assert_eq!(rings.ok(), Some(Landing::Doorbell));
        blocked.detach(endpoint(PLAIN)).unwrap();
        assert_eq!(blocked.endpoints(), 1);
        drop((blocked, iommu));
        assert_clean(&model);
    }
}

#[test]
fn an_identity_domain_has_its_ranges_and_no_reserved_region() {
    let _proof = proves(Oracle::Model, &["DN-RESV-1"]);
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "access flags are ignored")])
    {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let (hole, messages) = (REGIONS[0], REGIONS[1]);
        // Page 0, both regions, and the last address of the device are cut out.
        let ranges = [phys(0, 0x1000_0000), phys(0x4000_0000, 3 * GRANULE)];
        let identity = identity(&iommu, &ranges, Access::READ);
        identity.attach(endpoint(RESERVING)).unwrap();
        identity.attach(endpoint(PLAIN)).unwrap();
        let wanted = |at: u64| {
            let inside = ranges
                .iter()
                .any(|r| r.contains(virtio_iommu::PhysAddr(at)));
            let cut = |start, end| (start..=end).contains(&at);
            inside
                && at >= GRANULE
                && !cut(hole.start, hole.end)
                && !cut(messages.start, messages.end)
        };
        let places = [
            0,
            GRANULE,
            hole.start,
            hole.end + 1,
            messages.start,
            messages.end + 1,
            0x1000_0000,
            0x4000_0000,
            0x4000_0000 + 3 * GRANULE,
        ];
        for at in around(&places) {
            let expected = wanted(at).then_some(at);
            assert_eq!(model.reads(PLAIN, at), expected, "{at:#x}");
            assert_eq!(model.writes(PLAIN, at), None, "{at:#x}");
            let seen = identity.translate(Iova(at)).map(|(phys, _)| phys.0);
            assert_eq!(seen, expected, "{at:#x}");
        }
        let id = identity.id().0;
        identity.detach(endpoint(RESERVING)).unwrap();
        identity.detach(endpoint(PLAIN)).unwrap();
        assert_eq!(model.mappings(id), None);
        // The mappings come back with the next endpoint.
        identity.attach(endpoint(PLAIN)).unwrap();
        assert_eq!(model.reads(PLAIN, 0x4000_0000), Some(0x4000_0000));
        drop((identity, iommu));
        assert_clean(&model);
    }
}

#[test]
fn an_endpoint_whose_regions_are_mapped_already_is_refused() {
    let _proof = proves(Oracle::Model, &["DV-ATT-11"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let identity = identity(&iommu, &[phys(0, 0x1000_0000)], RW);
        identity.attach(endpoint(PLAIN)).unwrap();
        let refused = identity.attach(endpoint(RESERVING));
        assert!(
            matches!(refused, Err(AttachError::Conflict { .. })),
            "{refused:?}"
        );
        assert_eq!(identity.endpoints(), 1);
        assert_eq!(model.writes(RESERVING, 0x10_0000), None);
    }
}

#[test]
fn an_identity_domain_that_cannot_be_mapped_has_no_endpoint() {
    for _ in each!() {
        for answer in [Answer::status(status::NOMEM), Answer::unwritten()] {
            let model = Model::new();
            let iommu = start(&model, &[PLAIN]);
            let ranges = [phys(0x10_0000, GRANULE), phys(0x20_0000, GRANULE)];
            let identity = identity(&iommu, &ranges, RW);
            model.answer_once(
                |r| matches!(r, Request::Map { start, .. } if *start == 0x20_0000),
                answer,
            );
            let refused = identity.attach(endpoint(PLAIN));
            assert!(
                matches!(refused, Err(AttachError::Identity(MapError::Request(_)))),
                "{refused:?}"
            );
            assert_eq!(identity.endpoints(), 0);
            assert_eq!(model.reads(PLAIN, 0x10_0000), None);
            // Another time it works.
            identity.attach(endpoint(PLAIN)).unwrap();
            assert_eq!(model.reads(PLAIN, 0x10_0000), Some(0x10_0000));
            assert_eq!(model.reads(PLAIN, 0x20_0000), Some(0x20_0000));
            drop((identity, iommu));
            assert_clean(&model);
        }
    }
}

#[test]
fn a_bypassing_endpoint_reaches_everything_until_it_is_detached() {
    let _proof = proves(Oracle::Model, &["DN-ATTACH-3", "DN-MAP-2", "DN-UNMAP-6"]);
    for _ in each!(but[(Crosvm, "no BYPASS_CONFIG")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let bypass = iommu.create_bypass_domain().unwrap();
        // SAFETY: the endpoint is a function of the test.
        unsafe { bypass.attach(endpoint(PLAIN)) }.unwrap();
        for at in around(&[0x1000, 0x10_0000, 1 << 40]) {
            assert_eq!(model.reads(PLAIN, at), Some(at));
            assert_eq!(model.writes(PLAIN, at), Some(at));
            assert_eq!(model.reads(OTHER, at), None);
        }
        bypass.detach(endpoint(PLAIN)).unwrap();
        assert_eq!(model.reads(PLAIN, 0x10_0000), None);
        drop((bypass, iommu));
        assert_clean(&model);
    }
}

#[test]
fn a_bypass_domain_that_was_not_confirmed_is_not_emptied_by_an_unmap() {
    let _proof = proves(Oracle::Model, &["DN-UNMAP-6"]);
    for _ in each!(but[(Crosvm, "no BYPASS_CONFIG")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let bypass = iommu.create_bypass_domain().unwrap();
        model.answer_once(rig::is_attach, Answer::done_never_told());
        // SAFETY: the endpoint is a function of the test.
        let unsure = unsafe { bypass.attach(endpoint(PLAIN)) };
        assert_eq!(unsure, Err(AttachError::Request(RequestError::Unconfirmed)));
        assert_eq!(bypass.endpoints(), 1);
        let unmaps = |model: &Model| {
            model.with(|d| d.seen.iter().filter(|s| rig::is_unmap(&s.request)).count())
        };
        let before = unmaps(&model);
        let _ = bypass.detach(endpoint(PLAIN));
        assert_eq!(unmaps(&model), before);
    }
}

#[test]
fn without_bypass_config_there_are_no_bypass_domains() {
    let _proof = proves(Oracle::Ret, &["DN-ATTACH-T1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::BYPASS_CONFIG);
        let iommu = try_start(&model, &[PLAIN]).unwrap();
        let refused = iommu.create_bypass_domain().unwrap_err();
        assert_eq!(refused, CreateError::BypassUnsupported);
        // A blocked one there is.
        let blocked = iommu.create_blocked_domain().unwrap();
        blocked.attach(endpoint(PLAIN)).unwrap();
        assert_eq!(model.reads(PLAIN, 0x10_0000), None);
    }
}

#[test]
fn an_identity_domain_leaves_out_what_is_no_whole_granule() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let ranges = [
            phys(0x10_0000, GRANULE + 0x800),
            phys(0x20_0800, 0x800),
            phys(0x30_0000, GRANULE),
        ];
        let domain = identity(&iommu, &ranges, RW);
        domain.attach(endpoint(PLAIN)).unwrap();
        let reached = ranges.map(|range| model.reads(PLAIN, range.end().0));
        assert_eq!(reached, [None, None, Some(0x30_0fff)]);
    }
}

#[test]
fn an_identity_domain_has_no_second_endpoint_before_it_is_mapped() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        model.clock().for_threads();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = identity(&iommu, &[phys(0x10_0000, GRANULE)], RW);
        model.answer_once(rig::is_map, Answer::late());
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| domain.attach(endpoint(PLAIN)));
            while model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            assert_eq!(domain.attach(endpoint(OTHER)), Err(AttachError::Busy));
            model.with(|d| d.release(1));
            attaching.join().unwrap().unwrap();
        });
        domain.attach(endpoint(OTHER)).unwrap();
        assert_eq!(model.reads(OTHER, 0x10_0000), Some(0x10_0000));
    }
}
