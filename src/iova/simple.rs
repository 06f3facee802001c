//! The allocator before `Space`: a sorted vector. Gone when the domain uses `Space`.

use alloc::vec::Vec;

use super::IovaError;
use crate::address::{Iova, IovaRange};

/// The ranges in use, out of one usable range. Allocates when it is made, and never again.
#[derive(Debug)]
pub(crate) struct IovaAllocator {
    usable: IovaRange,
    granule: u64,
    /// Sorted, without overlaps.
    taken: Vec<IovaRange>,
    /// Never handed out; sorted, without overlaps.
    holes: Vec<IovaRange>,
}

impl IovaAllocator {
    /// All of `usable`, in units of `granule` bytes, for at most `capacity` ranges.
    ///
    /// `None` without the memory for it.
    pub(crate) fn new(usable: IovaRange, granule: u64, capacity: usize) -> Option<Self> {
        let mut taken = Vec::new();
        taken.try_reserve_exact(capacity).ok()?;
        Some(Self {
            usable,
            granule,
            taken,
            holes: Vec::new(),
        })
    }

    /// Replaces the holes, which must be sorted and without overlaps.
    pub(crate) fn set_holes(&mut self, holes: Vec<IovaRange>) {
        self.holes = holes;
    }

    /// Takes the highest free range of `len` bytes, a multiple of the granule, that is aligned to
    /// `align`, a power of two, and ends at `limit` or below.
    pub(crate) fn alloc(
        &mut self,
        len: u64,
        align: u64,
        limit: Iova,
    ) -> Result<IovaRange, IovaError> {
        if len == 0 || !len.is_multiple_of(self.granule) || !align.is_power_of_two() {
            return Err(IovaError::Exhausted);
        }
        let align = align.max(self.granule);
        if self.taken.len() == self.taken.capacity() {
            return Err(IovaError::Full);
        }
        let mut end = self.usable.end().min(limit).0;
        loop {
            // The highest aligned candidate that ends at `end` or below.
            let start = (end.checked_sub(len - 1).ok_or(IovaError::Exhausted)?) & !(align - 1);
            if start < self.usable.start().0 {
                return Err(IovaError::Exhausted);
            }
            let candidate = IovaRange::from_len(Iova(start), len).ok_or(IovaError::Exhausted)?;
            match self.blocker(candidate) {
                None => {
                    self.insert(candidate);
                    return Ok(candidate);
                }
                // Always below the end of the candidate, so this comes to an end.
                Some(blocker) => {
                    end = blocker.0.checked_sub(1).ok_or(IovaError::Exhausted)?;
                }
            }
        }
    }

    /// Takes one particular range, of whole granules. No hole is left around it.
    pub(crate) fn take(&mut self, range: IovaRange) -> Result<(), IovaError> {
        if !self.usable.contains_range(&range) {
            return Err(IovaError::OutOfRange);
        }
        if let Some(hole) = last_overlap(&self.holes, range, 0) {
            return Err(IovaError::Hole(hole));
        }
        if last_overlap(&self.taken, range, 0).is_some() {
            return Err(IovaError::InUse);
        }
        if self.taken.len() == self.taken.capacity() {
            return Err(IovaError::Full);
        }
        self.insert(range);
        Ok(())
    }

    /// Gives back exactly a range that was taken; `false` if there is none like it.
    pub(crate) fn free(&mut self, range: IovaRange) -> bool {
        let at = self
            .taken
            .binary_search_by_key(&range.start(), IovaRange::start);
        match at {
            Ok(at) if self.taken.get(at) == Some(&range) => {
                self.taken.remove(at);
                true
            }
            _ => false,
        }
    }

    /// Where to look below, if something is in the way of `candidate`.
    fn blocker(&self, candidate: IovaRange) -> Option<Iova> {
        if let Some(hole) = last_overlap(&self.holes, candidate, 0) {
            return Some(hole.start());
        }
        let taken = last_overlap(&self.taken, candidate, self.granule)?;
        Some(Iova(taken.start().0.saturating_sub(self.granule)))
    }

    fn insert(&mut self, range: IovaRange) {
        let at = self
            .taken
            .partition_point(|taken| taken.start() < range.start());
        self.taken.insert(at, range);
    }
}

