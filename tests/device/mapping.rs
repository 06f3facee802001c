//! Attach, detach, map, unmap: what reaches the device, what does not, and where DMA lands.

use crate::each;
use crate::model::requests::Request;
use crate::model::spec::{MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, feature};
use crate::model::unit::Mapping;
use crate::model::{Model, OTHER, PLAIN, REGIONS, RESERVING};
use crate::rig::{
    self, GRANULE, RW, TestDomain, domain, endpoint, iova, map, map_all, map_at, map_with, pages,
    phys, start,
};
use virtio_iommu::{
    Access, AttachError, CreateError, Iova, IovaRange, MapError, MapOptions, UnmapError,
};
use xtask::conformance::{Oracle, proves};

#[test]
fn a_mapping_is_where_the_driver_says_and_nowhere_else() {
    let _proof = proves(Oracle::Model, &["DN-INIT-1", "DN-UNMAP-2"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let memory = pages(&model, 3);
        let at = map(&domain, memory, RW).unwrap();
        assert_eq!(at.len(), Some(3 * GRANULE));
        let (start, end) = (at.start().0, at.end().0);
        for offset in [0, 1, GRANULE, 3 * GRANULE - 1] {
            let phys = memory.start().0 + offset;
            assert_eq!(model.reads(PLAIN, start + offset), Some(phys));
            assert_eq!(model.writes(PLAIN, start + offset), Some(phys));
        }
        assert_eq!(model.reads(PLAIN, start - 1), None);
        assert_eq!(model.reads(PLAIN, end + 1), None);
        let found = model.mappings(domain.id().0).unwrap();
        let expected = Mapping {
            start,
            end,
            phys: memory.start().0,
            flags: MAP_F_READ | MAP_F_WRITE,
        };
        assert_eq!(found, [expected]);
        assert_eq!((domain.mapped(), domain.quarantined()), (1, 0));
        domain.unmap(at).unwrap();
        assert_eq!(model.reads(PLAIN, start), None);
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
        assert_eq!(domain.mapped(), 0);
    }
}

#[test]
fn dma_through_a_mapping_reads_and_writes_the_memory() {
    let _proof = proves(Oracle::Model, &["DN-MAP-6"]);
    for _ in
        each!(but [(Crosvm, "WRITE implies READ"), (CloudHypervisor, "access flags are ignored")])
    {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let [source, target] = [pages(&model, 1), pages(&model, 1)];
        model.ram().write(source.start().0 + 8, b"bytes");
        let from = map(&domain, source, Access::READ).unwrap();
        let to = map(&domain, target, Access::WRITE).unwrap();
        let read = model.with(|d| d.dma_read(PLAIN, from.start().0 + 8, 5));
        let read: Vec<u8> = read.into_iter().map(Option::unwrap).collect();
        assert_eq!(read, b"bytes");
        let landed = model.with(|d| d.dma_write(PLAIN, to.start().0, &read));
        assert_eq!(landed, 5);
        let copied = model.ram().read(target.start().0, 5).unwrap();
        assert_eq!(copied, b"bytes");
        // Wrong direction.
        assert_eq!(model.with(|d| d.dma_write(PLAIN, from.start().0, b"x")), 0);
        assert_eq!(model.with(|d| d.dma_read(PLAIN, to.start().0, 1)), [None]);
    }
}

#[test]
fn dn_map_1_6_flags_are_those_that_were_asked_for() {
    let _proof = proves(Oracle::Model, &["DN-MAP-1", "DN-MAP-4", "DN-MAP-6"]);
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        for (access, flags) in [
            (Access::READ, MAP_F_READ),
            (Access::WRITE, MAP_F_WRITE),
            (RW, MAP_F_READ | MAP_F_WRITE),
            (Access::WRITE | Access::MMIO, MAP_F_WRITE | MAP_F_MMIO),
        ] {
            let at = map(&domain, pages(&model, 1), access).unwrap();
            let found = model.mappings(domain.id().0).unwrap();
            assert_eq!(found[0].flags, flags);
            domain.unmap(at).unwrap();
        }
    }
}

#[test]
fn endpoints_of_two_domains_do_not_see_each_others_mappings() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let one = domain(&iommu, 8, &[PLAIN]);
        let two = domain(&iommu, 8, &[OTHER]);
        assert_ne!(one.id(), two.id());
        let [a, b] = [pages(&model, 1), pages(&model, 1)];
        // The same address, two pages.
        map_at(&one, 0x10_0000, a, RW).unwrap();
        map_at(&two, 0x10_0000, b, RW).unwrap();
        let only_one = map(&one, pages(&model, 1), RW).unwrap();
        assert_eq!(model.reads(PLAIN, 0x10_0000), Some(a.start().0));
        assert_eq!(model.reads(OTHER, 0x10_0000), Some(b.start().0));
        assert!(model.reads(PLAIN, only_one.start().0).is_some());
        assert_eq!(model.reads(OTHER, only_one.start().0), None);
    }
}

#[test]
fn endpoints_of_one_domain_share_its_mappings_until_they_leave() {
    let _proof = proves(Oracle::Model, &["DV-ATT-4"]);
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), RW).unwrap().start().0;
        domain.attach(endpoint(OTHER)).unwrap();
        assert_eq!(model.reads(OTHER, at), model.reads(PLAIN, at));
        assert!(model.reads(OTHER, at).is_some());
        domain.detach(endpoint(PLAIN)).unwrap();
        assert_eq!(model.reads(PLAIN, at), None);
        assert!(model.reads(OTHER, at).is_some());
        assert_eq!(model.domain_of(PLAIN), None);
    }
}

