//! The registers of an NVMe controller (NVM Express base specification 1.4, §3.1).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use virtio_iommu::topology::pci::Function;

use super::super::wake::Quiet;
use super::super::{BlockError, wait_for};
use crate::interrupts::Handled;
use crate::registers::Registers;

/// Offsets.
mod offset {
    pub const CAP: u64 = 0x00;
    pub const INTMS: u64 = 0x0c;
    pub const INTMC: u64 = 0x10;
    pub const CC: u64 = 0x14;
    pub const CSTS: u64 = 0x1c;
    pub const AQA: u64 = 0x24;
    pub const ASQ: u64 = 0x28;
    pub const ACQ: u64 = 0x30;
    pub const DOORBELLS: u64 = 0x1000;
}

/// CC: enabled; entries of 64 and of 16 bytes; pages of 4 KiB and the NVM command set are zeros.
const ENABLE: u32 = 1 << 0;
const ENTRIES: u32 = 6 << 16 | 4 << 20;

/// CSTS: ready; a fatal error.
const READY: u32 = 1 << 0;
const FATAL: u32 = 1 << 1;

/// All that a controller that is gone says.
const GONE: u32 = u32::MAX;

/// What a controller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The most entries of a queue.
    pub fn queue_entries(self) -> u32 {
        u32::from(self.0 as u16) + 1
    }

    /// Whether it takes pages of 4 KiB.
    fn small_pages(self) -> bool {
        self.0 >> 48 & 0xf == 0
    }

    /// Whether it has the NVM command set.
    fn nvm(self) -> bool {
        self.0 >> 37 & 1 == 1
    }

    /// From one doorbell to the next, in bytes.
    fn stride(self) -> u64 {
        4 << (self.0 >> 32 & 0xf)
    }
}

/// The registers.
#[derive(Clone, Copy)]
pub struct Controller {
    registers: Registers,
    /// In bytes.
    stride: u64,
}

/// Where the queues of the controller itself are.
pub struct AdminQueues {
    /// For the controller.
    pub submission: u64,
    /// For the controller.
    pub completion: u64,
    /// Of each.
    pub entries: u16,
}

impl Controller {
    /// The controller of a function that was switched on, and what it can do.
    ///
    /// # Errors
    ///
    /// [`BlockError::Registers`] without what this driver needs.
    pub fn find(function: &Function) -> Result<(Self, Capabilities), BlockError> {
        let bar = function.bar(0);
        let place = bar.and_then(|bar| Some((bar.address?.cpu?, bar.size)));
        let (base, size) = place.ok_or(BlockError::Registers("no BAR"))?;
        if size < offset::DOORBELLS + 0x1000 {
            return Err(BlockError::Registers("too short"));
        }
        // SAFETY: the function's class says that these are the registers of a controller, and the
        // caller drives it.
        let registers = unsafe { Registers::new(base.0, size) };
        let registers = registers.ok_or(BlockError::Registers("out of reach"))?;
        let capabilities = Capabilities(registers.read_u64(offset::CAP));
        if !capabilities.nvm() || !capabilities.small_pages() {
            return Err(BlockError::Registers("no NVM command set, or large pages"));
        }
        let stride = capabilities.stride();
        // Two queues with two doorbells each.
        if offset::DOORBELLS + 4 * stride > size {
            return Err(BlockError::Registers("too short"));
        }
        Ok((Self { registers, stride }, capabilities))
    }

    /// Resets the controller (§7.3.2): afterwards it does nothing of what it was asked for.
    ///
    /// # Errors
    ///
    /// [`BlockError::Timeout`].
    pub fn disable(&self) -> Result<(), BlockError> {
        let configuration = self.registers.read(offset::CC);
        if configuration & ENABLE != 0 {
            // Not while it is on its way up (§3.1.5).
            wait_for(|| self.registers.read(offset::CSTS) & (READY | FATAL) != 0)?;
        }
        self.registers.write(offset::CC, configuration & !ENABLE);
        wait_for(|| {
            let status = self.registers.read(offset::CSTS);
            status != GONE && status & READY == 0
        })
    }

    /// Brings the controller up (§7.6.1), without interrupts.
    ///
    /// # Errors
    ///
    /// [`BlockError::Timeout`], [`BlockError::NeedsReset`].
    pub fn enable(&self, queues: &AdminQueues) -> Result<(), BlockError> {
        let last = u32::from(queues.entries.saturating_sub(1));
        self.registers.write(offset::AQA, last << 16 | last);
        self.registers.write_u64(offset::ASQ, queues.submission);
        self.registers.write_u64(offset::ACQ, queues.completion);
        self.registers.write(offset::CC, ENTRIES);
        self.registers.write(offset::CC, ENTRIES | ENABLE);
        self.interrupts(false);
        wait_for(|| self.registers.read(offset::CSTS) & (READY | FATAL) != 0)?;
        match self.is_broken() {
            true => Err(BlockError::NeedsReset),
            false => Ok(()),
        }
    }

    /// Whether the controller has given up.
    pub fn is_broken(&self) -> bool {
        let status = self.registers.read(offset::CSTS);
        status == GONE || status & FATAL != 0
    }

    /// Lets the interrupt of the pin through, or not (§3.1.3).
    fn interrupts(&self, on: bool) {
        let register = if on { offset::INTMC } else { offset::INTMS };
        self.registers.write(register, 1);
    }

    /// The doorbell of new commands of a queue, 0 or 1.
    #[inline]
    pub fn ring_tail(&self, queue: u16, tail: u16) {
        self.ring(2 * u64::from(queue), tail);
    }

    /// The doorbell of completions that were taken.
    #[inline]
    pub fn ring_head(&self, queue: u16, head: u16) {
        self.ring(2 * u64::from(queue) + 1, head);
    }

    #[inline]
    fn ring(&self, number: u64, value: u16) {
        let offset = offset::DOORBELLS + number * self.stride;
        self.registers.write(offset, value.into());
    }
}

/// The interrupt of a controller, which is let through for one sleep.
pub struct Pin {
    controller: Controller,
    open: AtomicBool,
}

impl Pin {
    /// That of a controller.
    pub fn new(controller: Controller) -> Self {
        let open = AtomicBool::new(false);
        Self { controller, open }
    }

    /// Lets one interrupt through.
    pub fn open(&self) {
        self.open.store(true, Relaxed);
        self.controller.interrupts(true);
    }

    /// Lets none through.
    pub fn close(&self) {
        self.controller.interrupts(false);
        self.open.store(false, Relaxed);
    }
}

impl Quiet for Pin {
    fn quiet(&self) -> Handled {
        // The controller has no register that says whether it was the reason. Whoever sleeps looks
        // at its queue anyway.
        if !self.open.swap(false, Relaxed) {
            return Handled::No;
        }
        self.controller.interrupts(false);
        Handled::Yes
    }
}
