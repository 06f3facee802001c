//! A driver made by hand: writes descriptors and rings itself, byte by byte, and sends whatever
//! it is told. It tests the model, and has nothing to do with the driver of this crate.

use std::sync::{Arc, Mutex};

use super::device::Device;
use super::memory::{GuestRam, lock};
use super::spec::{self, kind, le16, le32, ring, status_bit};

/// What came back for one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    pub id: u32,
    pub len: u32,
    /// The device-writable part afterwards.
    pub written: Vec<u8>,
}

impl Returned {
    /// The status, if the used length says that it was written.
    pub fn status(&self) -> Option<u8> {
        let at = (self.len as usize).checked_sub(spec::TAIL_LEN)?;
        self.written.get(at).copied()
    }
}

/// One piece of a chain.
#[derive(Clone, Debug)]
pub enum Part {
    Read(Vec<u8>),
    Write(usize),
}

/// One hand-written queue.
struct Rings {
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    /// Where buffers are put, one after the other.
    buffers: u64,
    next_buffer: u64,
    next_desc: u16,
    avail_idx: u16,
    used_idx: u16,
    writable: Vec<(u16, u64, usize)>,
}

const BUFFER_PAGES: u64 = 16;
/// What lies in a writable buffer before the device has it.
pub const POISON: u8 = 0x99;

/// The hand-made driver.
pub struct Hand {
    device: Arc<Mutex<Device>>,
    ram: Arc<GuestRam>,
    queues: [Rings; 2],
    pages: Vec<(u64, usize)>,
}

impl Hand {
    /// Initializes the device, accepting `features`, with queues of `size`.
    pub fn bring_up(
        device: &Arc<Mutex<Device>>,
        ram: &Arc<GuestRam>,
        features: u64,
        size: u16,
    ) -> Self {
        let mut pages = Vec::new();
        let mut page = |count: u64| {
            let (phys, _) = ram.allocate(count as usize, 4096).expect("memory");
            pages.push((phys, count as usize));
            phys
        };
        let queues = [0, 1].map(|_| Rings {
            size,
            desc: page(1),
            avail: page(1),
            used: page(1),
            buffers: page(BUFFER_PAGES),
            next_buffer: 0,
            next_desc: 0,
            avail_idx: 0,
            used_idx: 0,
            writable: Vec::new(),
        });
        let hand = Self {
            device: device.clone(),
            ram: ram.clone(),
            queues,
            pages,
        };
        let mut d = lock(device);
        d.write_status(0);
        d.read_status();
        let mut status = 0;
        for bit in [status_bit::ACKNOWLEDGE, status_bit::DRIVER] {
            status |= bit;
            d.write_status(status);
        }
        d.read_features();
        d.write_features(features);
        status |= status_bit::FEATURES_OK;
        d.write_status(status);
        d.read_status();
        for (index, rings) in hand.queues.iter().enumerate() {
            d.set_queue(
                index as u16,
                u32::from(size),
                [rings.desc, rings.avail, rings.used],
            );
        }
        status |= status_bit::DRIVER_OK;
        d.write_status(status);
        drop(d);
        hand
    }

    /// Makes one chain available and returns its head. The device is not notified.
    pub fn add(&mut self, queue: u16, parts: &[Part]) -> u16 {
        let ram = self.ram.clone();
        let rings = &mut self.queues[usize::from(queue)];
        let head = rings.next_desc % rings.size;
        for (at, part) in parts.iter().enumerate() {
            let index = rings.next_desc % rings.size;
            rings.next_desc = rings.next_desc.wrapping_add(1);
            let len = match part {
                Part::Read(bytes) => bytes.len(),
                Part::Write(len) => *len,
            };
            let mut place = rings.next_buffer;
            if place + len as u64 > BUFFER_PAGES * 4096 {
                place = 0;
            }
            rings.next_buffer = (place + len as u64).next_multiple_of(16);
            let place = rings.buffers + place;
            let mut flags = 0;
            match part {
                Part::Read(bytes) => assert!(ram.write(place, bytes)),
                Part::Write(len) => {
                    assert!(ram.write(place, &vec![POISON; *len]));
                    flags |= ring::DESC_F_WRITE;
                    rings.writable.push((head, place, *len));
                }
            }
            if at + 1 < parts.len() {
                flags |= ring::DESC_F_NEXT;
            }
            rings.put_descriptor(&ram, index, place, len as u32, flags);
        }
        rings.offer(&ram, head);
        head
    }

