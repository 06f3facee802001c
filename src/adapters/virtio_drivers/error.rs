//! What can go wrong when an endpoint is bound, or its device is taken over.

use thiserror::Error;

use crate::domain::MapError;

/// Why an endpoint was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindError {
    /// It is bound already.
    #[error("the endpoint is bound already")]
    Bound,
    /// No memory for the window, or for the records.
    #[error("out of memory")]
    OutOfMemory,
    /// The window was not mapped.
    #[error("the window: {0}")]
    Map(#[from] MapError),
    /// The limits of the endpoint have a boundary or a longest segment, which the traits of
    /// `virtio-drivers` cannot keep.
    #[error("the endpoint has limits that its driver cannot keep")]
    Limits,
}

/// Why an endpoint is still bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnbindError {
    /// It is not bound.
    #[error("the endpoint is not bound")]
    NotBound,
    /// A driver has its transport, or queue memory, or shares buffers.
    #[error("a driver is using the endpoint")]
    InUse,
    /// The device did not confirm its last reset: nobody knows what it still does.
    #[error("the device did not confirm its reset")]
    NotReset,
}

/// Why a transport cannot be used behind the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotTranslated {
    /// The device does not offer `VIRTIO_F_ACCESS_PLATFORM` (virtio 1.2 §6): it accesses
    /// physical addresses, around the IOMMU.
    #[error(
        "the device does DMA around the IOMMU, because it does not offer \
         VIRTIO_F_ACCESS_PLATFORM: QEMU's option is `iommu_platform=on,disable-legacy=on`"
    )]
    GoesAround,
    /// The device did not set FEATURES_OK after `VIRTIO_F_ACCESS_PLATFORM` was accepted.
    #[error("the device refuses VIRTIO_F_ACCESS_PLATFORM, although it offers it")]
    Refused,
    /// The device did not confirm a reset in time.
    #[error("the device does not confirm its reset")]
    NotReset,
    /// Nobody has [bound](super::Endpoint::bind) the endpoint.
    #[error("the endpoint is not bound")]
    NotBound,
    /// Another transport is in use for the endpoint.
    #[error("the endpoint has a transport already")]
    InUse,
}
