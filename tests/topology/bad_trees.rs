//! Device trees that are wrong in one respect: an error for the whole, or a warning and the rest
//! intact. Here: the format, the IOMMUs, and `iommu-map`.

use proptest::prelude::*;
use virtio_iommu::address::{EndpointId, PhysAddr};
use virtio_iommu::topology::device_tree::{
    DeviceTreeError, MAX_DEPTH, Property, WarningKind, from_device_tree,
};
use virtio_iommu::topology::{IommuIndex, IommuLocation, Placement, RequesterId, Segment};

use crate::fdt::Node;
use crate::machine::{
    DMA, DMA_PATH, IOMMU, MMIO, PCI, PCI_PATH, changed, endpoint, machine, platform, warnings,
};
use crate::qemu_trees::RISCV64_SLOT_1;

#[test]
fn the_machine_itself_is_fine() {
    let description = changed(|_| {});
    assert_eq!(warnings(&description), []);
    assert_eq!(endpoint(&description, 0x08), None);
    assert_eq!(endpoint(&description, 0x10), Some(0x10));
    let [IommuLocation::Pci(pci), IommuLocation::Mmio { base, size }] =
        description.topology.iommus()[..]
    else {
        panic!("{:?}", description.topology.iommus());
    };
    assert_eq!(pci.function, RequesterId(8));
    // /soc moves everything up by 64 GiB.
    assert_eq!((base, size), (PhysAddr(0x10_0001_0000), Some(0x200)));
    let bridge = &description.host_bridges[0];
    assert_eq!(bridge.ecam.unwrap().start(), PhysAddr(0x10_3000_0000));
    assert_eq!(bridge.windows[0].bus(), 0x4000_0000);
    assert_eq!(bridge.windows[0].cpu(), PhysAddr(0x10_4000_0000));
    assert_eq!(platform(&description), [(1, 0x50), (0, 0x10000), (1, 0x51)]);
    let at = description.topology.platform_at(PhysAddr(0x10_0002_0000));
    assert_eq!(at.count(), 3);
}

#[test]
fn trees_that_cannot_be_read() {
    let blob = machine().blob();
    let read = |blob: &[u8]| from_device_tree(blob).unwrap_err();
    assert_eq!(read(&[]), DeviceTreeError::Truncated);
    assert_eq!(read(&blob[..3]), DeviceTreeError::Truncated);
    assert_eq!(read(&[0; 64]), DeviceTreeError::Magic);
    for length in 4..blob.len() {
        assert_eq!(read(&blob[..length]), DeviceTreeError::Truncated);
    }
    let with = |field: usize, value: u32| {
        let mut blob = blob.clone();
        blob[field * 4..][..4].copy_from_slice(&value.to_be_bytes());
        read(&blob)
    };
    // Shorter than its own parts; version; the structure where the strings are; misaligned.
    assert_eq!(with(1, 44), DeviceTreeError::Header);
    assert_eq!(with(1, 20), DeviceTreeError::Truncated);
    assert_eq!(with(5, 16), DeviceTreeError::Version(16));
    assert_eq!(with(3, 40), DeviceTreeError::Header);
    assert_eq!(with(2, 57), DeviceTreeError::Header);
    assert_eq!(with(8, u32::MAX), DeviceTreeError::Header);
    // The root node is no node.
    assert_eq!(with(14, 7), DeviceTreeError::Structure);
    // An end in the middle.
    assert_eq!(with(14, 9), DeviceTreeError::Structure);
}

#[test]
fn truncated_trees_of_qemu() {
    for length in 0..RISCV64_SLOT_1.len() {
        let mut blob = RISCV64_SLOT_1[..length].to_vec();
        assert_eq!(from_device_tree(&blob), Err(DeviceTreeError::Truncated));
        // The header agrees with the length.
        if length >= 8 {
            blob[4..8].copy_from_slice(&(length as u32).to_be_bytes());
            assert!(from_device_tree(&blob).is_err(), "{length}");
        }
    }
}

