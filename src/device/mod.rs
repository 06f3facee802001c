//! One virtio-iommu: bring-up, rings, pipelined requests, events.

mod bring_up;
mod domain_ids;
mod endpoints;
mod events;
mod faults;
mod memory;
mod order;
mod pipeline;
mod requests;
mod ring;
mod slots;
mod state;
mod transport;
mod wait;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use lock_api::Mutex;
use thiserror::Error;
use virtio_drivers::transport::{DeviceType, Transport};

pub use bring_up::{EndpointError, StartError};
pub use events::FaultCounters;
pub use faults::Pending;
pub use requests::RequestError;

pub(crate) use endpoints::{ClaimError, DomainEnd};
pub(crate) use pipeline::BATCH;
pub(crate) use requests::Outcome;
pub(crate) use wait::Deadline;

use crate::address::{DomainId, DomainRange, EndpointId};
use crate::domain::{CreateError, Domain, DomainOptions};
use crate::platform::Platform;
use crate::wire::{Features, Geometry, ReservedRegion};
use bring_up::{Started, give_up};
use domain_ids::DomainIds;
use endpoints::Endpoints;
use state::{Device, await_reset};
use transport::Undropped;

/// How a device is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options<'a> {
    /// The longest wait for an answer of the device, or for a reset. One second by default.
    pub timeout: Duration,
    /// Upper bound on the descriptors of each queue, at least 4; half as many requests can be in
    /// flight. 256 by default.
    pub queue_size: u16,
    /// The domain ids that this driver may use, if not all that the device has.
    pub domain_ids: Option<DomainRange>,
    /// Isolation groups: lists of endpoints that cannot be told apart, because a bridge between
    /// them and the IOMMU replaces their ids. A group is attached and detached as a whole. No
    /// endpoint may be in two; one that is in none is in a group of its own.
    pub groups: &'a [&'a [EndpointId]],
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            queue_size: 256,
            domain_ids: None,
            groups: &[],
        }
    }
}

/// Whether endpoints without a domain can reach memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// They cannot: the driver wrote `bypass = 0` and read it back.
    Locked,
    /// They may: the device has no BYPASS_CONFIG, or has ACCESS_PLATFORM, so that its own rings may
    /// depend on bypass. Endpoints of the list given to [`Iommu::start`] are kept in an empty
    /// domain instead; others may reach all memory.
    NotConfigurable,
}

/// A reset that the device did not confirm: the memory of its queues is lost for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the device did not confirm its reset")]
pub struct ShutdownError;

/// A virtio-iommu that was brought up: a handle, cheap to clone.
///
/// The device is reset when the last handle and the last [`Domain`] are gone, or by
/// [`shutdown`](Self::shutdown).
///
/// # Contexts
///
/// All methods take the lock of the device for a bounded time. Those that send requests
/// ([`start`](Self::start), [`create_domain`](Self::create_domain)) wait without it for up to
/// [`Options::timeout`] per request, so they do not belong in an interrupt handler.
pub struct Iommu<P: Platform> {
    shared: Arc<Shared<P>>,
}

impl<P: Platform> Clone for Iommu<P> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<P: Platform> core::fmt::Debug for Iommu<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Iommu")
            .field("features", &self.shared.features)
            .field("geometry", &self.shared.geometry)
            .finish_non_exhaustive()
    }
}

/// What the handles share.
pub(crate) struct Shared<P: Platform> {
    pub(crate) platform: Arc<P>,
    pub(crate) device: Mutex<P::Lock, Device>,
    pub(crate) endpoints: Endpoints<P::Lock>,
    pub(crate) domain_ids: Mutex<P::Lock, DomainIds>,
    pub(crate) features: Features,
    pub(crate) geometry: Geometry,
    pub(crate) timeout: Duration,
    pub(crate) bypass: Bypass,
    pub(crate) scratch: DomainId,
    offered: u64,
}

impl<P: Platform> Shared<P> {
    /// Resets the device, once. The lock is not held meanwhile.
    fn stop(&self) -> Result<(), ShutdownError> {
        let Some(queues) = self.device.lock().begin_stop() else {
            return Ok(());
        };
        let status = || self.device.lock().link.status();
        let reset = await_reset(status, &*self.platform, self.timeout);
        queues
            .free_after(reset, &*self.platform)
            .map_err(|_| ShutdownError)
    }
}

