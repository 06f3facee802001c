//! Interrupts of riscv64: the PLIC, or the APLIC with or without the IMSIC.

mod aia;
mod plic;

use core::arch::asm;

use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use dtoolkit::standard::NodeStandard;
use virtio_iommu::PhysAddr;
use virtio_iommu::topology::{HostBridge, RequesterId};

use super::entry::boot_hart;
use crate::device_tree::MachineTree;
use crate::interrupts::device_tree::{self, Cells, Specifier};
use crate::interrupts::intx::RootPin;
use crate::interrupts::{ControllerError, Line, Message, MessageError, RouteError};
use aia::Aia;
use plic::Plic;

/// In `sstatus`: interrupts are on.
const SIE: usize = 1 << 1;
/// In `sie`: the timer.
const TIMER: usize = 1 << 5;
/// In `sie`: the interrupt controller. Its number, 9, is what device trees say.
const EXTERNAL: usize = 1 << 9;
const EXTERNAL_CAUSE: u32 = 9;

/// Masks interrupts; says whether they were on.
pub fn interrupts_off() -> bool {
    let before: usize;
    // SAFETY: changes the mask only. A barrier for the compiler: what follows is not moved up.
    unsafe { asm!("csrrc {}, sstatus, {}", out(reg) before, in(reg) SIE, options(nostack)) };
    before & SIE != 0
}

/// Unmasks interrupts.
pub fn interrupts_on() {
    // SAFETY: the handlers use no more than this stack and the locks that mask interrupts.
    unsafe { asm!("csrs sstatus, {}", in(reg) SIE, options(nostack)) };
}

/// With interrupts masked: stops the CPU until one is pending, and lets its handlers run. A hart
/// wakes for a pending interrupt even while it is masked.
pub fn sleep() {
    // SAFETY: as `interrupts_on`, and masked again afterwards.
    unsafe {
        asm!(
            "wfi",
            "csrs sstatus, {sie}",
            "csrc sstatus, {sie}",
            sie = in(reg) SIE,
            options(nostack),
        );
    }
}

/// A timer interrupt at a tick, or none.
pub fn set_alarm(at: Option<u64>) {
    const TIME: usize = 0x5449_4d45;
    // SAFETY: masks the timer of this hart.
    unsafe { asm!("csrc sie, {}", in(reg) TIMER, options(nostack)) };
    // SAFETY: an SBI call: the next timer interrupt. It preserves every register but a0 and a1.
    unsafe {
        asm!(
            "ecall",
            inlateout("a0") at.unwrap_or(u64::MAX) => _,
            lateout("a1") _,
            in("a6") 0usize,
            in("a7") TIME,
            options(nostack),
        );
    }
    if at.is_some() {
        // SAFETY: unmasks the timer of this hart, for which there is a handler.
        unsafe { asm!("csrs sie, {}", in(reg) TIMER, options(nostack)) };
    }
}

/// The interrupt controller.
pub enum Controller {
    /// Wires only.
    Plic(Plic),
    /// Wires, and messages where there is an IMSIC.
    Aia(Aia),
}

impl Controller {
    /// Finds the controller and sets it up, with all lines masked.
    pub fn find(machine: &MachineTree) -> Result<Self, ControllerError> {
        let hart = HartController::find(machine.tree)?;
        let controller = match Aia::find(machine.tree, &hart)? {
            Some(aia) => Self::Aia(aia),
            None => Self::Plic(Plic::find(machine.tree, &hart)?.ok_or(ControllerError::NotFound)?),
        };
        // SAFETY: there are handlers; what this does not unmask stays masked.
        unsafe { asm!("csrs sie, {}", in(reg) EXTERNAL, options(nostack)) };
        Ok(controller)
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plic(_) => "PLIC",
            Self::Aia(aia) => aia.name(),
        }
    }

    /// The line of a pin of the root bus.
    pub fn intx(
        &mut self,
        machine: &MachineTree,
        bridge: &HostBridge,
        at: RootPin,
    ) -> Result<Line, RouteError> {
        let node = bridge.node.as_deref().ok_or(RouteError::NotDescribed)?;
        self.line(&device_tree::pci_pin(machine.tree, node, at)?)
    }

    /// The line of a virtio-mmio slot.
    pub fn slot(&mut self, machine: &MachineTree, base: PhysAddr) -> Result<Line, RouteError> {
        self.line(&device_tree::device(machine.tree, base)?)
    }

    fn line(&self, specifier: &Specifier) -> Result<Line, RouteError> {
        match self {
            Self::Plic(plic) => plic.line(specifier),
            Self::Aia(aia) => aia.line(specifier),
        }
        .ok_or(RouteError::NotALine)
    }

    /// A new message-signalled interrupt; anybody may send it.
    pub fn message(&mut self, _: RequesterId) -> Result<Message, MessageError> {
        match self {
            Self::Plic(_) => Err(MessageError::Unsupported),
            Self::Aia(aia) => aia.message(),
        }
    }

    /// Unmasks a line.
    pub fn enable(&mut self, line: Line) {
        match self {
            Self::Plic(plic) => plic.enable(line),
            Self::Aia(aia) => aia.enable(line),
        }
    }

    /// Masks a line.
    pub fn disable(&mut self, line: Line) {
        match self {
            Self::Plic(plic) => plic.disable(line),
            Self::Aia(aia) => aia.disable(line),
        }
    }

    /// Acknowledges the most urgent pending line, if there is one.
    pub fn claim(&mut self) -> Option<Line> {
        match self {
            Self::Plic(plic) => plic.claim(),
            Self::Aia(aia) => aia.claim(),
        }
    }

    /// The handlers of a claimed line are done.
    pub fn complete(&mut self, line: Line) {
        match self {
            Self::Plic(plic) => plic.complete(line),
            Self::Aia(aia) => aia.complete(line),
        }
    }
}

/// The interrupt controller inside of the hart that this kernel runs on.
struct HartController {
    phandle: u32,
}

impl HartController {
    fn find(tree: Fdt<'_>) -> Result<Self, ControllerError> {
        let cpus = tree.find_node("/cpus").ok_or(ControllerError::NotFound)?;
        let mut harts = cpus.children();
        // `#size-cells` is 0 here: the address is all that there is.
        let hart = harts
            .find(|node| {
                let reg = node.reg().ok().flatten().and_then(|mut reg| reg.next());
                reg.and_then(|reg| reg.address::<u64>().ok()) == Some(boot_hart())
            })
            .ok_or(ControllerError::Malformed("the hart is not described"))?;
        let inner = hart
            .children()
            .find(|node| node.is_compatible("riscv,cpu-intc"));
        let phandle = inner.and_then(|node| device_tree::cell(&node, "phandle"));
        Ok(Self {
            phandle: phandle.ok_or(ControllerError::Malformed("the hart takes no interrupts"))?,
        })
    }

    /// At which place of `interrupts-extended` the supervisor of this hart is.
    fn place(&self, mut extended: Cells<'_>) -> Option<u32> {
        let mut place = 0;
        while let Some([phandle, cause]) = extended.take() {
            if phandle == self.phandle && cause == EXTERNAL_CAUSE {
                return Some(place);
            }
            place += 1;
        }
        None
    }
}
