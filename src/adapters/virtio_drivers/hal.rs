//! The `Hal` of an endpoint: every address that it gives out is one that the IOMMU translates.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::slice;

use ::virtio_drivers::{BufferDirection, Hal, PhysAddr};

use super::Endpoint;
use super::binding::{Binding, State};
use super::lent::Lent;
use super::options::WindowUsage;
use super::queues::Queue;
use super::table::{Mapped, Room, Way};
use crate::address::Iova;
use crate::dma::{DmaDevice, copy_from, copy_to};
use crate::domain::{MapError, UnmapError};
use crate::platform::Platform;

/// Buffers up to so many bytes are copied out while the lock is held, so that it is taken once,
/// not twice; and copied in, whatever their direction.
const SHORT: usize = 256;

/// What `dma_alloc` says when there is no memory.
const FAILED: (PhysAddr, NonNull<u8>) = (0, NonNull::dangling());

/// A [`Hal`] whose addresses are those of the endpoint `E`, behind the IOMMU.
///
/// Queue memory is mapped for its life, and given out only while a
/// [`BehindIommu`](super::BehindIommu) of `E` exists: a driver whose transport was not wrapped
/// fails with [`DmaError`](::virtio_drivers::Error::DmaError). Buffers are copied or mapped as
/// the [`AdapterOptions`](super::AdapterOptions) say.
///
/// # Panics
///
/// `share` and `unshare` cannot fail, by the trait. Where there is no way out they panic, with
/// the name of the endpoint and what to raise: see [the module](super#the-exception).
pub struct IommuHal<E>(PhantomData<fn() -> E>);

impl From<BufferDirection> for Way {
    #[inline]
    fn from(direction: BufferDirection) -> Self {
        match direction {
            BufferDirection::DriverToDevice => Self::To,
            BufferDirection::DeviceToDriver => Self::From,
            BufferDirection::Both => Self::Both,
        }
    }
}

// SAFETY: `dma_alloc` gives out zeroed pages of the platform that belong to nobody else, aligned
// to at least 4 KiB, and that are freed after `dma_dealloc` alone. `mmio_phys_to_virt` is that of
// another `Hal`.
unsafe impl<E: Endpoint> Hal for IommuHal<E> {
    fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        allocate(E::binding(), pages, direction.into()).unwrap_or(FAILED)
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        deallocate(E::binding(), Iova(paddr))
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        // SAFETY: the caller's promise.
        unsafe { E::Hal::mmio_phys_to_virt(paddr, size) }
    }

    #[inline]
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        // SAFETY: the caller's promise.
        unsafe { share(E::binding(), buffer, direction.into()) }.0
    }

    #[inline]
    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        // SAFETY: the caller's promise.
        unsafe { unshare(E::binding(), Iova(paddr), buffer, direction.into()) }
    }
}

fn allocate<P: Platform>(
    binding: &Binding<P>,
    pages: usize,
    way: Way,
) -> Option<(PhysAddr, NonNull<u8>)> {
    let Some(device) = binding.find(|state| state.is_usable().then(|| state.device.clone())) else {
        let name = binding.name();
        log::error!("endpoint {name}: queue memory without a transport that is `BehindIommu`");
        return None;
    };
    binding.find(|state| state.queues.promise())?;
    let queue = Queue::new(&device, pages, way);
    let found = queue.as_ref().map(|queue| (queue.iova().0, queue.virt()));
    binding.with(|state| state.queues.keep(queue));
    found
}

fn deallocate<P: Platform>(binding: &Binding<P>, iova: Iova) -> i32 {
    let taken = binding.find(|state| {
        let queue = state.queues.take(iova)?;
        if state.is_reset() {
            return Some(Some(queue));
        }
        state.queues.wait(queue);
        Some(None)
    });
    match taken {
        Some(Some(queue)) => {
            // SAFETY: the device was reset, and has been told of nothing since.
            unsafe { queue.free() };
            0
        }
        // It waits for the reset.
        Some(None) => 0,
        None => {
            log::error!("endpoint {}: no queue memory at {iova}", binding.name());
            -1
        }
    }
}

/// Gives the endpoint a buffer.
///
/// # Safety
///
/// As for [`Hal::share`], and until it is unshared the buffer stays valid, and nobody accesses it.
#[inline]
unsafe fn share<P: Platform>(binding: &Binding<P>, buffer: NonNull<[u8]>, way: Way) -> Iova {
    let (start, len) = (buffer.cast::<u8>(), buffer.len());
    let place = {
        let mut bound = binding.state.lock();
        match &mut *bound {
            Some(state) => {
                let whole = (start.addr().get() | len) & state.rest == 0;
                if whole && len > state.options.bounce_up_to {
                    None
                } else {
                    take(state, len, way)
                }
            }
            None => None,
        }
    };
    match place {
        Some((iova, place)) => {
            // Short ones begin as they are: an answer that never comes is not an earlier one.
            if way == Way::To || len <= SHORT {
                // SAFETY: the caller vouches for the buffer.
                let bytes = unsafe { slice::from_raw_parts(start.as_ptr(), len) };
                // SAFETY: the place has at least `len` bytes, and is ours.
                unsafe { copy_to(place, bytes) };
            }
            iova
        }
        // SAFETY: the caller's promise.
        None => unsafe { share_mapped(binding, buffer, way) },
    }
}

