//! Through pools that stay mapped: the data is copied in or out. And the copy alone.

use alloc::sync::Arc;
use alloc::vec::Vec;

use virtio_iommu::dma::{Bounce, Bounced, DmaDevice, FromDevice, Mapping, PageBuf, ToDevice};

use super::content::Content;
use super::store::Memory;
use super::way::{IoError, Segments, Way};
use crate::platform::KernelPlatform;

/// The pools of a disk.
pub type Pools = Arc<Bounce<KernelPlatform>>;

/// Reads: each I/O has one place in the pool, of which the data is copied to the parts of the
/// buffer.
pub struct BounceIn<B> {
    pools: Pools,
    buffers: Vec<B>,
    places: Vec<Option<Bounced<FromDevice, KernelPlatform>>>,
    size: usize,
}

impl<B> BounceIn<B> {
    /// A buffer for each slot.
    pub fn new(pools: &Pools, size: usize, buffers: Vec<B>) -> Self {
        Self {
            pools: pools.clone(),
            places: buffers.iter().map(|_| None).collect(),
            buffers,
            size,
        }
    }
}

impl<B: Memory> Way for BounceIn<B> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        let place = self.pools.from_device(self.size)?;
        segments.set(place.segments())?;
        *self.places.get_mut(slot).ok_or(IoError::Order)? = Some(place);
        Ok(())
    }

    #[inline]
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError> {
        let place = self.places.get_mut(slot).and_then(Option::take);
        let place = place.ok_or(IoError::Order)?;
        let buffer = self.buffers.get_mut(slot).ok_or(IoError::Order)?;
        copy_out(&place, buffer)?;
        place.finish();
        Ok(())
    }

    fn fill(&mut self, _: usize, _: Content) -> Result<(), IoError> {
        Err(IoError::Order)
    }

    fn holds(&mut self, slot: usize, content: Content) -> Result<bool, IoError> {
        Ok(self.buffers.get(slot).ok_or(IoError::Order)?.holds(content))
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        Ok(self.buffers)
    }
}

/// Copies from a place in a pool to the parts of a buffer.
#[inline]
fn copy_out<B: Memory>(
    place: &Bounced<FromDevice, KernelPlatform>,
    buffer: &mut B,
) -> Result<(), IoError> {
    let mut offset = 0;
    for part in buffer.parts_mut() {
        if !place.read(offset, part) {
            return Err(IoError::Buffer);
        }
        offset += part.len();
    }
    Ok(())
}

/// Writes: each part of the buffer is copied to a place of its own.
pub struct BounceOut<B> {
    pools: Pools,
    buffers: Vec<B>,
    places: Vec<Vec<Bounced<ToDevice, KernelPlatform>>>,
}

impl<B: Memory> BounceOut<B> {
    /// A buffer for each slot.
    pub fn new(pools: &Pools, buffers: Vec<B>) -> Self {
        let places = buffers.iter().map(|buffer| {
            let parts = buffer.parts().count();
            Vec::with_capacity(parts)
        });
        Self {
            pools: pools.clone(),
            places: places.collect(),
            buffers,
        }
    }
}

impl<B: Memory> Way for BounceOut<B> {
    type Memory = B;

    #[inline]
    fn begin(&mut self, slot: usize, segments: &mut Segments) -> Result<(), IoError> {
        let buffer = self.buffers.get(slot).ok_or(IoError::Order)?;
        let places = self.places.get_mut(slot).ok_or(IoError::Order)?;
        for part in buffer.parts() {
            places.push(self.pools.to_device(part)?);
        }
        segments.set(places.iter().flat_map(Bounced::segments))
    }

    #[inline]
    unsafe fn end(&mut self, slot: usize) -> Result<(), IoError> {
        let places = self.places.get_mut(slot).ok_or(IoError::Order)?;
        places.drain(..).for_each(Bounced::finish);
        Ok(())
    }

    fn fill(&mut self, slot: usize, content: Content) -> Result<(), IoError> {
        let buffer = self.buffers.get_mut(slot).ok_or(IoError::Order)?;
        buffer.fill(content);
        Ok(())
    }

    fn holds(&mut self, _: usize, _: Content) -> Result<bool, IoError> {
        Err(IoError::Order)
    }

    fn finish(self) -> Result<Vec<B>, IoError> {
        Ok(self.buffers)
    }
}

/// What a read through the pools copies, and nothing else.
pub struct CopyOut<B> {
    place: Bounced<FromDevice, KernelPlatform>,
    buffer: B,
}

impl<B: Memory> CopyOut<B> {
    /// Copies to `buffer`, which has `size` bytes.
    pub fn new(pools: &Pools, size: usize, buffer: B) -> Result<Self, IoError> {
        Ok(Self {
            place: pools.from_device(size)?,
            buffer,
        })
    }

    /// Copies once.
    #[inline]
    pub fn copy(&mut self) -> Result<(), IoError> {
        copy_out(&self.place, &mut self.buffer)
    }

    /// Gives the buffer back.
    pub fn finish(self) -> B {
        self.place.finish();
        self.buffer
    }
}

/// What a write through the pools copies, and nothing else.
pub struct CopyIn<B> {
    memory: Mapping<PageBuf<KernelPlatform>, ToDevice, KernelPlatform>,
    buffer: B,
}

impl<B: Memory> CopyIn<B> {
    /// Copies from `buffer`, which has `size` bytes, to memory like that of a pool.
    pub fn new(
        device: &DmaDevice<KernelPlatform>,
        size: usize,
        buffer: B,
    ) -> Result<Self, IoError> {
        let memory = device.alloc(size).ok_or(IoError::Buffer)?;
        Ok(Self {
            memory: device.map(memory)?,
            buffer,
        })
    }

    /// Copies once.
    #[inline]
    pub fn copy(&mut self) -> Result<(), IoError> {
        let mut offset = 0;
        for part in self.buffer.parts() {
            if !self.memory.write(offset, part) {
                return Err(IoError::Buffer);
            }
            offset += part.len();
        }
        Ok(())
    }

    /// Gives the buffer back.
    pub fn finish(self) -> Result<B, IoError> {
        // SAFETY: no disk was told of it.
        drop(unsafe { self.memory.complete() }.unmap()?);
        Ok(self.buffer)
    }
}