#[test]
fn spec_trap_7_mappings_return_with_the_next_endpoint() {
    let _proof = proves(Oracle::Model, &["DV-MAP-4"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 100, &[PLAIN]);
        let mut kept = Vec::new();
        for access in [Access::READ, RW].into_iter().cycle().take(80) {
            let memory = pages(&model, 1);
            kept.push((map(&domain, memory, access).unwrap(), memory));
        }
        let before = model.mappings(domain.id().0).unwrap();
        domain.detach(endpoint(PLAIN)).unwrap();
        assert_eq!(model.mappings(domain.id().0), None, "the domain is gone");
        assert_eq!(domain.mapped(), 80);
        // Without an endpoint nothing can be mapped, and unmapping sends nothing.
        let (gone, _) = kept.pop().unwrap();
        let (result, requests) = model.requests_during(|| domain.unmap(gone));
        assert_eq!((result, requests), (Ok(()), vec![]));
        domain.attach(endpoint(OTHER)).unwrap();
        let after = model.mappings(domain.id().0).unwrap();
        assert_eq!(after.len(), 79);
        assert!(after.iter().all(|mapping| before.contains(mapping)));
        for (at, memory) in &kept {
            assert_eq!(model.reads(OTHER, at.start().0), Some(memory.start().0));
        }
        assert_eq!(model.reads(OTHER, gone.start().0), None);
    }
}

#[test]
fn a_dropped_domain_leaves_nothing_and_its_id_is_used_again() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let first = domain(&iommu, 8, &[PLAIN, OTHER]);
        let id = first.id();
        let at = map(&first, pages(&model, 1), RW).unwrap().start().0;
        drop(first);
        for id in [PLAIN, OTHER] {
            assert_eq!(model.reads(id, at), None);
            assert_eq!(model.domain_of(id), None);
        }
        assert_eq!(model.with(|d| d.unit.domains.len()), 0);
        let second = domain(&iommu, 8, &[PLAIN]);
        assert_eq!(second.id(), id);
        assert_eq!(model.reads(PLAIN, at), None);
        assert_eq!(model.mappings(id.0), Some(vec![]));
    }
}

#[test]
fn dn_ops_5_domain_ids_stay_in_the_range_and_end_with_it() {
    let _proof = proves(Oracle::Ret, &["DN-OPS-5"]).and(Oracle::Model, &["DN-OPS-5"]);
    for _ in each!(but [(Crosvm, "no DOMAIN_RANGE"), (CloudHypervisor, "no DOMAIN_RANGE")]) {
        let model = Model::new();
        model.with(|d| d.config.domain_range = (7, 9));
        let iommu = start(&model, &[PLAIN]);
        let domains = [(); 2].map(|()| iommu.create_domain(1).unwrap());
        let error = iommu.create_domain(1).unwrap_err();
        assert_eq!(error, CreateError::NoDomainId);
        let mut ids: Vec<u32> = domains.iter().map(|d| d.id().0).collect();
        ids.push(iommu.scratch_domain().0);
        ids.sort_unstable();
        assert_eq!(ids, [7, 8, 9]);
        domains[0].attach(endpoint(PLAIN)).unwrap();
    }
}

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

/// A domain with `RESERVING`, and with `PLAIN` if the device allows for two, and one mapping at `0x10_0000`.
fn prepared(model: &Model) -> (rig::TestIommu, TestDomain) {
    let iommu = start(model, &[PLAIN, OTHER, RESERVING]);
    let alone = model.with(|d| d.unit.quirks.endpoints_per_domain == Some(1));
    let members: &[u32] = if alone {
        &[RESERVING]
    } else {
        &[PLAIN, RESERVING]
    };
    let domain = domain(&iommu, 3, members);
    map_at(&domain, 0x10_0000, pages(model, 2), RW).unwrap();
    (iommu, domain)
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
fn options_are_obeyed() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[RESERVING]);
        let domain = domain(&iommu, 64, &[RESERVING]);
        for (limit, align) in [
            (0xfff_ffff, 1),
            (0x0a0f_ffff, GRANULE),
            (0x080f_ffff, 0x20_0000),
            (u64::MAX, 1 << 30),
            (0x1_2345_6789, 0x1_0000),
        ] {
            for _ in 0..3 {
                let options = MapOptions::new(RW)
                    .with_limit(Iova(limit))
                    .with_align(align);
                let at = map_with(&domain, phys(0x1_0000, 3 * GRANULE), options).unwrap();
                assert!(at.end().0 <= limit, "{at} beyond {limit:#x}");
                assert_eq!(at.start().0 % align, 0);
            }
        }
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
fn dn_map_2_no_request_ever_makes_a_bypass_domain() {
    let _proof = proves(Oracle::Model, &["DN-ATTACH-4"]);
    for _ in each!() {
        let model = Model::new();
        let (_iommu, domain) = prepared(&model);
        map(&domain, pages(&model, 1), RW).unwrap();
        for request in model.requests() {
            if let Request::Attach { flags, .. } = request {
                assert_eq!(flags, 0);
            }
        }
    }
}

#[test]
fn adjacent_and_repeated_physical_pages_keep_their_own_places() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 64, &[PLAIN]);
        let memory = pages(&model, 4);
        let pieces: Vec<_> = (0..4)
            .map(|i| phys(memory.start().0 + i * GRANULE, GRANULE))
            .chain([memory, memory])
            .collect();
        let places = map_all(&domain, &pieces, MapOptions::new(RW)).unwrap();
        for (at, piece) in places.iter().zip(&pieces) {
            assert_eq!(at.len(), piece.len());
            assert_eq!(model.reads(PLAIN, at.start().0), Some(piece.start().0));
            assert_eq!(model.reads(PLAIN, at.end().0), Some(piece.end().0));
        }
        domain.unmap_all(&places).unwrap();
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
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
