//! The ranges by address: a balanced tree that also knows where the large gaps are.
//!
//! An AVL tree ordered by the first address. Each node knows the gap below it and the largest gap
//! of its subtree, so that the highest gap of a given size is found in one descent. There are no
//! parent pointers and there is no recursion: a change remembers the path that it came down. The
//! highest tree of 2³² nodes has 46 levels; every loop ends with the tree.

use super::node::{Key, NIL, Slab};

/// More levels than a tree of 2³² nodes can have.
const MAX_HEIGHT: usize = 48;

/// Nodes from the root down.
#[derive(Clone, Debug)]
struct Path {
    nodes: [u32; MAX_HEIGHT],
    len: usize,
}

impl Path {
    const fn new() -> Self {
        Self {
            nodes: [NIL; MAX_HEIGHT],
            len: 0,
        }
    }

    fn push(&mut self, index: u32) {
        if let Some(place) = self.nodes.get_mut(self.len) {
            *place = index;
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        self.nodes.get(self.len).copied()
    }

    /// `NIL` above the root.
    fn last(&self) -> u32 {
        let last = self.len.checked_sub(1).and_then(|at| self.nodes.get(at));
        last.copied().unwrap_or(NIL)
    }
}

/// Where a node is, or would be.
struct Spot {
    /// From the root to its parent.
    path: Path,
    /// The last node of the path with a lower address, and the last with a higher one.
    below: u32,
    above: u32,
}

/// The free addresses between two ranges, the margins taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Ranges without overlaps, by address.
#[derive(Debug)]
pub(super) struct Tree<V> {
    pub(super) slab: Slab<V>,
    root: u32,
    /// The highest range.
    top: u32,
    /// First and last usable address.
    pub(super) usable: Room,
    /// Log2 of the granule.
    pub(super) shift: u32,
    /// What is kept free on each side of a range, in bytes.
    pub(super) margin: u64,
}

impl<V: Copy> Tree<V> {
    /// An empty tree. `granule` is a power of two.
    pub(super) fn new(slab: Slab<V>, usable: Room, granule: u64, margin: u64) -> Self {
        Self {
            slab,
            root: NIL,
            top: NIL,
            usable,
            shift: granule.trailing_zeros(),
            margin,
        }
    }

    /// The free granules between what ends at `end`, or the floor, and `start`.
    ///
    /// The floor lies a margin below the first usable address, so that a range needs its length
    /// and two margins everywhere.
    fn distance(&self, end: Option<u64>, start: u64) -> u32 {
        let bytes = match end {
            Some(end) => start.saturating_sub(end).saturating_sub(1),
            None => start
                .saturating_sub(self.usable.first)
                .saturating_add(self.margin),
        };
        u32::try_from(bytes >> self.shift).unwrap_or(u32::MAX)
    }

    /// Puts a node of the slab into the tree; its range overlaps none of the tree.
    pub(super) fn insert(&mut self, new: u32) {
        let start = self.slab.start(new);
        let end = self.slab.at(new).end;
        let Spot {
            mut path,
            below,
            above,
        } = self.spot(start, NIL);
        let gap = self.distance(self.end_of(below), start);
        if let Some(key) = self.slab.key_mut(new) {
            key.left = NIL;
            key.right = NIL;
        }
        if let Some(node) = self.slab.at_mut(new) {
            node.height = 1;
            node.gap = gap;
            node.max_gap = gap;
        }
        if above == NIL {
            self.top = new;
        } else {
            // On the path, whose largest gaps are recomputed.
            let gap = self.distance(Some(end), self.slab.start(above));
            self.set_gap(above, gap);
        }
        match self.slab.key_mut(path.last()) {
            None => self.root = new,
            Some(key) if start < key.start => key.left = new,
            Some(key) => key.right = new,
        }
        self.retrace(&mut path);
    }

    /// The way down to a node, or to where a range that starts at `start` has its place.
    fn spot(&self, start: u64, node: u32) -> Spot {
        let mut spot = Spot {
            path: Path::new(),
            below: NIL,
            above: NIL,
        };
        let mut cursor = self.root;
        while cursor != node {
            let Some(key) = self.slab.key(cursor) else {
                break;
            };
            self.slab.step();
            spot.path.push(cursor);
            if start < key.start {
                spot.above = cursor;
                cursor = key.left;
            } else {
                spot.below = cursor;
                cursor = key.right;
            }
        }
        spot
    }

