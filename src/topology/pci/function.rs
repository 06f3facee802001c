//! A PCI function as plain data: what it is, where it is, which BARs it has.

#![forbid(unsafe_code)]

use alloc::vec::Vec;

use super::{Span, VIRTIO_IOMMU_DEVICE, VIRTIO_VENDOR};
use crate::address::PhysAddr;
use crate::topology::{PciAddress, RequesterId};

/// What a PCI Express capability says that a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpressKind {
    /// An endpoint of any sort.
    Endpoint,
    /// The root complex's own port to a link.
    RootPort,
    /// A switch's port towards the root.
    SwitchUpstream,
    /// A switch's port away from the root.
    SwitchDownstream,
    /// A bridge from PCI Express to conventional PCI.
    ExpressToPci,
    /// A bridge from conventional PCI to PCI Express.
    PciToExpress,
    /// A code that is none of these.
    Other(u8),
}

impl ExpressKind {
    /// The device/port type of the PCI Express capabilities register.
    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            0 | 1 | 9 | 10 => Self::Endpoint,
            4 => Self::RootPort,
            5 => Self::SwitchUpstream,
            6 => Self::SwitchDownstream,
            7 => Self::ExpressToPci,
            8 => Self::PciToExpress,
            other => Self::Other(other),
        }
    }
}

/// What kind of bridge it is: this decides whether functions behind it can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BridgeKind {
    /// A port of the root complex: keeps requester ids.
    RootPort,
    /// The upstream port of a switch: keeps requester ids.
    SwitchUpstream,
    /// A downstream port of a switch: keeps requester ids.
    SwitchDownstream,
    /// PCI Express above, conventional PCI below: everything below is seen as device 0, function 0
    /// of the secondary bus.
    ExpressToPci,
    /// Conventional PCI above, PCI Express below: everything below is seen as the bridge.
    PciToExpress,
    /// Conventional PCI on both sides: everything below is seen as the bridge.
    Conventional,
}

impl BridgeKind {
    pub(super) const fn of(express: Option<ExpressKind>) -> Self {
        match express {
            None => Self::Conventional,
            Some(ExpressKind::SwitchUpstream) => Self::SwitchUpstream,
            Some(ExpressKind::SwitchDownstream) => Self::SwitchDownstream,
            Some(ExpressKind::ExpressToPci) => Self::ExpressToPci,
            Some(ExpressKind::PciToExpress) => Self::PciToExpress,
            // A bridge that calls itself an endpoint is one of PCI Express all the same.
            Some(ExpressKind::RootPort | ExpressKind::Endpoint | ExpressKind::Other(_)) => {
                Self::RootPort
            }
        }
    }

    /// The requester id that everything below has in common, if it cannot be told apart.
    pub(super) const fn alias(self, bridge: RequesterId, secondary: u8) -> Option<RequesterId> {
        match self {
            Self::RootPort | Self::SwitchUpstream | Self::SwitchDownstream => None,
            Self::ExpressToPci => RequesterId::new(secondary, 0, 0),
            Self::PciToExpress | Self::Conventional => Some(bridge),
        }
    }
}

/// The kind of a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes up two registers.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    /// Whether reads have no side effects.
    #[must_use]
    pub const fn is_prefetchable(self) -> bool {
        match self {
            Self::Io => false,
            Self::Memory32 { prefetchable } | Self::Memory64 { prefetchable } => prefetchable,
        }
    }

    pub(super) const fn is_32_bit(self) -> bool {
        !matches!(self, Self::Memory64 { .. })
    }

    /// The bits of the register that are not address.
    pub(super) const fn flags(self) -> u32 {
        match self {
            Self::Io => 0x3,
            Self::Memory32 { .. } | Self::Memory64 { .. } => 0xf,
        }
    }
}

/// Where a BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BarAddress {
    /// On the PCI side: what the register holds.
    pub bus: u64,
    /// Where the CPU finds it, if a window of the host bridge says so.
    pub cpu: Option<PhysAddr>,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bar {
    /// Its number, 0 to 5.
    pub index: u8,
    /// Its kind.
    pub kind: BarKind,
    /// Its length in bytes, a power of two.
    pub size: u64,
    /// Its address; none where there was no room (a warning says so).
    pub address: Option<BarAddress>,
}

/// What makes a function a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bridge {
    /// The kind.
    pub kind: BridgeKind,
    /// The bus behind it; 0 if the numbers did not last.
    pub secondary: u8,
    /// The highest bus behind it; 0 if the numbers did not last.
    pub subordinate: u8,
    /// The I/O ports that it forwards.
    pub io: Option<Span>,
    /// The memory that it forwards.
    pub memory: Option<Span>,
    /// The prefetchable memory that it forwards.
    pub prefetchable: Option<Span>,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// What an IOMMU sees: its own address, or that of the conventional bridge that hides it. This
    /// is what [`Topology::pci`](crate::topology::Topology::pci) is asked with.
    pub requester: RequesterId,
    /// The vendor id.
    pub vendor: u16,
    /// The device id.
    pub device: u16,
    /// The class code.
    pub class: u8,
    /// The subclass.
    pub subclass: u8,
    /// The programming interface.
    pub prog_if: u8,
    /// The revision.
    pub revision: u8,
    /// 0 for a device, 1 for a bridge.
    pub header_type: u8,
    /// The interrupt pin: 0 for none, 1 to 4 for INTA to INTD.
    pub interrupt_pin: u8,
    /// The bridge that leads to it; none on the root bus.
    pub parent: Option<RequesterId>,
    /// What it is in PCI Express; none for conventional PCI.
    pub express: Option<ExpressKind>,
    /// What it is as a bridge.
    pub bridge: Option<Bridge>,
    /// Its BARs, in order, without the absent and the absurd ones.
    pub bars: Vec<Bar>,
    /// The registers (bit n for BAR n) that hold something absurd; warnings say what.
    pub absurd_bars: u8,
}

impl Function {
    /// The BAR with a number.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// Whether it is a virtio-iommu.
    #[must_use]
    pub const fn is_iommu(&self) -> bool {
        self.vendor == VIRTIO_VENDOR && self.device == VIRTIO_IOMMU_DEVICE
    }
}
