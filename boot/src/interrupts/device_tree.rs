//! Interrupts in the device tree: which controller, and which of its inputs.
//!
//! What the tree says is not believed: every length is checked, every search ends.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use virtio_iommu::PhysAddr;

use super::RouteError;
use super::intx::RootPin;

/// Levels of nodes that are looked at.
const DEPTH: u32 = 6;
/// The longest interrupt specifier of any known controller is 4 cells.
const MAX_CELLS: usize = 4;
/// PCI addresses have three cells, and pins one.
const PCI_UNIT: usize = 3;

/// An input of an interrupt controller, in the words of that controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specifier {
    /// The phandle of the controller.
    pub controller: u32,
    cells: [u32; MAX_CELLS],
    len: usize,
}

impl Specifier {
    /// What follows the phandle.
    pub fn cells(&self) -> &[u32] {
        self.cells.get(..self.len).unwrap_or_default()
    }
}

/// The 32-bit cells of a property that are still to be read.
#[derive(Clone, Copy)]
pub struct Cells<'a>(&'a [u8]);

impl Cells<'_> {
    /// The next cell.
    pub fn next(&mut self) -> Option<u32> {
        let (cell, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*cell))
    }

    /// The next `N` cells.
    pub fn take<const N: usize>(&mut self) -> Option<[u32; N]> {
        let mut cells = [0; N];
        for cell in &mut cells {
            *cell = self.next()?;
        }
        Some(cells)
    }

    /// Whether all were read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The specifier of `controller` in the next `len` cells.
    fn specifier(&mut self, controller: u32, len: u32) -> Result<Specifier, RouteError> {
        let len = len as usize;
        let mut cells = [0; MAX_CELLS];
        let places = cells
            .get_mut(..len)
            .ok_or(RouteError::Malformed("a specifier is too long"))?;
        for place in places {
            *place = self
                .next()
                .ok_or(RouteError::Malformed("a specifier is cut off"))?;
        }
        Ok(Specifier {
            controller,
            cells,
            len,
        })
    }
}

/// The cells of a property; `None` if it is not there.
pub fn cells<'a>(node: &FdtNode<'a>, name: &str) -> Option<Cells<'a>> {
    let value = node.property(name)?.value_as::<&'a [u8]>().ok()?;
    Some(Cells(value))
}

/// A property of one cell.
pub fn cell(node: &FdtNode<'_>, name: &str) -> Option<u32> {
    let mut cells = cells(node, name)?;
    let cell = cells.next()?;
    cells.is_empty().then_some(cell)
}

/// The first node that `wanted` accepts, parents before children.
pub fn find<'a>(
    tree: Fdt<'a>,
    mut wanted: impl FnMut(&FdtNode<'a>) -> bool,
) -> Option<FdtNode<'a>> {
    fn search<'a>(
        node: FdtNode<'a>,
        depth: u32,
        wanted: &mut impl FnMut(&FdtNode<'a>) -> bool,
    ) -> Option<FdtNode<'a>> {
        if wanted(&node) {
            return Some(node);
        }
        let depth = depth.checked_sub(1)?;
        node.children()
            .find_map(|child| search(child, depth, wanted))
    }
    search(tree.root(), DEPTH, &mut wanted)
}

/// The node with a phandle.
pub fn by_phandle<'a>(tree: Fdt<'a>, phandle: u32) -> Option<FdtNode<'a>> {
    find(tree, |node| cell(node, "phandle") == Some(phandle))
}

/// The first node of a kind.
pub fn compatible<'a>(tree: Fdt<'a>, kinds: &[&str]) -> Option<FdtNode<'a>> {
    find(tree, |node| {
        kinds.iter().any(|kind| node.is_compatible(kind))
    })
}

/// The stretches of registers of a node: address and size.
pub fn registers<'a>(node: FdtNode<'a>) -> impl Iterator<Item = (u64, u64)> + 'a {
    let reg = node.reg().ok().flatten();
    reg.into_iter()
        .flatten()
        .filter_map(|reg| Some((reg.address().ok()?, reg.size().ok()?)))
}

