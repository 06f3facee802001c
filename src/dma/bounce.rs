//! Pools that an endpoint sees, and a copy in or out for each transfer: the default.
//!
//! The endpoint never sees anything but the pools, not even for one byte, so nothing that it says
//! or does needs to be believed.

use alloc::sync::Arc;

use core::mem::ManuallyDrop;

use lock_api::Mutex;
use thiserror::Error;

use super::DmaDevice;
use super::buffer::PageBuf;
use super::device::Port;
use super::direction::{DeviceWrites, Direction, FromDevice, ToDevice};
use super::mapping::{MapFailure, Mapping};
use super::segments::Cut;
use crate::address::{Iova, IovaRange};
use crate::domain::{MapError, UnmapError};
use crate::iova::{IovaError, Slot, Space, Wish};
use crate::platform::Platform;

/// How large the pools of an endpoint are.
///
/// # How much is enough
///
/// A transfer takes its length, rounded up to a multiple of [`align`](Self::align) and of
/// [`DmaLimits::align`](super::DmaLimits::align). A pool of `n` times that has room for `n`
/// transfers of one length if no other is in use when the first of them begins, whatever was there
/// before; with a [boundary](super::DmaLimits::boundary), for as many as fit in between. Transfers
/// of several lengths at once may leave gaps that are too short for the longer ones, as in any
/// heap: such a pool needs more. [`BounceError::Exhausted`] is no end for who has
/// [`Bounce::to_device_or_map`] and [`Bounce::from_device_or_map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BounceOptions {
    /// What the endpoint can read, in bytes; 64 KiB by default.
    pub to_device: usize,
    /// What the endpoint can write, in bytes; 64 KiB by default.
    pub from_device: usize,
    /// Transfers begin at multiples of so many bytes, a power of two; 64 by default. And at
    /// multiples of [`DmaLimits::align`](super::DmaLimits::align).
    pub align: usize,
    /// Transfers at once, in each direction; 64 by default.
    pub transfers: usize,
}

impl Default for BounceOptions {
    fn default() -> Self {
        Self {
            to_device: 64 << 10,
            from_device: 64 << 10,
            align: 64,
            transfers: 64,
        }
    }
}

impl BounceOptions {
    /// Pools of so many bytes each.
    #[must_use]
    pub const fn with_pools(mut self, to_device: usize, from_device: usize) -> Self {
        self.to_device = to_device;
        self.from_device = from_device;
        self
    }

    /// Transfers begin at multiples of `align` bytes.
    #[must_use]
    pub const fn with_align(mut self, align: usize) -> Self {
        self.align = align;
        self
    }

    /// Room for so many transfers at once.
    #[must_use]
    pub const fn with_transfers(mut self, transfers: usize) -> Self {
        self.transfers = transfers;
        self
    }
}

/// Why there is no place in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BounceError {
    /// The pool is in use, or has as many transfers as it was made for. Nothing was exposed.
    #[error("the pool is exhausted")]
    Exhausted,
    /// No transfer of this length fits in the pool, or it has no length.
    #[error("the length is out of range")]
    Length,
    /// No memory for a pool, or for a buffer beside it.
    #[error("out of memory")]
    OutOfMemory,
    /// A pool, or a buffer beside it, could not be mapped.
    #[error("{0}")]
    Map(#[from] MapError),
}

impl<B> From<MapFailure<B>> for BounceError {
    fn from(failure: MapFailure<B>) -> Self {
        Self::Map(failure.error)
    }
}

/// What a place of a pool is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Transfer,
    /// Given up while the endpoint may be using it.
    Quarantined,
}

/// Which parts of a pool are in use.
struct Places {
    /// Offsets, from `FIRST` on.
    space: Space<Use>,
    /// All of them.
    whole: IovaRange,
    /// Places in use or given up.
    used: usize,
    /// The length of all that were taken since it began anew, if they have the same.
    only: Option<u64>,
}

impl Places {
    #[inline(always)]
    fn take(&mut self, wish: &Wish) -> Result<(Slot, IovaRange), IovaError> {
        if self.only != Some(wish.len) {
            self.other_length(wish.len);
        }
        let found = self.space.alloc(wish, Use::Transfer)?;
        self.used += 1;
        Ok(found)
    }

    #[inline]
    fn give_back(&mut self, slot: Slot) {
        if self.space.free(slot) {
            self.used = self.used.saturating_sub(1);
        }
    }

