//! Ways to show memory to a disk: by physical address, mapped for good, mapped for each I/O.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;

use virtio_iommu::dma::{
    BounceError, Deferred, Direction, DmaBuffer, DmaDevice, Exchanged, FromDevice, MapFailure,
    Mapping, ToDevice,
};
use virtio_iommu::{IovaRange, MapError, UnmapError};

use super::case::SMALL;
use super::content::Content;
use super::store::Memory;
use crate::block::{BlockError, Failed, Segment};
use crate::platform::KernelPlatform;

/// What can go wrong with an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The driver of the disk says so.
    Disk(BlockError),
    /// The disk has not done it.
    Failed(Failed),
    /// No answer in time.
    Timeout,
    /// A buffer was not mapped.
    Map(MapError),
    /// A buffer was not unmapped.
    Unmap(UnmapError),
    /// There is no place in a pool.
    Bounce(BounceError),
    /// A buffer that has more segments than a request, or not the bytes that it should have.
    Buffer,
    /// An I/O that was not begun, or not ended; or as many buffers as there are I/Os are missing.
    Order,
    /// The bytes at this place of the disk are not what they should be.
    Content(u64),
}

impl From<BlockError> for IoError {
    fn from(error: BlockError) -> Self {
        Self::Disk(error)
    }
}

impl From<UnmapError> for IoError {
    fn from(error: UnmapError) -> Self {
        Self::Unmap(error)
    }
}

impl From<BounceError> for IoError {
    fn from(error: BounceError) -> Self {
        Self::Bounce(error)
    }
}

impl<B> From<MapFailure<B>> for IoError {
    fn from(failure: MapFailure<B>) -> Self {
        Self::Map(failure.error)
    }
}

/// The most segments of an I/O.
const SEGMENTS: usize = 32;

/// What a disk is told of a buffer.
pub struct Segments {
    list: [Segment; SEGMENTS],
    used: usize,
}

impl Segments {
    /// None.
    pub const fn new() -> Self {
        Self {
            list: [Segment::new(0, 0); SEGMENTS],
            used: 0,
        }
    }

    /// Them.
    #[inline]
    pub fn list(&self) -> &[Segment] {
        &self.list[..self.used]
    }

    /// Begins anew.
    #[inline]
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds one.
    #[inline]
    pub fn push(&mut self, segment: Segment) -> Result<(), IoError> {
        let place = self.list.get_mut(self.used).ok_or(IoError::Buffer)?;
        *place = segment;
        self.used += 1;
        Ok(())
    }

    /// Begins anew with addresses of the endpoint.
    #[inline]
    pub fn set(&mut self, ranges: impl Iterator<Item = IovaRange>) -> Result<(), IoError> {
        self.clear();
        for range in ranges {
            self.push(Segment::of(range).ok_or(IoError::Buffer)?)?;
        }
        Ok(())
    }
}

/// A way to show the memory of I/Os to a disk. Each I/O under way has a slot.
pub trait Way: Sized {
    /// What the CPU has the data in.
    type Memory: Memory;

    /// Shows the disk the memory of the next I/O of a slot that has none.
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError>;

    /// The I/O of a slot is finished: its memory comes back.
    ///
    /// # Safety
    ///
    /// The disk has said that it is done with the last I/O of the slot that was begun.
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError>;

    /// The I/O of a slot is finished, and the next begins.
    ///
    /// # Safety
    ///
    /// As for [`end`](Self::end).
    #[inline]
    unsafe fn again(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        // SAFETY: the caller's promise.
        unsafe { self.end(slot) }?;
        self.begin(slot, segments)
    }

    /// Writes over the memory that the next I/O of a slot will have.
    fn fill(&mut self, slot: usize, content: Content) -> Result<(), IoError>;

    /// Whether this is in the memory of the last I/O of a slot that has ended.
    fn holds(&mut self, slot: usize, content: Content) -> Result<bool, IoError>;

    /// Takes all memory back. No I/O is under way.
    fn finish(self) -> Result<Vec<Self::Memory>, IoError>;
}

/// By physical address.
///
/// Dropped without [`finish`](Way::finish), it leaves the memory to whoever may be using it.
pub struct Physical<B> {
    buffers: ManuallyDrop<Vec<B>>,
}

