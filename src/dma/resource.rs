//! Registers and memory of other devices: peer-to-peer DMA (§5.13.6.5).

use alloc::sync::Arc;
use core::mem::ManuallyDrop;

use super::DmaDevice;
use super::direction::Direction;
use crate::address::{Iova, IovaRange, PhysRange};
use crate::domain::{Domain, Erased, Fate, Held, MapError, Owner, UnmapError};
use crate::platform::Platform;
use crate::wire::Access;

/// Registers or memory of another device, mapped with [`Access::MMIO`].
///
/// Dropping it unmaps it, and quarantines the addresses.
#[must_use = "a resource that is dropped is unmapped, and its addresses are quarantined"]
pub struct Resource<P: Platform> {
    domain: ManuallyDrop<Arc<Domain<P>>>,
    held: Held,
}

impl<P: Platform> Drop for Resource<P> {
    fn drop(&mut self) {
        // SAFETY: it is not used afterwards.
        let domain = unsafe { ManuallyDrop::take(&mut self.domain) };
        domain.abandon(self.held, Erased::new(()));
    }
}

impl<P: Platform> core::fmt::Debug for Resource<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Resource({})", self.held.iova)
    }
}

impl<P: Platform> Resource<P> {
    /// Where the endpoint finds the first byte.
    #[must_use]
    pub fn device_addr(&self) -> Iova {
        self.held.iova.start()
    }

    /// The addresses of the endpoint.
    #[must_use]
    pub fn iova(&self) -> IovaRange {
        self.held.iova
    }

    /// Unmaps the resource.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]: the addresses are quarantined.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`](super::Mapping::complete): the endpoint uses the addresses no
    /// more.
    pub unsafe fn unmap(self) -> Result<(), UnmapError> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so nothing takes it out again.
        let domain = unsafe { ManuallyDrop::take(&mut this.domain) };
        domain.end_held(this.held)
    }
}

impl<P: Platform> DmaDevice<P> {
    /// Maps registers or memory of another device, whole granules.
    ///
    /// # Errors
    ///
    /// [`MapError`]; [`MapError::MmioUnsupported`] if the IOMMU cannot do it.
    ///
    /// # Safety
    ///
    /// The endpoints of the domain may access `phys` at any time until the resource is unmapped
    /// and they are done with it; the caller promises that this breaks nobody's assumptions.
    pub unsafe fn map_resource<D: Direction>(
        &self,
        phys: PhysRange,
    ) -> Result<Resource<P>, MapError> {
        let options = self.options_for(D::ACCESS | Access::MMIO, phys.len());
        let domain = self.domain();
        let draft = domain.draft(core::iter::once(phys), options, 0)?;
        let plan = domain.plan_one(draft, Owner::Handle)?;
        domain.change(None, &plan, &mut Fate::default())?;
        Ok(Resource {
            domain: ManuallyDrop::new(domain.clone()),
            held: plan.held,
        })
    }
}