    /// Begins anew, if nothing is in use: forgets the places that are kept for the next ones of
    /// their lengths. Others would be put around them, and where the kept ones were, later, there
    /// would be gaps of no use.
    #[cold]
    fn other_length(&mut self, len: u64) {
        self.only = None;
        if self.used == 0 {
            if let Ok(slot) = self.space.take(self.whole, Use::Transfer) {
                self.space.free(slot);
            }
            self.only = Some(len);
        }
    }
}

/// The memory for one direction.
struct Pool<D: Direction, P: Platform> {
    memory: Mapping<PageBuf<P>, D, P>,
    places: Mutex<P::Lock, Places>,
    /// A power of two.
    unit: u64,
    /// Size of the memory, in bytes.
    len: u64,
    /// Of each place, in bytes: the unit, or what the endpoint needs.
    align: u64,
    /// What no place lies across, unless it is longer.
    boundary: u64,
    /// Of the endpoint.
    port: Arc<Port<P>>,
}

/// The address of offset 0 in the space of a pool.
const FIRST: u64 = 1 << 63;

impl<D: Direction, P: Platform> Pool<D, P> {
    fn new(
        device: &DmaDevice<P>,
        bytes: usize,
        options: BounceOptions,
    ) -> Result<Self, BounceError> {
        let unit = options.align as u64;
        if bytes == 0 || !unit.is_power_of_two() || unit > device.domain().granule() {
            return Err(BounceError::Length);
        }
        // The guard is for devices that look one byte too far.
        let memory = device
            .alloc_guarded(bytes)
            .ok_or(BounceError::OutOfMemory)?;
        let len = memory.len() as u64;
        let range = IovaRange::from_len(Iova(FIRST), len).ok_or(BounceError::Length)?;
        let space = Space::new(range, unit, 0, options.transfers);
        let places = Places {
            space: space.ok_or(BounceError::OutOfMemory)?,
            whole: range,
            used: 0,
            only: None,
        };
        Ok(Self {
            memory: device.map::<D, _>(memory)?,
            places: Mutex::new(places),
            unit,
            len,
            // The pool begins at a multiple of both, or is smaller: offsets are as good as addresses.
            align: unit.max(device.limits().align),
            boundary: device.limits().boundary,
            port: device.port().clone(),
        })
    }

    #[inline(always)]
    fn take(&self, len: usize) -> Result<(Slot, usize), BounceError> {
        // Longer than any pool, when it does not fit.
        let rest = self.unit - 1;
        let len = (len as u64).saturating_add(rest) & !rest;
        if len == 0 || len > self.len {
            return Err(BounceError::Length);
        }
        let wish = Wish {
            len,
            align: self.align,
            limit: Iova(u64::MAX),
            boundary: if len <= self.boundary {
                self.boundary
            } else {
                0
            },
        };
        let found = self.places.lock().take(&wish);
        match found {
            Ok((slot, range)) => Ok((slot, (range.start().0 - FIRST) as usize)),
            Err(IovaError::Full | IovaError::Exhausted) => Err(BounceError::Exhausted),
            Err(_) => Err(BounceError::Length),
        }
    }

    fn quarantined(&self) -> usize {
        let places = self.places.lock();
        let kept = places
            .space
            .iter()
            .filter(|(_, _, what)| *what == Use::Quarantined);
        kept.count()
    }

    fn release(&self) -> usize {
        let mut places = self.places.lock();
        let mut count = 0;
        loop {
            let mut all = places.space.iter();
            let Some((slot, _, _)) = all.find(|(_, _, what)| *what == Use::Quarantined) else {
                return count;
            };
            drop(all);
            places.give_back(slot);
            count += 1;
        }
    }
}

/// The pools of one endpoint: one that it can read, and one that it can write.
///
/// A transfer takes no request and no notification of the IOMMU: the pools are mapped for as long
/// as this exists. Dropping it, and all of its transfers, quarantines the pools.
pub struct Bounce<P: Platform> {
    device: DmaDevice<P>,
    to_device: Arc<Pool<ToDevice, P>>,
    from_device: Arc<Pool<FromDevice, P>>,
}

