//! What can go wrong with an address space.

use thiserror::Error;

use crate::address::{DomainId, IovaRange};
use crate::device::RequestError;

/// Why a domain could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// All domain ids are in use.
    #[error("no domain id is free")]
    NoDomainId,
    /// No memory for the records of that many mappings.
    #[error("out of memory")]
    OutOfMemory,
    /// The device has no domains that are not translated.
    #[error("the device has no bypass domains")]
    BypassUnsupported,
    /// The device did not say whether the domain id is free.
    #[error("{0}")]
    Request(RequestError),
}

/// Why an endpoint was not attached or detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The endpoint was not on the list given to [`Iommu::start`](crate::Iommu::start).
    #[error("the driver does not answer for this endpoint")]
    UnknownEndpoint,
    /// The endpoint belongs to a domain already, perhaps to this one.
    #[error("the endpoint belongs to domain {0}")]
    Attached(DomainId),
    /// The endpoint does not belong to this domain.
    #[error("the endpoint does not belong to this domain")]
    NotAttached,
    /// Another endpoint is being attached or detached, or the domain is about to lose its last
    /// endpoint while mappings change: try again.
    #[error("the domain is busy")]
    Busy,
    /// Live mappings lie in a reserved region of the endpoint.
    #[error("mapping {mapping} lies in a reserved region of the endpoint")]
    Conflict {
        /// The mapping.
        mapping: IovaRange,
    },
    /// The device did not do it. After [`RequestError::Unconfirmed`] the endpoint counts as
    /// attached, because it may be.
    #[error("{0}")]
    Request(RequestError),
    /// The ranges of an identity domain could not be mapped: the endpoint is detached.
    #[error("the ranges could not be mapped: {0}")]
    Identity(MapError),
    /// The mappings of the domain could not be made known to the device again: the endpoint is
    /// detached.
    #[error("mappings could not be restored: {0}")]
    Replay(RequestError),
}

/// Why nothing was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MapError {
    /// There is nothing to map, or more than an address space has, or not one place for each
    /// result.
    #[error("the length is out of range")]
    Length,
    /// The domain has no endpoint, so it does not exist at the device.
    #[error("the domain has no endpoint")]
    NotAttached,
    /// An endpoint is being attached or detached: try again.
    #[error("the domain is busy")]
    Busy,
    /// Neither reads nor writes are asked for.
    #[error("no access is asked for")]
    NoAccess,
    /// [`Access::MMIO`](crate::Access::MMIO) was not negotiated.
    #[error("the device does not know MMIO mappings")]
    MmioUnsupported,
    /// An address or a length is not a multiple of the granule, or the alignment is no power of 2.
    #[error("not aligned to the granule")]
    Misaligned,
    /// No addresses are left that fulfil the wish.
    #[error("no I/O virtual addresses are left")]
    OutOfIova,
    /// The domain has as many mappings as it was made for.
    #[error("the domain is full")]
    Full,
    /// The addresses asked for are not usable on this device.
    #[error("the address is out of range")]
    OutOfRange,
    /// The addresses asked for are reserved for an endpoint of the domain.
    #[error("the address is reserved: {0}")]
    Reserved(IovaRange),
    /// The addresses asked for are in use.
    #[error("the address is in use")]
    InUse,
    /// The device did not do it, and nothing of it has an effect.
    #[error("{0}")]
    Request(RequestError),
    /// The device did not do it, or only in part, and the endpoints may reach some of the memory,
    /// now or later. The addresses are quarantined; so must be the memory.
    #[error("the memory may be exposed: {0}")]
    Exposed(RequestError),
}

impl MapError {
    /// Whether endpoints may reach the memory in spite of the error.
    #[must_use]
    pub const fn may_be_exposed(&self) -> bool {
        matches!(self, Self::Exposed(_))
    }
}

/// Why a mapping is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnmapError {
    /// There is no mapping of exactly these addresses; nothing was unmapped.
    #[error("{0} is not a mapping")]
    NotMapped(IovaRange),
    /// An endpoint is being attached or detached: try again.
    #[error("the domain is busy")]
    Busy,
    /// The device did not confirm it: the endpoints may reach the memory for ever. The addresses
    /// are quarantined; so must be the memory.
    #[error("the memory may stay exposed: {0}")]
    Quarantined(RequestError),
}
