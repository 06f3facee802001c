//! The heap of the kernel.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use buddy_system_allocator::Heap;

use super::direct_map;
use crate::cpus;
use crate::lock::Mutex;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Mutex::new(Heap::empty()));

/// Blocks of up to 2^31 bytes.
struct LockedHeap(Mutex<Heap<32>>);

// SAFETY: the buddy allocator hands each block out once, with the size and alignment of the
// layout, behind a lock.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Ok(block) = self.0.lock().alloc(layout) else {
            return ptr::null_mut();
        };
        cpus::this().heap.fetch_add(layout.size(), Relaxed);
        block.as_ptr()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller gives back a block of this heap, with its layout.
            unsafe { self.0.lock().dealloc(block, layout) };
            cpus::this().heap.fetch_sub(layout.size(), Relaxed);
        }
    }
}

/// Gives memory to the heap.
///
/// # Safety
///
/// The `len` bytes at `phys` are memory that nothing else uses, inside the direct map.
pub unsafe fn init(phys: u64, len: u64) {
    if let Some(start) = direct_map::pointer(phys, len) {
        // SAFETY: as the caller promises.
        unsafe { HEAP.0.lock().init(start.as_ptr() as usize, len as usize) };
    }
}

/// Bytes that are in use, as they were asked for.
pub fn live_bytes() -> usize {
    HEAP.0.lock().stats_alloc_user()
}

/// Bytes that this CPU took, less those that it gave back, modulo 2^64; as they were asked for.
pub fn balance() -> usize {
    cpus::this().heap.load(Relaxed)
}
