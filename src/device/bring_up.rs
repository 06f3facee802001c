//! From an unknown device to one that translates (virtio 1.2 §3.1.1, §5.13.5).

use alloc::boxed::Box;
use core::time::Duration;

use thiserror::Error;
use virtio_drivers::transport::DeviceStatus;

use super::events::EventQueue;
use super::order::Order;
use super::requests::RequestQueue;
use super::state::{Device, Queues, await_reset, reset};
use super::transport::Link;
use crate::address::EndpointId;
use crate::device::{Bypass, RequestError};
use crate::platform::Platform;
use crate::wire::{
    ConfigError, EVENT_QUEUE, Features, Geometry, ProbeError, REQUEST_QUEUE, RawConfig, offset,
};

/// Tries to read the configuration without a change in between.
const CONFIG_TRIES: u32 = 64;

/// The smallest queue that a driver can work with: two slots of two descriptors.
const MIN_QUEUE: u16 = 4;

/// Why a device could not be started. It has FAILED in its status, unless it was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The transport leads to another type of device, which was left alone.
    #[error("the device is no virtio-iommu")]
    NotAnIommu,
    /// The transport is a legacy one, which virtio-iommu does not have. The device was left alone.
    #[error("the transport is a legacy one")]
    Legacy,
    /// A queue of less than 4 entries is asked for, and the device was left alone; or domain ids
    /// that it does not have.
    #[error("the options are out of range")]
    Options,
    /// The device did not confirm a reset in time.
    #[error("the device did not confirm its reset")]
    ResetUnconfirmed,
    /// A feature that the driver cannot do without is not offered.
    #[error("the device does not offer {0:?}")]
    FeatureMissing(Features),
    /// The device refused the features that the driver accepted.
    #[error("the device refused the features {0:?}")]
    FeaturesRefused(Features),
    /// The configuration of the device is no good.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// A queue of the device does not exist or is too small.
    #[error("queue {queue} has {size} entries")]
    QueueTooSmall {
        /// Index of the queue.
        queue: u16,
        /// Its size, in descriptors.
        size: u32,
    },
    /// The platform has no pages left.
    #[error("out of memory")]
    OutOfMemory,
    /// The device needs a reset right after the driver said that it is ready.
    #[error("the device needs a reset")]
    NeedsReset,
    /// The device did not take the ban on bypass.
    #[error("bypass cannot be switched off")]
    BypassStuck,
    /// No domain id is free.
    #[error("no domain id is free")]
    NoDomain,
    /// An endpoint of a group is not on the list, or is in two groups.
    #[error("endpoint {0} is not on the list, or in two groups")]
    Group(EndpointId),
    /// An endpoint of the list could not be brought into a known state.
    #[error("endpoint {endpoint}: {error}")]
    Endpoint {
        /// The endpoint.
        endpoint: EndpointId,
        /// What went wrong.
        error: EndpointError,
    },
}

/// Why an endpoint could not be brought into a known state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// PROBE failed.
    #[error("PROBE: {0}")]
    Probe(RequestError),
    /// The list of its properties cannot be believed.
    #[error("properties: {0}")]
    Properties(ProbeError),
    /// ATTACH to the scratch domain, or DETACH from it, failed.
    #[error("scrubbing: {0}")]
    Scrub(RequestError),
}

/// A device up to DRIVER_OK.
pub(crate) struct Started {
    pub(crate) device: Device,
    pub(crate) offered: u64,
    pub(crate) features: Features,
    pub(crate) geometry: Geometry,
    pub(crate) bypass: Bypass,
}

/// Takes the device through initialisation, in the order of §3.1.1, up to DRIVER_OK and `bypass`.
///
/// On failure the device is left with FAILED in its status, and no memory is lost unless the
/// device knows of it and does not confirm a reset.
pub(crate) fn start<P: Platform>(
    mut link: Box<dyn Link>,
    platform: &P,
    queue_size: u16,
    timeout: Duration,
) -> Result<Started, StartError> {
    if reset(&mut *link, platform, timeout).is_err() {
        fail(&mut *link);
        return Err(StartError::ResetUnconfirmed);
    }
    let (offered, features, geometry) = match negotiate(&mut *link, P::DEVICE_BARRIER.is_some()) {
        Ok(negotiated) => negotiated,
        Err(error) => {
            fail(&mut *link);
            return Err(error);
        }
    };
    let order = Order::of::<P>(features);
    let queues = match make_queues(
        &mut *link,
        platform,
        queue_size,
        order,
        geometry.probe_size(),
    ) {
        Ok(queues) => queues,
        Err(error) => {
            fail(&mut *link);
            return Err(error);
        }
    };
    link.set_queue(REQUEST_QUEUE, queues.requests.ring());
    link.set_queue(EVENT_QUEUE, queues.events.ring());
    #[cfg(viommu_broken)]
    if crate::broken::is(crate::broken::EARLY_KICK) {
        link.notify(EVENT_QUEUE);
    }
    let status = link.status() | DeviceStatus::DRIVER_OK;
    link.set_status(status);
    let mut device = Device::new(link, queues);
    if device
        .link
        .status()
        .contains(DeviceStatus::DEVICE_NEEDS_RESET)
    {
        give_up(&mut device, platform, timeout);
        return Err(StartError::NeedsReset);
    }
    // The buffers were there before; a device may only look for them when it is told.
    if let Some(queues) = device.queues()
        && queues.events.ring().wants_kick()
    {
        device.link.notify(EVENT_QUEUE);
    }
    let mut bypass = Bypass::NotConfigurable;
    // With ACCESS_PLATFORM the device reaches its own rings through an IOMMU, perhaps through
    // itself, and then by nothing but bypass.
    if features.contains(Features::BYPASS_CONFIG) && !features.contains(Features::ACCESS_PLATFORM) {
        if let Err(error) = forbid_bypass(&mut *device.link) {
            give_up(&mut device, platform, timeout);
            return Err(error);
        }
        bypass = Bypass::Locked;
    }
    Ok(Started {
        device,
        offered,
        features,
        geometry,
        bypass,
    })
}