impl<P: Platform> core::fmt::Debug for Bounce<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Bounce")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Bounce<P> {
    /// Pools for the endpoint of `device`. Allocates, and maps them.
    ///
    /// # Errors
    ///
    /// [`BounceError`].
    pub fn new(device: &DmaDevice<P>, options: BounceOptions) -> Result<Self, BounceError> {
        let to_device: Pool<ToDevice, P> = Pool::new(device, options.to_device, options)?;
        let from_device = match Pool::new(device, options.from_device, options) {
            Ok(pool) => pool,
            Err(error) => {
                // SAFETY: nobody has told the endpoint of the pool.
                drop(unsafe { to_device.memory.complete() });
                return Err(error);
            }
        };
        Ok(Self {
            device: device.clone(),
            to_device: Arc::new(to_device),
            from_device: Arc::new(from_device),
        })
    }

    /// Copies `bytes` to where the endpoint can read them.
    ///
    /// # Errors
    ///
    /// [`BounceError`].
    pub fn to_device(&self, bytes: &[u8]) -> Result<Bounced<ToDevice, P>, BounceError> {
        let place = Bounced::new(&self.to_device, bytes.len())?;
        let written = place.pool.memory.write(place.offset, bytes);
        debug_assert!(written);
        Ok(place)
    }

    /// A place where the endpoint can write `len` bytes.
    ///
    /// What is there before is of no importance: the endpoint has seen it, or it is zeros.
    ///
    /// # Errors
    ///
    /// [`BounceError`].
    pub fn from_device(&self, len: usize) -> Result<Bounced<FromDevice, P>, BounceError> {
        Bounced::new(&self.from_device, len)
    }

    /// As [`to_device`](Self::to_device), but with pages of their own, which are mapped for this
    /// transfer, when the pool is exhausted.
    ///
    /// # Errors
    ///
    /// [`BounceError`], other than [`BounceError::Exhausted`].
    pub fn to_device_or_map(&self, bytes: &[u8]) -> Result<Transfer<ToDevice, P>, BounceError> {
        match self.to_device(bytes) {
            Ok(place) => Ok(Transfer::Bounced(place)),
            Err(BounceError::Exhausted | BounceError::Length) if !bytes.is_empty() => {
                let pages = self.device.alloc(bytes.len());
                let mut pages = pages.ok_or(BounceError::OutOfMemory)?;
                if let Some(place) = pages.get_mut(..bytes.len()) {
                    place.copy_from_slice(bytes);
                }
                Ok(Transfer::Mapped(self.device.map(pages)?))
            }
            Err(error) => Err(error),
        }
    }

    /// As [`from_device`](Self::from_device), but with pages of their own, which are mapped for
    /// this transfer, when the pool is exhausted.
    ///
    /// # Errors
    ///
    /// [`BounceError`], other than [`BounceError::Exhausted`].
    pub fn from_device_or_map(&self, len: usize) -> Result<Transfer<FromDevice, P>, BounceError> {
        match self.from_device(len) {
            Ok(place) => Ok(Transfer::Bounced(place)),
            Err(BounceError::Exhausted | BounceError::Length) if len != 0 => {
                let pages = self.device.alloc(len).ok_or(BounceError::OutOfMemory)?;
                Ok(Transfer::Mapped(self.device.map(pages)?))
            }
            Err(error) => Err(error),
        }
    }

    /// How many places were given up by dropping their transfer.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.to_device.quarantined() + self.from_device.quarantined()
    }

    /// Ends the quarantine of places, and says of how many. To be called after a reset of the
    /// endpoint; earlier, it may mix late data into later transfers of the same endpoint, and
    /// nothing else.
    pub fn release_quarantine(&self) -> usize {
        self.to_device.release() + self.from_device.release()
    }

    /// Unmaps the pools and frees them, if no transfer is left; otherwise gives the pools back.
    ///
    /// # Errors
    ///
    /// The pools, while there are transfers. A pool whose UNMAP was not confirmed is quarantined.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`], for both pools.
    pub unsafe fn close(self) -> Result<(), Self> {
        let Self {
            device,
            to_device,
            from_device,
        } = self;
        if Arc::strong_count(&to_device) > 1 || Arc::strong_count(&from_device) > 1 {
            return Err(Self {
                device,
                to_device,
                from_device,
            });
        }
        if let Some(pool) = Arc::into_inner(to_device) {
            // SAFETY: the caller's promise.
            drop(unsafe { pool.memory.complete() });
        }
        if let Some(pool) = Arc::into_inner(from_device) {
            // SAFETY: the caller's promise.
            drop(unsafe { pool.memory.complete() });
        }
        Ok(())
    }
}

/// A place in a pool, for one transfer.
///
/// Dropping it without [`finish`](Self::finish) quarantines the place: it is not used again until
/// [`Bounce::release_quarantine`].
#[must_use = "a transfer that is dropped quarantines its place in the pool"]
pub struct Bounced<D: Direction, P: Platform> {
    pool: Arc<Pool<D, P>>,
    slot: Slot,
    offset: usize,
    len: usize,
}

