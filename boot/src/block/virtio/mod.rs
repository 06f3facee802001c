//! A driver for virtio-blk disks (§5.2).
//!
//! | module | idea |
//! |---|---|
//! | [`queue`] | the queue: what of a request is written once, and what each time |
//! | [`registers`] | the doorbell and the interrupt, one access each |

mod queue;
mod registers;

use core::hint;
use core::mem::ManuallyDrop;

use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_iommu::topology::pci::Function;

use self::queue::{DESCRIPTORS, Data, MOST_SEGMENTS, Queue, SLOTS};
use self::registers::{Doorbell, InterruptStatus};
use super::memory::Shared;
use super::wake::Wake;
use super::{
    BlockDevice, BlockError, Failed, Finished, Operation, Route, Segment, Ticket, check, wait_for,
};
use crate::interrupts::Line;
use crate::machine::Machine;
use crate::platform::KernelHal;

/// The size of a sector, which is the block of a request (§5.2.4), in bytes.
const SECTOR: usize = 512;

/// VIRTIO_F_VERSION_1 (§6).
const VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM: addresses are those of the IOMMU, if there is one (§6).
const ACCESS_PLATFORM: u64 = 1 << 33;
/// VIRTIO_F_INDIRECT_DESC: descriptors may be in a table of their own (§2.7.5.3).
const INDIRECT: u64 = 1 << 28;
/// VIRTIO_BLK_F_SEG_MAX: it says how many segments it takes (§5.2.3).
const SEG_MAX: u64 = 1 << 2;

/// In the configuration: the capacity in sectors, and the most segments (§5.2.4).
const CAPACITY: usize = 0;
const SEGMENTS: usize = 12;

/// How often nothing may be finished until the disk is asked how it is.
const PATIENCE: u32 = 64;

/// A virtio-blk disk.
pub struct VirtioBlk {
    /// Its own `drop` would wait without a limit.
    transport: ManuallyDrop<PciTransport>,
    doorbell: Doorbell,
    interrupt: InterruptStatus,
    queue: Queue,
    sectors: u64,
    segments: usize,
    wake: Option<Wake<InterruptStatus>>,
    /// How often in a row nothing was finished.
    idle: u32,
}

impl BlockDevice for VirtioBlk {
    const ID: (u16, u16) = (0x1af4, 0x1042);

    /// As §3.1 says.
    fn open(
        machine: &mut Machine,
        function: &Function,
        route: Route<'_>,
    ) -> Result<Self, BlockError> {
        let at = function.address.function;
        machine.enable(at)?;
        let mut root = PciRoot::new(machine.config);
        let transport = PciTransport::new::<KernelHal, _>(&mut root, at.device_function());
        let transport = transport.map_err(|_| BlockError::Registers("virtio"))?;
        let mut transport = ManuallyDrop::new(transport);
        reset(&mut transport)?;

        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        let offered = transport.read_device_features();
        if offered & VERSION_1 == 0 {
            return Err(BlockError::Features(offered));
        }
        if matches!(route, Route::Translated(_)) && offered & ACCESS_PLATFORM == 0 {
            return Err(BlockError::GoesAround);
        }
        let features = offered & (VERSION_1 | ACCESS_PLATFORM | INDIRECT | SEG_MAX);
        transport.write_driver_features(features);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(BlockError::Refused);
        }

        let size = transport.max_queue_size(0);
        if size < u32::from(DESCRIPTORS) {
            return Err(BlockError::QueueSize(size));
        }
        let sectors = capacity(&transport)?;
        let mut segments = if features & INDIRECT != 0 {
            MOST_SEGMENTS
        } else {
            1
        };
        if features & SEG_MAX != 0 {
            let most = transport.read_config_space::<u32>(SEGMENTS);
            let most = most.map_err(|_| BlockError::Registers("configuration"))?;
            segments = segments
                .min(usize::try_from(most).unwrap_or(usize::MAX))
                .max(1);
        }
        let doorbell = Doorbell::find(machine, function)?;
        let interrupt = InterruptStatus::find(machine, function)?;
        let queue = Queue::new(Shared::new(route, queue::BYTES)?);
        let [table, available, used] = queue.areas();
        transport.queue_set(0, DESCRIPTORS.into(), table, available, used);
        transport.set_status(status | DeviceStatus::DRIVER_OK);
        Ok(Self {
            transport,
            doorbell,
            interrupt,
            queue,
            sectors,
            segments,
            wake: None,
            idle: 0,
        })
    }

    fn block_size(&self) -> usize {
        SECTOR
    }

    fn blocks(&self) -> u64 {
        self.sectors
    }

    fn depth(&self) -> usize {
        SLOTS
    }

    fn max_segments(&self) -> usize {
        self.segments
    }

    fn max_bytes(&self) -> usize {
        // The disk says no limit (§5.2.4).
        1 << 30
    }

    fn offer(
        &mut self,
        operation: Operation,
        first: u64,
        blocks: usize,
        segments: &[Segment],
    ) -> Result<Ticket, BlockError> {
        check(self, first, blocks, segments)?;
        let data = Data {
            operation,
            first,
            segments,
        };
        self.queue.offer(&data).map(Ticket)
    }

    fn submit(&mut self) {
        if self.queue.publish() {
            self.doorbell.ring();
        }
    }

    fn poll(&mut self) -> Result<Option<Finished>, BlockError> {
        if let Some((slot, answer)) = self.queue.take()? {
            self.idle = 0;
            let done = match answer {
                queue::ANSWER_OK => Ok(()),
                other => Err(Failed(other.into())),
            };
            return Ok(Some((Ticket(slot), done)));
        }
        self.idle += 1;
        if self.idle >= PATIENCE {
            self.idle = 0;
            let status = self.transport.get_status();
            if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
                return Err(BlockError::NeedsReset);
            }
        }
        Ok(None)
    }

    fn wake_on(&mut self, line: Line) -> Result<(), BlockError> {
        self.wake = Some(Wake::new(line, self.interrupt)?);
        Ok(())
    }

    fn rest(&mut self) {
        let Some(wake) = &self.wake else {
            hint::spin_loop();
            return;
        };
        self.queue.interrupts(true);
        wake.sleep(|| self.queue.is_ready());
        self.queue.interrupts(false);
        // If nothing is finished, there was another reason.
        self.idle = PATIENCE;
    }

    fn close(mut self) -> Result<(), BlockError> {
        drop(self.wake.take());
        reset(&mut self.transport)?;
        // SAFETY: the disk has confirmed its reset.
        unsafe { self.queue.into_memory().release() }
    }
}

/// The size of the disk, in sectors. It is two registers, which may change in between (§2.5.1).
fn capacity(transport: &PciTransport) -> Result<u64, BlockError> {
    const TRIES: usize = 16;
    let half = |offset| {
        let value = transport.read_config_space::<u32>(CAPACITY + offset);
        value.map_err(|_| BlockError::Registers("configuration"))
    };
    for _ in 0..TRIES {
        let before = transport.read_config_generation();
        let sectors = u64::from(half(4)?) << 32 | u64::from(half(0)?);
        if transport.read_config_generation() == before {
            return Ok(sectors);
        }
    }
    Err(BlockError::Registers("configuration"))
}

/// Resets a disk (§2.4).
fn reset(transport: &mut PciTransport) -> Result<(), BlockError> {
    transport.set_status(DeviceStatus::empty());
    wait_for(|| transport.get_status().is_empty())
}
