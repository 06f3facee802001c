//! A buffer whose type is forgotten, so that it can wait in a list without an allocation.

use core::mem::{MaybeUninit, align_of, size_of};

/// The largest buffer handle, in words: room for a `Vec`, a boxed slice, or a pointer with a size,
/// an owner and some flags.
const WORDS: usize = 8;

/// A value of any small type; dropping this drops it.
pub(crate) struct Erased {
    value: [MaybeUninit<usize>; WORDS],
    /// Drops the value behind the pointer, which is of the type that `new` was called with.
    drop: unsafe fn(*mut MaybeUninit<usize>),
}

// SAFETY: `new` takes only values that may be sent.
unsafe impl Send for Erased {}

impl Erased {
    /// Keeps `value`, whose type must fit; that is checked when it is compiled.
    pub(crate) fn new<B: Send + 'static>(value: B) -> Self {
        const {
            assert!(
                size_of::<B>() <= WORDS * size_of::<usize>(),
                "a buffer handle has eight words at the most: put it in a box"
            );
            assert!(align_of::<B>() <= align_of::<usize>());
        }
        /// # Safety
        ///
        /// `at` leads to a `B` that is not used afterwards.
        unsafe fn drop_in_place<B>(at: *mut MaybeUninit<usize>) {
            // SAFETY: the caller's promise.
            unsafe { at.cast::<B>().drop_in_place() }
        }
        let mut erased = Self {
            value: [const { MaybeUninit::uninit() }; WORDS],
            drop: drop_in_place::<B>,
        };
        // SAFETY: the place is large enough and aligned, which was checked above, and ours.
        unsafe { erased.value.as_mut_ptr().cast::<B>().write(value) };
        erased
    }
}

impl Drop for Erased {
    fn drop(&mut self) {
        let at = self.value.as_mut_ptr();
        // SAFETY: `new` put a value of this type there; moving `Erased` moved it along, and
        // nothing uses it after this.
        unsafe { (self.drop)(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn the_value_is_dropped_once_wherever_it_has_moved() {
        let witness = Arc::new(());
        let list = vec![witness.clone(), witness.clone()];
        let mut moved: Vec<Erased> = Vec::new();
        moved.push(Erased::new(list));
        moved.push(Erased::new(witness.clone()));
        moved.push(Erased::new([7_usize; WORDS]));
        moved.reserve(100);
        moved.swap(0, 1);
        assert_eq!(Arc::strong_count(&witness), 4);
        drop(moved.swap_remove(0));
        assert_eq!(Arc::strong_count(&witness), 3);
        drop(moved);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}
