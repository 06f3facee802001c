//! Nodes that make no sense: skipped with a warning that says which and why; the rest is read.

use virtio_iommu::PhysAddr;
use virtio_iommu::topology::viot::{List, MAX_WARNINGS, WarningKind, from_viot};
use virtio_iommu::topology::{
    MAX_IOMMUS, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, Placement, Topology,
};

use crate::good::{ask, behind, mmio, pci};
use crate::writer::{Range, Table, plain, range_payload};

/// Reads a table whose warnings are `expected`.
fn read(table: Table, expected: &[(u16, WarningKind)]) -> Topology {
    let description = from_viot(&table.finish()).unwrap();
    let warnings: Vec<_> = description
        .warnings
        .iter()
        .map(|warning| (u16::try_from(warning.offset).unwrap(), warning.kind))
        .collect();
    assert_eq!(warnings, expected);
    assert_eq!(description.warnings_omitted, 0);
    description.topology
}

/// An IOMMU, a bad node that `make` adds, and a good range on bus 1: the range has to survive.
fn one_bad(make: impl FnOnce(&mut Table, u16) -> u16, kind: WarningKind) {
    let mut table = Table::new();
    let iommu = table.pci_iommu(0, 8);
    let bad = make(&mut table, iommu);
    table.range(plain(0x100, 0x1ff, iommu));
    let topology = read(table, &[(bad, kind)]);
    assert_eq!(topology.iommus(), [pci(0, 8)]);
    assert_eq!(topology.ranges().len(), 1);
    assert_eq!(topology.platform(), []);
    assert_eq!(ask(&topology, 0, 0x20), Placement::NotBehind);
    assert_eq!(ask(&topology, 0, 0x120), behind(0, 0x120));
}

#[test]
fn ranges_do_not_run_backwards() {
    let (first, last) = (0x20, 0x1f);
    one_bad(
        |table, iommu| table.range(plain(first, last, iommu)),
        WarningKind::InvertedRange { first, last },
    );
    let (first, last) = (1, 0);
    let range = |iommu| Range {
        segments: (first, last),
        ..plain(0, 0xff, iommu)
    };
    one_bad(
        |table, iommu| table.range(range(iommu)),
        WarningKind::InvertedSegments { first, last },
    );
}

#[test]
fn endpoint_ids_do_not_wrap() {
    let wrapping = [
        (0xffff_ff01, (0, 0), (0, 0xff)),
        (0xffff_0001, (0, 0), (0, 0xffff)),
        (1, (0, 0xffff), (0, 0xffff)),
        (0x8000_0000, (0, 0x8000), (0, 0)),
    ];
    for (endpoint, segments, requesters) in wrapping {
        one_bad(
            |table, output| {
                table.range(Range {
                    endpoint,
                    segments,
                    requesters,
                    output,
                })
            },
            WarningKind::EndpointsWrap(endpoint),
        );
    }
}

#[test]
fn a_reference_leads_to_the_first_byte_of_an_iommu() {
    // 48 IOMMU, 64 the node in question, 88 a range; and what is no node at all.
    for output in [0, 1, 36, 47, 49, 52, 63, 64, 65, 88, 112, 113, 0xffff] {
        let kind = WarningKind::NoIommu(output);
        one_bad(|table, _| table.range(plain(0, 0xff, output)), kind);
        one_bad(|table, _| table.mmio_endpoint(5, 0x1000, output), kind);
    }
}

#[test]
fn bytes_that_look_like_an_iommu_are_none() {
    // Inside of a node of an unknown type there is what would be an IOMMU.
    let mut inner = Table::new();
    inner.pci_iommu(0, 0x18);
    let mut table = Table::new();
    let unknown = table.node(9, &inner.bytes[48..]);
    let range = table.range(plain(0, 0xff, unknown + 4));
    let expected = [
        (unknown, WarningKind::UnknownType(9)),
        (range, WarningKind::NoIommu(unknown + 4)),
    ];
    assert_eq!(read(table, &expected), Topology::new());
}

#[test]
fn an_iommu_before_the_first_node_is_none() {
    let mut table = Table::new();
    let iommu = table.pci_iommu(0, 8);
    let range = table.range(plain(0, 0xff, iommu));
    table.nodes = 1;
    table.bytes[38..40].copy_from_slice(&range.to_le_bytes());
    let topology = read(table, &[(range, WarningKind::NoIommu(iommu))]);
    assert_eq!(topology, Topology::new());
}

