//! QEMU's `edu` device: a DMA engine that does what it is told, and nothing else.
//!
//! It moves up to 4096 bytes between memory and a buffer of its own that the CPU cannot see, and
//! takes 100 ms of virtual time for it. It does not notice when an access is refused: it reads
//! zeros then, writes nowhere, and reports completion. The addresses that it puts on the bus have
//! 28 bits unless its property `dma_mask` says more; the others are cut off without a word.

use core::fmt;
use core::ptr::NonNull;
use core::time::Duration;

use virtio_drivers::transport::pci::bus::ConfigurationAccess;
use virtio_iommu::topology::pci::Function;
use virtio_iommu::topology::{Placement, RequesterId};
use virtio_iommu::{EndpointId, Iova};

use crate::arch;
use crate::clock::Deadline;
use crate::config_space::ConfigSpace;
use crate::machine::{Machine, MachineError};
use crate::memory::direct_map;

/// PCI vendor and device id.
pub const ID: (u16, u16) = (0x1234, 0x11e8);

/// The largest transfer in bytes: half of the device's own buffer. Some versions of the device end
/// the machine if a transfer touches the last byte of the buffer, so a whole page takes two.
pub const MAX_TRANSFER: usize = 2048;

/// The last address that a device with the default mask can put on the bus.
pub const LIMIT: Iova = Iova((1 << 28) - 1);

/// Registers, in bytes from the start of BAR 0.
mod register {
    pub const IDENTIFICATION: usize = 0x00;
    pub const LIVENESS: usize = 0x04;
    pub const INTERRUPT_STATUS: usize = 0x24;
    pub const INTERRUPT_RAISE: usize = 0x60;
    pub const INTERRUPT_ACKNOWLEDGE: usize = 0x64;
    pub const DMA_SOURCE: usize = 0x80;
    pub const DMA_DESTINATION: usize = 0x88;
    pub const DMA_COUNT: usize = 0x90;
    pub const DMA_COMMAND: usize = 0x98;
}

/// Identification: version 1.0, "edu".
const IDENTIFIED: u32 = 0x0100_00ed;

/// Starts a transfer; reads 1 until it is done.
const COMMAND_RUN: u64 = 1 << 0;
/// From the device to memory; without it, from memory to the device.
const COMMAND_TO_MEMORY: u64 = 1 << 1;

/// Interrupts when the transfer is done.
const COMMAND_INTERRUPT: u64 = 1 << 2;

/// In the interrupt status: a transfer is done.
pub const TRANSFER_DONE: u32 = 0x100;

/// The MSI capability, in bytes from the start of configuration space.
mod msi {
    /// Id, link, control.
    pub const HEADER: u8 = 0x40;
    pub const ADDRESS: u8 = 0x44;
    pub const ADDRESS_HIGH: u8 = 0x48;
    pub const DATA: u8 = 0x4c;
    /// In the header: the id.
    pub const ID: u32 = 0x05;
    /// In the header: messages instead of the pin.
    pub const ENABLE: u32 = 1 << 16;
    /// In the header: addresses of 64 bits.
    pub const WIDE: u32 = 1 << 23;
}

/// Where the device's own buffer is, in its own address space.
const OWN_BUFFER: u64 = 0x4_0000;

/// The longest wait for a transfer. It takes 100 ms, plus what a busy host adds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the device did not do what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EduError {
    /// The function could not be switched on.
    Machine(MachineError),
    /// The registers have no address within reach.
    NoRegisters,
    /// Something else answers.
    Identification(u32),
    /// It does not compute.
    Liveness(u32),
    /// More than [`MAX_TRANSFER`] bytes, or none, were asked for.
    Length(usize),
    /// A transfer did not end in time.
    Timeout,
    /// What should be its MSI capability is something else.
    NoMessages(u32),
}

impl fmt::Display for EduError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(error) => write!(f, "edu: {error:?}"),
            Self::NoRegisters => f.write_str("edu: its registers are out of reach"),
            Self::Identification(seen) => write!(f, "edu: identification is {seen:#x}"),
            Self::Liveness(seen) => write!(f, "edu: liveness check gives {seen:#x}"),
            Self::Length(len) => write!(f, "edu: a transfer of {len} bytes"),
            Self::NoMessages(header) => write!(f, "edu: its MSI capability is {header:#x}"),
            Self::Timeout => f.write_str("edu: a transfer does not end"),
        }
    }
}

