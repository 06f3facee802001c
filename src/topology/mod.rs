//! Who sits behind which IOMMU, as plain data, and the PCI walk that makes the answer true.
//!
//! The driver itself takes endpoint ids. This module finds them: it turns what the firmware says
//! into a [`Topology`], which answers "requester id, which IOMMU, which endpoint id?". A device
//! that is not behind an IOMMU is an answer ([`Placement::NotBehind`]), not an error.
//!
//! | source | how |
//! |---|---|
//! | flattened device tree | `device_tree::from_device_tree` (feature `device-tree`) |
//! | ACPI VIOT | [`viot::from_viot`] |
//! | a table of the kernel's own | [`Topology::identity`], or [`Topology::add_iommu`] and its sisters |
//! | nothing at all | [`Topology::scan`]: look for 1af4:1057, endpoint id = requester id |
//!
//! On PCI the endpoint id is derived from bus numbers, so these must be final before the IOMMU is
//! asked anything: [`pci::walk`] numbers every bridge, places every BAR, and lists the functions
//! with the requester id that the IOMMU will see. **Walk first, start the driver afterwards**:
//! QEMU remembers for good which bus it found under a number.
//!
//! A table of the kernel's own, for QEMU's virtio-mmio IOMMU, which no device tree describes:
//!
//! ```
//! use virtio_iommu::address::{EndpointId, PhysAddr};
//! use virtio_iommu::topology::{IommuIndex, IommuLocation, Placement, RequesterId, Segment, Topology};
//!
//! let base = PhysAddr(0x1000_8000);
//! let iommu = IommuLocation::Mmio { base, size: Some(0x1000) };
//! let table = Topology::identity(iommu, Segment(0));
//! let edu = RequesterId::new(0, 1, 0).unwrap();
//! let behind = Placement::Behind { iommu: IommuIndex(0), endpoint: EndpointId(0x08) };
//! assert_eq!(table.pci(Segment(0), edu), behind);
//! assert_eq!(table.pci(Segment(1), edu), Placement::NotBehind);
//! ```
//!
//! Endpoints that cannot be told apart, because a bridge replaces their ids, form a group:
//! [`groups::Groups`] finds them.
//!
//! Everything here reads what firmware and devices wrote. Nothing panics on it, every list and
//! every loop has a bound, and what is skipped is reported as data.

#![forbid(unsafe_code)]

mod host_bridge;
mod table;

#[cfg(feature = "device-tree")]
pub mod device_tree;
pub mod groups;
pub mod pci;
pub mod viot;

pub use host_bridge::{BusRange, HostBridge, Window, WindowKind};
pub use table::{MAX_IOMMUS, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS};
pub use table::{PciRange, PlatformEndpoint, TableError, Topology};

use core::fmt;

use virtio_drivers::transport::pci::bus::DeviceFunction;

use crate::address::{EndpointId, PhysAddr};

/// A PCI segment group: what a device tree calls `linux,pci-domain`.
///
/// Bus numbers repeat from one segment to the next. A machine with a single host bridge has
/// segment 0 only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(pub u16);

/// A PCI requester id within a segment: `bus << 8 | device << 3 | function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequesterId(pub u16);

impl RequesterId {
    /// The id of a bus, a device (0 to 31) and a function (0 to 7); `None` beyond these.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self(
            (bus as u16) << 8 | (device as u16) << 3 | function as u16,
        ))
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// The same triple in the words of `virtio-drivers`.
    #[must_use]
    pub const fn device_function(self) -> DeviceFunction {
        DeviceFunction {
            bus: self.bus(),
            device: self.device(),
            function: self.function(),
        }
    }
}

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{bus:02x}:{device:02x}.{function}")
    }
}

/// Where a PCI function is: its segment and its own bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The segment.
    pub segment: Segment,
    /// Bus, device and function.
    pub function: RequesterId,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment.0, self.function)
    }
}

/// An IOMMU of a [`Topology`]: the index into [`Topology::iommus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IommuIndex(pub usize);

/// Where an IOMMU is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IommuLocation {
    /// virtio-iommu over PCI: the function.
    Pci(PciAddress),
    /// virtio-iommu over MMIO: its register block.
    Mmio {
        /// The physical address of the first register.
        base: PhysAddr,
        /// The length of the block in bytes, where the description says it (ACPI does not).
        size: Option<u64>,
    },
}

impl fmt::Display for IommuLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "pci {address}"),
            Self::Mmio { base, .. } => write!(f, "mmio {base}"),
        }
    }
}

/// The answer for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Its DMA is translated.
    Behind {
        /// The IOMMU that translates it.
        iommu: IommuIndex,
        /// Its name there.
        endpoint: EndpointId,
    },
    /// Nothing says that it is behind a virtio-iommu: the addresses that it puts on the bus are
    /// physical.
    NotBehind,
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn a_requester_id_is_its_three_numbers() {
        let id = RequesterId::new(0x12, 0x1f, 7).unwrap();
        assert_eq!(id, RequesterId(0x12ff));
        assert_eq!((id.bus(), id.device(), id.function()), (0x12, 0x1f, 7));
        assert_eq!(RequesterId::new(0, 32, 0), None);
        assert_eq!(RequesterId::new(0, 0, 8), None);
        for raw in 0..=u16::MAX {
            let id = RequesterId(raw);
            assert_eq!(
                RequesterId::new(id.bus(), id.device(), id.function()),
                Some(id)
            );
            assert!(id.device_function().valid());
        }
    }

    #[test]
    fn addresses_read_as_lspci_prints_them() {
        let address = PciAddress {
            segment: Segment(1),
            function: RequesterId(0x0110),
        };
        assert_eq!(address.to_string(), "0001:01:02.0");
    }
}
