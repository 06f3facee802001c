//! Half of a bounce window: memory that the endpoint can reach for as long as it is bound.

use core::ptr::NonNull;

use super::error::BindError;
use super::options::WindowUsage;
use super::places::Places;
use crate::address::Iova;
use crate::dma::{Completed, Direction, DmaBuffer, DmaDevice, Mapping, PageBuf};
use crate::platform::Platform;

/// Memory that is mapped in one direction, and cut into places.
pub(super) struct Window<D: Direction, P: Platform> {
    memory: Mapping<PageBuf<P>, D, P>,
    start: NonNull<u8>,
    places: Places,
}

// SAFETY: the pointer leads into the memory, which belongs to the value.
unsafe impl<D: Direction, P: Platform> Send for Window<D, P> {}

impl<D: Direction, P: Platform> Window<D, P> {
    /// A window of at least so many bytes.
    pub(super) fn new(device: &DmaDevice<P>, bytes: usize) -> Result<Self, BindError> {
        // The guard is for devices that look one byte too far.
        let memory = device.alloc_guarded(bytes).ok_or(BindError::OutOfMemory)?;
        let start = memory.pieces().next().ok_or(BindError::OutOfMemory)?.virt;
        let places = Places::new(memory.len()).ok_or(BindError::OutOfMemory)?;
        let memory = device.map(memory).map_err(|failure| failure.error)?;
        Ok(Self {
            memory,
            start,
            places,
        })
    }

    /// Takes a place of at least `len` bytes: where the endpoint finds it, and where the CPU does.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Option<(Iova, NonNull<u8>)> {
        let offset = self.places.take(len)?;
        Some((
            // Inside of the mapping, which does not wrap.
            Iova(self.memory.device_addr().0.wrapping_add(offset as u64)),
            self.at(offset),
        ))
    }

    /// The place in use that begins at an address, and where the CPU finds it. `None` if there is
    /// none, or not of `len` bytes.
    #[inline]
    pub(super) fn find(&self, iova: Iova, len: usize) -> Option<(usize, NonNull<u8>)> {
        let offset = self.offset_of(iova)?;
        let size = self.places.size_at(offset)?;
        (len <= size).then(|| (offset, self.at(offset)))
    }

    /// Whether an address is inside, and where.
    #[inline]
    pub(super) fn offset_of(&self, iova: Iova) -> Option<usize> {
        let offset = iova.0.checked_sub(self.memory.device_addr().0)?;
        let offset = usize::try_from(offset).ok()?;
        (offset < self.places.size()).then_some(offset)
    }

    /// Gives the place at an offset back. `false` if there is none.
    #[inline]
    pub(super) fn give_back(&mut self, offset: usize) -> bool {
        self.places.give_back(offset)
    }

    /// Gives all places back.
    pub(super) fn clear(&mut self) {
        self.places.clear();
    }

    /// Where the CPU finds an offset that is inside.
    #[inline]
    fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: `places` was made for as many bytes as the memory has, and gives out no others.
        unsafe { self.start.add(offset) }
    }

    /// How much of it is in use.
    pub(super) fn usage(&self) -> WindowUsage {
        WindowUsage {
            size: self.places.size(),
            used: self.places.used(),
            most: self.places.most(),
        }
    }

    /// The memory, of which the endpoint makes no use any more.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    pub(super) unsafe fn complete(self) -> Completed<PageBuf<P>, D, P> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.complete() }
    }
}
