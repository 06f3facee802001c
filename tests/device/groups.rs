//! Isolation groups: endpoints that cannot be told apart move together (§5.13.6.3.1).

use crate::each;
use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN, REGIONS, RESERVING};
use crate::rig::{
    self, GRANULE, RW, TestIommu, assert_clean, domain, endpoint, is_failed, map, map_at, phys,
    start, try_start_with,
};
use virtio_iommu::{AttachError, EndpointId, MapError, Options, RequestError, StartError, Status};
use xtask::conformance::{Oracle, proves};

const A: EndpointId = EndpointId(PLAIN);
const B: EndpointId = EndpointId(OTHER);
const C: EndpointId = EndpointId(RESERVING);

fn grouped(model: &Model, groups: &[&[EndpointId]]) -> Result<TestIommu, StartError> {
    let mut options = Options::default();
    options.groups = groups;
    try_start_with(model, &[PLAIN, OTHER, RESERVING], options)
}

#[test]
fn dn_attach_2_a_group_is_attached_and_detached_as_a_whole() {
    let _proof = proves(Oracle::Ret, &["DN-ATTACH-2"]).and(Oracle::Model, &["DN-ATTACH-2"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = grouped(&model, &[&[A, B]]).unwrap();
        let one = iommu.create_domain(4).unwrap();
        let two = iommu.create_domain(4).unwrap();
        one.attach(B).unwrap();
        for id in [PLAIN, OTHER] {
            assert_eq!(model.domain_of(id), Some(one.id().0));
        }
        assert_eq!(model.domain_of(RESERVING), None);
        assert_eq!(one.endpoints(), 2);
        let (result, requests) = model.requests_during(|| two.attach(A));
        assert_eq!(result, Err(AttachError::Attached(one.id())));
        assert!(requests.is_empty());
        let at = map(&one, phys(0x1_0000, GRANULE), RW).unwrap().start().0;
        assert_eq!(model.reads(PLAIN, at), Some(0x1_0000));
        assert_eq!(model.reads(OTHER, at), Some(0x1_0000));
        one.detach(A).unwrap();
        for id in [PLAIN, OTHER] {
            assert_eq!(model.domain_of(id), None);
        }
        assert_eq!(one.endpoints(), 0);
        // And its mappings go with it, and come back.
        one.attach(A).unwrap();
        assert_eq!(model.reads(OTHER, at), Some(0x1_0000));
    }
}

#[test]
fn dn_attach_2_a_group_that_is_refused_half_way_is_not_attached() {
    let _proof = proves(Oracle::Model, &["DN-ATTACH-2"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        for refused in [PLAIN, OTHER] {
            let model = Model::new();
            let iommu = grouped(&model, &[&[A, B]]).unwrap();
            let domain = iommu.create_domain(4).unwrap();
            model.answer_once(
                move |r| matches!(r, Request::Attach { endpoint, .. } if *endpoint == refused),
                Answer::status(status::NOMEM),
            );
            let error = domain.attach(A).unwrap_err();
            let expected = AttachError::Request(RequestError::Status(Status::NoMem));
            assert_eq!(error, expected);
            assert_eq!(domain.endpoints(), 0);
            for id in [PLAIN, OTHER] {
                assert_eq!(model.domain_of(id), None);
            }
            rig::domain(&iommu, 4, &[OTHER]);
        }
    }
}

#[test]
fn a_group_of_which_one_stays_counts_as_attached() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = grouped(&model, &[&[A, B]]).unwrap();
        let domain = domain(&iommu, 4, &[PLAIN]);
        model.answer_once(
            |r| {
                matches!(
                    r,
                    Request::Detach {
                        endpoint: OTHER,
                        ..
                    }
                )
            },
            Answer::status(status::DEVERR),
        );
        let error = domain.detach(A).unwrap_err();
        let expected = AttachError::Request(RequestError::Status(Status::DevErr));
        assert_eq!(error, expected);
        assert_eq!(domain.endpoints(), 2);
        let other = iommu.create_domain(4).unwrap();
        let owner = AttachError::Attached(domain.id());
        assert_eq!(other.attach(A), Err(owner));
        assert_eq!(other.attach(B), Err(owner));
        domain.detach(B).unwrap();
        assert_eq!(model.domain_of(OTHER), None);
        other.attach(B).unwrap();
    }
}

#[test]
fn dn_resv_1_the_regions_of_every_member_are_honoured() {
    let _proof = proves(Oracle::Ret, &["DN-RESV-1", "DV-ATT-10"]);
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "PROBE has room for one region")])
    {
        let model = Model::new();
        let iommu = grouped(&model, &[&[A, C]]).unwrap();
        let domain = domain(&iommu, 4, &[PLAIN]);
        let (result, requests) =
            model.requests_during(|| map_at(&domain, REGIONS[0].start, phys(0, GRANULE), RW));
        assert!(matches!(result, Err(MapError::Reserved(_))), "{result:?}");
        assert!(requests.is_empty());
    }
}

#[test]
fn groups_that_make_no_sense() {
    for _ in each!() {
        let stranger = EndpointId(0x999);
        let cases: [(&[&[EndpointId]], EndpointId); 3] = [
            (&[&[A, stranger]], stranger),
            (&[&[A, B], &[B, C]], B),
            (&[&[A, B], &[C, A]], A),
        ];
        for (groups, culprit) in cases {
            let model = Model::new();
            let error = grouped(&model, groups).unwrap_err();
            assert_eq!(error, StartError::Group(culprit));
            assert!(is_failed(&model));
            assert_clean(&model);
        }
        // An empty group and one of one are groups.
        let model = Model::new();
        let iommu = grouped(&model, &[&[], &[C], &[A, B]]).unwrap();
        assert_eq!(domain(&iommu, 1, &[RESERVING]).endpoints(), 1);
    }
}

#[test]
fn without_groups_every_endpoint_is_alone() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 1, &[PLAIN]);
        assert_eq!(domain.endpoints(), 1);
        assert_eq!(
            domain.detach(endpoint(OTHER)),
            Err(AttachError::NotAttached)
        );
    }
}
