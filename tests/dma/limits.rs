//! What an endpoint cannot reach, and what cannot be mapped at all: typed errors that carry the
//! buffer, and nothing sent.

use crate::each;
use virtio_iommu::dma::{DmaDevice, DmaError, DmaLimits, FromDevice, MapFailure, ToDevice};
use virtio_iommu::{DomainOptions, MapError, PhysAddr, PhysRange};

use crate::buffers::{Elsewhere, shuffled};
use crate::desk::{Desk, wide_model};
use crate::model::OTHER;
use crate::model::unit::{Endpoint, Region};
use crate::rig::endpoint;
use crate::ways::done;
use xtask::conformance::{Oracle, proves};

fn piece(start: u64, len: u64) -> PhysRange {
    PhysRange::from_len(PhysAddr(start), len).unwrap()
}

/// Not mapped, and nothing was sent for it.
fn refused<B>(failure: MapFailure<B>, error: MapError) -> B {
    assert_eq!(failure.error, error);
    failure.buffer.expect("the buffer")
}

#[test]
fn twenty_eight_bits_run_out_and_come_back() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let limits = DmaLimits::address_bits(28);
        let desk = Desk::with(DomainOptions::new(600), limits);
        let mut mappings = Vec::new();
        // One MiB each: memory that nobody has will do.
        let failure = loop {
            let start = 0x10_0000_0000 + mappings.len() as u64 * 0x20_0000;
            let buffer = Elsewhere(vec![piece(start, 0x10_0000)]);
            match desk.device.map::<ToDevice, _>(buffer) {
                Ok(mapping) => mappings.push(mapping),
                Err(failure) => break failure,
            }
        };
        refused(failure, MapError::OutOfIova);
        // Page 0, the hole behind each, and what that leaves over: the rest is full.
        assert!(mappings.len() >= 254, "{}", mappings.len());
        assert!(mappings.iter().all(|m| m.iova().end().0 < 1 << 28));
        assert_eq!(desk.domain.quarantined(), 0);
        // Others are not limited.
        let wide = DmaDevice::attach(&desk.domain, endpoint(OTHER), DmaLimits::default()).unwrap();
        let above = wide.map::<ToDevice, _>(desk.alloc(16)).unwrap();
        assert!(above.iova().start().0 >= 1 << 28);
        drop(done(above).unmap().unwrap());
        let freed = mappings.swap_remove(100);
        let iova = freed.iova();
        drop(done(freed).unmap().unwrap());
        let again = Elsewhere(vec![piece(0x10_0000_0000, 0x10_0000)]);
        let again = desk.device.map::<ToDevice, _>(again).unwrap();
        assert_eq!(again.iova(), iova);
        mappings.push(again);
        mappings
            .into_iter()
            .for_each(|m| drop(done(m).unmap().unwrap()));
        desk.assert_empty();
    }
}

#[test]
fn masks_and_limits_that_make_no_sense() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let desk = Desk::new();
        let attach = |limits| {
            let result = DmaDevice::attach(&desk.domain, endpoint(OTHER), limits);
            let error = result.expect_err("limits that make no sense");
            assert_eq!(desk.model.domain_of(OTHER), None, "attached");
            error
        };
        for bits in [0, 1, 11, 12] {
            assert_eq!(
                attach(DmaLimits::address_bits(bits)),
                DmaError::Mask,
                "{bits}"
            );
        }
        let limits = DmaLimits::default();
        for odd in [
            limits.with_align(0),
            limits.with_align(3),
            limits.with_boundary(0x3000),
            limits.with_boundary(0x800),
            limits.with_max_segment(0),
        ] {
            assert_eq!(attach(odd), DmaError::Limits, "{odd:?}");
        }
        // The first granule that is handed out is enough.
        let low = DmaLimits::address_bits(13);
        let device = DmaDevice::attach(&desk.domain, endpoint(OTHER), low).unwrap();
        let mapping = device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        assert_eq!(mapping.iova().end().0, 0x1fff);
        let failure = device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err();
        drop(refused(failure, MapError::OutOfIova));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
        let stranger = DmaDevice::attach(&desk.domain, endpoint(0x999), limits);
        assert!(matches!(stranger, Err(DmaError::Attach(_))));
    }
}

