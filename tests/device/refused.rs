//! What is refused, and never reaches the device.

use crate::each;
use crate::model::spec::feature;
use crate::model::{Model, OTHER, PLAIN, REGIONS, RESERVING};
use crate::rig::{
    GRANULE, RW, domain, endpoint, iova, map, map_all, map_at, map_with, phys, prepared, start,
};
use virtio_iommu::{
    Access, AttachError, CreateError, Iova, IovaRange, MapError, MapOptions, UnmapError,
};
use xtask::conformance::{Oracle, proves};

/// Something that has to be refused before anything is sent.
fn nothing_sent<T, E: PartialEq + std::fmt::Debug>(
    model: &Model,
    work: impl FnOnce() -> Result<T, E>,
    expected: E,
) {
    let accesses = model.with(|d| d.registers.accesses);
    let (result, requests) = model.requests_during(work);
    match result {
        Ok(_) => panic!("not refused, but expected: {expected:?}"),
        Err(error) => assert_eq!(error, expected),
    }
    assert_eq!(requests, []);
    let after = model.with(|d| d.registers.accesses);
    assert_eq!(after, accesses, "registers touched: {expected:?}");
}

#[test]
fn dn_map_3_an_inverted_range_never_reaches_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-MAP-3"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.config.input_range = (0, u64::MAX));
        let (_iommu, domain) = prepared(&model);
        // It would wrap, and end below its start.
        let two = phys(0x1_0000, 2 * GRANULE);
        let work = || map_at(&domain, u64::MAX - 0xfff, two, RW);
        nothing_sent(&model, work, MapError::OutOfRange);
        assert_eq!(IovaRange::new(Iova(1), Iova(0)), None);
    }
}

#[test]
fn dn_ops_4_addresses_outside_the_input_range_never_reach_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-OPS-4"]);
    for _ in each!() {
        let model = Model::new().narrow();
        let (_iommu, domain) = prepared(&model);
        let last = 0xff_ffff_f000;
        for (at, pages) in [
            (0, 1),
            (0, 2),
            (last, 2),
            (last + GRANULE, 1),
            (1 << 40, 1),
            (1 << 63, 1),
            (!0xfff, 1),
        ] {
            let memory = phys(0x1_0000, pages * GRANULE);
            let work = || map_at(&domain, at, memory, RW);
            nothing_sent(&model, work, MapError::OutOfRange);
        }
        // The first page of this device, and the last but one.
        map_at(&domain, 0x1000, phys(0x1_0000, GRANULE), RW).unwrap();
        map_at(&domain, last - GRANULE, phys(0x1_0000, GRANULE), RW).unwrap();
    }
}

#[test]
fn the_pages_at_both_ends_of_the_space_are_never_handed_out() {
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.config.input_range = (0, 0x7fff));
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 64, &[PLAIN]);
        let memory = phys(0x1_0000, GRANULE);
        for at in [0, 0x7000] {
            let work = || map_at(&domain, at, memory, RW);
            nothing_sent(&model, work, MapError::OutOfRange);
        }
        let mut found = Vec::new();
        let end = loop {
            match map(&domain, memory, RW) {
                Ok(range) => found.push(range.start().0),
                Err(error) => break error,
            }
        };
        assert_eq!(end, MapError::OutOfIova);
        assert!(
            !found.contains(&0) && !found.contains(&0x7000),
            "{found:x?}"
        );
        assert!(!found.is_empty());
        // One granule of hole behind each.
        found.sort_unstable();
        assert!(found.windows(2).all(|w| w[1] - w[0] >= 2 * GRANULE));
    }
}

#[test]
fn dv_map_1_what_is_not_aligned_never_reaches_the_ring() {
    let _proof = proves(Oracle::Ret, &["DV-MAP-1"]);
    for _ in each!() {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        for memory in [
            phys(0x1_0800, GRANULE),
            phys(0x1_0000, 1),
            phys(0x1_0000, GRANULE - 1),
            phys(0x1_0000, GRANULE + 1),
            phys(0x1_0800, 0x800),
            phys(0x1_0001, 2 * GRANULE),
        ] {
            let work = || map(&domain, memory, RW);
            nothing_sent(&model, work, MapError::Misaligned);
            let work = || map_at(&domain, 0x20_0000, memory, RW);
            nothing_sent(&model, work, MapError::Misaligned);
        }
        let memory = phys(0x1_0000, GRANULE);
        for at in [0x20_0001, 0x20_0800] {
            let work = || map_at(&domain, at, memory, RW);
            nothing_sent(&model, work, MapError::Misaligned);
        }
        for align in [0, 3, 0x3000] {
            let options = MapOptions::new(RW).with_align(align);
            let work = || map_with(&domain, memory, options);
            nothing_sent(&model, work, MapError::Misaligned);
        }
    }
}

