//! The device tree: where it is, and the few things that this kernel itself wants from it.
//!
//! Host bridges, and what is behind the IOMMU, are read by the driver crate, from the same bytes.

use alloc::vec::Vec;
use core::slice;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use virtio_iommu::topology::device_tree::from_device_tree;
use virtio_iommu::{PhysAddr, PhysRange};

use crate::arch;
use crate::machine::{Described, MachineError};
use crate::memory::{direct_map, without};

const MAGIC: u32 = 0xd00d_feed;
/// The header up to its total size, in bytes.
const HEADER: u64 = 8;
/// More than any machine has; a size beyond is not believed.
const LIMIT: u64 = 2 << 20;
/// Slots of virtio-mmio that are looked at.
const MAX_SLOTS: usize = 64;

/// The device tree of this machine.
#[derive(Clone, Copy)]
pub struct MachineTree {
    /// The parsed tree.
    pub tree: Fdt<'static>,
    /// Its bytes.
    pub blob: &'static [u8],
    /// Where its bytes are.
    pub place: PhysRange,
    /// The boot arguments.
    pub arguments: &'static str,
}

impl MachineTree {
    /// Finds the device tree at the address from the boot register, or where this machine has it.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn find(register: u64) -> Result<Self, &'static str> {
        let address = match register {
            0 => arch::DEVICE_TREE
                .ok_or("the boot register does not say where the device tree is")?,
            address => address,
        };
        let header = read(address, HEADER).ok_or("the device tree is not in memory")?;
        let (Some(magic), Some(size)) = (be32(header, 0), be32(header, 4)) else {
            return Err("the device tree has no header");
        };
        if magic != MAGIC {
            return Err("there is no device tree where it should be");
        }
        let size = u64::from(size);
        if size > LIMIT {
            return Err("the device tree says that it is larger than any machine's");
        }
        let blob = read(address, size).ok_or("the device tree is not in memory")?;
        let place =
            PhysRange::from_len(PhysAddr(address), size).ok_or("the device tree is empty")?;
        let tree = Fdt::new(blob).map_err(|_| "the device tree is malformed")?;
        Ok(Self {
            tree,
            blob,
            place,
            arguments: arguments(tree)?,
        })
    }

    /// The largest part of the memory behind `address` that nobody has.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn free_memory(&self, address: u64) -> Result<PhysRange, &'static str> {
        let bank = bank_with(self.tree, address)?;
        let mut free = PhysRange::new(PhysAddr(address), bank.end())
            .ok_or("no memory is left behind the kernel")?;
        free = without(free, self.place)?;
        for taken in self.tree.memory_reservations() {
            if let Some(taken) = PhysRange::from_len(PhysAddr(taken.address()), taken.size()) {
                free = without(free, taken)?;
            }
        }
        for node in self.tree.reserved_memory().into_iter().flatten() {
            let Ok(Some(reg)) = node.reg() else { continue };
            for reg in reg {
                let (Ok(address), Ok(size)) = (reg.address::<u64>(), reg.size::<u64>()) else {
                    return Err("a reserved memory node has no readable address");
                };
                if let Some(taken) = PhysRange::from_len(PhysAddr(address), size) {
                    free = without(free, taken)?;
                }
            }
        }
        Ok(free)
    }

    /// The CPUs, as the architecture names them.
    pub fn cpus(&self) -> impl Iterator<Item = u64> {
        let nodes = self.tree.find_node("/cpus").into_iter();
        nodes
            .flat_map(|cpus| cpus.children())
            .filter(|node| node.name_without_address() == "cpu")
            .filter_map(|node| node.reg().ok()??.next()?.address().ok())
    }

    /// The host bridges, and what is behind the IOMMU.
    ///
    /// # Errors
    ///
    /// [`MachineError::Description`].
    pub fn describe(&self) -> Result<Described, MachineError> {
        let description = from_device_tree(self.blob).map_err(|error| {
            log::error!("device tree: {error}");
            MachineError::Description
        })?;
        for warning in &description.warnings {
            log::warn!("device tree: {warning}");
        }
        Ok(Described {
            host_bridges: description.host_bridges,
            topology: description.topology,
            slots: virtio_mmio_slots(self.tree),
        })
    }
}

/// Physical memory as bytes; `None` where nothing is mapped.
fn read(address: u64, len: u64) -> Option<&'static [u8]> {
    let pointer = direct_map::pointer(address, len)?;
    // SAFETY: the direct map covers the range, it is memory that nobody writes to (`memory::init`
    // spares the tree), and bytes have no invalid values.
    Some(unsafe { slice::from_raw_parts(pointer.as_ptr(), len as usize) })
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// `/chosen/bootargs`; empty if there are none.
fn arguments(tree: Fdt<'static>) -> Result<&'static str, &'static str> {
    let Some(chosen) = tree.find_node("/chosen") else {
        return Ok("");
    };
    match chosen.property("bootargs") {
        Some(property) => property
            .value_as()
            .map_err(|_| "the boot arguments are not text"),
        None => Ok(""),
    }
}

/// The bank of memory that an address is in.
fn bank_with(tree: Fdt<'static>, address: u64) -> Result<PhysRange, &'static str> {
    for node in tree.root().children() {
        if node.name_without_address() != "memory" {
            continue;
        }
        let Ok(Some(reg)) = node.reg() else { continue };
        for reg in reg {
            let (Ok(start), Ok(size)) = (reg.address::<u64>(), reg.size::<u64>()) else {
                continue;
            };
            match PhysRange::from_len(PhysAddr(start), size) {
                Some(bank) if bank.contains(PhysAddr(address)) => return Ok(bank),
                _ => {}
            }
        }
    }
    Err("the device tree does not describe the memory that the kernel is in")
}

/// The registers of all virtio-mmio slots that the device tree describes.
fn virtio_mmio_slots(tree: Fdt<'_>) -> Vec<PhysAddr> {
    fn collect(node: FdtNode<'_>, depth: u32, slots: &mut Vec<PhysAddr>) {
        for child in node.children() {
            if slots.len() == MAX_SLOTS {
                return;
            }
            if child.is_compatible("virtio,mmio")
                && let Ok(Some(mut reg)) = child.reg()
                && let Some(reg) = reg.next()
                && let Ok(address) = reg.address::<u64>()
            {
                slots.push(PhysAddr(address));
            } else if depth > 0 {
                collect(child, depth - 1, slots);
            }
        }
    }
    let mut slots = Vec::new();
    // `/virtio_mmio@…` or `/soc/virtio_mmio@…`.
    collect(tree.root(), 1, &mut slots);
    slots
}
