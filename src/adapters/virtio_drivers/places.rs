//! Which bytes of a bounce window are in use: a page is free, part of a run, or cut into places of
//! one size.
//!
//! Places are found and given back in any order, in a few steps: completions are not stacked.

use alloc::vec::Vec;

/// The unit of longer places, in bytes. A place never crosses a multiple of it without beginning
/// at one.
pub(super) const UNIT: usize = 4096;

/// Sizes of the places in a page that is cut, as powers of two: 64 to 2048 bytes.
const SMALLEST: u32 = 6;
const CLASSES: usize = 6;

const NONE: u32 = u32::MAX;

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    /// Places of `1 << .0` bytes.
    Cut(u32),
    /// The first of so many pages of one place.
    Run(u32),
    /// Another one.
    Rest,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    what: Use,
    /// A bit for each free place of a page that is cut.
    free: u64,
    /// Neighbours in the list of pages with free places of the same size.
    before: u32,
    after: u32,
}

const UNUSED: Page = Page {
    what: Use::Free,
    free: 0,
    before: NONE,
    after: NONE,
};

/// The places of a window. Allocates when it is made, and never again.
#[derive(Debug)]
pub(super) struct Places {
    pages: Vec<Page>,
    /// A bit for each page that is free.
    free: Vec<u64>,
    /// The first page with a free place of each size.
    open: [u32; CLASSES],
    used: usize,
    most: usize,
}

/// Bits for all places of a page that is cut into places of `1 << class` bytes.
#[inline]
fn all(class: u32) -> u64 {
    u64::MAX >> (64 - (UNIT >> class))
}

/// The size of the places for `len` bytes, as a power of two.
#[inline]
fn class_of(len: usize) -> u32 {
    (len - 1)
        .checked_ilog2()
        .map_or(0, |bit| bit + 1)
        .max(SMALLEST)
}

