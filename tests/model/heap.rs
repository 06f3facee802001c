//! A heap that counts the allocations of the driver, so that their absence can be proven.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread, while they are counted.
    static COUNTED: Cell<Option<u64>> = const { Cell::new(None) };
    /// How deep this thread is inside the model, whose allocations do not count.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// The allocator of every binary that compiles the model.
pub struct CountingHeap;

fn note() {
    // A thread that ends has no counters any more.
    let inside = INSIDE.try_with(Cell::get).unwrap_or(1) > 0;
    if !inside {
        let _ = COUNTED.try_with(|counted| {
            counted.set(counted.get().map(|count| count + 1));
        });
    }
}

// SAFETY: all work is done by `System`; the counters do not allocate.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static HEAP: CountingHeap = CountingHeap;

/// Allocations of this thread during `work`, without those of the model.
pub fn count(work: impl FnOnce()) -> u64 {
    COUNTED.set(Some(0));
    work();
    COUNTED.take().unwrap_or(0)
}

/// While it lives, this thread is inside the model.
pub struct Inside(());

impl Inside {
    pub fn new() -> Self {
        INSIDE.set(INSIDE.get() + 1);
        Self(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}