#[test]
fn a_mask_that_the_reserved_regions_leave_nothing_of() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = wide_model();
        model.with(|d| {
            let regions = vec![Region::reserved(0x1000, 0xf_ffff)];
            let walled = Endpoint {
                regions,
                ..Endpoint::default()
            };
            d.unit.endpoints.insert(OTHER, walled);
        });
        let desk = Desk::on(model, 16.into(), Default::default());
        let device =
            DmaDevice::attach(&desk.domain, endpoint(OTHER), DmaLimits::address_bits(20)).unwrap();
        let (failure, requests, _) =
            desk.cost(|| device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err());
        drop(refused(failure, MapError::OutOfIova));
        assert_eq!(requests, []);
        let wide =
            DmaDevice::attach(&desk.domain, endpoint(OTHER), DmaLimits::address_bits(21)).unwrap();
        let mapping = wide.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        assert!(mapping.iova().start().0 >= 0x10_0000);
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn alignment_boundary_and_longest_segment() {
    for _ in each!() {
        for (align, boundary, longest) in [
            (0x1_0000, 0, u64::MAX),
            (1, 0x2000, u64::MAX),
            (1, 0x1_0000, 0x1800),
            (0x4000, 0x4000, 0x1000),
            (1, 0, 1),
        ] {
            let limits = DmaLimits::default()
                .with_align(align)
                .with_boundary(boundary)
                .with_max_segment(longest);
            let desk = Desk::with(DomainOptions::new(64), limits);
            let mut mappings = Vec::new();
            for pages in [1, 2, 3, 4, 5, 8, 16] {
                if longest == 1 && pages > 1 {
                    continue;
                }
                let mapping = desk.device.map::<FromDevice, _>(desk.alloc(pages)).unwrap();
                let whole = mapping.iova();
                assert_eq!(whole.start().0 % align, 0);
                let mut next = whole.start().0;
                for part in mapping.segments() {
                    assert_eq!(part.start().0, next);
                    next = part.end().0 + 1;
                    assert!(part.end().0 - part.start().0 < longest);
                    if boundary != 0 {
                        assert!((part.start().0 ^ part.end().0) < boundary);
                    }
                }
                assert_eq!(next - 1, whole.end().0);
                if boundary != 0 && pages as u64 * 0x1000 <= boundary {
                    assert!((whole.start().0 ^ whole.end().0) < boundary);
                }
                mappings.push(mapping);
            }
            mappings
                .into_iter()
                .for_each(|m| drop(done(m).unmap().unwrap()));
            desk.assert_empty();
        }
    }
}

#[test]
fn as_many_mappings_and_parts_as_there_is_room_for() {
    for _ in each!() {
        const PIECES: usize = 6;
        for capacity in 0..=PIECES + 1 {
            let desk = Desk::with(DomainOptions::new(capacity), Default::default());
            let list: Vec<_> = (0..PIECES).map(|_| desk.alloc(1)).collect();
            let (result, requests, _) = desk.cost(|| desk.device.map::<ToDevice, _>(list));
            if capacity == PIECES + 1 {
                drop(done(result.unwrap()).unmap().unwrap());
            } else {
                let list = refused(result.unwrap_err(), MapError::Full);
                assert_eq!((list.len(), requests.len()), (PIECES, 0));
            }
            // All the room is there again.
            let mut mappings = Vec::new();
            for _ in 0..capacity {
                mappings.push(desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap());
            }
            let failure = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err();
            drop(refused(failure, MapError::Full));
            mappings
                .into_iter()
                .for_each(|m| drop(done(m).unmap().unwrap()));
            desk.assert_empty();
        }
    }
}

