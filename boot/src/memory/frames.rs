//! Page frames for devices: rings of the driver, buffers of the tests.

use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buddy_system_allocator::FrameAllocator;

use super::{direct_map, heap};
use crate::lock::Mutex;

/// The size of a frame, in bytes.
pub const FRAME: usize = 4096;

/// What frames contain after they were given back: a stale reader sees it at once.
const POISON: u8 = 0xdb;

/// Blocks of up to 2^20 frames.
static FRAMES: Mutex<FrameAllocator<21>> = Mutex::new(FrameAllocator::new());

/// Bytes of the heap that the lists of free frames take up.
static LIST_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the heap that the lists of free frames take up: they come and go with the pattern of
/// free frames, and say nothing about what anybody else has.
pub fn list_bytes() -> usize {
    LIST_BYTES.load(Relaxed)
}

fn with_allocator<T>(work: impl FnOnce(&mut FrameAllocator<21>) -> T) -> T {
    let mut frames = FRAMES.lock();
    // The other CPU may use the heap meanwhile.
    let before = heap::balance();
    let result = work(&mut frames);
    LIST_BYTES.fetch_add(heap::balance().wrapping_sub(before), Relaxed);
    result
}

/// Frames in a row, owned, zeroed when they are allocated.
#[derive(Debug)]
pub struct Frames {
    phys: u64,
    virt: NonNull<u8>,
    count: NonZeroUsize,
    align: usize,
}

// SAFETY: frames are memory without any tie to a thread.
unsafe impl Send for Frames {}

/// Gives memory to the allocator.
///
/// # Safety
///
/// The `len` bytes at `phys` are memory that nothing else uses, inside the direct map.
pub unsafe fn init(phys: u64, len: u64) {
    let first = phys as usize / FRAME;
    let last = (phys + len) as usize / FRAME;
    with_allocator(|frames| frames.add_frame(first, last));
}

impl Frames {
    /// Allocates `count` frames, aligned to `align` bytes (a power of two, at least [`FRAME`]).
    ///
    /// `None` when there are none left.
    pub fn new(count: NonZeroUsize, align: usize) -> Option<Self> {
        let layout = layout(count, align)?;
        let frame = with_allocator(|frames| frames.alloc_aligned(layout))?;
        let phys = (frame * FRAME) as u64;
        let bytes = count.get() * FRAME;
        let virt = direct_map::pointer(phys, bytes as u64)?;
        // SAFETY: the frames were just allocated, and the direct map covers them.
        unsafe { virt.write_bytes(0, bytes) };
        Some(Self {
            phys,
            virt,
            count,
            align,
        })
    }

    /// The physical address of the first byte.
    pub fn phys(&self) -> u64 {
        self.phys
    }

    /// The first byte.
    pub fn virt(&self) -> NonNull<u8> {
        self.virt
    }

    /// The size, in bytes.
    pub fn len(&self) -> usize {
        self.count.get() * FRAME
    }

    /// Gives the frames away: to be taken back with [`Frames::from_raw`], or to be lost.
    pub fn into_raw(self) -> (u64, NonNull<u8>) {
        let this = core::mem::ManuallyDrop::new(self);
        (this.phys, this.virt)
    }

    /// Takes frames back that [`Frames::into_raw`] gave away.
    ///
    /// # Safety
    ///
    /// They were allocated with the same `count` and `align`, given away, and not taken back
    /// before.
    pub unsafe fn from_raw(
        phys: u64,
        virt: NonNull<u8>,
        count: NonZeroUsize,
        align: usize,
    ) -> Self {
        Self {
            phys,
            virt,
            count,
            align,
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: the frames are still ours, and the direct map covers them.
        unsafe { self.virt.write_bytes(POISON, self.len()) };
        if let Some(layout) = layout(self.count, self.align) {
            let frame = self.phys as usize / FRAME;
            with_allocator(|frames| frames.dealloc_aligned(frame, layout));
        }
    }
}

/// In units of frames, as the allocator counts.
fn layout(count: NonZeroUsize, align: usize) -> Option<Layout> {
    let frames = (align / FRAME).max(1);
    if !align.is_power_of_two() || count.get() > 1 << 20 {
        return None;
    }
    Layout::from_size_align(count.get(), frames).ok()
}