impl<P: Platform> Drop for Shared<P> {
    fn drop(&mut self) {
        if self.stop().is_err() {
            log::error!("the IOMMU did not confirm its reset: its rings stay allocated");
        }
    }
}

impl<P: Platform> Iommu<P> {
    /// Brings the device up and locks the endpoints of the list down (virtio 1.2 §3.1.1,
    /// §5.13.5).
    ///
    /// In this order: reset, features, configuration, queues, events posted, DRIVER_OK,
    /// `bypass = 0`; then each endpoint is PROBEd, and scrubbed of what an earlier driver left by
    /// an ATTACH to an empty scratch domain and a DETACH. Afterwards none of the endpoints can
    /// reach memory. **Endpoints that are not on the list are outside of this guarantee**, and
    /// cannot be attached to domains. Ids may be listed twice.
    ///
    /// All PCI buses must have their numbers before, because devices remember what they resolve.
    ///
    /// # Errors
    ///
    /// [`StartError`]; the device is then left with FAILED in its status, unless it was not
    /// touched at all. The transport is not given back: make a new one to try again.
    pub fn start<T: Transport + Send + 'static>(
        transport: T,
        platform: P,
        endpoints: &[EndpointId],
        options: Options<'_>,
    ) -> Result<Self, StartError> {
        let transport = Undropped::new(transport);
        if transport.device_type() != DeviceType::IOMMU {
            return Err(StartError::NotAnIommu);
        }
        if transport.is_legacy() {
            return Err(StartError::Legacy);
        }
        if options.queue_size < 4 {
            return Err(StartError::Options);
        }
        let link = Box::new(transport);
        let Started {
            mut device,
            offered,
            features,
            geometry,
            bypass,
        } = bring_up::start(link, &platform, options.queue_size, options.timeout)?;

        let ids = options.domain_ids.unwrap_or(geometry.domain_range());
        if !geometry.domain_range().contains_range(&ids) {
            give_up(&mut device, &platform, options.timeout);
            return Err(StartError::Options);
        }
        let mut shared = Shared {
            platform: Arc::new(platform),
            device: Mutex::new(device),
            endpoints: Endpoints::empty(),
            domain_ids: Mutex::new(DomainIds::new(ids)),
            features,
            geometry,
            timeout: options.timeout,
            bypass,
            scratch: ids.end(),
            offered,
        };
        if let Err(error) = shared.lock_down(endpoints, options.groups) {
            give_up(shared.device.get_mut(), &*shared.platform, shared.timeout);
            return Err(error);
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// All feature bits that the device offered, known to the driver or not.
    #[must_use]
    pub fn offered_features(&self) -> u64 {
        self.shared.offered
    }

    /// The features that were accepted.
    #[must_use]
    pub fn features(&self) -> Features {
        self.shared.features
    }

    /// What the device can translate.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.shared.geometry
    }

    /// Whether endpoints without a domain can reach memory.
    #[must_use]
    pub fn bypass(&self) -> Bypass {
        self.shared.bypass
    }

    /// The empty domain that endpoints were scrubbed with.
    #[must_use]
    pub fn scratch_domain(&self) -> DomainId {
        self.shared.scratch
    }

    /// The endpoints of the list given to [`start`](Self::start), in order, each once.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.shared.endpoints.ids()
    }

    /// The addresses that must not be mapped for `endpoint`, sorted, without overlaps; `None` if
    /// it was not on the list given to [`start`](Self::start).
    #[must_use]
    pub fn reserved_regions(&self, endpoint: EndpointId) -> Option<&[ReservedRegion]> {
        self.shared.endpoints.reserved_regions(endpoint)
    }

    /// A new, empty address space. A number is enough of an option: so many mappings.
    ///
    /// # Errors
    ///
    /// [`CreateError`] when no domain id is left, or the device does not answer.
    pub fn create_domain(
        &self,
        options: impl Into<DomainOptions>,
    ) -> Result<Domain<P>, CreateError> {
        Domain::new(&self.shared, options.into())
    }

    /// Resets the device. Requests of handles and domains that are left fail with
    /// [`RequestError::NotRunning`].
    ///
    /// A reset does **not** revoke anything: devices are known to keep attachments and mappings.
    /// Drop the domains before. Nor does it open anything: `bypass` stays 0.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if the device did not confirm the reset in time.
    pub fn shutdown(self) -> Result<(), ShutdownError> {
        self.shared.stop()
    }
}
