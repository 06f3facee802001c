//! Registers of PCI configuration space (type 0 and type 1 headers), read and written in words.
//!
//! Two of the words hold status bits that are cleared by writing ones to them; they are written
//! as zero here, so that nothing is cleared by accident.

#![forbid(unsafe_code)]

use virtio_drivers::transport::pci::bus::ConfigurationAccess;

use super::{BridgeKind, ExpressKind};
use crate::topology::RequesterId;

pub(super) const ID: u8 = 0x00;
pub(super) const COMMAND: u8 = 0x04;
pub(super) const CLASS: u8 = 0x08;
pub(super) const HEADER: u8 = 0x0c;
pub(super) const BAR0: u8 = 0x10;
pub(super) const BUS_NUMBERS: u8 = 0x18;
pub(super) const IO_WINDOW: u8 = 0x1c;
pub(super) const MEMORY_WINDOW: u8 = 0x20;
pub(super) const PREFETCHABLE_WINDOW: u8 = 0x24;
pub(super) const PREFETCHABLE_BASE_HIGH: u8 = 0x28;
pub(super) const PREFETCHABLE_LAST_HIGH: u8 = 0x2c;
pub(super) const IO_WINDOW_HIGH: u8 = 0x30;
pub(super) const CAPABILITIES: u8 = 0x34;
pub(super) const INTERRUPT: u8 = 0x3c;

/// COMMAND: the function answers I/O accesses.
pub(super) const IO_SPACE: u16 = 1 << 0;
/// COMMAND: the function answers memory accesses.
pub(super) const MEMORY_SPACE: u16 = 1 << 1;
/// STATUS, in the upper half of the word: there is a capability list.
const CAPABILITY_LIST: u32 = 1 << 20;
/// The capability that every PCI Express function has.
const EXPRESS: u8 = 0x10;
/// As many capabilities as fit between the header and the end of configuration space.
const MAX_CAPABILITIES: usize = (256 - 64) / 4;

/// Configuration space, by requester id.
pub(super) struct Config<'a, C> {
    access: &'a mut C,
}

/// The first words of a function that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) vendor: u16,
    pub(super) device: u16,
    /// Class, subclass, programming interface, revision.
    pub(super) class: [u8; 4],
    /// 0 a device, 1 a bridge to PCI, 2 a bridge to CardBus.
    pub(super) kind: u8,
    pub(super) multifunction: bool,
}

impl<'a, C: ConfigurationAccess> Config<'a, C> {
    pub(super) fn new(access: &'a mut C) -> Self {
        Self { access }
    }

    pub(super) fn read(&self, function: RequesterId, offset: u8) -> u32 {
        self.access
            .read_word(function.device_function(), offset & 0xfc)
    }

    pub(super) fn write(&mut self, function: RequesterId, offset: u8, value: u32) {
        let function = function.device_function();
        self.access.write_word(function, offset & 0xfc, value);
    }

    /// The COMMAND register.
    pub(super) fn command(&self, function: RequesterId) -> u16 {
        self.read(function, COMMAND) as u16
    }

    /// Writes COMMAND and leaves STATUS alone.
    pub(super) fn set_command(&mut self, function: RequesterId, command: u16) {
        self.write(function, COMMAND, command.into());
    }

    /// Switches decoding off, runs `change`, and puts COMMAND back.
    pub(super) fn without_decoding<R>(
        &mut self,
        function: RequesterId,
        change: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let command = self.command(function);
        let quiet = command & !(IO_SPACE | MEMORY_SPACE);
        if quiet != command {
            self.set_command(function, quiet);
        }
        let result = change(self);
        if quiet != command {
            self.set_command(function, command);
        }
        result
    }

    /// What is at `function`, or `None` if nobody answers or the answer is "not ready yet".
    pub(super) fn header(&self, function: RequesterId) -> Option<Header> {
        let id = self.read(function, ID);
        let (vendor, device) = (id as u16, (id >> 16) as u16);
        // 0x0001 is what a root port answers while the function behind it still resets.
        if matches!(vendor, 0x0000 | 0x0001 | 0xffff) {
            return None;
        }
        let header = self.read(function, HEADER) >> 16;
        Some(Header {
            vendor,
            device,
            class: self.read(function, CLASS).to_be_bytes(),
            kind: header as u8 & 0x7f,
            multifunction: header & 0x80 != 0,
        })
    }

    /// The functions on `bus` that answer, in order: function 0 of each device, and the others
    /// only where function 0 says that there are any.
    pub(super) fn for_each_function(
        &self,
        bus: u8,
        devices: u8,
        mut visit: impl FnMut(RequesterId, Header),
    ) {
        for device in 0..devices {
            for function in 0..8 {
                let id = RequesterId::new(bus, device, function);
                let found = id.and_then(|id| Some((id, self.header(id)?)));
                if let Some((id, header)) = found {
                    visit(id, header);
                }
                let more = found.is_some_and(|(_, header)| header.multifunction);
                if function == 0 && !more {
                    break;
                }
            }
        }
    }

    /// What kind of PCI Express function this is; `None` if it is conventional PCI.
    ///
    /// `Err` if the list of capabilities does not end.
    pub(super) fn express(&self, function: RequesterId) -> Result<Option<ExpressKind>, Cyclic> {
        if self.read(function, COMMAND) & CAPABILITY_LIST == 0 {
            return Ok(None);
        }
        let mut offset = self.read(function, CAPABILITIES) as u8 & 0xfc;
        for _ in 0..MAX_CAPABILITIES {
            if offset < 0x40 {
                return Ok(None);
            }
            let word = self.read(function, offset);
            if word as u8 == EXPRESS {
                return Ok(Some(ExpressKind::from_code((word >> 20) as u8 & 0xf)));
            }
            offset = (word >> 8) as u8 & 0xfc;
        }
        Err(Cyclic)
    }

    /// How many devices there can be on the bus behind a bridge. A PCI Express link has one.
    pub(super) fn devices_behind(&self, bridge: RequesterId) -> u8 {
        match BridgeKind::of(self.express(bridge).unwrap_or(None)) {
            BridgeKind::RootPort | BridgeKind::SwitchDownstream | BridgeKind::PciToExpress => 1,
            _ => 32,
        }
    }

    /// Primary, secondary and subordinate bus number of a bridge.
    pub(super) fn bus_numbers(&self, bridge: RequesterId) -> [u8; 3] {
        let [primary, secondary, subordinate, _] = self.read(bridge, BUS_NUMBERS).to_le_bytes();
        [primary, secondary, subordinate]
    }

    /// Writes the three bus numbers and leaves the latency timer beside them alone.
    pub(super) fn set_bus_numbers(&mut self, bridge: RequesterId, numbers: [u8; 3]) {
        let [primary, secondary, subordinate] = numbers;
        let [.., timer] = self.read(bridge, BUS_NUMBERS).to_le_bytes();
        let word = u32::from_le_bytes([primary, secondary, subordinate, timer]);
        self.write(bridge, BUS_NUMBERS, word);
    }
}

/// A list of capabilities that leads back into itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cyclic;
