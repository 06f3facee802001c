//! The allocators that are compared, behind one face. Lengths are in granules.

use std::collections::BTreeMap;

use bitmap_allocator::BitAlloc;
use buddy_system_allocator::FrameAllocator;
use range_alloc::RangeAllocator;
use virtio_iommu::internals::{Slot, Space};
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::common::{G, LAST, space, wish};

pub trait Rival {
    const NAME: &'static str;
    /// Up to how many live ranges an operation takes less than about a millisecond.
    const MOST: usize;
    type Range: Copy;

    /// For at most `n` live ranges.
    fn new(n: usize) -> Self;
    fn alloc(&mut self, granules: u32) -> Self::Range;
    fn free(&mut self, range: Self::Range);
}

/// Top-down, aligned, under a limit, a granule apart, checked.
pub struct Ours(Space<u64>);

impl Rival for Ours {
    const NAME: &'static str = "ours";
    const MOST: usize = usize::MAX;
    type Range = Slot;

    fn new(n: usize) -> Self {
        Self(space(n))
    }

    fn alloc(&mut self, granules: u32) -> Slot {
        self.0.alloc(&wish(granules), 0).expect("a range").0
    }

    fn free(&mut self, slot: Slot) {
        assert!(self.0.free(slot));
    }
}

/// Top-down and aligned; a limit only when it is made.
pub struct VmAllocator(AddressAllocator);

impl Rival for VmAllocator {
    const NAME: &'static str = "vm-allocator";
    const MOST: usize = 10_000;
    type Range = RangeInclusive;

    fn new(_: usize) -> Self {
        Self(AddressAllocator::new(G, LAST + 1 - G).expect("a space"))
    }

    fn alloc(&mut self, granules: u32) -> RangeInclusive {
        let bytes = u64::from(granules) * G;
        let range = self.0.allocate(bytes, G, AllocPolicy::LastMatch);
        range.expect("a range")
    }

    fn free(&mut self, range: RangeInclusive) {
        self.0.free(&range).expect("a range");
    }
}

/// Best fit, aligned.
pub struct RangeAlloc(RangeAllocator<u64>);

impl Rival for RangeAlloc {
    const NAME: &'static str = "range-alloc";
    const MOST: usize = usize::MAX;
    type Range = (u64, u64);

    fn new(_: usize) -> Self {
        Self(RangeAllocator::new(G..LAST + 1))
    }

    fn alloc(&mut self, granules: u32) -> (u64, u64) {
        let range = self.0.allocate_range_aligned(u64::from(granules) * G, G);
        let range = range.expect("a range");
        (range.start, range.end)
    }

    fn free(&mut self, (start, end): (u64, u64)) {
        self.0.free_range(start..end);
    }
}

/// Size classes of free regions; neither alignment nor limit.
pub struct OffsetAllocator(offset_allocator::Allocator<u32>);

impl Rival for OffsetAllocator {
    const NAME: &'static str = "offset-allocator";
    const MOST: usize = usize::MAX;
    type Range = offset_allocator::Allocation<u32>;

    fn new(n: usize) -> Self {
        // Free regions count, too.
        let nodes = 4 * n as u32 + 64;
        Self(offset_allocator::Allocator::with_max_allocs(1 << 31, nodes))
    }

    fn alloc(&mut self, granules: u32) -> Self::Range {
        self.0.allocate(granules).expect("a range")
    }

    fn free(&mut self, range: Self::Range) {
        self.0.free(range);
    }
}

/// Powers of two, aligned to themselves.
pub struct Buddy(FrameAllocator<33>);

impl Rival for Buddy {
    const NAME: &'static str = "buddy_system_allocator";
    const MOST: usize = usize::MAX;
    type Range = (u32, u32);

    fn new(_: usize) -> Self {
        let mut frames = FrameAllocator::new();
        frames.add_frame(1, 1 << 32);
        Self(frames)
    }

    fn alloc(&mut self, granules: u32) -> (u32, u32) {
        let start = self.0.alloc(granules as usize).expect("a range");
        (start as u32, granules)
    }

    fn free(&mut self, (start, granules): (u32, u32)) {
        self.0.dealloc(start as usize, granules as usize);
    }
}

/// A bit per granule, bottom-up. `B` is as large as it needs to be.
pub struct Bitmap<B>(Box<B>);

impl<B: BitAlloc> Rival for Bitmap<B> {
    const NAME: &'static str = "bitmap-allocator";
    const MOST: usize = 10_000;
    type Range = (u32, u32);

    fn new(_: usize) -> Self {
        let mut bits = Box::new(B::DEFAULT);
        bits.insert(0..B::CAP);
        Self(bits)
    }

    fn alloc(&mut self, granules: u32) -> (u32, u32) {
        let start = self.0.alloc_contiguous(None, granules as usize, 0);
        (start.expect("a range") as u32, granules)
    }

    fn free(&mut self, (start, granules): (u32, u32)) {
        assert!(self.0.dealloc_contiguous(start as usize, granules as usize));
    }
}

/// No allocator at all: reads and writes the one entry of 48 bytes that a live range has. What the
/// memory costs.
pub struct Entries {
    entries: Vec<[u64; 6]>,
    gone: Option<u32>,
}

impl Rival for Entries {
    const NAME: &'static str = "memory-alone";
    const MOST: usize = usize::MAX;
    type Range = u32;

    fn new(n: usize) -> Self {
        Self {
            entries: Vec::with_capacity(n),
            gone: None,
        }
    }

    fn alloc(&mut self, granules: u32) -> u32 {
        if let Some(index) = self.gone.take() {
            self.entries[index as usize][0] = granules.into();
            return index;
        }
        self.entries.push([granules.into(); 6]);
        self.entries.len() as u32 - 1
    }

    fn free(&mut self, index: u32) {
        self.entries[index as usize][1] += 1;
        self.gone = Some(index);
    }
}

/// The first version that comes to mind: ranges in a map, the highest gap found by walking down.
pub struct FirstFit(BTreeMap<u64, u64>);

impl Rival for FirstFit {
    const NAME: &'static str = "btreemap-first-fit";
    const MOST: usize = 10_000;
    type Range = u64;

    fn new(_: usize) -> Self {
        Self(BTreeMap::new())
    }

    fn alloc(&mut self, granules: u32) -> u64 {
        let len = u64::from(granules) * G;
        let mut end = LAST + 1;
        for (start, last) in self.0.iter().rev() {
            if end - (last + 1) >= len + 2 * G {
                break;
            }
            end = *start;
        }
        let start = end - G - len;
        self.0.insert(start, start + len - 1);
        start
    }

    fn free(&mut self, start: u64) {
        self.0.remove(&start).expect("a range");
    }
}