    /// Takes a node out of the tree, in which it is. It stays in the slab.
    pub(super) fn remove(&mut self, old: u32) {
        let (left, right) = self.slab.children(old);
        let gone = *self.slab.at(old);
        let start = self.slab.start(old);
        let Spot {
            mut path,
            below,
            above,
        } = self.spot(start, old);
        let parent = path.last();
        // Next by address, and what takes the place of `old` in the tree.
        let (next, heir) = if right == NIL {
            (above, left)
        } else if left == NIL {
            // Its sibling is empty, so this is a leaf.
            (right, right)
        } else {
            let heir = self.pull_heir(left, right, &mut path);
            (heir, heir)
        };
        if next == NIL {
            self.top = self.highest(left).unwrap_or(below);
        } else {
            let freed = (gone.end - start) >> self.shift;
            let freed = u32::try_from(freed.saturating_add(1)).unwrap_or(u32::MAX);
            let gap = self.slab.at(next).gap;
            self.set_gap(next, gap.saturating_add(gone.gap).saturating_add(freed));
        }
        self.replace(parent, old, heir);
        if next == right {
            // A leaf is not on the path.
            self.update(next);
        }
        self.retrace(&mut path);
    }

    /// Unhooks the lowest node of the right half of a subtree and gives it the two halves. `path`
    /// led to the root of the subtree, and leads to where the node was in the end.
    fn pull_heir(&mut self, left: u32, right: u32, path: &mut Path) -> u32 {
        let mut heir = right;
        let mut inner = Path::new();
        let orphan = loop {
            self.slab.step();
            let (lower, orphan) = self.slab.children(heir);
            if lower == NIL {
                break orphan;
            }
            inner.push(heir);
            heir = lower;
        };
        let mut heir_right = orphan;
        if let Some(key) = self.slab.key_mut(inner.last()) {
            key.left = orphan;
            heir_right = right;
        }
        if let Some(key) = self.slab.key_mut(heir) {
            key.left = left;
            key.right = heir_right;
        }
        path.push(heir);
        for index in inner.nodes.iter().take(inner.len) {
            path.push(*index);
        }
        heir
    }

    /// Brings heights and largest gaps up to date along a path, and balances.
    fn retrace(&mut self, path: &mut Path) {
        while let Some(old) = path.pop() {
            self.slab.step();
            let new = self.balance(old);
            if new != old {
                self.replace(path.last(), old, new);
            }
        }
    }

    /// Makes `new` the child of `parent`, or the root, instead of `old`.
    fn replace(&mut self, parent: u32, old: u32, new: u32) {
        match self.slab.key_mut(parent) {
            None => self.root = new,
            Some(key) if key.left == old => key.left = new,
            Some(key) => key.right = new,
        }
    }

    fn height(&self, index: u32) -> u8 {
        self.slab.at(index).height
    }

    fn update(&mut self, index: u32) {
        let (left, right) = self.slab.children(index);
        let (left, right) = (self.slab.at(left), self.slab.at(right));
        let height = left.height.max(right.height).saturating_add(1);
        let below = left.max_gap.max(right.max_gap);
        if let Some(node) = self.slab.at_mut(index) {
            node.height = height;
            node.max_gap = below.max(node.gap);
        }
    }

    /// Balances a subtree whose two halves are balanced; returns its new root.
    fn balance(&mut self, index: u32) -> u32 {
        let (left, right) = self.slab.children(index);
        let (left_height, right_height) = (self.height(left), self.height(right));
        if left_height > right_height.saturating_add(1) {
            let (outer, inner) = self.slab.children(left);
            if self.height(outer) < self.height(inner) {
                let left = self.rotate_left(left);
                if let Some(key) = self.slab.key_mut(index) {
                    key.left = left;
                }
            }
            return self.rotate_right(index);
        }
        if right_height > left_height.saturating_add(1) {
            let (inner, outer) = self.slab.children(right);
            if self.height(outer) < self.height(inner) {
                let right = self.rotate_right(right);
                if let Some(key) = self.slab.key_mut(index) {
                    key.right = right;
                }
            }
            return self.rotate_left(index);
        }
        self.update(index);
        index
    }

    fn rotate_right(&mut self, index: u32) -> u32 {
        let (up, _) = self.slab.children(index);
        let (_, middle) = self.slab.children(up);
        if let Some(key) = self.slab.key_mut(index) {
            key.left = middle;
        }
        if let Some(key) = self.slab.key_mut(up) {
            key.right = index;
        }
        self.update(index);
        self.update(up);
        up
    }

    fn rotate_left(&mut self, index: u32) -> u32 {
        let (_, up) = self.slab.children(index);
        let (middle, _) = self.slab.children(up);
        if let Some(key) = self.slab.key_mut(index) {
            key.right = middle;
        }
        if let Some(key) = self.slab.key_mut(up) {
            key.left = index;
        }
        self.update(index);
        self.update(up);
        up
    }

    fn set_gap(&mut self, index: u32, gap: u32) {
        if let Some(node) = self.slab.at_mut(index) {
            node.gap = gap;
        }
    }

    fn end_of(&self, index: u32) -> Option<u64> {
        (index != NIL).then(|| self.slab.at(index).end)
    }

    fn highest(&self, mut index: u32) -> Option<u32> {
        let mut highest = None;
        while let Some(key) = self.slab.key(index) {
            self.slab.step();
            highest = Some(index);
            index = key.right;
        }
        highest
    }

