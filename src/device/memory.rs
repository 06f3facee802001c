//! Memory that the CPU and the device share.
//!
//! There are no references into it: the device may change any byte at any time. Accesses are
//! volatile, aligned, checked against the bounds, and ordered by the fences of their callers.

use core::marker::PhantomData;
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

    /// An area of a split queue with `size` elements, a power of two, at `offset`; `None` if it is
    /// not inside or not aligned.
    ///
    /// # Safety
    ///
    /// The area is not used after [`free`](Self::free).
    pub(crate) unsafe fn area<T>(&self, offset: usize, size: u16) -> Option<Area<T>> {
        const { assert!(align_of::<T>() <= Area::<T>::HEAD) };
        if !size.is_power_of_two() || !offset.is_multiple_of(Area::<T>::HEAD) {
            return None;
        }
        let bytes = Area::<T>::HEAD + usize::from(size) * size_of::<T>();
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.view::<u8>(offset, bytes) }?;
        Some(Area {
            flags: bytes.start.cast(),
            mask: size - 1,
            elements: PhantomData,
        })
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
    /// An element, if it exists.
    pub(crate) fn get(&self, index: usize) -> Option<Place<T>> {
        if index >= self.len {
            return None;
        }
        // SAFETY: the element is inside the array that was checked when the view was made.
        Some(Place(unsafe { self.start.add(index) }))
    }

    /// Both arrays side by side, as far as the shorter one goes.
    pub(crate) fn beside<U>(self, other: View<U>) -> Columns<T, U> {
        Columns {
            left: self.start,
            right: other.start,
            len: self.len.min(other.len),
        }
    }
}

/// Two arrays in shared memory whose elements belong together.
#[derive(Debug)]
pub(crate) struct Columns<T, U> {
    left: NonNull<T>,
    right: NonNull<U>,
    /// Not more than there are in either.
    len: usize,
}

impl<T, U> Clone for Columns<T, U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, U> Copy for Columns<T, U> {}

// SAFETY: as for `View`.
unsafe impl<T, U> Send for Columns<T, U> {}

impl<T, U> Columns<T, U> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements of a row, which exists.
    ///
    /// # Safety
    ///
    /// `index` is less than [`len`](Self::len).
    #[inline(always)]
    unsafe fn row(&self, index: usize) -> (Place<T>, Place<U>) {
        // SAFETY: `len` elements were checked when the view was made, and this is one of them.
        let left = unsafe { self.left.add(index) };
        // SAFETY: as above.
        let right = unsafe { self.right.add(index) };
        (Place(left), Place(right))
    }

    /// A row, if it exists.
    pub(crate) fn get(&self, index: usize) -> Option<(Place<T>, Place<U>)> {
        // SAFETY: the row exists.
        (index < self.len).then(|| unsafe { self.row(index) })
    }

    /// The first rows, if there are so many.
    #[inline(always)]
    pub(crate) fn first<const N: usize>(&self) -> Option<[(Place<T>, Place<U>); N]> {
        if self.len < N {
            return None;
        }
        // SAFETY: `from_fn` counts up to `N`.
        Some(core::array::from_fn(|index| unsafe { self.row(index) }))
    }

    /// The rows, up to `most` of them.
    #[inline(always)]
    pub(crate) fn rows(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (Place<T>, Place<U>)> + use<T, U> {
        // A copy, because the compiler cannot know that writes to shared memory do not change it.
        let columns = *self;
        // SAFETY: the range ends at `len`, or before.
        (0..columns.len.min(most)).map(move |index| unsafe { columns.row(index) })
    }
}

/// Where one side of a split queue tells the other what is new (virtio 1.2 §2.7.6, §2.7.8): flags,
/// an index that counts modulo 2^16, and the elements that it goes around.
#[derive(Debug)]
pub(crate) struct Area<T> {
    flags: NonNull<u16>,
    /// One less than the number of elements, which is a power of two.
    mask: u16,
    elements: PhantomData<T>,
}

impl<T> Clone for Area<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Area<T> {}

// SAFETY: as for `View`.
unsafe impl<T> Send for Area<T> {}

impl<T> Area<T> {
    /// Flags and index, before the elements.
    const HEAD: usize = 4;

