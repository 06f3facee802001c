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

    /// `len` elements from `offset`, as one array; `None` if they are not inside or not aligned.
    ///
    /// # Safety
    ///
    /// The view is not used after [`free`](Self::free).
    pub(crate) unsafe fn view<T>(&self, offset: usize, len: usize) -> Option<View<T>> {
        let bytes = len.checked_mul(size_of::<T>())?;
        let end = offset.checked_add(bytes)?;
        if end > self.pages.get() * PAGE_SIZE || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset` is inside the allocation that `memory.virt` starts, or at its end.
        let start = unsafe { self.memory.virt.add(offset) }.cast();
        Some(View { start, len })
    }

    /// The `T` at `offset`; `None` if it is not inside or not aligned.
    ///
    /// # Safety
    ///
    /// The place is not used after [`free`](Self::free).
    pub(crate) unsafe fn place<T>(&self, offset: usize) -> Option<Place<T>> {
        self.at(offset).map(Place)
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

/// An array in shared memory: bounds and alignment were checked once, indices are each time.
#[derive(Debug)]
pub(crate) struct View<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: whoever made the view promised that it does not outlive the memory, which may be accessed
// from any thread.
unsafe impl<T> Send for View<T> {}

impl<T> View<T> {
    /// The same view once more. What holds for one holds for the other.
    #[inline]
    pub(crate) fn copy(&self) -> Self {
        Self {
            start: self.start,
            len: self.len,
        }
    }

    /// A pointer to an element, if it exists.
    #[inline]
    fn at(&self, index: usize) -> Option<NonNull<T>> {
        debug_assert!(index < self.len);
        if index >= self.len {
            return None;
        }
        // SAFETY: the element is inside the array that was checked when the view was made.
        Some(unsafe { self.start.add(index) })
    }
}

impl<T: Word> View<T> {
    /// Writes an element; nothing where there is none, which is a defect of the caller.
    #[inline]
    pub(crate) fn write(&self, index: usize, value: T) {
        if let Some(at) = self.at(index) {
            // SAFETY: `at` checked the index, and the memory is there as long as the view is used.
            unsafe { at.write_volatile(value.little_endian()) }
        }
    }
}

impl View<[u32; 2]> {
    /// Reads an element, one word after the other; zeros where there is none, which is a defect of
    /// the caller.
    #[inline]
    pub(crate) fn read_pair(&self, index: usize) -> [u32; 2] {
        let Some(at) = self.at(index) else {
            return [0; 2];
        };
        let first = at.cast::<u32>();
        // SAFETY: the second word of the element.
        let second = unsafe { first.add(1) };
        // SAFETY: `at` checked the index, and the memory is there as long as the view is used.
        let a = unsafe { first.read_volatile() };
        // SAFETY: as above.
        let b = unsafe { second.read_volatile() };
        [u32::from_le(a), u32::from_le(b)]
    }
}

/// One value in shared memory: bounds and alignment were checked once.
#[derive(Debug)]
pub(crate) struct Place<T>(NonNull<T>);

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<T> {}

// SAFETY: whoever made the place promised that it does not outlive the memory, which may be
// accessed from any thread.
unsafe impl<T> Send for Place<T> {}

impl<T: Word> Place<T> {
    /// Reads the value.
    #[inline]
    pub(crate) fn read(&self) -> T {
        // SAFETY: `SharedMemory::place` checked bounds and alignment, the memory is there as long
        // as the place is used, and any bit pattern is a valid `Word`.
        let value = unsafe { self.0.read_volatile() };
        value.little_endian()
    }

    /// Writes the value.
    #[inline]
    pub(crate) fn write(&self, value: T) {
        // SAFETY: as for `read`.
        unsafe { self.0.write_volatile(value.little_endian()) }
    }
}

impl<const WORDS: usize> Place<[u64; WORDS]> {
    /// Reads a word.
    #[inline]
    pub(crate) fn read<const AT: usize>(&self) -> u64 {
        const { assert!(AT < WORDS) };
        // SAFETY: inside of the array.
        let at = unsafe { self.0.cast::<u64>().add(AT) };
        // SAFETY: as for `write`; any bit pattern is a number.
        let value = unsafe { at.read_volatile() };
        u64::from_le(value)
    }

    /// Writes a word.
    #[inline]
    pub(crate) fn write<const AT: usize>(&self, value: u64) {
        const { assert!(AT < WORDS) };
        // SAFETY: inside of the array.
        let at = unsafe { self.0.cast::<u64>().add(AT) };
        // SAFETY: `SharedMemory::place` checked bounds and alignment of the array, and the memory
        // is there as long as the place is used.
        unsafe { at.write_volatile(value.to_le()) }
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
