//! The topology out of ACPI's Virtual I/O Translation Table, VIOT (ACPI 6.4 and later, chapter
//! 5.2, "Virtual I/O Translation (VIOT) Table").
//!
//! Read are all four kinds of nodes: PCI ranges, single MMIO endpoints, and virtio-iommu over PCI
//! and over MMIO. Nodes of other kinds are skipped by their length, longer ones than known are
//! read as far as known.
//!
//! A table that breaks its own frame (signature, length, checksum, nodes that end outside) is an
//! error. A node that makes no sense is left out, and a [`Warning`] says which; what is left out
//! reads as "not behind an IOMMU", so that a device whose description is broken has its DMA
//! refused by an IOMMU that is locked, and not translated with somebody else's mappings.
//!
//! * The endpoint id of requester id `r` in segment `s` is
//!   `((s - first segment) << 16) + r - first requester id + first endpoint id`.
//! * An IOMMU is not behind itself, although ranges cover it as a rule (QEMU).
//! * Where two ranges overlap, the first one counts; the rest of the later one is used.
//! * A reference may lead forward or backward, but only to the first byte of an IOMMU's node.
//! * The bus numbers are those that the firmware gave. [`pci::walk`](super::pci::walk) keeps them
//!   if they are consistent; a kernel that numbers buses anew cannot use this table.
//!
//! The time is linear in the length of the table, and so is nothing else: lists are bounded.

#![forbid(unsafe_code)]

mod node;
mod warning;

pub use warning::{List, MAX_WARNINGS, ViotError, Warning, WarningKind};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use zerocopy::FromBytes;

use self::node::{Header, MmioEndpoint, MmioIommu, Node, Nodes, PciIommu, PciRangeNode};
use self::warning::Warnings;
use super::{
    IommuIndex, IommuLocation, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, PciAddress, PciRange,
    PlatformEndpoint, RequesterId, Segment, Topology,
};
use crate::address::{EndpointId, PhysAddr};

/// The signature by which the RSDT or XSDT knows the table.
pub const SIGNATURE: [u8; 4] = *b"VIOT";
/// The length of a table without nodes, in bytes: no VIOT is shorter.
pub const HEADER_LEN: usize = size_of::<Header>();

/// What a VIOT says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Who is behind which IOMMU. Without ranges and endpoints, all of them bypass it.
    pub topology: Topology,
    /// What was left out.
    pub warnings: Vec<Warning>,
    /// How many warnings more there were.
    pub warnings_omitted: usize,
}

/// Reads a VIOT.
///
/// `table` begins with the ACPI header and may be longer than the length in it.
///
/// # Errors
///
/// [`ViotError`] if the table as a whole cannot be read. A table without an IOMMU is no error.
pub fn from_viot(table: &[u8]) -> Result<Description, ViotError> {
    let (header, table) = frame(table)?;
    let nodes = Nodes::new(header, table)?;
    let mut reader = Reader::default();
    // References may lead forward: first all IOMMUs, then everybody behind them.
    let mut end = None;
    for node in nodes.clone() {
        let node = node?;
        reader.iommu(&node);
        end = Some(node.end());
    }
    for node in nodes {
        reader.endpoints(&node?);
    }
    let unread = end.map(|end| (end, table.len().saturating_sub(end)));
    if let Some((end, bytes)) = unread.filter(|(_, bytes)| *bytes > 0) {
        reader.warnings.push(end, WarningKind::UnreadBytes(bytes));
    }
    Ok(Description {
        topology: reader.topology,
        warnings: reader.warnings.list,
        warnings_omitted: reader.warnings.omitted,
    })
}

/// The header, and the table as long as it says that it is.
fn frame(table: &[u8]) -> Result<(&Header, &[u8]), ViotError> {
    let available = table.len();
    let truncated = |needed| ViotError::Truncated { needed, available };
    let signature = table.first_chunk().ok_or(truncated(HEADER_LEN))?;
    if *signature != SIGNATURE {
        return Err(ViotError::Signature(*signature));
    }
    let (header, _) = Header::ref_from_prefix(table).map_err(|_| truncated(HEADER_LEN))?;
    let length = header.length.get();
    // Longer than any address: certainly longer than the slice.
    let needed = usize::try_from(length).unwrap_or(usize::MAX);
    if needed < HEADER_LEN {
        return Err(ViotError::Length(length));
    }
    let table = table.get(..needed).ok_or(truncated(needed))?;
    match table
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    {
        0 => Ok((header, table)),
        sum => Err(ViotError::Checksum(sum)),
    }
}

/// The topology while it grows.
#[derive(Default)]
struct Reader {
    topology: Topology,
    /// The nodes of IOMMUs by their offsets, as far as a reference can reach. None: skipped.
    iommus: BTreeMap<u16, Option<IommuIndex>>,
    warnings: Warnings,
}

