//! The queue of a virtio-blk disk (§2.7): what of a request is written once, and what each time.
//!
//! Each slot has four descriptors of its own. The first three are a request with one segment:
//! what is asked for, the data, the answer. The fourth is a request in a table of its own, which
//! has room for [`MOST_SEGMENTS`].

use core::sync::atomic::{Ordering, fence};

use super::super::memory::Shared;
use super::super::{BlockError, Operation, Segment};

/// Requests at once.
pub const SLOTS: usize = 32;
/// Segments of a request: 128 KiB of pages, in any position.
pub const MOST_SEGMENTS: usize = 33;
/// Descriptors of the queue, a power of two.
pub const DESCRIPTORS: u16 = (EACH * SLOTS) as u16;
/// Descriptors of a slot.
const EACH: usize = 4;

const _: () = assert!(DESCRIPTORS.is_power_of_two() && SLOTS <= 32);

/// The shared memory, in bytes from its start.
mod layout {
    use super::{EACH, MOST_SEGMENTS, SLOTS};

    /// The descriptor table.
    pub const TABLE: usize = 0;
    /// The available ring: flags, index, entries.
    pub const AVAILABLE: usize = TABLE + 16 * EACH * SLOTS;
    /// The used ring: flags, index, entries of 8 bytes.
    pub const USED: usize = (AVAILABLE + 6 + 2 * EACH * SLOTS).next_multiple_of(64);
    /// For each slot, what is asked for.
    pub const HEADERS: usize = (USED + 6 + 8 * EACH * SLOTS).next_multiple_of(64);
    /// For each slot, the answer.
    pub const ANSWERS: usize = HEADERS + 16 * SLOTS;
    /// For each slot, a table of descriptors.
    pub const TABLES: usize = (ANSWERS + SLOTS).next_multiple_of(64);
    /// The size of such a table.
    pub const TABLE_BYTES: usize = 16 * (MOST_SEGMENTS + 2);
    /// All of it.
    pub const BYTES: usize = TABLES + TABLE_BYTES * SLOTS;
}

/// How much memory a queue takes.
pub const BYTES: usize = layout::BYTES;

/// Flags of a descriptor: another follows, the disk writes, it is a table (§2.7.5).
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;

/// Of the available ring: no interrupt, please (§2.7.6). Of the used ring: no notification (§2.7.8).
const NO_INTERRUPT: u16 = 1 << 0;
const NO_NOTIFY: u16 = 1 << 0;

/// Types of requests, and the answer that is not an error (§5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
pub const ANSWER_OK: u8 = 0;
/// No answer of the specification.
const NO_ANSWER: u8 = 0xff;

/// What is asked for.
pub struct Data<'a> {
    /// What is done.
    pub operation: Operation,
    /// The first sector.
    pub first: u64,
    /// From where, or to where: one to [`MOST_SEGMENTS`].
    pub segments: &'a [Segment],
}

/// The queue.
pub struct Queue {
    memory: Shared,
    /// Slots without a request, a bit for each.
    free: u32,
    /// Which descriptor the request of each slot begins with.
    heads: [u16; SLOTS],
    /// How many requests were offered, how many were shown, and how many answers were taken, modulo
    /// 2^16.
    offered: u16,
    shown: u16,
    taken: u16,
}

impl Queue {
    /// A queue in memory of [`BYTES`] bytes, all zero.
    pub fn new(memory: Shared) -> Self {
        let queue = Self {
            memory,
            free: u32::MAX >> (32 - SLOTS),
            heads: [0; SLOTS],
            offered: 0,
            shown: 0,
            taken: 0,
        };
        queue.interrupts(false);
        for slot in 0..SLOTS {
            queue.prepare(slot);
        }
        queue
    }

    /// Writes all that never changes.
    fn prepare(&self, slot: usize) {
        let at = |offset| self.memory.device_addr(offset);
        let first = layout::TABLE + 16 * EACH * slot;
        let number = (EACH * slot) as u16;
        let header = at(layout::HEADERS + 16 * slot);
        let answer = at(layout::ANSWERS + slot);
        self.describe(first, Segment::new(header, 16), NEXT, number + 1);
        self.describe(first + 32, Segment::new(answer, 1), WRITE, 0);
        let table = layout::TABLES + layout::TABLE_BYTES * slot;
        self.describe(first + 48, Segment::new(at(table), 0), INDIRECT, 0);
        self.describe(table, Segment::new(header, 16), NEXT, 1);
    }

    #[inline]
    fn describe(&self, at: usize, segment: Segment, flags: u16, next: u16) {
        let bytes = u64::from(segment.bytes);
        let rest = bytes | u64::from(flags) << 32 | u64::from(next) << 48;
        self.memory.put(at, segment.address.to_le());
        self.memory.put(at + 8, rest.to_le());
    }

