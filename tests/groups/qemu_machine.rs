//! The groups of a real machine: table and configuration space as QEMU and SeaBIOS left them
//! (`tests/data/VIOT.md`).

use std::collections::BTreeMap;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_iommu::EndpointId;
use virtio_iommu::topology::groups::{Groups, Policy};
use virtio_iommu::topology::pci::{PciTree, walk};
use virtio_iommu::topology::viot::from_viot;
use virtio_iommu::topology::{
    BusRange, HostBridge, IommuIndex, PciAddress, RequesterId, Segment, Topology,
};

const TABLE: &[u8] = include_bytes!("../data/viot-bridges.bin");
const CONFIGURATION: &[u8] = include_bytes!("../data/viot-bridges-pci.bin");

/// A configuration space that nobody can change: what the walk writes gets lost.
struct Snapshot(BTreeMap<u16, &'static [u8]>);

impl Snapshot {
    fn new() -> Self {
        let functions = CONFIGURATION.chunks_exact(258).map(|function| {
            let (id, registers) = function.split_at(2);
            (u16::from_le_bytes([id[0], id[1]]), registers)
        });
        Self(functions.collect())
    }
}

impl ConfigurationAccess for Snapshot {
    fn read_word(&self, target: DeviceFunction, offset: u8) -> u32 {
        let id = RequesterId::new(target.bus, target.device, target.function).unwrap();
        let Some(registers) = self.0.get(&id.0) else {
            return u32::MAX;
        };
        let at = usize::from(offset);
        u32::from_le_bytes(registers[at..at + 4].try_into().unwrap())
    }

    fn write_word(&mut self, _: DeviceFunction, _: u8, _: u32) {}

    // SAFETY: the trait asks nothing of an implementation beyond access to the same bus; nobody
    // calls this, and a call would end the test.
    unsafe fn unsafe_clone(&self) -> Self {
        unimplemented!("the walk does not clone its access")
    }
}

fn machine() -> (Topology, PciTree) {
    let host = HostBridge {
        segment: Segment(0),
        buses: BusRange::ALL,
        ecam: None,
        windows: Vec::new(),
        node: None,
    };
    let tree = walk(&mut Snapshot::new(), &host);
    assert_eq!(tree.functions.len(), 16);
    (from_viot(TABLE).unwrap().topology, tree)
}

/// Endpoint ids and functions of each group.
fn plain(groups: &Groups) -> Vec<(Vec<u32>, Vec<u16>)> {
    let mut plain = Vec::new();
    for group in groups.as_slice() {
        assert_eq!(group.iommu, IommuIndex(0));
        let endpoints = group.endpoints.iter().map(|endpoint| endpoint.0).collect();
        let functions = group
            .functions
            .iter()
            .map(|function| function.function.0)
            .collect();
        plain.push((endpoints, functions));
    }
    plain
}

#[test]
fn what_shares_an_id_is_a_group() {
    let (topology, tree) = machine();
    let groups = Groups::new(&topology, [&tree], Policy::default());
    let expected: [(&[u32], &[u16]); 11] = [
        (&[0x00], &[0x00]), // the host bridge; the IOMMU, 0x08, is in no group
        (&[0x10], &[0x10]), // a root port
        (&[0x18], &[0x18]), // another
        (&[0x30], &[0x30]), // a device with two functions
        (&[0x31], &[0x31]),
        (&[0x38], &[0x38, 0x418, 0x420]), // a conventional bridge and what is behind it
        (&[0xf8], &[0xf8]),               // LPC, AHCI, SMBus
        (&[0xfa], &[0xfa]),
        (&[0xfb], &[0xfb]),
        (&[0x100], &[0x100]), // behind the first root port
        // The bridge behind the second one, and what is behind that.
        (&[0x200, 0x300], &[0x200, 0x308, 0x310]),
    ];
    let expected = expected.map(|(endpoints, functions)| (endpoints.to_vec(), functions.to_vec()));
    assert_eq!(plain(&groups), expected);
}

#[test]
fn the_endpoints_are_the_address_spaces_that_qemu_keeps_apart() {
    let (topology, tree) = machine();
    let groups = Groups::new(&topology, [&tree], Policy::default());
    let members = groups.members(IommuIndex(0));
    // As in `info mtree`, by device and function number; the IOMMU's own (8) is left out.
    let mut low: Vec<u32> = members.concat().iter().map(|id| id.0 & 0xff).collect();
    low.sort_unstable();
    assert_eq!(low, [0, 0, 0, 0, 16, 24, 48, 49, 56, 248, 250, 251]);
    assert!(members.contains(&[EndpointId(0x200), EndpointId(0x300)].as_slice()));
}

#[test]
fn without_acs_a_slot_of_the_root_bus_is_a_group() {
    let (topology, tree) = machine();
    let groups = Groups::new(&topology, [&tree], Policy::AssumeNoAcs);
    let expected: [(&[u32], &[u16]); 6] = [
        (&[0x00], &[0x00]),
        (&[0x10, 0x100], &[0x10, 0x100]),
        (&[0x18, 0x200, 0x300], &[0x18, 0x200, 0x308, 0x310]),
        (&[0x30, 0x31], &[0x30, 0x31]),
        (&[0x38], &[0x38, 0x418, 0x420]),
        (&[0xf8, 0xfa, 0xfb], &[0xf8, 0xfa, 0xfb]),
    ];
    let expected = expected.map(|(endpoints, functions)| (endpoints.to_vec(), functions.to_vec()));
    assert_eq!(plain(&groups), expected);
}

#[test]
fn groups_are_found_by_function_and_by_endpoint() {
    let (topology, tree) = machine();
    let groups = Groups::new(&topology, [&tree], Policy::default());
    let function = |id| {
        groups.of_function(PciAddress {
            segment: Segment(0),
            function: RequesterId(id),
        })
    };
    let endpoint = |id| groups.of_endpoint(IommuIndex(0), EndpointId(id));
    for (id, endpoints) in [
        (0x418, &[0x38][..]),
        (0x38, &[0x38]),
        (0x310, &[0x200, 0x300]),
        (0x100, &[0x100]),
    ] {
        let group = function(id).unwrap();
        let found: Vec<u32> = group.endpoints.iter().map(|endpoint| endpoint.0).collect();
        assert_eq!(found, endpoints);
        for id in endpoints {
            assert_eq!(endpoint(*id), Some(group));
        }
    }
    // The IOMMU; nothing; the device's own id, which no IOMMU sees; another IOMMU.
    assert_eq!(function(0x08), None);
    assert_eq!(function(0x500), None);
    assert_eq!(endpoint(0x08), None);
    assert_eq!(endpoint(0x418), None);
    assert_eq!(endpoint(0x308), None);
    assert_eq!(groups.of_endpoint(IommuIndex(1), EndpointId(0x38)), None);
    assert_eq!(groups.members(IommuIndex(1)), Vec::<&[EndpointId]>::new());
}

#[test]
fn a_list_of_endpoints_is_completed() {
    let (topology, tree) = machine();
    let groups = Groups::new(&topology, [&tree], Policy::default());
    let complete = |ids: &[u32]| -> Vec<u32> {
        let ids: Vec<_> = ids.iter().map(|id| EndpointId(*id)).collect();
        let complete = groups.complete(IommuIndex(0), &ids);
        complete.iter().map(|id| id.0).collect()
    };
    assert_eq!(complete(&[0x300]), [0x200, 0x300]);
    assert_eq!(complete(&[0x300, 0x38, 0x300, 0x200]), [0x38, 0x200, 0x300]);
    assert_eq!(complete(&[0x9999, 0x10]), [0x10, 0x9999]);
    assert_eq!(complete(&[]), [0; 0]);
}
