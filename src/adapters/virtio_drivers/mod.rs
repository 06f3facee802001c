//! The devices that a kernel drives with `virtio-drivers` 0.13, behind the IOMMU.
//!
//! Two lines change per device: the `Hal`, and the transport.
//!
//! ```
//! use virtio_drivers::Hal;
//! # use virtio_drivers::device::blk::VirtIOBlk;
//! # use virtio_drivers::transport::Transport;
//! use virtio_iommu::adapters::virtio_drivers::{AdapterOptions, BehindIommu, Endpoint, IommuHal};
//! use virtio_iommu::dma::DmaDevice;
//! # use virtio_iommu::HalPlatform;
//! # type RawLock = spin::mutex::SpinMutex<()>;
//! # pub struct KernelHal;
//! # // SAFETY: never used.
//! # unsafe impl Hal for KernelHal {
//! #     fn dma_alloc(_: usize, _: virtio_drivers::BufferDirection) -> (u64, std::ptr::NonNull<u8>) { unimplemented!() }
//! #     unsafe fn dma_dealloc(_: u64, _: std::ptr::NonNull<u8>, _: usize) -> i32 { unimplemented!() }
//! #     unsafe fn mmio_phys_to_virt(_: u64, _: usize) -> std::ptr::NonNull<u8> { unimplemented!() }
//! #     unsafe fn share(_: std::ptr::NonNull<[u8]>, _: virtio_drivers::BufferDirection) -> u64 { unimplemented!() }
//! #     unsafe fn unshare(_: u64, _: std::ptr::NonNull<[u8]>, _: virtio_drivers::BufferDirection) { unimplemented!() }
//! # }
//! # pub type KernelPlatform = HalPlatform<KernelHal, RawLock>;
//!
//! // One line for each device that is driven at the same time.
//! virtio_iommu::bind_endpoint!(pub struct Disk: KernelPlatform, KernelHal);
//!
//! fn open<T: Transport>(
//!     transport: T,                      // of the disk
//!     device: DmaDevice<KernelPlatform>, // the disk, attached to a domain
//! ) -> Result<VirtIOBlk<IommuHal<Disk>, BehindIommu<Disk, T>>, Box<dyn std::error::Error>> {
//!     Disk::bind(device, AdapterOptions::default())?;
//!     // Before: VirtIOBlk::<KernelHal, _>::new(transport)
//!     // SAFETY: the transport and the `DmaDevice` are those of the disk.
//!     let transport = unsafe { BehindIommu::new(transport) }?;
//!     Ok(VirtIOBlk::<IommuHal<Disk>, _>::new(transport)?)
//! }
//! ```
//!
//! The IOMMU's own transport and queues are never behind itself: `Iommu::start` takes the plain
//! transport, and a [`Platform`] whose addresses are physical.
//!
//! # What the device sees
//!
//! * **Queue memory**, for as long as the driver has it.
//! * **The window**: memory of the adapter, one half of which the device can read, and the other
//!   write, for as long as the endpoint is bound. Short buffers, and those that are not whole
//!   pages, such as those on a stack, are copied in and out, without a request of the IOMMU.
//!   There is nothing in the window but what the device was given or has written itself; so where
//!   it writes less than it was asked for, the rest of the buffer is what it wrote there before,
//!   never what others have. Buffers of up to 256 bytes go there as they are in both directions:
//!   an answer that the device never wrote is not taken for an earlier one.
//! * **Longer buffers of whole pages**, while the driver shares them; or a little longer, if they
//!   are [deferred](AdapterOptions::deferred).
//!
//! # When the device is done
//!
//! A driver takes a buffer back when the device has reported it used. A driver that is dropped
//! resets its device first: then all that was in flight is unmapped and free, and no late data
//! lands in memory that somebody else has. See [`BehindIommu`]. If the device does not confirm
//! its reset, buffers that were mapped for it are not yet their owner's: see
//! [`Binding::is_stuck`].
//!
//! # Waiting
//!
//! The calls of `virtio-drivers` that wait, such as `read_blocks`, **wait for ever** if the device
//! does not answer, as after a fault, or with DEVICE_NEEDS_RESET. A kernel that does not want that
//! uses those that do not wait, and gives up by dropping the driver, whose buffers are its own
//! again then, unless the endpoint [is stuck](Binding::is_stuck):
//!
//! ```
//! # use core::time::Duration;
//! # use virtio_drivers::{Error, device::blk::{BlkReq, BlkResp, VirtIOBlk}, transport::Transport};
//! # use virtio_iommu::adapters::virtio_drivers::{BehindIommu, Endpoint, IommuHal};
//! fn read_block<E: Endpoint, T: Transport>(
//!     mut disk: VirtIOBlk<IommuHal<E>, BehindIommu<E, T>>,
//!     block: usize,
//!     data: &mut [u8; 512],
//! ) -> Result<VirtIOBlk<IommuHal<E>, BehindIommu<E, T>>, Error> {
//!     let (mut request, mut answer) = (BlkReq::default(), BlkResp::default());
//!     // SAFETY: the buffers are here until the answer, or the disk is dropped. They are no whole
//!     // pages: the device knows nothing but copies of them.
//!     let token = unsafe { disk.read_blocks_nb(block, &mut request, data, &mut answer) }?;
//!     let answered = E::binding().wait_until(Duration::from_secs(1), || {
//!         disk.ack_interrupt();
//!         disk.peek_used() == Some(token)
//!     });
//!     if !answered {
//!         return Err(Error::IoError); // drops the disk: it is reset, and has no buffer any more
//!     }
//!     // SAFETY: the same buffers.
//!     unsafe { disk.complete_read_blocks(token, &request, data, &mut answer) }?;
//!     Ok(disk)
//! }
//! ```
//!
//! # The exception
//!
//! Nothing else in this crate panics. `Hal::share` and `Hal::unshare` have no way to fail, so
//! they do, in one place, with the name of the endpoint and of the option to raise, when
//!
//! * neither the window has a place for a buffer, nor can it be mapped; nothing was exposed then.
//!   [`Endpoint::usage`] says in time how much of the window was ever in use;
//! * a MAP or an UNMAP was not confirmed, so that the device may reach memory that its owner is
//!   about to use for something else.

