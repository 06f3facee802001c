//! Memory that a disk and the CPU share for as long as a driver runs: queues, descriptors.

use core::num::NonZeroUsize;
use core::ptr::NonNull;

use virtio_iommu::dma::Coherent;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{BlockError, Route};
use crate::memory::direct_map;
use crate::memory::frames::{FRAME, Frames};
use crate::platform::KernelPlatform;

/// Shared memory. What is dropped without [`Shared::release`] is never used again.
pub struct Shared {
    /// For the CPU. Below are the owners of the memory, which never refer to its contents.
    start: NonNull<u8>,
    bytes: usize,
    /// For the disk.
    base: u64,
    owner: Option<Owner>,
}

enum Owner {
    Translated(Coherent<KernelPlatform>),
    Untranslated(Frames),
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(Owner::Untranslated(frames)) = self.owner.take() {
            // The disk may still use them, and nothing keeps it from it.
            let _ = frames.into_raw();
        }
    }
}

impl Shared {
    /// At least `bytes` bytes of zeros, in a row for both sides, aligned to [`FRAME`].
    ///
    /// # Errors
    ///
    /// [`BlockError::OutOfMemory`], [`BlockError::Map`].
    pub fn new(route: Route<'_>, bytes: usize) -> Result<Self, BlockError> {
        match route {
            Route::Translated(device) => {
                let pages = device.alloc(bytes).ok_or(BlockError::OutOfMemory)?;
                let bytes = pages.len();
                let shared = device.share(pages);
                let shared = shared.map_err(|failure| BlockError::Map(failure.error))?;
                let base = shared.device_addr();
                // Pages of the platform are one piece.
                let place = device.domain().translate(base);
                let start = place.and_then(|(phys, _)| direct_map::pointer(phys.0, bytes as u64));
                Ok(Self {
                    start: start.ok_or(BlockError::OutOfMemory)?,
                    bytes,
                    base: base.0,
                    owner: Some(Owner::Translated(shared)),
                })
            }
            Route::Untranslated => {
                let count = NonZeroUsize::new(bytes.div_ceil(FRAME));
                let frames = count.and_then(|count| Frames::new(count, FRAME));
                let frames = frames.ok_or(BlockError::OutOfMemory)?;
                Ok(Self {
                    start: frames.virt(),
                    bytes: frames.len(),
                    base: frames.phys(),
                    owner: Some(Owner::Untranslated(frames)),
                })
            }
        }
    }

    /// Where the disk finds the byte at an offset.
    #[inline]
    pub fn device_addr(&self, offset: usize) -> u64 {
        self.base + offset as u64
    }

    /// # Panics
    ///
    /// If the memory does not have such a value: offsets are constants, or were checked.
    #[inline]
    fn place<T>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        let inside = end.is_some_and(|end| end <= self.bytes);
        assert!(inside && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: inside of the memory, which starts with a frame.
        unsafe { self.start.byte_add(offset) }.cast()
    }

    /// Reads a value, in one access.
    #[inline]
    pub fn get<T: FromBytes>(&self, offset: usize) -> T {
        // SAFETY: `place` is inside of memory that is the disk's and this value's, and aligned; all
        // bit patterns are values, and there are no references into it.
        unsafe { self.place::<T>(offset).read_volatile() }
    }

    /// Writes a value, in one access.
    #[inline]
    pub fn put<T: IntoBytes + Immutable>(&self, offset: usize, value: T) {
        // SAFETY: as for `get`.
        unsafe { self.place::<T>(offset).write_volatile(value) };
    }

    /// Gives the memory back.
    ///
    /// # Errors
    ///
    /// [`BlockError::Unmap`]: the memory is quarantined.
    ///
    /// # Safety
    ///
    /// The disk has confirmed a reset since it was last told of the memory.
    pub unsafe fn release(mut self) -> Result<(), BlockError> {
        match self.owner.take() {
            // SAFETY: the caller's promise.
            Some(Owner::Translated(shared)) => drop(unsafe { shared.complete() }.unmap()?),
            Some(Owner::Untranslated(frames)) => drop(frames),
            None => {}
        }
        Ok(())
    }
}
