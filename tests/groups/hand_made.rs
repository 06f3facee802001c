//! Groups of trees and tables that no machine at hand has.

use virtio_iommu::topology::groups::{Group, Groups, Policy};
use virtio_iommu::topology::pci::{PciTree, walk};
use virtio_iommu::topology::{
    BusRange, HostBridge, IommuIndex, IommuLocation, PciAddress, PciRange, PlatformEndpoint,
    RequesterId, Segment, Topology,
};
use virtio_iommu::{EndpointId, PhysAddr};

use crate::config_space::{Model, Port, ROOT};

const EDU: (u16, u16) = (0x1234, 0x11e8);
const IOMMU: (u16, u16) = (0x1af4, 0x1057);

pub fn host(segment: u16) -> HostBridge {
    HostBridge {
        segment: Segment(segment),
        buses: BusRange::ALL,
        ecam: None,
        windows: Vec::new(),
        node: None,
    }
}

fn address(segment: u16, function: u16) -> PciAddress {
    PciAddress {
        segment: Segment(segment),
        function: RequesterId(function),
    }
}

fn mmio(base: u64) -> IommuLocation {
    let base = PhysAddr(base);
    IommuLocation::Mmio { base, size: None }
}

fn range(iommu: usize, segment: u16, first: u16, last: u16, endpoint: u32) -> PciRange {
    let (first, last) = (RequesterId(first), RequesterId(last));
    let (iommu, endpoint) = (IommuIndex(iommu), EndpointId(endpoint));
    PciRange::new(Segment(segment), first, last, iommu, endpoint).unwrap()
}

fn table(iommus: &[IommuLocation], ranges: &[PciRange]) -> Topology {
    let mut topology = Topology::new();
    for iommu in iommus {
        topology.add_iommu(*iommu).unwrap();
    }
    for range in ranges {
        topology.add_pci_range(*range).unwrap();
    }
    topology
}

fn group(iommu: usize, endpoints: &[u32], functions: &[PciAddress]) -> Group {
    Group {
        iommu: IommuIndex(iommu),
        endpoints: endpoints.iter().map(|id| EndpointId(*id)).collect(),
        functions: functions.to_vec(),
    }
}

/// 00:01.0 a root port; behind it 01:00.0, a bridge to PCI; behind that 02:01.0 and 02:02.0, a
/// conventional bridge; behind that 03:04.0.
fn nested() -> (Model, PciTree) {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let to_pci = model.bridge(port, 0, 0, Port::ToPci);
    model.device(to_pci, 1, 0, EDU);
    let inner = model.bridge(to_pci, 2, 0, Port::Conventional);
    model.device(inner, 4, 0, EDU);
    let tree = walk(&mut model, &host(0));
    (model, tree)
}

#[test]
fn the_bridge_next_to_the_root_hides_those_below_it() {
    let (_, tree) = nested();
    let topology = Topology::identity(mmio(0x1000), Segment(0));
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let hidden = [0x100, 0x208, 0x210, 0x320].map(|id| address(0, id));
    let expected = [
        group(0, &[0x08], &[address(0, 0x08)]),
        group(0, &[0x100, 0x200], &hidden),
    ];
    assert_eq!(groups.as_slice(), expected);
}

#[test]
fn a_bridge_to_pci_behind_a_conventional_one_has_one_id() {
    let mut model = Model::new();
    let outer = model.bridge(ROOT, 3, 0, Port::Conventional);
    let to_pci = model.bridge(outer, 1, 0, Port::ToPci);
    model.device(to_pci, 1, 0, EDU);
    let tree = walk(&mut model, &host(0));
    let topology = Topology::identity(mmio(0x1000), Segment(0));
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let hidden = [0x18, 0x108, 0x208].map(|id| address(0, id));
    assert_eq!(groups.as_slice(), [group(0, &[0x18], &hidden)]);
}

