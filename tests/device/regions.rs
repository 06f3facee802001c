//! Reserved regions of several endpoints in one domain (§5.13.6.8).

use crate::each;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::model::unit::Region;
use crate::model::{Model, PLAIN, REGIONS, RESERVING};
use crate::rig::{self, GRANULE, RW, domain, endpoint, iova, map_at, phys, start};
use virtio_iommu::MapError;
use xtask::conformance::{Oracle, proves};

#[test]
fn dn_resv_1_regions_of_two_endpoints_that_overlap_are_both_kept_free() {
    let _proof = proves(Oracle::Ret, &["DN-RESV-1"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        model.with(|d| {
            let endpoints = &mut d.unit.endpoints;
            let large = vec![Region::reserved(0x10_0000, 0x1f_ffff)];
            endpoints.get_mut(&PLAIN).unwrap().regions = large;
            let small = vec![Region::reserved(0x14_0000, 0x14_ffff)];
            endpoints.get_mut(&RESERVING).unwrap().regions = small;
        });
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let domain = domain(&iommu, 8, &[PLAIN, RESERVING]);
        for at in [0x10_0000, 0x14_0000, 0x15_0000, 0x1f_f000] {
            let work = || map_at(&domain, at, phys(0x1_0000, GRANULE), RW);
            let (result, requests) = model.requests_during(work);
            assert_eq!(result, Err(MapError::Reserved(iova(0x10_0000, 0x10_0000))));
            assert_eq!(requests, []);
        }
    }
}

#[test]
fn what_was_given_up_in_a_region_keeps_no_endpoint_out() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let inside = REGIONS[1].start + 0x3000;
        let at = map_at(&domain, inside, phys(0x1_0000, GRANULE), RW).unwrap();
        // The device has unmapped it, and the driver cannot know.
        model.answer_once(rig::is_unmap, Answer::done_but_status(status::DEVERR));
        domain.unmap(at).unwrap_err();
        assert_eq!(domain.quarantined(), 1);
        domain.attach(endpoint(RESERVING)).unwrap();
    }
}
