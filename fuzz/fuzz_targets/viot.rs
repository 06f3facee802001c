//! The VIOT reader: any bytes, and the same bytes with a frame that lets them through.
//!
//! A checksum and a length keep a fuzzer out for a long time; so each input is read a second time
//! with both put right.

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use virtio_iommu::topology::viot::{HEADER_LEN, MAX_WARNINGS, SIGNATURE, from_viot};
use virtio_iommu::topology::{
    IommuLocation, MAX_IOMMUS, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, Placement, RequesterId,
    Topology,
};

fuzz_target!(|input: &[u8]| {
    read(input);
    if input.len() >= HEADER_LEN {
        read(&framed(input));
    }
});

/// The same bytes with the signature, length and checksum of a VIOT.
fn framed(table: &[u8]) -> Vec<u8> {
    let mut table = table.to_vec();
    let length = u32::try_from(table.len()).expect("inputs are small");
    table[..4].copy_from_slice(&SIGNATURE);
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}

fn read(table: &[u8]) {
    let Ok(description) = from_viot(table) else {
        return;
    };
    assert!(description.warnings.len() <= MAX_WARNINGS);
    for warning in &description.warnings {
        assert!(warning.offset <= table.len());
        assert!(!warning.to_string().is_empty());
    }
    check(&description.topology);
}

/// What holds for every topology.
fn check(topology: &Topology) {
    assert!(topology.iommus().len() <= MAX_IOMMUS);
    assert!(topology.ranges().len() <= MAX_PCI_RANGES);
    assert!(topology.platform().len() <= MAX_PLATFORM_ENDPOINTS);
    for range in topology.ranges().iter().take(16) {
        for edge in [range.first(), range.last(), RequesterId(0x08)] {
            let placement = topology.pci(range.segment(), edge);
            if let Placement::Behind { iommu, .. } = placement {
                let iommu = topology.iommus()[iommu.0];
                let itself = matches!(iommu, IommuLocation::Pci(address)
                    if (address.segment, address.function) == (range.segment(), edge));
                assert!(!itself, "an IOMMU behind itself");
            }
        }
    }
    for endpoint in topology.platform().iter().take(16) {
        assert!(endpoint.iommu.0 < topology.iommus().len());
        let base = endpoint.base.expect("VIOT names devices by address");
        assert!(topology.platform_at(base).any(|found| found == endpoint));
    }
}
