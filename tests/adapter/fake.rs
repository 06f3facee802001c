//! A virtio device written from the specification (virtio 1.2 §2, §5.1, §5.2): registers, a reader
//! of split rings with indirect tables, a disk and a network card.
//!
//! Every address is one that the model IOMMU translates for its endpoint, or the access is noted as
//! a fault, which fails the test.

use std::sync::{Arc, Mutex};

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::model::Model;
use crate::model::memory::lock;

pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const RING_PACKED: u64 = 1 << 34;
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
/// Of the network card: it has an address, and a status.
pub const NET_MAC: u64 = 1 << 5;

const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
pub const NEEDS_RESET: u32 = 64;
pub const FAILED: u32 = 128;

pub const SECTOR: usize = 512;

/// What the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Block,
    Net,
}

/// A part of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub iova: u64,
    pub len: u32,
    pub writable: bool,
}

/// A chain that the device has fetched.
#[derive(Clone, Debug)]
pub struct Chain {
    pub queue: usize,
    pub head: u16,
    pub parts: Vec<Part>,
    /// Where the writable parts were when it was fetched: what a device remembers that resolves
    /// addresses early.
    pub resolved: Vec<Option<u64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    fetched: u16,
    answered: u16,
}

pub struct State {
    pub kind: Kind,
    pub endpoint: u32,
    pub offered: u64,
    pub accepted: u64,
    pub status: u32,
    rings: [Option<Ring>; 2],
    config: Vec<u8>,
    pub generation: u32,
    /// Counts up at each look.
    pub unsteady: bool,
    pub interrupt: u32,
    /// FEATURES_OK is never set.
    pub refuses: bool,
    /// Refuses as soon as this bit is accepted.
    pub refuses_bit: u64,
    /// Sets FEATURES_OK whatever is accepted, or nothing.
    pub lenient: bool,
    /// Has the queues of before the standard.
    pub legacy: bool,
    /// Notifications so far.
    pub notified: usize,
    /// A reset is confirmed, and ends everything.
    pub resets: bool,
    /// Looks at a notification only when the test says so.
    pub holds: bool,
    /// Fetched and not yet answered.
    pub taken: Vec<Chain>,
    pub disk: Vec<u8>,
    /// Frames that the card sent.
    pub sent: Vec<Vec<u8>>,
    /// Accesses that the IOMMU did not translate.
    pub faults: Vec<u64>,
    /// Resets so far.
    pub resets_seen: usize,
    pub dropped: bool,
}

/// A device, shared with its transport.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    model: Arc<Model>,
}

impl Fake {
    pub fn new(model: &Arc<Model>, endpoint: u32, kind: Kind) -> Self {
        let disk: Vec<u8> = (0..64 * SECTOR)
            .map(|at| (at / 3 + at / 512) as u8)
            .collect();
        let (config, more) = match kind {
            Kind::Block => {
                let mut config = vec![0; 64];
                config[..8].copy_from_slice(&64_u64.to_le_bytes());
                (config, 0)
            }
            Kind::Net => (vec![2, 0, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0], NET_MAC),
        };
        let state = State {
            kind,
            endpoint,
            offered: VERSION_1 | ACCESS_PLATFORM | RING_PACKED | INDIRECT | EVENT_IDX | more,
            accepted: 0,
            status: 0,
            rings: [None; 2],
            config,
            generation: 0,
            unsteady: false,
            interrupt: 0,
            refuses: false,
            refuses_bit: 0,
            lenient: false,
            legacy: false,
            notified: 0,
            resets: true,
            holds: false,
            taken: Vec::new(),
            disk,
            sent: Vec::new(),
            faults: Vec::new(),
            resets_seen: 0,
            dropped: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            model: model.clone(),
        }
    }

