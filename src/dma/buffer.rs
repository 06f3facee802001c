//! Memory that can be lent to a device: whole granules, owned by value.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;

use super::copy;
use crate::address::PhysRange;
use crate::platform::{PAGE_SIZE, Pages, Platform};
use crate::wire::Access;

/// A part of a buffer that is contiguous for both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where a device finds it. Whole granules.
    pub phys: PhysRange,
    /// Where the CPU finds it: as many bytes as `phys` has.
    pub virt: NonNull<u8>,
}

/// Who gets to see what is in a buffer: the endpoints of one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    /// The address of a platform that is there as long as the domain is.
    pub(crate) platform: usize,
    /// Differs for each domain on that platform.
    pub(crate) serial: u64,
}

/// A buffer that can be lent to a device, and whose owner cannot touch it meanwhile.
///
/// It is moved into its [`Mapping`](super::Mapping). The handle has eight words at the most, which
/// is checked when it is compiled: larger ones go into a [`Box`], and so do those that are moved
/// with every transfer of a fast driver. A [`Vec`] or a boxed slice of
/// buffers is a buffer, too: a scatter list.
///
/// # Safety
///
/// The implementor promises that
///
/// * all pieces are whole granules of the IOMMU, at the physical addresses that they say, valid
///   for reads and writes through `virt`, and nothing else is in them;
/// * nobody but the value has access to the memory while the value exists, except through
///   `&self` or `&mut self`; no reference into it outlives such a borrow;
/// * `pieces` returns the same each time, however often the value was moved;
/// * the memory is not used for anything else until the value is dropped.
pub unsafe trait DmaBuffer: Send + 'static {
    /// The pieces, in the order of the data.
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_;

    /// Called before the memory is shown to an endpoint. An endpoint with write access alone may
    /// still be able to read, so what is no business of `audience` must be gone then.
    ///
    /// By default the memory is filled with zeros unless the endpoint is meant to read it.
    fn conceal(&mut self, audience: Audience, access: Access) {
        let _ = audience;
        if !access.contains(Access::READ) {
            zero(self);
        }
    }
}

/// Fills all of a buffer with zeros.
#[inline(never)]
fn zero<B: DmaBuffer + ?Sized>(buffer: &mut B) {
    for piece in buffer.pieces() {
        // SAFETY: the piece is valid for writes, as the implementor of `DmaBuffer` promises, and
        // the buffer is borrowed mutably.
        unsafe { copy::zero(piece.virt, bytes(piece.phys)) };
    }
}

/// The length of a piece.
pub(super) fn bytes(phys: PhysRange) -> usize {
    usize::try_from(phys.len().unwrap_or(0)).unwrap_or(0)
}

// SAFETY: the pieces are those of the elements, each of which keeps the promises; the elements
// belong to the vector, and do not change while it is not borrowed.
unsafe impl<B: DmaBuffer> DmaBuffer for Vec<B> {
    #[inline(always)]
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        self.iter().flat_map(B::pieces)
    }

    fn conceal(&mut self, audience: Audience, access: Access) {
        for buffer in self {
            buffer.conceal(audience, access);
        }
    }
}

// SAFETY: as for a vector.
unsafe impl<B: DmaBuffer> DmaBuffer for Box<[B]> {
    #[inline(always)]
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        self.iter().flat_map(B::pieces)
    }

    fn conceal(&mut self, audience: Audience, access: Access) {
        for buffer in self {
            buffer.conceal(audience, access);
        }
    }
}

// SAFETY: the pieces are those of what is in the box.
unsafe impl<B: DmaBuffer> DmaBuffer for Box<B> {
    #[inline(always)]
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        B::pieces(self)
    }

    fn conceal(&mut self, audience: Audience, access: Access) {
        B::conceal(self, audience, access);
    }
}

/// Who has seen what is in some pages: the domain with this number, and nothing came in since but
/// from there; or one of the two below, which are no numbers of domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen(u64);

impl Seen {
    /// There is nothing to be seen.
    const ZEROS: Self = Self(u64::MAX);
    /// Nobody, or somebody unknown.
    const SECRET: Self = Self(u64::MAX - 1);
}

/// Whole pages of the platform, zeroed at first, contiguous in physical memory.
///
/// The CPU owns them, and uses them as a slice, until they move into a mapping.
pub struct PageBuf<P: Platform> {
    memory: Pages,
    platform: Arc<P>,
    seen: Seen,
    shape: Shape,
}

/// Size and alignment of some pages, in one word: a buffer that consists of words is moved in
/// registers.
#[derive(Clone, Copy, Debug)]
struct Shape(u64);

impl Shape {
    const GUARDED: u64 = 1 << 8;
    const PAGES: u32 = 9;

