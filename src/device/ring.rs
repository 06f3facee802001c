//! A split virtqueue (virtio 1.2 §2.7) whose descriptors are linked once.
//!
//! It knows descriptors, the available ring and the used ring, and nothing of what they carry.
//! EVENT_IDX and INDIRECT_DESC are not negotiated, so notifications follow the flags alone.

use core::sync::atomic::{Ordering, fence};

use super::memory::SharedMemory;
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
    size: u16,
    /// Heads that were made available, modulo 2^16: the next `avail.idx`.
    available: u16,
    /// Used elements that were taken out, modulo 2^16.
    consumed: u16,
}

impl SplitRing {
    /// A ring of `size` descriptors, a power of two, at most 32,768.
    pub(crate) fn new<P: Platform>(platform: &P, size: u16) -> Option<Self> {
        let bytes = used_offset(size) + 6 + USED_ELEMENT_SIZE * usize::from(size);
        Some(Self {
            memory: SharedMemory::new(platform, bytes)?,
            size,
            available: 0,
            consumed: 0,
        })
    }

    /// Asks the device not to interrupt for used elements (§2.7.7): they are polled for. It may
    /// do so all the same.
    pub(crate) fn suppress_interrupts(&self) {
        self.memory
            .write(available_offset(self.size), AVAIL_F_NO_INTERRUPT);
    }

    /// Asks the device to interrupt for used elements again.
    ///
    /// Those that came before the device saw it cause no interrupt: look for them afterwards.
    pub(crate) fn allow_interrupts(&self) {
        self.memory.write(available_offset(self.size), 0_u16);
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
        let at = DESCRIPTOR_SIZE * usize::from(index);
        self.memory.write(at, descriptor.address.0);
        self.memory.write(at + 8, descriptor.len);
        self.memory.write(at + 12, descriptor.flags);
        self.memory.write(at + 14, descriptor.next);
    }

    /// Changes the length of a descriptor. Its chain must not be available to the device.
    #[inline]
    pub(crate) fn set_len(&self, index: u16, len: u32) {
        self.memory
            .write(DESCRIPTOR_SIZE * usize::from(index) + 8, len);
    }

    /// Makes a chain available. The device may begin at once, kicked or not.
    #[inline]
    pub(crate) fn publish(&mut self, head: u16) {
        let slot = self.available & (self.size - 1);
        let ring = available_offset(self.size);
        self.memory.write(ring + 4 + 2 * usize::from(slot), head);
        self.available = self.available.wrapping_add(1);
        // The device must not see the index before the chain (§2.7.13.3).
        fence(Ordering::Release);
        self.memory.write(ring + 2, self.available);
    }

    /// Whether the device wants to be notified of what was published (§2.7.7).
    #[inline]
    pub(crate) fn wants_kick(&self) -> bool {
        // The index must be visible before the flags are read (§2.7.13.4.1): a device that is
        // about to stop suppressing looks at the index afterwards.
        fence(Ordering::SeqCst);
        let flags: u16 = self.memory.read(used_offset(self.size));
        flags & USED_F_NO_NOTIFY == 0
    }

    /// Takes the next used element out, if there is one.
    #[inline]
    pub(crate) fn next_used(&mut self) -> Result<Option<Used>, UsedIndexJumped> {
        let waiting = self.waiting()?;
        if waiting == 0 {
            return Ok(None);
        }
        // The element must not be read before the index that announced it.
        fence(Ordering::Acquire);
        let slot = self.consumed & (self.size - 1);
        let at = used_offset(self.size) + 4 + USED_ELEMENT_SIZE * usize::from(slot);
        self.consumed = self.consumed.wrapping_add(1);
        Ok(Some(Used {
            id: self.memory.read(at),
            len: self.memory.read(at + 4),
        }))
    }

    /// Used elements that were not taken out yet.
    pub(crate) fn waiting(&self) -> Result<u16, UsedIndexJumped> {
        let used: u16 = self.memory.read(used_offset(self.size) + 2);
        let waiting = used.wrapping_sub(self.consumed);
        let outstanding = self.available.wrapping_sub(self.consumed);
        if waiting > outstanding {
            return Err(UsedIndexJumped);
        }
        Ok(waiting)
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