/// A place in the window.
#[inline]
fn take<P: Platform>(state: &mut State<P>, len: usize, way: Way) -> Option<(Iova, NonNull<u8>)> {
    match way {
        Way::To => state.to_device.take(len),
        Way::From => state.from_device.take(len),
        Way::Both => None,
    }
}

/// Maps a buffer of whole pages; or copies it, if it cannot be mapped.
///
/// # Safety
///
/// As for [`share`].
#[inline(never)]
unsafe fn share_mapped<P: Platform>(binding: &Binding<P>, buffer: NonNull<[u8]>, way: Way) -> Iova {
    let parts = binding.with(|state| (state.device.clone(), state.options, state.rest));
    let Some((device, options, rest)) = parts else {
        cannot(binding, Cause::NotBound);
    };
    let domain = device.domain();
    let lend = || {
        // SAFETY: the caller vouches for the buffer.
        unsafe { Lent::new(domain.platform(), buffer, rest as u64 + 1, options.conceal) }
    };
    let Some(lent) = lend() else {
        // SAFETY: the caller's promise.
        return unsafe { share_copied(binding, buffer, way, None) };
    };
    let key = lent.key(way);
    let mut room = None;
    if options.is_deferred()
        && let Some((place, parked)) = binding.find(|state| state.table.unpark(key))
    {
        match parked.resume() {
            Some(mapped) if is_there(&device, &mapped, &lent) => {
                let iova = mapped.device_addr();
                binding.with(|state| state.table.fill(place, key, mapped));
                return iova;
            }
            Some(mapped) => {
                // SAFETY: the driver had it back.
                if let Err(error) = unsafe { mapped.end() } {
                    cannot(binding, Cause::NotUnmapped(error));
                }
            }
            None => {}
        }
        room = Some(place);
    }
    let Some(room) = room.or_else(|| make_room(binding)) else {
        // SAFETY: the caller's promise.
        return unsafe { share_copied(binding, buffer, way, None) };
    };
    let mut mapped = Mapped::new(&device, lent, way);
    if options.is_deferred()
        && let Err(failure) = &mapped
        && matches!(failure.error, MapError::Full | MapError::OutOfIova)
    {
        // What is parked has records and addresses, too.
        while let Some((room, parked)) = binding.find(|state| state.table.evict()) {
            drop(parked);
            binding.with(|state| state.table.cancel(room));
        }
        let _ = domain.flush();
        if let Some(lent) = lend() {
            mapped = Mapped::new(&device, lent, way);
        }
    }
    match mapped {
        Ok(mapped) => {
            let iova = mapped.device_addr();
            binding.with(|state| state.table.fill(room, key, mapped));
            iova
        }
        Err(failure) => {
            binding.with(|state| state.table.cancel(room));
            if failure.buffer.is_none() {
                cannot(binding, Cause::Exposed(failure.error));
            }
            // SAFETY: the caller's promise.
            unsafe { share_copied(binding, buffer, way, Some(failure.error)) }
        }
    }
}

/// A place in the table, if need be that of a buffer that the driver has back.
fn make_room<P: Platform>(binding: &Binding<P>) -> Option<Room> {
    if let Some(room) = binding.find(|state| state.table.reserve()) {
        return Some(room);
    }
    let (room, parked) = binding.find(|state| state.table.evict())?;
    // The domain unmaps it in time.
    drop(parked);
    Some(room)
}

/// Whether a mapping leads to the pages of a buffer.
fn is_there<P: Platform>(device: &DmaDevice<P>, mapped: &Mapped<P>, lent: &Lent<P>) -> bool {
    let Some(mut pages) = lent.scattered() else {
        return true;
    };
    let start = mapped.device_addr().0;
    pages.all(|(offset, page)| {
        let iova = start.checked_add(offset as u64).map(Iova);
        let found = iova.and_then(|iova| device.domain().translate(iova));
        found.is_some_and(|(phys, _)| phys == page)
    })
}

/// Copies a buffer that was not mapped, for `error` if that was tried.
///
/// # Safety
///
/// As for [`share`].
#[cold]
unsafe fn share_copied<P: Platform>(
    binding: &Binding<P>,
    buffer: NonNull<[u8]>,
    way: Way,
    error: Option<MapError>,
) -> Iova {
    let len = buffer.len();
    let Some((iova, place)) = binding.find(|state| take(state, len, way)) else {
        let usage = binding.usage();
        let cause = match (error, way) {
            (Some(error), _) => Cause::NotMapped(error),
            (None, Way::To) => Cause::NoPlace("window_to_device", len, usage.to_device),
            (None, Way::From) => Cause::NoPlace("window_from_device", len, usage.from_device),
            (None, Way::Both) => Cause::NoRoom,
        };
        cannot(binding, cause);
    };
    if way == Way::To || len <= SHORT {
        // SAFETY: the caller vouches for the buffer.
        let bytes = unsafe { slice::from_raw_parts(buffer.cast().as_ptr(), len) };
        // SAFETY: the place has at least `len` bytes, and is ours.
        unsafe { copy_to(place, bytes) };
    }
    iova
}