    /// Reads the flags.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u16 {
        Place(self.flags).read()
    }

    /// Writes the flags.
    pub(crate) fn set_flags(&self, flags: u16) {
        Place(self.flags).write(flags);
    }

    #[inline(always)]
    fn index_place(&self) -> Place<u16> {
        // SAFETY: the index is behind the flags, and was checked with them.
        Place(unsafe { self.flags.add(1) })
    }

    /// Reads the index.
    #[inline(always)]
    pub(crate) fn index(&self) -> u16 {
        self.index_place().read()
    }

    /// Writes the index.
    #[inline(always)]
    pub(crate) fn set_index(&self, index: u16) {
        self.index_place().write(index);
    }

    /// The element that an index stands for.
    #[inline(always)]
    pub(crate) fn element(&self, index: u16) -> Place<T> {
        // SAFETY: the elements are behind flags and index, and were checked with them.
        let first = unsafe { self.flags.byte_add(Self::HEAD) }.cast::<T>();
        // SAFETY: there are `mask + 1` elements, and what is masked is not more than the mask.
        Place(unsafe { first.add(usize::from(index & self.mask)) })
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

impl<T: Word, const WORDS: usize> Place<[T; WORDS]> {
    /// One of the words.
    #[inline(always)]
    fn word<const AT: usize>(&self) -> Place<T> {
        const { assert!(AT < WORDS) };
        // SAFETY: inside of the array, whose bounds and alignment were checked.
        Place(unsafe { self.0.cast::<T>().add(AT) })
    }

    /// Reads a word.
    #[inline(always)]
    pub(crate) fn read<const AT: usize>(&self) -> T {
        self.word::<AT>().read()
    }

    /// Reads the first byte of a word.
    #[inline(always)]
    pub(crate) fn read_byte<const AT: usize>(&self) -> u8 {
        Place(self.word::<AT>().0.cast::<u8>()).read()
    }

    /// Writes a word.
    #[inline(always)]
    pub(crate) fn write<const AT: usize>(&self, value: T) {
        self.word::<AT>().write(value);
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::alloc::{Layout, alloc_zeroed, dealloc};

    /// Pages of the heap.
    struct Heap;

    fn layout(pages: NonZeroUsize, align: usize) -> Layout {
        Layout::from_size_align(pages.get() * PAGE_SIZE, align).unwrap()
    }

    // SAFETY: the pages are zeroed, aligned, and nobody else's until they are given back; the clock
    // stands still, which is monotonic.
    unsafe impl Platform for Heap {
        type Lock = spin::mutex::SpinMutex<()>;

        fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages> {
            // SAFETY: there is one page or more.
            let virt = NonNull::new(unsafe { alloc_zeroed(layout(pages, align)) })?;
            let phys = PhysAddr(0x5000);
            Some(Pages { virt, phys })
        }

        unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, align: usize) {
            // SAFETY: from `alloc_pages`, with the same size and alignment.
            unsafe { dealloc(memory.virt.as_ptr(), layout(pages, align)) }
        }

        fn virt_to_phys(&self, _: NonNull<u8>) -> Option<PhysAddr> {
            None
        }

        fn now(&self) -> u64 {
            0
        }
    }

    /// Two pages, which nobody but the test accesses.
    fn with_memory(test: impl FnOnce(&SharedMemory)) {
        let memory = SharedMemory::new(&Heap, PAGE_SIZE + 1).unwrap();
        test(&memory);
        // SAFETY: there is no device.
        unsafe { memory.free(&Heap) };
    }

    const END: usize = 2 * PAGE_SIZE;

    #[test]
    fn the_last_values_of_the_memory_are_inside() {
        with_memory(|memory| {
            memory.write(END - 8, 0x8877_6655_4433_2211_u64);
            assert_eq!(memory.read::<u64>(END - 8), 0x8877_6655_4433_2211);
            assert_eq!(memory.read::<u8>(END - 1), 0x88);
        });
    }

    #[test]
    fn views_are_inside_and_aligned() {
        with_memory(|memory| {
            // SAFETY: the views are gone when the memory is freed.
            let is_some = |at, len| unsafe { memory.view::<u32>(at, len) }.is_some();
            assert!(is_some(0, END / 4) && is_some(END - 8, 2) && is_some(END, 0));
            assert!(!is_some(0, END / 4 + 1) && !is_some(4, END / 4) && !is_some(END - 4, 2));
            assert!(!is_some(2, 1) && !is_some(1, 0) && !is_some(END - 2, 1));
            assert!(!is_some(4, usize::MAX / 4) && !is_some(4, usize::MAX));
        });
    }

    #[test]
    fn a_view_has_no_element_behind_its_last() {
        with_memory(|memory| {
            // SAFETY: the view is gone when the memory is freed.
            let view = unsafe { memory.view::<u32>(0, 3) }.unwrap();
            assert!(view.get(2).is_some());
            assert!(view.get(3).is_none());
        });
    }

    #[test]
    fn rows_are_those_of_the_shorter_column() {
        with_memory(|memory| {
            // SAFETY: the views are gone when the memory is freed.
            let view = |at, len| unsafe { memory.view::<u32>(at, len) }.unwrap();
            let rows = view(0, 3).beside(view(64, 2));
            assert_eq!(rows.len(), 2);
            assert!(rows.get(1).is_some() && rows.get(2).is_none());
            assert!(rows.first::<1>().is_some() && rows.first::<2>().is_some());
            assert!(rows.first::<3>().is_none());
            assert_eq!((rows.rows(1).count(), rows.rows(9).count()), (1, 2));
        });
    }

    #[test]
    fn areas_are_inside_and_aligned_and_a_power_of_two() {
        with_memory(|memory| {
            let is_some = |at, size| {
                // SAFETY: the areas are gone when the memory is freed.
                unsafe { memory.area::<[u32; 2]>(at, size) }.is_some()
            };
            // Flags and index, then the elements.
            let four = 4 + 4 * 8;
            assert!(is_some(0, 4) && is_some(END - four, 4) && is_some(4, 1));
            assert!(!is_some(END - four + 4, 4) && !is_some(END, 1) && !is_some(0, 1024));
            assert!(!is_some(0, 3) && !is_some(0, 0) && !is_some(2, 4) && !is_some(2, 3));
        });
    }
}
