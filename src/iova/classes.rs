//! Ranges that were given back, kept in the tree for the next wish of the same length.
//!
//! One list per length of 1 to 64 granules. Giving a range back and taking it again touches its
//! node and the head of a list, and not the tree. The lists are linked one way, so a range that is
//! taken off the tree in some other way stays on its list, as [`State::Dead`], until it is met.

use super::node::{NIL, Node, State};
use super::tree::Tree;
use super::wish::{Fit, Wish};
use crate::address::{Iova, IovaRange};

/// The longest ranges that are kept, in granules.
const LONGEST: usize = 64;

/// How many ranges of a list are looked at before the tree is asked.
const LOOKED_AT: usize = 4;

/// The heads of the lists.
#[derive(Debug)]
pub(super) struct Classes {
    /// By length in granules; the first stays empty.
    heads: [u32; LONGEST + 1],
    /// How many nodes are on all lists.
    listed: usize,
    /// The list that gave up a range last.
    last: usize,
}

impl Classes {
    pub(super) const fn new() -> Self {
        Self {
            heads: [NIL; LONGEST + 1],
            listed: 0,
            last: 0,
        }
    }

    /// The class of ranges of so many granules; 0 if they are not kept.
    #[inline]
    pub(super) fn of(granules: u64) -> u8 {
        match u8::try_from(granules) {
            Ok(class) if usize::from(class) <= LONGEST => class,
            _ => 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed == 0
    }

    /// Keeps a range of the tree for the next wish of its length. `false` if its class is 0: such
    /// a range is not kept.
    #[inline]
    pub(super) fn push(&mut self, node: &mut Node, index: u32) -> bool {
        match self.heads.get_mut(usize::from(node.class)) {
            Some(head) if node.class != 0 => {
                node.state = State::Cached;
                node.link = *head;
                *head = index;
                self.listed += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes the range of a length that was given back last, with a new value, if it is as wished.
    ///
    /// The wish was not looked at yet; no range is as one wishes that makes no sense.
    #[inline]
    pub(super) fn pop<V: Copy>(
        &mut self,
        tree: &mut Tree<V>,
        wish: &Wish,
        value: V,
    ) -> Option<(u32, IovaRange)> {
        let granules = usize::try_from(wish.len >> tree.shift).ok()?;
        let head = self.heads.get_mut(granules)?;
        let index = *head;
        let (node, place) = tree.slab.entry_mut(index)?;
        // All ranges of a list have the same length: that of the wish, if it begins at a granule.
        let start = node.end.checked_sub(wish.len.checked_sub(1)?)?;
        if node.state != State::Cached || !wish.allows(start, node.end, tree.shift) {
            return None;
        }
        *head = node.link;
        node.state = State::Used;
        node.link = NIL;
        *place = value;
        let range = IovaRange::new(Iova(start), Iova(node.end))?;
        self.listed = self.listed.saturating_sub(1);
        tree.slab.step();
        Some((index, range))
    }

    /// Takes a range of a class that is as wished: one of the last few that were given back. Frees
    /// the dead that it meets.
    pub(super) fn pop_other<V: Copy>(
        &mut self,
        tree: &mut Tree<V>,
        class: u8,
        fit: &Fit,
    ) -> Option<(u32, IovaRange)> {
        let head = self.heads.get_mut(usize::from(class))?;
        let mut before = NIL;
        let mut cursor = *head;
        for _ in 0..LOOKED_AT {
            tree.slab.step();
            let index = cursor;
            let node = tree.slab.at_mut(index)?;
            let cached = node.state == State::Cached;
            cursor = node.link;
            let start = node.end.checked_sub(fit.len - 1)?;
            if cached && !fit.allows(start, node.end) {
                before = index;
                continue;
            }
            let range = IovaRange::new(Iova(start), Iova(node.end))?;
            if cached {
                node.state = State::Used;
                node.link = NIL;
            } else {
                tree.slab.release(index);
            }
            match tree.slab.at_mut(before) {
                None => *head = cursor,
                Some(before) => before.link = cursor,
            }
            self.listed = self.listed.saturating_sub(1);
            if cached {
                return Some((index, range));
            }
        }
        None
    }

    /// Takes a range that is kept off the tree: its addresses are free, its node when it is met.
    pub(super) fn kill<V: Copy>(tree: &mut Tree<V>, index: u32) {
        tree.remove(index);
        if let Some(node) = tree.slab.at_mut(index) {
            node.state = State::Dead;
        }
    }

    /// Frees the node of one range that is kept, of another class than the last time if there is
    /// one. `false` if none is kept.
    pub(super) fn evict_one<V: Copy>(&mut self, tree: &mut Tree<V>) -> bool {
        for _ in 0..=LONGEST {
            self.last = (self.last + 1) % (LONGEST + 1);
            if self.evict(tree, self.last) {
                return true;
            }
        }
        false
    }

    /// Frees all ranges that are kept. `false` if none is.
    pub(super) fn evict_all<V: Copy>(&mut self, tree: &mut Tree<V>) -> bool {
        let some = !self.is_empty();
        for class in 0..=LONGEST {
            while self.evict(tree, class) {}
        }
        some
    }

    fn evict<V: Copy>(&mut self, tree: &mut Tree<V>, class: usize) -> bool {
        let Some(head) = self.heads.get_mut(class).filter(|head| **head != NIL) else {
            return false;
        };
        let index = *head;
        let node = tree.slab.at(index);
        *head = node.link;
        self.listed = self.listed.saturating_sub(1);
        if node.state == State::Cached {
            tree.remove(index);
        }
        tree.slab.release(index);
        true
    }

    /// The ranges on the list of a class.
    #[cfg(test)]
    pub(super) fn list<V: Copy>(&self, tree: &Tree<V>, class: usize) -> alloc::vec::Vec<u32> {
        let mut list = alloc::vec::Vec::new();
        let mut cursor = self.heads[class];
        while cursor != NIL {
            list.push(cursor);
            cursor = tree.slab.at(cursor).link;
        }
        list
    }

    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.listed
    }
}
