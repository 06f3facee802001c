//! A driver for virtio-blk disks behind the IOMMU (§5.2), and an example of the DMA API.
//!
//! The ring is memory that the CPU and the disk share for as long as the driver runs
//! ([`Coherent`]); the data of each request is in a [`Mapping`] of its own. Nothing of what the
//! disk writes is believed, and no wait is without a limit. A mapping comes back only when the
//! disk has said that it is done; what is given up before is quarantined, and stays that until
//! [`Disk::reset`].

use core::fmt;
use core::hint;
use core::mem::ManuallyDrop;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_iommu::dma::{
    Coherent, Direction, DmaBuffer, DmaDevice, FromDevice, Mapping, PageBuf, ToDevice,
};
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{Iova, MapError, UnmapError};

use crate::clock::Deadline;
use crate::machine::{Machine, MachineError};
use crate::platform::{KernelHal, KernelPlatform};

/// PCI vendor and device id.
pub const ID: (u16, u16) = (0x1af4, 0x1042);

/// The size of a sector, in bytes.
pub const SECTOR: usize = 512;

/// VIRTIO_F_VERSION_1, and VIRTIO_F_ACCESS_PLATFORM: addresses are those of the IOMMU (§6).
const FEATURES: u64 = 1 << 32 | 1 << 33;

/// The longest wait for the disk.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Requests at once.
const SLOTS: usize = 4;

/// The shared page, in bytes from its start (§2.7).
mod layout {
    use super::SLOTS;

    /// Descriptors of the queue, a power of two: three for each request.
    pub const DESCRIPTORS: usize = 16;
    /// The descriptor table.
    pub const TABLE: usize = 0x000;
    /// The available ring: flags, index, entries.
    pub const AVAILABLE: usize = 0x100;
    /// The used ring: flags, index, entries of 8 bytes.
    pub const USED: usize = 0x200;
    /// For each slot, what is asked for.
    pub const HEADERS: usize = 0x400;
    /// For each slot, the answer.
    pub const ANSWERS: usize = 0x500;
    /// All of it.
    pub const BYTES: usize = 0x1000;

    const _: () = assert!(3 * SLOTS <= DESCRIPTORS);
}

/// Flags of a descriptor: another follows, and the disk writes (§2.7.5).
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;

/// Types of requests, and the answer that is not an error (§5.2.6).
const READ_SECTORS: u32 = 0;
const WRITE_SECTORS: u32 = 1;
const ANSWER_OK: u8 = 0;
/// No answer of the specification.
const NO_ANSWER: u8 = 0xff;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The function could not be switched on.
    Machine(MachineError),
    /// Its registers make no sense.
    Transport,
    /// It does not offer what is needed; what it offers.
    Features(u64),
    /// It does not take what it offered.
    Refused,
    /// Its queue has so many places.
    QueueSize(u32),
    /// No memory.
    OutOfMemory,
    /// A buffer was not mapped.
    Map(MapError),
    /// A buffer was not unmapped.
    Unmap(UnmapError),
    /// As many requests are under way as there can be, or more is asked of a buffer than it has.
    Request,
    /// It did not answer in time, or not with a reset.
    Timeout,
    /// It says that it is done with something that it was not asked for.
    Nonsense(u32),
    /// It did not do it.
    Answer(u8),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk: {self:?}")
    }
}

impl From<UnmapError> for DiskError {
    fn from(error: UnmapError) -> Self {
        Self::Unmap(error)
    }
}

/// A request that was made.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    UnderWay,
    Done(u8),
}

/// A disk.
pub struct Disk {
    /// Its own `drop` would wait without a limit.
    transport: ManuallyDrop<PciTransport>,
    device: DmaDevice<KernelPlatform>,
    ring: Coherent<KernelPlatform>,
    slots: [Slot; SLOTS],
    /// How many requests were made, and how many answers were seen, modulo 2^16.
    offered: u16,
    answered: u16,
}

impl Disk {
    /// Brings a disk up (§3.1) that does DMA as `device`.
    ///
    /// # Errors
    ///
    /// [`DiskError`].
    pub fn open(
        machine: &mut Machine,
        function: &Function,
        device: &DmaDevice<KernelPlatform>,
    ) -> Result<Self, DiskError> {
        let at = function.address.function;
        machine.enable(at).map_err(DiskError::Machine)?;
        let mut root = PciRoot::new(machine.config);
        let transport = PciTransport::new::<KernelHal, _>(&mut root, at.device_function());
        let mut transport = ManuallyDrop::new(transport.map_err(|_| DiskError::Transport)?);
        reset(&mut transport)?;

        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        let offered = transport.read_device_features();
        if offered & FEATURES != FEATURES {
            return Err(DiskError::Features(offered));
        }
        transport.write_driver_features(FEATURES);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(DiskError::Refused);
        }

