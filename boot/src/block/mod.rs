//! Disks: what the drivers of this kernel have in common.
//!
//! | module | idea |
//! |---|---|
//! | [`memory`] | memory that a disk and the CPU share, behind the IOMMU or beside it |
//! | [`virtio`] | virtio-blk |
//! | [`nvme`] | NVMe |
//! | [`disk`] | a disk for somebody who waits for what it does, with buffers of its own |
//! | [`wake`] | how the CPU is woken when a disk interrupts |
//!
//! A [`BlockDevice`] takes addresses as the disk finds them, and knows nothing of how they came to
//! mean something. Nothing of what a disk writes is believed, no wait is without a limit, and no
//! request takes memory.

pub mod disk;
pub mod memory;
pub mod nvme;
pub mod virtio;
pub mod wake;

use core::fmt;
use core::hint;
use core::time::Duration;

use virtio_iommu::dma::DmaDevice;
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{IovaRange, MapError, UnmapError};

use crate::clock::Deadline;
use crate::interrupts::Line;
use crate::machine::{Machine, MachineError};
use crate::platform::KernelPlatform;

pub use disk::Disk;

/// The longest wait for a disk.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest sleep between two looks at a disk.
const NAP: Duration = Duration::from_millis(100);

/// Who translates the addresses of a disk.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// The IOMMU: the shared memory of the driver is mapped with this.
    Translated(&'a DmaDevice<KernelPlatform>),
    /// Nobody: the disk is not behind the IOMMU, or in a domain that is not translated.
    Untranslated,
}

/// One run of bytes, as the disk finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first byte.
    pub address: u64,
    /// How many, at least one.
    pub bytes: u32,
}

impl Segment {
    /// So many bytes from an address.
    pub const fn new(address: u64, bytes: u32) -> Self {
        Self { address, bytes }
    }

    /// A range of the addresses of an endpoint. `None` if it is longer than a segment can be.
    pub fn of(range: IovaRange) -> Option<Self> {
        let bytes = u32::try_from(range.len()?).ok()?;
        Some(Self::new(range.start().0, bytes))
    }
}

/// What is done with blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// From the disk to memory.
    Read,
    /// From memory to the disk.
    Write,
}

/// The name of a request that was offered and is not finished.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket(usize);

impl Ticket {
    /// A number below [`BlockDevice::depth`] that no other request has meanwhile.
    pub fn number(&self) -> usize {
        self.0
    }
}

/// A request that the disk has finished without doing it, and what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed(pub u16);

/// A request that the disk says is finished, and whether it did it.
pub type Finished = (Ticket, Result<(), Failed>);

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The function could not be switched on.
    Machine(MachineError),
    /// Its registers make no sense, or are out of reach; which.
    Registers(&'static str),
    /// It does not offer what is needed; what it offers.
    Features(u64),
    /// It would go around the IOMMU: QEMU's device wants `iommu_platform=on`.
    GoesAround,
    /// It does not take what it offered.
    Refused,
    /// Its queue has so many places.
    QueueSize(u32),
    /// No memory.
    OutOfMemory,
    /// Memory was not mapped.
    Map(MapError),
    /// Memory was not unmapped.
    Unmap(UnmapError),
    /// As many requests are under way as there can be.
    Full,
    /// The segments are not as long as the blocks, or too many; or there are no such blocks.
    Request,
    /// It did not answer in time, or not with a reset.
    Timeout,
    /// It has given up, and says so: nothing but a reset helps.
    NeedsReset,
    /// It says that it is done with something that it was not asked for.
    Nonsense(u32),
    /// It did not do it.
    Failed(Failed),
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk: {self:?}")
    }
}

impl From<UnmapError> for BlockError {
    fn from(error: UnmapError) -> Self {
        Self::Unmap(error)
    }
}

impl From<MachineError> for BlockError {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

/// A disk with many requests at once.
///
/// Dropping it is no reset: what it shares with the disk is never used again then.
pub trait BlockDevice: Sized {
    /// PCI vendor and device id of such disks.
    const ID: (u16, u16);