#[test]
fn nothing_wrong_reaches_the_ring() {
    let _proof = proves(Oracle::Ret, &["DN-OPS-4", "DV-MAP-1", "DN-MAP-T1"]);
    for _ in each!() {
        let desk = Desk::new();
        let none = Vec::<crate::desk::Buf>::new();
        let half = || PhysRange::new(PhysAddr(0), PhysAddr(u64::MAX / 2)).unwrap();
        let all = PhysRange::new(PhysAddr(0), PhysAddr(u64::MAX)).unwrap();
        let (_, requests, kicks) = desk.cost(|| {
            let failure = desk.device.map::<ToDevice, _>(none).unwrap_err();
            refused(failure, MapError::Length);
            for list in [vec![half(), half()], vec![all], vec![]] {
                let failure = desk.device.map::<ToDevice, _>(Elsewhere(list)).unwrap_err();
                refused(failure, MapError::Length);
            }
            // Within 64 bits, and not within what the device translates.
            let failure = desk.device.map::<ToDevice, _>(Elsewhere(vec![half()]));
            refused(failure.unwrap_err(), MapError::OutOfIova);
            let wide = vec![piece(0, 1 << 62), piece(1 << 63, 1 << 62)];
            let failure = desk.device.map_apart::<ToDevice, _>(Elsewhere(wide));
            refused(failure.unwrap_err(), MapError::OutOfIova);
            for (start, len) in [
                (1, 0),
                (0x800, 0),
                (0, 1),
                (0, u64::MAX - 0x1fff),
                (0x800, 0x800),
            ] {
                let len = if len > 0x1000 { 0x7ff } else { len };
                let buffer = shuffled(desk.alloc(2), &[0, 1]).with_skew(start, len);
                let failure = desk.device.map_apart::<ToDevice, _>(buffer).unwrap_err();
                refused(failure, MapError::Misaligned);
            }
        });
        assert_eq!((requests.len(), kicks), (0, 0));
        desk.assert_empty();
    }
}

#[test]
fn granules_of_64_kib() {
    let _proof = proves(Oracle::Ret, &["DV-MAP-1"]);
    for _ in each!() {
        let model = wide_model();
        model.with(|d| {
            d.config.page_size_mask = 0xffff_ffff_ffff_0000;
            d.config.input_range = (0, 0xff_ffff_ffff);
        });
        let desk = Desk::on(model, 16.into(), Default::default());
        let buffer = desk.alloc(1);
        assert_eq!(buffer.len(), 0x1_0000);
        let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
        assert_eq!(mapping.iova().start().0 % 0x1_0000, 0);
        assert_eq!(desk.dma_write(mapping.device_addr().0 + 0xffff, b"x"), 1);
        let buffer = done(mapping).unmap().unwrap();
        assert_eq!(buffer[0xffff], b'x');
        // Pieces of whole pages are not enough.
        let (failure, requests, _) = desk.cost(|| {
            let small = shuffled(buffer, &[0, 1, 3, 2]);
            desk.device.map::<FromDevice, _>(small).unwrap_err()
        });
        drop(refused(failure, MapError::Misaligned));
        assert_eq!(requests, []);
        let low = DmaDevice::attach(&desk.domain, endpoint(OTHER), DmaLimits::address_bits(16));
        assert_eq!(low.expect_err("no granule"), DmaError::Mask);
        desk.assert_empty();
    }
}

#[test]
fn without_an_endpoint_there_is_nothing_to_map_for() {
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let desk = Desk::new();
        desk.device.clone().detach().unwrap();
        let (failure, requests, _) =
            desk.cost(|| desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap_err());
        drop(refused(failure, MapError::NotAttached));
        assert_eq!(requests, []);
        let bar = piece(0x4000_0000, 0x1000);
        // SAFETY: nothing is there.
        let result = unsafe { desk.device.map_resource::<ToDevice>(bar) };
        assert_eq!(result.unwrap_err(), MapError::NotAttached);
        desk.assert_empty();
    }
}
