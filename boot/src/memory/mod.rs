//! Memory: the direct map, the heap, and the frames that devices see.
//!
//! The frames that devices see are not part of the heap, and their allocator keeps its lists in
//! the heap: a DMA that goes astray cannot hit the kernel's own data by a neighbour's overrun.

pub mod direct_map;
pub mod frames;
pub mod heap;

use virtio_iommu::address::{PhysAddr, PhysRange};

use crate::arch::Firmware;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// The heap gets a quarter of what is free, within these bounds.
const HEAP: core::ops::RangeInclusive<u64> = MIB..=16 * MIB;
/// Devices get the rest, up to this.
const FRAMES: u64 = 64 * MIB;

unsafe extern "C" {
    /// The first byte after the kernel, from `linker.ld`.
    static __kernel_end: u8;
}

/// Finds free memory behind the kernel, and gives it to the heap and the frames.
///
/// # Errors
///
/// What is wrong, in words.
pub fn init(firmware: &Firmware) -> Result<(), &'static str> {
    let kernel_end = direct_map::phys_of_pointer(&raw const __kernel_end)
        .ok_or("the kernel does not run in the direct map")?;
    let free = firmware.free_memory(kernel_end)?;

    let start = free.start().0.next_multiple_of(PAGE);
    let end = free.end().0.saturating_add(1) / PAGE * PAGE;
    let size = end.saturating_sub(start);
    let heap = (size / 4 / PAGE * PAGE).clamp(*HEAP.start(), *HEAP.end());
    if size < 2 * heap {
        return Err("too little memory is left behind the kernel");
    }
    let frames = (size - heap).min(FRAMES);
    if direct_map::pointer(start, heap + frames).is_none() {
        return Err("the direct map does not cover the memory behind the kernel");
    }
    // SAFETY: memory behind the kernel that nothing else claims; this function runs once, and the
    // frames start where the heap ends.
    unsafe { heap::init(start, heap) };
    // SAFETY: as above.
    unsafe { frames::init(start + heap, frames) };
    Ok(())
}

/// The larger part of `free` that is not `taken`.
///
/// # Errors
///
/// That nothing is left, in words.
pub fn without(free: PhysRange, taken: PhysRange) -> Result<PhysRange, &'static str> {
    if !free.overlaps(&taken) {
        return Ok(free);
    }
    let below = taken.start().0.checked_sub(1);
    let below = below.and_then(|end| PhysRange::new(free.start(), PhysAddr(end)));
    let above = taken.end().0.checked_add(1);
    let above = above.and_then(|start| PhysRange::new(PhysAddr(start), free.end()));
    [below, above]
        .into_iter()
        .flatten()
        .max_by_key(PhysRange::len)
        .ok_or("all memory behind the kernel is reserved")
}