#[test]
fn short_nodes_are_skipped() {
    for (kind, known) in [(1, 24), (2, 24), (3, 16), (4, 16)] {
        for length in [4, 5, known - 1] {
            let short = |table: &mut Table, _| table.node(kind, &vec![0; length - 4]);
            one_bad(short, WarningKind::Short { kind, length });
        }
    }
}

#[test]
fn nobody_is_behind_an_iommu_that_was_skipped() {
    let mut table = Table::new();
    let short = table.node(3, &[0; 11]);
    let range = table.range(plain(0, 0xff, short));
    let endpoint = table.mmio_endpoint(1, 0x1000, short);
    let unusable = WarningKind::UnusableIommu(short);
    let expected = [
        (
            short,
            WarningKind::Short {
                kind: 3,
                length: 15,
            },
        ),
        (range, unusable),
        (endpoint, unusable),
    ];
    assert_eq!(read(table, &expected), Topology::new());
}

#[test]
fn two_nodes_may_mean_the_same_iommu() {
    let mut table = Table::new();
    let first = table.pci_iommu(0, 8);
    let again = table.pci_iommu(0, 8);
    let elsewhere = table.pci_iommu(1, 8);
    let mmio_first = table.mmio_iommu(0x1000);
    let mmio_again = table.mmio_iommu(0x1000);
    table.range(plain(0, 0xff, again));
    table.range(plain(0x100, 0x1ff, first));
    table.range(plain(0x200, 0x2ff, elsewhere));
    table.range(plain(0x300, 0x3ff, mmio_again));
    table.range(plain(0x400, 0x4ff, mmio_first));
    let expected = [
        (again, WarningKind::DuplicateIommu),
        (mmio_again, WarningKind::DuplicateIommu),
    ];
    let topology = read(table, &expected);
    assert_eq!(topology.iommus(), [pci(0, 8), pci(1, 8), mmio(0x1000)]);
    assert_eq!(ask(&topology, 0, 0x20), behind(0, 0x20));
    assert_eq!(ask(&topology, 0, 0x08), Placement::NotBehind);
    assert_eq!(ask(&topology, 0, 0x120), behind(0, 0x120));
    assert_eq!(ask(&topology, 0, 0x220), behind(1, 0x220));
    assert_eq!(ask(&topology, 0, 0x320), behind(2, 0x320));
    assert_eq!(ask(&topology, 0, 0x420), behind(2, 0x420));
}

#[test]
fn where_ranges_overlap_the_first_one_counts() {
    let mut table = Table::new();
    let near = table.pci_iommu(0, 8);
    let far = table.mmio_iommu(0x1000);
    table.range(plain(0x100, 0x1ff, near));
    let inside = table.range(Range {
        endpoint: 0x7000,
        ..plain(0x120, 0x130, far)
    });
    let across = table.range(Range {
        endpoint: 0x8000,
        ..plain(0x180, 0x280, far)
    });
    let segments = table.range(Range {
        endpoint: 0x9000,
        segments: (0, 1),
        ..plain(0x100, 0x100, far)
    });
    table.range(plain(0x281, 0x281, near));
    let overlapping = WarningKind::OverlappingRange;
    let expected = [
        (inside, overlapping),
        (across, overlapping),
        (segments, overlapping),
    ];
    let topology = read(table, &expected);
    assert_eq!(ask(&topology, 0, 0x100), behind(0, 0x100));
    assert_eq!(ask(&topology, 0, 0x120), behind(0, 0x120));
    assert_eq!(ask(&topology, 0, 0x1ff), behind(0, 0x1ff));
    // What only the later ones have is theirs.
    assert_eq!(ask(&topology, 0, 0x200), behind(1, 0x8080));
    assert_eq!(ask(&topology, 0, 0x280), behind(1, 0x8100));
    assert_eq!(ask(&topology, 1, 0x100), behind(1, 0x1_9000));
    assert_eq!(ask(&topology, 0, 0x281), behind(0, 0x281));
}