/// Steps 2 to 6 of §3.1.1, and the configuration.
fn negotiate(
    link: &mut dyn Link,
    has_barrier: bool,
) -> Result<(u64, Features, Geometry), StartError> {
    let mut status = DeviceStatus::ACKNOWLEDGE;
    link.set_status(status);
    status |= DeviceStatus::DRIVER;
    link.set_status(status);

    let offered = link.read_features();
    let features = Features::accepted_of(offered, has_barrier);
    for required in [Features::VERSION_1, Features::MAP_UNMAP] {
        if !features.contains(required) {
            return Err(StartError::FeatureMissing(required));
        }
    }
    link.write_features(features.bits());
    status |= DeviceStatus::FEATURES_OK;
    link.set_status(status);
    if !link.status().contains(DeviceStatus::FEATURES_OK) {
        return Err(StartError::FeaturesRefused(features));
    }
    let geometry = Geometry::new(read_config(link, offered)?)?;
    Ok((offered, features, geometry))
}

/// Reads the configuration, in halves of 32 bits, until no change came in between (§2.5.1).
fn read_config(link: &dyn Link, offered: u64) -> Result<RawConfig, ConfigError> {
    for _ in 0..CONFIG_TRIES {
        let before = link.config_generation();
        let config = read_config_once(link, offered)?;
        if link.config_generation() == before {
            return Ok(config);
        }
    }
    Err(ConfigError::Unstable)
}

fn read_config_once(link: &dyn Link, offered: u64) -> Result<RawConfig, ConfigError> {
    let u32_at = |offset| {
        link.read_config_u32(offset)
            .ok_or(ConfigError::Missing { offset })
    };
    let u64_at = |offset| Ok(u64::from(u32_at(offset)?) | u64::from(u32_at(offset + 4)?) << 32);
    let exists = |feature| Features::describes(offered, feature);
    let mut config = RawConfig {
        page_size_mask: u64_at(offset::PAGE_SIZE_MASK)?,
        ..RawConfig::default()
    };
    if exists(Features::INPUT_RANGE) {
        config.input_range = Some((
            u64_at(offset::INPUT_RANGE_START)?,
            u64_at(offset::INPUT_RANGE_END)?,
        ));
    }
    if exists(Features::DOMAIN_RANGE) {
        config.domain_range = Some((
            u32_at(offset::DOMAIN_RANGE_START)?,
            u32_at(offset::DOMAIN_RANGE_END)?,
        ));
    }
    if exists(Features::PROBE) {
        config.probe_size = Some(u32_at(offset::PROBE_SIZE)?);
    }
    Ok(config)
}

fn make_queues<P: Platform>(
    link: &mut dyn Link,
    platform: &P,
    size: u16,
    order: Order,
    probe_size: Option<u32>,
) -> Result<Queues, StartError> {
    let requests = queue_size(link, REQUEST_QUEUE, size)?;
    let events = queue_size(link, EVENT_QUEUE, size)?;
    let requests =
        RequestQueue::new(platform, requests, order, probe_size).ok_or(StartError::OutOfMemory)?;
    match EventQueue::new(platform, events, order) {
        Some(events) => Ok(Queues { requests, events }),
        None => {
            // SAFETY: the device was not told of it.
            unsafe { requests.free(platform) };
            Err(StartError::OutOfMemory)
        }
    }
}

/// The size to use: a power of two that both sides can do.
fn queue_size(link: &mut dyn Link, queue: u16, wanted: u16) -> Result<u16, StartError> {
    let size = link.max_queue_size(queue);
    let most = u16::try_from(size).unwrap_or(u16::MAX).min(wanted);
    if most < MIN_QUEUE {
        return Err(StartError::QueueTooSmall { queue, size });
    }
    Ok(1 << most.ilog2())
}

/// Writes `bypass` and reads it back (§5.13.4): bits 1 to 7 mean nothing.
fn forbid_bypass(link: &mut dyn Link) -> Result<(), StartError> {
    #[cfg(viommu_broken)]
    if crate::broken::is(crate::broken::BYPASS_LEFT) {
        return Ok(());
    }
    let missing = ConfigError::Missing {
        offset: offset::BYPASS,
    };
    link.write_config_u8(offset::BYPASS, 0).ok_or(missing)?;
    let bypass = link.read_config_u8(offset::BYPASS).ok_or(missing)?;
    if bypass & 1 != 0 {
        return Err(StartError::BypassStuck);
    }
    Ok(())
}

/// Tells the device that the driver has given up (§3.1.1).
fn fail(link: &mut dyn Link) {
    let status = link.status() | DeviceStatus::FAILED;
    link.set_status(status);
}

/// As [`fail`], for a device that knows of our memory: that comes back if a reset is confirmed.
pub(crate) fn give_up<P: Platform>(device: &mut Device, platform: &P, timeout: Duration) {
    fail(&mut *device.link);
    if let Some(queues) = device.begin_stop() {
        let reset = await_reset(|| device.link.status(), platform, timeout);
        if queues.free_after(reset, platform).is_err() {
            log::error!("the IOMMU did not confirm its reset: its rings stay allocated");
            return;
        }
    }
    // The reset has cleared it.
    fail(&mut *device.link);
}