/// Takes a buffer back from the endpoint, which is done with it.
///
/// # Safety
///
/// As for [`Hal::unshare`].
#[inline]
unsafe fn unshare<P: Platform>(binding: &Binding<P>, iova: Iova, buffer: NonNull<[u8]>, way: Way) {
    let mut bound = binding.state.lock();
    let Some(state) = &mut *bound else {
        return;
    };
    let len = buffer.len();
    match way {
        Way::To => {
            if let Some(offset) = state.to_device.offset_of(iova) {
                if !state.to_device.give_back(offset) {
                    state.unknown += 1;
                }
                return;
            }
        }
        Way::From => {
            if state.from_device.offset_of(iova).is_some() {
                let Some((offset, place)) = state.from_device.find(iova, len) else {
                    state.unknown += 1;
                    return;
                };
                let start = buffer.cast().as_ptr();
                // SAFETY: the caller vouches for the buffer.
                let bytes = unsafe { slice::from_raw_parts_mut(start, len) };
                if len > SHORT {
                    drop(bound);
                    // SAFETY: the place has at least `len` bytes, and is the buffer's.
                    unsafe { copy_from(place, bytes) };
                    binding.with(|state| state.from_device.give_back(offset));
                } else {
                    // SAFETY: as above.
                    unsafe { copy_from(place, bytes) };
                    state.from_device.give_back(offset);
                }
                return;
            }
        }
        Way::Both => {}
    }
    drop(bound);
    unshare_mapped(binding, iova);
}

/// Unmaps a buffer, now or later.
#[inline(never)]
fn unshare_mapped<P: Platform>(binding: &Binding<P>, iova: Iova) {
    let found = binding.find(|state| {
        let taken = state.table.take(iova);
        state.unknown += usize::from(taken.is_none());
        let (room, key, mapped) = taken?;
        Some((room, key, mapped, state.options.is_deferred()))
    });
    let Some((room, key, mapped, deferred)) = found else {
        log::error!("endpoint {}: nothing is shared at {iova}", binding.name());
        return;
    };
    let ended = if deferred {
        // SAFETY: the driver says that the device has used the buffer.
        unsafe { mapped.park() }
    } else {
        // SAFETY: as above.
        unsafe { mapped.end() }.map(|()| None)
    };
    let (parked, failure) = match ended {
        Ok(parked) => (parked, None),
        Err(error) => (None, Some(error)),
    };
    binding.with(|state| match parked {
        Some(parked) => state.table.park(room, key, parked),
        None => state.table.cancel(room),
    });
    if let Some(error) = failure {
        cannot(binding, Cause::NotUnmapped(error));
    }
}

/// Why the adapter cannot go on.
#[derive(Debug)]
pub(super) enum Cause {
    /// The half of the window that the option makes has no place for so many bytes.
    NoPlace(&'static str, usize, WindowUsage),
    /// The table is full, and the buffer cannot be copied.
    NoRoom,
    /// A buffer was not mapped, and is too long to be copied.
    NotMapped(MapError),
    /// A buffer was not mapped, but the endpoint may reach it.
    Exposed(MapError),
    /// A buffer was not unmapped.
    NotUnmapped(UnmapError),
    /// Nothing is bound.
    NotBound,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace(option, len, usage) => write!(
                f,
                "no place for {len} bytes in the window, of which {} of {} bytes are in use: \
                 raise `AdapterOptions::{option}`",
                usage.used, usage.size
            ),
            Self::NoRoom => f.write_str("too many buffers: raise `AdapterOptions::mappings`"),
            Self::NotMapped(MapError::Full) => {
                f.write_str("the domain is full: raise `DomainOptions::mappings`")
            }
            Self::NotMapped(error) => write!(f, "a buffer was not mapped: {error}"),
            Self::Exposed(error) => {
                write!(f, "a buffer was not mapped, but may be exposed: {error}")
            }
            Self::NotUnmapped(error) => {
                write!(f, "a buffer cannot go back to its owner: {error}")
            }
            Self::NotBound => f.write_str("it is not bound"),
        }
    }
}

/// Ends it all: the trait has no way to say that a buffer was not shared, or must not be used.
#[cold]
#[inline(never)]
pub(super) fn cannot<P: Platform>(binding: &Binding<P>, cause: Cause) -> ! {
    panic!("endpoint {}: {cause}", binding.name())
}
