//! A machine of our own as a device tree, and what is asked about it.

use virtio_iommu::topology::device_tree::{Description, WarningKind, from_device_tree};
use virtio_iommu::topology::{Placement, RequesterId, Segment};

use crate::fdt::Node;

pub const PCI: &[&str] = &["soc", "pci@30000000"];
pub const IOMMU: &[&str] = &["soc", "pci@30000000", "iommu@1,0"];
pub const MMIO: &[&str] = &["soc", "virtio@10000"];
pub const DMA: &[&str] = &["soc", "dma@20000"];

/// A machine with an IOMMU on PCI (phandle 1), one on MMIO (phandle 2), a foreign one (phandle 3),
/// and a platform device.
pub fn machine() -> Node {
    let iommu = Node::new("iommu@1,0")
        .strings("compatible", &["virtio,pci-iommu"])
        .cells("reg", &[0x800, 0, 0, 0, 0])
        .cells("#iommu-cells", &[1])
        .cells("phandle", &[1]);
    let pci = Node::new("pci@30000000")
        .strings("compatible", &["pci-host-ecam-generic"])
        .strings("device_type", &["pci"])
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .cells("bus-range", &[0, 0xff])
        .cells("linux,pci-domain", &[0])
        .cells("reg", &[0, 0x3000_0000, 0, 0x1000_0000])
        .cells(
            "ranges",
            &[0x0200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x4000_0000],
        )
        .cells("iommu-map", &[0, 1, 0, 8, 9, 1, 9, 0xfff7])
        .child(iommu);
    let mmio = Node::new("virtio@10000")
        .strings("compatible", &["virtio,mmio"])
        .cells("reg", &[0, 0x1_0000, 0, 0x200])
        .cells("#iommu-cells", &[1])
        .cells("phandle", &[2]);
    let foreign = Node::new("smmu@30000")
        .strings("compatible", &["arm,smmu-v3"])
        .cells("reg", &[0, 0x3_0000, 0, 0x1000])
        .cells("#iommu-cells", &[2])
        .cells("phandle", &[3]);
    let dma = Node::new("dma@20000")
        .cells("reg", &[0, 0x2_0000, 0, 0x1000])
        .cells("iommus", &[2, 0x50, 1, 0x10000, 2, 0x51]);
    let soc = Node::new("soc")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .cells("ranges", &[0, 0, 0x10, 0, 0x10, 0])
        .child(dma)
        .child(pci)
        .child(mmio)
        .child(foreign);
    Node::new("")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .child(soc)
}

pub fn read(tree: &Node) -> Description {
    from_device_tree(&tree.blob()).unwrap()
}

/// Reads the machine after a change.
pub fn changed(change: impl FnOnce(&mut Node)) -> Description {
    let mut tree = machine();
    change(&mut tree);
    read(&tree)
}

pub fn warnings(description: &Description) -> Vec<(&str, WarningKind)> {
    assert_eq!(description.warnings_omitted, 0);
    let list = description.warnings.iter();
    list.map(|warning| (warning.node.as_str(), warning.kind))
        .collect()
}

/// The endpoint id of a requester id in segment 0.
pub fn endpoint(description: &Description, id: u16) -> Option<u32> {
    match description.topology.pci(Segment(0), RequesterId(id)) {
        Placement::Behind { endpoint, .. } => Some(endpoint.0),
        Placement::NotBehind => None,
    }
}

pub fn platform(description: &Description) -> Vec<(usize, u32)> {
    let list = description.topology.platform_node("/soc/dma@20000");
    list.map(|entry| (entry.iommu.0, entry.endpoint.0))
        .collect()
}

pub const PCI_PATH: &str = "/soc/pci@30000000";
pub const DMA_PATH: &str = "/soc/dma@20000";