impl Places {
    /// A window of `bytes` bytes, whole units; `None` without the memory for the records.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let count = bytes / UNIT;
        u32::try_from(count).ok().filter(|count| *count < NONE)?;
        let (mut pages, mut free) = (Vec::new(), Vec::new());
        pages.try_reserve_exact(count).ok()?;
        free.try_reserve_exact(count.div_ceil(64)).ok()?;
        pages.resize(count, UNUSED);
        free.resize(count.div_ceil(64), 0);
        let mut places = Self {
            pages,
            free,
            open: [NONE; CLASSES],
            used: 0,
            most: 0,
        };
        places.clear();
        Some(places)
    }

    /// Gives all places back.
    pub(super) fn clear(&mut self) {
        let count = self.pages.len();
        self.pages.fill(UNUSED);
        for (at, word) in self.free.iter_mut().enumerate() {
            *word = match count - at * 64 {
                left @ 0..64 => (1 << left) - 1,
                _ => u64::MAX,
            };
        }
        self.open = [NONE; CLASSES];
        self.used = 0;
    }

    /// Size, in bytes.
    pub(super) fn size(&self) -> usize {
        self.pages.len() * UNIT
    }

    /// Bytes in use now.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Bytes that were in use at once, at the most.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Takes a place of at least `len` bytes, and tells its offset. `None` if there is none, or
    /// for no bytes.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        if len == 0 {
            return None;
        }
        let (offset, size) = if len <= UNIT / 2 {
            let class = class_of(len);
            (self.take_part(class)?, 1 << class)
        } else {
            let count = len.div_ceil(UNIT);
            (self.take_run(count)? * UNIT, count * UNIT)
        };
        self.used += size;
        self.most = self.most.max(self.used);
        Some(offset)
    }

    /// The size of the place in use that begins at `offset`.
    #[inline]
    pub(super) fn size_at(&self, offset: usize) -> Option<usize> {
        let rest = offset % UNIT;
        let page = self.pages.get(offset / UNIT)?;
        match page.what {
            Use::Cut(class) => {
                let bit = 1_u64 << (rest >> class);
                let begins = rest & ((1 << class) - 1) == 0;
                (begins && page.free & bit == 0).then_some(1 << class)
            }
            Use::Run(count) if rest == 0 => Some(count as usize * UNIT),
            _ => None,
        }
    }

    /// Gives the place back that begins at `offset`. `false` if none does.
    #[inline]
    pub(super) fn give_back(&mut self, offset: usize) -> bool {
        let (at, rest) = (offset / UNIT, offset % UNIT);
        let Some(page) = self.pages.get_mut(at) else {
            return false;
        };
        match page.what {
            Use::Cut(class) => {
                let bit = 1_u64 << (rest >> class);
                let (free, begins) = (page.free, rest & ((1 << class) - 1) == 0);
                if free & bit != 0 || !begins {
                    return false;
                }
                page.free = free | bit;
                self.used -= 1 << class;
                if free == 0 {
                    self.link(at as u32, class);
                } else if free | bit == all(class) {
                    self.close(at as u32, class);
                }
            }
            Use::Run(count) if rest == 0 => {
                let count = count as usize;
                self.used -= count * UNIT;
                self.free_pages(at, count);
            }
            _ => return false,
        }
        true
    }

    /// A page without a place in use is free, unless it is the only one with places of its size:
    /// the next one takes it.
    #[inline]
    fn close(&mut self, at: u32, class: u32) {
        let Some(&mut Page { before, after, .. }) = self.page(at) else {
            return;
        };
        if (before, after) != (NONE, NONE) {
            self.unlink(at, class);
            self.free_pages(at as usize, 1);
        }
    }

    /// Frees the pages that [`close`](Self::close) has kept.
    #[cold]
    fn reclaim(&mut self) {
        for class in (SMALLEST..).take(CLASSES) {
            let head = self.head(class).map_or(NONE, |head| *head);
            let mut at = head;
            // As many steps as there are pages, at the most.
            for _ in 0..self.pages.len() {
                let Some(&mut Page { free, after, .. }) = self.page(at) else {
                    break;
                };
                if free == all(class) {
                    self.unlink(at, class);
                    self.free_pages(at as usize, 1);
                }
                at = after;
            }
        }
    }

    #[inline]
    fn page(&mut self, at: u32) -> Option<&mut Page> {
        self.pages.get_mut(at as usize)
    }

    #[inline]
    fn head(&mut self, class: u32) -> Option<&mut u32> {
        self.open.get_mut((class - SMALLEST) as usize)
    }

    #[inline]
    fn take_part(&mut self, class: u32) -> Option<usize> {
        let mut at = *self.head(class)?;
        if at == NONE {
            at = u32::try_from(self.take_run(1)?).ok()?;
            let page = self.page(at)?;
            page.what = Use::Cut(class);
            page.free = all(class);
            self.link(at, class);
        }
        let page = self.page(at)?;
        let bit = page.free.trailing_zeros();
        page.free &= page.free.wrapping_sub(1);
        if page.free == 0 {
            self.unlink(at, class);
        }
        Some(at as usize * UNIT + ((bit as usize) << class))
    }

    #[inline]
    fn link(&mut self, at: u32, class: u32) {
        let Some(head) = self.head(class) else { return };
        let after = core::mem::replace(head, at);
        if let Some(page) = self.page(after) {
            page.before = at;
        }
        if let Some(page) = self.page(at) {
            page.before = NONE;
            page.after = after;
        }
    }

    #[inline]
    fn unlink(&mut self, at: u32, class: u32) {
        let Some(&mut Page { before, after, .. }) = self.page(at) else {
            return;
        };
        match self.page(before) {
            Some(page) => page.after = after,
            None => {
                if let Some(head) = self.head(class) {
                    *head = after;
                }
            }
        }
        if let Some(page) = self.page(after) {
            page.before = before;
        }
    }

    /// Takes neighbouring pages, the first that there are: a word of 64 pages at a time for one,
    /// run by run for several.
    fn take_run(&mut self, count: usize) -> Option<usize> {
        let start = match self.find(count) {
            Some(start) => start,
            None => {
                self.reclaim();
                self.find(count)?
            }
        };
        let end = start.checked_add(count)?;
        self.mark(start, end, false);
        let pages = self.pages.get_mut(start..end)?;
        for page in &mut *pages {
            page.what = Use::Rest;
        }
        pages.first_mut()?.what = Use::Run(u32::try_from(count).ok()?);
        Some(start)
    }

    fn find(&self, count: usize) -> Option<usize> {
        if count != 1 {
            return self.find_run(count);
        }
        let mut words = self.free.iter().enumerate();
        let (at, word) = words.find(|(_, word)| **word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    fn find_run(&self, count: usize) -> Option<usize> {
        let (mut start, mut length) = (0, 0);
        for at in 0..self.pages.len() {
            let word = self.free.get(at / 64)?;
            if word >> (at % 64) & 1 == 0 {
                (start, length) = (at + 1, 0);
                continue;
            }
            length += 1;
            if length == count {
                return Some(start);
            }
        }
        None
    }

    fn free_pages(&mut self, start: usize, count: usize) {
        let end = start + count;
        self.mark(start, end, true);
        if let Some(pages) = self.pages.get_mut(start..end) {
            pages.fill(UNUSED);
        }
    }

    fn mark(&mut self, start: usize, end: usize, free: bool) {
        for at in start..end {
            let Some(word) = self.free.get_mut(at / 64) else {
                return;
            };
            let bit = 1 << (at % 64);
            if free {
                *word |= bit;
            } else {
                *word &= !bit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_edges() {
        assert_eq!(class_of(1), 6);
        assert_eq!(class_of(64), 6);
        assert_eq!(class_of(65), 7);
        assert_eq!(class_of(2048), 11);
        let mut places = Places::new(2 * UNIT).unwrap();
        assert_eq!(places.take(0), None);
        assert_eq!(places.take(2 * UNIT + 1), None);
        assert_eq!(places.take(2 * UNIT), Some(0));
        assert_eq!(places.take(1), None);
        assert!(!places.give_back(UNIT));
        assert!(!places.give_back(64));
        assert!(places.give_back(0));
        assert!(!places.give_back(0));
        assert_eq!((places.used(), places.most()), (0, 2 * UNIT));
        // 64 small ones fill a page, and the next takes another.
        let taken: Vec<_> = (0..65).map(|_| places.take(64).unwrap()).collect();
        assert_eq!(taken[63..], [63 * 64, UNIT]);
        assert_eq!(places.take(UNIT), None);
        // A page that is kept for the next small one is there for a large one, too.
        for offset in &taken {
            assert!(places.give_back(*offset));
        }
        assert_eq!(places.take(2 * UNIT), Some(0));
        assert_eq!(places.take(64), None);
        places.clear();
        assert_eq!(places.take(2 * UNIT), Some(0));
        assert_eq!(Places::new(0).unwrap().take(1), None);
    }

    proptest! {
        /// Against a list of bytes: no two places overlap, what is refused does not fit, and the
        /// end is the beginning.
        #[test]
        fn places_are_disjoint_and_come_back_in_any_order(
            pages in 1_usize..130,
            steps in proptest::collection::vec((0_usize..3, 1_usize..20_000, any::<usize>()), 0..200),
        ) {
            let mut places = Places::new(pages * UNIT).unwrap();
            let mut bytes = std::vec![false; pages * UNIT];
            let mut live: Vec<(usize, usize)> = Vec::new();
            for (what, len, pick) in steps {
                // Most are small.
                let len = if what == 0 { len } else { len % 300 + 1 };
                if pick % 3 == 0 && !live.is_empty() {
                    let (offset, len) = live.swap_remove(pick / 3 % live.len());
                    prop_assert!(places.size_at(offset).unwrap() >= len);
                    prop_assert!(places.give_back(offset));
                    prop_assert!(!places.give_back(offset));
                    bytes[offset..offset + len].fill(false);
                    continue;
                }
                let Some(offset) = places.take(len) else {
                    // There is no free run of pages that is long enough.
                    let wanted = len.div_ceil(UNIT);
                    let mut run = 0;
                    for page in bytes.chunks(UNIT) {
                        run = if page.contains(&true) { 0 } else { run + 1 };
                        prop_assert!(run < wanted);
                    }
                    continue;
                };
                prop_assert!(offset % 64 == 0 && offset + len <= bytes.len());
                prop_assert!(bytes[offset..offset + len].iter().all(|used| !used));
                bytes[offset..offset + len].fill(true);
                live.push((offset, len));
            }
            for (offset, _) in live {
                prop_assert!(places.give_back(offset));
            }
            prop_assert_eq!(places.used(), 0);
            prop_assert_eq!(places.take(pages * UNIT), Some(0));
        }
    }

    extern crate std;
}
