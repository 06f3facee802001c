//! Every way to move data: where it lands, who may read and write, and what it costs.

use crate::each;
use virtio_iommu::dma::{
    Bidirectional, Completed, Direction, FromDevice, Mapping, ToDevice, Transfer,
};
use virtio_iommu::{Access, DomainOptions, PhysAddr, PhysRange, UnmapError};

use crate::buffers::{Elsewhere, shuffled};
use crate::desk::{Buf, Desk, kinds, phys_of};
use crate::model::platform::ModelPlatform;
use crate::model::requests::Request;
use crate::model::spec::{MAP_F_MMIO, MAP_F_WRITE, feature};
use crate::model::{OTHER, PLAIN};
use crate::rig::endpoint;
use xtask::conformance::{Oracle, proves};

/// Says that the endpoint is done.
pub fn done<B, D>(mapping: Mapping<B, D, ModelPlatform>) -> Completed<B, D, ModelPlatform>
where
    B: virtio_iommu::dma::DmaBuffer,
    D: Direction,
{
    // SAFETY: the endpoints are functions of the test, which have returned.
    unsafe { mapping.complete() }
}

/// What the endpoint may do at an address: read, write.
fn rights(desk: &Desk, at: u64) -> (bool, bool) {
    let (read, write) = (desk.model.reads(PLAIN, at), desk.model.writes(PLAIN, at));
    (read.is_some(), write.is_some())
}

fn one_direction<D: Direction>(expected: (bool, bool)) {
    let desk = Desk::new();
    let buffer = desk.alloc(3);
    let phys = phys_of(&buffer);
    let (mapping, requests, kicks) = desk.cost(|| desk.device.map::<D, _>(buffer).unwrap());
    assert_eq!((kinds(&requests).as_str(), kicks), ("M", 1));
    let at = mapping.device_addr().0;
    assert_eq!(mapping.iova().len(), Some(0x3000));
    for offset in [0, 0xfff, 0x1000, 0x2fff] {
        assert_eq!(rights(&desk, at + offset), expected);
        let lands = desk.model.reads(PLAIN, at + offset);
        let lands = lands.or(desk.model.writes(PLAIN, at + offset));
        assert_eq!(lands, Some(phys + offset));
    }
    // Nothing but the buffer, and nobody but the endpoints of the domain.
    assert_eq!(rights(&desk, at - 1), (false, false));
    assert_eq!(rights(&desk, at + 0x3000), (false, false));
    assert_eq!(desk.model.reads(OTHER, at), None);
    assert_eq!(desk.model.writes(OTHER, at), None);
    let (buffer, requests, kicks) = desk.cost(|| done(mapping).unmap().unwrap());
    assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
    assert_eq!(rights(&desk, at), (false, false));
    drop(buffer);
    desk.assert_empty();
}

#[test]
fn directions_are_rights() {
    let _proof = proves(Oracle::Model, &["DN-MAP-6"]);
    for _ in
        each!(but [(Crosvm, "WRITE implies READ"), (CloudHypervisor, "access flags are ignored")])
    {
        one_direction::<ToDevice>((true, false));
        one_direction::<FromDevice>((false, true));
        one_direction::<Bidirectional>((true, true));
    }
}

#[test]
fn data_goes_both_ways_and_comes_back_with_the_buffer() {
    for _ in each!() {
        let desk = Desk::new();
        let mut buffer = desk.alloc(2);
        buffer[0x1ffe..].copy_from_slice(b"ab");
        let mapping = desk.device.map::<Bidirectional, _>(buffer).unwrap();
        let at = mapping.device_addr().0;
        assert_eq!(desk.dma_read(at + 0x1ffe, 2).unwrap(), b"ab");
        assert_eq!(desk.dma_write(at + 0xffe, b"wxyz"), 4);
        let mut seen = [0; 4];
        assert!(mapping.read(0xffe, &mut seen));
        assert_eq!(&seen, b"wxyz");
        assert!(mapping.write(0, b"cpu"));
        assert_eq!(desk.dma_read(at, 3).unwrap(), b"cpu");
        // Beyond the end nothing is copied.
        assert!(!mapping.read(0x1ffe, &mut seen));
        assert!(!mapping.write(usize::MAX, b"x"));
        assert_eq!(&seen, b"wxyz");
        let buffer = done(mapping).unmap().unwrap();
        assert_eq!(&buffer[0xffe..0x1002], b"wxyz");
        assert_eq!(&buffer[..3], b"cpu");
        drop(buffer);
        desk.assert_empty();
    }
}

