//! One walk over all nodes, in the order of the file, with the path and the buses above at hand.

#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property as _};

use super::value::{cell, cells, has_string};
use super::warning::{DeviceTreeError, MAX_DEPTH, MAX_PATH};

/// The most entries of a `ranges` that addresses are translated through.
const MAX_RANGES: usize = 256;

/// What a node says, as far as it matters here. The first property of a name counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Properties<'a> {
    pub(super) compatible: Option<&'a [u8]>,
    pub(super) device_type: Option<&'a [u8]>,
    pub(super) status: Option<&'a [u8]>,
    pub(super) reg: Option<&'a [u8]>,
    pub(super) ranges: Option<&'a [u8]>,
    pub(super) phandle: Option<&'a [u8]>,
    pub(super) address_cells: Option<&'a [u8]>,
    pub(super) size_cells: Option<&'a [u8]>,
    pub(super) bus_range: Option<&'a [u8]>,
    pub(super) pci_domain: Option<&'a [u8]>,
    pub(super) iommu_cells: Option<&'a [u8]>,
    pub(super) iommu_map: Option<&'a [u8]>,
    pub(super) iommu_map_mask: Option<&'a [u8]>,
    pub(super) iommus: Option<&'a [u8]>,
}

impl<'a> Properties<'a> {
    fn of(node: &FdtNode<'a>) -> Self {
        let mut found = Self::default();
        for property in node.properties() {
            let slot = match property.name() {
                "compatible" => &mut found.compatible,
                "device_type" => &mut found.device_type,
                "status" => &mut found.status,
                "reg" => &mut found.reg,
                "ranges" => &mut found.ranges,
                "phandle" | "linux,phandle" => &mut found.phandle,
                "#address-cells" => &mut found.address_cells,
                "#size-cells" => &mut found.size_cells,
                "bus-range" => &mut found.bus_range,
                "linux,pci-domain" => &mut found.pci_domain,
                "#iommu-cells" => &mut found.iommu_cells,
                "iommu-map" => &mut found.iommu_map,
                "iommu-map-mask" => &mut found.iommu_map_mask,
                "iommus" => &mut found.iommus,
                _ => continue,
            };
            // Any value is a value as bytes.
            *slot = slot.or(property.value_as::<&'a [u8]>().ok());
        }
        found
    }

    pub(super) fn is_compatible(&self, with: &str) -> bool {
        self.compatible.is_some_and(|value| has_string(value, with))
    }

    pub(super) fn is_pci(&self) -> bool {
        self.device_type
            .is_some_and(|value| has_string(value, "pci"))
    }

    fn is_enabled(&self) -> bool {
        self.status
            .is_none_or(|value| matches!(value, b"okay\0" | b"ok\0"))
    }
}

/// A bus above a node: how the addresses on it are written, and how they leave it upwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bus<'a> {
    pub(super) address_cells: u32,
    pub(super) size_cells: u32,
    /// `ranges`: none means that nothing gets through, an empty one that everything does.
    ranges: Option<&'a [u8]>,
    /// PCI, and whether it is the host bridge itself.
    pub(super) pci: Option<PciBus>,
}

/// What a PCI node's children hang from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PciBus {
    /// The host bridge, the `n`-th in the tree.
    Root(usize),
    /// A bridge below it.
    Below,
}

/// A node with everything above it.
#[derive(Debug)]
pub(super) struct Place<'w, 'a> {
    pub(super) properties: Properties<'a>,
    /// The node and all above it are enabled.
    pub(super) enabled: bool,
    /// From the root node to the parent; empty for the root node itself.
    above: &'w [Bus<'a>],
    path: &'w str,
}

impl<'a> Place<'_, 'a> {
    /// The bus that the node is on; the root node has none.
    pub(super) fn bus(&self) -> Option<&Bus<'a>> {
        self.above.last()
    }

    /// The path, cut at [`MAX_PATH`] bytes (a path is ASCII).
    pub(super) fn cut_path(&self) -> String {
        let path = if self.path.is_empty() { "/" } else { self.path };
        path.chars().take(MAX_PATH).collect()
    }

    /// The path, if it is short enough to be recorded.
    pub(super) fn path(&self) -> Option<String> {
        (self.path.len() <= MAX_PATH).then(|| self.cut_path())
    }

    /// The CPU's address of an address on the bus that the node is on.
    pub(super) fn to_cpu(&self, address: u64) -> Option<u64> {
        let mut address = address;
        let mut buses = self.above.iter().rev();
        let mut bus = buses.next()?;
        for above in buses {
            address = bus.pass_up(address, above)?;
            bus = above;
        }
        Some(address)
    }
}

impl Bus<'_> {
    fn pass_up(&self, address: u64, parent: &Self) -> Option<u64> {
        let ranges = self.ranges?;
        if ranges.is_empty() {
            return Some(address);
        }
        let mut cells = cells(ranges)?;
        for _ in 0..MAX_RANGES {
            let child = cells.number(self.address_cells)?;
            let base = cells.number(parent.address_cells)?;
            let size = cells.number(self.size_cells)?;
            let offset = address.checked_sub(child);
            if let Some(offset) = offset.filter(|offset| *offset < size) {
                return base.checked_add(offset);
            }
        }
        None
    }
}

/// A node whose children are being visited.
struct Open<'a> {
    children: <FdtNode<'a> as Node>::Children<'a>,
    path_length: usize,
    enabled: bool,
}

/// Calls `visit` for every node. What it returns is the kind of bus that the node's children are
/// on, if it is PCI.
pub(super) fn for_each<'a>(
    tree: Fdt<'a>,
    mut visit: impl FnMut(&Place<'_, 'a>) -> Option<PciBus>,
) -> Result<(), DeviceTreeError> {
    let mut path = String::new();
    let mut above: Vec<Bus<'a>> = Vec::new();
    let mut open: Vec<Open<'a>> = Vec::new();
    let mut next = Some(tree.root());
    loop {
        let Some(node) = next.take() else {
            let Some(parent) = open.last_mut() else {
                return Ok(());
            };
            path.truncate(parent.path_length);
            next = parent.children.next();
            if let Some(node) = &next {
                path.push('/');
                path.push_str(node.name());
            } else {
                open.pop();
                above.pop();
            }
            continue;
        };
        if open.len() >= MAX_DEPTH {
            return Err(DeviceTreeError::TooDeep);
        }
        let properties = Properties::of(&node);
        let enabled = open.last().is_none_or(|parent| parent.enabled) && properties.is_enabled();
        let pci = visit(&Place {
            properties,
            enabled,
            above: &above,
            path: &path,
        });
        // Unreadable counts become one that no address is read with.
        let count =
            |value: Option<&[u8]>, default| value.map_or(default, |value| cell(value).unwrap_or(0));
        above.push(Bus {
            address_cells: count(properties.address_cells, 2),
            size_cells: count(properties.size_cells, 1),
            ranges: properties.ranges,
            pci,
        });
        open.push(Open {
            children: node.children(),
            path_length: path.len(),
            enabled,
        });
    }
}
