//! Device trees that are wrong in one respect, continued: host bridges, buses, platform devices,
//! and lists that are too long.

use virtio_iommu::address::{EndpointId, PhysAddr};
use virtio_iommu::topology::device_tree::{
    Description, List, MAX_HOST_BRIDGES, MAX_WARNINGS, MAX_WINDOWS, Property, WarningKind,
};
use virtio_iommu::topology::{
    IommuIndex, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, Placement, RequesterId, Segment,
};

use crate::fdt::Node;
use crate::machine::{DMA, DMA_PATH, PCI, PCI_PATH, changed, endpoint, platform, warnings};

#[test]
fn host_bridges_that_cannot_be_used() {
    type Change = fn(&mut Node);
    let cells = |address, size| WarningKind::CellCounts { address, size };
    let buses = WarningKind::Malformed(Property::BusRange);
    let cases: [(Change, WarningKind); 7] = [
        (|node| node.set_cells("#address-cells", &[2]), cells(2, 2)),
        (
            |node| node.set_cells("#size-cells", &[u32::MAX]),
            cells(3, u32::MAX),
        ),
        (|node| node.remove("#address-cells"), cells(2, 2)),
        (|node| node.set_cells("bus-range", &[1, 0]), buses),
        (|node| node.set_cells("bus-range", &[0, 0x100]), buses),
        (|node| node.set_cells("bus-range", &[0]), buses),
        (
            |node| node.set_cells("linux,pci-domain", &[0x1_0000]),
            WarningKind::Malformed(Property::PciDomain),
        ),
    ];
    for (change, warning) in cases {
        let description = changed(|tree| change(tree.at(PCI)));
        assert!(warnings(&description).contains(&(PCI_PATH, warning)));
        assert_eq!(description.host_bridges, []);
        assert_eq!(endpoint(&description, 0x10), None);
        // The rest of the machine is still there.
        assert_eq!(platform(&description), [(0, 0x50), (0, 0x51)]);
    }
}

#[test]
fn configuration_space_that_does_not_fit_the_buses() {
    let with = |reg: &[u32]| changed(|tree| tree.at(PCI).set_cells("reg", reg));
    let description = with(&[0, 0x3000_0000, 0, 0x20_0000]);
    let kind = WarningKind::ShortConfigurationSpace(2);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    let buses = description.host_bridges[0].buses;
    assert_eq!((buses.first(), buses.last()), (0, 1));
    let description = with(&[0, 0x3000_0000, 0, 0xf_ffff]);
    let kind = WarningKind::ShortConfigurationSpace(0);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    assert_eq!(description.host_bridges[0].ecam, None);
    assert_eq!(endpoint(&description, 0x10), Some(0x10));
    let reg = WarningKind::Malformed(Property::Reg);
    for wrong in [&[0, 0x3000_0000, 0][..], &[0, 0x3000_0000, 0, 0], &[]] {
        let description = with(wrong);
        assert_eq!(warnings(&description), [(PCI_PATH, reg)]);
        assert_eq!(description.host_bridges[0].ecam, None);
    }
    // Beyond what /soc passes on.
    let description = with(&[0x10, 0, 0, 0x1000_0000]);
    let kind = WarningKind::Untranslatable(Property::Reg);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
}

#[test]
fn windows_that_make_no_sense() {
    let good = [0x0200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x4000_0000];
    let with = |ranges: &[u32]| changed(|tree| tree.at(PCI).set_cells("ranges", ranges));
    let bad: [[u32; 7]; 5] = [
        // Configuration space; empty; wrapping; 32-bit beyond 4 GiB; I/O beyond 4 GiB.
        [0, 0, 0, 0, 0x5000_0000, 0, 0x1000],
        [0x0200_0000, 0, 0x5000_0000, 0, 0x5000_0000, 0, 0],
        [0x0300_0000, u32::MAX, u32::MAX, 0, 0x5000_0000, 0, 2],
        [0x0200_0000, 1, 0, 0, 0x5000_0000, 0, 0x1000],
        [0x0100_0000, 1, 0, 0, 0x5000_0000, 0, 0x1000],
    ];
    for bad in bad {
        let description = with(&[bad, good].concat());
        assert_eq!(warnings(&description), [(PCI_PATH, WarningKind::Window(0))]);
        assert_eq!(description.host_bridges[0].windows.len(), 1);
    }
    let description = with(&[0x0200_0000, 0, 0, 0x20, 0, 0, 0x1000]);
    let kind = WarningKind::Untranslatable(Property::Ranges);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    let description = with(&good[..6]);
    let kind = WarningKind::Malformed(Property::Ranges);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    let description = changed(|tree| tree.at(PCI).remove("ranges"));
    let kind = WarningKind::Missing(Property::Ranges);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    let description = with(&good.repeat(MAX_WINDOWS + 1));
    let kind = WarningKind::TooMany(List::Windows);
    assert_eq!(warnings(&description), [(PCI_PATH, kind)]);
    assert_eq!(description.host_bridges[0].windows.len(), MAX_WINDOWS);
}

