//! What an endpoint gets to see: nothing that it was not meant to, even where the IOMMU lets it
//! read what was mapped for writing (virtio 1.2 §5.13.6.5.2).

use crate::each;
use std::sync::Arc;

use virtio_iommu::DomainOptions;
use virtio_iommu::dma::{Bidirectional, Bounce, BounceOptions, DmaDevice, FromDevice, ToDevice};

use crate::buffers::shuffled;
use crate::desk::{Buf, Desk, phys_of, wide_model};
use crate::model::OTHER;
use crate::rig::endpoint;
use crate::ways::done;

/// A device on which whoever can write can read.
fn leaky() -> Desk {
    let model = wide_model();
    model.with(|d| d.unit.quirks.write_implies_read = true);
    Desk::on(model, DomainOptions::new(64), Default::default())
}

/// Everything that the endpoint can read of a buffer that is mapped for writing.
fn shown(desk: &Desk, buffer: Buf) -> (Vec<u8>, Buf) {
    let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
    let seen = desk
        .dma_read(mapping.device_addr().0, mapping.len())
        .unwrap();
    (seen, done(mapping).unmap().unwrap())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn what_the_cpu_wrote_is_gone_before_it_is_shown() {
    for _ in each!() {
        let desk = leaky();
        let (seen, mut buffer) = shown(&desk, desk.filled(2, 0x55));
        assert!(is_zero(&seen));
        assert!(is_zero(&buffer));
        // Again, by one byte in the midst.
        buffer[0x1234] = 1;
        let (seen, buffer) = shown(&desk, buffer);
        assert!(is_zero(&seen));
        // What is meant to be read is.
        let mut buffer = buffer;
        buffer.fill(9);
        let mapping = desk.device.map::<ToDevice, _>(buffer).unwrap();
        let seen = desk.dma_read(mapping.device_addr().0, 0x2000).unwrap();
        assert!(seen.iter().all(|byte| *byte == 9));
        let mut buffer = done(mapping).unmap().unwrap();
        buffer.fill(8);
        let mapping = desk.device.map::<Bidirectional, _>(buffer).unwrap();
        let seen = desk.dma_read(mapping.device_addr().0, 0x2000).unwrap();
        assert!(seen.iter().all(|byte| *byte == 8));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn what_the_endpoint_wrote_itself_need_not_be_hidden_from_it() {
    for _ in each!() {
        let desk = leaky();
        let mapping = desk.device.map::<FromDevice, _>(desk.alloc(1)).unwrap();
        assert_eq!(desk.dma_write(mapping.device_addr().0, b"mine"), 4);
        let buffer = done(mapping).unmap().unwrap();
        assert_eq!(&buffer[..4], b"mine");
        let (seen, buffer) = shown(&desk, buffer);
        assert_eq!(&seen[..4], b"mine");
        assert!(is_zero(&seen[4..]));
        drop(buffer);
        desk.assert_empty();
    }
}

#[test]
fn what_one_domain_wrote_is_no_business_of_another() {
    for _ in each!() {
        let desk = leaky();
        let domain = Arc::new(desk.iommu.create_domain(16).unwrap());
        let other = DmaDevice::attach(&domain, endpoint(OTHER), Default::default()).unwrap();
        let mut buffer = desk.alloc(1);
        for round in 0..3 {
            let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
            let seen = desk.dma_read(mapping.device_addr().0, 0x1000).unwrap();
            assert!(is_zero(&seen), "round {round}: seen by the first");
            desk.dma_write(mapping.device_addr().0, b"of the first");
            buffer = done(mapping).unmap().unwrap();
            assert_eq!(&buffer[..12], b"of the first");
            let mapping = other.map::<FromDevice, _>(buffer).unwrap();
            let at = mapping.device_addr().0;
            let seen = desk.model.with(|d| d.dma_read(OTHER, at, 0x1000));
            let seen: Vec<u8> = seen.into_iter().map(Option::unwrap).collect();
            assert!(is_zero(&seen), "round {round}: seen by the second");
            desk.model
                .with(|d| d.dma_write(OTHER, at, b"of the second"));
            buffer = done(mapping).unmap().unwrap();
        }
        drop(buffer);
        desk.assert_empty();
    }
}

#[test]
fn every_piece_of_a_list_is_concealed_by_itself() {
    for _ in each!() {
        let desk = leaky();
        let mut first = desk.alloc(1);
        first = shown(&desk, first).1;
        let list = vec![first, desk.filled(1, 5), desk.alloc(1), desk.filled(2, 6)];
        let mapping = desk
            .device
            .map::<FromDevice, _>(list.into_boxed_slice())
            .unwrap();
        let seen = desk.dma_read(mapping.device_addr().0, 0x5000).unwrap();
        assert!(is_zero(&seen));
        drop(done(mapping).unmap().unwrap());
        // A buffer that does not know who has seen it is zeroed each time.
        let buffer = shuffled(desk.filled(3, 7), &[1, 0, 2]);
        let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
        let at = mapping.device_addr().0;
        assert!(is_zero(&desk.dma_read(at, 0x3000).unwrap()));
        desk.dma_write(at, b"x");
        let buffer = done(mapping).unmap().unwrap();
        let mapping = desk.device.map::<FromDevice, _>(buffer).unwrap();
        assert!(is_zero(
            &desk.dma_read(mapping.device_addr().0, 0x3000).unwrap()
        ));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn an_exchange_conceals_what_comes() {
    for _ in each!() {
        let desk = leaky();
        let mapping = desk.device.map::<ToDevice, _>(desk.alloc(1)).unwrap();
        let next = desk.filled(1, 0x77);
        let result = desk
            .device
            .exchange::<_, _, _, FromDevice>(done(mapping), next);
        drop(result.unmapped.unwrap());
        let mapping = result.mapped.unwrap();
        assert!(is_zero(
            &desk.dma_read(mapping.device_addr().0, 0x1000).unwrap()
        ));
        drop(done(mapping).unmap().unwrap());
        desk.assert_empty();
    }
}

#[test]
fn pools_show_only_what_went_through_them() {
    for _ in each!() {
        let desk = leaky();
        let neighbour = desk.filled(1, 0x99);
        let options = BounceOptions::default().with_pools(0x1000, 0x1000);
        let bounce = Bounce::new(&desk.device, options).unwrap();
        let out = bounce.to_device(b"for the endpoint").unwrap();
        let into = bounce.from_device(100).unwrap();
        let (out_at, in_at) = (out.device_addr().0, into.device_addr().0);
        // All that the endpoint can reach: both pools, granule by granule.
        let mappings = desk.model.mappings(desk.domain.id().0).unwrap();
        assert_eq!(mappings.len(), 2);
        for mapping in mappings {
            for at in (mapping.start..=mapping.end).step_by(16) {
                let seen = desk.dma_read(at, 16).unwrap();
                match at == out_at {
                    true => assert_eq!(seen, b"for the endpoint"),
                    false => assert!(is_zero(&seen), "{at:#x}"),
                }
            }
            // In front of a pool is memory that nobody uses.
            let before = desk.peek(mapping.phys - 0x1000, 0x1000);
            assert!(is_zero(&before));
            assert!(desk.model.ram().is_live(mapping.phys - 0x1000, 0x2000));
            assert_ne!(phys_of(&neighbour) + 0x1000, mapping.phys);
        }
        desk.dma_write(in_at, b"answer");
        let mut answer = [0; 6];
        assert!(into.finish_into(&mut answer));
        assert_eq!(&answer, b"answer");
        out.finish();
        drop(neighbour);
        // SAFETY: the endpoint is a function of the test.
        assert!(unsafe { bounce.close() }.is_ok());
        desk.assert_empty();
    }
}