#[test]
fn an_mmio_iommu_is_not_behind_itself() {
    let mut table = Table::new();
    let one = table.mmio_iommu(0x1000);
    let other = table.mmio_iommu(0x2000);
    let itself = table.mmio_endpoint(7, 0x1000, one);
    table.mmio_endpoint(7, 0x1000, other);
    let topology = read(table, &[(itself, WarningKind::IommuItself)]);
    let [endpoint] = topology.platform() else {
        panic!("{:?}", topology.platform())
    };
    assert_eq!(
        (endpoint.iommu.0, endpoint.base),
        (1, Some(PhysAddr(0x1000)))
    );
}

#[test]
fn an_endpoint_is_listed_once() {
    let mut table = Table::new();
    let iommu = table.mmio_iommu(0x1000);
    table.mmio_endpoint(7, 0x3000, iommu);
    let again = table.mmio_endpoint(7, 0x3000, iommu);
    let topology = read(table, &[(again, WarningKind::DuplicateEndpoint)]);
    assert_eq!(topology.platform().len(), 1);
}

#[test]
fn lists_have_bounds() {
    let mut table = Table::new();
    let first = table.mmio_iommu(0);
    for base in 1..MAX_IOMMUS as u64 {
        table.mmio_iommu(base);
    }
    let extra = table.mmio_iommu(0xffff);
    let homeless = table.range(plain(0, 0, extra));
    for id in 0..=MAX_PCI_RANGES as u16 {
        table.range(plain(id, id, first));
    }
    for id in 0..=MAX_PLATFORM_ENDPOINTS as u32 {
        table.mmio_endpoint(id, 0x10_0000 + u64::from(id), first);
    }
    let description = from_viot(&table.finish()).unwrap();
    let topology = &description.topology;
    assert_eq!(topology.iommus().len(), MAX_IOMMUS);
    assert_eq!(topology.ranges().len(), MAX_PCI_RANGES);
    assert_eq!(topology.platform().len(), MAX_PLATFORM_ENDPOINTS);
    let kinds: Vec<_> = description
        .warnings
        .iter()
        .map(|warning| warning.kind)
        .collect();
    let expected = [
        WarningKind::TooMany(List::Iommus),
        WarningKind::UnusableIommu(extra),
        WarningKind::TooMany(List::PciRanges),
        WarningKind::TooMany(List::MmioEndpoints),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(description.warnings[0].offset, usize::from(extra));
    assert_eq!(description.warnings[1].offset, usize::from(homeless));
    let last = MAX_PCI_RANGES as u16 - 1;
    assert_eq!(ask(topology, 0, last), behind(0, last.into()));
    assert_eq!(ask(topology, 0, last + 1), Placement::NotBehind);
}

#[test]
fn warnings_are_counted_when_they_are_no_longer_kept() {
    let mut table = Table::new();
    for _ in 0..MAX_WARNINGS + 3 {
        table.node(9, &[]);
    }
    let description = from_viot(&table.finish()).unwrap();
    assert_eq!(description.warnings.len(), MAX_WARNINGS);
    assert_eq!(description.warnings_omitted, 3);
}

#[test]
fn an_iommu_beyond_the_reach_of_references_is_listed_all_the_same() {
    let mut table = Table::new();
    let near = table.pci_iommu(0, 8);
    table.node(9, &[0; 65_000]);
    table.node(9, &[0; 1_000]);
    table.pci_iommu(0, 0x10);
    // 48 + 16 + 65004 + 1004 = 66072, which is 536 in 16 bits.
    let wrapped = (66_072_u32 & 0xffff) as u16;
    let mut range = range_payload(plain(0x100, 0x1ff, wrapped));
    table.node(1, &range);
    range[12..14].copy_from_slice(&near.to_le_bytes());
    table.node(1, &range);
    let description = from_viot(&table.finish()).unwrap();
    assert_eq!(description.topology.iommus(), [pci(0, 8), pci(0, 0x10)]);
    assert_eq!(description.topology.ranges().len(), 1);
    let kinds: Vec<_> = description
        .warnings
        .iter()
        .map(|warning| warning.kind)
        .collect();
    let unknown = WarningKind::UnknownType(9);
    assert_eq!(kinds, [unknown, unknown, WarningKind::NoIommu(wrapped)]);
}