/// Where a pin of the root bus leads, as the `interrupt-map` of the host bridge says.
///
/// # Errors
///
/// [`RouteError::NotDescribed`], [`RouteError::Malformed`].
pub fn pci_pin(tree: Fdt<'_>, host: &str, at: RootPin) -> Result<Specifier, RouteError> {
    let node = tree.find_node(host).ok_or(RouteError::NotDescribed)?;
    if cell(&node, "#address-cells") != Some(PCI_UNIT as u32)
        || cell(&node, "#interrupt-cells") != Some(1)
    {
        return Err(RouteError::Malformed("a host bridge does not count as PCI"));
    }
    let map = cells(&node, "interrupt-map").ok_or(RouteError::NotDescribed)?;
    let mask = match cells(&node, "interrupt-map-mask") {
        None => [u32::MAX; PCI_UNIT + 1],
        Some(mut mask) => {
            let cells = mask.take();
            cells
                .filter(|_| mask.is_empty())
                .ok_or(RouteError::Malformed("interrupt-map-mask"))?
        }
    };
    let unit = u32::from(at.function.0) << 8;
    lookup(map, mask, [unit, 0, 0, u32::from(at.pin)], |phandle| {
        let parent = by_phandle(tree, phandle)?;
        Some(ParentCells {
            // Unlike for buses, none means 0.
            address: cell(&parent, "#address-cells").unwrap_or(0),
            interrupt: cell(&parent, "#interrupt-cells")?,
        })
    })
}

/// How long what follows the phandle of a controller is.
struct ParentCells {
    address: u32,
    interrupt: u32,
}

/// The entry of an `interrupt-map` for a unit and a pin.
fn lookup(
    mut map: Cells<'_>,
    mask: [u32; PCI_UNIT + 1],
    wanted: [u32; PCI_UNIT + 1],
    parent_cells: impl Fn(u32) -> Option<ParentCells>,
) -> Result<Specifier, RouteError> {
    const CUT_OFF: RouteError = RouteError::Malformed("interrupt-map is cut off");
    while !map.is_empty() {
        let child: [u32; PCI_UNIT + 1] = map.take().ok_or(CUT_OFF)?;
        let phandle = map.next().ok_or(CUT_OFF)?;
        let parent = parent_cells(phandle)
            .ok_or(RouteError::Malformed("interrupt-map has an unknown parent"))?;
        for _ in 0..parent.address {
            map.next().ok_or(CUT_OFF)?;
        }
        let specifier = map.specifier(phandle, parent.interrupt)?;
        let matches = (child.iter().zip(&wanted).zip(&mask))
            .all(|((child, wanted), mask)| child & mask == wanted & mask);
        if matches {
            return Ok(specifier);
        }
    }
    Err(RouteError::NotDescribed)
}

/// The first interrupt of the device with registers at `base`.
///
/// # Errors
///
/// [`RouteError::NotDescribed`], [`RouteError::Malformed`].
pub fn device(tree: Fdt<'_>, base: PhysAddr) -> Result<Specifier, RouteError> {
    // `interrupt-parent` is inherited: the innermost one counts.
    let mut parent = None;
    let node = find_with_parent(tree.root(), DEPTH, &mut parent, &|node| {
        registers(*node).any(|(address, _)| address == base.0)
            && node.property("interrupts").is_some()
    })
    .ok_or(RouteError::NotDescribed)?;
    let controller = parent.ok_or(RouteError::NotDescribed)?;
    let cells_of = by_phandle(tree, controller)
        .and_then(|parent| cell(&parent, "#interrupt-cells"))
        .ok_or(RouteError::Malformed("interrupts has an unknown parent"))?;
    cells(&node, "interrupts")
        .ok_or(RouteError::NotDescribed)?
        .specifier(controller, cells_of)
}

fn find_with_parent<'a>(
    node: FdtNode<'a>,
    depth: u32,
    parent: &mut Option<u32>,
    wanted: &impl Fn(&FdtNode<'a>) -> bool,
) -> Option<FdtNode<'a>> {
    let before = *parent;
    *parent = cell(&node, "interrupt-parent").or(before);
    if wanted(&node) {
        return Some(node);
    }
    if let Some(depth) = depth.checked_sub(1) {
        let mut children = node.children();
        if let Some(found) =
            children.find_map(|child| find_with_parent(child, depth, parent, wanted))
        {
            return Some(found);
        }
    }
    *parent = before;
    None
}
