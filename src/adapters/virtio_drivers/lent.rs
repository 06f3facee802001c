//! Whole pages that belong to whoever called the driver, and are lent to the endpoint.

use alloc::sync::Arc;
use core::ptr::NonNull;

use super::table::{Key, Way};
use crate::address::{PhysAddr, PhysRange};
use crate::dma::{Audience, DmaBuffer, Piece, zero};
use crate::platform::{PAGE_SIZE, Platform};
use crate::wire::Access;

/// A buffer of whole pages. The pages belong to somebody else: dropping it does nothing.
pub(super) struct Lent<P: Platform> {
    start: NonNull<u8>,
    /// Whole pages, at least one.
    len: usize,
    phys: PhysAddr,
    /// Where the pages are if they are not neighbours in physical memory.
    scattered: Option<Arc<P>>,
    conceal: bool,
}

// SAFETY: the pages are lent to the endpoint until it is done with them, whichever thread it is
// that waits for that.
unsafe impl<P: Platform> Send for Lent<P> {}

impl<P: Platform> Lent<P> {
    /// The pages of a buffer. `None` if they are not whole granules, or if a page has no address
    /// that a device could use.
    ///
    /// # Safety
    ///
    /// Until the value is dropped, and the endpoint can reach the buffer no more, it is valid for
    /// reads and writes, and nobody reads or writes it except through the value, or as
    /// [`AdapterOptions::deferred`](super::AdapterOptions::deferred) allows.
    #[inline]
    pub(super) unsafe fn new(
        platform: &Arc<P>,
        buffer: NonNull<[u8]>,
        granule: u64,
        conceal: bool,
    ) -> Option<Self> {
        let (start, len) = (buffer.cast::<u8>(), buffer.len());
        let rest = usize::try_from(granule - 1).ok()?;
        if len == 0 || (start.addr().get() | len) & rest != 0 {
            return None;
        }
        let mut pages = Pages {
            platform: &**platform,
            start,
            offset: 0,
            len,
        };
        let phys = pages.next()?;
        let (mut last, mut contiguous, mut found) = (phys, true, PAGE_SIZE);
        for page in pages {
            contiguous &= last.0.checked_add(PAGE_SIZE as u64) == Some(page.0);
            last = page;
            found += PAGE_SIZE;
        }
        (found == len).then(|| Self {
            start,
            len,
            phys,
            scattered: (!contiguous).then(|| platform.clone()),
            conceal,
        })
    }

    /// What the buffer is known by.
    #[inline]
    pub(super) fn key(&self, way: Way) -> Key {
        Key {
            phys: self.phys.0,
            len: self.len,
            way,
            scattered: self.scattered.is_some(),
        }
    }

    /// The pages one by one, with their offsets, if they are not neighbours in physical memory.
    pub(super) fn scattered(&self) -> Option<impl Iterator<Item = (usize, PhysAddr)> + '_> {
        let pages = Pages {
            platform: &**self.scattered.as_ref()?,
            start: self.start,
            offset: 0,
            len: self.len,
        };
        Some((0..).step_by(PAGE_SIZE).zip(pages))
    }
}

/// The physical addresses of pages; ends early where there is none.
struct Pages<'a, P> {
    platform: &'a P,
    start: NonNull<u8>,
    offset: usize,
    /// Whole pages.
    len: usize,
}

impl<P> Clone for Pages<'_, P> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<P: Platform> Iterator for Pages<'_, P> {
    type Item = PhysAddr;

    #[inline]
    fn next(&mut self) -> Option<PhysAddr> {
        if self.offset >= self.len {
            return None;
        }
        // SAFETY: the offset is inside of the buffer.
        let at = unsafe { self.start.add(self.offset) };
        self.offset += PAGE_SIZE;
        self.platform.virt_to_phys(at)
    }
}

/// The pieces of a buffer: all of it, or page by page. Who maps them joins neighbours.
struct Pieces<'a, P> {
    whole: Option<Piece>,
    pages: Option<Pages<'a, P>>,
}

impl<P> Clone for Pieces<'_, P> {
    fn clone(&self) -> Self {
        Self {
            whole: self.whole,
            pages: self.pages.clone(),
        }
    }
}

impl<P: Platform> Iterator for Pieces<'_, P> {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if let Some(whole) = self.whole.take() {
            return Some(whole);
        }
        let pages = self.pages.as_mut()?;
        let offset = pages.offset;
        let phys = PhysRange::from_len(pages.next()?, PAGE_SIZE as u64)?;
        // SAFETY: `next` has found a page there, inside of the buffer.
        let virt = unsafe { pages.start.add(offset) };
        Some(Piece { phys, virt })
    }
}

// SAFETY: the caller of `new` vouches for the memory; the pieces are its pages, at the addresses
// that the platform promises to be exact, or exactly those that `new` found; what is not whole
// granules is refused when it is mapped.
unsafe impl<P: Platform> DmaBuffer for Lent<P> {
    #[inline]
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        let pages = self.scattered.as_ref().map(|platform| Pages {
            platform: &**platform,
            start: self.start,
            offset: 0,
            len: self.len,
        });
        let whole = match pages {
            Some(_) => None,
            None => PhysRange::from_len(self.phys, self.len as u64).map(|phys| Piece {
                phys,
                virt: self.start,
            }),
        };
        Pieces { whole, pages }
    }

    fn conceal(&mut self, _: Audience, access: Access) {
        if self.conceal && !access.contains(Access::READ) {
            // SAFETY: the caller of `new` vouches for the buffer, and nobody has it meanwhile.
            unsafe { zero(self.start, self.len) };
        }
    }
}
