//! The nodes of the tree: one allocation, and a list of those that are free.

use alloc::vec::Vec;
#[cfg(any(test, feature = "internals"))]
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

/// A node without its value.
///
/// The first 16 bytes are what a descent reads, the next 16 what taking and giving back touch:
/// each of the two lies within one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Branch {
    /// First address.
    pub(super) start: u64,
    pub(super) left: u32,
    pub(super) right: u32,
    /// Last address.
    pub(super) end: u64,
    /// The next node of the list that this one is on; of a range in use, its first piece.
    pub(super) link: u32,
    pub(super) state: State,
    /// The length in granules, if the range may be cached when it is given back; otherwise 0.
    pub(super) class: u8,
    /// Of the subtree; a node without children has 1.
    pub(super) height: u8,
    /// Free granules between the range below and this one, or `u32::MAX` for as many and more.
    pub(super) gap: u32,
    /// The largest `gap` of the subtree.
    pub(super) max_gap: u32,
}

/// What is read where there is no node.
static NOWHERE: Branch = Branch::new(0, 0, 0, State::Free, 0);

impl Branch {
    pub(super) const fn new(start: u64, end: u64, class: u8, state: State, height: u8) -> Self {
        Self {
            start,
            left: NIL,
            right: NIL,
            end,
            link: NIL,
            state,
            class,
            height,
            gap: 0,
            max_gap: 0,
        }
    }
}

/// One range, and what its owner keeps with it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Node<V> {
    branch: Branch,
    value: V,
}

const _: () = assert!(size_of::<Node<u64>>() == 48);

/// Bytes per node with a value of 8 bytes.
#[cfg(any(test, feature = "internals"))]
pub(super) const NODE_SIZE: usize = size_of::<Node<u64>>();

/// All nodes. Allocates when it is made, and never again.
#[derive(Debug)]
pub(super) struct Slab<V> {
    /// Those that have been used at least once.
    nodes: Vec<Node<V>>,
    capacity: usize,
    /// The first free one of `nodes`.
    free: u32,
    /// How many nodes were visited.
    #[cfg(any(test, feature = "internals"))]
    steps: Cell<u64>,
}

impl<V: Copy> Slab<V> {
    /// `None` without memory for `capacity` nodes, or if there are more than can be numbered.
    pub(super) fn new(capacity: usize) -> Option<Self> {
        if u32::try_from(capacity).ok()? == NIL {
            return None;
        }
        let mut nodes = Vec::new();
        nodes.try_reserve_exact(capacity).ok()?;
        Some(Self {
            nodes,
            capacity,
            free: NIL,
            #[cfg(any(test, feature = "internals"))]
            steps: Cell::new(0),
        })
    }

    /// Whether [`insert`](Self::insert) will find room.
    pub(super) fn has_room(&self) -> bool {
        self.free != NIL || self.nodes.len() < self.capacity
    }

    /// Puts a node somewhere; `None` if all are taken.
    pub(super) fn insert(&mut self, branch: Branch, value: V) -> Option<u32> {
        let node = Node { branch, value };
        if let Some(place) = self.nodes.get_mut(self.free as usize) {
            let index = self.free;
            self.free = place.branch.link;
            *place = node;
            return Some(index);
        }
        if self.nodes.len() >= self.capacity {
            return None;
        }
        let index = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.push(node);
        Some(index)
    }

    /// Takes a node back that nothing leads to any more.
    pub(super) fn release(&mut self, index: u32) {
        let free = self.free;
        if let Some(branch) = self.at_mut(index) {
            branch.state = State::Free;
            branch.link = free;
            self.free = index;
        }
    }

    /// The node, or a free one without children or height if there is none.
    pub(super) fn at(&self, index: u32) -> &Branch {
        match self.nodes.get(index as usize) {
            Some(node) => &node.branch,
            None => &NOWHERE,
        }
    }

    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut Branch> {
        Some(&mut self.nodes.get_mut(index as usize)?.branch)
    }

    pub(super) fn value(&self, index: u32) -> Option<V> {
        Some(self.nodes.get(index as usize)?.value)
    }

    pub(super) fn set_value(&mut self, index: u32, value: V) {
        if let Some(node) = self.nodes.get_mut(index as usize) {
            node.value = value;
        }
    }

    /// Notes that a node is visited: the cost of an operation, counted rather than timed.
    pub(super) fn step(&self) {
        #[cfg(any(test, feature = "internals"))]
        self.steps.set(self.steps.get() + 1);
    }

    /// How many nodes were visited so far.
    #[cfg(any(test, feature = "internals"))]
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
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch() -> Branch {
        Branch::new(0, 1, 0, State::Used, 1)
    }

    #[test]
    fn as_many_as_there_is_room_for() {
        let mut slab = Slab::new(2).unwrap();
        assert_eq!(slab.insert(branch(), 'a'), Some(0));
        assert_eq!(slab.insert(branch(), 'b'), Some(1));
        assert!(!slab.has_room());
        assert_eq!(slab.insert(branch(), 'c'), None);
        slab.release(0);
        assert!(slab.has_room());
        assert_eq!(slab.at(0).state, State::Free);
        assert_eq!(slab.insert(branch(), 'd'), Some(0));
        assert_eq!((slab.value(0), slab.value(1)), (Some('d'), Some('b')));
        assert_eq!(slab.insert(branch(), 'e'), None);
    }

    #[test]
    fn indices_beyond_lead_nowhere() {
        let mut slab = Slab::new(1).unwrap();
        assert_eq!(slab.at(0).height, 0);
        assert_eq!(slab.at(NIL).left, NIL);
        assert_eq!(slab.value(NIL), None);
        slab.release(NIL);
        slab.set_value(7, 'x');
        assert_eq!(slab.insert(branch(), 'a'), Some(0));
        assert!(Slab::<u64>::new(usize::MAX).is_none());
        assert!(Slab::<u64>::new(NIL as usize).is_none());
    }
}
