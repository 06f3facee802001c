//! Who gets which addresses.

use alloc::vec::Vec;

use super::classes::Classes;
use super::node::{Key, NIL, Node, Slab, State};
use super::tree::{Room, Tree};
use super::wish::{Fit, Wish, hole_in};
use crate::address::{Iova, IovaRange};

/// Why there is no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IovaError {
    /// As many ranges are in use as there is room for.
    Full,
    /// No gap is large enough, or the wish can never be fulfilled.
    Exhausted,
    /// The range is not in the usable part, or not of whole granules.
    OutOfRange,
    /// The range overlaps one in use.
    InUse,
    /// The range overlaps a hole.
    Hole(IovaRange),
}

/// Names a range in use; valid until the range is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(super) u32);

impl Slot {
    /// Names no range.
    pub const NONE: Self = Self(NIL);
}

/// The ranges in use, out of one usable range, each with a value. Allocates when it is made, and
/// never again.
///
/// An operation visits O(log n) nodes, with two exceptions. What was given back is kept for the
/// next wish of its length; when no other gap fits, all of it is dropped at once, each range for
/// the O(log n) that giving it back had saved. And questions about neighbours pass over what is
/// kept between them.
#[derive(Debug)]
pub struct Space<V> {
    pub(super) tree: Tree<V>,
    classes: Classes,
    usable: IovaRange,
    /// A power of two.
    granule: u64,
    /// Kept free on each side of a range that was allocated, in bytes.
    margin: u64,
    /// Never handed out; sorted, without overlaps.
    holes: Vec<IovaRange>,
    /// How many ranges are in use.
    used: usize,
}

impl<V: Copy> Space<V> {
    /// The whole granules of `usable`, in units of `granule` bytes, for at most `capacity` ranges
    /// and pieces, with `margin` bytes, a multiple of the granule, between two ranges.
    ///
    /// `None` without the memory for it, without one whole granule, or if `granule` is not a power
    /// of two.
    pub fn new(usable: IovaRange, granule: u64, margin: u64, capacity: usize) -> Option<Self> {
        let rest = granule.checked_sub(1)?;
        if granule & rest != 0 || margin & rest != 0 {
            return None;
        }
        let first = crate::address::align_up(usable.start().0, granule)?;
        let last = match usable.end().0 {
            end if end & rest == rest => end,
            end => (end & !rest).checked_sub(1)?,
        };
        let usable = IovaRange::new(Iova(first), Iova(last))?;
        let slab = Slab::new(capacity)?;
        Some(Self {
            tree: Tree::new(slab, Room { first, last }, granule, margin),
            classes: Classes::new(),
            usable,
            granule,
            margin,
            holes: Vec::new(),
            used: 0,
        })
    }

    /// Replaces the holes, which must be sorted, without overlaps, and of whole granules. Ranges
    /// in use stay where they are.
    pub fn set_holes(&mut self, holes: Vec<IovaRange>) {
        self.holes = holes;
        for at in 0..self.holes.len() {
            let Some(hole) = self.holes.get(at).copied() else {
                return;
            };
            self.forget_in(hole.start().0, hole.end().0);
        }
    }

    /// Drops what is kept between two addresses, and sees to it that nothing in use there is kept
    /// later.
    fn forget_in(&mut self, first: u64, last: u64) {
        let mut from = last;
        loop {
            let index = self.tree.at_or_below(from);
            let node = *self.tree.slab.at(index);
            if index == NIL || node.end < first {
                return;
            }
            match node.state {
                State::Cached => Classes::kill(&mut self.tree, index),
                _ => self.never_keep(index),
            }
            match self.tree.slab.start(index).checked_sub(1) {
                Some(below) if below >= first => from = below,
                _ => return,
            }
        }
    }

    fn never_keep(&mut self, index: u32) {
        if let Some(node) = self.tree.slab.at_mut(index) {
            node.class = 0;
        }
    }