impl<B> Physical<B> {
    /// A buffer for each slot.
    pub fn new(buffers: Vec<B>) -> Self {
        Self {
            buffers: ManuallyDrop::new(buffers),
        }
    }

    fn buffer(&mut self, slot: usize) -> Result<&mut B, IoError> {
        self.buffers.get_mut(slot).ok_or(IoError::Order)
    }
}

impl<B: Memory> Way for Physical<B> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        segments.clear();
        for piece in self.buffer(slot)?.pieces() {
            let bytes = piece.phys.len().and_then(|bytes| u32::try_from(bytes).ok());
            let bytes = bytes.ok_or(IoError::Buffer)?;
            segments.push(Segment::new(piece.phys.start().0, bytes))?;
        }
        Ok(())
    }

    #[inline]
    unsafe fn end(&mut self, _: usize) -> Result<(), IoError> {
        Ok(())
    }

    fn fill(&mut self, slot: usize, content: Content) -> Result<(), IoError> {
        self.buffer(slot)?.fill(content);
        Ok(())
    }

    fn holds(&mut self, slot: usize, content: Content) -> Result<bool, IoError> {
        Ok(self.buffer(slot)?.holds(content))
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        Ok(ManuallyDrop::into_inner(self.buffers))
    }
}

/// Directions, and what can be read of memory that stays mapped: nothing, unless the disk writes.
pub trait Readable: Direction + Sized {
    /// As [`Mapping::read`].
    fn read<B: DmaBuffer>(
        mapping: &Mapping<B, Self, KernelPlatform>,
        offset: usize,
        into: &mut [u8],
    ) -> bool;

    /// As [`Deferred::read`].
    fn read_parked<B: DmaBuffer>(
        parked: &Deferred<B, Self, KernelPlatform>,
        offset: usize,
        into: &mut [u8],
    ) -> bool;
}

impl Readable for FromDevice {
    fn read<B: DmaBuffer>(
        mapping: &Mapping<B, Self, KernelPlatform>,
        offset: usize,
        into: &mut [u8],
    ) -> bool {
        mapping.read(offset, into)
    }

    fn read_parked<B: DmaBuffer>(
        parked: &Deferred<B, Self, KernelPlatform>,
        offset: usize,
        into: &mut [u8],
    ) -> bool {
        parked.read(offset, into)
    }
}

impl Readable for ToDevice {
    fn read<B: DmaBuffer>(_: &Mapping<B, Self, KernelPlatform>, _: usize, _: &mut [u8]) -> bool {
        false
    }

    fn read_parked<B: DmaBuffer>(
        _: &Deferred<B, Self, KernelPlatform>,
        _: usize,
        _: &mut [u8],
    ) -> bool {
        false
    }
}

/// Writes content to memory that is mapped, by `write`, which has `len` bytes.
pub fn fill_mapped(
    len: usize,
    content: Content,
    mut write: impl FnMut(usize, &[u8]) -> bool,
) -> Result<(), IoError> {
    let mut page = [0; SMALL];
    for offset in (0..len).step_by(SMALL) {
        content.after(offset).fill(&mut page);
        if !write(offset, &page) {
            return Err(IoError::Buffer);
        }
    }
    Ok(())
}

/// Whether content is in memory that is mapped, by `read`, which has `len` bytes.
pub fn mapped_holds(
    len: usize,
    content: Content,
    mut read: impl FnMut(usize, &mut [u8]) -> bool,
) -> bool {
    let mut page = [0; SMALL];
    let mut offsets = (0..len).step_by(SMALL);
    offsets.all(|offset| read(offset, &mut page) && content.after(offset).is_in(&page))
}

/// Everything is mapped once.
pub struct Static<B: Memory, D: Direction> {
    mappings: Vec<Mapping<B, D, KernelPlatform>>,
}

impl<B: Memory, D: Direction> Static<B, D> {
    /// Maps a buffer for each slot.
    pub fn new(device: &DmaDevice<KernelPlatform>, buffers: Vec<B>) -> Result<Self, IoError> {
        let mappings: Result<_, MapFailure<B>> = buffers
            .into_iter()
            .map(|buffer| device.map(buffer))
            .collect();
        Ok(Self {
            mappings: mappings?,
        })
    }

