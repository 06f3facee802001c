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
    /// Where it begins, which is a multiple of a page, and whether there are [holes](Self::APART).
    start: u64,
    slot: Slot,
    /// Length, in pages: a granule is at least one.
    pages: u32,
}

impl Site {
    /// There are holes between parts that are not neighbours in physical memory.
    const APART: u64 = 1;

    /// Whether a mapping of `len` bytes has a site.
    #[inline]
    pub(super) fn is_for(len: u64) -> bool {
        u32::try_from(len / PAGE_SIZE as u64).is_ok()
    }

    /// Of a mapping for which there [is](Self::is_for) one, with holes of `gap` bytes.
    #[inline(always)]
    pub(super) fn of(held: Held, gap: u64) -> Self {
        let range = held.iova;
        let last = (range.end().0 - range.start().0) / PAGE_SIZE as u64;
        Self {
            start: range.start().0 | if gap == 0 { 0 } else { Self::APART },
            slot: held.slot,
            pages: (last as u32).wrapping_add(1),
        }
    }

    #[inline(always)]
    pub(super) fn start(self) -> Iova {
        Iova(self.start & !Self::APART)
    }

    /// Whether there may be holes.
    #[inline(always)]
    fn is_apart(self) -> bool {
        self.start & Self::APART != 0
    }

    /// Size, in bytes, holes included.
    #[inline(always)]
    fn len(self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE as u64
    }

    #[inline(always)]
    pub(super) fn held(self) -> Held {
        let start = self.start();
        let last = Iova(start.0.wrapping_add(self.len().wrapping_sub(1)));
        Held {
            slot: self.slot,
            iova: IovaRange::new(start, last).unwrap_or(IovaRange::single(start)),
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

    /// The holes between parts, in bytes.
    #[inline(always)]
    pub(super) fn gap(&self) -> u64 {
        match self.site.is_apart() {
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

/// The first pieces of a buffer: one, if there is no second.
#[inline(always)]
pub(super) fn first_two<B: DmaBuffer>(buffer: &B) -> (Option<PhysRange>, Option<PhysRange>) {
    let mut pieces = phys(buffer);
    (pieces.next(), pieces.next())
}

/// How many parts of a buffer are walked once, and then looked up.
pub(super) const FEW: usize = 32;

/// The parts of a list of pieces that are not neighbours in physical memory, written to `list`.
/// `None` if they are more, or if one of the pieces is not whole granules.
///
/// To walk the pieces of a buffer costs more than to walk this, and what works on this is not
/// compiled for each kind of buffer.
#[inline(never)]
pub(super) fn gather(
    pieces: impl Iterator<Item = PhysRange>,
    granule: u64,
    list: &mut [PhysRange; FEW],
) -> Option<&[PhysRange]> {
    let rest = granule - 1;
    let mut used = 0;
    let mut last = None::<PhysRange>;
    for piece in pieces {
        let (start, end) = (piece.start().0, piece.end().0);
        if start & rest != 0 || end & rest != rest {
            return None;
        }
        let joined = last
            .filter(|last| last.end().0.checked_add(1) == Some(start))
            .and_then(|last| PhysRange::new(last.start(), piece.end()));
        if joined.is_none() {
            used += 1;
        }
        let part = joined.unwrap_or(piece);
        *list.get_mut(used - 1)? = part;
        last = Some(part);
    }
    list.get(..used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::PhysAddr;
    use crate::iova::Space;
    use alloc::vec::Vec;

    #[test]
    fn neighbours_are_gathered_and_no_more_than_there_is_room_for() {
        let pages = |list: &[u64]| -> Vec<PhysRange> {
            let page = |page: &u64| PhysRange::from_len(PhysAddr(page << 12), 0x1000).unwrap();
            list.iter().map(page).collect()
        };
        let gathered = |list: &[u64], granule| {
            let mut room = [PhysRange::single(PhysAddr(7)); FEW];
            let parts = gather(pages(list).into_iter(), granule, &mut room)?;
            let parts = parts.iter().map(|part| (part.start().0, part.end().0));
            Some(parts.collect::<Vec<_>>())
        };
        assert_eq!(gathered(&[], 0x1000), Some(Vec::new()));
        let parts = [(0x5000, 0x6fff), (0x4000, 0x4fff), (0x9000, 0x9fff)];
        assert_eq!(gathered(&[5, 6, 4, 9], 0x1000), Some(parts.to_vec()));
        // Two halves of a granule are not whole granules.
        assert_eq!(gathered(&[4, 5], 0x2000), None);
        let apart: Vec<u64> = (0..FEW as u64).map(|i| 2 * i).collect();
        assert_eq!(gathered(&apart, 0x1000).unwrap().len(), FEW);
        let more = [apart.as_slice(), &[100]].concat();
        assert_eq!(gathered(&more, 0x1000), None);
        let joined = [apart.as_slice(), &[2 * FEW as u64 - 1]].concat();
        assert_eq!(gathered(&joined, 0x1000).unwrap().len(), FEW);
        let top = PhysRange::new(PhysAddr(u64::MAX - 0xfff), PhysAddr(u64::MAX)).unwrap();
        let mut room = [top; FEW];
        let twice = gather([top, top].into_iter(), 0x1000, &mut room);
        assert_eq!(twice, Some([top, top].as_slice()));
    }

    #[test]
    fn a_site_is_where_the_mapping_is() {
        let usable = IovaRange::new(Iova(0x1000), Iova(u64::MAX)).unwrap();
        let mut space = Space::new(usable, 0x1000, 0, 4).unwrap();
        for (start, pages) in [(0x1000, 1), (0x8000, 3), (1 << 63, u32::MAX.into())] {
            let iova = IovaRange::from_len(Iova(start), pages * 0x1000).unwrap();
            let slot = space.take(iova, ()).unwrap();
            let held = Held { slot, iova };
            assert!(Site::is_for(pages * 0x1000));
            for gap in [0, 0x1000] {
                let site = Site::of(held, gap);
                assert_eq!((site.held(), site.start()), (held, iova.start()));
                assert_eq!(site.is_apart(), gap != 0);
            }
        }
        assert!(!Site::is_for(1 << 44));
    }
}
