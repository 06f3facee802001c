//! Interrupts of aarch64: a GIC of version 2 or 3.

mod its;
mod v2;
mod v3;

use core::arch::asm;

use dtoolkit::fdt::Fdt;
use virtio_iommu::PhysAddr;
use virtio_iommu::topology::{HostBridge, RequesterId};

use crate::device_tree::MachineTree;
use crate::interrupts::device_tree::{self, Specifier};
use crate::interrupts::intx::RootPin;
use crate::interrupts::{ControllerError, Line, Message, MessageError, RouteError};
use arm_gic::IntId;
use v2::Version2;
use v3::Version3;

/// In a specifier: a shared interrupt, a private one.
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
/// In a specifier: level-triggered, high.
const LEVEL_HIGH: u32 = 4;
/// The first number of private and of shared interrupts.
const FIRST_PRIVATE: u32 = 16;
const FIRST_SHARED: u32 = 32;

/// In DAIF: interrupts are masked.
const MASKED: u64 = 1 << 7;

/// Masks interrupts; says whether they were on.
pub fn interrupts_off() -> bool {
    let before: u64;
    // SAFETY: changes the mask only. A barrier for the compiler: what follows is not moved up.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) before, options(nostack)) };
    before & MASKED == 0
}

/// Unmasks interrupts.
pub fn interrupts_on() {
    // SAFETY: the handlers use no more than this stack and the locks that mask interrupts.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// With interrupts masked: stops the CPU until one is pending, and lets its handlers run. A CPU
/// wakes for a pending interrupt even while it is masked.
pub fn sleep() {
    // SAFETY: as `interrupts_on`, and masked again afterwards.
    unsafe {
        asm!(
            "dsb sy",
            "wfi",
            "msr daifclr, #2",
            "isb",
            "msr daifset, #2",
            options(nostack)
        )
    };
}

/// An interrupt of the virtual timer at a tick, or none.
pub fn set_alarm(at: Option<u64>) {
    const OFF: u64 = 0;
    const ON: u64 = 1;
    // SAFETY: the virtual timer of this CPU, whose interrupt does nothing but come back here.
    unsafe {
        asm!(
            "msr cntv_ctl_el0, xzr",
            "msr cntv_cval_el0, {at}",
            "msr cntv_ctl_el0, {control}",
            "isb",
            at = in(reg) at.unwrap_or(u64::MAX),
            control = in(reg) if at.is_some() { ON } else { OFF },
            options(nostack),
        );
    }
}

/// What the two versions have in common.
struct Description {
    phandle: u32,
    /// The virtual timer.
    timer: IntId,
}

/// The interrupt controller.
pub struct Controller {
    description: Description,
    gic: Gic,
}

enum Gic {
    Version2(Version2),
    Version3(Version3),
}

impl Controller {
    /// Finds the controller and sets it up, with all lines masked but that of the timer.
    pub fn find(machine: &MachineTree) -> Result<Self, ControllerError> {
        let tree = machine.tree;
        let timer = timer(tree)?;
        let v2 = ["arm,cortex-a15-gic", "arm,gic-400"];
        let (node, gic) = if let Some(node) = device_tree::compatible(tree, &["arm,gic-v3"]) {
            (node, Gic::Version3(Version3::new(tree, node, timer)?))
        } else if let Some(node) = device_tree::compatible(tree, &v2) {
            (node, Gic::Version2(Version2::new(node, timer)?))
        } else {
            return Err(ControllerError::NotFound);
        };
        let phandle = device_tree::cell(&node, "phandle")
            .ok_or(ControllerError::Malformed("the GIC has no phandle"))?;
        Ok(Self {
            description: Description { phandle, timer },
            gic,
        })
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match &self.gic {
            Gic::Version2(gic) => gic.name(),
            Gic::Version3(gic) => gic.name(),
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

    fn line(&mut self, specifier: &Specifier) -> Result<Line, RouteError> {
        if specifier.controller != self.description.phandle {
            return Err(RouteError::NotALine);
        }
        let id = shared(specifier.cells()).ok_or(RouteError::NotALine)?;
        let exists = match &self.gic {
            Gic::Version2(gic) => gic.has(id),
            Gic::Version3(gic) => gic.has(id),
        };
        if !exists {
            return Err(RouteError::NotALine);
        }
        // Edges are for those devices whose specifier says so.
        match specifier.cells().last() {
            Some(&flags) if flags & 0xf != LEVEL_HIGH => self.set_edge(id),
            _ => {}
        }
        Ok(Line(id.into()))
    }

    fn set_edge(&mut self, id: IntId) {
        match &mut self.gic {
            Gic::Version2(gic) => gic.set_edge(id),
            Gic::Version3(gic) => gic.set_edge(id),
        }
    }

    /// A new message-signalled interrupt.
    pub fn message(&mut self, requester: RequesterId) -> Result<Message, MessageError> {
        match &mut self.gic {
            Gic::Version2(gic) => gic.message(),
            Gic::Version3(gic) => gic.message(requester),
        }
    }

    /// Unmasks a line.
    pub fn enable(&mut self, line: Line) {
        self.set_enabled(line, true);
    }

    /// Masks a line.
    pub fn disable(&mut self, line: Line) {
        self.set_enabled(line, false);
    }

    fn set_enabled(&mut self, Line(id): Line, enabled: bool) {
        let Ok(id) = IntId::try_from(id) else { return };
        match &mut self.gic {
            Gic::Version2(gic) => gic.set_enabled(id, enabled),
            Gic::Version3(gic) => gic.set_enabled(id, enabled),
        }
    }

    /// Acknowledges the most urgent pending line, if there is one. The timer is dealt with here.
    pub fn claim(&mut self) -> Option<Line> {
        loop {
            let id = match &mut self.gic {
                Gic::Version2(gic) => gic.claim(),
                Gic::Version3(gic) => gic.claim(),
            }?;
            if id != self.description.timer {
                return Some(Line(id.into()));
            }
            set_alarm(None);
            self.complete(Line(id.into()));
        }
    }

    /// The handlers of a claimed line are done. If its level is still high, it is pending again.
    pub fn complete(&mut self, Line(id): Line) {
        let Ok(id) = IntId::try_from(id) else { return };
        match &mut self.gic {
            Gic::Version2(gic) => gic.complete(id),
            Gic::Version3(gic) => gic.complete(id),
        }
    }
}

/// The shared interrupt that a specifier names.
fn shared(cells: &[u32]) -> Option<IntId> {
    match *cells {
        [SHARED, number, _] if number < IntId::MAX_SPI_COUNT => {
            IntId::try_from(FIRST_SHARED + number).ok()
        }
        _ => None,
    }
}

/// The interrupt of the virtual timer.
fn timer(tree: Fdt<'_>) -> Result<IntId, ControllerError> {
    const WRONG: ControllerError = ControllerError::Malformed("the timer has no interrupt");
    let kinds = ["arm,armv8-timer", "arm,armv7-timer"];
    let node = device_tree::compatible(tree, &kinds).ok_or(WRONG)?;
    let mut cells = device_tree::cells(&node, "interrupts").ok_or(WRONG)?;
    // In this order: secure physical, physical, virtual.
    let [_, _, wanted]: [[u32; 3]; 3] = [
        cells.take().ok_or(WRONG)?,
        cells.take().ok_or(WRONG)?,
        cells.take().ok_or(WRONG)?,
    ];
    match wanted {
        [PRIVATE, number, _] if number < IntId::PPI_COUNT => {
            IntId::try_from(FIRST_PRIVATE + number).map_err(|_| WRONG)
        }
        _ => Err(WRONG),
    }
}
