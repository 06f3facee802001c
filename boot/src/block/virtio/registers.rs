//! The registers of a virtio device on PCI that are used for each request: a doorbell that is one
//! store (§4.1.4.4), and the status of the interrupt (§4.1.4.5).
//!
//! The transport of `virtio-drivers` asks the device where the doorbell is each time, which is two
//! more accesses, and its interrupt status cannot be read by a handler.

use core::ptr::NonNull;

use virtio_drivers::transport::pci::bus::ConfigurationAccess;
use virtio_iommu::topology::pci::Function;

use super::super::BlockError;
use super::super::wake::Quiet;
use crate::interrupts::Handled;
use crate::machine::Machine;
use crate::memory::direct_map;

/// Where a device says what it has (§4.1.4): types of its capabilities.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;

/// PCI: the list of capabilities, and the id of those that belong to the vendor.
const CAPABILITIES: u8 = 0x34;
const VENDOR: u8 = 0x09;
/// A list has no more entries than fit.
const MOST: usize = 48;

/// In the common configuration (§4.1.4.3): the selected queue, and the place of its doorbell.
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;

/// Registers of a device, as one of its capabilities describes them.
struct Area {
    start: NonNull<u8>,
    bytes: u64,
    /// Of a capability of type [`NOTIFY`].
    multiplier: u32,
}

impl Area {
    fn find(machine: &Machine, function: &Function, kind: u8) -> Result<Self, BlockError> {
        let at = function.address.function.device_function();
        let config = machine.config;
        let mut next = config.read_word(at, CAPABILITIES) as u8 & 0xfc;
        for _ in 0..MOST {
            if next == 0 || next > 0xec {
                break;
            }
            let header = config.read_word(at, next);
            let [id, follows, _, this] = header.to_le_bytes();
            if id == VENDOR && this == kind {
                let bar = config.read_word(at, next + 4) as u8;
                let offset: u64 = config.read_word(at, next + 8).into();
                let bytes: u64 = config.read_word(at, next + 12).into();
                let bar = function.bar(bar);
                let inside = bar.filter(|bar| offset + bytes <= bar.size);
                let base = inside.and_then(|bar| bar.address?.cpu);
                let start = base.and_then(|base| direct_map::pointer(base.0 + offset, bytes));
                return Ok(Self {
                    start: start.ok_or(BlockError::Registers("out of reach"))?,
                    bytes,
                    multiplier: config.read_word(at, next + 16),
                });
            }
            next = follows & 0xfc;
        }
        Err(BlockError::Registers("not described"))
    }

    fn register<T>(&self, offset: u64) -> Result<NonNull<T>, BlockError> {
        let end = offset.checked_add(size_of::<T>() as u64);
        let inside = end.is_some_and(|end| end <= self.bytes);
        // SAFETY: inside of the registers, if it is used at all.
        let place = inside.then(|| unsafe { self.start.byte_add(offset as usize) }.cast::<T>());
        let place = place.filter(|place| place.is_aligned());
        place.ok_or(BlockError::Registers("too short"))
    }
}

/// The doorbell of queue 0.
pub struct Doorbell(NonNull<u16>);

// SAFETY: registers belong to the machine, not to a thread.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// Asks the device where it is.
    ///
    /// # Errors
    ///
    /// [`BlockError::Registers`].
    pub fn find(machine: &Machine, function: &Function) -> Result<Self, BlockError> {
        let common = Area::find(machine, function, COMMON)?;
        let select = common.register::<u16>(QUEUE_SELECT)?;
        let offset = common.register::<u16>(QUEUE_NOTIFY_OFFSET)?;
        // SAFETY: an aligned register of the device, which belongs to the caller.
        unsafe { select.write_volatile(0_u16.to_le()) };
        // SAFETY: as above.
        let offset = u16::from_le(unsafe { offset.read_volatile() });
        let notify = Area::find(machine, function, NOTIFY)?;
        let offset = u64::from(offset) * u64::from(notify.multiplier);
        notify.register(offset).map(Self)
    }

    /// Tells the device to look at its queue.
    #[inline]
    pub fn ring(&self) {
        // SAFETY: an aligned register of the device.
        unsafe { self.0.write_volatile(0) };
    }
}

/// The status of the interrupt.
#[derive(Clone, Copy)]
pub struct InterruptStatus(NonNull<u8>);

// SAFETY: registers belong to the machine, not to a thread.
unsafe impl Send for InterruptStatus {}
// SAFETY: a read is a single access; what it means is the device's affair.
unsafe impl Sync for InterruptStatus {}

impl InterruptStatus {
    /// Looks where it is.
    ///
    /// # Errors
    ///
    /// [`BlockError::Registers`].
    pub fn find(machine: &Machine, function: &Function) -> Result<Self, BlockError> {
        Area::find(machine, function, ISR)?.register(0).map(Self)
    }
}

impl Quiet for InterruptStatus {
    fn quiet(&self) -> Handled {
        // SAFETY: a register of the device; reading takes the interrupt back.
        match unsafe { self.0.read_volatile() } {
            0 => Handled::No,
            _ => Handled::Yes,
        }
    }
}
