//! The event queue, and DMA by endpoints: what is blocked is reported there.

use super::device::Device;
use super::spec::{
    EVENT_QUEUE, FAULT_F_ADDRESS, FAULT_F_READ, FAULT_F_WRITE, FAULT_LEN, FAULT_R_MAPPING,
};
use super::unit::{Access, Blocked, Landing};

/// What the device says about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultStyle {
    /// READ or WRITE is told for unmapped addresses too (QEMU tells it for permissions only).
    pub tells_direction: bool,
    pub tells_address: bool,
    /// One fault for each so many bytes (QEMU with `edu`: 4), or one for each access.
    pub beat: Option<usize>,
}

impl Default for FaultStyle {
    fn default() -> Self {
        Self {
            tells_direction: true,
            tells_address: true,
            beat: None,
        }
    }
}

/// A fault record, field by field as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub reason: u8,
    pub reserved: [u8; 3],
    pub flags: u32,
    pub endpoint: u32,
    pub reserved1: u32,
    pub address: u64,
}

impl Record {
    pub fn bytes(&self) -> [u8; FAULT_LEN] {
        let mut bytes = [0; FAULT_LEN];
        bytes[0] = self.reason;
        bytes[1..4].copy_from_slice(&self.reserved);
        bytes[4..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.endpoint.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.reserved1.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.address.to_le_bytes());
        bytes
    }
}

/// Counts of the event queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Reports that found a buffer.
    pub delivered: u64,
    /// Reports that found none and were dropped.
    pub dropped: u64,
    /// Interrupts that the driver had not asked to be spared.
    pub interrupts: u64,
}

impl Events {
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Device {
    /// Reports one fault, or drops it if there is no buffer. Returns whether it was delivered.
    pub fn report(&mut self, record: Record) -> bool {
        self.report_raw(&record.bytes(), FAULT_LEN as u32, None)
    }

    /// Puts any bytes into the next event buffer and returns it with any length and, if `id` is
    /// given, under any number.
    pub fn report_raw(&mut self, bytes: &[u8], len: u32, id: Option<u32>) -> bool {
        if !self.is_live() || self.manners.no_events {
            return false;
        }
        let Some(queue) = &mut self.queues[usize::from(EVENT_QUEUE)] else {
            return false;
        };
        let Some(chain) = queue.pop(&self.ram, &self.violations) else {
            self.events.dropped += 1;
            return false;
        };
        if !chain.readable.is_empty() || chain.writable_len() < FAULT_LEN {
            self.violations.record(
                "DV-FLT-5",
                format!(
                    "an event buffer with {} readable pieces and {} writable bytes",
                    chain.readable.len(),
                    chain.writable_len()
                ),
            );
            if self.manners.small_event_breaks {
                self.break_down();
                return false;
            }
        }
        chain.write(&self.ram, bytes);
        match id {
            Some(id) => queue.put_raw(&self.ram, id, len),
            None => queue.give_back(&self.ram, chain.head, len),
        }
        self.events.delivered += 1;
        if queue.wants_interrupt(&self.ram) {
            self.registers.isr |= 1;
            self.events.interrupts += 1;
        }
        true
    }

    /// Event buffers that the device could fill now.
    pub fn event_buffers(&self) -> u16 {
        let queue = &self.queues[usize::from(EVENT_QUEUE)];
        queue.as_ref().map_or(0, |queue| queue.pending())
    }

    /// Where an access to one byte lands, right now. Reports nothing.
    pub fn translate(&self, endpoint: u32, iova: u64, access: Access) -> Result<Landing, Blocked> {
        let bypass = self.unattached_bypass();
        self.unit.translate(endpoint, iova, access, bypass)
    }

    /// The endpoint reads; blocked bytes read as `None`, and are reported.
    pub fn dma_read(&mut self, endpoint: u32, iova: u64, len: usize) -> Vec<Option<u8>> {
        let landings = self.beats(endpoint, iova, len, Access::Read);
        let ram = self.ram.clone();
        landings
            .into_iter()
            .map(|landing| match landing {
                Some(Landing::Memory(phys)) => ram.read(phys, 1).map(|b| b[0]),
                _ => None,
            })
            .collect()
    }

    /// The endpoint writes; blocked bytes are lost, and are reported. Returns how many landed in
    /// memory.
    pub fn dma_write(&mut self, endpoint: u32, iova: u64, bytes: &[u8]) -> usize {
        let landings = self.beats(endpoint, iova, bytes.len(), Access::Write);
        let mut landed = 0;
        for (landing, byte) in landings.into_iter().zip(bytes) {
            if let Some(Landing::Memory(phys)) = landing {
                landed += usize::from(self.ram.write(phys, &[*byte]));
            }
        }
        landed
    }

    fn beats(
        &mut self,
        endpoint: u32,
        iova: u64,
        len: usize,
        access: Access,
    ) -> Vec<Option<Landing>> {
        let style = self.knobs.faults;
        let beat = style.beat.unwrap_or(usize::MAX);
        let mut reported = None;
        (0..len)
            .map(|at| {
                let address = iova.wrapping_add(at as u64);
                match self.translate(endpoint, address, access) {
                    Ok(landing) => Some(landing),
                    Err(blocked) => {
                        if reported != Some(at / beat) {
                            reported = Some(at / beat);
                            self.report_blocked(endpoint, address, access, blocked);
                        }
                        None
                    }
                }
            })
            .collect()
    }

    fn report_blocked(&mut self, endpoint: u32, address: u64, access: Access, blocked: Blocked) {
        let style = self.knobs.faults;
        let mut record = Record {
            reason: blocked.reason,
            endpoint,
            ..Record::default()
        };
        let tells = style.tells_direction || blocked.by_permission;
        if tells && blocked.reason == FAULT_R_MAPPING {
            record.flags |= match access {
                Access::Read => FAULT_F_READ,
                Access::Write => FAULT_F_WRITE,
            };
        }
        if style.tells_address {
            record.flags |= FAULT_F_ADDRESS;
            record.address = address;
        }
        self.report(record);
    }
}
