//! What a range has to be like, and where one like it is free.

use super::node::NIL;
use super::tree::{Room, Tree};
use crate::address::{Iova, IovaRange};

/// How many gaps that are large enough are tried when alignment, a boundary or holes get in the
/// way.
const GAPS_TRIED: usize = 64;

/// What a range has to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Bytes, a multiple of the granule.
    pub len: u64,
    /// Alignment of the first address in bytes, a power of two.
    pub align: u64,
    /// The last address that can be used.
    pub limit: Iova,
    /// No range lies across a multiple of this power of two, in bytes. 0 for no such rule.
    pub boundary: u64,
}

impl Wish {
    /// Whether a range of the right length is as wished, and begins at a granule.
    #[inline]
    pub(super) fn allows(&self, start: u64, end: u64, shift: u32) -> bool {
        let Self {
            align,
            limit: Iova(limit),
            boundary,
            ..
        } = *self;
        let below = align.wrapping_sub(1) | ((1 << shift) - 1);
        // Both ends of a range lie in the same block, or differ in a bit that is no offset in it.
        let inside = boundary == 0 || boundary.is_power_of_two() && start ^ end < boundary;
        end <= limit && start & below == 0 && align.is_power_of_two() && inside
    }
}

/// A wish that makes sense.
pub(super) struct Fit {
    pub(super) len: u64,
    /// At least the granule.
    align: u64,
    /// Not above the usable part.
    limit: u64,
    /// 0, or a power of two of at least `len`.
    boundary: u64,
}

impl Fit {
    #[inline]
    pub(super) fn new<V: Copy>(wish: &Wish, tree: &Tree<V>) -> Option<Self> {
        let Wish {
            len,
            align,
            limit: Iova(limit),
            boundary,
        } = *wish;
        let granule = 1 << tree.shift;
        let sane = len != 0
            && len & (granule - 1) == 0
            && len - 1 <= tree.usable.last - tree.usable.first
            && align.is_power_of_two()
            && (boundary == 0 || boundary.is_power_of_two() && len <= boundary);
        sane.then_some(Self {
            len,
            align: align.max(granule),
            limit: limit.min(tree.usable.last),
            boundary,
        })
    }

    /// Whether a range of the right length is as wished.
    #[inline]
    pub(super) fn allows(&self, start: u64, end: u64) -> bool {
        end <= self.limit && start & (self.align - 1) == 0 && self.crossed(start, end).is_none()
    }

    /// The multiple of the boundary that a range lies across.
    #[inline]
    fn crossed(&self, start: u64, end: u64) -> Option<u64> {
        let mask = !self.boundary.checked_sub(1)?;
        (start & mask != end & mask).then_some(end & mask)
    }

    /// The first address of the highest place in the gap that the limit lies in; otherwise in one
    /// of the highest gaps below. Visits O(log n) nodes.
    pub(super) fn search<V: Copy>(&self, tree: &Tree<V>, holes: &[IovaRange]) -> Option<u64> {
        let above = match self.limit >= tree.usable.last {
            true => NIL,
            false => tree.above(self.limit),
        };
        if let Some(start) = self.place(above, tree, holes) {
            return Some(start);
        }
        // What is large enough wherever it begins, only holes can spoil.
        let (least, sure) = self.need(tree);
        if sure != least
            && let Some(start) = self.search_below(sure, tree, holes)
        {
            return Some(start);
        }
        self.search_below(least, tree, holes)
    }

    /// As `search`, in gaps of at least `need` granules that lie below the limit.
    fn search_below<V: Copy>(&self, need: u32, tree: &Tree<V>, holes: &[IovaRange]) -> Option<u64> {
        let mut from = self.limit;
        for _ in 0..GAPS_TRIED {
            let index = tree.gap_at_or_below(from, need);
            if index == NIL {
                return None;
            }
            if let Some(start) = self.place(index, tree, holes) {
                return Some(start);
            }
            from = tree.slab.start(index).checked_sub(1)?;
        }
        None
    }

    /// The highest place that fits in the gap below a range, or below the end of the usable part.
    fn place<V: Copy>(&self, index: u32, tree: &Tree<V>, holes: &[IovaRange]) -> Option<u64> {
        let Room { first, mut last } = tree.room_below(index)?;
        last = last.min(self.limit);
        loop {
            let start = last.checked_sub(self.len - 1)? & !(self.align - 1);
            if start < first {
                return None;
            }
            let end = start.checked_add(self.len - 1)?;
            // Each of the two moves the end down.
            if let Some(crossed) = self.crossed(start, end) {
                last = crossed.checked_sub(1)?;
            } else if let Some(hole) = hole_in(holes, start, end) {
                last = hole.start().0.checked_sub(1)?;
            } else {
                return Some(start);
            }
        }
    }

    /// How many granules a gap needs: at least, and to be large enough wherever it begins.
    fn need<V: Copy>(&self, tree: &Tree<V>) -> (u32, u32) {
        let granule = 1 << tree.shift;
        let margins = (tree.margin >> tree.shift).saturating_mul(2);
        let least = (self.len >> tree.shift).saturating_add(margins);
        let mut sure = least.saturating_add((self.align - granule) >> tree.shift);
        if self.boundary != 0 {
            sure = sure.saturating_add((self.len - granule) >> tree.shift);
        }
        let clamp = |granules: u64| u32::try_from(granules).unwrap_or(u32::MAX);
        (clamp(least), clamp(sure))
    }
}

/// The highest hole with an address between two.
pub(super) fn hole_in(holes: &[IovaRange], first: u64, last: u64) -> Option<IovaRange> {
    let at = holes.partition_point(|hole| hole.start().0 <= last);
    let hole = *holes.get(at.checked_sub(1)?)?;
    (hole.end().0 >= first).then_some(hole)
}