#[test]
fn nodes_are_nested_as_deep_as_allowed() {
    let nested = |depth: usize| {
        let mut node = Node::new("a");
        for _ in 2..depth {
            node = Node::new("a").child(node);
        }
        Node::new("").child(node)
    };
    assert!(from_device_tree(&nested(MAX_DEPTH).blob()).is_ok());
    let error = Err(DeviceTreeError::TooDeep);
    assert_eq!(from_device_tree(&nested(MAX_DEPTH + 1).blob()), error);
    // A bomb: 100000 levels, written without recursion.
    let mut structure = b"\0\0\0\x01\0\0\0\0".to_vec();
    structure.extend(b"\0\0\0\x01a\0\0\0".repeat(100_000));
    structure.extend(b"\0\0\0\x02".repeat(100_001));
    structure.extend(b"\0\0\0\x09");
    let mut blob = Node::new("").blob()[..56].to_vec();
    let total = 56 + structure.len();
    for (field, value) in [(1, total), (3, total), (9, structure.len())] {
        blob[field * 4..][..4].copy_from_slice(&(value as u32).to_be_bytes());
    }
    blob.extend(structure);
    assert_eq!(from_device_tree(&blob), error);
}

#[test]
fn tuples_that_lead_nowhere() {
    let cases = [
        (0x99, WarningKind::DanglingPhandle(0x99)),
        (0, WarningKind::DanglingPhandle(0)),
        (3, WarningKind::ForeignIommu(3)),
    ];
    for (phandle, warning) in cases {
        let map = [0, phandle, 0, 8, 9, 1, 9, 0xfff7];
        let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", &map));
        assert_eq!(warnings(&description), [(PCI_PATH, warning)]);
        assert_eq!(endpoint(&description, 0x07), None);
        assert_eq!(endpoint(&description, 0x10), Some(0x10));
    }
}

