//! The interrupt translation service of a GIC of version 3: messages as LPIs.
//!
//! A function writes the number of one of its events to the doorbell; the service knows from the
//! device id that comes along which LPI that is, and which CPU gets it. Everything that it knows
//! is in tables in memory, which it is told to change by commands in a ring.

use alloc::vec::Vec;
use core::arch::asm;
use core::mem;
use core::num::NonZeroUsize;
use core::time::Duration;

use arm_gic::IntId;
use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use virtio_iommu::PhysAddr;
use virtio_iommu::topology::RequesterId;

use super::v2::open;
use crate::clock::Deadline;
use crate::interrupts::{ControllerError, Line, Message, MessageError, device_tree};
use crate::memory::frames::{FRAME, Frames};
use crate::registers::Registers;

/// Registers of the service, in bytes.
mod register {
    pub const CONTROL: u64 = 0x00;
    pub const TYPE: u64 = 0x08;
    pub const COMMANDS: u64 = 0x80;
    pub const COMMANDS_WRITTEN: u64 = 0x88;
    pub const COMMANDS_READ: u64 = 0x90;
    /// Eight tables, 8 bytes each.
    pub const TABLES: u64 = 0x100;
    /// In the second 64 KiB.
    pub const DOORBELL: u64 = 0x1_0040;
    pub const END: u64 = 0x2_0000;
}

/// Registers of the redistributor.
mod redistributor {
    pub const CONTROL: u64 = 0x00;
    pub const TYPE: u64 = 0x08;
    pub const CONFIGURATION: u64 = 0x70;
    pub const PENDING: u64 = 0x78;
}

/// Distributor: what it can do.
const DISTRIBUTOR_TYPE: u64 = 0x4;
/// There: it has LPIs.
const HAS_LPIS: u32 = 1 << 17;

/// The first LPI.
const FIRST: u32 = 8192;
/// Bits of interrupt numbers that are used: 8192 LPIs.
const NUMBER_BITS: u32 = 14;
/// In the addresses of tables: inner shareable, write back.
const SHARED_CACHED: u64 = 1 << 10;
const WRITE_BACK: u64 = 7 << 7;
const TABLE_WRITE_BACK: u64 = 7 << 59;
const VALID: u64 = 1 << 63;
/// Tables and rings are aligned to this.
const ALIGN: usize = 64 << 10;
/// Frames of each table of the service.
const TABLE_FRAMES: usize = 16;
/// Bytes of the ring of commands, and of one command.
const RING: u64 = FRAME as u64;
const COMMAND: u64 = 32;
/// The kinds of tables that are needed.
const DEVICES: u64 = 1;
const COLLECTIONS: u64 = 4;
/// Bits of event numbers of each device.
const EVENT_BITS: u64 = 5;
/// The one collection of interrupts: those of this CPU.
const COLLECTION: u64 = 0;
/// Configuration of an LPI: a middling priority, on.
const LPI_ON: u8 = 0xa0 | 1 << 1 | 1;
const LPI_OFF: u8 = 0xa0 | 1 << 1;
/// Entries of an `msi-map` that are looked at.
const MAX_RANGES: usize = 4;
/// The longest wait for a command.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Requester ids that have device ids.
#[derive(Clone, Copy)]
struct IdRange {
    first: u32,
    device: u32,
    len: u32,
}

/// A message that was made.
struct Event {
    lpi: u32,
    device: u32,
    number: u32,
}

/// The service.
pub struct Its {
    registers: Registers,
    ids: Vec<IdRange>,
    ring: Frames,
    /// Where the next command goes, in bytes.
    next_command: u64,
    /// One byte for each LPI.
    configuration: Frames,
    /// Devices that have a table of events: they are never taken back.
    tables: Vec<(u32, Frames)>,
    events: Vec<Event>,
    /// Entries of the table of devices.
    devices: u64,
    /// This CPU, as commands name it.
    target: u64,
    /// What the service and the redistributor were given: never taken back.
    given: Vec<Frames>,
}

fn frames(count: usize) -> Result<Frames, ControllerError> {
    NonZeroUsize::new(count)
        .and_then(|count| Frames::new(count, ALIGN))
        .ok_or(ControllerError::NoMemory)
}

/// What was written to memory is seen by the service from now on.
fn publish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