impl<D: Direction, P: Platform> Drop for Bounced<D, P> {
    fn drop(&mut self) {
        let mut places = self.pool.places.lock();
        places.space.set(self.slot, Use::Quarantined);
    }
}

impl<D: Direction, P: Platform> core::fmt::Debug for Bounced<D, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bounced({}, {} bytes)", self.device_addr(), self.len)
    }
}

impl<D: Direction, P: Platform> Bounced<D, P> {
    #[inline(always)]
    fn new(pool: &Arc<Pool<D, P>>, len: usize) -> Result<Self, BounceError> {
        let (slot, offset) = pool.take(len)?;
        Ok(Self {
            pool: pool.clone(),
            slot,
            offset,
            len,
        })
    }

    /// Where the endpoint finds the first byte.
    #[must_use]
    pub fn device_addr(&self) -> Iova {
        // Inside of the mapping, which does not wrap.
        Iova(
            self.pool
                .memory
                .device_addr()
                .0
                .wrapping_add(self.offset as u64),
        )
    }

    /// Size, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a transfer is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The addresses as the endpoint takes them, as [`Mapping::segments`].
    pub fn segments(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let range = IovaRange::from_len(self.device_addr(), self.len as u64);
        range
            .into_iter()
            .flat_map(|range| Cut::new(Some(range), &self.pool.port.limits))
    }

    /// Copies what is there now. `false`, and nothing is copied, beyond the end.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool
    where
        D: DeviceWrites,
    {
        let inside = offset
            .checked_add(into.len())
            .is_some_and(|end| end <= self.len);
        inside && self.pool.memory.read(self.offset + offset, into)
    }

    /// Gives the place back to the pool. To be called when the endpoint has reported that it is
    /// done; earlier, it may mix data of later transfers of the same endpoint up, and nothing else.
    #[inline]
    pub fn finish(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so nothing reads it out again.
        let pool = unsafe { core::ptr::read(&this.pool) };
        pool.places.lock().give_back(this.slot);
    }

    /// [Reads](Self::read) from the beginning, and [finishes](Self::finish). `false` if the
    /// transfer is shorter than `into`: nothing is copied then.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn finish_into(self, into: &mut [u8]) -> bool
    where
        D: DeviceWrites,
    {
        let copied = self.read(0, into);
        self.finish();
        copied
    }
}

/// A transfer through a pool, or beside it where the pool was exhausted.
#[must_use = "a transfer that is dropped is quarantined"]
pub enum Transfer<D: Direction, P: Platform> {
    /// In the pool.
    Bounced(Bounced<D, P>),
    /// In pages of its own.
    Mapped(Mapping<PageBuf<P>, D, P>),
}

impl<D: Direction, P: Platform> core::fmt::Debug for Transfer<D, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Bounced(place) => place.fmt(f),
            Self::Mapped(pages) => pages.fmt(f),
        }
    }
}

impl<D: Direction, P: Platform> Transfer<D, P> {
    /// Where the endpoint finds the first byte.
    #[must_use]
    pub fn device_addr(&self) -> Iova {
        match self {
            Self::Bounced(place) => place.device_addr(),
            Self::Mapped(pages) => pages.device_addr(),
        }
    }

    /// Ends the transfer.
    ///
    /// # Errors
    ///
    /// [`UnmapError`], for pages of their own.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    pub unsafe fn finish(self) -> Result<(), UnmapError> {
        match self {
            Self::Bounced(place) => place.finish(),
            Self::Mapped(pages) => {
                // SAFETY: the caller's promise.
                drop(unsafe { pages.complete() }.unmap()?);
            }
        }
        Ok(())
    }

    /// Copies from the beginning of the data, and ends the transfer. `Ok(false)` if it is shorter
    /// than `into`: nothing is copied then.
    ///
    /// # Errors
    ///
    /// [`UnmapError`], for pages of their own. The data was copied.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    pub unsafe fn finish_into(self, into: &mut [u8]) -> Result<bool, UnmapError>
    where
        D: DeviceWrites,
    {
        let copied = match &self {
            Self::Bounced(place) => place.read(0, into),
            Self::Mapped(pages) => pages.read(0, into),
        };
        // SAFETY: the caller's promise.
        unsafe { self.finish() }?;
        Ok(copied)
    }
}