/// An `edu` device.
#[derive(Debug)]
pub struct Edu {
    registers: NonNull<u8>,
    function: RequesterId,
    placement: Placement,
}

// SAFETY: the registers belong to the machine, not to a thread.
unsafe impl Send for Edu {}

impl Edu {
    /// All of the machine's, switched on and checked, in the order of the bus.
    ///
    /// # Errors
    ///
    /// [`EduError`] of the first that is not well.
    pub fn all(machine: &mut Machine) -> Result<alloc::vec::Vec<Self>, EduError> {
        let found: alloc::vec::Vec<Function> = machine.pci.find(ID.0, ID.1).cloned().collect();
        found
            .iter()
            .map(|function| Self::open(machine, function))
            .collect()
    }

    /// Switches a device on, and checks that it is there and alive.
    fn open(machine: &mut Machine, function: &Function) -> Result<Self, EduError> {
        let address = function
            .bar(0)
            .and_then(|bar| bar.address)
            .and_then(|address| address.cpu)
            .ok_or(EduError::NoRegisters)?;
        let registers = direct_map::pointer(address.0, 0x1000).ok_or(EduError::NoRegisters)?;
        machine
            .enable(function.address.function)
            .map_err(EduError::Machine)?;
        let edu = Self {
            registers,
            function: function.address.function,
            placement: machine.placement(function),
        };
        match edu.read_u32(register::IDENTIFICATION) {
            IDENTIFIED => {}
            other => return Err(EduError::Identification(other)),
        }
        let question = 0x5ca1_ab1e;
        edu.write_u32(register::LIVENESS, question);
        match edu.read_u32(register::LIVENESS) {
            answer if answer == !question => Ok(edu),
            other => Err(EduError::Liveness(other)),
        }
    }

    /// Its own place on the bus.
    pub fn function(&self) -> RequesterId {
        self.function
    }

    /// Where it is, seen from the IOMMU.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Its name at the IOMMU, if it is behind one.
    pub fn endpoint(&self) -> Option<EndpointId> {
        match self.placement {
            Placement::Behind { endpoint, .. } => Some(endpoint),
            Placement::NotBehind => None,
        }
    }

    /// Has the device read `len` bytes at `from`, an address on the bus, into its own buffer.
    ///
    /// # Errors
    ///
    /// [`EduError`]. That the access was refused is not an error: the device does not know.
    pub fn read_memory(&mut self, from: u64, len: usize) -> Result<(), EduError> {
        self.transfer(from, OWN_BUFFER, len, COMMAND_RUN)
    }

    /// Has the device write the first `len` bytes of its own buffer to `to`, an address on the bus.
    ///
    /// # Errors
    ///
    /// [`EduError`]. That the access was refused is not an error: the device does not know.
    pub fn write_memory(&mut self, to: u64, len: usize) -> Result<(), EduError> {
        self.transfer(OWN_BUFFER, to, len, COMMAND_RUN | COMMAND_TO_MEMORY)
    }

    /// Has the device read `len` bytes at `from` and write them to `to`, both addresses on the bus,
    /// in as many transfers as that takes.
    ///
    /// # Errors
    ///
    /// [`EduError`]. That an access was refused is not an error: the device does not know.
    pub fn copy(&mut self, from: u64, to: u64, len: usize) -> Result<(), EduError> {
        for start in (0..len).step_by(MAX_TRANSFER) {
            let piece = MAX_TRANSFER.min(len - start);
            self.read_memory(from + start as u64, piece)?;
            self.write_memory(to + start as u64, piece)?;
        }
        Ok(())
    }

    /// As [`write_memory`](Self::write_memory), but does not wait: the device interrupts when it
    /// is done, with [`TRANSFER_DONE`], if `tell` says so.
    ///
    /// # Errors
    ///
    /// [`EduError`].
    pub fn start_write(&mut self, to: u64, len: usize, tell: bool) -> Result<(), EduError> {
        let tell = if tell { COMMAND_INTERRUPT } else { 0 };
        let command = COMMAND_RUN | COMMAND_TO_MEMORY | tell;
        self.start(OWN_BUFFER, to, len, command)
    }

    /// Waits until no transfer is under way.
    ///
    /// # Errors
    ///
    /// [`EduError::Timeout`].
    pub fn finish(&mut self) -> Result<(), EduError> {
        self.wait()
    }

