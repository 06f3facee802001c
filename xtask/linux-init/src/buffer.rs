//! Memory for I/Os, whose pages are physically adjacent, or not.

use crate::system::{self, Failure, File, O_RDONLY};

/// A page of this kernel, in bytes.
const PAGE: usize = 4096;
/// A buffer, in bytes: as much as one huge page, and 16 I/Os of the largest size.
pub const LENGTH: usize = 2 << 20;
/// A buffer, in pages.
const PAGES: usize = LENGTH / PAGE;

/// `madvise`: huge pages, please.
const MADV_HUGEPAGE: usize = 14;
/// `madvise`: no huge pages.
const MADV_NOHUGEPAGE: usize = 15;

/// In which order the pages are touched: they get physical pages in that order, so that neighbours are this far apart.
const STRIDES: [usize; 8] = [187, 211, 149, 293, 61, 331, 97, 41];

/// How the pages lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No page follows its neighbour.
    Scattered,
    /// Each page follows its neighbour.
    Contiguous,
}

/// Memory that devices read and write. This program looks at it by copies only.
pub struct Buffer {
    /// What it is.
    pub layout: Layout,
    start: *mut u8,
}

impl Buffer {
    /// Makes one, and looks at where its pages are.
    pub fn new(layout: Layout) -> Result<Self, Failure> {
        match layout {
            Layout::Contiguous => Self::contiguous(),
            Layout::Scattered => {
                let mut last = Failure::of("no stride");
                for stride in STRIDES {
                    match Self::scattered(stride) {
                        // What did not do is kept, so that the next attempt gets other pages.
                        Err(failure) => last = failure,
                        made => return made,
                    }
                }
                Err(last)
            }
        }
    }

    fn contiguous() -> Result<Self, Failure> {
        let start = system::memory(2 * LENGTH)?;
        let start = start.wrapping_add(start.align_offset(LENGTH));
        system::advise(start, LENGTH, MADV_HUGEPAGE)?;
        let buffer = Self {
            layout: Layout::Contiguous,
            start,
        };
        (0..PAGES).for_each(|page| buffer.touch(page));
        buffer.check(|frame, next| next == frame + 1)?;
        Ok(buffer)
    }

    fn scattered(stride: usize) -> Result<Self, Failure> {
        let start = system::memory(LENGTH)?;
        system::advise(start, LENGTH, MADV_NOHUGEPAGE)?;
        let buffer = Self {
            layout: Layout::Scattered,
            start,
        };
        // Odd, so that it comes by every page.
        (0..PAGES).for_each(|turn| buffer.touch(turn * stride % PAGES));
        buffer.check(|frame, next| next != frame + 1)?;
        Ok(buffer)
    }

    fn touch(&self, page: usize) {
        let byte = self.start.wrapping_add(page * PAGE);
        // SAFETY: it is in the mapping of this buffer, which nobody has a reference into.
        unsafe { byte.write_volatile(1) };
    }

    /// Looks at each pair of neighbours.
    fn check(&self, good: impl Fn(u64, u64) -> bool) -> Result<(), Failure> {
        let pages = File::open(c"/proc/self/pagemap", O_RDONLY)?;
        let mut before = None;
        for page in 0..PAGES {
            let mut entry = [0; 8];
            let index = (self.start.addr() / PAGE + page) as u64;
            pages.read_at(&mut entry, index * 8)?;
            let entry = u64::from_le_bytes(entry);
            // Bit 63: it is in memory. Bits 0 to 54: where.
            let frame = entry & ((1 << 55) - 1);
            if entry >> 63 == 0 || frame == 0 {
                return Err(Failure::at("a page of a buffer is nowhere", page as u64));
            }
            if before.is_some_and(|before| !good(before, frame)) {
                return Err(Failure::at(
                    "a page of a buffer is in the wrong place",
                    page as u64,
                ));
            }
            before = Some(frame);
        }
        pages.close();
        Ok(())
    }

    /// The memory of the `index`th I/O of `size` bytes; they come around.
    pub fn slot(&self, index: usize, size: usize) -> Result<*mut u8, Failure> {
        let slots = LENGTH.checked_div(size).filter(|slots| *slots > 0);
        let slots = slots.ok_or(Failure::at("an I/O larger than a buffer", size as u64))?;
        Ok(self.start.wrapping_add(index % slots * size))
    }

    /// Writes a word at the start of a slot, and reads it.
    pub fn set(&self, index: usize, size: usize, word: u64) -> Result<(), Failure> {
        let place: *mut u64 = self.slot(index, size)?.cast();
        // SAFETY: a slot is whole, in the mapping of this buffer, and its start is aligned as the size of an I/O is.
        unsafe { place.write_volatile(word) };
        Ok(())
    }

    /// Reads the word at the start of a slot.
    pub fn get(&self, index: usize, size: usize) -> Result<u64, Failure> {
        let place: *const u64 = self.slot(index, size)?.cast();
        // SAFETY: as in `set`.
        Ok(unsafe { place.read_volatile() })
    }
}
