//! GIC version 2, and its message frame.

use arm_gic::gicv2::GicV2;
use arm_gic::gicv2::registers::{Gicc, Gicd};
use arm_gic::{IntId, InterruptGroup, Trigger};
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;
use dtoolkit::standard::NodeStandard;
use virtio_iommu::PhysAddr;

use crate::interrupts::{ControllerError, Line, Message, MessageError, device_tree};
use crate::registers::Registers;

/// Without the security extensions there is one group; with them, the normal world sees its own
/// group through the same registers.
const GROUP: InterruptGroup = InterruptGroup::Group0;

/// Distributor: which CPUs get a shared interrupt, one byte each. The crate leaves it alone.
const TARGETS: u64 = 0x800;
/// Distributor: how many interrupts there are.
const TYPE: u64 = 0x4;

/// GIC version 2.
pub struct Version2 {
    gic: GicV2<'static>,
    interrupts: u32,
    frame: Option<Frame>,
}

// SAFETY: the registers belong to the machine, not to a thread.
unsafe impl Send for Version2 {}

/// A frame whose doorbell raises shared interrupts (GICv2m).
struct Frame {
    doorbell: PhysAddr,
    next: u32,
    end: u32,
}

impl Version2 {
    /// Sets it up, with all interrupts masked but `timer`.
    pub(super) fn new(node: FdtNode<'_>, timer: IntId) -> Result<Self, ControllerError> {
        let mut registers = device_tree::registers(node);
        let (Some(distributor), Some(cpu)) = (registers.next(), registers.next()) else {
            return Err(ControllerError::Malformed("the GIC has no registers"));
        };
        let distributor = open(distributor, size_of::<Gicd>() as u64)?;
        let cpu = open(cpu, size_of::<Gicc>() as u64)?;
        let interrupts = ((distributor.read(TYPE) & 0x1f) + 1) * 32;
        for id in (32..u64::from(interrupts.min(1020))).step_by(4) {
            distributor.write(TARGETS + id, 0x0101_0101);
        }
        let (distributor, cpu) = (distributor.pointer().cast(), cpu.pointer().cast());
        // SAFETY: the device tree says that these are the registers, the direct map has them as
        // device memory, and nobody uses them any more but this driver.
        let mut gic = unsafe { GicV2::new(distributor.as_ptr(), cpu.as_ptr()) };
        gic.enable_all_interrupts(false);
        gic.setup();
        gic.enable_interrupt(timer, true)
            .map_err(|_| ControllerError::Stuck("the GIC has no timer"))?;
        Ok(Self {
            gic,
            interrupts,
            frame: frame(node)?,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.frame {
            Some(_) => "GICv2 and GICv2m",
            None => "GICv2",
        }
    }

    pub(super) fn has(&self, id: IntId) -> bool {
        id.raw_value() < self.interrupts
    }

    pub(super) fn set_edge(&mut self, id: IntId) {
        self.gic.set_trigger(id, Trigger::Edge);
    }

    pub(super) fn message(&mut self) -> Result<Message, MessageError> {
        let frame = self.frame.as_mut().ok_or(MessageError::Unsupported)?;
        let number = frame.next;
        if number >= frame.end || number >= self.interrupts {
            return Err(MessageError::Exhausted);
        }
        frame.next += 1;
        let message = Message {
            address: frame.doorbell,
            data: number,
            line: Line(number),
        };
        let id = IntId::try_from(number).map_err(|_| MessageError::Exhausted)?;
        self.set_edge(id);
        Ok(message)
    }

    pub(super) fn set_enabled(&mut self, id: IntId, enabled: bool) {
        if !self.has(id) {
            return;
        }
        // Shared interrupts can always be enabled.
        let _ = self.gic.enable_interrupt(id, enabled);
    }

    pub(super) fn claim(&mut self) -> Option<IntId> {
        self.gic.get_and_acknowledge_interrupt(GROUP)
    }

    pub(super) fn complete(&mut self, id: IntId) {
        self.gic.end_interrupt(id, GROUP);
    }
}

/// Registers of the GIC, at least `needed` bytes.
pub(super) fn open((base, len): (u64, u64), needed: u64) -> Result<Registers, ControllerError> {
    if len < needed {
        return Err(ControllerError::Malformed("the GIC is too short"));
    }
    // SAFETY: the device tree says that these are the registers, and this is their only driver.
    unsafe { Registers::new(base, len) }.ok_or(ControllerError::OutOfReach(PhysAddr(base)))
}

/// The message frame, if there is one.
fn frame(gic: FdtNode<'_>) -> Result<Option<Frame>, ControllerError> {
    const TYPE: u64 = 0x008;
    const DOORBELL: u64 = 0x040;
    let node = gic
        .children()
        .find(|node| node.is_compatible("arm,gic-v2m-frame"));
    let Some(place) = node.and_then(|node| device_tree::registers(node).next()) else {
        return Ok(None);
    };
    let registers = open(place, 0x1000)?;
    let kind = registers.read(TYPE);
    let (first, count) = ((kind >> 16) & 0x3ff, kind & 0x3ff);
    Ok(Some(Frame {
        doorbell: PhysAddr(registers.phys().0 + DOORBELL),
        next: first,
        end: first + count,
    }))
}