#[test]
fn a_bridge_to_pci_with_nothing_behind_it_has_its_own_id_only() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    model.bridge(port, 0, 0, Port::ToPci);
    let tree = walk(&mut model, &host(0));
    let topology = Topology::identity(mmio(0x1000), Segment(0));
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let expected = [
        group(0, &[0x08], &[address(0, 0x08)]),
        group(0, &[0x100], &[address(0, 0x100)]),
    ];
    assert_eq!(groups.as_slice(), expected);
}

#[test]
fn a_bridge_to_pci_without_a_bus_has_its_own_id_only() {
    let mut model = Model::new();
    model.device(ROOT, 0, 0, EDU);
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    model.bridge(port, 0, 0, Port::ToPci);
    let mut tree = walk(&mut model, &host(0));
    let bridge = tree
        .functions
        .iter_mut()
        .rfind(|function| function.bridge.is_some());
    bridge.unwrap().bridge.as_mut().unwrap().secondary = 0;
    let topology = Topology::identity(mmio(0x1000), Segment(0));
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    assert_eq!(
        groups.members(IommuIndex(0)),
        [0x00, 0x08, 0x100].map(|id| [EndpointId(id)])
    );
}

#[test]
fn a_bridge_that_is_not_behind_the_iommu_is_in_no_group() {
    let (_, tree) = nested();
    // Only the ids of bus 2: those behind the bridge to PCI.
    let topology = table(&[mmio(0x1000)], &[range(0, 0, 0x200, 0x2ff, 0x200)]);
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let hidden = [0x208, 0x210, 0x320].map(|id| address(0, id));
    assert_eq!(groups.as_slice(), [group(0, &[0x200], &hidden)]);
}

#[test]
fn a_group_does_not_span_two_iommus() {
    let (_, tree) = nested();
    // The bridge is behind one IOMMU, those behind it are behind the other.
    let ranges = [range(0, 0, 0, 0x1ff, 0), range(1, 0, 0x200, 0x3ff, 0x200)];
    let topology = table(&[mmio(0x1000), mmio(0x2000)], &ranges);
    for policy in [Policy::Aliases, Policy::AssumeNoAcs] {
        let groups = Groups::new(&topology, [&tree], policy);
        let hidden = [0x208, 0x210, 0x320].map(|id| address(0, id));
        let near: &[Group] = match policy {
            Policy::Aliases => &[
                group(0, &[0x08], &[address(0, 0x08)]),
                group(0, &[0x100], &[address(0, 0x100)]),
            ],
            Policy::AssumeNoAcs => &[group(
                0,
                &[0x08, 0x100],
                &[address(0, 0x08), address(0, 0x100)],
            )],
        };
        let expected = [near, &[group(1, &[0x200], &hidden)]].concat();
        assert_eq!(groups.as_slice(), expected);
    }
}

#[test]
fn a_slot_with_two_iommus_has_a_group_behind_each() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let upstream = model.bridge(port, 0, 0, Port::Upstream);
    for device in [0, 1] {
        let downstream = model.bridge(upstream, device, 0, Port::Downstream);
        model.device(downstream, 0, 0, EDU);
    }
    let tree = walk(&mut model, &host(0));
    let ranges = [range(0, 0, 0, 0x1ff, 0), range(1, 0, 0x200, 0xffff, 0x200)];
    let topology = table(&[mmio(0x1000), mmio(0x2000)], &ranges);
    let groups = Groups::new(&topology, [&tree], Policy::AssumeNoAcs);
    let far = [0x200, 0x208, 0x300, 0x400];
    let expected = [
        group(0, &[0x08, 0x100], &[address(0, 0x08), address(0, 0x100)]),
        group(1, &far.map(u32::from), &far.map(|id| address(0, id))),
    ];
    assert_eq!(groups.as_slice(), expected);
}

#[test]
fn functions_with_the_same_endpoint_id_are_one_endpoint() {
    let mut model = Model::new();
    for device in [1, 2, 3] {
        model.device(ROOT, device, 0, EDU);
    }
    let tree = walk(&mut model, &host(0));
    // Two ranges that give 00:01.0 and 00:03.0 the same name.
    let ranges = [
        range(0, 0, 0x08, 0x10, 0x500),
        range(0, 0, 0x18, 0x18, 0x500),
    ];
    let topology = table(&[mmio(0x1000)], &ranges);
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let expected = [
        group(0, &[0x500], &[address(0, 0x08), address(0, 0x18)]),
        group(0, &[0x508], &[address(0, 0x10)]),
    ];
    assert_eq!(groups.as_slice(), expected);
}