mod binding;
mod error;
mod hal;
mod lent;
mod options;
mod places;
mod queues;
mod table;
mod transport;
mod window;

pub use binding::Binding;
pub use error::{BindError, NotTranslated, UnbindError};
pub use hal::IommuHal;
pub use options::{AdapterOptions, Usage, WindowUsage};
pub use transport::BehindIommu;

use ::virtio_drivers::Hal;

use crate::dma::DmaDevice;
use crate::platform::Platform;

/// A device that a driver of `virtio-drivers` is to have behind the IOMMU, as a type: the `Hal` of
/// that crate has no instances.
///
/// [`bind_endpoint!`](crate::bind_endpoint) makes one; a kernel has one for each device that is
/// driven at the same time.
///
/// # Safety
///
/// The implementor promises that [`binding`](Self::binding) returns the same each time.
pub unsafe trait Endpoint: 'static {
    /// The platform of the IOMMU.
    type Platform: Platform;
    /// The `Hal` that the kernel has anyway. Only its `mmio_phys_to_virt` is used.
    type Hal: Hal;

    /// Which device it is now.
    ///
    /// # Implementation safety
    ///
    /// The same each time.
    fn binding() -> &'static Binding<Self::Platform>;

    /// Binds the endpoint to a device: see [`Binding::bind`].
    ///
    /// # Errors
    ///
    /// [`BindError`].
    fn bind(device: DmaDevice<Self::Platform>, options: AdapterOptions) -> Result<(), BindError> {
        Self::binding().bind(device, options)
    }

    /// Gives the device back: see [`Binding::unbind`].
    ///
    /// # Errors
    ///
    /// [`UnbindError`].
    fn unbind() -> Result<DmaDevice<Self::Platform>, UnbindError> {
        Self::binding().unbind()
    }

    /// How much is in use: see [`Binding::usage`].
    #[must_use]
    fn usage() -> Usage {
        Self::binding().usage()
    }
}

/// Makes a type that is an [`Endpoint`](crate::adapters::virtio_drivers::Endpoint), from the
/// [`Platform`](crate::Platform) of the IOMMU and the `Hal` of the kernel.
///
/// ```
/// # use virtio_iommu::{HalPlatform, bind_endpoint};
/// # fn two<H: virtio_drivers::Hal + 'static>() {}
/// # mod kernel { pub struct Hal; pub type Platform = virtio_iommu::HalPlatform<Hal, spin::mutex::SpinMutex<()>>;
/// # // SAFETY: never used.
/// # unsafe impl virtio_drivers::Hal for Hal {
/// #     fn dma_alloc(_: usize, _: virtio_drivers::BufferDirection) -> (u64, std::ptr::NonNull<u8>) { unimplemented!() }
/// #     unsafe fn dma_dealloc(_: u64, _: std::ptr::NonNull<u8>, _: usize) -> i32 { unimplemented!() }
/// #     unsafe fn mmio_phys_to_virt(_: u64, _: usize) -> std::ptr::NonNull<u8> { unimplemented!() }
/// #     unsafe fn share(_: std::ptr::NonNull<[u8]>, _: virtio_drivers::BufferDirection) -> u64 { unimplemented!() }
/// #     unsafe fn unshare(_: u64, _: std::ptr::NonNull<[u8]>, _: virtio_drivers::BufferDirection) { unimplemented!() }
/// # } }
/// bind_endpoint!(
///     /// The disk that the kernel is on.
///     pub struct Disk: kernel::Platform, kernel::Hal
/// );
/// bind_endpoint!(struct Net: kernel::Platform, kernel::Hal);
/// ```
#[macro_export]
macro_rules! bind_endpoint {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident: $platform:ty, $hal:ty $(,)?) => {
        $(#[$attribute])*
        $visibility struct $name;

        // SAFETY: there is one binding.
        unsafe impl $crate::adapters::virtio_drivers::Endpoint for $name {
            type Platform = $platform;
            type Hal = $hal;

            fn binding() -> &'static $crate::adapters::virtio_drivers::Binding<$platform> {
                static BINDING: $crate::adapters::virtio_drivers::Binding<$platform> =
                    $crate::adapters::virtio_drivers::Binding::new(stringify!($name));
                &BINDING
            }
        }
    };
}
