//! A split virtqueue (virtio 1.2 §2.7) whose descriptors are linked once.
//!
//! It knows descriptors, the available ring and the used ring, and nothing of what they carry.
//! EVENT_IDX and INDIRECT_DESC are not negotiated, so notifications follow the flags alone.

use core::sync::atomic::{Ordering, fence};

use super::memory::{Place, SharedMemory, View};
use crate::address::PhysAddr;
use crate::platform::Platform;

const DESCRIPTOR_SIZE: usize = 16;
const USED_ELEMENT_SIZE: usize = 8;
const USED_F_NO_NOTIFY: u16 = 1;
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// More descriptors follow.
pub(crate) const DESC_F_NEXT: u16 = 1;
/// The device writes; without it, it reads.
pub(crate) const DESC_F_WRITE: u16 = 2;

/// One entry of the descriptor table (§2.7.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: PhysAddr,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// What the device put in the used ring (§2.7.8). Not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) id: u32,
    pub(crate) len: u32,
}

/// The used ring claims more than was ever made available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedIndexJumped;

#[derive(Debug)]
pub(crate) struct SplitRing {
    memory: SharedMemory,
    /// Four words each.
    descriptors: View<u32>,
    /// Flags and index of the available ring.
    driver: [Place<u16>; 2],
    heads: View<u16>,
    /// Flags and index of the used ring.
    device: [Place<u16>; 2],
    /// Id and length of each element.
    used: View<[u32; 2]>,
    size: u16,
    /// Heads that were put in the available ring, modulo 2^16.
    prepared: u16,
    /// Used elements that were taken out, modulo 2^16.
    consumed: u16,
}

const FLAGS: usize = 0;
const INDEX: usize = 1;
impl SplitRing {
    /// A ring of `size` descriptors, a power of two, at most 32,768.
    pub(crate) fn new<P: Platform>(platform: &P, size: u16) -> Option<Self> {
        let entries = usize::from(size);
        let used = used_offset(size);
        let memory = SharedMemory::new(platform, used + 6 + USED_ELEMENT_SIZE * entries)?;
        let available = available_offset(size);
        // SAFETY: views and places are kept beside the memory, and `into_memory` drops them.
        let descriptors = unsafe { memory.view(0, 4 * entries) };
        // SAFETY: as above.
        let heads = unsafe { memory.view(available + 4, entries) };
        // SAFETY: as above.
        let elements = unsafe { memory.view(used + 4, entries) };
        let pair = |at| {
            // SAFETY: as above.
            let flags = unsafe { memory.place(at) }?;
            // SAFETY: as above.
            let index = unsafe { memory.place(at + 2) }?;
            Some([flags, index])
        };
        let (Some(descriptors), Some(heads), Some(elements), Some(driver), Some(device)) =
            (descriptors, heads, elements, pair(available), pair(used))
        else {
            // SAFETY: no device was told of it.
            unsafe { memory.free(platform) };
            return None;
        };
        Some(Self {
            memory,
            descriptors,
            driver,
            heads,
            device,
            used: elements,
            size,
            prepared: 0,
            consumed: 0,
        })
    }

    /// Asks the device not to interrupt for used elements (§2.7.7): they are polled for. It may
    /// do so all the same.
    pub(crate) fn suppress_interrupts(&self) {
        self.driver[FLAGS].write(AVAIL_F_NO_INTERRUPT);
    }

    /// Asks the device to interrupt for used elements again.
    ///
    /// Those that came before the device saw it cause no interrupt: look for them afterwards.
    pub(crate) fn allow_interrupts(&self) {
        self.driver[FLAGS].write(0);
        // The flag must be visible before the used ring is looked at once more.
        fence(Ordering::SeqCst);
    }

    /// The memory, for the time after the device has let go of it.
    pub(crate) fn into_memory(self) -> SharedMemory {
        self.memory
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Addresses of descriptor table, driver area and device area.
    pub(crate) fn areas(&self) -> [PhysAddr; 3] {
        [0, available_offset(self.size), used_offset(self.size)].map(|at| self.memory.phys(at))
    }

    /// Writes a descriptor. Its chain must not be available to the device.
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let at = 4 * usize::from(index);
        let address = descriptor.address.0;
        self.descriptors.write(at, address as u32);
        self.descriptors.write(at + 1, (address >> 32) as u32);
        self.descriptors.write(at + 2, descriptor.len);
        let flags = u32::from(descriptor.flags) | u32::from(descriptor.next) << 16;
        self.descriptors.write(at + 3, flags);
    }