#[test]
fn equal_requester_ids_of_two_segments_are_two_endpoints() {
    let trees: Vec<PciTree> = [0, 1]
        .map(|segment| {
            let mut model = Model::new();
            model.device(ROOT, 1, 0, IOMMU);
            let bridge = model.bridge(ROOT, 2, 0, Port::Conventional);
            model.device(bridge, 1, 0, EDU);
            walk(&mut model, &host(segment))
        })
        .into();
    let both = range(0, 0, 0, 0xffff, 0)
        .with_last_segment(Segment(1))
        .unwrap();
    let topology = table(&[IommuLocation::Pci(address(0, 0x08))], &[both]);
    for policy in [Policy::Aliases, Policy::AssumeNoAcs] {
        let groups = Groups::new(&topology, &trees, policy);
        let expected = [
            group(0, &[0x10], &[address(0, 0x10), address(0, 0x108)]),
            // The namesake of the IOMMU is a device like any other.
            group(0, &[0x1_0008], &[address(1, 0x08)]),
            group(0, &[0x1_0010], &[address(1, 0x10), address(1, 0x108)]),
        ];
        assert_eq!(groups.as_slice(), expected);
    }
}

#[test]
fn an_iommu_behind_a_bridge_is_not_behind_itself() {
    let mut model = Model::new();
    let bridge = model.bridge(ROOT, 1, 0, Port::Conventional);
    model.device(bridge, 1, 0, IOMMU);
    model.device(bridge, 2, 0, EDU);
    let tree = walk(&mut model, &host(0));
    let topology = Topology::identity(IommuLocation::Pci(address(0, 0x108)), Segment(0));
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let expected = group(0, &[0x08], &[address(0, 0x08), address(0, 0x110)]);
    assert_eq!(groups.as_slice(), [expected]);
    // Not even under an id that nobody else has.
    let mut tree = tree;
    tree.functions.retain(|function| function.vendor == IOMMU.0);
    for policy in [Policy::Aliases, Policy::AssumeNoAcs] {
        assert_eq!(Groups::new(&topology, [&tree], policy), Groups::default());
    }
}

#[test]
fn without_acs_slots_are_those_of_the_root_bus() {
    let mut model = Model::new();
    // A device with a port and an endpoint; a switch with two ports behind the port.
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    model.set_multifunction(port);
    model.device(ROOT, 1, 1, EDU);
    model.device(ROOT, 2, 0, EDU);
    let upstream = model.bridge(port, 0, 0, Port::Upstream);
    for device in [0, 1] {
        let downstream = model.bridge(upstream, device, 0, Port::Downstream);
        model.device(downstream, 0, 0, EDU);
    }
    let tree = walk(&mut model, &host(0));
    // As tables with a range for each endpoint have it: the bridges are not described.
    let endpoints = [0x09, 0x10, 0x300, 0x400];
    let ranges = endpoints.map(|id| range(0, 0, id, id, id.into()));
    let topology = table(&[mmio(0x1000)], &ranges);
    let groups = Groups::new(&topology, [&tree], Policy::AssumeNoAcs);
    let below = [0x09, 0x300, 0x400].map(|id| address(0, id));
    let expected = [
        group(0, &[0x09, 0x300, 0x400], &below),
        group(0, &[0x10], &[address(0, 0x10)]),
    ];
    assert_eq!(groups.as_slice(), expected);
    let apart = Groups::new(&topology, [&tree], Policy::Aliases);
    assert_eq!(
        apart.members(IommuIndex(0)),
        endpoints.map(|id| [EndpointId(id.into())])
    );
}

