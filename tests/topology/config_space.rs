//! A model of PCI configuration space, written from the PCI and PCI Express specifications alone:
//! registers with writable bits, bridges that forward only what their numbers and windows say.
//!
//! It answers two questions of its own afterwards, from register contents only: who decodes an
//! address of the CPU, and under which requester id a DMA arrives at the root.

use std::cell::Cell;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

/// The bus that the host bridge begins.
pub const ROOT: usize = usize::MAX;

/// What a bridge calls itself in its PCI Express capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Root,
    Upstream,
    Downstream,
    ToPci,
    /// No such capability.
    Conventional,
}

/// A BAR as the hardware has it.
#[derive(Clone, Copy, Debug)]
pub struct HardBar {
    pub index: u8,
    pub size: u64,
    pub io: bool,
    pub wide: bool,
}

pub struct Model {
    pub functions: Vec<Hard>,
    root_bus: u8,
    pub reads: Cell<u64>,
    pub writes: u64,
    /// What a walk must never do.
    pub violations: Vec<String>,
}

pub struct Hard {
    /// The bridge (an index) that it is behind, or [`ROOT`].
    pub parent: usize,
    pub device: u8,
    pub function: u8,
    pub bars: Vec<HardBar>,
    pub port: Option<Port>,
    registers: [u32; 64],
    /// Bits that keep what is written.
    writable: [u32; 64],
    /// Bits that a written one clears.
    clearable: [u32; 64],
}

impl Model {
    pub fn new() -> Self {
        Self::at_bus(0)
    }

    /// A host bridge whose root bus has another number than 0.
    pub fn at_bus(root_bus: u8) -> Self {
        Self {
            functions: Vec::new(),
            root_bus,
            reads: Cell::new(0),
            writes: 0,
            violations: Vec::new(),
        }
    }

    /// A device with a type 0 header. Its COMMAND is 0, as after a reset.
    pub fn device(&mut self, parent: usize, device: u8, function: u8, ids: (u16, u16)) -> usize {
        let mut hard = Hard {
            parent,
            device,
            function,
            bars: Vec::new(),
            port: None,
            registers: [0; 64],
            writable: [0; 64],
            clearable: [0; 64],
        };
        hard.registers[0] = u32::from(ids.1) << 16 | u32::from(ids.0);
        hard.registers[1] = 0xf900_0000;
        hard.writable[1] = 0x0547;
        hard.clearable[1] = 0xf900_0000;
        hard.registers[2] = 0x00ff_0001;
        hard.registers[15] = 0x0100;
        self.functions.push(hard);
        self.functions.len() - 1
    }

    /// A bridge with a type 1 header, all three windows, and 64-bit prefetchable ones.
    pub fn bridge(&mut self, parent: usize, device: u8, function: u8, port: Port) -> usize {
        let index = self.device(parent, device, function, (0x1b36, 0x000c));
        let hard = &mut self.functions[index];
        hard.port = Some(port);
        hard.registers[2] = 0x0604_0000;
        hard.registers[3] = 0x0001_0000;
        hard.writable[6] = 0xffff_ffff;
        hard.writable[7] = 0xf0f0;
        hard.clearable[7] = 0xf900_0000;
        hard.registers[7] = 0xf900_0101;
        hard.writable[8] = 0xfff0_fff0;
        hard.writable[9] = 0xfff0_fff0;
        hard.registers[9] = 0x0001_0001;
        hard.writable[10] = 0xffff_ffff;
        hard.writable[11] = 0xffff_ffff;
        hard.writable[12] = 0xffff_ffff;
        let code = match port {
            Port::Root => 4,
            Port::Upstream => 5,
            Port::Downstream => 6,
            Port::ToPci => 7,
            Port::Conventional => return index,
        };
        // An MSI capability in front of the one that is looked for.
        self.capability(index, 0x40, 0x05, 0x54, 0);
        self.capability(index, 0x54, 0x10, 0, code << 4 | 2);
        self.set_capabilities(index, 0x40);
        index
    }

    pub fn set_multifunction(&mut self, index: usize) {
        self.functions[index].registers[3] |= 0x0080_0000;
    }

    pub fn set_register(&mut self, index: usize, offset: u8, value: u32) {
        self.functions[index].registers[usize::from(offset / 4)] = value;
    }

