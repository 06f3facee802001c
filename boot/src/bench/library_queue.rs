//! The rival: the same requests through the queue of `virtio-drivers`, on the same device.
//!
//! A driver of its own, as small as the benchmark allows: no allocator, no ledger, no lock. It
//! writes each request, hands the queue the two buffers of it, kicks once for a batch as the
//! transport does, waits, and looks at each status. Direct descriptors, no EVENT_IDX: with it that
//! queue loses kicks where its index wraps.

use alloc::boxed::Box;
use core::hint;
use core::ops::Range;
use core::time::Duration;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_iommu::{EndpointId, PhysRange};

use super::subject::{PAGES, Subject};
use crate::clock::Deadline;
use crate::platform::KernelHal;

const REQUEST_QUEUE: u16 = 0;
/// As many entries as the driver under test has.
const ENTRIES: usize = 256;

/// VIRTIO_F_VERSION_1 and VIRTIO_IOMMU_F_MAP_UNMAP.
const FEATURES: u64 = 1 << 32 | 1 << 2;

/// Far away from the lowest ids, which the driver under test takes.
const DOMAIN: u32 = 500;
/// Where the pages are mapped: on every machine inside of what the device translates.
const IOVA: u64 = 0x1000_0000;

const ATTACH: u8 = 1;
const DETACH: u8 = 2;
const MAP: u8 = 3;
const UNMAP: u8 = 4;
/// Lengths of what the device reads.
const ATTACH_SIZE: usize = 20;
const MAP_SIZE: usize = 36;
const UNMAP_SIZE: usize = 28;
/// READ and WRITE.
const FLAGS: u32 = 3;

/// How long the device may take for a reset, or for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibraryError {
    /// The device did not come out of its reset.
    Reset,
    /// It refused the features.
    Features,
    /// The queue says so.
    Queue(virtio_drivers::Error),
    /// No answer in time.
    NoAnswer,
    /// The device answered so.
    Status(u8),
}

/// The buffers of a request in flight.
struct Slot {
    request: [u8; MAP_SIZE],
    len: usize,
    tail: [u8; 4],
    token: u16,
}

/// The device, driven through the library's queue.
pub struct LibraryQueue<'a> {
    // Dropped first: that resets the device, which then lets go of the queue.
    transport: PciTransport,
    queue: Box<VirtQueue<KernelHal, ENTRIES>>,
    slots: Box<[Slot; PAGES]>,
    pages: &'a [PhysRange; PAGES],
    endpoint: EndpointId,
}

