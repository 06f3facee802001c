//! Doorbells of message-signalled interrupts: bypassed, mapped once, shared, refused.

use crate::each;
use crate::model::spec::{MAP_F_MMIO, MAP_F_WRITE, feature};
use crate::model::unit::Mapping;
use crate::model::{Model, OTHER, PLAIN, REGIONS, RESERVING};
use crate::rig::{GRANULE, TestDomain, domain, iova, is_unmap, ring_below, start};
use virtio_iommu::{Doorbell, DoorbellError, Iova, MapError, PhysAddr, RequestError, UnmapError};
use xtask::conformance::{Oracle, proves};

/// In no region of anybody.
const DOORBELL: u64 = 0x2800_0040;
const ANYWHERE: Iova = Iova(u64::MAX);

fn ring(domain: &TestDomain, id: u32, doorbell: u64) -> Result<Doorbell, DoorbellError> {
    ring_below(domain, id, doorbell, ANYWHERE)
}

#[test]
fn dn_resv_t1_a_doorbell_outside_of_msi_regions_is_mapped_for_writing() {
    let _proof = proves(Oracle::Model, &["DN-RESV-T1", "DN-MAP-4"]);
    for _ in each!(but [(Crosvm, "WRITE implies READ"), (CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let limit = Iova(0x0fff_ffff);
        let doorbell = ring_below(&domain, PLAIN, DOORBELL, limit).unwrap();
        let address = doorbell.address();
        assert!(address <= limit.0);
        assert_eq!(model.writes(PLAIN, address), Some(DOORBELL));
        assert_eq!(model.reads(PLAIN, address), None);
        let start = address & !(GRANULE - 1);
        let expected = Mapping {
            start,
            end: start + GRANULE - 1,
            phys: DOORBELL & !(GRANULE - 1),
            flags: MAP_F_WRITE | MAP_F_MMIO,
        };
        assert_eq!(model.mappings(domain.id().0), Some(vec![expected]));
        domain.unmap_doorbell(doorbell).unwrap();
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
    }
}

#[test]
fn a_doorbell_in_an_msi_region_needs_no_request() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[RESERVING]);
        let domain = domain(&iommu, 4, &[RESERVING]);
        for address in [REGIONS[1].start, REGIONS[1].end & !3] {
            let (doorbell, sent) = model.requests_during(|| ring(&domain, RESERVING, address));
            let doorbell = doorbell.unwrap();
            assert_eq!(doorbell, Doorbell::Bypass(PhysAddr(address)));
            assert_eq!(doorbell.address(), address);
            assert_eq!(sent, []);
            domain.unmap_doorbell(doorbell).unwrap();
        }
    }
}

#[test]
fn a_doorbell_in_a_reserved_region_is_refused() {
    let _proof = proves(Oracle::Model, &["DN-RESV-1"]);
    for _ in each!(but [(Crosvm, "PROBE has room for one region"), (CloudHypervisor, "PROBE has room for one region")])
    {
        let model = Model::new();
        let iommu = start(&model, &[RESERVING, PLAIN]);
        let domain = domain(&iommu, 4, &[RESERVING, PLAIN]);
        let region = iova(REGIONS[0].start, REGIONS[0].end - REGIONS[0].start + 1);
        for address in [REGIONS[0].start, REGIONS[0].end & !3] {
            assert_eq!(
                ring(&domain, RESERVING, address),
                Err(DoorbellError::Reserved(region))
            );
        }
        // The other endpoint has no such region.
        let doorbell = ring(&domain, PLAIN, REGIONS[0].start).unwrap();
        assert_eq!(
            model.writes(PLAIN, doorbell.address()),
            Some(REGIONS[0].start)
        );
        domain.unmap_doorbell(doorbell).unwrap();
    }
}

#[test]
fn dn_map_7_without_mmio_there_is_no_way() {
    let _proof = proves(Oracle::Ret, &["DN-MAP-7"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::MMIO);
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let (result, sent) = model.requests_during(|| ring(&domain, PLAIN, DOORBELL));
        assert_eq!(result, Err(DoorbellError::Map(MapError::MmioUnsupported)));
        assert_eq!(sent, []);
    }
}