    fn mapping(&self, slot: usize) -> Result<&Mapping<B, D, KernelPlatform>, IoError> {
        self.mappings.get(slot).ok_or(IoError::Order)
    }
}

impl<B: Memory, D: Readable> Way for Static<B, D> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        segments.set(self.mapping(slot)?.segments())
    }

    #[inline]
    unsafe fn end(&mut self, _: usize) -> Result<(), IoError> {
        Ok(())
    }

    fn fill(&mut self, slot: usize, content: Content) -> Result<(), IoError> {
        let mapping = self.mapping(slot)?;
        fill_mapped(mapping.len(), content, |offset, page| {
            mapping.write(offset, page)
        })
    }

    fn holds(&mut self, slot: usize, content: Content) -> Result<bool, IoError> {
        let mapping = self.mapping(slot)?;
        let read = |offset, page: &mut [u8]| D::read(mapping, offset, page);
        Ok(mapped_holds(mapping.len(), content, read))
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        let mut buffers = Vec::new();
        for mapping in self.mappings {
            // SAFETY: no I/O is under way, and each was ended by a word of the disk.
            buffers.push(unsafe { mapping.complete() }.unmap()?);
        }
        Ok(buffers)
    }
}

/// Mapped for each I/O, and unmapped after it.
///
/// Each slot has two buffers, so that the end of an I/O and the beginning of the next can be one
/// exchange.
pub struct Strict<B: Memory, D: Direction> {
    device: DmaDevice<KernelPlatform>,
    slots: Vec<Pair<B, D>>,
}

struct Pair<B: Memory, D: Direction> {
    spare: Vec<B>,
    mapped: Option<Mapping<B, D, KernelPlatform>>,
}

impl<B: Memory, D: Direction> Strict<B, D> {
    /// Two buffers for each slot.
    pub fn new(device: &DmaDevice<KernelPlatform>, buffers: Vec<B>) -> Self {
        let mut buffers = buffers.into_iter();
        let mut slots = Vec::new();
        while let Some(first) = buffers.next() {
            let mut spare = Vec::with_capacity(2);
            spare.push(first);
            spare.extend(buffers.next());
            slots.push(Pair {
                spare,
                mapped: None,
            });
        }
        Self {
            device: device.clone(),
            slots,
        }
    }
}

impl<B: Memory, D: Direction> Way for Strict<B, D> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        let pair = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        let next = pair.spare.pop().ok_or(IoError::Order)?;
        let mapping = self.device.map(next)?;
        segments.set(mapping.segments())?;
        pair.mapped = Some(mapping);
        Ok(())
    }

    #[inline]
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError> {
        let pair = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        let mapping = pair.mapped.take().ok_or(IoError::Order)?;
        // SAFETY: the caller's promise.
        pair.spare.push(unsafe { mapping.complete() }.unmap()?);
        Ok(())
    }

    #[inline]
    unsafe fn again(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        let pair = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        let mapping = pair.mapped.take().ok_or(IoError::Order)?;
        let next = pair.spare.pop().ok_or(IoError::Order)?;
        // SAFETY: the caller's promise.
        let done = unsafe { mapping.complete() };
        let Exchanged { unmapped, mapped } = self.device.exchange::<_, _, _, D>(done, next);
        let mapping = mapped?;
        segments.set(mapping.segments())?;
        pair.mapped = Some(mapping);
        pair.spare.push(unmapped?);
        Ok(())
    }

    fn fill(&mut self, slot: usize, content: Content) -> Result<(), IoError> {
        let pair = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        pair.spare.last_mut().ok_or(IoError::Order)?.fill(content);
        Ok(())
    }

    fn holds(&mut self, slot: usize, content: Content) -> Result<bool, IoError> {
        let pair = self.slots.get_mut(slot).ok_or(IoError::Order)?;
        Ok(pair.spare.last().ok_or(IoError::Order)?.holds(content))
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        let spare = self.slots.into_iter().flat_map(|pair| pair.spare);
        Ok(spare.collect())
    }
}
