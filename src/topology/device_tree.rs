//! The topology out of a flattened device tree.
//!
//! Read are, as the bindings of the Devicetree Specification and of virtio-iommu have them:
//!
//! * **host bridges** (`device_type = "pci"`, 3 address cells, 2 size cells): `bus-range`,
//!   `linux,pci-domain`, `ranges`, and `reg` as ECAM for `pci-host-ecam-generic`. A bridge without
//!   `linux,pci-domain` gets the lowest segment that is free;
//! * **IOMMUs**: children of a host bridge compatible with `virtio,pci-iommu` or `pci1af4,1057`,
//!   and `virtio,mmio` nodes with `#iommu-cells`; one cell is required;
//! * **`iommu-map`** of host bridges with `iommu-map-mask`: all tuples, the holes between them
//!   included. Where two overlap, the first one counts;
//! * **`iommus`** of nodes that are not on PCI.
//!
//! A tree that breaks the format is an error. A part that makes no sense is left out, and a
//! [`Warning`] says which; what is left out reads as "not behind an IOMMU", so that a device whose
//! description is broken has its DMA refused by an IOMMU that is locked, and not translated with
//! somebody else's mappings.
//!
//! The time is linear in the size of the tree, the memory bounded. Limits of the reader behind it
//! (`dtoolkit`): names of nodes and properties have at most 31 characters (without unit address).

#![forbid(unsafe_code)]

mod collect;
mod node;
mod resolve;
mod value;
mod warning;

pub use collect::{MAX_HOST_BRIDGES, MAX_IOMMU_NODES, MAX_WINDOWS};
pub use warning::{DeviceTreeError, List, Property, Warning, WarningKind};
pub use warning::{MAX_DEPTH, MAX_PATH, MAX_WARNINGS};

use alloc::vec::Vec;

use dtoolkit::fdt::Fdt;

use self::collect::Collector;
use super::{HostBridge, Topology};

/// What a device tree says about DMA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Who is behind which IOMMU. Empty if the tree describes no virtio-iommu.
    pub topology: Topology,
    /// The PCI host bridges, ready for [`pci::walk`](super::pci::walk).
    pub host_bridges: Vec<HostBridge>,
    /// What was left out.
    pub warnings: Vec<Warning>,
    /// How many warnings more there were.
    pub warnings_omitted: usize,
}

/// Reads a flattened device tree.
///
/// `blob` begins with the header and may be longer than the tree.
///
/// # Errors
///
/// [`DeviceTreeError`] if the tree as a whole cannot be read. A tree without an IOMMU, or without
/// PCI, is no error.
pub fn from_device_tree(blob: &[u8]) -> Result<Description, DeviceTreeError> {
    let tree = Fdt::new(trim(blob)?).map_err(|error| DeviceTreeError::from(error.kind))?;
    let mut collector = Collector::default();
    node::for_each(tree, |place| collector.visit(place))?;
    let mut claims = collector.claims();
    node::for_each(tree, |place| {
        resolve::count_claim(&mut claims, place);
        None
    })?;
    Ok(resolve::resolve(collector, &claims))
}

/// The part of `blob` that the header claims.
fn trim(blob: &[u8]) -> Result<&[u8], DeviceTreeError> {
    let word = |offset: usize| {
        let bytes = blob.get(offset..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    if word(0).ok_or(DeviceTreeError::Truncated)? != 0xd00d_feed {
        return Err(DeviceTreeError::Magic);
    }
    let size = word(4).ok_or(DeviceTreeError::Truncated)?;
    let size = usize::try_from(size).map_err(|_| DeviceTreeError::Truncated)?;
    blob.get(..size).ok_or(DeviceTreeError::Truncated)
}
