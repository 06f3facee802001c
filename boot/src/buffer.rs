//! Memory for a device to read and write, and the judge of what it did.

use core::fmt;
use core::num::NonZeroUsize;

use virtio_iommu::{PhysAddr, PhysRange};

use crate::memory::frames::{FRAME, Frames};

/// What bytes are expected: each differs from its neighbours, from those of other patterns, and
/// from the zeros that a device reads where it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Pseudo-random bytes, none of them 0, from a seed.
    Seed(u32),
    /// The same byte everywhere.
    Byte(u8),
}

impl Pattern {
    /// The byte at an offset.
    pub fn at(self, offset: usize) -> u8 {
        match self {
            Self::Byte(byte) => byte,
            Self::Seed(seed) => {
                let mixed = (offset as u32 ^ seed.rotate_left(16))
                    .wrapping_mul(0x9e37_79b1)
                    .wrapping_add(seed);
                let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b);
                ((mixed >> 16) % 255 + 1) as u8
            }
        }
    }
}

/// A byte that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, in the buffer.
    pub offset: usize,
    /// What should be there.
    pub expected: u8,
    /// What is there.
    pub seen: u8,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            expected,
            seen,
        } = self;
        write!(
            f,
            "byte {offset:#x} is {seen:#04x} instead of {expected:#04x}"
        )
    }
}

/// Memory that a device may be told of.
///
/// All accesses are volatile: a device may change it at any time.
#[derive(Debug)]
pub struct Buffer(Frames);

impl Buffer {
    /// `bytes` bytes of zeros, rounded up to whole frames, aligned to `align` bytes (a power of
    /// two).
    ///
    /// `None` when there is no memory left.
    pub fn new(bytes: usize, align: usize) -> Option<Self> {
        let frames = NonZeroUsize::new(bytes.div_ceil(FRAME))?;
        Frames::new(frames, align.max(FRAME)).map(Self)
    }

    /// The first byte, physically.
    pub fn phys(&self) -> u64 {
        self.0.phys()
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of it, physically.
    pub fn range(&self) -> PhysRange {
        self.part(0, self.len())
    }

    /// `len` bytes from `offset`, physically.
    ///
    /// # Panics
    ///
    /// If that is not a part of the buffer.
    #[track_caller]
    pub fn part(&self, offset: usize, len: usize) -> PhysRange {
        assert!(offset + len <= self.len());
        let start = PhysAddr(self.phys() + offset as u64);
        PhysRange::from_len(start, len as u64).expect("a part of a buffer is not empty")
    }

    /// Writes a pattern over all of it.
    pub fn fill(&mut self, pattern: Pattern) {
        for offset in 0..self.len() {
            // SAFETY: inside of the frames, which are memory for as long as `self` lives.
            let byte = unsafe { self.0.virt().byte_add(offset) };
            // SAFETY: as above; devices see the change or do not, both is defined.
            unsafe { byte.write_volatile(pattern.at(offset)) };
        }
    }

    /// The byte at an offset.
    ///
    /// # Panics
    ///
    /// Beyond the end.
    #[track_caller]
    pub fn byte(&self, offset: usize) -> u8 {
        assert!(offset < self.len());
        // SAFETY: inside of the frames, which are memory for as long as `self` lives.
        let byte = unsafe { self.0.virt().byte_add(offset) };
        // SAFETY: as above; a device may be writing, which is why this is volatile.
        unsafe { byte.read_volatile() }
    }

    /// Compares all of it with a pattern.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn compare(&self, pattern: Pattern) -> Result<(), Difference> {
        self.compare_part(0, self.len(), |offset| pattern.at(offset))
    }

    /// Compares `len` bytes from `offset` with what `expected` says, which is given the offset in
    /// the buffer.
    ///
    /// # Errors
    ///
    /// The first difference.
    #[track_caller]
    pub fn compare_part(
        &self,
        offset: usize,
        len: usize,
        expected: impl Fn(usize) -> u8,
    ) -> Result<(), Difference> {
        for offset in offset..offset + len {
            let (seen, expected) = (self.byte(offset), expected(offset));
            if seen != expected {
                return Err(Difference {
                    offset,
                    expected,
                    seen,
                });
            }
        }
        Ok(())
    }
}