#[test]
fn references_of_platform_devices() {
    let with = |iommus: &[u32]| changed(|tree| tree.at(DMA).set_cells("iommus", iommus));
    let malformed = WarningKind::Malformed(Property::Iommus);
    type Case<'a> = (&'a [u32], &'a [WarningKind], &'a [(usize, u32)]);
    let cases: [Case<'_>; 6] = [
        (&[2, 7], &[], &[(1, 7)]),
        (&[2], &[malformed], &[]),
        (&[2, 7, 2], &[malformed], &[(1, 7)]),
        // Two cells belong to the foreign one; behind it, reading goes on.
        (&[3, 9, 9, 2, 7], &[WarningKind::ForeignIommu(3)], &[(1, 7)]),
        (&[3, 9], &[malformed], &[]),
        // How long the specifier of nobody is, nobody knows.
        (
            &[2, 5, 0x99, 9, 2, 7],
            &[WarningKind::DanglingPhandle(0x99)],
            &[(1, 5)],
        ),
    ];
    for (iommus, kinds, expected) in cases {
        let description = with(iommus);
        let all: Vec<_> = kinds.iter().map(|kind| (DMA_PATH, *kind)).collect();
        assert_eq!(warnings(&description), all);
        assert_eq!(platform(&description), expected);
    }
    let description = changed(|tree| tree.at(DMA).set("iommus", &[0, 0, 0]));
    assert_eq!(warnings(&description), [(DMA_PATH, malformed)]);
    let description = changed(|tree| tree.at(DMA).set("status", b"disabled\0"));
    assert_eq!(
        (warnings(&description), platform(&description)),
        (vec![], vec![])
    );
    // Without registers it is found by its node alone.
    let description = changed(|tree| tree.at(DMA).remove("reg"));
    assert_eq!(warnings(&description), []);
    assert_eq!(platform(&description).len(), 3);
    assert_eq!(description.topology.platform()[0].base, None);
    // On PCI it is iommu-map that decides.
    let description = changed(|tree| {
        let function = Node::new("net@2,0").cells("iommus", &[2, 7]);
        tree.at(PCI).children.push(function);
    });
    let path = "/soc/pci@30000000/net@2,0";
    assert_eq!(warnings(&description), [(path, WarningKind::IommusOnPci)]);
}

#[test]
fn addresses_that_their_buses_do_not_pass_on() {
    let untranslatable = WarningKind::Untranslatable(Property::Reg);
    // No ranges at all; one that does not cover; a torn entry; cells that cannot be.
    let ranges: [Option<&[u32]>; 3] = [None, Some(&[0, 0x100, 0x10, 0, 0, 0x100]), Some(&[0, 0])];
    for ranges in ranges {
        let description = changed(|tree| match ranges {
            None => tree.at(&["soc"]).remove("ranges"),
            Some(cells) => tree.at(&["soc"]).set_cells("ranges", cells),
        });
        assert!(warnings(&description).contains(&("/soc/virtio@10000", untranslatable)));
        assert!(warnings(&description).contains(&(DMA_PATH, untranslatable)));
    }
    let description = changed(|tree| tree.at(&["soc"]).set_cells("#address-cells", &[7]));
    let kind = WarningKind::CellCounts {
        address: 7,
        size: 2,
    };
    assert!(warnings(&description).contains(&(DMA_PATH, kind)));
    // An empty property passes everything on as it is.
    let description = changed(|tree| tree.at(&["soc"]).set("ranges", &[]));
    assert_eq!(warnings(&description), []);
    assert_eq!(
        description.topology.platform_at(PhysAddr(0x2_0000)).count(),
        3
    );
    // The sum must fit.
    let description = changed(|tree| {
        let wrap = [0, 0, u32::MAX, u32::MAX, 0x10, 0];
        tree.at(&["soc"]).set_cells("ranges", &wrap);
    });
    assert!(warnings(&description).contains(&(DMA_PATH, untranslatable)));
}

