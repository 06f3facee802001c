//! What can be wrong with a VIOT: errors for the whole, warnings for a node that is skipped.

#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

/// The most warnings that are kept; the others are counted.
pub const MAX_WARNINGS: usize = 64;

/// Why a VIOT cannot be used at all. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ViotError {
    /// The slice ends before the table does.
    #[error("{available} bytes of {needed} are there")]
    Truncated {
        /// The length of the table, or of the smallest one if not even that can be read.
        needed: usize,
        /// The length of the slice.
        available: usize,
    },
    /// It is another table.
    #[error("the signature is not VIOT, but {}", .0.escape_ascii())]
    Signature([u8; 4]),
    /// The length in the header is less than that of the header.
    #[error("the table claims to be {0} bytes long")]
    Length(u32),
    /// The bytes of the table do not add up to 0.
    #[error("the checksum is off by {0:#x}")]
    Checksum(u8),
    /// The nodes would begin inside of the header.
    #[error("the nodes begin at {0}, inside of the header")]
    NodeOffset(u16),
    /// A node is shorter than what all nodes have, or ends behind the table.
    #[error("the node at {offset} claims to be {length} bytes long")]
    NodeLength {
        /// Where it begins.
        offset: usize,
        /// Its length.
        length: u16,
    },
    /// There are fewer nodes than the header says.
    #[error("the table ends before the node at {offset}")]
    MissingNode {
        /// Where it would begin.
        offset: usize,
    },
}

/// A node that was skipped, or was not taken as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where the node begins in the table, in bytes.
    pub offset: usize,
    /// What about it.
    pub kind: WarningKind,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}: {}", self.offset, self.kind)
    }
}

/// What a [`Warning`] is about. The node is skipped unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WarningKind {
    /// A type that is not known.
    #[error("nodes of type {0} are not known")]
    UnknownType(u8),
    /// Too short for its type.
    #[error("{length} bytes are too few for a node of type {kind}")]
    Short {
        /// Its type.
        kind: u8,
        /// Its length, in bytes.
        length: usize,
    },
    /// An IOMMU that an earlier node describes already; both nodes are taken for that one.
    #[error("the IOMMU is described twice")]
    DuplicateIommu,
    /// The output node is not the beginning of an IOMMU's node.
    #[error("there is no IOMMU at {0:#x}")]
    NoIommu(u16),
    /// The output node is an IOMMU that was skipped itself.
    #[error("the IOMMU at {0:#x} is unusable")]
    UnusableIommu(u16),
    /// A PCI range whose last segment is before the first one.
    #[error("the segments {first:#x} to {last:#x} are inverted")]
    InvertedSegments {
        /// The first segment.
        first: u16,
        /// The last segment.
        last: u16,
    },
    /// A PCI range whose last requester id is before the first one.
    #[error("the requester ids {first:#x} to {last:#x} are inverted")]
    InvertedRange {
        /// The first requester id.
        first: u16,
        /// The last requester id.
        last: u16,
    },
    /// A PCI range whose endpoint ids do not fit into 32 bits.
    #[error("the endpoint ids wrap, from {0:#x}")]
    EndpointsWrap(u32),
    /// A PCI range that overlaps an earlier one, which is preferred; the rest of it is used.
    #[error("the range overlaps an earlier one")]
    OverlappingRange,
    /// An MMIO endpoint that is the very IOMMU that it names.
    #[error("the IOMMU is not behind itself")]
    IommuItself,
    /// An MMIO endpoint that an earlier node describes in the same words.
    #[error("the endpoint is described twice")]
    DuplicateEndpoint,
    /// A list is as long as it may become.
    #[error("too many {0}")]
    TooMany(List),
    /// Behind the last node, where nothing is read.
    #[error("{0} bytes belong to no node")]
    UnreadBytes(usize),
}

/// The lists that have a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// IOMMUs: [`MAX_IOMMUS`](crate::topology::MAX_IOMMUS).
    Iommus,
    /// PCI ranges: [`MAX_PCI_RANGES`](crate::topology::MAX_PCI_RANGES).
    PciRanges,
    /// MMIO endpoints: [`MAX_PLATFORM_ENDPOINTS`](crate::topology::MAX_PLATFORM_ENDPOINTS).
    MmioEndpoints,
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iommus => "IOMMUs",
            Self::PciRanges => "PCI ranges",
            Self::MmioEndpoints => "MMIO endpoints",
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
    pub(super) fn push(&mut self, offset: usize, kind: WarningKind) {
        if self.list.len() < MAX_WARNINGS {
            self.list.push(Warning { offset, kind });
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }
}