#[test]
fn dv_map_1_a_granule_of_64_kib_is_honoured() {
    let _proof = proves(Oracle::Ret, &["DV-MAP-1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.config.page_size_mask = 0xffff_ffff_ffff_0000);
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        for memory in [phys(0x10_0000, 0x1000), phys(0x10_1000, 0x1_0000)] {
            let work = || map(&domain, memory, RW);
            nothing_sent(&model, work, MapError::Misaligned);
        }
        let memory = phys(0x10_0000, 0x2_0000);
        let work = || map_at(&domain, 0x1_8000, memory, RW);
        nothing_sent(&model, work, MapError::Misaligned);
        let at = map(&domain, memory, RW).unwrap();
        assert_eq!(at.start().0 % 0x1_0000, 0);
        let next = map(&domain, memory, RW).unwrap();
        let gap = at.start().0.abs_diff(next.start().0) - 0x2_0000;
        assert!(gap >= 0x1_0000, "a granule of hole: {gap:#x}");
    }
}

#[test]
fn dv_map_2_addresses_in_use_never_reach_the_ring() {
    let _proof = proves(Oracle::Ret, &["DV-MAP-2"]);
    for _ in each!() {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        for (at, count) in [
            (0x10_0000, 1),
            (0x10_1000, 1),
            (0x0f_f000, 2),
            (0x10_1000, 2),
            (0x0f_0000, 0x40),
        ] {
            let memory = phys(0x1_0000, count * GRANULE);
            let work = || map_at(&domain, at, memory, RW);
            nothing_sent(&model, work, MapError::InUse);
        }
        map_at(&domain, 0x10_2000, phys(0x1_0000, GRANULE), RW).unwrap();
    }
}

#[test]
fn dn_resv_1_reserved_addresses_never_reach_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-RESV-1", "DV-RSV-4"]);
    for _ in each!(but [(Crosvm, "PROBE has room for one region"), (CloudHypervisor, "PROBE has room for one region")])
    {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        for region in REGIONS {
            for at in [
                region.start,
                region.end & !0xfff,
                region.start + 0x8000,
                region.start - GRANULE,
            ] {
                let memory = phys(0x1_0000, 2 * GRANULE);
                let work = || map_at(&domain, at, memory, RW);
                let expected =
                    MapError::Reserved(iova(region.start, region.end - region.start + 1));
                nothing_sent(&model, work, expected);
            }
        }
        // Both neighbours are free.
        let below = REGIONS[0].start - GRANULE;
        map_at(&domain, below, phys(0x1_0000, GRANULE), RW).unwrap();
        map_at(&domain, REGIONS[0].end + 1, phys(0x1_0000, GRANULE), RW).unwrap();
    }
}

#[test]
fn dn_resv_1_no_address_in_a_reserved_region_is_handed_out() {
    let _proof = proves(Oracle::Ret, &["DN-RESV-1", "DV-RSV-4"]);
    for _ in each!(but [(Crosvm, "PROBE has room for one region"), (CloudHypervisor, "PROBE has room for one region")])
    {
        let model = Model::new().narrow();
        // Everything but three pages is reserved, and none of the borders is aligned.
        model.with(|d| {
            let regions = &mut d.unit.endpoints.get_mut(&RESERVING).unwrap().regions;
            regions.clear();
            regions.push(crate::model::unit::Region::reserved(0x8010, 0xff_ffff_ffff));
            regions.push(crate::model::unit::Region::msi(0x2ff0, 0x3010));
        });
        let iommu = start(&model, &[RESERVING, PLAIN]);
        let domain = domain(&iommu, 64, &[RESERVING]);
        let mut found = Vec::new();
        while let Ok(at) = map(&domain, phys(0x1_0000, GRANULE), RW) {
            found.push(at.start().0);
        }
        assert!(found.len() >= 2, "{found:x?}");
        let free = [0x1000, 0x4000, 0x5000, 0x6000, 0x7000];
        assert!(found.iter().all(|at| free.contains(at)), "{found:x?}");
        // A region of a granule that it only touches is refused as well.
        let (low, high) = (iova(0x2000, 0x2000), iova(0x8000, 0x100_0000_0000 - 0x8000));
        for (at, reserved) in [(0x2000, low), (0x3000, low), (0x8000, high)] {
            let work = || map_at(&domain, at, phys(0x1_0000, GRANULE), RW);
            nothing_sent(&model, work, MapError::Reserved(reserved));
        }
    }
}

