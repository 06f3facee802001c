//! A heap that counts the allocations of the driver, so that their absence can be proven.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread, and their bytes, while they are counted.
    static COUNTED: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    /// Allocations of this thread until one fails.
    static FAILS: Cell<Option<u64>> = const { Cell::new(None) };
    /// How deep this thread is inside the model, whose allocations do not count.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// The allocator of every binary that compiles the model.
pub struct CountingHeap;

/// Counts an allocation; `false` if it has to fail.
fn note(size: usize) -> bool {
    // A thread that ends has no counters any more.
    let inside = INSIDE.try_with(Cell::get).unwrap_or(1) > 0;
    if inside {
        return true;
    }
    let _ = COUNTED.try_with(|counted| {
        let more = |(count, bytes)| (count + 1, bytes + size as u64);
        counted.set(counted.get().map(more));
    });
    let left = FAILS.try_with(|fails| fails.replace(fails.get().and_then(|k| k.checked_sub(1))));
    left != Ok(Some(0))
}

// SAFETY: all work is done by `System`; the counters do not allocate.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !note(layout.size()) {
            return std::ptr::null_mut();
        }
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
    weigh(work).1.0
}

/// Does `work`, and tells its allocations as [`count`] does, and how many bytes they have together.
pub fn weigh<R>(work: impl FnOnce() -> R) -> (R, (u64, u64)) {
    COUNTED.set(Some((0, 0)));
    let result = work();
    (result, COUNTED.take().unwrap_or((0, 0)))
}

/// Does `work`, whose `k`-th allocation, counted from 0 and without those of the model, fails; and
/// tells whether it came to that. An allocation that cannot fail ends the process.
pub fn fail_at<R>(k: u64, work: impl FnOnce() -> R) -> (R, bool) {
    FAILS.set(Some(k));
    let result = work();
    (result, FAILS.take().is_none())
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