impl Its {
    /// Sets it up, together with the LPIs of this CPU. `None` if there is none.
    pub(super) fn new(
        tree: Fdt<'_>,
        gic: FdtNode<'_>,
        distributor: Registers,
        cpu: Registers,
    ) -> Result<Option<Self>, ControllerError> {
        let mut children = gic.children();
        let Some(node) = children.find(|node| node.is_compatible("arm,gic-v3-its")) else {
            return Ok(None);
        };
        let kind = distributor.read(DISTRIBUTOR_TYPE);
        if kind & HAS_LPIS == 0 || (kind >> 19 & 0x1f) + 1 < NUMBER_BITS {
            return Ok(None);
        }
        let missing = ControllerError::Malformed("the ITS has no registers");
        let place = device_tree::registers(node).next().ok_or(missing)?;
        let registers = open(place, register::END)?;
        let phandle = device_tree::cell(&node, "phandle");
        let ids = phandle.map_or(Vec::new(), |phandle| id_ranges(tree, phandle));

        let configuration = frames(2)?;
        let pending = frames(ALIGN / FRAME)?;
        let ring = frames(1)?;
        publish();
        let bits = u64::from(NUMBER_BITS - 1);
        let attributes = SHARED_CACHED | WRITE_BACK;
        cpu.write_u64(
            redistributor::CONFIGURATION,
            configuration.phys() | attributes | bits,
        );
        cpu.write_u64(redistributor::PENDING, pending.phys() | attributes);
        cpu.write(redistributor::CONTROL, cpu.read(redistributor::CONTROL) | 1);

        let kind = registers.read_u64(register::TYPE);
        let target = if kind & 1 << 19 != 0 {
            cpu.phys().0
        } else {
            (cpu.read_u64(redistributor::TYPE) >> 8 & 0xffff) << 16
        };
        let mut its = Self {
            registers,
            ids,
            ring,
            next_command: 0,
            configuration,
            tables: Vec::new(),
            events: Vec::new(),
            devices: 0,
            target,
            given: alloc::vec![pending],
        };
        if let Err(error) = its.set_up() {
            // Its memory is in use from now on, whatever it did with it.
            mem::forget(its);
            return Err(error);
        }
        Ok(Some(its))
    }

    fn set_up(&mut self) -> Result<(), ControllerError> {
        self.registers.write(register::CONTROL, 0);
        for index in 0..8 {
            let place = register::TABLES + 8 * index;
            let table = self.registers.read_u64(place);
            let kind = table >> 56 & 7;
            if kind != DEVICES && kind != COLLECTIONS {
                continue;
            }
            let memory = frames(TABLE_FRAMES)?;
            // Pages of 4 KiB, all in a row.
            let value = VALID | TABLE_WRITE_BACK | SHARED_CACHED | memory.phys();
            let bytes = memory.len() as u64;
            self.given.push(memory);
            self.registers
                .write_u64(place, value | (TABLE_FRAMES as u64 - 1));
            let kept = self.registers.read_u64(place);
            if kept & VALID == 0 || kept >> 8 & 3 != 0 {
                return Err(ControllerError::Stuck("the ITS does not take a table"));
            }
            if kind == DEVICES {
                let entry = (table >> 48 & 0x1f) + 1;
                self.devices = bytes / entry;
            }
        }
        let ring = VALID | TABLE_WRITE_BACK | SHARED_CACHED | self.ring.phys();
        self.registers.write_u64(register::COMMANDS, ring);
        self.registers.write_u64(register::COMMANDS_WRITTEN, 0);
        self.registers.write(register::CONTROL, 1);
        // MAPC: the collection is this CPU.
        self.command([0x09, 0, VALID | self.target | COLLECTION, 0])
            .and_then(|()| self.sync())
            .map_err(|()| ControllerError::Stuck("the ITS takes no commands"))
    }