    /// Bits that take what is written to them; everything else stays.
    pub fn set_writable(&mut self, index: usize, offset: u8, bits: u32) {
        self.functions[index].writable[usize::from(offset / 4)] = bits;
    }

    pub fn register(&self, index: usize, offset: u8) -> u32 {
        self.functions[index].registers[usize::from(offset / 4)]
    }

    pub fn capability(&mut self, index: usize, offset: u8, id: u8, next: u8, word: u16) {
        let value = u32::from(word) << 16 | u32::from(next) << 8 | u32::from(id);
        self.set_register(index, offset, value);
    }

    pub fn set_capabilities(&mut self, index: usize, first: u8) {
        let hard = &mut self.functions[index];
        hard.registers[1] |= 1 << 20;
        hard.registers[13] = first.into();
    }

    /// A BAR of `size` bytes; `flags` are the low bits of the register.
    pub fn bar(&mut self, function: usize, index: u8, size: u64, flags: u32) {
        let hard = &mut self.functions[function];
        let at = 4 + usize::from(index);
        let (io, wide) = (flags & 1 != 0, flags & 7 == 4);
        let bits = !(size - 1);
        hard.registers[at] |= flags;
        hard.writable[at] = bits as u32;
        if wide {
            hard.writable[at + 1] = (bits >> 32) as u32;
        }
        hard.bars.push(HardBar {
            index,
            size,
            io,
            wide,
        });
    }

    /// What a BAR register holds, without its low bits.
    pub fn bar_value(&self, function: usize, bar: &HardBar) -> u64 {
        let low = self.register(function, 0x10 + 4 * bar.index);
        if bar.wide {
            let high = self.register(function, 0x14 + 4 * bar.index);
            return u64::from(high) << 32 | u64::from(low & !0xf);
        }
        u64::from(low & if bar.io { !3 } else { !0xf })
    }

    pub fn command(&self, index: usize) -> u32 {
        self.register(index, 4) & 0xffff
    }

    pub fn set_bus_numbers(&mut self, index: usize, numbers: [u8; 3]) {
        let [primary, secondary, subordinate] = numbers;
        let word = u32::from_le_bytes([primary, secondary, subordinate, 0]);
        self.set_register(index, 0x18, word);
    }

    /// Primary, secondary, subordinate.
    pub fn bus_numbers(&self, index: usize) -> [u8; 3] {
        let [primary, secondary, subordinate, _] = self.register(index, 0x18).to_le_bytes();
        [primary, secondary, subordinate]
    }

    fn children(&self, parent: usize) -> impl Iterator<Item = usize> {
        (0..self.functions.len()).filter(move |index| self.functions[*index].parent == parent)
    }

    /// The function that a configuration access arrives at.
    fn route(&self, target: DeviceFunction) -> Option<usize> {
        let (mut parent, mut number) = (ROOT, self.root_bus);
        // Each step goes one bridge down.
        for _ in 0..=self.functions.len() {
            if number == target.bus {
                return self.children(parent).find(|index| {
                    let hard = &self.functions[*index];
                    (hard.device, hard.function) == (target.device, target.function)
                });
            }
            let mut ways = self.children(parent).filter(|index| {
                let [_, secondary, subordinate] = self.bus_numbers(*index);
                self.functions[*index].port.is_some()
                    && secondary != 0
                    && (secondary..=subordinate).contains(&target.bus)
            });
            let way = ways.next()?;
            assert_eq!(ways.next(), None, "two bridges claim bus {}", target.bus);
            (parent, number) = (way, self.bus_numbers(way)[1]);
        }
        panic!("the bridges lead in a circle")
    }

    /// Everything that decodes an address, as (function, BAR).
    pub fn decoders(&self, address: u64, io: bool) -> Vec<(usize, u8)> {
        let mut found = Vec::new();
        self.decoders_below(ROOT, address, io, &mut found);
        found
    }

    fn decoders_below(&self, parent: usize, address: u64, io: bool, found: &mut Vec<(usize, u8)>) {
        let enable = if io { 1 } else { 2 };
        for index in self.children(parent) {
            let hard = &self.functions[index];
            if self.command(index) & enable == 0 {
                continue;
            }
            for bar in hard.bars.iter().filter(|bar| bar.io == io) {
                let base = self.bar_value(index, bar);
                if address >= base && address - base < bar.size {
                    found.push((index, bar.index));
                }
            }
            if hard.port.is_some() && self.forwards(index, address, io) {
                self.decoders_below(index, address, io, found);
            }
        }
    }

