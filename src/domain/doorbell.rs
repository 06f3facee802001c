//! Message-signalled interrupts of endpoints behind the IOMMU (§5.13.6.8).
//!
//! To an IOMMU a message is a write like any other. Either its address lies in an MSI region of
//! the endpoint, and passes untranslated, or the doorbell has to be mapped, or the interrupt is
//! lost.

use thiserror::Error;

use super::change::Held;
use super::record::Owner;
use super::{Domain, DomainState, MapError, MapOptions, UnmapError};
use crate::address::{EndpointId, Iova, IovaRange, PhysAddr, PhysRange};
use crate::platform::Platform;
use crate::wire::{Access, ReservedKind};

/// Where an endpoint has to send its messages, so that they arrive.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "without the address, the endpoint cannot interrupt"]
pub enum Doorbell {
    /// To the doorbell itself: the endpoint's messages are not translated.
    Bypass(PhysAddr),
    /// To this address, which is mapped until [`Domain::unmap_doorbell`].
    Mapped(Iova),
}

impl Doorbell {
    /// What the message address of the endpoint has to be.
    #[must_use]
    pub const fn address(&self) -> u64 {
        match self {
            Self::Bypass(address) => address.0,
            Self::Mapped(address) => address.0,
        }
    }
}

/// Why there is no way to a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DoorbellError {
    /// The endpoint is not attached to the domain.
    #[error("the endpoint does not belong to this domain")]
    NotAttached,
    /// The doorbell lies in a reserved region of the endpoint that is not for messages.
    #[error("the doorbell is reserved: {0}")]
    Reserved(IovaRange),
    /// The doorbell could not be mapped.
    #[error("{0}")]
    Map(#[from] MapError),
}

/// A granule of doorbells that is mapped, for all endpoints of the domain.
#[derive(Debug)]
pub(super) struct SharedDoorbell {
    phys: PhysRange,
    mapping: Held,
    users: usize,
}

impl DomainState {
    /// One more user of the granule, if it is mapped within reach.
    fn join_doorbell(&mut self, phys: PhysRange, limit: Iova) -> Option<Iova> {
        let doorbell = self
            .doorbells
            .iter_mut()
            .find(|doorbell| doorbell.phys == phys && doorbell.mapping.iova.end() <= limit)?;
        doorbell.users += 1;
        Some(doorbell.mapping.iova.start())
    }
}

impl<P: Platform> Domain<P> {
    /// Makes the doorbell at `doorbell` reachable for `endpoint`, up to the address `limit`.
    ///
    /// Where the endpoint has an MSI region around it, nothing needs to be done. Otherwise the
    /// granule around it is mapped, writable, once for all endpoints of the domain, until each
    /// has given it back to [`unmap_doorbell`](Self::unmap_doorbell). Allocates.
    ///
    /// # Errors
    ///
    /// [`DoorbellError`]; with [`MapError::MmioUnsupported`] if the device cannot map device
    /// registers.
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map): the endpoints of the domain can write anything to the granule of
    /// `doorbell`, so nothing but doorbells may be in it.
    pub unsafe fn map_doorbell(
        &self,
        endpoint: EndpointId,
        doorbell: PhysAddr,
        limit: Iova,
    ) -> Result<Doorbell, DoorbellError> {
        if !self.state.lock().members.contains(&endpoint) {
            return Err(DoorbellError::NotAttached);
        }
        let regions = self.shared.endpoints.reserved_regions(endpoint);
        let region = regions
            .unwrap_or_default()
            .iter()
            .find(|region| region.range.contains(Iova(doorbell.0)));
        match region.map(|region| (region.kind, region.range)) {
            Some((ReservedKind::Msi, _)) => return Ok(Doorbell::Bypass(doorbell)),
            Some((ReservedKind::Reserved, range)) => return Err(DoorbellError::Reserved(range)),
            None => {}
        }
        let rest = self.shared.geometry.granule() - 1;
        let offset = doorbell.0 & rest;
        let phys = PhysRange::new(PhysAddr(doorbell.0 & !rest), PhysAddr(doorbell.0 | rest))
            .ok_or(MapError::OutOfRange)?;
        let mapped = |start: Iova| Doorbell::Mapped(Iova(start.0 | offset));
        if let Some(start) = self.state.lock().join_doorbell(phys, limit) {
            return Ok(mapped(start));
        }
        let options = MapOptions::new(Access::WRITE | Access::MMIO).with_limit(limit);
        let mapping = self.map_held(core::iter::once(phys), options, Owner::Handle)?;
        let mut state = self.state.lock();
        if let Some(start) = state.join_doorbell(phys, limit) {
            // Somebody else was faster. If this fails, the second way to the doorbell stays.
            drop(state);
            let _ = self.end(mapping);
            return Ok(mapped(start));
        }
        state.doorbells.push(SharedDoorbell {
            phys,
            mapping,
            users: 1,
        });
        Ok(mapped(mapping.iova.start()))
    }

    /// Gives a doorbell back; the last of its users unmaps it.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap). A doorbell of another domain is [`UnmapError::NotMapped`]. After
    /// [`UnmapError::Busy`] the doorbell is given back, too, but its mapping stays until the next
    /// call of this method, or is used by the next [`map_doorbell`](Self::map_doorbell).
    pub fn unmap_doorbell(&self, doorbell: Doorbell) -> Result<(), UnmapError> {
        let Doorbell::Mapped(address) = doorbell else {
            return Ok(());
        };
        {
            let mut state = self.state.lock();
            let found = state
                .doorbells
                .iter_mut()
                .find(|doorbell| doorbell.mapping.iova.contains(address) && doorbell.users > 0);
            let Some(found) = found else {
                return Err(UnmapError::NotMapped(IovaRange::single(address)));
            };
            found.users -= 1;
        }
        let mut result = Ok(());
        while let Some(unused) = self.begin_unused_doorbell()? {
            let outcome = self.send_end(unused);
            self.state.lock().settle_end(unused, outcome);
            result = result.and(outcome.map_err(UnmapError::Quarantined));
        }
        result
    }

    /// Forgets a doorbell that nobody uses, and says which UNMAP that takes.
    fn begin_unused_doorbell(&self) -> Result<Option<Held>, UnmapError> {
        let mut state = self.state.lock();
        while let Some(at) = state.doorbells.iter().position(|bell| bell.users == 0) {
            if state.is_exclusive() {
                return Err(UnmapError::Busy);
            }
            let mapping = state.doorbells.swap_remove(at).mapping;
            if state.begin_end(mapping)? {
                return Ok(Some(mapping));
            }
        }
        Ok(None)
    }
}
