//! The device tree: where it is, and the few things that this kernel itself wants from it.
//!
//! What is behind the IOMMU is read by the driver crate, from the same bytes.

use core::slice;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use virtio_iommu::address::{PhysAddr, PhysRange};

use crate::arch;
use crate::memory::direct_map;

const MAGIC: u32 = 0xd00d_feed;
/// The header up to its total size, in bytes.
const HEADER: u64 = 8;
/// More than any machine has; a size beyond is not believed.
const LIMIT: u64 = 2 << 20;

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

/// Finds the device tree at the address from the boot register, or where this machine has it.
///
/// # Errors
///
/// What is wrong, in words.
pub fn find(register: u64) -> Result<MachineTree, &'static str> {
    let address = match register {
        0 => arch::DEVICE_TREE.ok_or("the boot register does not say where the device tree is")?,
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
    let place = PhysRange::from_len(PhysAddr(address), size).ok_or("the device tree is empty")?;
    let tree = Fdt::new(blob).map_err(|_| "the device tree is malformed")?;
    Ok(MachineTree {
        tree,
        blob,
        place,
        arguments: arguments(tree)?,
    })
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
