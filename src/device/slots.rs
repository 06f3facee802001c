//! What is in a slot of the request queue, and where.
//!
//! A slot is two descriptors, linked once: the request, which the device reads, and its tail,
//! which it writes. PROBE has a slot of its own, because both are longer.

use super::memory::{Columns, Place, SharedMemory};
use super::ring::{FIRST_LEN, PAIR_WORDS};
use crate::address::PhysAddr;
use crate::platform::Platform;
use crate::wire::{ENCODED_WORDS, PROBE_WORDS, Request, TAIL_SIZE};

/// Size of a slot, in words: one line of most caches.
pub(crate) const SLOT_WORDS: usize = 8;
/// Size of a slot, in bytes.
pub(crate) const SLOT_SIZE: usize = 8 * SLOT_WORDS;
/// The word of a slot that is its tail.
const TAIL: usize = ENCODED_WORDS;
/// Where the tail is in a slot, in bytes.
pub(crate) const TAIL_OFFSET: usize = 8 * TAIL;
const _: () = assert!(TAIL < SLOT_WORDS);
/// In the tail until the device writes it: no status has this value.
pub(crate) const POISON: u8 = 0xff;

/// All slots but that of PROBE: what is in each, and its two descriptors.
pub(crate) type Slots = Columns<[u64; SLOT_WORDS], [u32; PAIR_WORDS]>;

/// One of them.
pub(crate) type Slot = (Place<[u64; SLOT_WORDS]>, Place<[u32; PAIR_WORDS]>);

/// Writes a request into a slot, and poisons its tail.
#[inline(always)]
pub(crate) fn fill((body, pair): Slot, request: &Request) {
    let encoded = request.encode();
    let [a, b, c, d, e] = encoded.words;
    body.write::<0>(a);
    body.write::<1>(b);
    body.write::<2>(c);
    body.write::<3>(d);
    body.write::<4>(e);
    body.write::<TAIL>(POISON.into());
    pair.write::<FIRST_LEN>(encoded.len);
}

/// The status in the tail of a slot.
#[inline(always)]
pub(crate) fn status((body, _): Slot) -> u8 {
    #[cfg(viommu_broken)]
    if crate::broken::is(crate::broken::STATUS_OFFSET) {
        return (body.read::<TAIL>() >> 8) as u8;
    }
    body.read_byte::<TAIL>()
}

/// The slot of PROBE.
pub(crate) struct Probe {
    memory: SharedMemory,
    request: Place<[u64; PROBE_WORDS]>,
    /// Behind the properties.
    status: Place<u8>,
    /// Of the properties, in bytes.
    size: u32,
}

impl Probe {
    /// Where the properties are, behind the request.
    const PROPERTIES: usize = 8 * PROBE_WORDS;

    /// A slot for `size` bytes of properties.
    pub(crate) fn new<P: Platform>(platform: &P, size: u32) -> Option<Self> {
        let end = Self::PROPERTIES + size as usize;
        let memory = SharedMemory::new(platform, end + TAIL_SIZE as usize)?;
        // SAFETY: the places are kept beside the memory, and gone when that is freed.
        let request = unsafe { memory.place(0) };
        // SAFETY: as above.
        let status = unsafe { memory.place(end) };
        let (Some(request), Some(status)) = (request, status) else {
            // SAFETY: the device was not told of it.
            unsafe { memory.free(platform) };
            return None;
        };
        Some(Self {
            memory,
            request,
            status,
            size,
        })
    }

    /// Gives the memory back.
    ///
    /// # Safety
    ///
    /// The device was never told of it, or was reset since, and confirmed it.
    pub(crate) unsafe fn free<P: Platform>(self, platform: &P) {
        // SAFETY: the caller vouches for the device.
        unsafe { self.memory.free(platform) };
    }

    /// Where the device finds request and reply, and their lengths in bytes.
    pub(crate) fn parts(&self) -> [(PhysAddr, u32); 2] {
        [
            (self.memory.phys(0), Self::PROPERTIES as u32),
            (self.memory.phys(Self::PROPERTIES), self.reply_len()),
        ]
    }

    /// The length of properties and tail, in bytes.
    pub(crate) fn reply_len(&self) -> u32 {
        self.size + TAIL_SIZE
    }

    /// Writes a PROBE, and poisons its reply.
    pub(crate) fn fill(&self, request: &Request) {
        let [head, ..] = request.encode().words;
        self.request.write::<0>(head);
        self.request.write::<1>(0);
        self.request.write::<2>(0);
        self.request.write::<3>(0);
        self.request.write::<4>(0);
        self.request.write::<5>(0);
        self.request.write::<6>(0);
        self.request.write::<7>(0);
        self.request.write::<8>(0);
        let len = self.reply_len() as usize;
        self.memory.fill(Self::PROPERTIES, len, POISON);
    }

    /// The status in the tail.
    pub(crate) fn status(&self) -> u8 {
        self.status.read()
    }

    /// Copies the properties out of the reply.
    pub(crate) fn properties(&self) -> alloc::vec::Vec<u8> {
        let mut list = alloc::vec![0; self.size as usize];
        self.memory.read_bytes(Self::PROPERTIES, &mut list);
        list
    }
}
