//! The device-tree reader: any bytes.

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use virtio_iommu::topology::device_tree::{MAX_HOST_BRIDGES, MAX_WARNINGS, from_device_tree};
use virtio_iommu::topology::{
    MAX_IOMMUS, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, Placement, RequesterId,
};

fuzz_target!(|blob: &[u8]| {
    let Ok(description) = from_device_tree(blob) else {
        return;
    };
    assert!(description.warnings.len() <= MAX_WARNINGS);
    for warning in &description.warnings {
        assert!(!warning.to_string().is_empty());
    }
    assert!(description.host_bridges.len() <= MAX_HOST_BRIDGES);
    let topology = &description.topology;
    assert!(topology.iommus().len() <= MAX_IOMMUS);
    assert!(topology.ranges().len() <= MAX_PCI_RANGES);
    assert!(topology.platform().len() <= MAX_PLATFORM_ENDPOINTS);
    for range in topology.ranges().iter().take(16) {
        for edge in [range.first(), range.last(), RequesterId(0x08)] {
            if let Placement::Behind { iommu, .. } = topology.pci(range.segment(), edge) {
                assert!(iommu.0 < topology.iommus().len());
            }
        }
    }
    for endpoint in topology.platform().iter().take(16) {
        assert!(endpoint.iommu.0 < topology.iommus().len());
        let node = endpoint
            .node
            .as_deref()
            .expect("a device tree names devices by path");
        assert!(topology.platform_node(node).any(|found| found == endpoint));
    }
});