    /// Overwrites one descriptor: address, length, flags, next.
    pub fn put_descriptor(&mut self, queue: u16, at: u16, addr: u64, len: u32, flags: [u16; 2]) {
        let rings = &self.queues[usize::from(queue)];
        let place = rings.desc + u64::from(at) * ring::DESC_LEN;
        self.ram.write(place, &addr.to_le_bytes());
        self.ram.write(place + 8, &len.to_le_bytes());
        self.ram.write(place + 12, &flags[0].to_le_bytes());
        self.ram.write(place + 14, &flags[1].to_le_bytes());
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, queue: u16, head: u16) {
        let ram = self.ram.clone();
        self.queues[usize::from(queue)].offer(&ram, head);
    }

    /// Moves `avail.idx` by any amount.
    pub fn skip(&mut self, queue: u16, by: u16) {
        let rings = &mut self.queues[usize::from(queue)];
        rings.avail_idx = rings.avail_idx.wrapping_add(by);
        self.ram
            .write(rings.avail + 2, &rings.avail_idx.to_le_bytes());
    }

    /// A page of the hand's own, for descriptors to point at.
    pub fn spare(&self) -> u64 {
        self.queues[0].buffers + (BUFFER_PAGES - 1) * 4096
    }

    pub fn kick(&mut self, queue: u16) {
        lock(&self.device).notify(queue);
    }

    /// The next used entry, if there is one.
    pub fn reap(&mut self, queue: u16) -> Option<Returned> {
        let rings = &mut self.queues[usize::from(queue)];
        let idx = le16(&self.ram.read(rings.used + 2, 2)?, 0)?;
        if idx == rings.used_idx {
            return None;
        }
        let slot = u64::from(rings.used_idx % rings.size);
        rings.used_idx = rings.used_idx.wrapping_add(1);
        let entry = self.ram.read(rings.used + 4 + 8 * slot, 8)?;
        let (id, len) = (le32(&entry, 0)?, le32(&entry, 4)?);
        let mut written = Vec::new();
        for (_, place, len) in rings.writable.iter().filter(|w| u32::from(w.0) == id) {
            written.extend(self.ram.read(*place, *len)?);
        }
        rings.writable.retain(|w| u32::from(w.0) != id);
        Some(Returned { id, len, written })
    }

    /// Sends one request and returns what came back.
    pub fn ask(&mut self, readable: Vec<u8>, writable: usize) -> Option<Returned> {
        let parts = [Part::Read(readable), Part::Write(writable)];
        self.add(spec::REQUEST_QUEUE, &parts);
        self.kick(spec::REQUEST_QUEUE);
        self.reap(spec::REQUEST_QUEUE)
    }

    /// Sends one well-formed request and returns its status.
    pub fn status(&mut self, readable: Vec<u8>) -> u8 {
        let returned = self.ask(readable, spec::TAIL_LEN).expect("an answer");
        assert_eq!(returned.len, spec::TAIL_LEN as u32);
        returned.status().expect("a status")
    }

    /// Resets the device and gives the memory back.
    pub fn put_away(self) {
        lock(&self.device).write_status(0);
        for (phys, pages) in &self.pages {
            self.ram.free(*phys, *pages, 4096);
        }
    }
}

impl Rings {
    fn put_descriptor(&self, ram: &GuestRam, at: u16, addr: u64, len: u32, flags: u16) {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&addr.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&((at + 1) % self.size).to_le_bytes());
        ram.write(self.desc + u64::from(at) * ring::DESC_LEN, &bytes);
    }

    fn offer(&mut self, ram: &GuestRam, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.avail_idx % self.size);
        ram.write(slot, &head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        ram.write(self.avail + 2, &self.avail_idx.to_le_bytes());
    }
}

/// The bytes of an ATTACH.
pub fn attach(domain: u32, endpoint: u32, flags: u32) -> Vec<u8> {
    request(
        kind::ATTACH,
        &[&le(domain), &le(endpoint), &le(flags), &[0; 4]],
    )
}

/// The bytes of a DETACH.
pub fn detach(domain: u32, endpoint: u32) -> Vec<u8> {
    request(kind::DETACH, &[&le(domain), &le(endpoint), &[0; 8]])
}

/// The bytes of a MAP.
pub fn map(domain: u32, start: u64, end: u64, phys: u64, flags: u32) -> Vec<u8> {
    let (start, end, phys) = (start.to_le_bytes(), end.to_le_bytes(), phys.to_le_bytes());
    request(kind::MAP, &[&le(domain), &start, &end, &phys, &le(flags)])
}

/// The bytes of an UNMAP.
pub fn unmap(domain: u32, start: u64, end: u64) -> Vec<u8> {
    let (start, end) = (start.to_le_bytes(), end.to_le_bytes());
    request(kind::UNMAP, &[&le(domain), &start, &end, &[0; 4]])
}

/// The bytes of a PROBE, its writable part apart.
pub fn probe(endpoint: u32) -> Vec<u8> {
    request(kind::PROBE, &[&le(endpoint), &[0; 64]])
}

fn le(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

fn request(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    for field in fields {
        bytes.extend_from_slice(field);
    }
    bytes
}