#[test]
fn the_ids_of_a_platform_device_belong_together() {
    let mut topology = table(&[mmio(0x1000), mmio(0x2000)], &[]);
    let mut add = |node: Option<&str>, base: Option<u64>, iommu, endpoint| {
        let entry = PlatformEndpoint {
            node: node.map(Into::into),
            base: base.map(PhysAddr),
            iommu: IommuIndex(iommu),
            endpoint: EndpointId(endpoint),
        };
        topology.add_platform(entry).unwrap();
    };
    add(Some("/dma@1"), None, 0, 9);
    add(Some("/dma@2"), Some(0x5000), 0, 3);
    add(Some("/dma@1"), None, 0, 2);
    add(Some("/dma@1"), None, 1, 2);
    add(Some("/dma@1"), None, 1, 1);
    // Of ACPI: no path. The second one shares its id with a device of the tree.
    add(None, Some(0x6000), 0, 5);
    add(None, Some(0x6000), 0, 3);
    add(None, Some(0x6000), 1, 5);
    add(None, Some(0x6000), 1, 6);
    // Nothing is known of these, but that they are two.
    add(None, None, 0, 6);
    add(None, None, 0, 7);
    let groups = Groups::new(&topology, [], Policy::Aliases);
    let expected = [
        group(0, &[2, 9], &[]),
        group(0, &[3, 5], &[]),
        group(0, &[6], &[]),
        group(0, &[7], &[]),
        group(1, &[1, 2], &[]),
        group(1, &[5, 6], &[]),
    ];
    assert_eq!(groups.as_slice(), expected);
}

#[test]
fn a_platform_device_may_share_the_id_of_a_function() {
    let mut model = Model::new();
    model.device(ROOT, 1, 0, EDU);
    let tree = walk(&mut model, &host(0));
    let mut topology = Topology::identity(mmio(0x1000), Segment(0));
    for endpoint in [0x08, 0x1_0000] {
        let entry = PlatformEndpoint {
            node: None,
            base: Some(PhysAddr(0x5000)),
            iommu: IommuIndex(0),
            endpoint: EndpointId(endpoint),
        };
        topology.add_platform(entry).unwrap();
    }
    let groups = Groups::new(&topology, [&tree], Policy::Aliases);
    let expected = group(0, &[0x08, 0x1_0000], &[address(0, 0x08)]);
    assert_eq!(groups.as_slice(), [expected]);
}

#[test]
fn nobody_is_in_a_group_without_an_iommu() {
    let (_, tree) = nested();
    let groups = Groups::new(&Topology::new(), [&tree], Policy::AssumeNoAcs);
    assert_eq!(groups, Groups::default());
    assert_eq!(groups.as_slice(), []);
}

#[test]
fn data_that_is_no_tree_does_no_harm() {
    // Public fields may hold anything: loops, strangers as parents, absurd bus numbers.
    let (_, good) = nested();
    let topology = Topology::identity(mmio(0x1000), Segment(0));
    for number in 0..10_000_u64 {
        let mut tree = good.clone();
        let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for function in &mut tree.functions {
            let id = RequesterId(next() as u16 & 0x3ff);
            match next() % 6 {
                0 => function.parent = Some(function.address.function),
                1 => function.parent = Some(id),
                2 => function.requester = id,
                3 => function.address.function = id,
                4 => {
                    if let Some(bridge) = &mut function.bridge {
                        bridge.secondary = next() as u8;
                        bridge.subordinate = next() as u8;
                    }
                }
                _ => {}
            }
        }
        for policy in [Policy::Aliases, Policy::AssumeNoAcs] {
            let groups = Groups::new(&topology, [&tree, &good], policy);
            let mut members = groups.members(IommuIndex(0)).concat();
            let count = members.len();
            members.sort_unstable();
            members.dedup();
            assert_eq!(members.len(), count, "an endpoint in two groups");
            for function in &tree.functions {
                let group = groups.of_function(function.address).unwrap();
                let endpoint = EndpointId(function.requester.0.into());
                // Two functions may claim the same address: one of them is found.
                let twins = tree.functions.iter().chain(&good.functions);
                let twins = twins
                    .filter(|other| other.address == function.address)
                    .count();
                assert!(twins > 1 || group.endpoints.contains(&endpoint));
            }
        }
    }
}