    /// Where the length of a descriptor is. Its chain must not be available to the device when it
    /// is changed.
    ///
    /// # Safety
    ///
    /// The place is not used after the memory of the ring was freed.
    pub(crate) unsafe fn len_place(&self, index: u16) -> Option<Place<u32>> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.place(DESCRIPTOR_SIZE * usize::from(index) + 8) }
    }

    /// Puts a chain in the available ring. The device learns of it with the next
    /// [`publish`](Self::publish).
    pub(crate) fn prepare(&mut self, head: u16) {
        let mut preparing = self.preparing();
        preparing.prepare(head);
        self.prepared = preparing.prepared;
    }

    /// To put several chains in the available ring, for
    /// [`publish_prepared`](Self::publish_prepared).
    #[inline]
    pub(crate) fn preparing(&self) -> Preparing {
        Preparing {
            heads: self.heads.copy(),
            mask: self.size - 1,
            prepared: self.prepared,
        }
    }

    /// Makes all chains that were prepared available. The device may begin at once, kicked or not.
    #[inline]
    pub(crate) fn publish_prepared(&mut self, preparing: &Preparing) {
        self.prepared = preparing.prepared;
        self.publish();
    }

    /// Makes all chains that were prepared available. The device may begin at once, kicked or not.
    #[inline]
    pub(crate) fn publish(&self) {
        // The device must not see the index before the chains (§2.7.13.3).
        fence(Ordering::Release);
        self.driver[INDEX].write(self.prepared);
    }

    /// Whether the device wants to be notified of what was published (§2.7.7).
    #[inline]
    pub(crate) fn wants_kick(&self) -> bool {
        // The index must be visible before the flags are read (§2.7.13.4.1): a device that is
        // about to stop suppressing looks at the index afterwards.
        fence(Ordering::SeqCst);
        self.device[FLAGS].read() & USED_F_NO_NOTIFY == 0
    }

    /// Takes the next used element out, if there is one.
    #[inline]
    pub(crate) fn next_used(&mut self) -> Result<Option<Used>, UsedIndexJumped> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        Ok(Some(self.take_used()))
    }

    /// Takes out one of the used elements that [`waiting`](Self::waiting) has counted.
    pub(crate) fn take_used(&mut self) -> Used {
        let mut consuming = self.consuming();
        let used = consuming.peek();
        consuming.consume();
        self.consumed = consuming.consumed();
        used
    }

    /// To take out several of the used elements that [`waiting`](Self::waiting) has counted: they
    /// count as taken out once [`set_consumed`](Self::set_consumed) is called.
    #[inline]
    pub(crate) fn consuming(&self) -> Consuming {
        Consuming {
            used: self.used.copy(),
            mask: self.size - 1,
            consumed: self.consumed,
        }
    }

    /// Takes note of used elements that were taken out.
    #[inline]
    pub(crate) fn set_consumed(&mut self, consumed: u16) {
        self.consumed = consumed;
    }

    /// Whether there is no used element that was not taken out.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.device[INDEX].read() == self.consumed
    }

    /// Whether all chains that were made available were used.
    #[inline]
    pub(crate) fn is_all_used(&self) -> bool {
        let all = self.device[INDEX].read() == self.prepared;
        // The elements must not be read before the index that announced them.
        fence(Ordering::Acquire);
        all
    }

    /// Used elements that were not taken out yet.
    #[inline]
    pub(crate) fn waiting(&self) -> Result<u16, UsedIndexJumped> {
        let waiting = self.device[INDEX].read().wrapping_sub(self.consumed);
        let outstanding = self.prepared.wrapping_sub(self.consumed);
        if waiting > outstanding {
            return Err(UsedIndexJumped);
        }
        // The elements must not be read before the index that announced them.
        fence(Ordering::Acquire);
        Ok(waiting)
    }
}

/// The available ring, while chains are put in.
pub(crate) struct Preparing {
    heads: View<u16>,
    mask: u16,
    prepared: u16,
}

impl Preparing {
    #[inline]
    pub(crate) fn prepare(&mut self, head: u16) {
        let place = usize::from(self.prepared & self.mask);
        self.heads.write(place, head);
        self.prepared = self.prepared.wrapping_add(1);
    }
}

/// The used ring, while elements are taken out.
pub(crate) struct Consuming {
    used: View<[u32; 2]>,
    mask: u16,
    consumed: u16,
}

impl Consuming {
    /// The next element.
    #[inline]
    pub(crate) fn peek(&self) -> Used {
        let place = usize::from(self.consumed & self.mask);
        let [id, len] = self.used.read_pair(place);
        Used { id, len }
    }

    /// Takes it out.
    #[inline]
    pub(crate) fn consume(&mut self) {
        self.consumed = self.consumed.wrapping_add(1);
    }

    /// What has to be noted afterwards.
    #[inline]
    pub(crate) fn consumed(&self) -> u16 {
        self.consumed
    }
}

const fn available_offset(size: u16) -> usize {
    DESCRIPTOR_SIZE * size as usize
}

/// The used ring is aligned to 4 bytes (§2.7).
const fn used_offset(size: u16) -> usize {
    (available_offset(size) + 6 + 2 * size as usize).next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gv_vq_1_areas_are_aligned() {
        for shift in 1..=15 {
            let size = 1 << shift;
            assert_eq!(available_offset(size) % 16, 0);
            assert_eq!(used_offset(size) % 4, 0);
            assert!(used_offset(size) >= available_offset(size) + 6 + 2 * usize::from(size));
        }
    }
}
