//! What is on the disk, and what is written to it: words of 8 bytes that are all different.

/// The factor that the host side has made the image with.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a word.
const WORD: usize = 8;

/// Some bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The number of the first word of the disk, from 0.
    first: u64,
    /// Which version: what the host side has made has 0.
    version: u64,
}

impl Content {
    /// The content from a byte on, a multiple of 8.
    pub const fn at(byte: u64, version: u64) -> Self {
        Self {
            first: byte / WORD as u64,
            version,
        }
    }

    /// The same, so many bytes later.
    pub const fn after(self, bytes: usize) -> Self {
        Self {
            first: self.first + (bytes / WORD) as u64,
            ..self
        }
    }

    fn words(self) -> impl Iterator<Item = [u8; WORD]> {
        let version = self.version.rotate_right(16);
        (self.first + 1..).map(move |n| (n.wrapping_mul(FACTOR) ^ version).to_le_bytes())
    }

    /// Writes over memory.
    pub fn fill(self, memory: &mut [u8]) {
        for (place, word) in memory.chunks_exact_mut(WORD).zip(self.words()) {
            place.copy_from_slice(&word);
        }
    }

    /// Whether all of some memory is like this.
    pub fn is_in(self, memory: &[u8]) -> bool {
        let mut pairs = memory.chunks_exact(WORD).zip(self.words());
        pairs.all(|(place, word)| place == word)
    }
}