    /// Takes a free range: one of the last few of its length that were given back, or the highest.
    ///
    /// It keeps the margin to all others. With an alignment above the granule or a boundary it is
    /// not always the highest, and in a space with more than 64 gaps that are large enough, but
    /// only at the wrong addresses, it may be missed.
    ///
    /// # Errors
    ///
    /// [`IovaError::Full`], [`IovaError::Exhausted`].
    #[inline]
    pub fn alloc(&mut self, wish: &Wish, value: V) -> Result<(Slot, IovaRange), IovaError> {
        match self.classes.pop(&mut self.tree, wish, value) {
            Some((index, range)) => {
                self.used += 1;
                Ok((Slot(index), range))
            }
            None => self.alloc_other(wish, value),
        }
    }

    /// As [`alloc`](Self::alloc), if it is not the last range of its length that was given back.
    #[cold]
    #[inline(never)]
    fn alloc_other(&mut self, wish: &Wish, value: V) -> Result<(Slot, IovaRange), IovaError> {
        let fit = Fit::new(wish, &self.tree).ok_or(IovaError::Exhausted)?;
        let class = Classes::of(fit.len >> self.tree.shift);
        if let Some((index, range)) = self.classes.pop_other(&mut self.tree, class, &fit) {
            self.used += 1;
            self.tree.slab.set_value(index, value);
            return Ok((Slot(index), range));
        }
        self.make_room()?;
        let mut start = fit.search(&self.tree, &self.holes);
        if start.is_none() && self.classes.evict_all(&mut self.tree) {
            start = fit.search(&self.tree, &self.holes);
        }
        let start = start.ok_or(IovaError::Exhausted)?;
        let range = IovaRange::from_len(Iova(start), fit.len).ok_or(IovaError::Exhausted)?;
        Ok((self.insert(range, class, value)?, range))
    }

    /// Takes one particular range, of whole granules. No margin is kept to others.
    ///
    /// # Errors
    ///
    /// [`IovaError::OutOfRange`], [`IovaError::Hole`], [`IovaError::InUse`], [`IovaError::Full`].
    pub fn take(&mut self, range: IovaRange, value: V) -> Result<Slot, IovaError> {
        let (start, end) = (range.start().0, range.end().0);
        let rest = self.granule - 1;
        if !self.usable.contains_range(&range) || start & rest != 0 || end & rest != rest {
            return Err(IovaError::OutOfRange);
        }
        if let Some(hole) = hole_in(&self.holes, start, end) {
            return Err(IovaError::Hole(hole));
        }
        if self.overlap(range).is_some() {
            return Err(IovaError::InUse);
        }
        self.make_room()?;
        // What is kept is at least a margin away from everything: not from this range, perhaps,
        // and not from what was too close to it, if that should be kept one day.
        let first = start.saturating_sub(self.margin);
        let last = end.saturating_add(self.margin);
        let crowded = self.any_in(first, last);
        self.forget_in(first, last);
        let class = match range.len() {
            Some(len) if !crowded => Classes::of(len >> self.granule.trailing_zeros()),
            _ => 0,
        };
        self.insert(range, class, value)
    }

    /// Whether a range in use has an address between two.
    fn any_in(&self, first: u64, last: u64) -> bool {
        IovaRange::new(Iova(first), Iova(last)).is_some_and(|range| self.overlap(range).is_some())
    }

    /// Gives a range back, its pieces included. `false` if the slot is not in use.
    #[inline]
    pub fn free(&mut self, slot: Slot) -> bool {
        self.remove(slot).is_some()
    }

    /// As [`free`](Self::free); returns the value that the range had, if it was in use.
    #[inline]
    pub fn remove(&mut self, slot: Slot) -> Option<V> {
        let (node, value) = self.tree.slab.entry_mut(slot.0)?;
        if node.state != State::Used {
            return None;
        }
        let value = *value;
        self.used = self.used.saturating_sub(1);
        if node.link != NIL || !self.classes.push(node, slot.0) {
            self.remove_for_good(slot.0);
        }
        Some(value)
    }

