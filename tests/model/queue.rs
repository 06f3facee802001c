//! The device's side of a split virtqueue: `virtio-queue` moves the indices, this file looks at
//! everything that the driver wrote.

use std::collections::BTreeMap;
use std::num::Wrapping;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::memory::{Exposure, GuestRam};
use super::spec::{le32, ring};
use super::violations::Violations;

/// One piece of guest memory that a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub phys: u64,
    pub len: u32,
}

/// One buffer that the driver has made available.
#[derive(Clone, Debug)]
pub struct Chain {
    pub head: u16,
    pub readable: Vec<Piece>,
    pub writable: Vec<Piece>,
    /// Broken in a way that makes its contents meaningless.
    pub broken: bool,
    /// Against the rules, and yet to be read: an empty piece, or pieces out of order.
    pub odd: bool,
}

impl Chain {
    pub fn readable_bytes(&self, ram: &GuestRam) -> Vec<u8> {
        let pieces = self.readable.iter();
        pieces
            .flat_map(|p| ram.read(p.phys, p.len as usize).unwrap_or_default())
            .collect()
    }

    pub fn writable_bytes(&self, ram: &GuestRam) -> Vec<u8> {
        let pieces = self.writable.iter();
        pieces
            .flat_map(|p| ram.read(p.phys, p.len as usize).unwrap_or_default())
            .collect()
    }

    pub fn writable_len(&self) -> usize {
        self.writable.iter().map(|p| p.len as usize).sum()
    }

    /// Writes from the beginning of the writable part; what does not fit is dropped.
    pub fn write(&self, ram: &GuestRam, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(piece.len as usize));
            ram.write(piece.phys, now);
            rest = later;
        }
    }
}

/// One queue that the driver has set up.
pub struct VirtQueue {
    index: u16,
    queue: Queue,
    /// `avail.idx` when the driver last notified.
    told: u16,
    /// Chains that were taken and not yet returned.
    pub in_flight: BTreeMap<u16, Chain>,
    /// Used entries, head and length, for chains that were not in flight: the driver takes them
    /// for the answers of the next ones.
    premature: BTreeMap<u16, u32>,
    /// Chains in the hands of the device that it has returned so, before it had them.
    pub settled: BTreeMap<u16, u32>,
    /// A used entry was for another chain than the one that was answered.
    pub strayed: bool,
}

impl VirtQueue {
    /// Takes over what the driver set up, or nothing if it cannot be used.
    pub fn set_up(
        index: u16,
        size: u32,
        parts: [u64; 3],
        ram: &GuestRam,
        violations: &Violations,
    ) -> Option<Self> {
        let size = u16::try_from(size).ok().filter(|s| s.is_power_of_two());
        let Some(size) = size else {
            violations.record("GV-PCI-3", format!("queue {index}: size no power of two"));
            return None;
        };
        let [desc, avail, used] = parts;
        let places = [
            (
                "descriptor table",
                desc,
                u64::from(size) * ring::DESC_LEN,
                16,
            ),
            ("available ring", avail, ring::avail_len(size), 2),
            ("used ring", used, ring::used_len(size), 4),
        ];
        for (name, start, len, align) in places {
            if start % align != 0 {
                violations.record("GV-VQ-1", format!("queue {index}: {name} at {start:#x}"));
            }
            if !ram.is_live(start, len) {
                violations.record(
                    "GV-VQ-6",
                    format!("queue {index}: {name} at {start:#x} is not allocated"),
                );
                return None;
            }
            if let Some(other) = ram.exposed_at(start, len) {
                violations.record(
                    "GV-VQ-6",
                    format!("queue {index}: {name} overlaps {other:?}"),
                );
            }
            ram.expose(Exposure::Ring { queue: index }, start, len);
        }
        let zero = |phys: u64| ram.read(phys, 4) == Some(vec![0; 4]);
        if !zero(used) {
            violations.record(
                "GV-NOTIF-1",
                format!("queue {index}: flags and idx of the used ring not zero at set-up"),
            );
        }
        let mut queue = Queue::new(size).ok()?;
        queue.set_desc_table_address(Some(desc as u32), Some((desc >> 32) as u32));
        queue.set_avail_ring_address(Some(avail as u32), Some((avail >> 32) as u32));
        queue.set_used_ring_address(Some(used as u32), Some((used >> 32) as u32));
        queue.set_ready(true);
        if !queue.is_valid(ram.memory()) {
            violations.record("GV-VQ-1", format!("queue {index} is not valid"));
            return None;
        }
        Some(Self {
            index,
            queue,
            told: 0,
            in_flight: BTreeMap::new(),
            premature: BTreeMap::new(),
            settled: BTreeMap::new(),
            strayed: false,
        })
    }

    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// What a device would see that looks by itself: `avail.idx`, and the first bytes of the chain
    /// that the entry behind names.
    pub fn written(&self, ram: &GuestRam) -> Option<(u16, Vec<u8>)> {
        let idx = self
            .queue
            .avail_idx(ram.memory(), Ordering::Acquire)
            .ok()?
            .0;
        let entry = self.queue.avail_ring() + 4 + 2 * u64::from(idx % self.size());
        let head = u16::from_le_bytes(ram.read(entry, 2)?.try_into().ok()?);
        let place = self.queue.desc_table() + u64::from(head) * ring::DESC_LEN;
        let address = u64::from_le_bytes(ram.read(place, 8)?.try_into().ok()?);
        Some((idx, ram.read(address, 16)?))
    }

