//! A split virtqueue (virtio 1.2 §2.7) whose descriptors are linked once.
//!
//! It knows descriptors, the available ring and the used ring, and nothing of what they carry.
//! EVENT_IDX and INDIRECT_DESC are not negotiated, so notifications follow the flags alone.

use core::sync::atomic::Ordering;

use super::memory::{Area, SharedMemory, View};
use super::order::Order;
use crate::address::PhysAddr;
use crate::platform::Platform;

const DESCRIPTOR_SIZE: usize = 16;
const USED_ELEMENT_SIZE: usize = 8;
/// Two descriptors, in words.
pub(crate) const PAIR_WORDS: usize = 8;
/// The word of a pair that is the length of its first descriptor.
pub(crate) const FIRST_LEN: usize = 2;
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

impl Used {
    #[inline(always)]
    fn read(device: Area<[u32; 2]>, index: u16) -> Self {
        let element = device.element(index);
        Self {
            id: element.read::<0>(),
            len: element.read::<1>(),
        }
    }
}

/// The used ring claims more than was ever made available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedIndexJumped;

#[derive(Debug)]
pub(crate) struct SplitRing {
    memory: SharedMemory,
    order: Order,
    descriptors: View<[u32; 4]>,
    /// The available ring: heads of chains.
    driver: Area<u16>,
    /// The used ring: id and length.
    device: Area<[u32; 2]>,
    size: u16,
    /// Heads that were put in the available ring, modulo 2^16.
    prepared: u16,
    /// Used elements that were taken out, modulo 2^16.
    consumed: u16,
}

impl SplitRing {
    /// A ring of `size` descriptors, a power of two, at most 32,768.
    pub(crate) fn new<P: Platform>(platform: &P, size: u16, order: Order) -> Option<Self> {
        let entries = usize::from(size);
        let used = used_offset(size);
        let memory = SharedMemory::new(platform, used + 6 + USED_ELEMENT_SIZE * entries)?;
        // SAFETY: the view and the areas are kept beside the memory, and `into_memory` drops them.
        let descriptors = unsafe { memory.view(0, entries) };
        // SAFETY: as above.
        let driver = unsafe { memory.area(available_offset(size), size) };
        // SAFETY: as above.
        let device = unsafe { memory.area(used, size) };
        let (Some(descriptors), Some(driver), Some(device)) = (descriptors, driver, device) else {
            // SAFETY: no device was told of it.
            unsafe { memory.free(platform) };
            return None;
        };
        Some(Self {
            memory,
            order,
            descriptors,
            driver,
            device,
            size,
            prepared: 0,
            consumed: 0,
        })
    }

    /// Asks the device not to interrupt for used elements (§2.7.7): they are polled for. It may
    /// do so all the same.
    pub(crate) fn suppress_interrupts(&self) {
        self.driver.set_flags(AVAIL_F_NO_INTERRUPT);
    }

    /// Asks the device to interrupt for used elements again.
    ///
    /// Those that came before the device saw it cause no interrupt: look for them afterwards.
    pub(crate) fn allow_interrupts(&self) {
        self.driver.set_flags(0);
        // The flag must be visible before the used ring is looked at once more.
        self.order.fence(Ordering::SeqCst);
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

    /// Writes a descriptor, if there is one of that number. Its chain must not be available to the
    /// device.
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let Some(place) = self.descriptors.get(usize::from(index)) else {
            return;
        };
        let address = descriptor.address.0;
        place.write::<0>(address as u32);
        place.write::<1>((address >> 32) as u32);
        place.write::<2>(descriptor.len);
        place.write::<3>(u32::from(descriptor.flags) | u32::from(descriptor.next) << 16);
    }

