//! The ranges by address: a balanced tree that also knows where the large gaps are.
//!
//! An AVL tree ordered by the first address. Each node knows the gap below it and the largest gap
//! of its subtree, so that the highest gap of a given size is found in one descent. There are no
//! parent pointers and there is no recursion: a change remembers the path that it came down. The
//! highest tree of 2³² nodes has 46 levels; every loop ends with the tree.

use super::node::{Branch, NIL, Slab};

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
        let Branch { start, end, .. } = *self.slab.at(new);
        let mut path = Path::new();
        let (mut below, mut above) = (NIL, NIL);
        let mut cursor = self.root;
        while cursor != NIL {
            self.slab.step();
            path.push(cursor);
            let node = self.slab.at(cursor);
            if start < node.start {
                above = cursor;
                cursor = node.left;
            } else {
                below = cursor;
                cursor = node.right;
            }
        }
        let gap = self.distance(self.end_of(below), start);
        if let Some(node) = self.slab.at_mut(new) {
            node.left = NIL;
            node.right = NIL;
            node.height = 1;
            node.gap = gap;
            node.max_gap = gap;
        }
        if above == NIL {
            self.top = new;
        } else {
            // On the path, whose largest gaps are recomputed.
            let gap = self.distance(Some(end), self.slab.at(above).start);
            self.set_gap(above, gap);
        }
        let parent = path.last();
        if parent == NIL {
            self.root = new;
        } else if let Some(node) = self.slab.at_mut(parent) {
            if start < node.start {
                node.left = new;
            } else {
                node.right = new;
            }
        }
        self.retrace(&mut path);
    }

    /// Takes a node out of the tree, in which it is. It stays in the slab.
    pub(super) fn remove(&mut self, old: u32) {
        let gone = *self.slab.at(old);
        let mut path = Path::new();
        let (mut below, mut above) = (NIL, NIL);
        let mut cursor = self.root;
        while cursor != old {
            if cursor == NIL {
                return;
            }
            self.slab.step();
            path.push(cursor);
            let node = self.slab.at(cursor);
            if gone.start < node.start {
                above = cursor;
                cursor = node.left;
            } else {
                below = cursor;
                cursor = node.right;
            }
        }
        let parent = path.last();
        // Next by address, and what takes the place of `old` in the tree.
        let (next, heir) = if gone.right == NIL {
            (above, gone.left)
        } else if gone.left == NIL {
            // Its sibling is empty, so this is a leaf.
            (gone.right, gone.right)
        } else {
            let heir = self.pull_heir(&gone, &mut path);
            (heir, heir)
        };
        if next == NIL {
            self.top = self.highest(gone.left).unwrap_or(below);
        } else {
            let freed = (gone.end - gone.start) >> self.shift;
            let freed = u32::try_from(freed.saturating_add(1)).unwrap_or(u32::MAX);
            let gap = self.slab.at(next).gap;
            self.set_gap(next, gap.saturating_add(gone.gap).saturating_add(freed));
        }
        self.replace(parent, old, heir);
        if next == gone.right && heir == next {
            self.update(heir);
        }
        self.retrace(&mut path);
    }

    /// Unhooks the lowest node of the right subtree of `gone` and gives it the children of
    /// `gone`. `path` led to `gone`, and leads to where the node was in the end.
    fn pull_heir(&mut self, gone: &Branch, path: &mut Path) -> u32 {
        let mut heir = gone.right;
        let mut inner = Path::new();
        loop {
            self.slab.step();
            let left = self.slab.at(heir).left;
            if left == NIL {
                break;
            }
            inner.push(heir);
            heir = left;
        }
        let orphan = self.slab.at(heir).right;
        let parent = inner.last();
        let right = if parent == NIL { orphan } else { gone.right };
        if let Some(node) = self.slab.at_mut(parent) {
            node.left = orphan;
        }
        if let Some(node) = self.slab.at_mut(heir) {
            node.left = gone.left;
            node.right = right;
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
        match self.slab.at_mut(parent) {
            None => self.root = new,
            Some(node) if node.left == old => node.left = new,
            Some(node) => node.right = new,
        }
    }

    fn height(&self, index: u32) -> u8 {
        self.slab.at(index).height
    }

    fn update(&mut self, index: u32) {
        let Branch { left, right, .. } = *self.slab.at(index);
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
        let Branch { left, right, .. } = *self.slab.at(index);
        let (left_height, right_height) = (self.height(left), self.height(right));
        if left_height > right_height.saturating_add(1) {
            let child = self.slab.at(left);
            if self.height(child.left) < self.height(child.right) {
                let left = self.rotate_left(left);
                if let Some(node) = self.slab.at_mut(index) {
                    node.left = left;
                }
            }
            return self.rotate_right(index);
        }
        if right_height > left_height.saturating_add(1) {
            let child = self.slab.at(right);
            if self.height(child.right) < self.height(child.left) {
                let right = self.rotate_right(right);
                if let Some(node) = self.slab.at_mut(index) {
                    node.right = right;
                }
            }
            return self.rotate_left(index);
        }
        self.update(index);
        index
    }

    fn rotate_right(&mut self, index: u32) -> u32 {
        let up = self.slab.at(index).left;
        let middle = self.slab.at(up).right;
        if let Some(node) = self.slab.at_mut(index) {
            node.left = middle;
        }
        if let Some(node) = self.slab.at_mut(up) {
            node.right = index;
        }
        self.update(index);
        self.update(up);
        up
    }

    fn rotate_left(&mut self, index: u32) -> u32 {
        let up = self.slab.at(index).right;
        let middle = self.slab.at(up).left;
        if let Some(node) = self.slab.at_mut(index) {
            node.right = middle;
        }
        if let Some(node) = self.slab.at_mut(up) {
            node.left = index;
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
        while index != NIL {
            self.slab.step();
            highest = Some(index);
            index = self.slab.at(index).right;
        }
        highest
    }

    /// The range that starts at `start`, or `NIL`.
    pub(super) fn find(&self, start: u64) -> u32 {
        let mut cursor = self.root;
        while cursor != NIL {
            self.slab.step();
            let node = self.slab.at(cursor);
            if node.start == start {
                break;
            }
            cursor = if start < node.start {
                node.left
            } else {
                node.right
            };
        }
        cursor
    }

    /// The highest range that starts at `address` or below, or `NIL`.
    pub(super) fn at_or_below(&self, address: u64) -> u32 {
        let mut found = NIL;
        let mut cursor = self.root;
        while cursor != NIL {
            self.slab.step();
            let node = self.slab.at(cursor);
            if address < node.start {
                cursor = node.left;
            } else {
                found = cursor;
                cursor = node.right;
            }
        }
        found
    }

    /// The lowest range that starts above `address`, or `NIL`.
    pub(super) fn above(&self, address: u64) -> u32 {
        let mut found = NIL;
        let mut cursor = self.root;
        while cursor != NIL {
            self.slab.step();
            let node = self.slab.at(cursor);
            if address < node.start {
                found = cursor;
                cursor = node.left;
            } else {
                cursor = node.right;
            }
        }
        found
    }

    /// Of the ranges that start at `address` or below, the highest with at least `need` free
    /// granules below it, or `NIL`.
    pub(super) fn gap_at_or_below(&self, address: u64, need: u32) -> u32 {
        // The highest node that is known to be such a range, or to have one in its left half.
        let mut found = NIL;
        let mut cursor = self.root;
        while cursor != NIL {
            self.slab.step();
            let node = self.slab.at(cursor);
            if node.max_gap < need {
                break;
            }
            if address < node.start {
                cursor = node.left;
            } else {
                if node.gap >= need || self.slab.at(node.left).max_gap >= need {
                    found = cursor;
                }
                cursor = node.right;
            }
        }
        cursor = found;
        let mut node = self.slab.at(cursor);
        if cursor == NIL || node.gap >= need {
            return cursor;
        }
        cursor = node.left;
        while cursor != NIL {
            self.slab.step();
            node = self.slab.at(cursor);
            if self.slab.at(node.right).max_gap >= need {
                cursor = node.right;
            } else if node.gap >= need {
                break;
            } else {
                cursor = node.left;
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
        let node = self.slab.at(index);
        let last = node.start.checked_sub(self.margin)?.checked_sub(1)?;
        let first = if node.gap == u32::MAX {
            self.first_after(self.at_or_below(last))?
        } else {
            // The gap has two margins in it, or there is no room.
            let gap = u64::from(node.gap) << self.shift;
            let gap = gap.checked_sub(self.margin)?;
            if gap < self.margin {
                return None;
            }
            node.start.checked_sub(gap)?
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
        while cursor != NIL {
            self.slab.step();
            let node = self.slab.at(cursor);
            if node.start >= from {
                path.push(cursor);
                cursor = node.left;
            } else {
                cursor = node.right;
            }
        }
        Walk { path }
    }

    /// Walks the ranges that start at `from` or below, downwards.
    pub(super) fn downwards(&self, from: u64) -> Walk {
        let mut path = Path::new();
        let mut cursor = self.root;
        while cursor != NIL {
            self.slab.step();
            let node = self.slab.at(cursor);
            if node.start <= from {
                path.push(cursor);
                cursor = node.right;
            } else {
                cursor = node.left;
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
        let mut cursor = tree.slab.at(index).right;
        while cursor != NIL {
            tree.slab.step();
            self.path.push(cursor);
            cursor = tree.slab.at(cursor).left;
        }
        Some(index)
    }

    /// The next range of a walk that was begun with [`Tree::downwards`].
    pub(super) fn down<V: Copy>(&mut self, tree: &Tree<V>) -> Option<u32> {
        let index = self.path.pop()?;
        let mut cursor = tree.slab.at(index).left;
        while cursor != NIL {
            tree.slab.step();
            self.path.push(cursor);
            cursor = tree.slab.at(cursor).right;
        }
        Some(index)
    }
}
