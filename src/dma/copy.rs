//! Copies into and out of memory that a device may be using at the same time.
//!
//! Volatile, word by word where the shared side allows it, and several at once where both do; there
//! are no references into such memory.

use core::ptr::NonNull;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// Words that are copied in one turn of a loop.
const UNROLLED: usize = 4;

/// One access of the size of `$word`, if `$len` and `$at` fit.
macro_rules! one_access {
    ($len:expr, $at:expr, $do:ident) => {
        match $len {
            8 if $at.addr().get().is_multiple_of(8) => return $do!(u64),
            4 if $at.addr().get().is_multiple_of(4) => return $do!(u32),
            2 if $at.addr().get().is_multiple_of(2) => return $do!(u16),
            _ => {}
        }
    };
}

/// # Safety
///
/// The word that is `i` words from `at` is aligned, and valid for reads.
#[inline(always)]
unsafe fn load(at: NonNull<u64>, i: usize) -> u64 {
    // SAFETY: the caller's promise.
    let at = unsafe { at.add(i) };
    // SAFETY: as above.
    unsafe { at.read_volatile() }
}

/// # Safety
///
/// The word that is `i` words from `at` is aligned, and valid for writes.
#[inline(always)]
unsafe fn store(at: NonNull<u64>, i: usize, word: u64) {
    // SAFETY: the caller's promise.
    let at = unsafe { at.add(i) };
    // SAFETY: as above.
    unsafe { at.write_volatile(word) }
}