    /// Has the service do something, and waits for it.
    fn command(&mut self, words: [u64; 4]) -> Result<(), ()> {
        let mut at = self.next_command;
        for word in words {
            // SAFETY: inside of the ring, which is one frame; commands do not cross its end.
            let place = unsafe { self.ring.virt().byte_add(at as usize) };
            // SAFETY: memory of the ring, aligned; the service does not read it yet.
            unsafe { place.cast::<u64>().write_volatile(word.to_le()) };
            at += 8;
        }
        self.next_command = (self.next_command + COMMAND) % RING;
        publish();
        self.registers
            .write_u64(register::COMMANDS_WRITTEN, self.next_command);
        let deadline = Deadline::after(TIMEOUT);
        while self.registers.read_u64(register::COMMANDS_READ) != self.next_command {
            if deadline.passed() {
                return Err(());
            }
            core::hint::spin_loop();
        }
        Ok(())
    }

    /// SYNC: what was commanded is in effect.
    fn sync(&mut self) -> Result<(), ()> {
        self.command([0x05, 0, self.target, 0])
    }

    /// A new message of a function.
    pub(super) fn message(&mut self, requester: RequesterId) -> Result<Message, MessageError> {
        const STUCK: MessageError = MessageError::Stuck("the ITS takes no commands");
        let id = u32::from(requester.0);
        let device = self.ids.iter().find_map(|range| {
            let offset = id.checked_sub(range.first)?;
            (offset < range.len).then(|| range.device.checked_add(offset))?
        });
        let device = device.ok_or(MessageError::Unsupported)?;
        if u64::from(device) >= self.devices {
            return Err(MessageError::Exhausted);
        }
        if !self.tables.iter().any(|(known, _)| *known == device) {
            let table = frames(1).map_err(|_| MessageError::Exhausted)?;
            let address = table.phys();
            self.tables.push((device, table));
            // MAPD: the device has this table of events.
            let command = 0x08 | u64::from(device) << 32;
            self.command([command, EVENT_BITS - 1, VALID | address, 0])
                .map_err(|()| STUCK)?;
        }
        let siblings = self.events.iter().filter(|event| event.device == device);
        let number = siblings.count() as u32;
        let index = self.events.len() as u32;
        if number >= 1 << EVENT_BITS || index >= (1 << NUMBER_BITS) - FIRST {
            return Err(MessageError::Exhausted);
        }
        let lpi = FIRST + index;
        self.configure(lpi, LPI_OFF);
        // MAPTI: the event is this LPI, of the collection.
        self.command([
            0x0a | u64::from(device) << 32,
            u64::from(number) | u64::from(lpi) << 32,
            COLLECTION,
            0,
        ])
        .and_then(|()| self.sync())
        .map_err(|()| STUCK)?;
        self.events.push(Event {
            lpi,
            device,
            number,
        });
        Ok(Message {
            address: PhysAddr(self.registers.phys().0 + register::DOORBELL),
            data: number,
            line: Line(lpi),
        })
    }

    fn configure(&mut self, lpi: u32, value: u8) {
        let offset = (lpi - FIRST) as usize;
        // SAFETY: the table has a byte for each LPI below 2^14.
        let place = unsafe { self.configuration.virt().byte_add(offset) };
        // SAFETY: memory of the table; the redistributor only reads it.
        unsafe { place.write_volatile(value) };
        publish();
    }

    /// Masks or unmasks an LPI that [`message`](Self::message) made.
    pub(super) fn set_enabled(&mut self, id: IntId, enabled: bool) {
        let lpi = id.raw_value();
        let Some(event) = self.events.iter().find(|event| event.lpi == lpi) else {
            return;
        };
        let (device, number) = (u64::from(event.device), u64::from(event.number));
        self.configure(lpi, if enabled { LPI_ON } else { LPI_OFF });
        // INV: its configuration is read again. If that fails, the old one stays.
        let told = self.command([0x0c | device << 32, number, 0, 0]);
        if told.and_then(|()| self.sync()).is_err() {
            log::error!("the ITS takes no commands");
        }
    }
}

/// The requester ids whose messages come to the service, as the host bridge's `msi-map` says.
fn id_ranges(tree: Fdt<'_>, its: u32) -> Vec<IdRange> {
    let mut ranges = Vec::new();
    let host = device_tree::find(tree, |node| node.property("msi-map").is_some());
    let map = host.and_then(|node| device_tree::cells(&node, "msi-map"));
    let Some(mut map) = map else { return ranges };
    while let Some([first, controller, device, len]) = map.take() {
        if controller == its && ranges.len() < MAX_RANGES {
            ranges.push(IdRange { first, device, len });
        }
    }
    ranges
}
