//! GIC version 3; messages by its translation service.

use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3};
use arm_gic::{IntId, InterruptGroup, Trigger, UniqueMmioPointer};
use dtoolkit::fdt::{Fdt, FdtNode};
use virtio_iommu::topology::RequesterId;

use super::its::Its;
use super::v2::open;
use crate::interrupts::{ControllerError, Message, MessageError, device_tree};

/// That of the normal world.
const GROUP: InterruptGroup = InterruptGroup::Group1;
/// The redistributor of this CPU: the first one.
const CPU: usize = 0;

/// GIC version 3.
pub struct Version3 {
    gic: GicV3<'static>,
    its: Option<Its>,
}

impl Version3 {
    /// Sets it up, with all interrupts masked but `timer`.
    pub(super) fn new(
        tree: Fdt<'_>,
        node: FdtNode<'_>,
        timer: IntId,
    ) -> Result<Self, ControllerError> {
        let mut registers = device_tree::registers(node);
        let (Some(distributor), Some(redistributors)) = (registers.next(), registers.next()) else {
            return Err(ControllerError::Malformed("the GIC has no registers"));
        };
        let distributor = open(distributor, size_of::<Gicd>() as u64)?;
        let redistributors = open(redistributors, size_of::<GicrSgi>() as u64)?;
        let its = Its::new(tree, node, distributor, redistributors)?;
        // SAFETY: the device tree says that these are the registers, the direct map has them as
        // device memory, and nobody uses them any more but this driver.
        let gicd = unsafe { UniqueMmioPointer::<Gicd>::new(distributor.pointer().cast()) };
        // SAFETY: as above; one redistributor is within the length.
        let gic = unsafe { GicV3::new(gicd, redistributors.pointer().cast(), 1) };
        let mut gic = gic.map_err(|_| ControllerError::Malformed("the GIC is of no known kind"))?;
        gic.setup(CPU);
        gic.enable_all_interrupts(false);
        GicCpuInterface::set_priority_mask(0xff);
        gic.enable_interrupt(timer, Some(CPU), true)
            .map_err(|_| ControllerError::Stuck("the GIC has no timer"))?;
        Ok(Self { gic, its })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.its {
            Some(_) => "GICv3 and ITS",
            None => "GICv3",
        }
    }

    pub(super) fn has(&self, id: IntId) -> bool {
        id.spi_index()
            .is_some_and(|index| index < self.gic.typer().num_spis() as usize)
    }

    pub(super) fn set_edge(&mut self, id: IntId) {
        // Whoever asks has asked `has` before.
        let _ = self.gic.set_trigger(id, None, Trigger::Edge);
    }

    pub(super) fn message(&mut self, requester: RequesterId) -> Result<Message, MessageError> {
        let its = self.its.as_mut().ok_or(MessageError::Unsupported)?;
        its.message(requester)
    }

    pub(super) fn set_enabled(&mut self, id: IntId, enabled: bool) {
        if self.has(id) {
            let _ = self.gic.enable_interrupt(id, None, enabled);
        } else if let Some(its) = &mut self.its {
            its.set_enabled(id, enabled);
        }
    }

    pub(super) fn claim(&mut self) -> Option<IntId> {
        GicCpuInterface::get_and_acknowledge_interrupt(GROUP)
    }

    pub(super) fn complete(&mut self, id: IntId) {
        GicCpuInterface::end_interrupt(id, GROUP);
    }
}