    /// Has the device interrupt, for a reason of the caller's choice.
    pub fn raise(&mut self, reason: u32) {
        self.write_u32(register::INTERRUPT_RAISE, reason);
    }

    /// What an interrupt handler needs of the device.
    pub fn interrupt_side(&self) -> InterruptSide {
        InterruptSide(self.registers)
    }

    /// Has the device send messages instead of asserting its pin; `None` goes back to the pin.
    ///
    /// # Errors
    ///
    /// [`EduError::NoMessages`].
    pub fn send_messages(
        &mut self,
        config: &mut ConfigSpace,
        to: Option<(u64, u32)>,
    ) -> Result<(), EduError> {
        let function = self.function.device_function();
        let header = config.read_word(function, msi::HEADER);
        if header & 0xff != msi::ID || header & msi::WIDE == 0 {
            return Err(EduError::NoMessages(header));
        }
        config.write_word(function, msi::HEADER, header & !msi::ENABLE);
        if let Some((address, data)) = to {
            config.write_word(function, msi::ADDRESS, address as u32);
            config.write_word(function, msi::ADDRESS_HIGH, (address >> 32) as u32);
            config.write_word(function, msi::DATA, data);
            config.write_word(function, msi::HEADER, header | msi::ENABLE);
        }
        Ok(())
    }

    fn transfer(&mut self, from: u64, to: u64, len: usize, command: u64) -> Result<(), EduError> {
        self.start(from, to, len, command)?;
        self.wait()
    }

    fn start(&mut self, from: u64, to: u64, len: usize, command: u64) -> Result<(), EduError> {
        if len == 0 || len > MAX_TRANSFER {
            return Err(EduError::Length(len));
        }
        // A transfer that did not end in time would still go where it was sent.
        self.wait()?;
        self.write_u64(register::DMA_SOURCE, from);
        self.write_u64(register::DMA_DESTINATION, to);
        self.write_u64(register::DMA_COUNT, len as u64);
        self.write_u64(register::DMA_COMMAND, command);
        Ok(())
    }

    fn wait(&self) -> Result<(), EduError> {
        let deadline = Deadline::after(TIMEOUT);
        while self.read_u64(register::DMA_COMMAND) & COMMAND_RUN != 0 {
            if deadline.passed() {
                return Err(EduError::Timeout);
            }
            arch::relax();
        }
        Ok(())
    }

    fn register<T>(&self, offset: usize) -> NonNull<T> {
        // SAFETY: the offsets above are inside of BAR 0.
        unsafe { self.registers.byte_add(offset) }.cast()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: an aligned register of the device.
        unsafe { self.register::<u32>(offset).read_volatile() }
    }

    fn write_u32(&self, offset: usize, value: u32) {
        // SAFETY: an aligned register of the device, and not one that starts DMA.
        unsafe { self.register::<u32>(offset).write_volatile(value) };
    }

    fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: an aligned register of the device.
        unsafe { self.register::<u64>(offset).read_volatile() }
    }

    fn write_u64(&self, offset: usize, value: u64) {
        // SAFETY: an aligned register of the device. It may start DMA to any address: the callers
        // of `transfer` aim at memory of theirs, or at what the IOMMU has to refuse.
        unsafe { self.register::<u64>(offset).write_volatile(value) };
    }
}

/// The registers of an `edu` device that an interrupt handler needs.
#[derive(Clone, Copy, Debug)]
pub struct InterruptSide(NonNull<u8>);

// SAFETY: the registers belong to the machine, not to a thread.
unsafe impl Send for InterruptSide {}
// SAFETY: reads have no side effects, and writes are single accesses.
unsafe impl Sync for InterruptSide {}

impl InterruptSide {
    /// The reasons why it interrupts; 0 if it does not.
    pub fn status(&self) -> u32 {
        // SAFETY: the register is inside of BAR 0.
        let register = unsafe { self.0.byte_add(register::INTERRUPT_STATUS) };
        // SAFETY: an aligned register of the device.
        unsafe { register.cast::<u32>().read_volatile() }
    }

    /// Takes reasons back; without any left, the device does not interrupt any more.
    pub fn acknowledge(&self, reasons: u32) {
        // SAFETY: the register is inside of BAR 0.
        let register = unsafe { self.0.byte_add(register::INTERRUPT_ACKNOWLEDGE) };
        // SAFETY: an aligned register of the device, and not one that starts DMA.
        unsafe { register.cast::<u32>().write_volatile(reasons) };
    }
}
