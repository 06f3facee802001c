//! Physical memory at an offset: the only way from a physical address to a pointer, and back.

use core::ptr::NonNull;

use crate::arch::{self, DIRECT_MAP};

/// The pointer to `len` bytes at `phys`, or `None` where the direct map does not reach.
pub fn pointer(phys: u64, len: u64) -> Option<NonNull<u8>> {
    if !arch::mapped(phys, len) {
        return None;
    }
    let address = DIRECT_MAP.checked_add(usize::try_from(phys).ok()?)?;
    NonNull::new(address as *mut u8)
}

/// The physical address of a byte, or `None` for a pointer outside the direct map.
pub fn phys_of_pointer(pointer: *const u8) -> Option<u64> {
    let phys = (pointer as usize).checked_sub(DIRECT_MAP)? as u64;
    arch::mapped(phys, 1).then_some(phys)
}

/// The physical address of something that lives as long as the kernel.
pub fn phys_of_static<T>(place: &'static T) -> u64 {
    // Statics are in the image, which runs in the direct map.
    (&raw const *place as usize - DIRECT_MAP) as u64
}

/// Whether the direct map has something at a virtual address.
pub fn contains(address: usize) -> bool {
    phys_of_pointer(address as *const u8).is_some()
}