    /// Where the disk finds the descriptors, the available ring and the used ring.
    pub fn areas(&self) -> [u64; 3] {
        [layout::TABLE, layout::AVAILABLE, layout::USED].map(|area| self.memory.device_addr(area))
    }

    /// Prepares a request, whose data was checked, and returns its slot.
    ///
    /// # Errors
    ///
    /// [`BlockError::Full`], [`BlockError::Request`].
    pub fn offer(&mut self, data: &Data<'_>) -> Result<usize, BlockError> {
        if self.free == 0 {
            return Err(BlockError::Full);
        }
        let slot = self.free.trailing_zeros() as usize;
        let (kind, write) = match data.operation {
            Operation::Read => (IN, WRITE),
            Operation::Write => (OUT, 0),
        };
        let number = (EACH * slot) as u16;
        let first = layout::TABLE + 16 * EACH * slot;
        let head = match *data.segments {
            [only] => {
                self.describe(first + 16, only, NEXT | write, number + 2);
                number
            }
            [] => return Err(BlockError::Request),
            ref many if many.len() > MOST_SEGMENTS => return Err(BlockError::Request),
            ref many => {
                let table = layout::TABLES + layout::TABLE_BYTES * slot;
                let mut at = table;
                let mut next = 1;
                for segment in many {
                    at += 16;
                    next += 1;
                    self.describe(at, *segment, NEXT | write, next);
                }
                at += 16;
                let answer = self.memory.device_addr(layout::ANSWERS + slot);
                self.describe(at, Segment::new(answer, 1), WRITE, 0);
                let bytes = (at + 16 - table) as u32;
                self.memory.put(first + 48 + 8, bytes.to_le());
                number + 3
            }
        };
        let header = layout::HEADERS + 16 * slot;
        self.memory.put(header, kind.to_le());
        self.memory.put(header + 8, data.first.to_le());
        self.memory.put(layout::ANSWERS + slot, NO_ANSWER);
        let place = usize::from(self.offered % DESCRIPTORS);
        let entry = layout::AVAILABLE + 4 + 2 * place;
        self.memory.put(entry, head.to_le());
        self.offered = self.offered.wrapping_add(1);
        self.free &= !(1 << slot);
        if let Some(kept) = self.heads.get_mut(slot) {
            *kept = head;
        }
        Ok(slot)
    }

    /// Shows the disk all that was offered. Whether it has to be told.
    pub fn publish(&mut self) -> bool {
        if self.shown == self.offered {
            return false;
        }
        self.shown = self.offered;
        // What is in the ring comes before the index that says so, and that before the look at
        // whether the disk looks by itself.
        fence(Ordering::Release);
        self.memory.put(layout::AVAILABLE + 2, self.shown.to_le());
        fence(Ordering::SeqCst);
        u16::from_le(self.memory.get(layout::USED)) & NO_NOTIFY == 0
    }

    /// Asks the disk for interrupts, or for none.
    pub fn interrupts(&self, on: bool) {
        let flags = if on { 0 } else { NO_INTERRUPT };
        self.memory.put(layout::AVAILABLE, flags.to_le());
        fence(Ordering::SeqCst);
    }

    /// Whether there is an answer.
    #[inline]
    pub fn is_ready(&self) -> bool {
        u16::from_le(self.memory.get(layout::USED + 2)) != self.taken
    }

    /// The next answer, and its slot, which is free again.
    ///
    /// # Errors
    ///
    /// [`BlockError::Nonsense`]: the disk answers what it was not asked.
    #[inline]
    pub fn take(&mut self) -> Result<Option<(usize, u8)>, BlockError> {
        if !self.is_ready() {
            return Ok(None);
        }
        // What is in the ring was written before the index.
        fence(Ordering::Acquire);
        let place = usize::from(self.taken % DESCRIPTORS);
        let head: u32 = u32::from_le(self.memory.get(layout::USED + 4 + 8 * place));
        let slot = usize::try_from(head).unwrap_or(usize::MAX) / EACH;
        let asked = self
            .heads
            .get(slot)
            .is_some_and(|kept| head == u32::from(*kept));
        // An offer that was not shown yet is one that nobody can have done.
        if !asked || self.free & 1 << slot != 0 || self.taken == self.shown {
            return Err(BlockError::Nonsense(head));
        }
        self.taken = self.taken.wrapping_add(1);
        self.free |= 1 << slot;
        Ok(Some((slot, self.memory.get(layout::ANSWERS + slot))))
    }

    /// The memory, of which the disk may still know.
    pub fn into_memory(self) -> Shared {
        self.memory
    }
}