    /// Notes how far the driver says that it has come.
    pub fn notified(&mut self, ram: &GuestRam, violations: &Violations) {
        let Ok(Wrapping(idx)) = self.queue.avail_idx(ram.memory(), Ordering::Acquire) else {
            return;
        };
        let ahead = idx.wrapping_sub(self.queue.next_avail());
        if ahead > self.size() {
            violations.record(
                "GV-VQ-4",
                format!(
                    "queue {}: avail.idx is {idx}, {ahead} beyond what was taken",
                    self.index
                ),
            );
            return;
        }
        self.told = idx;
        let flags = ram.read(self.queue.avail_ring(), 2).unwrap_or_default();
        if flags != [0, 0] && flags != ring::AVAIL_F_NO_INTERRUPT.to_le_bytes() {
            violations.record(
                "GV-NOTIF-1",
                format!("queue {}: avail.flags are {flags:x?}", self.index),
            );
        }
    }

    /// Whether a chain waits that the driver has notified the device of.
    pub fn pending(&self) -> u16 {
        self.told.wrapping_sub(self.queue.next_avail())
    }

    /// Takes the next chain that the device was notified of.
    pub fn pop(&mut self, ram: &GuestRam, violations: &Violations) -> Option<Chain> {
        if self.pending() == 0 {
            return None;
        }
        let chain = self.queue.pop_descriptor_chain(ram.memory())?;
        let head = chain.head_index();
        let index = self.index;
        let wrong = |rule, what: String| {
            violations.record(rule, format!("queue {index}, chain {head}: {what}"));
        };
        let mut taken = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
            broken: false,
            odd: false,
        };
        if head >= self.size() {
            wrong("GV-VQ-3", "head beyond the queue".into());
            taken.broken = true;
            return Some(taken);
        }
        if self.in_flight.contains_key(&head) {
            wrong("GV-VQ-6", "made available while in flight".into());
        }
        if self.any_indirect(ram, head) {
            wrong("GV-IND", "INDIRECT without the feature".into());
            taken.broken = true;
        }
        let mut open = true;
        for descriptor in chain {
            let piece = Piece {
                phys: descriptor.addr().0,
                len: descriptor.len(),
            };
            let known = ring::DESC_F_NEXT | ring::DESC_F_WRITE | ring::DESC_F_INDIRECT;
            if descriptor.flags() & !known != 0 {
                wrong("GV-VQ-3", format!("flags {:#x}", descriptor.flags()));
            }
            if piece.len == 0 {
                wrong("GV-VQ-3", "an empty descriptor".into());
                taken.odd = true;
            }
            if !ram.is_live(piece.phys, u64::from(piece.len)) {
                wrong("GV-VQ-6", format!("{piece:x?} is not allocated"));
                taken.broken = true;
            } else if let Some(other) = ram.exposed_at(piece.phys, u64::from(piece.len)) {
                wrong("GV-VQ-6", format!("{piece:x?} overlaps {other:?}"));
            }
            if descriptor.is_write_only() {
                taken.writable.push(piece);
            } else {
                if !taken.writable.is_empty() {
                    wrong("GV-VQ-2", "readable after writable".into());
                    taken.odd = true;
                }
                taken.readable.push(piece);
            }
            open = descriptor.has_next();
        }
        if open {
            wrong("GV-VQ-3", "the chain has no end".into());
            taken.broken = true;
        }
        if let Some(len) = self.premature.remove(&head) {
            self.settled.insert(head, len);
            return Some(taken);
        }
        let exposure = Exposure::Chain { queue: index, head };
        for piece in taken.readable.iter().chain(&taken.writable) {
            ram.expose(exposure, piece.phys, u64::from(piece.len));
        }
        self.in_flight.insert(head, taken.clone());
        Some(taken)
    }

    fn any_indirect(&self, ram: &GuestRam, head: u16) -> bool {
        let mut at = head;
        for _ in 0..self.size() {
            let place = self.queue.desc_table() + u64::from(at) * ring::DESC_LEN;
            let mut raw = [0u8; 16];
            if at >= self.size()
                || ram
                    .memory()
                    .read_slice(&mut raw, GuestAddress(place))
                    .is_err()
            {
                return false;
            }
            let flags = u16::from_le_bytes([raw[12], raw[13]]);
            if flags & ring::DESC_F_INDIRECT != 0 {
                return true;
            }
            if flags & ring::DESC_F_NEXT == 0 {
                return false;
            }
            at = u16::from_le_bytes([raw[14], raw[15]]);
        }
        false
    }

    /// Returns a chain as a device should.
    pub fn give_back(&mut self, ram: &GuestRam, head: u16, len: u32) {
        self.forget(ram, head);
        // A head beyond the queue, which was recorded when it was taken, cannot be returned.
        let _ = self.queue.add_used(ram.memory(), head, len);
    }

    /// Writes any entry at all into the used ring and moves `idx`.
    pub fn put_raw(&mut self, ram: &GuestRam, id: u32, len: u32) {
        self.returned(ram, id, len);
        let next = self.queue.next_used();
        let entry = self.queue.used_ring() + 4 + 8 * u64::from(next % self.size());
        ram.write(entry, &id.to_le_bytes());
        ram.write(entry + 4, &len.to_le_bytes());
        self.advance(ram, 1);
    }

    /// What lies in the used ring where the next entries would go: old ones.
    pub fn stale(&self, ram: &GuestRam, count: u16) -> Vec<(u32, u32)> {
        let first = self.queue.next_used();
        (0..count.min(self.size()))
            .filter_map(|i| {
                let slot = first.wrapping_add(i) % self.size();
                let entry = self.queue.used_ring() + 4 + 8 * u64::from(slot);
                let bytes = ram.read(entry, 8)?;
                Some((le32(&bytes, 0)?, le32(&bytes, 4)?))
            })
            .collect()
    }

    /// Moves `idx` of the used ring over entries that were not written: the driver finds the old
    /// ones.
    pub fn jump(&mut self, ram: &GuestRam, by: u16) {
        for (id, len) in self.stale(ram, by) {
            self.returned(ram, id, len);
        }
        self.advance(ram, by);
    }

    fn advance(&mut self, ram: &GuestRam, by: u16) {
        let next = self.queue.next_used().wrapping_add(by);
        self.queue.set_next_used(next);
        ram.write(self.queue.used_ring() + 2, &next.to_le_bytes());
    }

    /// Any entry at all is put into the used ring.
    fn returned(&mut self, ram: &GuestRam, id: u32, len: u32) {
        let Ok(head) = u16::try_from(id) else { return };
        if self.in_flight.contains_key(&head) {
            self.forget(ram, head);
        } else if head < self.size() {
            self.premature.insert(head, len);
            self.strayed = true;
        }
    }

    fn forget(&mut self, ram: &GuestRam, head: u16) {
        if self.in_flight.remove(&head).is_some() {
            let index = self.index;
            ram.retract(|e| e == Exposure::Chain { queue: index, head });
        }
    }

    /// A descriptor that begins no chain in flight, and belongs to none.
    pub fn idle_head(&self, ram: &GuestRam) -> Option<u16> {
        (0..self.size()).find(|head| {
            let place = self.queue.desc_table() + u64::from(*head) * ring::DESC_LEN;
            let phys = ram
                .read(place, 8)
                .and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
            !self.in_flight.contains_key(head)
                && phys.is_some_and(|p| {
                    !self
                        .in_flight
                        .values()
                        .flat_map(|c| c.readable.iter().chain(&c.writable))
                        .any(|piece| piece.phys == p)
                })
        })
    }

    /// Sets or clears the flag that asks the driver not to notify.
    pub fn set_no_notify(&mut self, ram: &GuestRam, on: bool) {
        let result = if on {
            self.queue
                .disable_notification(ram.memory())
                .map(|()| false)
        } else {
            self.queue.enable_notification(ram.memory())
        };
        result.expect("the used ring was checked at set-up");
    }

    /// Whether the driver wants to be interrupted for used buffers.
    pub fn wants_interrupt(&self, ram: &GuestRam) -> bool {
        let flags = ram.read(self.queue.avail_ring(), 2).unwrap_or_default();
        flags != ring::AVAIL_F_NO_INTERRUPT.to_le_bytes()
    }

    /// Whether the flag is set now.
    pub fn no_notify(&self, ram: &GuestRam) -> bool {
        let flags = ram.read(self.queue.used_ring(), 2).unwrap_or_default();
        flags == ring::USED_F_NO_NOTIFY.to_le_bytes()
    }

    /// Looks at `avail.idx` without having been notified, as a polling device does.
    pub fn poll(&mut self, ram: &GuestRam, violations: &Violations) {
        self.notified(ram, violations);
    }
}
