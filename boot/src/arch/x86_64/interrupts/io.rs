//! An I/O APIC: the inputs of devices, and which vector of which CPU each raises.

use crate::acpi::madt::{self, Polarity, Route, Trigger};
use crate::interrupts::ControllerError;
use crate::registers::Registers;

/// Where a register is chosen, and the chosen register, in bytes.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const LEN: u64 = 0x20;

/// Registers: the version and the last input; then two for each input.
const VERSION: u32 = 0x01;
const INPUTS: u32 = 0x10;

/// Of an input, in the low register: active low, the state counts, masked.
const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
/// In the high one: the CPU.
const CPU: u32 = 24;

/// An I/O APIC.
pub struct IoApic {
    registers: Registers,
    /// The global system interrupt of its first input.
    first: u32,
    inputs: u32,
}

impl IoApic {
    /// Masks all of its inputs.
    pub fn open(described: madt::IoApic) -> Result<Self, ControllerError> {
        const ABSENT: ControllerError = ControllerError::Malformed("an I/O APIC is not there");
        let address = described.address;
        if !address.0.is_multiple_of(LEN) {
            return Err(ABSENT);
        }
        // SAFETY: the MADT says that these are the registers, and this is their only driver.
        let registers = unsafe { Registers::new(address.0, LEN) };
        let mut io_apic = Self {
            registers: registers.ok_or(ControllerError::OutOfReach(address))?,
            first: described.first,
            inputs: 0,
        };
        let [version, _, last, _] = io_apic.read(VERSION).to_le_bytes();
        // All that are not a chip of their own, which 64-bit machines never had.
        if !(0x10..0x30).contains(&version) {
            return Err(ABSENT);
        }
        io_apic.inputs = u32::from(last) + 1;
        for input in 0..io_apic.inputs {
            io_apic.write(low(input), MASKED);
        }
        Ok(io_apic)
    }

    /// Whether it has an input.
    pub fn has(&self, gsi: u32) -> bool {
        self.input(gsi).is_some()
    }

    fn input(&self, gsi: u32) -> Option<u32> {
        let input = gsi.checked_sub(self.first)?;
        (input < self.inputs).then_some(input)
    }

    /// Has an input raise a vector of a CPU, by the id of its local APIC. The input stays masked.
    pub fn route(&mut self, route: Route, vector: u8, cpu: u8) {
        let Some(input) = self.input(route.gsi) else {
            return;
        };
        let mut entry = u32::from(vector) | MASKED;
        if route.polarity == Polarity::Low {
            entry |= ACTIVE_LOW;
        }
        if route.trigger == Trigger::Level {
            entry |= LEVEL;
        }
        self.write(low(input), entry);
        self.write(high(input), u32::from(cpu) << CPU);
    }

    /// Masks an input, or unmasks it.
    pub fn set_masked(&mut self, gsi: u32, masked: bool) {
        let Some(input) = self.input(gsi) else {
            return;
        };
        let entry = self.read(low(input)) & !MASKED;
        let masked = if masked { MASKED } else { 0 };
        self.write(low(input), entry | masked);
    }

    /// An access is two: hence `&mut`.
    fn read(&mut self, register: u32) -> u32 {
        self.registers.write(SELECT, register);
        self.registers.read(WINDOW)
    }

    fn write(&mut self, register: u32, value: u32) {
        self.registers.write(SELECT, register);
        self.registers.write(WINDOW, value);
    }
}

/// The registers of an input; there are at most 256.
fn low(input: u32) -> u32 {
    INPUTS + 2 * input
}

fn high(input: u32) -> u32 {
    low(input) + 1
}
