//! Attach, detach, map, unmap: what reaches the device, what does not, and where DMA lands.

use crate::each;
use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::{MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, status};
use crate::model::unit::Mapping;
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::rig::{
    GRANULE, RW, domain, endpoint, is_unmap, map, map_all, map_at, map_with, pages, phys, prepared,
    start,
};
use virtio_iommu::{Access, CreateError, Iova, MapOptions};
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
fn a_dropped_domain_keeps_its_id_while_anything_may_be_left_of_it() {
    for _ in each!() {
        // An endpoint that the device does not let go, or a mapping that it does not remove.
        for stays in [true, false] {
            let model = Model::new();
            let iommu = start(&model, &[PLAIN]);
            let first = domain(&iommu, 4, &[PLAIN]);
            let at = map(&first, pages(&model, 1), RW).unwrap();
            if !stays {
                model.answer_once(is_unmap, Answer::status(status::DEVERR));
                first.unmap(at).unwrap_err();
            }
            let id = first.id();
            model.script(move |seen| match seen.request {
                Request::Attach { .. } | Request::Detach { .. } if stays => {
                    Answer::status(status::DEVERR)
                }
                // To the question whether an id is free.
                Request::Unmap { .. } => Answer::status(status::NOENT),
                _ => Answer::honest(),
            });
            drop(first);
            let second = iommu.create_domain(4).unwrap();
            assert_ne!(second.id(), id, "endpoint: {stays}, mapping: {}", !stays);
            model.honest();
        }
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