    /// Brings a disk up.
    ///
    /// # Errors
    ///
    /// [`BlockError`]; [`BlockError::GoesAround`] if `route` is the IOMMU, and the disk says that
    /// it goes around.
    fn open(
        machine: &mut Machine,
        function: &Function,
        route: Route<'_>,
    ) -> Result<Self, BlockError>;

    /// The size of a block, in bytes.
    fn block_size(&self) -> usize;

    /// The size of the disk, in blocks, as it was when the disk was opened.
    fn blocks(&self) -> u64;

    /// Requests at once.
    fn depth(&self) -> usize;

    /// Segments of a request, at most.
    fn max_segments(&self) -> usize;

    /// Bytes of a request, at most.
    fn max_bytes(&self) -> usize;

    /// Prepares a request. The disk sees it with [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// [`BlockError::Full`], [`BlockError::Request`]. Nothing was prepared then.
    fn offer(
        &mut self,
        operation: Operation,
        first: u64,
        blocks: usize,
        segments: &[Segment],
    ) -> Result<Ticket, BlockError>;

    /// Shows the disk all that was prepared, at once.
    fn submit(&mut self);

    /// The next request that the disk says is finished, in no order. Never waits.
    ///
    /// # Errors
    ///
    /// [`BlockError::NeedsReset`], [`BlockError::Nonsense`]: nothing but a reset helps.
    fn poll(&mut self) -> Result<Option<Finished>, BlockError>;

    /// From now on waits stop the CPU until the disk interrupts on `line`.
    ///
    /// # Errors
    ///
    /// [`BlockError::Registers`] without a place for a handler.
    fn wake_on(&mut self, line: Line) -> Result<(), BlockError>;

    /// Stops the CPU until something may have happened: until the disk interrupts, for a while at
    /// most, or hardly at all without an interrupt.
    fn rest(&mut self);

    /// Resets the disk: afterwards it does nothing any more of what it was asked for, and it gets
    /// nothing of the driver to see.
    ///
    /// # Errors
    ///
    /// [`BlockError`]. What is shared with it is never used again then.
    fn close(self) -> Result<(), BlockError>;

    /// The next request that the disk says is finished, for which this waits.
    ///
    /// # Errors
    ///
    /// As for [`poll`](Self::poll), and [`BlockError::Timeout`]: the disk may yet do what it was
    /// asked for.
    fn wait(&mut self) -> Result<Finished, BlockError> {
        let deadline = Deadline::after(TIMEOUT);
        loop {
            if let Some(finished) = self.poll()? {
                return Ok(finished);
            }
            if deadline.passed() {
                return Err(BlockError::Timeout);
            }
            self.rest();
        }
    }
}

/// Checks a request: the segments are as long as the blocks, which exist.
fn check(
    device: &impl BlockDevice,
    first: u64,
    blocks: usize,
    segments: &[Segment],
) -> Result<(), BlockError> {
    let bytes = blocks.checked_mul(device.block_size());
    let bytes = bytes.filter(|bytes| (1..=device.max_bytes()).contains(bytes));
    let mut sum = 0_u64;
    for segment in segments {
        let fits = segment.bytes > 0 && segment.address.checked_add(segment.bytes.into()).is_some();
        sum += u64::from(segment.bytes);
        if !fits {
            return Err(BlockError::Request);
        }
    }
    let end = first.checked_add(blocks as u64);
    if segments.len() > device.max_segments()
        || bytes.is_none_or(|bytes| bytes as u64 != sum)
        || end.is_none_or(|end| end > device.blocks())
    {
        return Err(BlockError::Request);
    }
    Ok(())
}

/// Waits for an answer of registers.
fn wait_for(mut condition: impl FnMut() -> bool) -> Result<(), BlockError> {
    let deadline = Deadline::after(TIMEOUT);
    while !condition() {
        if deadline.passed() {
            return Err(BlockError::Timeout);
        }
        hint::spin_loop();
    }
    Ok(())
}