    pub fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut lock(&self.state))
    }

    pub fn transport(&self) -> FakeTransport {
        self.with(|d| d.dropped = false);
        FakeTransport(self.clone())
    }

    /// No access went around the IOMMU.
    pub fn assert_translated(&self) {
        let faults = self.with(|d| std::mem::take(&mut d.faults));
        assert!(faults.is_empty(), "not translated: {faults:x?}");
    }

    /// The device reads; zeros where it is refused, which is noted.
    pub fn read(&self, iova: u64, len: usize) -> Vec<u8> {
        let endpoint = self.with(|d| d.endpoint);
        let bytes = self.model.with(|d| d.dma_read(endpoint, iova, len));
        if bytes.contains(&None) {
            self.with(|d| d.faults.push(iova));
        }
        bytes.into_iter().map(|byte| byte.unwrap_or(0)).collect()
    }

    /// The device writes; what is refused is noted.
    pub fn write(&self, iova: u64, bytes: &[u8]) {
        let endpoint = self.with(|d| d.endpoint);
        let landed = self.model.with(|d| d.dma_write(endpoint, iova, bytes));
        if landed != bytes.len() {
            self.with(|d| d.faults.push(iova));
        }
    }

    fn read_16(&self, iova: u64) -> u16 {
        let bytes = self.read(iova, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    fn ring(&self, queue: usize) -> Option<Ring> {
        self.with(|d| {
            (d.status & DRIVER_OK != 0)
                .then_some(d.rings[queue])
                .flatten()
        })
    }

    /// Fetches what is available (§2.7.14).
    pub fn fetch(&self, queue: usize) {
        let Some(mut ring) = self.ring(queue) else {
            return;
        };
        let available = self.read_16(ring.available + 2);
        while ring.fetched != available {
            let slot = u64::from(ring.fetched % ring.size);
            let head = self.read_16(ring.available + 4 + 2 * slot);
            assert!(head < ring.size, "head {head}");
            let parts = self.chain(ring.descriptors, ring.size, head);
            let endpoint = self.with(|d| d.endpoint);
            let resolve = |part: &Part| self.model.writes(endpoint, part.iova);
            let resolved = parts.iter().filter(|part| part.writable).map(resolve);
            let chain = Chain {
                queue,
                head,
                resolved: resolved.collect(),
                parts,
            };
            self.with(|d| d.taken.push(chain));
            ring.fetched = ring.fetched.wrapping_add(1);
        }
        self.with(|d| d.rings[queue] = Some(ring));
        if self.with(|d| d.accepted & EVENT_IDX != 0) {
            let event = ring.used + 4 + 8 * u64::from(ring.size);
            self.write(event, &ring.fetched.to_le_bytes());
        }
    }

    fn chain(&self, table: u64, size: u16, head: u16) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut table, mut size, mut at) = (table, size, head);
        loop {
            let raw = self.read(table + 16 * u64::from(at), 16);
            let word = |from: usize| u16::from_le_bytes([raw[from], raw[from + 1]]);
            let iova = u64::from_le_bytes(raw[..8].try_into().unwrap());
            let len = u32::from_le_bytes(raw[8..12].try_into().unwrap());
            let (flags, next) = (word(12), word(14));
            assert_ne!(len, 0, "an empty descriptor");
            if flags & 4 != 0 {
                assert!(self.with(|d| d.accepted) & INDIRECT != 0, "indirect");
                assert_eq!((flags, len % 16), (4, 0), "an indirect table");
                (table, size, at) = (iova, (len / 16) as u16, 0);
                continue;
            }
            let writable = flags & 2 != 0;
            parts.push(Part {
                iova,
                len,
                writable,
            });
            if flags & 1 == 0 {
                return parts;
            }
            at = next;
            assert!(at < size && parts.len() <= 64, "a chain without an end");
        }
    }

    /// Answers the chain at an index of those that were fetched.
    pub fn complete(&self, index: usize) {
        let chain = self.with(|d| d.taken.remove(index));
        let len = match self.with(|d| d.kind) {
            Kind::Block => self.block(&chain),
            Kind::Net => self.net(&chain),
        };
        self.push_used(chain.queue, u32::from(chain.head), len);
    }

    /// Puts any entry at all into the used ring (§2.7.8).
    pub fn push_used(&self, queue: usize, id: u32, len: u32) {
        let Some(mut ring) = self.ring(queue) else {
            return;
        };
        let slot = u64::from(ring.answered % ring.size);
        let entry = [id.to_le_bytes(), len.to_le_bytes()].concat();
        self.write(ring.used + 4 + 8 * slot, &entry);
        ring.answered = ring.answered.wrapping_add(1);
        self.write(ring.used + 2, &ring.answered.to_le_bytes());
        self.with(|d| {
            d.rings[queue] = Some(ring);
            d.interrupt |= 1;
        });
    }

    /// What a disk does (§5.2.6); how many bytes it has written.
    fn block(&self, chain: &Chain) -> u32 {
        let [header, data @ .., answer] = &chain.parts[..] else {
            panic!("a request of {} parts", chain.parts.len());
        };
        assert_eq!((header.len, answer.len), (16, 1));
        assert!(!header.writable && answer.writable);
        let header = self.read(header.iova, 16);
        let what = u32::from_le_bytes(header[..4].try_into().unwrap());
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap()) as usize;
        let (mut at, mut written) = (sector * SECTOR, 1);
        for part in data {
            let end = at + part.len as usize;
            match what {
                0 => {
                    assert!(part.writable);
                    let bytes = self.with(|d| d.disk[at..end].to_vec());
                    self.write(part.iova, &bytes);
                    written += part.len;
                }
                1 => {
                    assert!(!part.writable);
                    let bytes = self.read(part.iova, part.len as usize);
                    self.with(|d| d.disk[at..end].copy_from_slice(&bytes));
                }
                other => panic!("a request of type {other}"),
            }
            at = end;
        }
        self.write(answer.iova, &[0]);
        written
    }

    /// What a card does with a buffer to send; one to receive it keeps.
    fn net(&self, chain: &Chain) -> u32 {
        assert_eq!(chain.queue, 1, "received without a frame");
        let parts = chain.parts.iter();
        let frame = parts.flat_map(|part| self.read(part.iova, part.len as usize));
        let frame: Vec<u8> = frame.collect();
        assert_eq!(frame[..12], [0; 12], "the header of a frame");
        self.with(|d| d.sent.push(frame[12..].to_vec()));
        0
    }

    /// A frame arrives: it goes to the first buffer that was fetched.
    pub fn receive(&self, frame: &[u8]) {
        self.fetch(0);
        let chain = self.with(|d| {
            let at = d.taken.iter().position(|chain| chain.queue == 0)?;
            Some(d.taken.remove(at))
        });
        let chain = chain.expect("a buffer for a frame");
        let mut header = vec![0; 12];
        header[10] = 1;
        header.extend_from_slice(frame);
        self.write(chain.parts[0].iova, &header);
        self.push_used(0, u32::from(chain.head), header.len() as u32);
    }

    /// Carries out writes that were resolved when the chains were fetched, and says where.
    pub fn write_late(&self, byte: u8) -> Vec<u64> {
        let taken = self.with(|d| d.taken.clone());
        let places = taken
            .iter()
            .flat_map(|chain| chain.resolved.iter().flatten());
        let places: Vec<u64> = places.copied().collect();
        for place in &places {
            assert!(self.model.ram().write(*place, &[byte; 16]));
        }
        places
    }

    fn notified(&self, queue: usize) {
        self.with(|d| d.notified += 1);
        if self.with(|d| d.holds) {
            return;
        }
        self.fetch(queue);
        while let Some(at) = self.with(|d| {
            let kind = d.kind;
            let answers = |chain: &Chain| kind == Kind::Block || chain.queue == 1;
            d.taken.iter().position(answers)
        }) {
            self.complete(at);
        }
    }

    fn set_status(&self, status: u32) {
        self.with(|d| {
            if status == 0 {
                d.resets_seen += 1;
                if d.resets {
                    d.status = 0;
                    d.accepted = 0;
                    d.rings = [None; 2];
                    d.taken.clear();
                    d.interrupt = 0;
                }
                return;
            }
            // Only a reset clears a bit (§2.1.1), if it does. This one is the device's.
            let cleared = d.status & !status & !NEEDS_RESET;
            assert!(!d.resets || cleared == 0, "status {status:#x}");
            let negotiates = status & FEATURES_OK != 0 && d.status & FEATURES_OK == 0;
            let required = VERSION_1 | d.offered & ACCESS_PLATFORM;
            let lacks = d.accepted & required != required;
            let refused = d.refuses || d.accepted & d.refuses_bit != 0 || lacks;
            d.status = match negotiates && refused && !d.lenient {
                true => status & !FEATURES_OK,
                false => status,
            };
        });
    }
}

