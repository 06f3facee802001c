//! The platform-level interrupt controller: wires, level-triggered at the gateway.

use dtoolkit::fdt::Fdt;

use super::HartController;
use crate::interrupts::device_tree::{self, Specifier};
use crate::interrupts::{ControllerError, Line};
use crate::registers::Registers;

/// Registers, in bytes.
mod register {
    /// One word for each source.
    pub const PRIORITY: u64 = 0;
    /// One bit for each source, 128 bytes for each context.
    pub const ENABLE: u64 = 0x2000;
    pub const ENABLE_STRIDE: u64 = 0x80;
    /// 4 KiB for each context.
    pub const CONTEXT: u64 = 0x20_0000;
    pub const CONTEXT_STRIDE: u64 = 0x1000;
    pub const THRESHOLD: u64 = 0;
    pub const CLAIM: u64 = 4;
}

/// Sources that a PLIC can have.
const MAX_SOURCES: u32 = 1023;

/// The PLIC.
pub struct Plic {
    registers: Registers,
    phandle: u32,
    sources: u32,
    /// The supervisor of this hart.
    context: u64,
}

impl Plic {
    /// Finds it and sets it up, with all sources masked.
    pub(super) fn find(
        tree: Fdt<'_>,
        hart: &HartController,
    ) -> Result<Option<Self>, ControllerError> {
        let kinds = ["sifive,plic-1.0.0", "riscv,plic0"];
        let Some(node) = device_tree::compatible(tree, &kinds) else {
            return Ok(None);
        };
        let missing = |what| move || ControllerError::Malformed(what);
        let phandle = device_tree::cell(&node, "phandle");
        let sources = device_tree::cell(&node, "riscv,ndev")
            .filter(|sources| (1..=MAX_SOURCES).contains(sources));
        let extended = device_tree::cells(&node, "interrupts-extended");
        let context = extended.and_then(|extended| hart.place(extended));
        let (base, len) = device_tree::registers(node)
            .next()
            .ok_or_else(missing("the PLIC has no registers"))?;
        let context = u64::from(context.ok_or_else(missing("the PLIC does not reach the hart"))?);
        if register::CONTEXT + (context + 1) * register::CONTEXT_STRIDE > len {
            return Err(ControllerError::Malformed("the PLIC is too short"));
        }
        // SAFETY: the device tree says that these are the registers of the PLIC, and this is its
        // only driver.
        let registers = unsafe { Registers::new(base, len) }
            .ok_or(ControllerError::OutOfReach(virtio_iommu::PhysAddr(base)))?;
        let plic = Self {
            registers,
            phandle: phandle.ok_or_else(missing("the PLIC has no phandle"))?,
            sources: sources.ok_or_else(missing("the PLIC has no sources"))?,
            context,
        };
        for word in 0..=u64::from(plic.sources / 32) {
            plic.registers.write(plic.enables() + 4 * word, 0);
        }
        plic.registers
            .write(plic.context() + register::THRESHOLD, 0);
        Ok(Some(plic))
    }

    fn enables(&self) -> u64 {
        register::ENABLE + self.context * register::ENABLE_STRIDE
    }

    fn context(&self) -> u64 {
        register::CONTEXT + self.context * register::CONTEXT_STRIDE
    }

    pub(super) fn line(&self, specifier: &Specifier) -> Option<Line> {
        match *specifier.cells() {
            [source]
                if specifier.controller == self.phandle && (1..=self.sources).contains(&source) =>
            {
                Some(Line(source))
            }
            _ => None,
        }
    }

    fn set_enabled(&self, Line(source): Line, enabled: bool) {
        let word = self.enables() + 4 * u64::from(source / 32);
        let bit = 1 << (source % 32);
        let before = self.registers.read(word);
        let after = if enabled { before | bit } else { before & !bit };
        self.registers.write(word, after);
    }

    pub(super) fn enable(&mut self, line: Line) {
        self.set_enabled(line, true);
        // Second, because QEMU's PLIC looks at what is pending when a priority is written, and not
        // when a source is enabled.
        let priority = register::PRIORITY + 4 * u64::from(line.0);
        self.registers.write(priority, 1);
    }

    pub(super) fn disable(&mut self, line: Line) {
        self.set_enabled(line, false);
    }

    pub(super) fn claim(&mut self) -> Option<Line> {
        match self.registers.read(self.context() + register::CLAIM) {
            source @ 1.. if source <= self.sources => Some(Line(source)),
            _ => None,
        }
    }

    /// Until then the gateway holds the source back; if it is still asserted, it is pending again.
    pub(super) fn complete(&mut self, line: Line) {
        self.registers
            .write(self.context() + register::CLAIM, line.0);
    }
}
