//! What the driver of a device calls: buffers that move into their mapping, and come back when
//! the device is done (design of the interface: nothing that is wrong can be written in safe code).
//!
//! | way | requests | what the endpoint sees |
//! |---|---|---|
//! | [`Bounce`]: the default | none per transfer | the pools, and nothing outside of them |
//! | [`DmaDevice::map`], [`Completed::unmap`] | MAP and UNMAP | the buffer, while it is mapped |
//! | [`Completed::defer`] | few, for many transfers | the buffer, a little longer |
//! | [`Coherent`] | at set-up | memory that both sides share for good |
//! | [`Window`] | at set-up | one region, for good |
//!
//! **A confirmed UNMAP does not stop what an endpoint began before.** So a buffer comes back in
//! two steps: the driver says, in `unsafe` code, that the endpoint is done
//! ([`Mapping::complete`]); then safe code unmaps it. What is dropped without that word is
//! unmapped and quarantined, until [`Domain::release_quarantine`](crate::Domain::release_quarantine).
//! With [`Bounce`] nothing needs to be believed: the endpoint only ever sees its pools.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use virtio_iommu::{EndpointId, Iommu, Platform};
//! use virtio_iommu::dma::{DmaDevice, DmaLimits, FromDevice};
//!
//! /// Reads one block of a disk that can reach 32 bits of addresses.
//! fn read_block<P: Platform>(
//!     iommu: &Iommu<P>,
//!     disk: EndpointId,
//!     transfer: impl FnOnce(u64, usize), // returns when the disk reports that it is done
//! ) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let domain = Arc::new(iommu.create_domain(1024)?);
//!     let device = DmaDevice::attach(&domain, disk, DmaLimits::address_bits(32))?;
//!     let block = device.alloc(4096).ok_or("out of memory")?;
//!     let mapping = device.map::<FromDevice, _>(block)?;
//!     transfer(mapping.device_addr().0, mapping.len());
//!     // SAFETY: the disk has reported that it is done.
//!     let block = unsafe { mapping.complete() }.unmap()?;
//!     Ok(block.to_vec())
//! }
//! ```

mod bounce;
mod buffer;
mod coherent;
mod copy;
mod deferred;
mod device;
mod direction;
mod exchange;
mod live;
mod mapping;
mod resource;
mod segments;

pub use bounce::{Bounce, BounceError, BounceOptions, Bounced, Transfer};
pub use buffer::{Audience, DmaBuffer, PageBuf, Piece};
pub use coherent::{Coherent, Window};
pub use deferred::Deferred;
pub use device::{DmaDevice, DmaError, DmaLimits};
pub use direction::{Bidirectional, DeviceWrites, Direction, FromDevice, ToDevice};
pub use exchange::Exchanged;
pub use mapping::{Completed, MapFailure, Mapping};
pub use resource::Resource;

#[cfg(feature = "virtio-drivers")]
pub(crate) use copy::{read as copy_from, write as copy_to, zero};