#[test]
fn tuples_that_make_no_sense() {
    let first = |first| WarningKind::EmptyTuple { first };
    let no_such = |first, length| WarningKind::NoSuchRequesters { first, length };
    let cut = |first, length| WarningKind::TooManyRequesters { first, length };
    let overlap = |first| WarningKind::OverlappingTuple { first };
    // The tuple that follows <0x100 1 0x500 0x10>, what is said about it, and some answers.
    type Answers<'a> = &'a [(u16, Option<u32>)];
    let cases: [([u32; 4], WarningKind, Answers<'_>); 9] = [
        ([0x200, 1, 0, 0], first(0x200), &[(0x200, None)]),
        ([0x1_0000, 1, 0, 1], no_such(0x1_0000, 1), &[(0, None)]),
        (
            [2, 1, 0, u32::MAX],
            no_such(2, u32::MAX),
            &[(2, None), (0xffff, None)],
        ),
        (
            [0xfff0, 1, 0, 0x11],
            cut(0xfff0, 0x11),
            &[(0xffff, Some(0xf)), (0, None)],
        ),
        (
            [0, 1, 0xffff_fffe, 3],
            WarningKind::EndpointsWrap(0xffff_fffe),
            &[(0, None)],
        ),
        // The earlier tuple wins where both answer.
        (
            [0x0f8, 1, 0, 0x10],
            overlap(0x0f8),
            &[(0xff, Some(7)), (0x100, Some(0x500))],
        ),
        (
            [0x10f, 1, 0, 2],
            overlap(0x10f),
            &[(0x10f, Some(0x50f)), (0x110, Some(1))],
        ),
        (
            [0x100, 1, 0x500, 0x10],
            overlap(0x100),
            &[(0x100, Some(0x500))],
        ),
        (
            [0x0f0, 2, 0, 0x1000],
            overlap(0x0f0),
            &[(0x108, Some(0x508)), (0x110, Some(0x20))],
        ),
    ];
    for (tuple, warning, answers) in cases {
        let map = [&[0x100, 1, 0x500, 0x10][..], &tuple].concat();
        let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", &map));
        assert_eq!(warnings(&description), [(PCI_PATH, warning)]);
        assert_eq!(endpoint(&description, 0x105), Some(0x505));
        for (id, expected) in answers {
            assert_eq!(
                endpoint(&description, *id),
                *expected,
                "{tuple:x?}: {id:#x}"
            );
        }
    }
}

#[test]
fn tuples_at_the_very_end() {
    let map = [0xffff, 1, u32::MAX, 1, 0, 1, 0xffff_0000, 0xffff];
    let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", &map));
    assert_eq!(warnings(&description), []);
    assert_eq!(endpoint(&description, 0xffff), Some(u32::MAX));
    assert_eq!(endpoint(&description, 0xfffe), Some(0xffff_fffe));
}

#[test]
fn maps_of_a_wrong_length() {
    let map = WarningKind::Malformed(Property::IommuMap);
    for length in [1, 2, 3, 5, 7] {
        let cells = &[0, 1, 0, 8, 9, 1, 9, 0xfff7][..length];
        let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", cells));
        assert_eq!(warnings(&description), [(PCI_PATH, map)]);
        assert_eq!(endpoint(&description, 0), None);
    }
    let description = changed(|tree| tree.at(PCI).set("iommu-map", &[0; 17]));
    assert_eq!(warnings(&description), [(PCI_PATH, map)]);
    let description = changed(|tree| tree.at(PCI).set("iommu-map", &[]));
    assert_eq!(warnings(&description), []);
    assert_eq!(endpoint(&description, 0), None);
}

#[test]
fn masks() {
    let with = |mask: &[u8], map: &[u32]| {
        changed(|tree| {
            tree.at(PCI).set_cells("iommu-map", map);
            tree.at(PCI).set("iommu-map-mask", mask);
        })
    };
    // All functions of a device are one endpoint.
    let description = with(&[0, 0, 0xff, 0xf8], &[0, 1, 0x1000, 0x1_0000]);
    assert_eq!(warnings(&description), []);
    assert_eq!(endpoint(&description, 0x17), Some(0x1010));
    assert_eq!(endpoint(&description, 0xffff), Some(0x1_0ff8));
    // The IOMMU's own function: its neighbours share its id, it alone is itself.
    assert_eq!(endpoint(&description, 0x08), None);
    assert_eq!(endpoint(&description, 0x09), Some(0x1008));
    let description = with(&[0, 0, 0xff, 0xf8], &[1, 1, 0, 7, 0x10, 1, 0x10, 8]);
    let kind = WarningKind::MaskedOut { first: 1 };
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    assert_eq!(endpoint(&description, 0x15), Some(0x10));
    let description = with(&[0xff, 0xf8], &[0, 1, 0, 0x1_0000]);
    let kind = WarningKind::Malformed(Property::IommuMapMask);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    assert_eq!(endpoint(&description, 0x15), None);
}

#[test]
fn phandles_that_are_not_unique_or_not_allowed() {
    // Two IOMMUs, or an IOMMU and anything else.
    let duplicate = WarningKind::DuplicatePhandle(1);
    for path in [MMIO, DMA] {
        let description = changed(|tree| tree.at(path).set_cells("phandle", &[1]));
        let all = warnings(&description);
        assert!(all.contains(&(PCI_PATH, duplicate)), "{all:?}");
        assert_eq!(endpoint(&description, 0x10), None);
        assert_eq!(description.topology.iommus().len(), 2);
    }
    for value in [&[0; 4][..], &[0xff; 4], &[1, 2], &[]] {
        let description = changed(|tree| tree.at(IOMMU).set("phandle", value));
        let all = warnings(&description);
        let path = "/soc/pci@30000000/iommu@1,0";
        let kind = WarningKind::Malformed(Property::Phandle);
        assert_eq!(all[0], (path, kind));
        let dangling = WarningKind::DanglingPhandle(1);
        assert_eq!(
            all[1..],
            [
                (PCI_PATH, dangling),
                (PCI_PATH, dangling),
                (DMA_PATH, dangling)
            ]
        );
        // It still is there, and a kernel may use it with a table of its own.
        assert_eq!(description.topology.iommus().len(), 2);
    }
}

#[test]
fn iommus_that_cannot_be_used() {
    type Change = fn(&mut Node);
    let path = "/soc/pci@30000000/iommu@1,0";
    let reg = WarningKind::Malformed(Property::Reg);
    let cases: [(Change, Option<WarningKind>); 10] = [
        (
            |node| node.set_cells("#iommu-cells", &[2]),
            Some(WarningKind::IommuCells(2)),
        ),
        (
            |node| node.set_cells("#iommu-cells", &[0]),
            Some(WarningKind::IommuCells(0)),
        ),
        (
            |node| node.set("#iommu-cells", &[1]),
            Some(WarningKind::Malformed(Property::IommuCells)),
        ),
        (
            |node| node.remove("#iommu-cells"),
            Some(WarningKind::Missing(Property::IommuCells)),
        ),
        (
            |node| node.remove("reg"),
            Some(WarningKind::Missing(Property::Reg)),
        ),
        (|node| node.set_cells("reg", &[0x800, 0, 0, 0]), Some(reg)),
        (|node| node.set_cells("reg", &[]), Some(reg)),
        (
            |node| node.set_cells("reg", &[0x0200_0810, 0, 0, 0, 0]),
            Some(reg),
        ),
        (|node| node.set("status", b"disabled\0"), None),
        (|node| node.set("status", b"okayish\0"), None),
    ];
    for (change, warning) in cases {
        let description = changed(|tree| change(tree.at(IOMMU)));
        let unusable = (PCI_PATH, WarningKind::UnusableIommu(1));
        let all = warnings(&description);
        assert!(all.contains(&unusable), "{all:?}");
        let own: Vec<_> = all
            .iter()
            .filter(|(node, _)| *node == path)
            .map(|w| w.1)
            .collect();
        assert_eq!(own, warning.into_iter().collect::<Vec<_>>());
        assert_eq!(endpoint(&description, 0x10), None);
        assert_eq!(description.topology.iommus().len(), 1);
    }
}

#[test]
fn a_disabled_bus_disables_what_is_on_it() {
    let description = changed(|tree| tree.at(&["soc"]).set("status", b"disabled\0"));
    assert_eq!(warnings(&description), []);
    assert_eq!(
        description.topology,
        virtio_iommu::topology::Topology::new()
    );
    assert_eq!(description.host_bridges, []);
}

#[test]
fn an_iommu_behind_a_bridge_has_no_number_yet() {
    let description = changed(|tree| {
        let pci = tree.at(PCI);
        let iommu = pci.children.remove(0);
        let bridge = Node::new("pci@2,0")
            .strings("device_type", &["pci"])
            .cells("#address-cells", &[3])
            .cells("#size-cells", &[2])
            .child(iommu);
        pci.children.push(bridge);
    });
    let path = "/soc/pci@30000000/pci@2,0/iommu@1,0";
    assert_eq!(
        warnings(&description)[0],
        (path, WarningKind::IommuBehindBridge)
    );
    assert_eq!(description.host_bridges.len(), 1);
}

#[test]
fn warnings_can_be_read() {
    let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", &[0, 0x99, 0, 1]));
    let text = description.warnings[0].to_string();
    assert_eq!(text, "/soc/pci@30000000: phandle 0x99 leads to no IOMMU");
    assert_eq!(
        DeviceTreeError::Truncated.to_string(),
        "the device tree is truncated"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against the rule as the binding words it: the first tuple that the masked id is in.
    #[test]
    fn maps_answer_as_the_binding_says(
        tuples in prop::collection::vec((0..0x1_0100_u32, 1..=2_u32, any::<u32>(), 0..0x400_u32), 0..12),
        mask in prop_oneof![Just(0xffff_ffff_u32), Just(0xfff8), Just(0xff00), any::<u32>()],
        ids in prop::collection::vec(any::<u16>(), 32),
    ) {
        let map: Vec<u32> = tuples.iter().flat_map(|(a, b, c, d)| [*a, *b, *c, *d]).collect();
        let description = changed(|tree| {
            tree.at(PCI).set_cells("iommu-map", &map);
            tree.at(PCI).set_cells("iommu-map-mask", &[mask]);
        });
        let starts = tuples.iter().map(|tuple| tuple.0 as u16);
        for id in starts.chain(ids).chain([8]) {
            let masked = u64::from(u32::from(id) & mask);
            let hit = tuples.iter().find(|(first, _, endpoint, length)| {
                let (first, length) = (u64::from(*first), u64::from(*length));
                // Skipped as a whole: masked out, and those whose endpoint ids do not fit.
                let count = length.min(0x1_0000_u64.saturating_sub(first));
                let fits = u64::from(*endpoint) + count <= 1 << 32;
                first as u32 & !mask == 0 && fits && (first..first + length).contains(&masked)
            });
            let expected = match hit {
                // The IOMMU on PCI is not behind itself.
                Some((_, 1, _, _)) if id == 8 => Placement::NotBehind,
                Some((first, phandle, endpoint, _)) => Placement::Behind {
                    iommu: IommuIndex(*phandle as usize - 1),
                    endpoint: EndpointId((masked - u64::from(*first)) as u32 + endpoint),
                },
                None => Placement::NotBehind,
            };
            prop_assert_eq!(description.topology.pci(Segment(0), RequesterId(id)), expected);
        }
    }
}