    /// The highest range that starts at `address` or below, or `NIL`.
    pub(super) fn at_or_below(&self, address: u64) -> u32 {
        let mut found = NIL;
        let mut cursor = self.root;
        while let Some(key) = self.slab.key(cursor) {
            self.slab.step();
            let below = key.start <= address;
            found = if below { cursor } else { found };
            cursor = if below { key.right } else { key.left };
        }
        found
    }

    /// The lowest range that starts above `address`, or `NIL`.
    pub(super) fn above(&self, address: u64) -> u32 {
        let mut found = NIL;
        let mut cursor = self.root;
        while let Some(key) = self.slab.key(cursor) {
            self.slab.step();
            let above = key.start > address;
            found = if above { cursor } else { found };
            cursor = if above { key.left } else { key.right };
        }
        found
    }

    /// Of the ranges that start at `address` or below, the highest with at least `need` free
    /// granules below it, or `NIL`.
    pub(super) fn gap_at_or_below(&self, address: u64, need: u32) -> u32 {
        // The highest node that is known to be such a range, or to have one in its left half.
        let mut found = NIL;
        let mut cursor = self.root;
        while let Some(&Key { start, left, right }) = self.slab.key(cursor) {
            self.slab.step();
            let node = self.slab.at(cursor);
            if node.max_gap < need {
                break;
            }
            if address < start {
                cursor = left;
            } else {
                if node.gap >= need || self.slab.at(left).max_gap >= need {
                    found = cursor;
                }
                cursor = right;
            }
        }
        if found == NIL || self.slab.at(found).gap >= need {
            return found;
        }
        (cursor, _) = self.slab.children(found);
        while let Some(&Key { left, right, .. }) = self.slab.key(cursor) {
            self.slab.step();
            if self.slab.at(right).max_gap >= need {
                cursor = right;
            } else if self.slab.at(cursor).gap >= need {
                break;
            } else {
                cursor = left;
            }
        }
        cursor
    }

    /// What is free between a range, or the end of the usable part if it is `NIL`, and the range
    /// below it.
    pub(super) fn room_below(&self, index: u32) -> Option<Room> {
        if index == NIL {
            return Some(Room {
                first: self.first_after(self.top)?,
                last: self.usable.last,
            });
        }
        let start = self.slab.start(index);
        let gap = self.slab.at(index).gap;
        let last = start.checked_sub(self.margin)?.checked_sub(1)?;
        let first = if gap == u32::MAX {
            self.first_after(self.at_or_below(last))?
        } else {
            // The gap has two margins in it, or there is no room.
            let gap = u64::from(gap) << self.shift;
            let gap = gap.checked_sub(self.margin)?;
            if gap < self.margin {
                return None;
            }
            start.checked_sub(gap)?
        };
        Some(Room { first, last })
    }

    /// The first address that can be used above a range, or above the floor if it is `NIL`.
    fn first_after(&self, index: u32) -> Option<u64> {
        match self.end_of(index) {
            Some(end) => end.checked_add(1)?.checked_add(self.margin),
            None => Some(self.usable.first),
        }
    }

    #[cfg(test)]
    pub(super) fn root(&self) -> u32 {
        self.root
    }

    #[cfg(test)]
    pub(super) fn top(&self) -> u32 {
        self.top
    }

    /// Walks the ranges that start at `from` or above, upwards.
    pub(super) fn upwards(&self, from: u64) -> Walk {
        let mut path = Path::new();
        let mut cursor = self.root;
        while let Some(key) = self.slab.key(cursor) {
            self.slab.step();
            if key.start >= from {
                path.push(cursor);
                cursor = key.left;
            } else {
                cursor = key.right;
            }
        }
        Walk { path }
    }

    /// Walks the ranges that start at `from` or below, downwards.
    pub(super) fn downwards(&self, from: u64) -> Walk {
        let mut path = Path::new();
        let mut cursor = self.root;
        while let Some(key) = self.slab.key(cursor) {
            self.slab.step();
            if key.start <= from {
                path.push(cursor);
                cursor = key.right;
            } else {
                cursor = key.left;
            }
        }
        Walk { path }
    }
}

/// A walk over the ranges by address, in one direction. The tree must not change meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// Nodes that were passed on the way down and are still to come; the last comes next.
    path: Path,
}

impl Walk {
    /// The next range of a walk that was begun with [`Tree::upwards`].
    pub(super) fn up<V: Copy>(&mut self, tree: &Tree<V>) -> Option<u32> {
        let index = self.path.pop()?;
        let (_, mut cursor) = tree.slab.children(index);
        while let Some(key) = tree.slab.key(cursor) {
            tree.slab.step();
            self.path.push(cursor);
            cursor = key.left;
        }
        Some(index)
    }

    /// The next range of a walk that was begun with [`Tree::downwards`].
    pub(super) fn down<V: Copy>(&mut self, tree: &Tree<V>) -> Option<u32> {
        let index = self.path.pop()?;
        let (mut cursor, _) = tree.slab.children(index);
        while let Some(key) = tree.slab.key(cursor) {
            tree.slab.step();
            self.path.push(cursor);
            cursor = key.right;
        }
        Some(index)
    }
}