    /// What [`remove`](Self::remove) does with a range that has pieces, or is not kept.
    #[cold]
    #[inline(never)]
    fn remove_for_good(&mut self, index: u32) {
        let Some(node) = self.tree.slab.at_mut(index) else {
            return;
        };
        let pieces = node.link;
        if !self.classes.push(node, index) {
            self.tree.remove(index);
            self.tree.slab.release(index);
        }
        self.release_all(pieces);
    }

    fn release_all(&mut self, mut piece: u32) {
        while piece != NIL {
            let next = self.tree.slab.at(piece).link;
            self.tree.slab.release(piece);
            piece = next;
        }
    }

    /// Exactly this range in use.
    pub fn find(&self, range: IovaRange) -> Option<Slot> {
        let index = self.tree.at_or_below(range.start().0);
        let slot = Slot(index);
        (self.range(slot) == Some(range)).then_some(slot)
    }

    /// As [`find`](Self::find), and fast if it came or went together with the one at `near`.
    #[inline]
    pub fn find_near(&self, near: Slot, range: IovaRange) -> Option<Slot> {
        let beside = [near.0.wrapping_add(1), near.0.wrapping_sub(1)];
        for index in beside {
            let node = self.tree.slab.at(index);
            if node.end == range.end().0
                && node.state == State::Used
                && self.tree.slab.start(index) == range.start().0
            {
                return Some(Slot(index));
            }
        }
        self.find(range)
    }

    /// How many granules are certainly free below a range in use: no more than there are. What is
    /// kept for later does not count as free.
    #[inline]
    pub fn free_below(&self, slot: Slot) -> u32 {
        self.tree.slab.at(slot.0).gap
    }

    /// A range in use that has an address in common with `range`.
    pub fn overlap(&self, range: IovaRange) -> Option<Slot> {
        let index = self.tree.at_or_below(range.end().0);
        let node = self.tree.slab.at(index);
        if index == NIL || node.end < range.start().0 {
            return None;
        }
        if node.state == State::Used {
            return Some(Slot(index));
        }
        let slot = self.used_below(self.tree.slab.start(index).checked_sub(1)?)?;
        (self.tree.slab.at(slot.0).end >= range.start().0).then_some(slot)
    }

    /// The nearest ranges in use below and above `range`, without those that overlap it.
    pub fn neighbours(&self, range: IovaRange) -> (Option<Slot>, Option<Slot>) {
        let below = range.start().0.checked_sub(1);
        let below = below.and_then(|from| {
            let mut walk = self.tree.downwards(from);
            core::iter::from_fn(|| walk.down(&self.tree))
                .find(|index| {
                    let node = self.tree.slab.at(*index);
                    node.state == State::Used && node.end < range.start().0
                })
                .map(Slot)
        });
        let above = range.end().0.checked_add(1);
        let above = above.and_then(|from| {
            let mut walk = self.tree.upwards(from);
            core::iter::from_fn(|| walk.up(&self.tree))
                .find(|index| self.tree.slab.at(*index).state == State::Used)
                .map(Slot)
        });
        (below, above)
    }

    /// The highest range in use that starts at `from` or below.
    fn used_below(&self, from: u64) -> Option<Slot> {
        let mut walk = self.tree.downwards(from);
        core::iter::from_fn(|| walk.down(&self.tree))
            .find(|index| self.tree.slab.at(*index).state == State::Used)
            .map(Slot)
    }

    /// The addresses of a slot in use.
    pub fn range(&self, slot: Slot) -> Option<IovaRange> {
        self.is_used(slot).then(|| self.range_of(slot.0)).flatten()
    }

    /// The value of a slot in use.
    pub fn get(&self, slot: Slot) -> Option<V> {
        self.is_used(slot)
            .then(|| self.tree.slab.value(slot.0))
            .flatten()
    }

    /// Gives a slot another value. `false` if it is not in use.
    pub fn set(&mut self, slot: Slot, value: V) -> bool {
        let used = self.is_used(slot);
        if used {
            self.tree.slab.set_value(slot.0, value);
        }
        used
    }

