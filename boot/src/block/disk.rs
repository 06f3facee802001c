//! A disk behind the IOMMU for somebody who waits for what it does.
//!
//! The data of each request is in a [`Mapping`] of its own. A mapping comes back only when the disk
//! has said that it is done; what is given up before is quarantined, until [`Disk::reset`] and
//! [`Domain::release_quarantine`](virtio_iommu::Domain::release_quarantine).

use alloc::vec::Vec;

use virtio_iommu::dma::{Direction, DmaBuffer, DmaDevice, FromDevice, Mapping, PageBuf, ToDevice};
use virtio_iommu::topology::pci::Function;

use super::virtio::VirtioBlk;
use super::{BlockDevice, BlockError, Failed, Operation, Route, Segment, Ticket};
use crate::clock::Deadline;
use crate::machine::Machine;
use crate::platform::KernelPlatform;

/// A disk.
pub struct Disk<D> {
    disk: D,
    device: DmaDevice<KernelPlatform>,
    /// For each ticket, whether it is finished, and how.
    done: Vec<Option<Result<(), Failed>>>,
}

impl Disk<VirtioBlk> {
    /// Brings a virtio-blk disk up that does DMA as `device`.
    ///
    /// # Errors
    ///
    /// [`BlockError`].
    pub fn open(
        machine: &mut Machine,
        function: &Function,
        device: &DmaDevice<KernelPlatform>,
    ) -> Result<Self, BlockError> {
        let disk = VirtioBlk::open(machine, function, Route::Translated(device))?;
        Ok(Self::new(disk, device))
    }
}

impl<D: BlockDevice> Disk<D> {
    /// A disk that does DMA as `device`.
    pub fn new(disk: D, device: &DmaDevice<KernelPlatform>) -> Self {
        Self {
            done: alloc::vec![None; disk.depth()],
            disk,
            device: device.clone(),
        }
    }

    /// The size of the disk, in blocks.
    pub fn blocks(&self) -> u64 {
        self.disk.blocks()
    }

    /// Reads blocks into a new buffer, and waits for them.
    ///
    /// # Errors
    ///
    /// [`BlockError`]. After a time-out the buffer is quarantined.
    pub fn read(
        &mut self,
        first: u64,
        blocks: usize,
    ) -> Result<PageBuf<KernelPlatform>, BlockError> {
        let buffer = self.device.alloc(blocks * self.disk.block_size());
        let buffer = buffer.ok_or(BlockError::OutOfMemory)?;
        let mapping = self.device.map::<FromDevice, _>(buffer);
        let mapping = mapping.map_err(|failure| BlockError::Map(failure.error))?;
        let ticket = self.offer_read(first, blocks, &mapping)?;
        self.submit();
        let done = self.wait(ticket)?;
        // SAFETY: the disk has answered the only request that has to do with the buffer.
        let buffer = unsafe { mapping.complete() }.unmap()?;
        done.map(|()| buffer).map_err(BlockError::Failed)
    }

    /// Writes blocks from the beginning of a buffer, waits for it, and gives the buffer back.
    ///
    /// # Errors
    ///
    /// [`BlockError`]. After a time-out the buffer is quarantined.
    pub fn write(
        &mut self,
        first: u64,
        blocks: usize,
        buffer: PageBuf<KernelPlatform>,
    ) -> Result<PageBuf<KernelPlatform>, BlockError> {
        let mapping = self.device.map::<ToDevice, _>(buffer);
        let mapping = mapping.map_err(|failure| BlockError::Map(failure.error))?;
        let ticket = self.offer_write(first, blocks, &mapping)?;
        self.submit();
        let done = self.wait(ticket)?;
        // SAFETY: the disk has answered the only request that has to do with the buffer.
        let buffer = unsafe { mapping.complete() }.unmap()?;
        done.map(|()| buffer).map_err(BlockError::Failed)
    }

    /// Prepares to read blocks to the beginning of a mapping. The disk sees it with
    /// [`submit`](Self::submit). What is finished and was not waited for may be forgotten.
    ///
    /// # Errors
    ///
    /// As [`BlockDevice::offer`].
    pub fn offer_read<B: DmaBuffer>(
        &mut self,
        first: u64,
        blocks: usize,
        into: &Mapping<B, FromDevice, KernelPlatform>,
    ) -> Result<Ticket, BlockError> {
        self.offer(Operation::Read, first, blocks, into)
    }

    /// Prepares to write blocks from the beginning of a mapping. The disk sees it with
    /// [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// As [`BlockDevice::offer`].
    pub fn offer_write<B: DmaBuffer>(
        &mut self,
        first: u64,
        blocks: usize,
        from: &Mapping<B, ToDevice, KernelPlatform>,
    ) -> Result<Ticket, BlockError> {
        self.offer(Operation::Write, first, blocks, from)
    }

    fn offer<B: DmaBuffer, W: Direction>(
        &mut self,
        operation: Operation,
        first: u64,
        blocks: usize,
        data: &Mapping<B, W, KernelPlatform>,
    ) -> Result<Ticket, BlockError> {
        let bytes = blocks.checked_mul(self.disk.block_size());
        let bytes = bytes.filter(|bytes| *bytes <= data.len());
        let bytes = bytes.and_then(|bytes| u32::try_from(bytes).ok());
        let segment = Segment::new(data.device_addr().0, bytes.ok_or(BlockError::Request)?);
        let ticket = self.disk.offer(operation, first, blocks, &[segment])?;
        if let Some(done) = self.done.get_mut(ticket.number()) {
            *done = None;
        }
        Ok(ticket)
    }

    /// Shows the disk all that was prepared, at once.
    pub fn submit(&mut self) {
        self.disk.submit();
    }

    /// Whether the disk has answered.
    ///
    /// # Errors
    ///
    /// As [`BlockDevice::poll`].
    pub fn is_done(&mut self, ticket: &Ticket) -> Result<bool, BlockError> {
        // As many turns as there can be requests.
        for _ in 0..self.done.len() {
            let Some((finished, result)) = self.disk.poll()? else {
                break;
            };
            if let Some(done) = self.done.get_mut(finished.number()) {
                *done = Some(result);
            }
        }
        Ok(self.done.get(ticket.number()).is_some_and(Option::is_some))
    }

    /// Waits until the disk has answered, and returns the answer. Without one, the disk may yet
    /// do what it was asked for.
    ///
    /// # Errors
    ///
    /// As [`BlockDevice::wait`].
    pub fn wait(&mut self, ticket: Ticket) -> Result<Result<(), Failed>, BlockError> {
        let deadline = Deadline::after(super::TIMEOUT);
        while !self.is_done(&ticket)? {
            if deadline.passed() {
                return Err(BlockError::Timeout);
            }
            self.disk.rest();
        }
        let done = self.done.get_mut(ticket.number()).and_then(Option::take);
        done.ok_or(BlockError::Request)
    }

    /// Resets the disk: afterwards it does nothing any more of what it was asked for.
    ///
    /// # Errors
    ///
    /// [`BlockError`]. What the driver shares with it is quarantined if the reset was not
    /// confirmed.
    pub fn reset(self) -> Result<(), BlockError> {
        self.disk.close()
    }
}