/// The highest of `ranges`, sorted and disjoint, that comes closer to `range` than `margin`.
fn last_overlap(ranges: &[IovaRange], range: IovaRange, margin: u64) -> Option<IovaRange> {
    let reach = range.end().0.saturating_add(margin);
    let at = ranges.partition_point(|other| other.start().0 <= reach);
    let nearest = *ranges.get(at.checked_sub(1)?)?;
    (nearest.end().0.saturating_add(margin) >= range.start().0).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const G: u64 = 0x1000;

    fn range(start: u64, end: u64) -> IovaRange {
        IovaRange::new(Iova(start), Iova(end)).unwrap()
    }

    #[test]
    fn from_the_top_with_holes_between() {
        let mut iova = IovaAllocator::new(range(G, 0xffff), G, 8).unwrap();
        assert_eq!(iova.alloc(G, G, Iova(u64::MAX)), Ok(range(0xf000, 0xffff)));
        assert_eq!(
            iova.alloc(2 * G, G, Iova(u64::MAX)),
            Ok(range(0xc000, 0xdfff))
        );
        assert_eq!(
            iova.alloc(G, 4 * G, Iova(u64::MAX)),
            Ok(range(0x8000, 0x8fff))
        );
        assert_eq!(iova.alloc(G, G, Iova(0x6fff)), Ok(range(0x6000, 0x6fff)));
        assert!(iova.free(range(0xc000, 0xdfff)));
        assert!(!iova.free(range(0xc000, 0xdfff)));
        assert!(!iova.free(range(0x6000, 0x7fff)));
        assert_eq!(iova.alloc(G, G, Iova(u64::MAX)), Ok(range(0xd000, 0xdfff)));
    }

    #[test]
    fn wishes_that_cannot_be_fulfilled() {
        let mut iova = IovaAllocator::new(range(G, 0xffff), G, 2).unwrap();
        iova.set_holes(vec![range(0x4000, 0x4fff)]);
        assert_eq!(iova.alloc(0, G, Iova(u64::MAX)), Err(IovaError::Exhausted));
        assert_eq!(iova.alloc(1, G, Iova(u64::MAX)), Err(IovaError::Exhausted));
        assert_eq!(iova.alloc(G, 3, Iova(u64::MAX)), Err(IovaError::Exhausted));
        assert_eq!(iova.alloc(G, G, Iova(0x1ffe)), Err(IovaError::Exhausted));
        assert_eq!(
            iova.alloc(0xc000, G, Iova(u64::MAX)),
            Err(IovaError::Exhausted)
        );
        assert_eq!(
            iova.alloc(!(G - 1), G, Iova(u64::MAX)),
            Err(IovaError::Exhausted)
        );
        assert_eq!(
            iova.take(range(0x3000, 0x4fff)),
            Err(IovaError::Hole(range(0x4000, 0x4fff)))
        );
        assert_eq!(iova.take(range(0, 0xfff)), Err(IovaError::OutOfRange));
        assert_eq!(iova.take(range(0x5000, 0x5fff)), Ok(()));
        assert_eq!(iova.take(range(0x5000, 0x6fff)), Err(IovaError::InUse));
        assert_eq!(iova.take(range(0x6000, 0x6fff)), Ok(()));
        assert_eq!(iova.take(range(0x7000, 0x7fff)), Err(IovaError::Full));
        assert_eq!(iova.alloc(G, G, Iova(u64::MAX)), Err(IovaError::Full));
    }

    proptest! {
        /// Against a map with one flag per granule, which knows nothing of ranges.
        #[test]
        fn agrees_with_a_granule_by_granule_model(
            holes in proptest::collection::vec((0_u64..64, 1_u64..4), 0..3),
            steps in proptest::collection::vec((0..3_u8, 1_u64..5, 0_u32..3, 0_u64..70), 1..60),
        ) {
            const GRANULES: usize = 64;
            #[derive(Clone, Copy, PartialEq, Debug)]
            enum Cell { Free, Hole, Taken }
            let mut cells = [Cell::Free; GRANULES];
            let mut hole_ranges = vec![];
            for (start, len) in holes {
                let end = (start + len).min(GRANULES as u64);
                if cells[start as usize..end as usize].iter().all(|c| *c == Cell::Free) {
                    cells[start as usize..end as usize].fill(Cell::Hole);
                    hole_ranges.push(range(start * G, end * G - 1));
                }
            }
            hole_ranges.sort_by_key(IovaRange::start);
            // The usable range leaves the first and the last granule out.
            let mut iova =
                IovaAllocator::new(range(G, 63 * G - 1), G, 64).unwrap();
            iova.set_holes(hole_ranges);
            let mut live: Vec<IovaRange> = vec![];
            for (kind, len, align, limit) in steps {
                if kind == 0 && !live.is_empty() {
                    let victim = live.swap_remove(limit as usize % live.len());
                    prop_assert!(iova.free(victim));
                    let (s, e) = ((victim.start().0 / G) as usize, (victim.end().0 / G) as usize);
                    cells[s..=e].fill(Cell::Free);
                    continue;
                }
                let align = 1_u64 << align;
                let fits = |s: u64| {
                    let e = s + len - 1;
                    s >= 1 && e <= 62 && e < limit && s.is_multiple_of(align)
                        && (s..=e).all(|c| cells[c as usize] == Cell::Free)
                        && cells[s as usize - 1] != Cell::Taken
                        && cells.get(e as usize + 1) != Some(&Cell::Taken)
                };
                let expected = (1..64_u64).rev().find(|s| fits(*s));
                let got = match limit.checked_sub(1) {
                    Some(last) => iova.alloc(len * G, align * G, Iova(last * G + G - 1)),
                    None => iova.alloc(len * G, align * G, Iova(0)),
                };
                match (expected, got) {
                    (Some(s), Ok(found)) => {
                        prop_assert_eq!(found, range(s * G, (s + len) * G - 1));
                        cells[s as usize..(s + len) as usize].fill(Cell::Taken);
                        live.push(found);
                    }
                    (None, Err(IovaError::Exhausted)) => {}
                    (expected, got) => prop_assert!(false, "{expected:?} {got:?}"),
                }
            }
        }
    }
}
