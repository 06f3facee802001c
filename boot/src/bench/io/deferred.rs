//! Ways whose UNMAPs are put off.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use virtio_iommu::dma::{Deferred, Direction, DmaDevice, Mapping};

use super::content::Content;
use super::store::Memory;
use super::way::{IoError, Readable, Segments, Way, fill_mapped, mapped_holds};
use crate::clock;
use crate::platform::KernelPlatform;

/// How often the domain is asked whether UNMAPs are due: after so many I/Os.
const POLL: u32 = 16;

type Mapped<B, D> = Mapping<B, D, KernelPlatform>;
type Parked<B, D> = Deferred<B, D, KernelPlatform>;

/// What the two ways have in common: mappings by slot, and parked ones by age.
struct Shared<B: Memory, D: Direction> {
    device: DmaDevice<KernelPlatform>,
    slots: Vec<Option<Mapped<B, D>>>,
    parked: VecDeque<Parked<B, D>>,
    /// Until the domain is asked.
    credit: u32,
}

impl<B: Memory, D: Direction> Shared<B, D> {
    fn new(device: &DmaDevice<KernelPlatform>, slots: usize, buffers: usize) -> Self {
        Self {
            device: device.clone(),
            slots: (0..slots).map(|_| None).collect(),
            parked: VecDeque::with_capacity(buffers),
            credit: POLL,
        }
    }

    #[inline]
    fn begin(
        &mut self,
        slot: usize,
        mapping: Mapped<B, D>,
        segments: &mut Segments,
    ) -> Result<(), IoError> {
        segments.set(mapping.segments())?;
        let place = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        *place = Some(mapping);
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`Way::end`].
    #[inline]
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError> {
        let place = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        let mapping = place.take().ok_or(IoError::Order)?;
        // SAFETY: the caller's promise.
        let parked = unsafe { mapping.complete() }.defer();
        self.parked.push_back(parked);
        self.credit -= 1;
        if self.credit == 0 {
            self.credit = POLL;
            self.device.domain().poll(clock::now());
        }
        Ok(())
    }

    fn holds(&self, content: Content, size: usize) -> Result<bool, IoError>
    where
        D: Readable,
    {
        let last = self.parked.back().ok_or(IoError::Order)?;
        let read = |offset, page: &mut [u8]| D::read_parked(last, offset, page);
        Ok(mapped_holds(size, content, read))
    }

    /// Takes all buffers back, with as few requests as there is a way for.
    fn finish(self) -> Result<Vec<B>, IoError> {
        self.device.domain().flush()?;
        let buffers: Result<_, _> = self.parked.into_iter().map(Deferred::reclaim).collect();
        Ok(buffers?)
    }
}

/// The same buffers come again, and again.
pub struct Recurring<B: Memory, D: Direction> {
    shared: Shared<B, D>,
    size: usize,
}

impl<B: Memory, D: Direction> Recurring<B, D> {
    /// More buffers than slots; they are mapped here.
    pub fn new(
        device: &DmaDevice<KernelPlatform>,
        slots: usize,
        size: usize,
        buffers: Vec<B>,
    ) -> Result<Self, IoError> {
        let mut shared = Shared::new(device, slots, buffers.len());
        for buffer in buffers {
            let mapping = device.map::<D, B>(buffer)?;
            // SAFETY: no disk was told of it.
            let parked = unsafe { mapping.complete() }.defer();
            shared.parked.push_back(parked);
        }
        Ok(Self { shared, size })
    }
}

impl<B: Memory, D: Readable> Way for Recurring<B, D> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        let oldest = self.shared.parked.pop_front().ok_or(IoError::Order)?;
        let mapping = oldest.reuse()?;
        self.shared.begin(slot, mapping, segments)
    }

    #[inline]
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError> {
        // SAFETY: the caller's promise.
        unsafe { self.shared.end(slot) }
    }

    fn fill(&mut self, _: usize, content: Content) -> Result<(), IoError> {
        let next = self.shared.parked.front().ok_or(IoError::Order)?;
        fill_mapped(self.size, content, |offset, page| next.write(offset, page))
    }

    fn holds(&mut self, _: usize, content: Content) -> Result<bool, IoError> {
        self.shared.holds(content, self.size)
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        self.shared.finish()
    }
}

/// Every I/O has a buffer that is not mapped.
///
/// A buffer is used again when its UNMAP is confirmed, which it is by then: there are more buffers
/// than UNMAPs that can be put off.
pub struct Fresh<B: Memory, D: Direction> {
    shared: Shared<B, D>,
    /// Not mapped: used first.
    ready: VecDeque<B>,
    size: usize,
}

impl<B: Memory, D: Direction> Fresh<B, D> {
    /// With more buffers than slots and UNMAPs that can be put off.
    pub fn new(
        device: &DmaDevice<KernelPlatform>,
        slots: usize,
        size: usize,
        buffers: Vec<B>,
    ) -> Self {
        Self {
            shared: Shared::new(device, slots, buffers.len()),
            ready: buffers.into(),
            size,
        }
    }

    #[inline]
    fn next(&mut self) -> Result<B, IoError> {
        if let Some(buffer) = self.ready.pop_front() {
            return Ok(buffer);
        }
        let oldest = self.shared.parked.pop_front().ok_or(IoError::Order)?;
        Ok(oldest.reclaim()?)
    }
}

impl<B: Memory, D: Readable> Way for Fresh<B, D> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        let buffer = self.next()?;
        let mapping = self.shared.device.map::<D, B>(buffer)?;
        self.shared.begin(slot, mapping, segments)
    }

    #[inline]
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError> {
        // SAFETY: the caller's promise.
        unsafe { self.shared.end(slot) }
    }

    fn fill(&mut self, _: usize, content: Content) -> Result<(), IoError> {
        let mut buffer = self.next()?;
        buffer.fill(content);
        self.ready.push_front(buffer);
        Ok(())
    }

    fn holds(&mut self, _: usize, content: Content) -> Result<bool, IoError> {
        self.shared.holds(content, self.size)
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        let mut buffers = self.shared.finish()?;
        buffers.extend(self.ready);
        Ok(buffers)
    }
}