/// Where the driver finds the device.
pub struct FakeTransport(Fake);

impl Drop for FakeTransport {
    fn drop(&mut self) {
        self.0.with(|d| d.dropped = true);
    }
}

impl FakeTransport {
    fn config(&self, offset: usize, len: usize) -> Result<std::ops::Range<usize>> {
        let size = self.0.with(|d| d.config.len());
        let end = offset + len;
        (end <= size)
            .then_some(offset..end)
            .ok_or(Error::ConfigSpaceTooSmall)
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        match self.0.with(|d| d.kind) {
            Kind::Block => DeviceType::Block,
            Kind::Net => DeviceType::Network,
        }
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.with(|d| d.offered)
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.with(|d| {
            assert_eq!(d.status & FEATURES_OK, 0, "features after FEATURES_OK");
            let more = driver_features & !d.offered;
            assert_eq!(more, 0, "accepted without having been offered");
            d.accepted = driver_features;
        });
    }

    fn max_queue_size(&mut self, _: u16) -> u32 {
        64
    }

    fn notify(&mut self, queue: u16) {
        self.0.notified(usize::from(queue));
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.0.with(|d| d.status))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status.bits());
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        self.0.with(|d| d.legacy)
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.0.with(|d| {
            assert_ne!(d.status & FEATURES_OK, 0, "a queue before FEATURES_OK");
            let ring = Ring {
                size: size as u16,
                descriptors,
                available: driver_area,
                used: device_area,
                ..Ring::default()
            };
            assert_eq!(descriptors % 16 + driver_area % 2 + device_area % 4, 0);
            assert_ne!(descriptors, 0);
            d.rings[usize::from(queue)] = Some(ring);
        });
    }

    fn queue_unset(&mut self, _: u16) {
        // As that of PCI does.
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.with(|d| d.rings[usize::from(queue)].is_some())
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(self.0.with(|d| std::mem::take(&mut d.interrupt)))
    }

    fn read_config_generation(&self) -> u32 {
        self.0.with(|d| {
            d.generation += u32::from(d.unsteady);
            d.generation
        })
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        assert!(align_of::<T>() <= 4, "as the transports of the library do");
        let range = self.config(offset, size_of::<T>())?;
        let bytes = self.0.with(|d| d.config[range].to_vec());
        T::read_from_bytes(&bytes).map_err(|_| Error::IoError)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        assert!(align_of::<T>() <= 4, "as the transports of the library do");
        let range = self.config(offset, size_of::<T>())?;
        let bytes = value.as_bytes();
        self.0.with(|d| d.config[range].copy_from_slice(bytes));
        Ok(())
    }
}