#[test]
fn several_host_bridges() {
    let second = |buses: [u32; 2], domain: Option<u32>| {
        changed(|tree| {
            let mut pci = tree.at(PCI).clone();
            pci.name = "pci@50000000".into();
            pci.children.clear();
            pci.set_cells("bus-range", &buses);
            pci.set_cells("iommu-map", &[0, 1, 0x2_0000, 0x1_0000]);
            match domain {
                Some(domain) => pci.set_cells("linux,pci-domain", &[domain]),
                None => pci.remove("linux,pci-domain"),
            }
            tree.at(&["soc"]).children.push(pci);
        })
    };
    let path = "/soc/pci@50000000";
    let at = |description: &Description, segment, id| match description
        .topology
        .pci(Segment(segment), RequesterId(id))
    {
        Placement::Behind { iommu, endpoint } => Some((iommu, endpoint)),
        Placement::NotBehind => None,
    };
    // Another segment, named or not.
    for (domain, segment) in [(Some(5), 5), (None, 1)] {
        let description = second([0, 0xff], domain);
        assert_eq!(warnings(&description), []);
        assert_eq!(description.host_bridges[1].segment, Segment(segment));
        let expected = Some((IommuIndex(0), EndpointId(0x2_0008)));
        assert_eq!(at(&description, segment, 8), expected);
        assert_eq!(at(&description, 0, 8), None);
    }
    // Buses of the first one.
    let description = second([0x80, 0xff], Some(0));
    assert_eq!(warnings(&description), [(path, WarningKind::BusesTaken)]);
    assert_eq!(description.host_bridges.len(), 1);
    assert_eq!(
        at(&description, 0, 0x8000),
        Some((IommuIndex(0), EndpointId(0x8000)))
    );
}

#[test]
fn an_iommu_on_a_bus_of_somebody_else() {
    let description = changed(|tree| tree.at(PCI).set_cells("bus-range", &[1, 0xff]));
    let all = warnings(&description);
    let path = "/soc/pci@30000000/iommu@1,0";
    assert_eq!(all[0], (path, WarningKind::Malformed(Property::Reg)));
    assert_eq!(all[1], (PCI_PATH, WarningKind::UnusableIommu(1)));
    assert_eq!(endpoint(&description, 0x0110), None);
}

#[test]
fn host_bridges_of_one_segment_have_their_own_maps() {
    let description = changed(|tree| {
        let pci = tree.at(PCI);
        pci.set_cells("bus-range", &[0, 0x7f]);
        let mut other = pci.clone();
        other.name = "pci@50000000".into();
        other.children.clear();
        other.set_cells("bus-range", &[0x80, 0xff]);
        other.set_cells("iommu-map", &[0, 2, 0, 0x1_0000]);
        tree.at(&["soc"]).children.push(other);
    });
    assert_eq!(warnings(&description), []);
    let iommu = |id| match description.topology.pci(Segment(0), RequesterId(id)) {
        Placement::Behind { iommu, .. } => Some(iommu.0),
        Placement::NotBehind => None,
    };
    assert_eq!((iommu(0x7fff), iommu(0x8000)), (Some(0), Some(1)));
    assert_eq!(description.host_bridges.len(), 2);
}

#[test]
fn lists_have_an_end() {
    let tuples: Vec<u32> = (0..MAX_PCI_RANGES as u32 + 1)
        .flat_map(|index| [index * 2, 1, index, 1])
        .collect();
    let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", &tuples));
    assert_eq!(
        warnings(&description),
        [(PCI_PATH, WarningKind::TooMany(List::Tuples))]
    );
    assert_eq!(description.topology.ranges().len(), MAX_PCI_RANGES);

    let references = [2, 7].repeat(MAX_PLATFORM_ENDPOINTS + 1);
    let description = changed(|tree| tree.at(DMA).set_cells("iommus", &references));
    let kind = WarningKind::TooMany(List::PlatformEndpoints);
    assert_eq!(warnings(&description), [(DMA_PATH, kind)]);
    assert_eq!(
        description.topology.platform().len(),
        MAX_PLATFORM_ENDPOINTS
    );

    let description = changed(|tree| {
        for _ in 0..MAX_HOST_BRIDGES {
            let mut pci = tree.at(PCI).clone();
            pci.name = "pci@50000000".into();
            pci.remove("linux,pci-domain");
            pci.children.clear();
            tree.at(&["soc"]).children.push(pci);
        }
    });
    let kind = WarningKind::TooMany(List::HostBridges);
    assert_eq!(warnings(&description), [("/soc/pci@50000000", kind)]);
    assert_eq!(description.host_bridges.len(), MAX_HOST_BRIDGES);
    let last = description.host_bridges.last().unwrap().segment;
    assert_eq!(usize::from(last.0), MAX_HOST_BRIDGES - 1);

    let dangling = [0, 0x99, 0, 1].repeat(MAX_WARNINGS + 10);
    let description = changed(|tree| tree.at(PCI).set_cells("iommu-map", &dangling));
    assert_eq!(description.warnings.len(), MAX_WARNINGS);
    assert_eq!(description.warnings_omitted, 10);
}

#[test]
fn long_names_are_cut_in_warnings_and_not_kept_as_keys() {
    let description = changed(|tree| {
        let dma = tree.at(DMA);
        dma.name = format!("dma@{}", "0".repeat(100_000));
        dma.set_cells("iommus", &[2, 7, 0x99]);
    });
    let [warning] = &description.warnings[..] else {
        panic!("{:?}", description.warnings);
    };
    assert_eq!(warning.node.len(), 255);
    assert_eq!(description.topology.platform()[0].node, None);
    assert_eq!(
        description
            .topology
            .platform_at(PhysAddr(0x10_0002_0000))
            .count(),
        1
    );
}