    /// The first `count` pairs of descriptors. What is in them must not be changed while the device
    /// has them.
    ///
    /// # Safety
    ///
    /// The view is not used after the memory of the ring was freed.
    pub(crate) unsafe fn pairs(&self, count: u16) -> Option<View<[u32; PAIR_WORDS]>> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.view(0, usize::from(count.min(self.size / 2))) }
    }

    /// Puts a chain in the available ring. The device learns of it with the next
    /// [`publish`](Self::publish).
    pub(crate) fn prepare(&mut self, head: u16) {
        self.driver.element(self.prepared).write(head);
        self.prepared = self.prepared.wrapping_add(1);
    }

    /// Makes all chains that were prepared available. The device may begin at once, kicked or not.
    #[inline(always)]
    pub(crate) fn publish(&self) {
        // The device must not see the index before the chains (§2.7.13.3).
        self.order.fence(Ordering::Release);
        self.driver.set_index(self.prepared);
    }

    /// Whether the device wants to be notified of what was published (§2.7.7).
    #[inline(always)]
    pub(crate) fn wants_kick(&self) -> bool {
        // The index must be visible before the flags are read (§2.7.13.4.1): a device that is
        // about to stop suppressing looks at the index afterwards.
        self.order.fence(Ordering::SeqCst);
        self.device.flags() & USED_F_NO_NOTIFY == 0
    }

    /// Takes the next used element out, if there is one.
    pub(crate) fn next_used(&mut self) -> Result<Option<Used>, UsedIndexJumped> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        Ok(Some(self.take_used()))
    }

    /// Takes out one of the used elements that [`waiting`](Self::waiting) has counted.
    pub(crate) fn take_used(&mut self) -> Used {
        let used = Used::read(self.device, self.consumed);
        self.consumed = self.consumed.wrapping_add(1);
        used
    }

    /// Used elements that were not taken out yet.
    pub(crate) fn waiting(&self) -> Result<u16, UsedIndexJumped> {
        let waiting = self.device.index().wrapping_sub(self.consumed);
        let outstanding = self.prepared.wrapping_sub(self.consumed);
        if waiting > outstanding {
            return Err(UsedIndexJumped);
        }
        // The elements must not be read before the index that announced them.
        self.order.fence(Ordering::Acquire);
        Ok(waiting)
    }

    /// Begins a turn, while the device has no chain: both rings are at the same place then. `None`
    /// if it has used something all the same.
    #[inline(always)]
    pub(crate) fn turn(&mut self) -> Option<Turn<'_>> {
        debug_assert_eq!(self.prepared, self.consumed);
        let begin = self.prepared;
        (self.device.index() == begin).then_some(Turn {
            driver: self.driver,
            device: self.device,
            ring: self,
            begin,
            end: begin,
        })
    }
}

/// Chains that are put in, and taken out again before there are others.
pub(crate) struct Turn<'a> {
    ring: &'a mut SplitRing,
    // Copies, because the compiler cannot know that writes to shared memory do not change these.
    driver: Area<u16>,
    device: Area<[u32; 2]>,
    /// Where it has begun, in both rings.
    begin: u16,
    /// Where the next chain is put.
    end: u16,
}

impl Turn<'_> {
    /// Puts a chain in the available ring.
    #[inline(always)]
    pub(crate) fn prepare(&mut self, head: u16) {
        self.driver.element(self.end).write(head);
        self.end = self.end.wrapping_add(1);
    }

    /// Makes the chains available. Returns whether the device wants to be notified.
    #[inline(always)]
    pub(crate) fn publish(&mut self) -> bool {
        self.ring.prepared = self.end;
        self.ring.publish();
        self.ring.wants_kick()
    }

    /// Whether all were used.
    #[inline(always)]
    pub(crate) fn is_all_used(&self) -> bool {
        let all = self.device.index() == self.end;
        // The elements must not be read before the index that announced them.
        self.ring.order.fence(Ordering::Acquire);
        all
    }

    /// One of the used elements.
    #[inline(always)]
    pub(crate) fn used(&self, index: u16) -> Used {
        Used::read(self.device, self.begin.wrapping_add(index))
    }

    /// Ends the turn: so many of the used elements were taken out.
    #[inline(always)]
    pub(crate) fn end(self, taken: u16) {
        self.ring.consumed = self.begin.wrapping_add(taken);
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