impl<'a> LibraryQueue<'a> {
    /// Brings the device up, and attaches `endpoint` to a domain.
    pub fn start(
        mut transport: PciTransport,
        endpoint: EndpointId,
        pages: &'a [PhysRange; PAGES],
    ) -> Result<Self, LibraryError> {
        transport.set_status(DeviceStatus::empty());
        let deadline = Deadline::after(LIMIT);
        while !transport.get_status().is_empty() {
            if deadline.passed() {
                return Err(LibraryError::Reset);
            }
        }
        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        let offered = transport.read_device_features();
        transport.write_driver_features(offered & FEATURES);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(LibraryError::Features);
        }
        let queue = VirtQueue::new(&mut transport, REQUEST_QUEUE, false, false);
        let mut queue = Box::new(queue.map_err(LibraryError::Queue)?);
        // It is polled.
        queue.set_dev_notify(false);
        transport.set_status(status | DeviceStatus::DRIVER_OK);
        let empty = || Slot {
            request: [0; MAP_SIZE],
            len: 0,
            tail: [0; 4],
            token: 0,
        };
        let mut this = Self {
            transport,
            queue,
            slots: Box::new(core::array::from_fn(|_| empty())),
            pages,
            endpoint,
        };
        this.join(ATTACH)?;
        Ok(this)
    }

    /// Takes the endpoint out of the domain. The device is reset when `self` is gone.
    pub fn stop(mut self) -> Result<(), LibraryError> {
        self.join(DETACH)
    }

    /// ATTACH or DETACH.
    fn join(&mut self, kind: u8) -> Result<(), LibraryError> {
        let slot = &mut self.slots[0];
        slot.begin(kind, ATTACH_SIZE);
        slot.put(8, &self.endpoint.0.to_le_bytes());
        self.add(0)?;
        self.kick();
        self.pop(0)
    }

    /// Writes the MAP of a page into a slot.
    fn write_map(&mut self, slot: usize, page: usize) {
        let start = iova(page);
        let phys = self.pages[page].start().0;
        let slot = &mut self.slots[slot];
        slot.begin(MAP, MAP_SIZE);
        slot.put(8, &start.to_le_bytes());
        slot.put(16, &(start + 0xfff).to_le_bytes());
        slot.put(24, &phys.to_le_bytes());
        slot.put(32, &FLAGS.to_le_bytes());
    }

    /// Writes the UNMAP of a page into a slot.
    fn write_unmap(&mut self, slot: usize, page: usize) {
        let start = iova(page);
        let slot = &mut self.slots[slot];
        slot.begin(UNMAP, UNMAP_SIZE);
        slot.put(8, &start.to_le_bytes());
        slot.put(16, &(start + 0xfff).to_le_bytes());
        slot.put(24, &[0; 4]);
    }

    fn add(&mut self, index: usize) -> Result<(), LibraryError> {
        let slot = &mut self.slots[index];
        let request = &slot.request[..slot.len];
        // SAFETY: the buffers are in the heap, and are left alone until `pop`.
        let token = unsafe { self.queue.add(&[request], &mut [&mut slot.tail]) };
        slot.token = token.map_err(LibraryError::Queue)?;
        Ok(())
    }

    fn kick(&mut self) {
        if self.queue.should_notify() {
            self.transport.notify(REQUEST_QUEUE);
        }
    }

    /// Notifies the device, whether or not there is something new.
    pub fn notify(&mut self) {
        self.transport.notify(REQUEST_QUEUE);
    }

    /// Waits for the answer of a request. They come in order, from QEMU.
    fn pop(&mut self, index: usize) -> Result<(), LibraryError> {
        if !self.queue.can_pop() {
            let deadline = Deadline::after(LIMIT);
            while !self.queue.can_pop() {
                if deadline.passed() {
                    return Err(LibraryError::NoAnswer);
                }
                hint::spin_loop();
            }
        }
        let slot = &mut self.slots[index];
        let request = &slot.request[..slot.len];
        // SAFETY: the buffers that `add` was given with this token.
        let popped = unsafe {
            self.queue
                .pop_used(slot.token, &[request], &mut [&mut slot.tail])
        };
        popped.map_err(LibraryError::Queue)?;
        match slot.tail[0] {
            0 => Ok(()),
            status => Err(LibraryError::Status(status)),
        }
    }
}

impl Slot {
    /// Begins a request with its type and the domain.
    fn begin(&mut self, kind: u8, len: usize) {
        self.len = len;
        self.tail = [0xff; 4];
        self.put(0, &[kind, 0, 0, 0]);
        self.put(4, &DOMAIN.to_le_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.request[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// With a gap behind each.
const fn iova(page: usize) -> u64 {
    IOVA + 2 * 4096 * page as u64
}

impl Subject for LibraryQueue<'_> {
    type Error = LibraryError;

    const RIVAL: &'static str = "virtio-drivers";

    fn map(&mut self, pages: Range<usize>) -> Result<(), LibraryError> {
        for page in pages.clone() {
            self.write_map(page, page);
            self.add(page)?;
        }
        self.kick();
        pages.into_iter().try_for_each(|page| self.pop(page))
    }

    fn unmap(&mut self, pages: Range<usize>) -> Result<(), LibraryError> {
        for page in pages.clone() {
            self.write_unmap(page, page);
            self.add(page)?;
        }
        self.kick();
        pages.into_iter().try_for_each(|page| self.pop(page))
    }

    fn exchange(&mut self, page: usize) -> Result<(), LibraryError> {
        // Nothing else is in flight.
        let other = (page + 1) % PAGES;
        self.write_unmap(page, page);
        self.add(page)?;
        self.write_map(other, page);
        self.add(other)?;
        self.kick();
        self.pop(page)?;
        self.pop(other)
    }

    fn map_at(&mut self, _page: usize) -> Option<Result<(), LibraryError>> {
        None
    }
}
