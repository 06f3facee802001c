//! Device trees of QEMU 10.0.2 (see `tests/data/README.md`); the answers were read from `dtc`'s
//! output by hand.

use virtio_iommu::address::{EndpointId, PhysAddr, PhysRange};
use virtio_iommu::topology::device_tree::{Description, from_device_tree};
use virtio_iommu::topology::{
    BusRange, HostBridge, IommuIndex, IommuLocation, PciAddress, Placement, RequesterId, Segment,
    Window, WindowKind,
};

pub const RISCV64_SLOT_1: &[u8] = include_bytes!("../data/riscv64-slot-1.dtb");
pub const RISCV64_SLOT_5: &[u8] = include_bytes!("../data/riscv64-slot-5.dtb");
pub const RISCV64_ROOT_PORT: &[u8] = include_bytes!("../data/riscv64-root-port.dtb");
pub const RISCV64_MMIO: &[u8] = include_bytes!("../data/riscv64-mmio.dtb");
pub const AARCH64_SLOT_1: &[u8] = include_bytes!("../data/aarch64-slot-1.dtb");
pub const AARCH64_ROOT_PORT: &[u8] = include_bytes!("../data/aarch64-root-port.dtb");

pub fn read(blob: &[u8]) -> Description {
    let description = from_device_tree(blob).unwrap();
    assert_eq!(description.warnings, []);
    assert_eq!(description.warnings_omitted, 0);
    description
}

fn window(kind: WindowKind, bus: u64, cpu: u64, size: u64) -> Window {
    Window::new(kind, bus, PhysAddr(cpu), size).unwrap()
}

fn riscv64_host() -> HostBridge {
    HostBridge {
        segment: Segment(0),
        buses: BusRange::new(0, 0xff).unwrap(),
        ecam: PhysRange::from_len(PhysAddr(0x3000_0000), 0x1000_0000),
        windows: vec![
            window(WindowKind::Io, 0, 0x300_0000, 0x1_0000),
            window(WindowKind::Memory, 0x4000_0000, 0x4000_0000, 0x4000_0000),
            window(
                WindowKind::Memory,
                0x4_0000_0000,
                0x4_0000_0000,
                0x4_0000_0000,
            ),
        ],
        node: Some("/soc/pci@30000000".into()),
    }
}

fn aarch64_host() -> HostBridge {
    HostBridge {
        segment: Segment(0),
        buses: BusRange::new(0, 0xff).unwrap(),
        ecam: PhysRange::from_len(PhysAddr(0x40_1000_0000), 0x1000_0000),
        windows: vec![
            window(WindowKind::Io, 0, 0x3eff_0000, 0x1_0000),
            window(WindowKind::Memory, 0x1000_0000, 0x1000_0000, 0x2eff_0000),
            window(
                WindowKind::Memory,
                0x80_0000_0000,
                0x80_0000_0000,
                0x80_0000_0000,
            ),
        ],
        node: Some("/pcie@10000000".into()),
    }
}

/// Every requester id of segment 0 is its own endpoint id, except for the IOMMU's.
fn assert_all_but(description: &Description, iommu: u16) {
    let topology = &description.topology;
    let location = IommuLocation::Pci(PciAddress {
        segment: Segment(0),
        function: RequesterId(iommu),
    });
    assert_eq!(topology.iommus(), [location]);
    // The hole is in the map itself, not only in the rule that an IOMMU is not behind itself.
    let in_map = |id| {
        let mut ranges = topology.ranges().iter();
        ranges.any(|range| range.endpoint(Segment(0), RequesterId(id)).is_some())
    };
    for id in 0..=u16::MAX {
        let expected = if id == iommu {
            Placement::NotBehind
        } else {
            Placement::Behind {
                iommu: IommuIndex(0),
                endpoint: EndpointId(id.into()),
            }
        };
        assert_eq!(
            topology.pci(Segment(0), RequesterId(id)),
            expected,
            "{id:#x}"
        );
        assert_eq!(
            topology.pci(Segment(1), RequesterId(id)),
            Placement::NotBehind
        );
        assert_eq!(in_map(id), id != iommu);
    }
    assert_eq!(topology.ranges().len(), 2);
    assert_eq!(topology.platform(), []);
}

#[test]
fn riscv64_with_the_iommu_in_slot_1() {
    let description = read(RISCV64_SLOT_1);
    // iommu-map = <0x00 0x8000 0x00 0x08 0x09 0x8000 0x09 0xfff7>: up to 0x9 + 0xfff7 - 1 = 0xffff.
    assert_all_but(&description, 0x08);
    assert_eq!(description.host_bridges, [riscv64_host()]);
}

#[test]
fn riscv64_with_the_iommu_in_slot_5() {
    let description = read(RISCV64_SLOT_5);
    assert_all_but(&description, 0x28);
    assert_eq!(description.host_bridges, [riscv64_host()]);
}

#[test]
fn riscv64_with_a_root_port() {
    let description = read(RISCV64_ROOT_PORT);
    // Buses behind the port are covered before they have numbers.
    assert_all_but(&description, 0x08);
    assert_eq!(description.host_bridges, [riscv64_host()]);
}

#[test]
fn riscv64_with_an_iommu_that_the_tree_does_not_describe() {
    let description = read(RISCV64_MMIO);
    assert_eq!(
        description.topology,
        virtio_iommu::topology::Topology::new()
    );
    assert_eq!(description.host_bridges, [riscv64_host()]);
}

#[test]
fn aarch64_with_the_iommu_in_slot_1() {
    let description = read(AARCH64_SLOT_1);
    assert_all_but(&description, 0x08);
    assert_eq!(description.host_bridges, [aarch64_host()]);
}

#[test]
fn aarch64_with_a_root_port() {
    let description = read(AARCH64_ROOT_PORT);
    assert_all_but(&description, 0x28);
    assert_eq!(description.host_bridges, [aarch64_host()]);
}

#[test]
fn a_tree_may_be_padded() {
    // As QEMU leaves it on aarch64: 1 MiB, most of it empty, and the header says so.
    let mut blob = AARCH64_SLOT_1.to_vec();
    blob.resize(1 << 20, 0);
    blob[4..8].copy_from_slice(&(1_u32 << 20).to_be_bytes());
    assert_eq!(read(&blob), read(AARCH64_SLOT_1));
    // Or the buffer is larger than the tree.
    let mut blob = RISCV64_SLOT_1.to_vec();
    blob.resize(0x1_0000, 0xa5);
    assert_eq!(read(&blob), read(RISCV64_SLOT_1));
}
