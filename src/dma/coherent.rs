//! Memory that both sides use for as long as it is there: rings, descriptors, windows.

use super::DmaDevice;
use super::buffer::{DmaBuffer, PageBuf, bytes};
use super::direction::Bidirectional;
use super::live::phys;
use super::mapping::{Completed, MapFailure, Mapping};
use crate::address::{Iova, PhysAddr};
use crate::domain::Parts;
use crate::platform::Platform;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Memory that the endpoint and the CPU share, mapped for its life.
///
/// It begins as a [`PageBuf`], which the CPU fills as it likes, and is then
/// [shared](DmaDevice::share). Afterwards there are no references into it, only reads and writes.
/// As with every [`Mapping`], dropping it without [`complete`](Self::complete) quarantines it.
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(shared: &Coherent<P>) -> &[u8] {
///     &shared // no references into shared memory
/// }
/// ```
#[must_use = "shared memory that is dropped is quarantined"]
pub struct Coherent<P: Platform>(Mapping<PageBuf<P>, Bidirectional, P>);

impl<P: Platform> core::fmt::Debug for Coherent<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Coherent({})", self.0.iova())
    }
}

impl<P: Platform> Coherent<P> {
    /// Where the endpoint finds the first byte.
    #[must_use]
    pub fn device_addr(&self) -> Iova {
        self.0.device_addr()
    }

    /// Size, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "pages are never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Reads a value, as [`Mapping::read`] does: a value of up to 8 bytes at an offset that is a
    /// multiple of its size is one access. `None` beyond the end.
    #[must_use]
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        self.0.read(offset, value.as_mut_bytes()).then_some(value)
    }

    /// Writes a value, as [`read`](Self::read) reads it. `false` beyond the end.
    #[must_use = "nothing is written beyond the end"]
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> bool {
        self.0.write(offset, value.as_bytes())
    }

    /// Copies bytes out. `false`, and nothing is copied, if they are not there.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) -> bool {
        self.0.read(offset, into)
    }

    /// Copies bytes in. `false`, and nothing is copied, if there is no room.
    #[must_use = "nothing is copied to beyond the end"]
    pub fn write_bytes(&self, offset: usize, from: &[u8]) -> bool {
        self.0.write(offset, from)
    }

    /// Says that the endpoint is done with the memory.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    pub unsafe fn complete(self) -> Completed<PageBuf<P>, Bidirectional, P> {
        // SAFETY: the caller's promise.
        unsafe { self.0.complete() }
    }
}

/// A region that is mapped once, and translated by offset ever after: for a kernel that has a
/// heap for DMA, the whole of it.
///
/// Everything in the region is exposed for as long as the window exists: the endpoint is kept out
/// of all other memory, not out of the neighbours of a buffer.
#[must_use = "a window that is dropped is quarantined with its memory"]
pub struct Window<B: DmaBuffer, P: Platform>(Mapping<B, Bidirectional, P>);

impl<B: DmaBuffer, P: Platform> core::fmt::Debug for Window<B, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Window({})", self.0.iova())
    }
}

impl<B: DmaBuffer, P: Platform> Window<B, P> {
    /// Where the endpoint finds `len` bytes from `offset`. `None` if the window does not have them.
    #[must_use]
    pub fn device_addr(&self, offset: usize, len: usize) -> Option<Iova> {
        let end = offset.checked_add(len.max(1))?;
        if end > self.0.len() {
            return None;
        }
        let start = self.0.device_addr().0;
        start.checked_add(u64::try_from(offset).ok()?).map(Iova)
    }

    /// Where the endpoint finds a physical address. `None` if it is not in the window.
    #[must_use]
    pub fn device_addr_of(&self, phys: PhysAddr) -> Option<Iova> {
        let (range, to) = self.0.parts().find_map(|(range, to)| {
            let last = to.0.checked_add(range.end().0 - range.start().0)?;
            (to.0 <= phys.0 && phys.0 <= last).then_some((range, to))
        })?;
        range.start().0.checked_add(phys.0 - to.0).map(Iova)
    }

    /// Size, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies bytes out. `false`, and nothing is copied, if they are not there.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        self.0.read(offset, into)
    }

    /// Copies bytes in. `false`, and nothing is copied, if there is no room.
    #[must_use = "nothing is copied to beyond the end"]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        self.0.write(offset, from)
    }

    /// Says that the endpoint is done with all of the window.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    pub unsafe fn complete(self) -> Completed<B, Bidirectional, P> {
        // SAFETY: the caller's promise.
        unsafe { self.0.complete() }
    }
}

impl<P: Platform> DmaDevice<P> {
    /// Shares pages with the endpoint, for their life.
    ///
    /// # Errors
    ///
    /// [`MapFailure`], with the pages.
    pub fn share(&self, pages: PageBuf<P>) -> Result<Coherent<P>, MapFailure<PageBuf<P>>> {
        self.map(pages).map(Coherent)
    }

    /// Maps a region for its life.
    ///
    /// # Errors
    ///
    /// [`MapFailure`], with the region.
    pub fn window<B: DmaBuffer>(&self, region: B) -> Result<Window<B, P>, MapFailure<B>> {
        self.map(region).map(Window)
    }
}

impl<B: DmaBuffer, P: Platform> Mapping<B, Bidirectional, P> {
    /// The parts of the mapping, and where they lead.
    fn parts(&self) -> impl Iterator<Item = (crate::address::IovaRange, PhysAddr)> + '_ {
        let live = self.live();
        debug_assert!(live.buffer.pieces().all(|piece| bytes(piece.phys) > 0));
        Parts::new(phys(&live.buffer), live.site.start(), live.gap())
    }
}