    /// `granule` is a power of two. `None` if there are too many pages.
    fn new(pages: NonZeroUsize, granule: usize, guarded: bool) -> Option<Self> {
        let count = u64::try_from(pages.get()).ok()?;
        let shape = count.checked_mul(1 << Self::PAGES)? | u64::from(granule.ilog2());
        Some(Self(shape | if guarded { Self::GUARDED } else { 0 }))
    }

    #[inline]
    fn pages(self) -> usize {
        (self.0 >> Self::PAGES) as usize
    }

    /// Alignment, in bytes.
    #[inline]
    fn granule(self) -> usize {
        1 << (self.0 & 63)
    }

    /// Size of the guard at the beginning, which nobody uses, in bytes.
    #[inline]
    fn guard(self) -> usize {
        match self.0 & Self::GUARDED {
            0 => 0,
            _ => self.granule(),
        }
    }
}

// SAFETY: the pages belong to the value alone, and the CPU may access them from any thread.
unsafe impl<P: Platform> Send for PageBuf<P> {}
// SAFETY: `&PageBuf` gives shared references to the bytes, and nothing else.
unsafe impl<P: Platform> Sync for PageBuf<P> {}

impl<P: Platform> core::fmt::Debug for PageBuf<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PageBuf")
            .field("phys", &self.memory.phys)
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}

impl<P: Platform> PageBuf<P> {
    /// At least `bytes` bytes, in whole granules; `None` without memory for it.
    pub(super) fn new(
        platform: &Arc<P>,
        bytes: usize,
        granule: u64,
        guarded: bool,
    ) -> Option<Self> {
        let granule = usize::try_from(granule).ok()?;
        let bytes = bytes.max(1).checked_next_multiple_of(granule)?;
        let bytes = bytes.checked_add(if guarded { granule } else { 0 })?;
        let pages = NonZeroUsize::new(bytes / PAGE_SIZE)?;
        let shape = Shape::new(pages, granule, guarded)?;
        let memory = platform.alloc_pages(pages, granule)?;
        Some(Self {
            memory,
            platform: platform.clone(),
            seen: Seen::ZEROS,
            shape,
        })
    }

    /// Size, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "pages are never empty")]
    pub fn len(&self) -> usize {
        self.shape.pages() * PAGE_SIZE - self.shape.guard()
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: the guard is inside of the pages.
        unsafe { self.memory.virt.add(self.shape.guard()) }
    }
}

impl<P: Platform> Deref for PageBuf<P> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the platform gave out the pages, initialised and valid for reads; no device
        // uses them, or they would be in a mapping; and whoever writes needs `&mut self`.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.len()) }
    }
}

impl<P: Platform> DerefMut for PageBuf<P> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.seen = Seen::SECRET;
        // SAFETY: as for `deref`, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.len()) }
    }
}

// SAFETY: the platform gave out the pages, contiguous, aligned to the granule, for this value
// alone; they are borrowed through it, and given back by its `drop`.
unsafe impl<P: Platform> DmaBuffer for PageBuf<P> {
    #[inline(always)]
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        let start = self.memory.phys.0.saturating_add(self.shape.guard() as u64);
        let phys = PhysRange::from_len(crate::address::PhysAddr(start), self.len() as u64);
        let virt = self.start();
        phys.map(|phys| Piece { phys, virt }).into_iter()
    }

    #[inline]
    fn conceal(&mut self, audience: Audience, access: Access) {
        let known = audience.platform == Arc::as_ptr(&self.platform).addr();
        let by_audience = Seen(audience.serial);
        let seen = self.seen == Seen::ZEROS || known && self.seen == by_audience;
        if !seen && !access.contains(Access::READ) {
            zero(self);
        }
        self.seen = match known {
            true => by_audience,
            false => Seen::SECRET,
        };
    }
}

impl<P: Platform> Drop for PageBuf<P> {
    fn drop(&mut self) {
        let Some(pages) = NonZeroUsize::new(self.shape.pages()) else {
            return;
        };
        // SAFETY: `new` got them from the same platform with these values, and no device uses
        // them, or they would be in a mapping.
        unsafe {
            self.platform
                .dealloc_pages(self.memory, pages, self.shape.granule());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_keeps_all_its_parts() {
        let most = 1 << (u64::BITS - Shape::PAGES - 1);
        for pages in [1, 2, 513, most] {
            for granule in [0x1000, 0x1_0000, 1 << 30] {
                let count = NonZeroUsize::new(pages).unwrap();
                for (guarded, guard) in [(false, 0), (true, granule)] {
                    let shape = Shape::new(count, granule, guarded).unwrap();
                    let parts = (shape.pages(), shape.granule(), shape.guard());
                    assert_eq!(parts, (pages, granule, guard));
                }
            }
        }
        let many = NonZeroUsize::new(2 * most).unwrap();
        assert!(Shape::new(many, 0x1000, false).is_none());
    }
}