impl Reader {
    /// Enters a node that is an IOMMU.
    fn iommu(&mut self, node: &Node<'_>) {
        let location = match node.kind {
            node::PCI_IOMMU => node.read().map(|iommu: &PciIommu| {
                IommuLocation::Pci(PciAddress {
                    segment: Segment(iommu.segment.get()),
                    function: RequesterId(iommu.requester.get()),
                })
            }),
            node::MMIO_IOMMU => node.read().map(|iommu: &MmioIommu| IommuLocation::Mmio {
                base: PhysAddr(iommu.base.get()),
                size: None,
            }),
            _ => return,
        };
        let index = location.and_then(|location| {
            if let Some(index) = self.index_of(&location) {
                self.warnings.push(node.offset, WarningKind::DuplicateIommu);
                return Ok(index);
            }
            let added = self.topology.add_iommu(location);
            added.map_err(|_| WarningKind::TooMany(List::Iommus))
        });
        let index = index
            .map_err(|kind| self.warnings.push(node.offset, kind))
            .ok();
        // A reference has 16 bits: nobody refers to what is beyond.
        if let Ok(offset) = u16::try_from(node.offset) {
            self.iommus.insert(offset, index);
        }
    }

    fn index_of(&self, location: &IommuLocation) -> Option<IommuIndex> {
        let iommus = self.topology.iommus();
        iommus
            .iter()
            .position(|iommu| iommu == location)
            .map(IommuIndex)
    }

    /// Enters a node that is not an IOMMU.
    fn endpoints(&mut self, node: &Node<'_>) {
        let entered = match node.kind {
            node::PCI_RANGE => node.read().and_then(|range| self.range(node, range)),
            node::MMIO_ENDPOINT => node.read().and_then(|endpoint| self.endpoint(endpoint)),
            node::PCI_IOMMU | node::MMIO_IOMMU => Ok(()),
            unknown => Err(WarningKind::UnknownType(unknown)),
        };
        if let Err(kind) = entered {
            self.warnings.push(node.offset, kind);
        }
    }

    /// The IOMMU that a reference leads to.
    fn target(&self, reference: u16) -> Result<IommuIndex, WarningKind> {
        match self.iommus.get(&reference) {
            Some(Some(index)) => Ok(*index),
            Some(None) => Err(WarningKind::UnusableIommu(reference)),
            None => Err(WarningKind::NoIommu(reference)),
        }
    }

    fn range(&mut self, node: &Node<'_>, range: &PciRangeNode) -> Result<(), WarningKind> {
        let (first, last) = (range.first_segment.get(), range.last_segment.get());
        if last < first {
            return Err(WarningKind::InvertedSegments { first, last });
        }
        let segments = (Segment(first), Segment(last));
        let (first, last) = (range.first.get(), range.last.get());
        if last < first {
            return Err(WarningKind::InvertedRange { first, last });
        }
        let iommu = self.target(range.output_node.get())?;
        let endpoint = EndpointId(range.endpoint.get());
        let (first, last) = (RequesterId(first), RequesterId(last));
        let range = PciRange::new(segments.0, first, last, iommu, endpoint)
            .and_then(|range| range.with_last_segment(segments.1))
            .ok_or(WarningKind::EndpointsWrap(endpoint.0))?;
        let full = WarningKind::TooMany(List::PciRanges);
        // Looked at first, so that a table of nothing but ranges costs no more than its length.
        if self.topology.ranges().len() >= MAX_PCI_RANGES {
            return Err(full);
        }
        if self.topology.add_described_range(range).map_err(|_| full)? {
            self.warnings
                .push(node.offset, WarningKind::OverlappingRange);
        }
        Ok(())
    }

    fn endpoint(&mut self, endpoint: &MmioEndpoint) -> Result<(), WarningKind> {
        let iommu = self.target(endpoint.output_node.get())?;
        let base = PhysAddr(endpoint.base.get());
        let itself = IommuLocation::Mmio { base, size: None };
        if self.topology.iommus().get(iommu.0) == Some(&itself) {
            return Err(WarningKind::IommuItself);
        }
        let full = WarningKind::TooMany(List::MmioEndpoints);
        let entries = self.topology.platform();
        if entries.len() >= MAX_PLATFORM_ENDPOINTS {
            return Err(full);
        }
        let entry = PlatformEndpoint {
            node: None,
            base: Some(base),
            iommu,
            endpoint: EndpointId(endpoint.endpoint.get()),
        };
        if entries.contains(&entry) {
            return Err(WarningKind::DuplicateEndpoint);
        }
        self.topology.add_platform(entry).map_err(|_| full)
    }
}
