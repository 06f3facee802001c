//! Parts of a range in use, each with a value of its own.

use super::node::{Key, NIL, Node, State};
use super::space::{IovaError, Slot, Space};
use crate::address::IovaRange;

impl<V: Copy> Space<V> {
    /// Notes parts of a range in use, each with a value of its own. Whether parts overlap is not
    /// looked at.
    ///
    /// # Errors
    ///
    /// [`IovaError::OutOfRange`] if the slot is not in use or a part is not in its range,
    /// [`IovaError::Full`]. The parts before that one are noted.
    pub fn push_pieces(
        &mut self,
        slot: Slot,
        pieces: impl Iterator<Item = (IovaRange, V)>,
    ) -> Result<(), IovaError> {
        let whole = self.range(slot).ok_or(IovaError::OutOfRange)?;
        let mut first = self.tree.slab.at(slot.0).link;
        let mut all = Ok(());
        for (range, value) in pieces {
            match self.insert_piece(whole, range, value, first) {
                Ok(index) => first = index,
                Err(error) => {
                    all = Err(error);
                    break;
                }
            }
        }
        if let Some(node) = self.tree.slab.at_mut(slot.0) {
            node.link = first;
        }
        all
    }

    /// A part of `whole`, to which nothing leads yet, before the one at `next`.
    #[inline(always)]
    fn insert_piece(
        &mut self,
        whole: IovaRange,
        range: IovaRange,
        value: V,
        next: u32,
    ) -> Result<u32, IovaError> {
        if !whole.contains_range(&range) {
            return Err(IovaError::OutOfRange);
        }
        self.make_room()?;
        let mut piece = Node::new(range.end().0, 0, State::Piece, 0);
        piece.link = next;
        let index = self
            .tree
            .slab
            .insert(Key::new(range.start().0), piece, value);
        index.ok_or(IovaError::Full)
    }

    /// The pieces of a slot in use, the last one pushed first: by address, if they were pushed
    /// from the highest to the lowest.
    pub fn pieces(&self, slot: Slot) -> impl Iterator<Item = (IovaRange, V)> + '_ {
        let mut cursor = match self.is_used(slot) {
            true => self.tree.slab.at(slot.0).link,
            false => NIL,
        };
        core::iter::from_fn(move || {
            let value = self.tree.slab.value(cursor)?;
            let range = self.range_of(cursor)?;
            cursor = self.tree.slab.at(cursor).link;
            Some((range, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::range;
    use super::super::wish::Wish;
    use super::*;
    use crate::address::Iova;
    use core::iter::once;

    const G: u64 = 0x1000;

    #[test]
    fn pieces_come_last_first() {
        let mut space = Space::new(range(G, 0xffff), G, G, 8).unwrap();
        let wish = |len| Wish {
            len,
            align: G,
            limit: Iova(u64::MAX),
            boundary: 0,
        };
        let (slot, _) = space.alloc(&wish(3 * G), 0).unwrap();
        for (start, value) in [(0xf000, 3), (0xe000, 2), (0xd000, 1)] {
            let piece = range(start, start + G - 1);
            space.push_pieces(slot, once((piece, value))).unwrap();
        }
        let values = space
            .pieces(slot)
            .map(|(range, value)| (range.start().0, value));
        assert!(values.eq([(0xd000, 1), (0xe000, 2), (0xf000, 3)]));
        assert_eq!(space.len(), 1);
        // With the range go its pieces.
        assert!(space.free(slot));
        for _ in 0..3 {
            assert!(space.alloc(&wish(G), 0).is_ok());
        }
    }
}