#[test]
fn one_mapping_serves_all_until_the_last_one_leaves() {
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN, OTHER]);
        let first = ring(&domain, PLAIN, DOORBELL).unwrap();
        let (second, sent) = model.requests_during(|| ring(&domain, OTHER, DOORBELL + 0x100));
        let second = second.unwrap();
        assert_eq!(sent, []);
        assert_eq!(second.address(), first.address() + 0x100);
        assert_eq!(domain.mapped(), 1);

        let (result, sent) = model.requests_during(|| domain.unmap_doorbell(first));
        assert_eq!((result, sent.len()), (Ok(()), 0));
        assert_eq!(
            model.writes(OTHER, second.address()),
            Some(DOORBELL + 0x100)
        );
        let (result, sent) = model.requests_during(|| domain.unmap_doorbell(second));
        assert_eq!(result, Ok(()));
        assert!(matches!(&sent[..], [request] if is_unmap(request)));
        assert_eq!(domain.mapped(), 0);
    }
}

#[test]
fn a_limit_that_the_shared_mapping_does_not_meet_gets_its_own() {
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN, OTHER]);
        let high = ring(&domain, PLAIN, DOORBELL).unwrap();
        let low = ring_below(&domain, OTHER, DOORBELL, Iova(0xffff_ffff)).unwrap();
        assert!(high.address() > 0xffff_ffff && low.address() <= 0xffff_ffff);
        assert_eq!(domain.mapped(), 2);
        domain.unmap_doorbell(high).unwrap();
        assert_eq!(model.writes(OTHER, low.address()), Some(DOORBELL));
        domain.unmap_doorbell(low).unwrap();
        assert_eq!(domain.mapped(), 0);
    }
}

#[test]
fn a_limit_that_the_shared_mapping_just_meets_needs_no_other() {
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN, OTHER]);
        let first = ring(&domain, PLAIN, DOORBELL).unwrap();
        let last = Iova(first.address() | (GRANULE - 1));
        let second = ring_below(&domain, OTHER, DOORBELL, last).unwrap();
        assert_eq!(second.address(), first.address());
        assert_eq!(domain.mapped(), 1);
    }
}

#[test]
fn two_doorbells_are_two_mappings_and_end_one_by_one() {
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let first = ring(&domain, PLAIN, DOORBELL).unwrap();
        let second = ring(&domain, PLAIN, DOORBELL + GRANULE).unwrap();
        let address = second.address();
        domain.unmap_doorbell(second).unwrap();
        assert_eq!(model.writes(PLAIN, first.address()), Some(DOORBELL));
        assert_eq!(model.writes(PLAIN, address), None);
    }
}

#[test]
fn doorbells_are_not_unmapped_like_memory_nor_by_others() {
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let one = domain(&iommu, 4, &[PLAIN]);
        let two = domain(&iommu, 4, &[OTHER]);
        assert_eq!(ring(&one, OTHER, DOORBELL), Err(DoorbellError::NotAttached));
        let doorbell = ring(&one, PLAIN, DOORBELL).unwrap();
        let address = doorbell.address();
        let range = iova(address & !(GRANULE - 1), GRANULE);
        assert_eq!(one.unmap(range), Err(UnmapError::NotMapped(range)));
        let stolen = Doorbell::Mapped(Iova(address));
        assert_eq!(
            two.unmap_doorbell(stolen),
            Err(UnmapError::NotMapped(iova(address, 1)))
        );
        assert_eq!(model.writes(PLAIN, address), Some(DOORBELL));
        one.unmap_doorbell(doorbell).unwrap();
    }
}

#[test]
fn an_unconfirmed_end_quarantines_the_doorbell() {
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let doorbell = ring(&domain, PLAIN, DOORBELL).unwrap();
        let address = doorbell.address();
        model.answer_once(is_unmap, crate::model::script::Answer::never());
        assert_eq!(
            domain.unmap_doorbell(doorbell),
            Err(UnmapError::Quarantined(RequestError::Unconfirmed))
        );
        assert_eq!(domain.quarantined(), 1);
        model.honest();
        let again = ring(&domain, PLAIN, DOORBELL).unwrap();
        assert_ne!(again.address(), address);
        domain.unmap_doorbell(again).unwrap();
    }
}