        let size = transport.max_queue_size(0);
        if size < layout::DESCRIPTORS as u32 {
            return Err(DiskError::QueueSize(size));
        }
        let ring = device.alloc(layout::BYTES).ok_or(DiskError::OutOfMemory)?;
        let ring = device.share(ring);
        let ring = ring.map_err(|failure| DiskError::Map(failure.error))?;
        let area = |offset: usize| ring.device_addr().0 + offset as u64;
        transport.queue_set(
            0,
            layout::DESCRIPTORS as u32,
            area(layout::TABLE),
            area(layout::AVAILABLE),
            area(layout::USED),
        );
        transport.set_status(status | DeviceStatus::DRIVER_OK);
        Ok(Self {
            transport,
            device: device.clone(),
            ring,
            slots: [Slot::Free; SLOTS],
            offered: 0,
            answered: 0,
        })
    }

    /// The size of the disk, in sectors (§5.2.4).
    pub fn sectors(&self) -> Option<u64> {
        let half = |offset| self.transport.read_config_space::<u32>(offset).ok();
        Some(u64::from(half(4)?) << 32 | u64::from(half(0)?))
    }

    /// Reads sectors into a new buffer, and waits for them.
    ///
    /// # Errors
    ///
    /// [`DiskError`]. After a time-out the buffer is quarantined.
    pub fn read(
        &mut self,
        first: u64,
        sectors: usize,
    ) -> Result<PageBuf<KernelPlatform>, DiskError> {
        let buffer = self.device.alloc(sectors * SECTOR);
        let buffer = buffer.ok_or(DiskError::OutOfMemory)?;
        let mapping = self.device.map::<FromDevice, _>(buffer);
        let mapping = mapping.map_err(|failure| DiskError::Map(failure.error))?;
        let ticket = self.offer_read(first, sectors, &mapping)?;
        self.submit();
        let answer = self.wait(ticket)?;
        // SAFETY: the disk has answered the only request that has to do with the buffer.
        let buffer = unsafe { mapping.complete() }.unmap()?;
        check(answer).map(|()| buffer)
    }

    /// Writes sectors from the beginning of a buffer, waits for it, and gives the buffer back.
    ///
    /// # Errors
    ///
    /// [`DiskError`]. After a time-out the buffer is quarantined.
    pub fn write(
        &mut self,
        first: u64,
        sectors: usize,
        buffer: PageBuf<KernelPlatform>,
    ) -> Result<PageBuf<KernelPlatform>, DiskError> {
        let mapping = self.device.map::<ToDevice, _>(buffer);
        let mapping = mapping.map_err(|failure| DiskError::Map(failure.error))?;
        let ticket = self.offer_write(first, sectors, &mapping)?;
        self.submit();
        let answer = self.wait(ticket)?;
        // SAFETY: the disk has answered the only request that has to do with the buffer.
        let buffer = unsafe { mapping.complete() }.unmap()?;
        check(answer).map(|()| buffer)
    }

    /// Prepares to read sectors to the beginning of a mapping. The disk sees it with
    /// [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// [`DiskError::Request`].
    pub fn offer_read<B: DmaBuffer>(
        &mut self,
        first: u64,
        sectors: usize,
        into: &Mapping<B, FromDevice, KernelPlatform>,
    ) -> Result<Ticket, DiskError> {
        self.offer(READ_SECTORS, first, sectors, into, WRITE)
    }

    /// Prepares to write sectors from the beginning of a mapping. The disk sees it with
    /// [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// [`DiskError::Request`].
    pub fn offer_write<B: DmaBuffer>(
        &mut self,
        first: u64,
        sectors: usize,
        from: &Mapping<B, ToDevice, KernelPlatform>,
    ) -> Result<Ticket, DiskError> {
        self.offer(WRITE_SECTORS, first, sectors, from, 0)
    }

    fn offer<B: DmaBuffer, D: Direction>(
        &mut self,
        what: u32,
        first: u64,
        sectors: usize,
        data: &Mapping<B, D, KernelPlatform>,
        flags: u16,
    ) -> Result<Ticket, DiskError> {
        let bytes = sectors.checked_mul(SECTOR).ok_or(DiskError::Request)?;
        let free = self.slots.iter().position(|slot| *slot == Slot::Free);
        let slot = free.ok_or(DiskError::Request)?;
        if bytes == 0 || bytes > data.len() {
            return Err(DiskError::Request);
        }
        let header = layout::HEADERS + 16 * slot;
        self.put(header, what.to_le());
        self.put(header + 4, 0_u32);
        self.put(header + 8, first.to_le());
        let answer = layout::ANSWERS + slot;
        self.put(answer, NO_ANSWER);
        let base = self.ring.device_addr().0;
        let head = 3 * slot as u16;
        let at = |offset: usize| Iova(base + offset as u64);
        self.describe(head, at(header), 16, NEXT);
        self.describe(head + 1, data.device_addr(), bytes as u32, flags | NEXT);
        self.describe(head + 2, at(answer), 1, WRITE);
        let place = usize::from(self.offered) % layout::DESCRIPTORS;
        self.put(layout::AVAILABLE + 4 + 2 * place, head.to_le());
        self.offered = self.offered.wrapping_add(1);
        self.slots[slot] = Slot::UnderWay;
        Ok(Ticket(slot))
    }

    fn describe(&self, number: u16, address: Iova, bytes: u32, flags: u16) {
        let at = layout::TABLE + 16 * usize::from(number);
        self.put(at, address.0.to_le());
        self.put(at + 8, bytes.to_le());
        self.put(at + 12, flags.to_le());
        self.put(at + 14, (number + 1).to_le());
    }

    /// Shows the disk all that was prepared, at once.
    pub fn submit(&mut self) {
        // What is in the ring comes before the index that says so, and that before the bell.
        fence(Ordering::SeqCst);
        self.put(layout::AVAILABLE + 2, self.offered.to_le());
        fence(Ordering::SeqCst);
        self.transport.notify(0);
    }

    /// Whether the disk has answered.
    ///
    /// # Errors
    ///
    /// [`DiskError::Nonsense`].
    pub fn is_done(&mut self, ticket: &Ticket) -> Result<bool, DiskError> {
        let used = u16::from_le(self.get(layout::USED + 2));
        // What is in the ring was written before the index.
        fence(Ordering::SeqCst);
        // As many turns as there are requests, whatever the index says.
        for _ in 0..SLOTS {
            if self.answered == used {
                break;
            }
            let place = usize::from(self.answered) % layout::DESCRIPTORS;
            let head = u32::from_le(self.get(layout::USED + 4 + 8 * place));
            let slot = usize::try_from(head / 3).unwrap_or(SLOTS);
            let answer = self.get(layout::ANSWERS + slot.min(SLOTS));
            match self.slots.get_mut(slot) {
                Some(slot) if *slot == Slot::UnderWay && head.is_multiple_of(3) => {
                    *slot = Slot::Done(answer);
                }
                _ => return Err(DiskError::Nonsense(head)),
            }
            self.answered = self.answered.wrapping_add(1);
        }
        Ok(matches!(self.slots.get(ticket.0), Some(Slot::Done(_))))
    }

    /// Waits until the disk has answered, and returns the answer. Without one, the disk may yet
    /// do what it was asked for.
    ///
    /// # Errors
    ///
    /// [`DiskError::Timeout`], [`DiskError::Nonsense`].
    pub fn wait(&mut self, ticket: Ticket) -> Result<u8, DiskError> {
        let deadline = Deadline::after(TIMEOUT);
        while !self.is_done(&ticket)? {
            if deadline.passed() {
                return Err(DiskError::Timeout);
            }
            hint::spin_loop();
        }
        match core::mem::replace(&mut self.slots[ticket.0], Slot::Free) {
            Slot::Done(answer) => Ok(answer),
            Slot::Free | Slot::UnderWay => Err(DiskError::Request),
        }
    }

    /// Resets the disk (§2.4): afterwards it does nothing any more of what it was asked for.
    ///
    /// # Errors
    ///
    /// [`DiskError`]. The ring is quarantined if the reset was not confirmed.
    pub fn reset(mut self) -> Result<(), DiskError> {
        reset(&mut self.transport)?;
        // SAFETY: the disk has confirmed its reset.
        drop(unsafe { self.ring.complete() }.unmap()?);
        Ok(())
    }

    fn get<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, offset: usize) -> T {
        let value = self.ring.read(offset);
        value.expect("the layout is inside of the page")
    }

    fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(&self, offset: usize, value: T) {
        let written = self.ring.write(offset, value);
        assert!(written, "the layout is inside of the page");
    }
}

fn check(answer: u8) -> Result<(), DiskError> {
    match answer {
        ANSWER_OK => Ok(()),
        other => Err(DiskError::Answer(other)),
    }
}

fn reset(transport: &mut PciTransport) -> Result<(), DiskError> {
    transport.set_status(DeviceStatus::empty());
    let deadline = Deadline::after(TIMEOUT);
    while !transport.get_status().is_empty() {
        if deadline.passed() {
            return Err(DiskError::Timeout);
        }
        hint::spin_loop();
    }
    Ok(())
}