    /// Gives a slot the value that `change` makes of the one it has. `false`, and nothing is
    /// changed, if it makes none or the slot is not in use.
    #[inline(always)]
    pub fn update(&mut self, slot: Slot, change: impl FnOnce(V) -> Option<V>) -> bool {
        let Some((node, value)) = self.tree.slab.entry_mut(slot.0) else {
            return false;
        };
        if node.state != State::Used {
            return false;
        }
        let new = change(*value);
        if let Some(new) = new {
            *value = new;
        }
        new.is_some()
    }

    /// The ranges in use, by address.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, IovaRange, V)> + '_ {
        let mut walk = self.tree.upwards(0);
        core::iter::from_fn(move || {
            loop {
                let index = walk.up(&self.tree)?;
                if self.tree.slab.at(index).state == State::Used {
                    let value = self.tree.slab.value(index)?;
                    return Some((Slot(index), self.range_of(index)?, value));
                }
            }
        })
    }

    /// How many ranges are in use, pieces not counted.
    #[cfg(any(test, feature = "internals"))]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether no range is in use.
    #[cfg(feature = "internals")]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(super) fn is_used(&self, slot: Slot) -> bool {
        self.tree.slab.at(slot.0).state == State::Used
    }

    pub(super) fn range_of(&self, index: u32) -> Option<IovaRange> {
        let key = self.tree.slab.key(index)?;
        IovaRange::new(Iova(key.start), Iova(self.tree.slab.at(index).end))
    }

    /// Sees to it that there is a node.
    pub(super) fn make_room(&mut self) -> Result<(), IovaError> {
        let room = self.tree.slab.has_room() || self.classes.evict_one(&mut self.tree);
        room.then_some(()).ok_or(IovaError::Full)
    }

    fn insert(&mut self, range: IovaRange, class: u8, value: V) -> Result<Slot, IovaError> {
        let key = Key::new(range.start().0);
        let node = Node::new(range.end().0, class, State::Used, 1);
        let index = self.tree.slab.insert(key, node, value);
        let index = index.ok_or(IovaError::Full)?;
        self.tree.insert(index);
        self.used += 1;
        Ok(Slot(index))
    }

    /// How many nodes were visited so far.
    #[cfg(any(test, feature = "count-steps"))]
    pub fn steps(&self) -> u64 {
        self.tree.slab.steps()
    }

    /// Bytes per range in use, with a value of 8 bytes.
    #[cfg(feature = "internals")]
    pub const NODE_SIZE: usize = super::node::NODE_SIZE;

    #[cfg(test)]
    pub(super) fn parts(&self) -> (&Tree<V>, &Classes, &[IovaRange]) {
        (&self.tree, &self.classes, &self.holes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::range;
    use super::*;
    use alloc::vec;
    use core::iter::once;

    const G: u64 = 0x1000;

    fn wish(len: u64, align: u64, limit: u64) -> Wish {
        Wish {
            len,
            align,
            limit: Iova(limit),
            boundary: 0,
        }
    }

    fn space(capacity: usize) -> Space<u64> {
        Space::new(range(G, 0xffff), G, G, capacity).unwrap()
    }

    /// Allocates `len` bytes anywhere.
    fn alloc(space: &mut Space<u64>, len: u64) -> Result<IovaRange, IovaError> {
        Ok(space.alloc(&wish(len, G, u64::MAX), 0)?.1)
    }

    #[test]
    fn from_the_top_with_holes_between() {
        let mut space = space(8);
        let (_, high) = space.alloc(&wish(G, G, u64::MAX), 0).unwrap();
        assert_eq!(high, range(0xf000, 0xffff));
        let (two, low) = space.alloc(&wish(2 * G, 1, u64::MAX), 0).unwrap();
        assert_eq!(low, range(0xc000, 0xdfff));
        let (_, aligned) = space.alloc(&wish(G, 4 * G, u64::MAX), 0).unwrap();
        assert_eq!(aligned, range(0x8000, 0x8fff));
        let (_, limited) = space.alloc(&wish(G, G, 0x6fff), 0).unwrap();
        assert_eq!(limited, range(0x6000, 0x6fff));
        // What is kept makes no difference to other lengths, once nothing else fits.
        assert!(space.free(two));
        assert_eq!(alloc(&mut space, G), Ok(range(0xa000, 0xafff)));
        assert_eq!(alloc(&mut space, G), Ok(range(0x4000, 0x4fff)));
        assert_eq!(alloc(&mut space, G), Ok(range(0x2000, 0x2fff)));
        assert_eq!(alloc(&mut space, G), Ok(range(0xd000, 0xdfff)));
    }

    #[test]
    fn the_same_length_comes_back() {
        let mut space = space(8);
        let (a, at) = space.alloc(&wish(2 * G, G, u64::MAX), 1).unwrap();
        space.alloc(&wish(2 * G, G, u64::MAX), 2).unwrap();
        assert!(space.free(a));
        assert_eq!(space.find(at), None);
        assert_eq!(space.overlap(at), None);
        // Not if it is not as wished.
        let (_, other) = space.alloc(&wish(2 * G, G, 0xdfff), 3).unwrap();
        assert_eq!(other, range(0x8000, 0x9fff));
        let (b, again) = space.alloc(&wish(2 * G, 2 * G, u64::MAX), 4).unwrap();
        assert_eq!((again, space.get(b)), (at, Some(4)));
    }

    #[test]
    fn boundaries() {
        let mut space = Space::new(range(0, 0xffff), G, 0, 8).unwrap();
        let boundary = |len, boundary| Wish {
            boundary,
            ..wish(len, G, u64::MAX)
        };
        let mut alloc = |wish| space.alloc(&wish, 0).map(|(_, range)| range);
        assert_eq!(alloc(boundary(3 * G, 0x4000)), Ok(range(0xd000, 0xffff)));
        // 0xa000 to 0xcfff would lie across 0xc000.
        assert_eq!(alloc(boundary(3 * G, 0x4000)), Ok(range(0x9000, 0xbfff)));
        assert_eq!(alloc(boundary(G, 0x1000)), Ok(range(0xc000, 0xcfff)));
        assert_eq!(alloc(boundary(5 * G, 0x4000)), Err(IovaError::Exhausted));
        assert_eq!(alloc(boundary(G, 0x3000)), Err(IovaError::Exhausted));
        assert_eq!(alloc(boundary(G, 0x800)), Err(IovaError::Exhausted));
    }

    #[test]
    fn wishes_that_cannot_be_fulfilled() {
        let mut space = space(2);
        space.set_holes(vec![range(0x4000, 0x4fff)]);
        for (len, align, limit) in [
            (0, G, u64::MAX),
            (1, G, u64::MAX),
            (G, 3, u64::MAX),
            (G, 0, u64::MAX),
            (G, 1 << 63, u64::MAX),
            (G, G, 0x1ffe),
            (G, G, 0),
            (0xc000, G, u64::MAX),
            (!(G - 1), G, u64::MAX),
        ] {
            let got = space.alloc(&wish(len, align, limit), 0);
            assert_eq!(
                got,
                Err(IovaError::Exhausted),
                "{len:#x} {align:#x} {limit:#x}"
            );
        }
        let mut take = |start, end| space.take(range(start, end), 0);
        let hole = IovaError::Hole(range(0x4000, 0x4fff));
        assert_eq!(take(0x3000, 0x4fff), Err(hole));
        assert_eq!(take(0, 0xfff), Err(IovaError::OutOfRange));
        assert_eq!(take(0xf000, 0x10fff), Err(IovaError::OutOfRange));
        assert_eq!(take(0x5000, 0x57ff), Err(IovaError::OutOfRange));
        assert_eq!(take(0x5800, 0x5fff), Err(IovaError::OutOfRange));
        let a = take(0x5000, 0x5fff).unwrap();
        assert_eq!(take(0x5000, 0x6fff), Err(IovaError::InUse));
        assert!(take(0x6000, 0x6fff).is_ok());
        assert_eq!(take(0x7000, 0x7fff), Err(IovaError::Full));
        assert_eq!(alloc(&mut space, G), Err(IovaError::Full));
        let piece = space.push_pieces(a, once((range(0x5000, 0x5fff), 0)));
        assert_eq!(piece, Err(IovaError::Full));
    }

    #[test]
    fn spaces_that_cannot_be() {
        let new = |first, last, granule, margin| {
            Space::<u64>::new(range(first, last), granule, margin, 4).is_some()
        };
        assert!(new(0, u64::MAX, G, G));
        assert!(new(0, u64::MAX, 1 << 63, 1 << 63));
        assert!(!new(0, u64::MAX, 0, 0));
        assert!(!new(0, u64::MAX, 3, 0));
        assert!(!new(0, u64::MAX, G, 1));
        assert!(!new(1, 2 * G - 2, G, 0));
        assert!(!new(u64::MAX - 1, u64::MAX, G, 0));
        assert!(Space::<u64>::new(range(0, G), G, 0, usize::MAX).is_none());
    }

    #[test]
    fn slots_that_name_nothing() {
        let mut space = space(4);
        let (a, at) = space.alloc(&wish(G, G, u64::MAX), 1).unwrap();
        space.push_pieces(a, once((at, 2))).unwrap();
        let outside = range(at.start().0 - G, at.end().0);
        let refused = Err(IovaError::OutOfRange);
        assert_eq!(space.push_pieces(a, once((outside, 3))), refused);
        // A piece is not a range, nor is what was never used.
        for slot in [Slot(1), Slot(2), Slot(u32::MAX)] {
            assert!(!space.free(slot) && !space.set(slot, 9));
            assert_eq!((space.get(slot), space.range(slot)), (None, None));
            assert_eq!(space.push_pieces(slot, once((at, 3))), refused);
        }
        assert!(space.free(a));
        assert!(!space.free(a) && !space.set(a, 9));
        assert_eq!((space.get(a), space.range(a)), (None, None));
        assert_eq!(space.pieces(a).count(), 0);
        assert_eq!(space.push_pieces(a, once((at, 3))), refused);
        assert_eq!((space.len(), space.iter().count()), (0, 0));
    }

    #[test]
    fn what_is_kept_gives_way() {
        let mut space = space(3);
        let (a, _) = space.alloc(&wish(G, G, u64::MAX), 0).unwrap();
        let (b, _) = space.alloc(&wish(2 * G, G, u64::MAX), 0).unwrap();
        let (c, at) = space.alloc(&wish(3 * G, G, u64::MAX), 0).unwrap();
        assert!(space.free(a) && space.free(b) && space.free(c));
        // For a node.
        assert!(alloc(&mut space, 4 * G).is_ok());
        // For a particular range, and what is too close to it.
        let d = space.take(range(at.start().0 - G, at.start().0 - 1), 7);
        assert_eq!(space.get(d.unwrap()), Some(7));
        // For all of the space.
        assert_eq!(space.len(), 2);
        for slot in [0, 1, 2].map(Slot) {
            space.free(slot);
        }
        assert_eq!(alloc(&mut space, 0xf000), Ok(range(G, 0xffff)));
    }

    #[test]
    fn ranges_of_all_of_it() {
        let mut space = Space::new(range(0, u64::MAX), G, G, 4).unwrap();
        // More granules than a gap can count.
        let huge = wish(1 << 62, 1 << 62, u64::MAX);
        for expected in [3, 1] {
            // Between two lies a margin, so that every second place is lost.
            let (_, range) = space.alloc(&huge, 0).unwrap();
            assert_eq!(range.start(), Iova(expected << 62));
        }
        assert_eq!(space.alloc(&huge, 0), Err(IovaError::Exhausted));
        let (_, between) = space
            .alloc(&wish((1 << 62) - 2 * G, G, u64::MAX), 0)
            .unwrap();
        assert_eq!(between.start(), Iova((1 << 63) + G));
        let mut space = Space::new(range(0, u64::MAX), G, 0, 4).unwrap();
        assert!(space.take(range(0, u64::MAX), 1).is_ok());
        assert_eq!(alloc(&mut space, G), Err(IovaError::Exhausted));
    }
}
