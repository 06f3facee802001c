//! Guest-side driver for the virtio-iommu device (virtio 1.2 to 1.4, §5.13): every device of a
//! kernel does DMA through an IOMMU, and sees only the memory that was mapped for it, only while
//! it is mapped, only in the directions asked for.
//!
//! `no_std`, for every architecture, tied to no kernel: it needs a transport of
//! [`virtio_drivers`] and a [`Platform`].
//!
//! # Example
//!
//! ```
//! use core::ptr::NonNull;
//! use std::sync::Arc;
//! use virtio_drivers::transport::pci::{PciTransport, bus::{ConfigurationAccess, DeviceFunction, PciRoot}};
//! use virtio_iommu::dma::{DmaDevice, DmaLimits, ToDevice};
//! use virtio_iommu::{EndpointId, HalPlatform, Iommu, Options, PhysAddr};
//! # use virtio_drivers::Hal;
//! # type Error = Box<dyn std::error::Error>;
//!
//! /// The IOMMU at `iommu`, for a disk whose requester id is `disk`, and one page of data for it.
//! fn protect<H: Hal + 'static, C: ConfigurationAccess>(
//!     root: &mut PciRoot<C>,
//!     iommu: DeviceFunction,
//!     disk: EndpointId,
//!     data: &[u8],
//!     now: fn() -> u64,
//!     virt_to_phys: fn(NonNull<u8>) -> Option<PhysAddr>,
//! ) -> Result<(), Error> {
//!     // SAFETY: the clock is monotonic, and `H` gives out physical addresses.
//!     let platform = unsafe { HalPlatform::<H, RawLock>::new(now, virt_to_phys) };
//!     let transport = PciTransport::new::<H, C>(root, iommu)?;
//!     // From here on the disk reaches nothing.
//!     let iommu = Iommu::start(transport, platform, &[disk], Options::default())?;
//!     let domain = Arc::new(iommu.create_domain(256)?);
//!     let device = DmaDevice::attach(&domain, disk, DmaLimits::default())?;
//!
//!     let mut page = device.alloc(4096).ok_or("out of memory")?;
//!     page.get_mut(..data.len()).ok_or("too long")?.copy_from_slice(data);
//!     let mapping = device.map::<ToDevice, _>(page)?;
//!     // Tell the disk `mapping.device_addr()`, wait until it reports that the transfer is done, …
//!     // SAFETY: it has.
//!     let page = unsafe { mapping.complete() }.unmap()?;
//!     iommu.poll_faults(|fault| println!("{fault:?}"));
//!     # drop(page);
//!     Ok(())
//! }
//! # // A lock whose raw part is a `lock_api::RawMutex`.
//! # type RawLock = spin::mutex::SpinMutex<()>;
//! ```
//!
//! # What is trusted
//!
//! The IOMMU is trusted to do what it confirms. It is not trusted with lengths, indices, or the
//! contents of anything that it writes: whatever it says, the driver does not panic, does not
//! wait without a limit, does not touch memory that is not its own, and does not take for
//! confirmed what was not. Firmware tables are not trusted either. Endpoints are not trusted at
//! all, from the moment that [`Iommu::start`] returns.
//!
//! What the specification forbids never reaches the device: it is not the validator.
//!
//! **A confirmed UNMAP stops new translations, and nothing else.** An endpoint that had begun an
//! access before may still carry it out: devices are known to resolve addresses when they fetch a
//! descriptor, and to use the result long after UNMAP, DETACH, and even a reset of the IOMMU.
//! Memory is the CPU's again when the *endpoint* has reported that it is done, or was reset.
//!
//! # Map
//!
//! | module | what it knows |
//! |---|---|
//! | [`address`] | addresses, ids, inclusive ranges |
//! | `platform` | [`Platform`]: what a kernel supplies |
//! | `wire` | the bytes of the specification |
//! | `device` | [`Iommu`]: bring-up, rings, pipelined requests, events |
//! | `iova` | which addresses are free, and what the others are used for |
//! | `domain` | [`Domain`]: what is mapped, who is attached, what is quarantined |
//! | [`dma`] | what the driver of a device calls: buffers, mappings, pools |
//! | [`topology`] | who sits behind which IOMMU; the PCI walk |
//! | `adapters` | the same under the traits of `virtio-drivers` (feature `virtio-drivers`) |
//!
//! # Requests, seen from outside
//!
//! Every request that was in the ring is logged at [`log::Level::Trace`] with the target
//! `virtio_iommu::request`, in the words of QEMU's trace.

#![no_std]

extern crate alloc;

#[cfg(feature = "virtio-drivers")]
pub mod adapters;
pub mod address;
#[cfg(viommu_broken)]
mod broken;
mod device;
pub mod dma;
mod domain;
mod iova;
mod platform;
pub mod topology;
mod wire;

pub use address::{DomainId, DomainRange, EndpointId, Iova, IovaRange, PhysAddr, PhysRange};
pub use device::{
    Bypass, EndpointError, FaultCounters, Iommu, Options, Pending, RequestError, ShutdownError,
    StartError,
};
pub use domain::{
    AttachError, BlockedDomain, BypassDomain, CreateError, Domain, DomainOptions, Doorbell,
    DoorbellError, IdentityDomain, MapError, MapOptions, Released, UnmapError,
};
pub use platform::{HalPlatform, PAGE_SIZE, Pages, Platform};
pub use wire::{
    Access, ConfigError, Fault, FaultReason, Features, Geometry, ProbeError, ReservedKind,
    ReservedRegion, Status,
};

#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;

/// The example of the README is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
