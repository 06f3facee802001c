//! One address space: what is mapped, who is attached, what is quarantined.

mod attach;
mod change;
mod deferred;
mod doorbell;
mod erased;
mod error;
mod ledger;
mod map;
mod parts;
mod quarantine;
mod record;
mod runs;
mod special;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::time::Duration;

use lock_api::Mutex;

pub use doorbell::{Doorbell, DoorbellError};
pub use error::{AttachError, CreateError, MapError, UnmapError};
pub use map::MapOptions;
pub use quarantine::Released;
pub use special::{BlockedDomain, BypassDomain, IdentityDomain};

pub(crate) use change::{Fate, Held, Plan};
pub(crate) use deferred::{Again, ParkError, Place};
pub(crate) use erased::Erased;
pub(crate) use parts::{Extent, Parts};
pub(crate) use record::Owner;

use crate::address::{DomainId, EndpointId, Iova, IovaRange, PhysAddr};
use crate::device::{ClaimError, DomainEnd, Shared};
use crate::dma::Audience;
use crate::platform::Platform;
use crate::wire::{Access, AttachFlags, Request};
use deferred::ParkedList;
use doorbell::SharedDoorbell;
use ledger::Ledger;
use quarantine::Pen;
use record::State;

/// What a domain has room for. All of it is allocated when the domain is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainOptions {
    /// Mappings, and parts of scattered mappings; 48 bytes each.
    pub mappings: usize,
    /// Buffers that were given up while an endpoint may have been using them; 64 by default. What
    /// finds no room is lost for good, which [`Domain::lost`] counts.
    pub quarantine: usize,
    /// Mappings whose UNMAP is put off; 256 by default.
    pub deferred: usize,
    /// How long an UNMAP is put off, at the most; 10 ms by default. Somebody has to call
    /// [`Domain::poll`] in time.
    pub max_age: Duration,
}

impl DomainOptions {
    /// Room for `mappings` mappings, and as much of the rest as is usual.
    #[must_use]
    pub const fn new(mappings: usize) -> Self {
        Self {
            mappings,
            quarantine: 64,
            deferred: 256,
            max_age: Duration::from_millis(10),
        }
    }

    /// Room for so many buffers in quarantine.
    #[must_use]
    pub const fn with_quarantine(mut self, buffers: usize) -> Self {
        self.quarantine = buffers;
        self
    }

    /// Room for so many mappings whose UNMAP is put off, each for `max_age` at the most.
    #[must_use]
    pub const fn with_deferred(mut self, mappings: usize, max_age: Duration) -> Self {
        self.deferred = mappings;
        self.max_age = max_age;
        self
    }
}

impl From<usize> for DomainOptions {
    fn from(mappings: usize) -> Self {
        Self::new(mappings)
    }
}

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
    audience: Audience,
    /// Of every ATTACH.
    flags: AttachFlags,
    /// A MAP with which mappings were restored was not confirmed: it may come at any time.
    late_maps: AtomicBool,
    state: Mutex<P::Lock, DomainState>,
}

struct DomainState {
    /// Sorted by nothing; in the order of attaching.
    members: Vec<EndpointId>,
    /// An endpoint is being attached or detached.
    changing: bool,
    /// The device has the mappings of the ledger, for sure.
    restored: bool,
    /// Somebody is releasing the quarantine.
    releasing: bool,
    ledger: Ledger,
    parked: ParkedList,
    pens: Vec<Pen>,
    /// Buffers for which no pen was free.
    lost: usize,
    doorbells: Vec<SharedDoorbell>,
}

impl DomainState {
    /// Whether the device is being told of the mappings, or may be about to forget them: none of
    /// them changes meanwhile.
    fn is_exclusive(&self) -> bool {
        self.changing
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
    pub(crate) fn new(
        shared: &Arc<Shared<P>>,
        options: DomainOptions,
    ) -> Result<Self, CreateError> {
        let geometry = &shared.geometry;
        let ledger = Ledger::new(
            geometry.usable_range(),
            geometry.granule(),
            options.mappings,
        )
        .ok_or(CreateError::OutOfMemory)?;
        let parked =
            ParkedList::new(options.deferred, options.max_age).ok_or(CreateError::OutOfMemory)?;
        let mut pens = Vec::new();
        pens.try_reserve_exact(options.quarantine)
            .map_err(|_| CreateError::OutOfMemory)?;
        let id = shared
            .claim_domain_id(DomainEnd::Lowest)
            .map_err(|error| match error {
                ClaimError::NoneFree => CreateError::NoDomainId,
                ClaimError::Request(error) => CreateError::Request(error),
            })?;
        let audience = Audience {
            platform: Arc::as_ptr(&shared.platform).addr(),
            serial: shared.domain_ids.lock().next_serial(),
        };
        Ok(Self {
            shared: shared.clone(),
            id,
            audience,
            flags: AttachFlags::empty(),
            late_maps: AtomicBool::new(false),
            state: Mutex::new(DomainState {
                members: Vec::new(),
                changing: false,
                restored: false,
                releasing: false,
                ledger,
                parked,
                pens,
                lost: 0,
                doorbells: Vec::new(),
            }),
        })
    }

    /// The id under which the device knows the domain.
    #[must_use]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// What every ATTACH says from now on.
    fn set_flags(&mut self, flags: AttachFlags) {
        self.flags = flags;
    }

    /// Who sees what is mapped here.
    #[inline]
    pub(crate) fn audience(&self) -> Audience {
        self.audience
    }

    /// The unit of mappings, in bytes.
    #[inline]
    pub(crate) fn granule(&self) -> u64 {
        self.shared.geometry.granule()
    }

    /// The addresses that are handed out.
    pub(crate) fn usable_range(&self) -> IovaRange {
        self.shared.geometry.usable_range()
    }

    #[cfg(feature = "internals")]
    pub(crate) fn shared(&self) -> &Arc<Shared<P>> {
        &self.shared
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.shared.platform
    }

    /// How many mappings are in force: those whose UNMAP is put off are among them.
    #[must_use]
    pub fn mapped(&self) -> usize {
        let state = self.state.lock();
        state.ledger.count(State::Mapped) + state.ledger.count(State::Parked)
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
        // What was only waiting for its UNMAP is not lost.
        let _ = self.flush();
        let state = self.state.get_mut();
        if !state.pens.is_empty() {
            // An endpoint may be using it, and nobody can say any more that it does not.
            log::warn!("domain {}: {} buffers are lost", self.id, state.pens.len());
            state.pens.drain(..).for_each(Pen::leak);
        }
        let empty = state.members.is_empty() && state.ledger.count(State::Quarantined) == 0;
        // A request that was never confirmed may yet take effect on the id.
        let late = |request: &Request| request.domain() == Some(self.id);
        if empty && !self.shared.may_yet(late) {
            self.shared.domain_ids.lock().give_back(self.id);
        }
    }
}
