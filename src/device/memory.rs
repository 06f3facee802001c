//! Memory that the CPU and the device share.
//!
//! There are no references into it: the device may change any byte at any time. Accesses are
//! volatile, aligned, checked against the bounds, and ordered by the fences of their callers.

use core::num::NonZeroUsize;
use core::ptr::NonNull;

use crate::address::PhysAddr;
use crate::platform::{PAGE_SIZE, Pages, Platform};

/// Whole pages for rings, requests or events. Leaks unless it is [freed](SharedMemory::free).
#[derive(Debug)]
pub(crate) struct SharedMemory {
    memory: Pages,
    pages: NonZeroUsize,
}

// SAFETY: the pages are owned by this value alone, and the CPU may access them from any thread.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// At least `bytes` bytes of zeroed memory; `None` when there is none left.
    pub(crate) fn new<P: Platform>(platform: &P, bytes: usize) -> Option<Self> {
        let pages = NonZeroUsize::new(bytes.div_ceil(PAGE_SIZE))?;
        let memory = platform.alloc_pages(pages, PAGE_SIZE)?;
        Some(Self { memory, pages })
    }

    /// Gives the pages back.
    ///
    /// # Safety
    ///
    /// The device does not access them any more, and never will.
    pub(crate) unsafe fn free<P: Platform>(self, platform: &P) {
        // SAFETY: `new` allocated them from the same platform with the same size and alignment,
        // `self` is consumed, and the caller vouches for the device.
        unsafe { platform.dealloc_pages(self.memory, self.pages, PAGE_SIZE) }
    }

    /// What the device has to be told to find the byte at `offset`.
    pub(crate) fn phys(&self, offset: usize) -> PhysAddr {
        PhysAddr(self.memory.phys.0.wrapping_add(offset as u64))
    }

    /// A pointer to the `T` at `offset`, if it is inside and aligned.
    #[inline]
    fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let len = self.pages.get() * PAGE_SIZE;
        let inside = len
            .checked_sub(size_of::<T>())
            .is_some_and(|last| offset <= last);
        debug_assert!(inside && offset.is_multiple_of(align_of::<T>()));
        if !inside || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset` is inside the allocation that `memory.virt` starts.
        Some(unsafe { self.memory.virt.add(offset) }.cast())
    }

    /// Reads the value at `offset`; 0 where there is none, which is a defect of the caller.
    #[inline]
    pub(crate) fn read<T: Word>(&self, offset: usize) -> T {
        let Some(at) = self.at::<T>(offset) else {
            return T::default();
        };
        // SAFETY: `at` checked bounds and alignment; the pages live as long as `self`, and any
        // bit pattern is a valid `Word`.
        let value = unsafe { at.read_volatile() };
        value.little_endian()
    }

    /// Writes the value at `offset`; nothing where there is none, which is a defect of the caller.
    #[inline]
    pub(crate) fn write<T: Word>(&self, offset: usize, value: T) {
        if let Some(at) = self.at::<T>(offset) {
            // SAFETY: `at` checked bounds and alignment; the pages live as long as `self`.
            unsafe { at.write_volatile(value.little_endian()) }
        }
    }

    /// Copies bytes out, one by one.
    pub(crate) fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        for (i, byte) in into.iter_mut().enumerate() {
            *byte = self.read(offset + i);
        }
    }

    /// Fills bytes, one by one.
    pub(crate) fn fill(&self, offset: usize, len: usize, value: u8) {
        for at in offset..offset + len {
            self.write(at, value);
        }
    }
}

/// A little-endian integer of the wire: any bit pattern is a value.
pub(crate) trait Word: Copy + Default + sealed::Sealed {
    /// Converts between the order of the CPU and little-endian order, both ways.
    fn little_endian(self) -> Self;
}

mod sealed {
    pub(crate) trait Sealed {}
}

macro_rules! words {
    ($($word:ty),*) => {$(
        impl sealed::Sealed for $word {}
        impl Word for $word {
            #[inline]
            fn little_endian(self) -> Self {
                <$word>::to_le(self)
            }
        }
    )*};
}

words!(u8, u16, u32, u64);
