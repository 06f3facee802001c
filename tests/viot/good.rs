//! Hand-made tables that make sense, and what no table of QEMU has: several segments, several
//! IOMMUs, MMIO endpoints, references forward, nodes of the future.

use virtio_iommu::topology::viot::{HEADER_LEN, SIGNATURE, WarningKind, from_viot};
use virtio_iommu::topology::{
    IommuIndex, IommuLocation, PciAddress, Placement, PlatformEndpoint, RequesterId, Segment,
    Topology,
};
use virtio_iommu::{EndpointId, PhysAddr};

use crate::writer::{FIRST_NODE, Range, Table, plain, range_payload};

pub fn pci(segment: u16, function: u16) -> IommuLocation {
    IommuLocation::Pci(PciAddress {
        segment: Segment(segment),
        function: RequesterId(function),
    })
}

pub fn mmio(base: u64) -> IommuLocation {
    let base = PhysAddr(base);
    IommuLocation::Mmio { base, size: None }
}

pub fn ask(topology: &Topology, segment: u16, requester: u16) -> Placement {
    topology.pci(Segment(segment), RequesterId(requester))
}

pub fn behind(iommu: usize, endpoint: u32) -> Placement {
    Placement::Behind {
        iommu: IommuIndex(iommu),
        endpoint: EndpointId(endpoint),
    }
}

/// Reads a table that deserves no warning.
pub fn read(table: Table) -> Topology {
    let description = from_viot(&table.finish()).unwrap();
    assert_eq!(description.warnings, []);
    assert_eq!(description.warnings_omitted, 0);
    description.topology
}

#[test]
fn the_constants_are_those_of_the_specification() {
    assert_eq!(SIGNATURE, *b"VIOT");
    assert_eq!(HEADER_LEN, usize::from(FIRST_NODE));
}

#[test]
fn segments_are_65536_endpoints_apart() {
    let mut table = Table::new();
    let iommu = table.pci_iommu(2, 0x0108);
    table.range(Range {
        endpoint: 0x7000,
        segments: (2, 5),
        requesters: (0x100, 0x1ff),
        output: iommu,
    });
    let topology = read(table);
    assert_eq!(topology.iommus(), [pci(2, 0x0108)]);
    assert_eq!(ask(&topology, 2, 0x100), behind(0, 0x7000));
    assert_eq!(ask(&topology, 2, 0x1ff), behind(0, 0x70ff));
    assert_eq!(ask(&topology, 5, 0x100), behind(0, 0x3_7000));
    assert_eq!(ask(&topology, 5, 0x1ff), behind(0, 0x3_70ff));
    for (segment, requester) in [(1, 0x100), (6, 0x100), (2, 0xff), (2, 0x200), (5, 0x200)] {
        assert_eq!(ask(&topology, segment, requester), Placement::NotBehind);
    }
    // The IOMMU itself, and its namesake in another segment.
    assert_eq!(ask(&topology, 2, 0x108), Placement::NotBehind);
    assert_eq!(ask(&topology, 3, 0x108), behind(0, 0x1_7008));
}

#[test]
fn the_largest_range_ends_at_the_largest_id() {
    let mut table = Table::new();
    let iommu = table.mmio_iommu(0xa00_0000);
    table.range(Range {
        endpoint: 0,
        segments: (0, 0xffff),
        requesters: (0, 0xffff),
        output: iommu,
    });
    let topology = read(table);
    assert_eq!(ask(&topology, 0, 0), behind(0, 0));
    assert_eq!(ask(&topology, 0xffff, 0xffff), behind(0, u32::MAX));
}

#[test]
fn endpoint_ids_need_not_be_requester_ids() {
    let mut table = Table::new();
    let iommu = table.pci_iommu(0, 0);
    table.range(Range {
        endpoint: 0xffff_fff0,
        segments: (0, 0),
        requesters: (0x20, 0x2f),
        output: iommu,
    });
    let topology = read(table);
    assert_eq!(ask(&topology, 0, 0x20), behind(0, 0xffff_fff0));
    assert_eq!(ask(&topology, 0, 0x2f), behind(0, u32::MAX));
}

