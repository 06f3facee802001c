//! What can be wrong with a device tree: errors for the whole, warnings for a part that is
//! skipped.

#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dtoolkit::error::FdtErrorKind;
use thiserror::Error;

/// The most warnings that are kept; the others are counted.
pub const MAX_WARNINGS: usize = 64;
/// How deep nodes may be nested.
pub const MAX_DEPTH: usize = 32;
/// The longest path of a node that is recorded, in bytes.
pub const MAX_PATH: usize = 255;

/// Why a device tree cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeviceTreeError {
    /// It does not begin as a device tree does.
    #[error("this is no device tree")]
    Magic,
    /// It ends before it should.
    #[error("the device tree is truncated")]
    Truncated,
    /// A version of the format that cannot be read.
    #[error("version {0} of the device-tree format is not supported")]
    Version(u32),
    /// Its header contradicts itself.
    #[error("the header of the device tree contradicts itself")]
    Header,
    /// Its nodes and properties do not follow the format.
    #[error("the structure of the device tree is broken")]
    Structure,
    /// Nodes are nested deeper than [`MAX_DEPTH`].
    #[error("nodes are nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

impl From<FdtErrorKind> for DeviceTreeError {
    fn from(kind: FdtErrorKind) -> Self {
        match kind {
            FdtErrorKind::InvalidMagic => Self::Magic,
            FdtErrorKind::UnsupportedVersion(version) => Self::Version(version),
            FdtErrorKind::InvalidLength => Self::Truncated,
            FdtErrorKind::InvalidHeader(_) => Self::Header,
            _ => Self::Structure,
        }
    }
}

/// A part of a device tree that was skipped, or was not taken as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The path of the node, cut at [`MAX_PATH`] bytes.
    pub node: String,
    /// What about it.
    pub kind: WarningKind,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.kind)
    }
}

/// What a [`Warning`] is about. The entry is skipped unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WarningKind {
    /// A property has a length that it cannot have, or a value that makes no sense.
    #[error("malformed {0}")]
    Malformed(Property),
    /// A node lacks a property without which it is of no use.
    #[error("no {0}")]
    Missing(Property),
    /// `#address-cells` or `#size-cells` that this kind of node cannot have.
    #[error("unusable cell counts: {address} for addresses, {size} for sizes")]
    CellCounts {
        /// Cells of an address.
        address: u32,
        /// Cells of a size.
        size: u32,
    },
    /// A reference to a node that does not exist, or that is no IOMMU.
    #[error("phandle {0:#x} leads to no IOMMU")]
    DanglingPhandle(u32),
    /// A reference that more than one node answers to.
    #[error("phandle {0:#x} is claimed more than once")]
    DuplicatePhandle(u32),
    /// A reference to an IOMMU that is not a virtio-iommu.
    #[error("phandle {0:#x} is not a virtio-iommu")]
    ForeignIommu(u32),
    /// A reference to a virtio-iommu that is disabled, or was skipped itself.
    #[error("the IOMMU with phandle {0:#x} is disabled or unusable")]
    UnusableIommu(u32),
    /// `#iommu-cells` of a virtio-iommu is not 1.
    #[error("#iommu-cells is {0}, not 1")]
    IommuCells(u32),
    /// A virtio-iommu behind a PCI bridge, whose bus number nobody knows before the walk.
    #[error("the IOMMU is behind a bridge")]
    IommuBehindBridge,
    /// `iommus` on a PCI function, where `iommu-map` of the host bridge decides.
    #[error("iommus on a PCI function is ignored")]
    IommusOnPci,
    /// A tuple of `iommu-map` of length 0.
    #[error("iommu-map: no requester ids at {first:#x}")]
    EmptyTuple {
        /// The first requester id.
        first: u32,
    },
    /// A tuple of `iommu-map` that begins beyond 16 bits or wraps.
    #[error("iommu-map: {length:#x} requester ids at {first:#x} do not exist")]
    NoSuchRequesters {
        /// The first requester id.
        first: u32,
        /// How many.
        length: u32,
    },
    /// A tuple of `iommu-map` that goes beyond 16 bits: it is used as far as 0xffff.
    #[error("iommu-map: {length:#x} requester ids at {first:#x} end at 0xffff")]
    TooManyRequesters {
        /// The first requester id.
        first: u32,
        /// How many.
        length: u32,
    },
    /// A tuple of `iommu-map` whose endpoint ids wrap.
    #[error("iommu-map: endpoint ids wrap, from {0:#x}")]
    EndpointsWrap(u32),
    /// A tuple of `iommu-map` that begins at a requester id which `iommu-map-mask` never leaves.
    #[error("iommu-map: the mask makes {first:#x} impossible")]
    MaskedOut {
        /// The first requester id.
        first: u32,
    },
    /// A tuple of `iommu-map` overlaps an earlier one, which is preferred.
    #[error("iommu-map: the requester ids at {first:#x} overlap an earlier tuple")]
    OverlappingTuple {
        /// The first requester id.
        first: u32,
    },
    /// A host bridge claims buses of another one.
    #[error("the buses belong to another host bridge already")]
    BusesTaken,
    /// The configuration space is smaller than the bus range; the range is cut.
    #[error("the configuration space has room for {0} buses only")]
    ShortConfigurationSpace(u64),
    /// An address that its parents do not pass on to the CPU.
    #[error("{0} cannot be translated to a CPU address")]
    Untranslatable(Property),
    /// A window of the host bridge that is empty, wraps or is of an unknown kind.
    #[error("window {0} of the host bridge makes no sense")]
    Window(u32),
    /// A list is as long as it may become.
    #[error("too many {0}")]
    TooMany(List),
}

/// The lists that have a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Host bridges.
    HostBridges,
    /// Windows of a host bridge.
    Windows,
    /// IOMMU nodes.
    Iommus,
    /// Tuples of `iommu-map`.
    Tuples,
    /// Platform devices with `iommus`, and their endpoint ids.
    PlatformEndpoints,
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostBridges => "host bridges",
            Self::Windows => "windows",
            Self::Iommus => "IOMMUs",
            Self::Tuples => "tuples of iommu-map",
            Self::PlatformEndpoints => "platform endpoints",
        })
    }
}

/// The properties that warnings talk about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property {
    /// `bus-range`.
    BusRange,
    /// `iommu-map`.
    IommuMap,
    /// `iommu-map-mask`.
    IommuMapMask,
    /// `#iommu-cells`.
    IommuCells,
    /// `iommus`.
    Iommus,
    /// `linux,pci-domain`.
    PciDomain,
    /// `phandle`.
    Phandle,
    /// `ranges`.
    Ranges,
    /// `reg`.
    Reg,
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BusRange => "bus-range",
            Self::IommuMap => "iommu-map",
            Self::IommuMapMask => "iommu-map-mask",
            Self::IommuCells => "#iommu-cells",
            Self::Iommus => "iommus",
            Self::PciDomain => "linux,pci-domain",
            Self::Phandle => "phandle",
            Self::Ranges => "ranges",
            Self::Reg => "reg",
        })
    }
}

/// Warnings, up to [`MAX_WARNINGS`].
#[derive(Debug, Default)]
pub(super) struct Warnings {
    pub(super) list: Vec<Warning>,
    pub(super) omitted: usize,
}

impl Warnings {
    /// Records `kind` for a node; its path is only made if there is room.
    pub(super) fn push(&mut self, node: impl FnOnce() -> String, kind: WarningKind) {
        if self.list.len() < MAX_WARNINGS {
            let node = node();
            self.list.push(Warning { node, kind });
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }
}
