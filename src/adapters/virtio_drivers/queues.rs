//! The memory of the queues of a driver, mapped for its life.

use alloc::vec::Vec;
use core::ptr::NonNull;

use super::table::Way;
use crate::address::Iova;
use crate::dma::{Bidirectional, DmaBuffer, DmaDevice, FromDevice, Mapping, PageBuf, ToDevice};
use crate::platform::{PAGE_SIZE, Platform};

/// A mapping, in any direction.
enum Memory<P: Platform> {
    To(Mapping<PageBuf<P>, ToDevice, P>),
    From(Mapping<PageBuf<P>, FromDevice, P>),
    Both(Mapping<PageBuf<P>, Bidirectional, P>),
}

/// Memory of a queue.
pub(super) struct Queue<P: Platform> {
    memory: Memory<P>,
    iova: Iova,
    virt: NonNull<u8>,
}

// SAFETY: the pointer leads into the memory, which belongs to the value.
unsafe impl<P: Platform> Send for Queue<P> {}

impl<P: Platform> Queue<P> {
    /// Zeroed pages of 4 KiB. `None` if there is no memory, or no room in the domain.
    pub(super) fn new(device: &DmaDevice<P>, pages: usize, way: Way) -> Option<Self> {
        let buffer = device.alloc(pages.checked_mul(PAGE_SIZE)?)?;
        let virt = buffer.pieces().next()?.virt;
        let mapped = match way {
            Way::To => device.map(buffer).map(Memory::To),
            Way::From => device.map(buffer).map(Memory::From),
            Way::Both => device.map(buffer).map(Memory::Both),
        };
        let memory = mapped
            .inspect_err(|failure| log::error!("queue memory: {failure}"))
            .ok()?;
        let iova = match &memory {
            Memory::To(mapping) => mapping.device_addr(),
            Memory::From(mapping) => mapping.device_addr(),
            Memory::Both(mapping) => mapping.device_addr(),
        };
        Some(Self { memory, iova, virt })
    }

    /// Where the endpoint finds it.
    pub(super) fn iova(&self) -> Iova {
        self.iova
    }

    /// Where the CPU finds it.
    pub(super) fn virt(&self) -> NonNull<u8> {
        self.virt
    }

    /// Unmaps and frees it; what is not confirmed is quarantined.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    pub(super) unsafe fn free(self) {
        match self.memory {
            // SAFETY: the caller's promise.
            Memory::To(mapping) => drop(unsafe { mapping.complete() }),
            // SAFETY: the caller's promise.
            Memory::From(mapping) => drop(unsafe { mapping.complete() }),
            // SAFETY: the caller's promise.
            Memory::Both(mapping) => drop(unsafe { mapping.complete() }),
        }
    }
}

/// All queue memory of an endpoint. Allocates as it grows: queues are set up rarely.
pub(super) struct Queues<P: Platform> {
    live: Vec<Queue<P>>,
    /// Given back before the device confirmed a reset: as many as fit without an allocation.
    waiting: Vec<Queue<P>>,
    /// Regions that are being mapped.
    promised: usize,
}

impl<P: Platform> Queues<P> {
    pub(super) const fn new() -> Self {
        Self {
            live: Vec::new(),
            waiting: Vec::new(),
            promised: 0,
        }
    }

    /// Regions that a driver has, or is about to have.
    pub(super) fn live(&self) -> usize {
        self.live.len() + self.promised
    }

    /// Regions that wait for a reset of the device.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Makes room for memory that a driver is to have, and for it to wait later.
    pub(super) fn promise(&mut self) -> Option<()> {
        let all = self.live.len() + self.promised + 1;
        self.live.try_reserve(self.promised + 1).ok()?;
        self.waiting.try_reserve(all).ok()?;
        self.promised += 1;
        Some(())
    }

    /// Keeps memory for which there is room, or ends the promise.
    pub(super) fn keep(&mut self, queue: Option<Queue<P>>) {
        self.promised -= 1;
        self.live.extend(queue);
    }

    /// Takes the memory at an address out.
    pub(super) fn take(&mut self, iova: Iova) -> Option<Queue<P>> {
        let at = self.live.iter().position(|queue| queue.iova == iova)?;
        Some(self.live.swap_remove(at))
    }

    /// Has memory wait for a reset.
    pub(super) fn wait(&mut self, queue: Queue<P>) {
        // `promise` has made room.
        self.waiting.push(queue);
    }

    /// Memory that has waited for the reset that was confirmed now.
    pub(super) fn take_waiting(&mut self) -> Option<Queue<P>> {
        self.waiting.pop()
    }
}
