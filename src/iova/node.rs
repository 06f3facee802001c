//! The nodes of the tree: allocated once, and a list of those that are free.

use alloc::vec::Vec;
#[cfg(any(test, feature = "count-steps"))]
use core::cell::Cell;

/// The index of no node.
pub(super) const NIL: u32 = u32::MAX;

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Nothing: it is on the list of free nodes.
    Free,
    /// A range in use; in the tree.
    Used,
    /// A range that was given back, kept for the next wish of its length; in the tree.
    Cached,
    /// As `Cached`, but no longer in the tree: the list that it is on has yet to drop it.
    Dead,
    /// A part of a range in use.
    Piece,
}

/// What a descent reads of a node.
///
/// Apart from the rest, so that four of them share a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(super) struct Key {
    /// First address.
    pub(super) start: u64,
    pub(super) left: u32,
    pub(super) right: u32,
}

/// What else the tree knows of a node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Node {
    /// Last address.
    pub(super) end: u64,
    /// Free granules between the range below and this one, or `u32::MAX` for as many and more.
    pub(super) gap: u32,
    /// The largest `gap` of the subtree.
    pub(super) max_gap: u32,
    /// The next node of the list that this one is on; of a range in use, its first piece.
    pub(super) link: u32,
    pub(super) state: State,
    /// The length in granules, if the range may be cached when it is given back; otherwise 0.
    pub(super) class: u8,
    /// Of the subtree; a node without children has 1.
    pub(super) height: u8,
}

/// What is read where there is no node.
static NO_KEY: Key = Key::new(0);
static NO_NODE: Node = Node::new(0, 0, State::Free, 0);

impl Key {
    pub(super) const fn new(start: u64) -> Self {
        Self {
            start,
            left: NIL,
            right: NIL,
        }
    }
}

impl Node {
    pub(super) const fn new(end: u64, class: u8, state: State, height: u8) -> Self {
        Self {
            end,
            gap: 0,
            max_gap: 0,
            link: NIL,
            state,
            class,
            height,
        }
    }
}

/// A node, and what the owner of its range keeps with it: what taking and giving back touch, and
/// one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
struct Entry<V> {
    node: Node,
    value: V,
}

/// Bytes per node with a value of 8 bytes.
pub(super) const NODE_SIZE: usize = size_of::<Key>() + size_of::<Entry<u64>>();

const _: () = assert!(NODE_SIZE == 48);

/// All nodes. Allocates when it is made, and never again.
#[derive(Debug)]
pub(super) struct Slab<V> {
    /// Of the nodes that have been used at least once.
    keys: Vec<Key>,
    /// As many, in the same order.
    entries: Vec<Entry<V>>,
    capacity: usize,
    /// The first free node.
    free: u32,
    /// How many nodes were visited.
    #[cfg(any(test, feature = "count-steps"))]
    steps: Cell<u64>,
}