    /// Whether the windows of a bridge let an address through.
    pub fn forwards(&self, bridge: usize, address: u64, io: bool) -> bool {
        let word = |offset| u64::from(self.register(bridge, offset));
        // A window that is not there has no writable register.
        let exists = |offset: u8| self.functions[bridge].writable[usize::from(offset / 4)] != 0;
        if io && !exists(0x1c) {
            return false;
        }
        if io {
            let (window, high) = (word(0x1c), word(0x30));
            let first = (high & 0xffff) << 16 | (window & 0xf0) << 8;
            let last = (high >> 16) << 16 | (window & 0xf000) | 0xfff;
            return (first..=last).contains(&address);
        }
        let memory = word(0x20);
        let first = (memory & 0xfff0) << 16;
        let last = (memory >> 16 & 0xfff0) << 16 | 0xf_ffff;
        if (first..=last).contains(&address) {
            return true;
        }
        let window = word(0x24);
        let first = word(0x28) << 32 | (window & 0xfff0) << 16;
        let last = word(0x2c) << 32 | (window >> 16 & 0xfff0) << 16 | 0xf_ffff;
        exists(0x24) && (first..=last).contains(&address)
    }

    /// The address of a function in configuration space as the numbers are now.
    pub fn address(&self, index: usize) -> u16 {
        let hard = &self.functions[index];
        let bus = match hard.parent {
            ROOT => self.root_bus,
            bridge => self.bus_numbers(bridge)[1],
        };
        u16::from(bus) << 8 | u16::from(hard.device) << 3 | u16::from(hard.function)
    }

    /// The requester id under which a DMA arrives at the root; none if a bus master bit on the
    /// way is clear. Goes upwards and lets each bridge rewrite the id.
    pub fn dma(&self, index: usize) -> Option<u16> {
        let mut id = self.address(index);
        let mut at = index;
        loop {
            if self.command(at) & 4 == 0 {
                return None;
            }
            let parent = self.functions[at].parent;
            if parent == ROOT {
                return Some(id);
            }
            match self.functions[parent].port {
                Some(Port::ToPci) => id = u16::from(self.bus_numbers(parent)[1]) << 8,
                Some(Port::Conventional) => id = self.address(parent),
                _ => {}
            }
            at = parent;
        }
    }

    fn check_write(&mut self, index: usize, at: usize, data: u32) {
        let command = self.command(index);
        let hard = &self.functions[index];
        let bridge = hard.port.is_some();
        let name = format!("function {index}, register {:#x}", at * 4);
        let registers_with_addresses = if bridge { 4..6 } else { 4..10 };
        if registers_with_addresses.contains(&at) && command & 3 != 0 {
            self.violations.push(format!("{name}: decoding is on"));
        }
        if bridge && (7..=12).contains(&at) && command & 3 != 0 {
            self.violations.push(format!("{name}: decoding is on"));
        }
        let status = if bridge { &[1, 7][..] } else { &[1][..] };
        if status.contains(&at) && data & self.functions[index].clearable[at] != 0 {
            self.violations.push(format!("{name}: clears status"));
        }
    }
}

impl ConfigurationAccess for Model {
    fn read_word(&self, target: DeviceFunction, offset: u8) -> u32 {
        assert!(target.valid() && offset.is_multiple_of(4));
        self.reads.set(self.reads.get() + 1);
        match self.route(target) {
            Some(index) => self.register(index, offset),
            None => u32::MAX,
        }
    }

    fn write_word(&mut self, target: DeviceFunction, offset: u8, data: u32) {
        assert!(target.valid() && offset.is_multiple_of(4));
        self.writes += 1;
        let Some(index) = self.route(target) else {
            self.violations.push(format!("{target}: a write to nobody"));
            return;
        };
        let at = usize::from(offset / 4);
        self.check_write(index, at, data);
        let hard = &mut self.functions[index];
        let (keep, clear) = (hard.writable[at], hard.clearable[at]);
        let old = hard.registers[at] & !(data & clear);
        hard.registers[at] = old & !keep | data & keep;
    }

    // SAFETY: the trait asks nothing of an implementation beyond access to the same bus; nobody
    // calls this, and a call would end the test.
    unsafe fn unsafe_clone(&self) -> Self {
        unimplemented!("the walk does not clone its access")
    }
}