#[test]
fn several_iommus_before_and_behind_those_who_refer_to_them() {
    let mut table = Table::new();
    // Laid out by hand: 48 range, 72 IOMMU, 88 endpoint, 112 IOMMU, 128 and 152 ranges.
    table.range(plain(0x000, 0x0ff, 112));
    assert_eq!(table.pci_iommu(0, 0x10), 72);
    table.mmio_endpoint(0x9_0000, 0x1000_0000, 72);
    assert_eq!(table.mmio_iommu(0x2000_0000), 112);
    table.range(plain(0x100, 0x1ff, 72));
    // One IOMMU behind the other.
    table.range(plain(0x200, 0x200, 112));
    let topology = read(table);
    assert_eq!(topology.iommus(), [pci(0, 0x10), mmio(0x2000_0000)]);
    assert_eq!(ask(&topology, 0, 0x08), behind(1, 0x08));
    assert_eq!(ask(&topology, 0, 0x10), behind(1, 0x10));
    assert_eq!(ask(&topology, 0, 0x108), behind(0, 0x108));
    assert_eq!(ask(&topology, 0, 0x200), behind(1, 0x200));
    let endpoint = PlatformEndpoint {
        node: None,
        base: Some(PhysAddr(0x1000_0000)),
        iommu: IommuIndex(0),
        endpoint: EndpointId(0x9_0000),
    };
    assert_eq!(topology.platform(), std::slice::from_ref(&endpoint));
    let found: Vec<_> = topology.platform_at(PhysAddr(0x1000_0000)).collect();
    assert_eq!(found, [&endpoint]);
    assert_eq!(topology.platform_at(PhysAddr(0x2000_0000)).count(), 0);
}

#[test]
fn an_mmio_device_may_have_several_ids() {
    let mut table = Table::new();
    let iommu = table.mmio_iommu(0x2000_0000);
    table.mmio_endpoint(1, 0xffff_ffff_ffff_f000, iommu);
    table.mmio_endpoint(2, 0xffff_ffff_ffff_f000, iommu);
    let topology = read(table);
    let ids: Vec<_> = topology
        .platform_at(PhysAddr(0xffff_ffff_ffff_f000))
        .map(|endpoint| endpoint.endpoint.0)
        .collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn a_table_without_nodes_describes_nobody() {
    assert_eq!(read(Table::new()), Topology::new());
    // The offset of nodes that do not exist means nothing.
    for offset in [0_u16, 1, 47, 0xffff] {
        let mut table = Table::new();
        table.bytes[38..40].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(read(table), Topology::new());
    }
}

#[test]
fn nodes_may_begin_behind_a_longer_header() {
    let mut table = Table::new();
    table.bytes.extend([0xee; 9]);
    table.bytes[38..40].copy_from_slice(&57_u16.to_le_bytes());
    assert_eq!(table.pci_iommu(0, 0x18), 57);
    table.range(plain(0, 0xff, 57));
    let topology = read(table);
    assert_eq!(ask(&topology, 0, 0x20), behind(0, 0x20));
}

#[test]
fn bytes_behind_the_table_do_not_count() {
    let mut table = Table::new();
    let iommu = table.pci_iommu(0, 0x18);
    table.range(plain(0, 0xff, iommu));
    let mut bytes = table.finish();
    let expected = from_viot(&bytes).unwrap();
    bytes.extend([0x55; 4096]);
    assert_eq!(from_viot(&bytes).unwrap(), expected);
}

#[test]
fn revision_oem_and_reserved_bytes_mean_nothing() {
    let mut table = Table::new();
    table.bytes[8] = 1;
    table.bytes[10..36].fill(0xaa);
    table.bytes[40..48].fill(0xbb);
    let mut iommu = vec![0, 0, 0x18, 0];
    iommu.extend([0xcc; 8]);
    let iommu = table.node(3, &iommu);
    let mut range = range_payload(plain(0, 0xff, iommu));
    range[14..].fill(0xdd);
    let range = usize::from(table.node(1, &range));
    table.bytes[range + 1] = 0xee;
    let topology = read(table);
    assert_eq!(ask(&topology, 0, 0x20), behind(0, 0x20));
}

#[test]
fn longer_nodes_are_read_as_far_as_they_are_known() {
    let mut table = Table::new();
    let mut range = range_payload(plain(0, 0xff, 48 + 24 + 3));
    range.extend([0xff; 3]);
    table.node(1, &range);
    let mut iommu = vec![0, 0, 0x18, 0];
    iommu.extend([0; 8]);
    iommu.extend([0xff; 60_000]);
    table.node(3, &iommu);
    let topology = read(table);
    assert_eq!(topology.iommus(), [pci(0, 0x18)]);
    assert_eq!(ask(&topology, 0, 0x20), behind(0, 0x20));
}

#[test]
fn unknown_nodes_are_skipped_by_their_length() {
    for kind in [0, 5, 6, 0xff] {
        let mut table = Table::new();
        let first = table.node(kind, &[0xff; 7]);
        let iommu = table.pci_iommu(0, 0x18);
        let second = table.node(kind, &[]);
        table.range(plain(0, 0xff, iommu));
        let description = from_viot(&table.finish()).unwrap();
        let warned: Vec<_> = description
            .warnings
            .iter()
            .map(|warning| (warning.offset, warning.kind))
            .collect();
        let unknown = WarningKind::UnknownType(kind);
        assert_eq!(warned, [(first.into(), unknown), (second.into(), unknown)]);
        assert_eq!(ask(&description.topology, 0, 0x20), behind(0, 0x20));
    }
}