impl<V: Copy> Slab<V> {
    /// `None` without memory for `capacity` nodes, or if there are more than can be numbered.
    pub(super) fn new(capacity: usize) -> Option<Self> {
        if u32::try_from(capacity).ok()? == NIL {
            return None;
        }
        let mut keys = Vec::new();
        keys.try_reserve_exact(capacity).ok()?;
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity).ok()?;
        Some(Self {
            keys,
            entries,
            capacity,
            free: NIL,
            #[cfg(any(test, feature = "count-steps"))]
            steps: Cell::new(0),
        })
    }

    /// Whether [`insert`](Self::insert) will find room.
    pub(super) fn has_room(&self) -> bool {
        self.free != NIL || self.entries.len() < self.capacity
    }

    /// Puts a node somewhere; `None` if all are taken.
    pub(super) fn insert(&mut self, key: Key, node: Node, value: V) -> Option<u32> {
        let entry = Entry { node, value };
        let index = self.free;
        if let (Some(old_key), Some(old)) = (
            self.keys.get_mut(index as usize),
            self.entries.get_mut(index as usize),
        ) {
            self.free = old.node.link;
            *old_key = key;
            *old = entry;
            return Some(index);
        }
        if self.entries.len() >= self.capacity {
            return None;
        }
        let index = u32::try_from(self.entries.len()).ok()?;
        self.keys.push(key);
        self.entries.push(entry);
        Some(index)
    }

    /// Takes a node back that nothing leads to any more.
    pub(super) fn release(&mut self, index: u32) {
        let free = self.free;
        if let Some(node) = self.at_mut(index) {
            node.state = State::Free;
            node.link = free;
            self.free = index;
        }
    }

    /// The key of a node, if there is one.
    #[inline]
    pub(super) fn key(&self, index: u32) -> Option<&Key> {
        self.keys.get(index as usize)
    }

    /// The children of a node; none of no node.
    #[inline]
    pub(super) fn children(&self, index: u32) -> (u32, u32) {
        let key = self.key(index).unwrap_or(&NO_KEY);
        (key.left, key.right)
    }

    /// The first address of a node; 0 of no node.
    #[inline]
    pub(super) fn start(&self, index: u32) -> u64 {
        self.key(index).unwrap_or(&NO_KEY).start
    }

    #[inline]
    pub(super) fn key_mut(&mut self, index: u32) -> Option<&mut Key> {
        self.keys.get_mut(index as usize)
    }

    /// The node, or a free one without height if there is none.
    #[inline]
    pub(super) fn at(&self, index: u32) -> &Node {
        match self.entries.get(index as usize) {
            Some(entry) => &entry.node,
            None => &NO_NODE,
        }
    }

    #[inline]
    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut Node> {
        Some(&mut self.entries.get_mut(index as usize)?.node)
    }

    /// The node, and the value that is kept with it.
    #[inline]
    pub(super) fn entry_mut(&mut self, index: u32) -> Option<(&mut Node, &mut V)> {
        let entry = self.entries.get_mut(index as usize)?;
        Some((&mut entry.node, &mut entry.value))
    }

    #[inline]
    pub(super) fn value(&self, index: u32) -> Option<V> {
        Some(self.entries.get(index as usize)?.value)
    }

    #[inline]
    pub(super) fn set_value(&mut self, index: u32, value: V) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.value = value;
        }
    }

    /// Notes that a node is visited: the cost of an operation, counted rather than timed.
    #[inline]
    pub(super) fn step(&self) {
        #[cfg(any(test, feature = "count-steps"))]
        self.steps.set(self.steps.get() + 1);
    }

    /// How many nodes were visited so far.
    #[cfg(any(test, feature = "count-steps"))]
    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// The free nodes among those that have been used.
    #[cfg(test)]
    pub(super) fn free_list(&self) -> impl Iterator<Item = u32> + '_ {
        let first = (self.free != NIL).then_some(self.free);
        core::iter::successors(first, |index| {
            let next = self.at(*index).link;
            (next != NIL).then_some(next)
        })
    }

    /// How many nodes have been used at least once.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert<V: Copy>(slab: &mut Slab<V>, value: V) -> Option<u32> {
        slab.insert(Key::new(0), Node::new(1, 0, State::Used, 1), value)
    }

    #[test]
    fn as_many_as_there_is_room_for() {
        let mut slab = Slab::new(2).unwrap();
        assert_eq!(insert(&mut slab, 'a'), Some(0));
        assert_eq!(insert(&mut slab, 'b'), Some(1));
        assert!(!slab.has_room());
        assert_eq!(insert(&mut slab, 'c'), None);
        slab.release(0);
        assert!(slab.has_room());
        assert_eq!(slab.at(0).state, State::Free);
        assert_eq!(insert(&mut slab, 'd'), Some(0));
        assert_eq!((slab.value(0), slab.value(1)), (Some('d'), Some('b')));
        assert_eq!(insert(&mut slab, 'e'), None);
    }

    #[test]
    fn indices_beyond_lead_nowhere() {
        let mut slab = Slab::new(1).unwrap();
        assert_eq!(slab.at(0).height, 0);
        assert_eq!(slab.children(NIL), (NIL, NIL));
        assert_eq!(slab.value(NIL), None);
        slab.release(NIL);
        slab.set_value(7, 'x');
        assert_eq!(insert(&mut slab, 'a'), Some(0));
        assert!(Slab::<u64>::new(usize::MAX).is_none());
        assert!(Slab::<u64>::new(NIL as usize).is_none());
    }
}
