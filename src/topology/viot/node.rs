//! The bytes of a VIOT: its header, its nodes, and the bounded walk over them.

#![forbid(unsafe_code)]

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{HEADER_LEN, ViotError, WarningKind};

/// Type of a [`PciRangeNode`].
pub(super) const PCI_RANGE: u8 = 1;
/// Type of a [`MmioEndpoint`].
pub(super) const MMIO_ENDPOINT: u8 = 2;
/// Type of a [`PciIommu`].
pub(super) const PCI_IOMMU: u8 = 3;
/// Type of a [`MmioIommu`].
pub(super) const MMIO_IOMMU: u8 = 4;

/// "Virtual I/O Translation (VIOT) Table Header": 36 bytes that all ACPI tables have, and 12 more.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    _signature: [u8; 4],
    /// Of the whole table, in bytes.
    pub(super) length: U32,
    _revision: u8,
    _checksum: u8,
    _oem: [u8; 18],
    _creator: [u8; 8],
    pub(super) node_count: U16,
    /// From the first byte of the table, as all offsets.
    pub(super) node_offset: U16,
    _reserved: [u8; 8],
}

/// What all nodes begin with.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NodeHeader {
    kind: u8,
    _reserved: u8,
    /// With this header, in bytes.
    length: U16,
}

/// "PCI Range Node Structure".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PciRangeNode {
    _header: NodeHeader,
    pub(super) endpoint: U32,
    pub(super) first_segment: U16,
    pub(super) last_segment: U16,
    pub(super) first: U16,
    pub(super) last: U16,
    pub(super) output_node: U16,
    _reserved: [u8; 6],
}

/// "Single MMIO Endpoint Node Structure".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MmioEndpoint {
    _header: NodeHeader,
    pub(super) endpoint: U32,
    pub(super) base: U64,
    pub(super) output_node: U16,
    _reserved: [u8; 6],
}

/// "virtio-iommu based on virtio-pci Node Structure".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PciIommu {
    _header: NodeHeader,
    pub(super) segment: U16,
    pub(super) requester: U16,
    _reserved: [u8; 8],
}

/// "virtio-iommu based on virtio-mmio Node Structure".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct MmioIommu {
    _header: NodeHeader,
    _reserved: [u8; 4],
    pub(super) base: U64,
}

/// A node whose length has been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a> {
    /// Of its first byte in the table.
    pub(super) offset: usize,
    pub(super) kind: u8,
    bytes: &'a [u8],
}

impl<'a> Node<'a> {
    /// The offset behind its last byte.
    pub(super) fn end(&self) -> usize {
        self.offset.saturating_add(self.bytes.len())
    }

    /// Its fields. What is behind those that are known belongs to a later revision.
    pub(super) fn read<T>(&self) -> Result<&'a T, WarningKind>
    where
        T: FromBytes + Immutable + KnownLayout + Unaligned,
    {
        let fields = T::ref_from_prefix(self.bytes);
        fields
            .map(|(fields, _)| fields)
            .map_err(|_| WarningKind::Short {
                kind: self.kind,
                length: self.bytes.len(),
            })
    }
}

/// The nodes in the order of the table. Each is at least as long as its header, and inside; there
/// is no way on from an error, which is repeated.
#[derive(Clone, Debug)]
pub(super) struct Nodes<'a> {
    table: &'a [u8],
    offset: usize,
    left: u16,
}

impl<'a> Nodes<'a> {
    /// `table` is as long as its header says.
    pub(super) fn new(header: &Header, table: &'a [u8]) -> Result<Self, ViotError> {
        let (offset, left) = (header.node_offset.get(), header.node_count.get());
        // Without nodes the offset means nothing.
        if left > 0 && usize::from(offset) < HEADER_LEN {
            return Err(ViotError::NodeOffset(offset));
        }
        let offset = usize::from(offset);
        Ok(Self {
            table,
            offset,
            left,
        })
    }

    fn node(&self) -> Result<Node<'a>, ViotError> {
        let offset = self.offset;
        let rest = self.table.get(offset..).unwrap_or_default();
        let (header, _) =
            NodeHeader::ref_from_prefix(rest).map_err(|_| ViotError::MissingNode { offset })?;
        let length = header.length.get();
        // A node without a length would be visited for ever.
        let bytes = rest.get(..usize::from(length));
        let bytes = bytes.filter(|bytes| bytes.len() >= size_of::<NodeHeader>());
        Ok(Node {
            offset,
            kind: header.kind,
            bytes: bytes.ok_or(ViotError::NodeLength { offset, length })?,
        })
    }
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Result<Node<'a>, ViotError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let node = self.node();
        if let Ok(node) = &node {
            self.offset = node.end();
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_in_the_specification() {
        assert_eq!(size_of::<Header>(), 48);
        assert_eq!(size_of::<NodeHeader>(), 4);
        assert_eq!(size_of::<PciRangeNode>(), 24);
        assert_eq!(size_of::<MmioEndpoint>(), 24);
        assert_eq!(size_of::<PciIommu>(), 16);
        assert_eq!(size_of::<MmioIommu>(), 16);
    }
}
