//! Tables that QEMU made (`tests/data/VIOT.md`). Every requester id is asked.

use virtio_iommu::EndpointId;
use virtio_iommu::topology::viot::{Description, from_viot};
use virtio_iommu::topology::{
    IommuIndex, IommuLocation, PciAddress, Placement, RequesterId, Segment,
};

pub const Q35: &[u8] = include_bytes!("../data/viot-q35.bin");
pub const PC: &[u8] = include_bytes!("../data/viot-pc.bin");
pub const SLOT_5: &[u8] = include_bytes!("../data/viot-slot-5.bin");
pub const ROOT_PORT: &[u8] = include_bytes!("../data/viot-root-port.bin");
pub const BYPASS: &[u8] = include_bytes!("../data/viot-bypass.bin");
pub const PXB: &[u8] = include_bytes!("../data/viot-pxb.bin");
pub const BRIDGES: &[u8] = include_bytes!("../data/viot-bridges.bin");

/// All are read without a warning, have one IOMMU at `iommu`, and exactly the requester ids of
/// `ranges` but the IOMMU's own are behind it, in segment 0, with endpoint ids of the same value.
fn check(table: &[u8], iommu: u16, ranges: &[(u16, u16)]) {
    let description = from_viot(table).unwrap();
    assert_eq!(
        (&description.warnings[..], description.warnings_omitted),
        (&[][..], 0)
    );
    let Description { topology, .. } = description;
    let location = PciAddress {
        segment: Segment(0),
        function: RequesterId(iommu),
    };
    assert_eq!(topology.iommus(), [IommuLocation::Pci(location)]);
    assert_eq!(topology.platform(), []);
    for id in 0..=u16::MAX {
        let inside = ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&id));
        let expected = if inside && id != iommu {
            Placement::Behind {
                iommu: IommuIndex(0),
                endpoint: EndpointId(id.into()),
            }
        } else {
            Placement::NotBehind
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
    }
}

#[test]
fn q35_has_one_bus_and_the_iommu_in_slot_1() {
    check(Q35, 0x08, &[(0, 0xff)]);
}

#[test]
fn pc_has_the_iommu_in_slot_2() {
    check(PC, 0x10, &[(0, 0xff)]);
}

#[test]
fn the_iommu_may_be_in_slot_5() {
    check(SLOT_5, 0x28, &[(0, 0xff)]);
}

#[test]
fn a_root_port_has_a_second_bus() {
    check(ROOT_PORT, 0x08, &[(0, 0x1ff)]);
}

#[test]
fn bridges_have_five_buses() {
    check(BRIDGES, 0x08, &[(0, 0x4ff)]);
}

#[test]
fn an_expander_bus_has_a_range_of_its_own() {
    check(PXB, 0x08, &[(0, 0xff), (0x8000, 0x81ff)]);
}

#[test]
fn nobody_is_behind_an_iommu_that_all_bypass() {
    check(BYPASS, 0x08, &[]);
}