#[test]
fn dn_resv_1_an_endpoint_whose_regions_are_mapped_is_not_attached() {
    let _proof = proves(Oracle::Ret, &["DN-RESV-1", "DV-ATT-11"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let inside = REGIONS[1].start + 0x3000;
        let at = map_at(&domain, inside, phys(0x1_0000, GRANULE), RW).unwrap();
        let work = || domain.attach(endpoint(RESERVING));
        nothing_sent(&model, work, AttachError::Conflict { mapping: at });
        // Nor is it lost: without the mapping it comes in, and then the address is refused.
        domain.unmap(at).unwrap();
        domain.attach(endpoint(RESERVING)).unwrap();
        let work = || map_at(&domain, inside, phys(0x1_0000, GRANULE), RW);
        let (result, requests) = model.requests_during(work);
        assert!(matches!(result, Err(MapError::Reserved(_))));
        assert_eq!(requests, []);
        // It leaves, and the addresses are free again.
        domain.detach(endpoint(RESERVING)).unwrap();
        map_at(&domain, inside, phys(0x1_0000, GRANULE), RW).unwrap();
    }
}

#[test]
fn dn_map_7_mmio_without_the_feature_never_reaches_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-MAP-7"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::MMIO);
        let (_iommu, domain) = prepared(&model);
        let memory = phys(0x1_0000, GRANULE);
        let work = || map(&domain, memory, RW | Access::MMIO);
        nothing_sent(&model, work, MapError::MmioUnsupported);
    }
}

#[test]
fn dn_map_1_no_access_and_undefined_flags_never_reach_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-MAP-1"]);
    for _ in each!() {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        let memory = phys(0x1_0000, GRANULE);
        for access in [
            Access::empty(),
            Access::MMIO,
            Access::from_bits_retain(8 | 1),
            Access::from_bits_retain(1 << 31 | 3),
        ] {
            let work = || map(&domain, memory, access);
            nothing_sent(&model, work, MapError::NoAccess);
            let work = || map_at(&domain, 0x20_0000, memory, access);
            nothing_sent(&model, work, MapError::NoAccess);
        }
    }
}

