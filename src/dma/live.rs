//! A mapping and its buffer: what a transfer moves from hand to hand, and therefore small.

use alloc::sync::Arc;

use super::buffer::{DmaBuffer, Piece, bytes};
use super::copy;
use super::device::Port;
use crate::address::{Iova, IovaRange, PhysRange};
use crate::domain::{Domain, Erased, Held, UnmapError};
use crate::iova::Slot;
use crate::platform::{PAGE_SIZE, Platform};

/// Where a mapping is, in two words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    start: Iova,
    slot: Slot,
    /// Length, in pages: a granule is at least one.
    pages: u32,
}

impl Site {
    /// Whether a mapping of `len` bytes has a site.
    #[inline]
    pub(super) fn is_for(len: u64) -> bool {
        u32::try_from(len / PAGE_SIZE as u64).is_ok()
    }

    /// Of a mapping for which there [is](Self::is_for) one.
    #[inline(always)]
    pub(super) fn of(held: Held) -> Self {
        let range = held.iova;
        let last = (range.end().0 - range.start().0) / PAGE_SIZE as u64;
        Self {
            start: range.start(),
            slot: held.slot,
            pages: (last as u32).wrapping_add(1),
        }
    }

    #[inline(always)]
    pub(super) fn start(self) -> Iova {
        self.start
    }

    /// Size, in bytes, holes included.
    #[inline(always)]
    fn len(self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE as u64
    }

    #[inline(always)]
    pub(super) fn held(self) -> Held {
        let last = Iova(self.start.0.wrapping_add(self.len().wrapping_sub(1)));
        let range = IovaRange::new(self.start, last);
        Held {
            slot: self.slot,
            iova: range.unwrap_or(IovaRange::single(self.start)),
        }
    }
}

/// A mapping and its buffer, without a rule of what happens when it is dropped: nothing.
pub(super) struct Live<B, P: Platform> {
    pub(super) port: Arc<Port<P>>,
    pub(super) site: Site,
    pub(super) buffer: B,
}

impl<B: DmaBuffer, P: Platform> Live<B, P> {
    #[inline(always)]
    pub(super) fn domain(&self) -> &Domain<P> {
        &self.port.domain
    }

    #[inline(always)]
    pub(super) fn held(&self) -> Held {
        self.site.held()
    }

    /// The holes between parts, in bytes: there are some if the addresses are more than the data.
    pub(super) fn gap(&self) -> u64 {
        match self.site.len() > self.len() as u64 {
            true => self.domain().granule(),
            false => 0,
        }
    }

    /// Gives it up: somebody may still be using the buffer.
    pub(super) fn abandon(self) {
        let Self { port, site, buffer } = self;
        port.domain.abandon(site.held(), Erased::new(buffer));
    }

    /// Unmaps it, and gives the buffer back. If that is not confirmed, the buffer is quarantined.
    #[inline(always)]
    pub(super) fn end(self) -> Result<B, UnmapError> {
        match self.domain().end_held(self.held()) {
            Ok(()) => Ok(self.buffer),
            Err(error) => {
                self.keep();
                Err(error)
            }
        }
    }

    /// Quarantines the buffer of a mapping that is not confirmed to be gone.
    #[cold]
    pub(super) fn keep(self) {
        let Self { port, site, buffer } = self;
        port.domain.keep(site.held(), Erased::new(buffer));
    }

    /// The pointer to `len` bytes from `offset`, piece by piece, with the place in the data.
    fn access(
        &self,
        offset: usize,
        len: usize,
        mut each: impl FnMut(core::ptr::NonNull<u8>, usize, usize),
    ) -> bool {
        let Some(end) = offset.checked_add(len) else {
            return false;
        };
        let mut at = 0;
        for Piece { phys, virt } in self.buffer.pieces() {
            let size = bytes(phys);
            let (from, to) = (offset.max(at), end.min(at.saturating_add(size)));
            if from < to {
                // SAFETY: the piece has `size` bytes, and `from - at` is less.
                let place = unsafe { virt.add(from - at) };
                each(place, from - offset, to - from);
            }
            at = at.saturating_add(size);
        }
        end <= at
    }

    pub(super) fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let len = into.len();
        offset.checked_add(len).is_some_and(|end| end <= self.len())
            && self.access(offset, len, |from, at, len| {
                if let Some(into) = into.get_mut(at..at + len) {
                    // SAFETY: `access` gives `len` bytes of a piece, valid for reads.
                    unsafe { copy::read(from, into) };
                }
            })
    }

    pub(super) fn write(&self, offset: usize, from: &[u8]) -> bool {
        let len = from.len();
        offset.checked_add(len).is_some_and(|end| end <= self.len())
            && self.access(offset, len, |to, at, len| {
                if let Some(from) = from.get(at..at + len) {
                    // SAFETY: `access` gives `len` bytes of a piece, valid for writes; whoever
                    // else uses them is a device.
                    unsafe { copy::write(to, from) };
                }
            })
    }

    /// Size of the data, in bytes.
    pub(super) fn len(&self) -> usize {
        self.buffer
            .pieces()
            .fold(0, |sum, piece| sum.saturating_add(bytes(piece.phys)))
    }
}

/// The pieces of a buffer, as the device finds them.
#[inline(always)]
pub(super) fn phys<B: DmaBuffer>(buffer: &B) -> impl Iterator<Item = PhysRange> + Clone + '_ {
    buffer.pieces().map(|piece| piece.phys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iova::Space;

    #[test]
    fn a_site_is_where_the_mapping_is() {
        let usable = IovaRange::new(Iova(0x1000), Iova(u64::MAX)).unwrap();
        let mut space = Space::new(usable, 0x1000, 0, 4).unwrap();
        for (start, pages) in [(0x1000, 1), (0x8000, 3), (1 << 63, u32::MAX.into())] {
            let iova = IovaRange::from_len(Iova(start), pages * 0x1000).unwrap();
            let slot = space.take(iova, ()).unwrap();
            let held = Held { slot, iova };
            assert!(Site::is_for(pages * 0x1000));
            assert_eq!(Site::of(held).held(), held);
            assert_eq!(Site::of(held).start(), iova.start());
        }
        assert!(!Site::is_for(1 << 44));
    }
}