/// Copies from shared memory. One, two, four or eight aligned bytes are one access.
///
/// # Safety
///
/// The bytes from `from` on, as many as `into` has, are valid for reads.
pub(crate) unsafe fn read(from: NonNull<u8>, into: &mut [u8]) {
    macro_rules! read_one {
        ($word:ty) => {{
            // SAFETY: the caller's promise; the alignment was checked.
            let word = unsafe { from.cast::<$word>().read_volatile() };
            into.copy_from_slice(&word.to_ne_bytes())
        }};
    }
    one_access!(into.len(), from, read_one);
    let (head, words) = split(from, into.len());
    let (first, rest) = into.split_at_mut(head);
    let (middle, last) = rest.split_at_mut(words);
    for (i, byte) in first.iter_mut().enumerate() {
        // SAFETY: inside of the bytes that the caller vouches for.
        let at = unsafe { from.add(i) };
        // SAFETY: as above.
        *byte = unsafe { at.read_volatile() };
    }
    // SAFETY: every pattern of bits is a word.
    let (_, aligned, _) = unsafe { middle.align_to_mut::<u64>() };
    if aligned.len() == words / WORD {
        for (i, four) in aligned.chunks_mut(UNROLLED).enumerate() {
            // SAFETY: inside of the bytes that the caller vouches for.
            let at = unsafe { from.add(head + i * UNROLLED * WORD) };
            let at = at.cast::<u64>();
            if let [a, b, c, d] = four {
                // SAFETY: as above; `split` has made it aligned.
                *a = unsafe { load(at, 0) };
                // SAFETY: as above.
                *b = unsafe { load(at, 1) };
                // SAFETY: as above.
                *c = unsafe { load(at, 2) };
                // SAFETY: as above.
                *d = unsafe { load(at, 3) };
                continue;
            }
            for (i, word) in four.iter_mut().enumerate() {
                // SAFETY: as above.
                *word = unsafe { load(at, i) };
            }
        }
    } else {
        for (i, chunk) in middle.chunks_exact_mut(WORD).enumerate() {
            // SAFETY: inside of the bytes that the caller vouches for.
            let at = unsafe { from.add(head + i * WORD) };
            // SAFETY: as above; `split` has made it aligned.
            let word = unsafe { at.cast::<u64>().read_volatile() };
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
    }
    for (i, byte) in last.iter_mut().enumerate() {
        // SAFETY: inside of the bytes that the caller vouches for.
        let at = unsafe { from.add(head + words + i) };
        // SAFETY: as above.
        *byte = unsafe { at.read_volatile() };
    }
}

/// Copies to shared memory. One, two, four or eight aligned bytes are one access.
///
/// # Safety
///
/// The bytes from `to` on, as many as `from` has, are valid for writes.
pub(crate) unsafe fn write(to: NonNull<u8>, from: &[u8]) {
    macro_rules! write_one {
        ($word:ty) => {{
            let mut word = [0; size_of::<$word>()];
            word.copy_from_slice(from);
            let word = <$word>::from_ne_bytes(word);
            // SAFETY: the caller's promise; the alignment was checked.
            unsafe { to.cast::<$word>().write_volatile(word) }
        }};
    }
    one_access!(from.len(), to, write_one);
    let (head, words) = split(to, from.len());
    let (first, rest) = from.split_at(head);
    let (middle, last) = rest.split_at(words);
    for (i, byte) in first.iter().enumerate() {
        // SAFETY: inside of the bytes that the caller vouches for.
        let at = unsafe { to.add(i) };
        // SAFETY: as above.
        unsafe { at.write_volatile(*byte) };
    }
    // SAFETY: every pattern of bits is a word.
    let (_, aligned, _) = unsafe { middle.align_to::<u64>() };
    if aligned.len() == words / WORD {
        for (i, four) in aligned.chunks(UNROLLED).enumerate() {
            // SAFETY: inside of the bytes that the caller vouches for.
            let at = unsafe { to.add(head + i * UNROLLED * WORD) };
            let at = at.cast::<u64>();
            if let [a, b, c, d] = four {
                // SAFETY: as above; `split` has made it aligned.
                unsafe { store(at, 0, *a) };
                // SAFETY: as above.
                unsafe { store(at, 1, *b) };
                // SAFETY: as above.
                unsafe { store(at, 2, *c) };
                // SAFETY: as above.
                unsafe { store(at, 3, *d) };
                continue;
            }
            for (i, word) in four.iter().enumerate() {
                // SAFETY: as above.
                unsafe { store(at, i, *word) };
            }
        }
    } else {
        for (i, chunk) in middle.chunks_exact(WORD).enumerate() {
            let mut word = [0; WORD];
            word.copy_from_slice(chunk);
            // SAFETY: inside of the bytes that the caller vouches for.
            let at = unsafe { to.add(head + i * WORD) };
            // SAFETY: as above; `split` has made it aligned.
            unsafe { at.cast::<u64>().write_volatile(u64::from_ne_bytes(word)) };
        }
    }
    for (i, byte) in last.iter().enumerate() {
        // SAFETY: inside of the bytes that the caller vouches for.
        let at = unsafe { to.add(head + words + i) };
        // SAFETY: as above.
        unsafe { at.write_volatile(*byte) };
    }
}

/// Fills memory with zeros.
///
/// # Safety
///
/// `len` bytes from `at` on are valid for writes.
pub(crate) unsafe fn zero(at: NonNull<u8>, len: usize) {
    let (head, words) = split(at, len);
    let bytes = (0..head).chain(head + words..len);
    for i in bytes {
        // SAFETY: inside of the bytes that the caller vouches for.
        let at = unsafe { at.add(i) };
        // SAFETY: as above.
        unsafe { at.write_volatile(0) };
    }
    for i in (head..head + words).step_by(WORD) {
        // SAFETY: inside of the bytes that the caller vouches for.
        let at = unsafe { at.add(i) };
        // SAFETY: as above; `split` has made it aligned.
        unsafe { at.cast::<u64>().write_volatile(0) };
    }
}

/// How many bytes come before the first aligned word, and how many are whole words from there.
fn split(at: NonNull<u8>, len: usize) -> (usize, usize) {
    let head = at.addr().get().wrapping_neg() % WORD;
    if head >= len {
        return (len, 0);
    }
    (head, (len - head) / WORD * WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length() {
        #[repr(align(8))]
        struct Memory([u8; 112]);
        for offset in 0..16 {
            for len in 0..88 {
                let mut memory = Memory([0xee; 112]);
                let data: [u8; 88] = core::array::from_fn(|i| i as u8 + 1);
                let at = NonNull::from(&mut memory.0).cast::<u8>();
                // SAFETY: inside of the memory.
                let at = unsafe { at.add(offset) };
                // SAFETY: as above.
                unsafe { write(at, &data[..len]) };
                let mut back = [0; 88];
                // SAFETY: as above.
                unsafe { read(at, &mut back[..len]) };
                assert_eq!(back[..len], data[..len]);
                // SAFETY: as above.
                unsafe { zero(at, len / 2) };
                for (i, byte) in memory.0.iter().enumerate() {
                    let expected = match i.checked_sub(offset) {
                        Some(i) if i < len / 2 => 0,
                        Some(i) if i < len => data[i],
                        _ => 0xee,
                    };
                    assert_eq!(*byte, expected, "{offset} {len} {i}");
                }
            }
        }
    }
}
