//! Neighbours that end together, and what is between them (§5.13.6.6).

use crate::each;
use crate::model::{Model, PLAIN};
use crate::rig::{GRANULE, RW, TestDomain, domain, is_unmap, map_at, phys, start};
use virtio_iommu::IovaRange;
use xtask::conformance::{Oracle, proves};

/// A mapping of one granule at a place, which leads to the memory of the same number.
fn at(domain: &TestDomain, place: u64) -> IovaRange {
    let offset = place * GRANULE;
    let memory = phys(0x40_0000 + offset, GRANULE);
    map_at(domain, 0x10_0000 + offset, memory, RW).unwrap()
}

#[test]
fn dn_unmap_2_what_is_in_the_hole_between_two_neighbours_stays() {
    let _proof = proves(Oracle::Model, &["DN-UNMAP-2"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let [below, between, above] = [0, 1, 2].map(|place| at(&domain, place));
        for ends in [[below, above], [above, below]] {
            domain.unmap_all(&ends).unwrap();
            assert_eq!(domain.mapped(), 1);
            let leads_to = model.reads(PLAIN, between.start().0);
            assert_eq!(leads_to, Some(0x40_0000 + GRANULE));
            assert_eq!([at(&domain, 0), at(&domain, 2)], [below, above]);
        }
    }
}

#[test]
fn neighbours_end_with_one_request_with_a_hole_between_them_and_without() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        for (places, count) in [([0, 1], 1), ([0, 2], 1), ([0, 3], 2)] {
            let ends = places.map(|place| at(&domain, place));
            let (result, sent) = model.requests_during(|| domain.unmap_all(&ends));
            assert_eq!(result, Ok(()));
            assert!(sent.iter().all(is_unmap));
            assert_eq!(sent.len(), count, "{places:?}");
            assert_eq!(model.mappings(domain.id().0), Some(vec![]));
        }
    }
}
