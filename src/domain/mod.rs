//! One address space: what is mapped, who is attached, what is quarantined.

mod attach;
mod doorbell;
mod error;
mod ledger;
mod map;

use alloc::sync::Arc;
use alloc::vec::Vec;

use lock_api::Mutex;

pub use doorbell::{Doorbell, DoorbellError};
pub use error::{AttachError, CreateError, MapError, UnmapError};
pub use map::MapOptions;

use crate::address::{DomainId, EndpointId, Iova, IovaRange, PhysAddr};
use crate::device::{ClaimError, DomainEnd, Shared};
use crate::iova::IovaAllocator;
use crate::platform::Platform;
use crate::wire::{Access, Request};
use doorbell::SharedDoorbell;
use ledger::{Ledger, State};

/// An address space, and the endpoints that live in it.
///
/// The device knows a domain only while it has an endpoint. The mappings of a domain whose last
/// endpoint was detached are kept here, and are made known to the device again with the next
/// [`attach`](Self::attach).
///
/// Dropping a domain detaches its endpoints.
///
/// # Contexts
///
/// Every method may be called from several CPUs at once. Those that talk to the device wait for
/// up to [`Options::timeout`](crate::Options::timeout) per batch of requests, without a lock, so
/// they do not belong in an interrupt handler. The lock of the domain is taken before that of the
/// device, and both for a bounded time. [`map`](Self::map) and [`unmap`](Self::unmap) and their
/// relatives do not allocate.
pub struct Domain<P: Platform> {
    shared: Arc<Shared<P>>,
    id: DomainId,
    state: Mutex<P::Lock, DomainState>,
}

struct DomainState {
    /// Sorted by nothing; in the order of attaching.
    members: Vec<EndpointId>,
    /// An endpoint is being attached or detached.
    changing: bool,
    /// The device has the mappings of the ledger, for sure.
    restored: bool,
    iova: IovaAllocator,
    ledger: Ledger,
    doorbells: Vec<SharedDoorbell>,
}

impl DomainState {
    /// Forgets a mapping and frees its addresses.
    fn forget(&mut self, iova: IovaRange) {
        self.ledger.remove(iova);
        let freed = self.iova.free(iova);
        debug_assert!(freed);
    }
}

impl<P: Platform> core::fmt::Debug for Domain<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Domain")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Domain<P> {
    pub(crate) fn new(shared: &Arc<Shared<P>>, capacity: usize) -> Result<Self, CreateError> {
        let geometry = &shared.geometry;
        let iova = IovaAllocator::new(geometry.usable_range(), geometry.granule(), capacity)
            .ok_or(CreateError::OutOfMemory)?;
        let ledger = Ledger::new(capacity).ok_or(CreateError::OutOfMemory)?;
        let id = shared
            .claim_domain_id(DomainEnd::Lowest)
            .map_err(|error| match error {
                ClaimError::NoneFree => CreateError::NoDomainId,
                ClaimError::Request(error) => CreateError::Request(error),
            })?;
        Ok(Self {
            shared: shared.clone(),
            id,
            state: Mutex::new(DomainState {
                members: Vec::new(),
                changing: false,
                restored: false,
                iova,
                ledger,
                doorbells: Vec::new(),
            }),
        })
    }

    /// The id under which the device knows the domain.
    #[must_use]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// How many mappings are in force.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.state.lock().ledger.count(State::Mapped)
    }

    /// How many mappings the device may still translate although they were given up. Their
    /// addresses are never handed out again.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.state.lock().ledger.count(State::Quarantined)
    }

    /// How many endpoints are attached, or may be.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.state.lock().members.len()
    }

    /// Where an access of an endpoint to `iova` goes, and which accesses are allowed.
    ///
    /// `None` if nothing is mapped there.
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<(PhysAddr, Access)> {
        self.state.lock().ledger.translate(iova)
    }
}

impl<P: Platform> Drop for Domain<P> {
    fn drop(&mut self) {
        while let Some(&endpoint) = self.state.get_mut().members.first() {
            // With it goes its group.
            if let Err(error) = self.detach(endpoint) {
                log::warn!("domain {} keeps endpoint {endpoint}: {error}", self.id);
                break;
            }
        }
        let state = self.state.get_mut();
        let empty = state.members.is_empty() && state.ledger.count(State::Quarantined) == 0;
        // A request that was never confirmed may yet take effect on the id.
        let late = |request: &Request| request.domain() == Some(self.id);
        if empty && !self.shared.may_yet(late) {
            self.shared.domain_ids.lock().give_back(self.id);
        }
    }
}