#[test]
fn n_pieces_are_n_maps_with_one_kick_and_one_unmap() {
    let _proof = proves(Oracle::Model, &["DN-UNMAP-2", "DV-UNM-7"]);
    for _ in each!() {
        let desk = Desk::new();
        let list: Vec<Buf> = (0..64).map(|i| desk.filled(1 + i % 3, i as u8)).collect();
        let pages: Vec<(u64, usize)> = list.iter().map(|b| (phys_of(b), b.len())).collect();
        let (mapping, requests, kicks) =
            desk.cost(|| desk.device.map::<ToDevice, _>(list).unwrap());
        assert_eq!((kinds(&requests), kicks), ("M".repeat(64), 1));
        // One run of addresses, in the order of the list.
        let mut at = mapping.device_addr().0;
        for (i, (phys, len)) in pages.into_iter().enumerate() {
            let found = desk.dma_read(at, len).unwrap();
            assert!(found.iter().all(|byte| *byte == i as u8), "piece {i}");
            assert_eq!(desk.model.reads(PLAIN, at), Some(phys));
            at += len as u64;
        }
        assert_eq!(at - 1, mapping.iova().end().0);
        assert_eq!(mapping.segments().count(), 1);
        let (list, requests, kicks) = desk.cost(|| done(mapping).unmap().unwrap());
        assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
        assert_eq!(list.len(), 64);
        let boxed = list.into_boxed_slice();
        let (mapping, requests, kicks) =
            desk.cost(|| desk.device.map::<ToDevice, _>(boxed).unwrap());
        assert_eq!((kinds(&requests), kicks), ("M".repeat(64), 1));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn neighbours_in_memory_are_one_map() {
    for _ in each!() {
        // Runs of neighbours, in the order of the data.
        for (order, runs) in [
            (vec![0, 1, 2, 3], 1),
            (vec![3, 2, 1, 0], 4),
            (vec![2, 3, 0, 1], 2),
            (vec![0, 2, 3, 1], 3),
        ] {
            for apart in [false, true] {
                let desk = Desk::new();
                let mut memory = desk.alloc(4);
                for (page, chunk) in memory.chunks_exact_mut(0x1000).enumerate() {
                    chunk.fill(page as u8 + 1);
                }
                let buffer = shuffled(memory, &order);
                let (mapping, requests, kicks) = desk.cost(|| match apart {
                    false => desk.device.map::<ToDevice, _>(buffer).unwrap(),
                    true => desk.device.map_apart::<ToDevice, _>(buffer).unwrap(),
                });
                assert_eq!((kinds(&requests), kicks), ("M".repeat(runs), 1));
                let segments: Vec<_> = mapping.segments().collect();
                assert_eq!(segments.len(), if apart { runs } else { 1 });
                let data: Vec<u8> = segments
                    .iter()
                    .flat_map(|part| {
                        let len = part.len().unwrap() as usize;
                        desk.dma_read(part.start().0, len).unwrap()
                    })
                    .collect();
                let expected = order.iter().flat_map(|page| [*page as u8 + 1; 0x1000]);
                assert!(data.into_iter().eq(expected), "{order:?}");
                if apart {
                    // A hole of one granule after each part, and no more.
                    for pair in segments.windows(2) {
                        assert_eq!(pair[0].end().0 + 0x1001, pair[1].start().0);
                        assert_eq!(rights(&desk, pair[0].end().0 + 1), (false, false));
                        assert_eq!(rights(&desk, pair[1].start().0 - 1), (false, false));
                    }
                }
                let (_, requests, kicks) = desk.cost(|| done(mapping).unmap().unwrap());
                assert_eq!((kinds(&requests).as_str(), kicks), ("U", 1));
                desk.assert_empty();
            }
        }
    }
}

#[test]
fn using_a_buffer_once_more_takes_nothing() {
    for _ in each!() {
        let desk = Desk::new();
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        let at = mapping.device_addr();
        let (mapping, requests, kicks) = desk.cost(|| done(mapping).reuse());
        assert_eq!((requests.len(), kicks), (0, 0));
        assert_eq!(mapping.device_addr(), at);
        assert_eq!(desk.dma_write(at.0, b"again"), 5);
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn an_exchange_is_two_requests_and_one_kick() {
    for _ in each!() {
        let desk = Desk::new();
        let first = desk.filled(1, 1);
        let mapping = desk.device.map::<ToDevice, _>(first).unwrap();
        let old = mapping.device_addr();
        let (result, requests, kicks) = desk.cost(|| {
            desk.device
                .exchange::<_, _, _, FromDevice>(done(mapping), desk.alloc(2))
        });
        assert_eq!((kinds(&requests).as_str(), kicks), ("UM", 1));
        let first = result.unmapped.unwrap();
        assert!(first.iter().all(|byte| *byte == 1));
        let mapping = result.mapped.unwrap();
        assert_eq!(desk.dma_write(mapping.device_addr().0 + 0x1ffe, b"ab"), 2);
        assert_eq!(rights(&desk, old.0), (false, false));
        // A list of pieces: one UNMAP, a MAP for each.
        let list: Vec<Buf> = (0..5).map(|_| desk.alloc(1)).collect();
        let (result, requests, kicks) = desk.cost(|| {
            desk.device
                .exchange::<_, _, _, ToDevice>(done(mapping), list)
        });
        assert_eq!((kinds(&requests).as_str(), kicks), ("UMMMMM", 1));
        assert_eq!(&result.unmapped.unwrap()[0x1ffe..], b"ab");
        drop(done(result.mapped.unwrap()).unmap().unwrap());
        drop(first);
        desk.assert_empty();
    }
}

#[test]
fn an_exchange_across_domains_is_both_one_after_the_other() {
    for _ in each!() {
        let desk = Desk::new();
        let second = std::sync::Arc::new(desk.iommu.create_domain(16).unwrap());
        let other =
            virtio_iommu::dma::DmaDevice::attach(&second, endpoint(OTHER), Default::default())
                .unwrap();
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let next = desk.alloc(1);
        let result = other.exchange::<_, _, _, ToDevice>(done(mapping), next);
        assert_eq!((desk.domain.mapped(), second.mapped()), (0, 1));
        let mapping = result.mapped.unwrap();
        let at = mapping.device_addr().0;
        assert!(desk.model.reads(OTHER, at).is_some());
        assert!(desk.model.reads(PLAIN, at).is_none());
        drop(result.unmapped.unwrap());
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn coherent_memory_is_shared_until_it_is_completed() {
    for _ in each!() {
        let desk = Desk::new();
        let mut ring = desk.alloc(1);
        ring[..4].copy_from_slice(&7_u32.to_ne_bytes());
        let shared = desk.device.share(ring).unwrap();
        let at = shared.device_addr().0;
        assert_eq!(rights(&desk, at), (true, true));
        assert_eq!(desk.dma_read(at, 4).unwrap(), 7_u32.to_ne_bytes());
        let (_, requests, kicks) = desk.cost(|| {
            assert!(shared.write(8, 0x0123_4567_89ab_cdef_u64));
            assert_eq!(
                desk.dma_read(at + 8, 8).unwrap(),
                0x0123_4567_89ab_cdef_u64.to_ne_bytes()
            );
            assert_eq!(desk.dma_write(at + 0xffe, &[1, 2]), 2);
            assert_eq!(shared.read::<[u8; 2]>(0xffe), Some([1, 2]));
        });
        assert_eq!((requests.len(), kicks), (0, 0));
        assert_eq!(shared.read::<u32>(0xffd), None);
        assert_eq!(shared.read::<u32>(usize::MAX), None);
        assert!(!shared.write(0xfff, 1_u16));
        assert_eq!(shared.read::<u8>(0xfff), Some(2), "written beyond the end");
        // SAFETY: the endpoint is a function of the test.
        drop(unsafe { shared.complete() }.unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn a_window_translates_by_offset_and_by_physical_address() {
    for _ in each!() {
        let desk = Desk::new();
        let memory = desk.alloc(4);
        let start = phys_of(&memory);
        let window = desk
            .device
            .window(shuffled(memory, &[2, 3, 0, 1]))
            .unwrap_or_else(|failure| panic!("{failure}"));
        for offset in [0, 1, 0xfff, 0x1000, 0x2000, 0x3fff] {
            let at = window.device_addr(offset, 1).unwrap();
            let page = [2, 3, 0, 1][offset / 0x1000];
            let phys = start + page * 0x1000 + (offset as u64 & 0xfff);
            assert_eq!(desk.model.writes(PLAIN, at.0), Some(phys));
            assert_eq!(window.device_addr_of(PhysAddr(phys)), Some(at));
        }
        assert_eq!(window.device_addr(0x4000, 0), None);
        assert_eq!(window.device_addr(0x3fff, 2), None);
        assert_eq!(window.device_addr(usize::MAX, 2), None);
        assert_eq!(window.device_addr_of(PhysAddr(start - 1)), None);
        assert_eq!(window.device_addr_of(PhysAddr(start + 0x4000)), None);
        // SAFETY: the endpoint is a function of the test.
        drop(unsafe { window.complete() }.unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn registers_of_another_device_carry_the_mmio_flag() {
    let _proof = proves(Oracle::Model, &["DN-MAP-4"]);
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let desk = Desk::new();
        let bar = PhysRange::from_len(PhysAddr(0x4000_0000), 0x2000).unwrap();
        // SAFETY: nothing is there.
        let resource = unsafe { desk.device.map_resource::<FromDevice>(bar) }.unwrap();
        let flags = desk.model.mappings(desk.domain.id().0).unwrap()[0].flags;
        assert_eq!(flags, MAP_F_WRITE | MAP_F_MMIO);
        let at = resource.device_addr().0;
        assert_eq!(desk.model.writes(PLAIN, at + 0x1fff), Some(0x4000_1fff));
        // SAFETY: the endpoint is a function of the test.
        unsafe { resource.unmap() }.unwrap();
        desk.assert_empty();
        // Dropped: the addresses wait for a reset of the endpoint.
        // SAFETY: nothing is there.
        drop(unsafe { desk.device.map_resource::<FromDevice>(bar) }.unwrap());
        assert_eq!((desk.domain.quarantined(), desk.at_device()), (1, 0));
        assert_eq!(desk.release(), (1, 0));
        desk.assert_empty();
    }
}

#[test]
fn without_the_feature_there_is_no_mmio() {
    let _proof = proves(Oracle::Ret, &["DN-MAP-7"]);
    for _ in each!() {
        let model = crate::desk::wide_model();
        model.with(|d| d.knobs.offered &= !feature::MMIO);
        let desk = Desk::on(model, DomainOptions::new(16), Default::default());
        let bar = PhysRange::from_len(PhysAddr(0x4000_0000), 0x2000).unwrap();
        // SAFETY: nothing is there.
        let (result, requests, _) =
            desk.cost(|| unsafe { desk.device.map_resource::<FromDevice>(bar) });
        assert_eq!(result.unwrap_err(), virtio_iommu::MapError::MmioUnsupported);
        assert_eq!(requests, []);
    }
}

#[test]
fn what_is_at_the_end_of_physical_memory_can_be_mapped() {
    let _proof = proves(Oracle::Model, &["DN-MAP-T1"]);
    for _ in each!() {
        let desk = Desk::new();
        let last = PhysRange::new(PhysAddr(u64::MAX - 0xfff), PhysAddr(u64::MAX)).unwrap();
        let zero = PhysRange::from_len(PhysAddr(0), 0x1000).unwrap();
        // The page at 0 does not follow the last one.
        let (mapping, requests, _) = desk.cost(|| {
            desk.device
                .map::<ToDevice, _>(Elsewhere(vec![last, zero]))
                .unwrap()
        });
        let [
            Request::Map { phys: first, .. },
            Request::Map { phys: second, .. },
        ] = requests[..]
        else {
            panic!("{requests:?}");
        };
        assert_eq!((first, second), (last.start().0, 0));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn the_record_says_what_the_device_does() {
    for _ in each!() {
        let desk = Desk::new();
        let memory = desk.alloc(3);
        let mapping = desk
            .device
            .map_apart::<FromDevice, _>(shuffled(memory, &[2, 0, 1]))
            .unwrap();
        let (first, last) = (mapping.iova().start().0, mapping.iova().end().0);
        for at in (first - 0x1000..=last + 0x1000).step_by(0x800) {
            let known = desk.domain.translate(virtio_iommu::Iova(at));
            let phys = known.map(|(phys, _)| phys.0);
            assert_eq!(phys, desk.model.writes(PLAIN, at), "{at:#x}");
            assert!(known.is_none_or(|(_, access)| access == Access::WRITE));
        }
        // Whoever knows the addresses of a mapping cannot end it.
        let iova = mapping.iova();
        assert_eq!(desk.domain.unmap(iova), Err(UnmapError::NotMapped(iova)));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn a_transfer_beside_the_pool_costs_a_map_and_an_unmap() {
    for _ in each!() {
        let desk = Desk::new();
        let options = virtio_iommu::dma::BounceOptions::default().with_pools(0x1000, 0x1000);
        let bounce = virtio_iommu::dma::Bounce::new(&desk.device, options).unwrap();
        let large = vec![7; 0x1800];
        let (transfer, requests, kicks) = desk.cost(|| bounce.to_device_or_map(&large).unwrap());
        assert!(matches!(transfer, Transfer::Mapped(_)));
        assert_eq!((kinds(&requests).as_str(), kicks), ("M", 1));
        let seen = desk.dma_read(transfer.device_addr().0, 0x2000).unwrap();
        assert!(seen[..0x1800] == large && seen[0x1800..].iter().all(|byte| *byte == 0));
        // SAFETY: the endpoint is a function of the test.
        let (_, requests, _) = desk.cost(|| unsafe { transfer.finish() }.unwrap());
        assert_eq!(kinds(&requests), "U");
        // SAFETY: as above.
        assert!(unsafe { bounce.close() }.is_ok());
        desk.assert_empty();
    }
}