#[test]
fn dn_map_t1_a_domain_without_endpoints_does_not_exist() {
    let _proof = proves(Oracle::Ret, &["DV-MAP-4"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = iommu.create_domain(4).unwrap();
        let memory = phys(0x1_0000, GRANULE);
        let work = || map(&domain, memory, RW);
        nothing_sent(&model, work, MapError::NotAttached);
        let work = || map_at(&domain, 0x1000, memory, RW);
        nothing_sent(&model, work, MapError::NotAttached);
    }
}

#[test]
fn a_full_domain_and_exhausted_addresses_send_nothing() {
    for _ in each!() {
        let model = Model::new().narrow();
        let (iommu, domain) = prepared(&model);
        let memory = phys(0x1_0000, GRANULE);
        for limit in [0, 0xfff, 0x1ffe] {
            let options = MapOptions::new(RW).with_limit(Iova(limit));
            let work = || map_with(&domain, memory, options);
            nothing_sent(&model, work, MapError::OutOfIova);
        }
        let options = MapOptions::new(RW).with_align(1 << 63);
        let work = || map_with(&domain, memory, options);
        nothing_sent(&model, work, MapError::OutOfIova);
        let large = phys(0, 1 << 45);
        nothing_sent(&model, || map(&domain, large, RW), MapError::OutOfIova);
        for _ in 0..2 {
            map(&domain, memory, RW).unwrap();
        }
        nothing_sent(&model, || map(&domain, memory, RW), MapError::Full);
        let work = || map_at(&domain, 0x20_0000, memory, RW);
        nothing_sent(&model, work, MapError::Full);
        // All or none: the second of two has no room.
        let two = self::domain(&iommu, 1, &[OTHER]);
        let work = || map_all(&two, &[memory, memory], MapOptions::new(RW));
        nothing_sent(&model, work, MapError::Full);
        assert_eq!(two.mapped(), 0);
        map(&two, memory, RW).unwrap();
    }
}

#[test]
fn map_all_wants_a_place_for_each_result() {
    for _ in each!() {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        let mut out = [iova(0, 1); 2];
        let work = || {
            // SAFETY: nothing is mapped.
            unsafe { domain.map_all(&[phys(0x1_0000, GRANULE)], MapOptions::new(RW), &mut out) }
        };
        nothing_sent(&model, work, MapError::Length);
        let (result, requests) =
            model.requests_during(|| map_all(&domain, &[], MapOptions::new(RW)));
        assert_eq!((result, requests), (Ok(vec![]), vec![]));
    }
}

#[test]
fn dn_unmap_4_5_what_is_no_mapping_never_reaches_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-UNMAP-4", "DN-UNMAP-5", "DV-UNM-5"]);
    for _ in each!() {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        for range in [
            iova(0x10_0000, GRANULE),
            iova(0x10_1000, GRANULE),
            iova(0x10_0000, 3 * GRANULE),
            iova(0x0f_f000, 3 * GRANULE),
            iova(0x10_0800, GRANULE),
            iova(0x20_0000, GRANULE),
            iova(0, 1),
            IovaRange::new(Iova(0), Iova(u64::MAX)).unwrap(),
        ] {
            nothing_sent(&model, || domain.unmap(range), UnmapError::NotMapped(range));
        }
        // One good range among bad ones stays.
        let good = iova(0x10_0000, 2 * GRANULE);
        let bad = iova(0x30_0000, GRANULE);
        for list in [[good, bad], [bad, good]] {
            let work = || domain.unmap_all(&list);
            nothing_sent(&model, work, UnmapError::NotMapped(bad));
        }
        let work = || domain.unmap_all(&[good, good]);
        nothing_sent(&model, work, UnmapError::NotMapped(good));
        assert_eq!(domain.mapped(), 1);
        domain.unmap(good).unwrap();
        nothing_sent(&model, || domain.unmap(good), UnmapError::NotMapped(good));
    }
}

#[test]
fn dn_attach_refusals_send_nothing() {
    let _proof = proves(Oracle::Ret, &["DV-ATT-3"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let (iommu, domain) = prepared(&model);
        let other = iommu.create_domain(1).unwrap();
        let work = || domain.attach(endpoint(0x999));
        nothing_sent(&model, work, AttachError::UnknownEndpoint);
        let owner = AttachError::Attached(domain.id());
        nothing_sent(&model, || domain.attach(endpoint(PLAIN)), owner);
        nothing_sent(&model, || other.attach(endpoint(PLAIN)), owner);
        let work = || other.detach(endpoint(PLAIN));
        nothing_sent(&model, work, AttachError::NotAttached);
        let work = || domain.detach(endpoint(OTHER));
        nothing_sent(&model, work, AttachError::NotAttached);
        let work = || domain.detach(endpoint(0x999));
        nothing_sent(&model, work, AttachError::NotAttached);
    }
}

#[test]
fn a_domain_larger_than_the_memory_is_refused_before_anything_is_sent() {
    for _ in each!(but [
        (Crosvm, "no DOMAIN_RANGE: ids without an end"),
        (CloudHypervisor, "no DOMAIN_RANGE: ids without an end"),
    ]) {
        let model = Model::new();
        model.with(|d| d.config.domain_range = (3, 40));
        let iommu = start(&model, &[PLAIN]);
        for capacity in [usize::MAX, usize::MAX / 64] {
            let work = || iommu.create_domain(capacity);
            nothing_sent(&model, work, CreateError::OutOfMemory);
        }
        // No id is lost by that.
        let mut domains = Vec::new();
        while let Ok(domain) = iommu.create_domain(0) {
            domains.push(domain);
        }
        assert_eq!(domains.len(), 37, "3..=40 without the scratch domain");
        domains[0].attach(endpoint(PLAIN)).unwrap();
        let work = || map(&domains[0], phys(0x1_0000, GRANULE), RW);
        nothing_sent(&model, work, MapError::Full);
    }
}
