//! A buffer that an endpoint may be using, and what comes after.

use alloc::sync::Arc;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::slice;

use super::DmaDevice;
use super::buffer::DmaBuffer;
use super::deferred::Deferred;
use super::direction::{DeviceWrites, Direction};
use super::live::{FEW, Live, Site, first_two, gather, phys};
use crate::address::{Iova, IovaRange, PhysRange};
use crate::device::Outcome;
use crate::domain::{
    Domain, Erased, Extent, Fate, Held, MapError, MapOptions, Owner, Plan, UnmapError,
};
use crate::platform::Platform;
use crate::wire::Access;

/// A buffer that was not mapped.
pub struct MapFailure<B> {
    /// Why.
    pub error: MapError,
    /// The buffer. `None` if endpoints may reach it in spite of the error
    /// ([`MapError::may_be_exposed`]): then it is in the quarantine of the domain.
    pub buffer: Option<B>,
}

impl<B> core::fmt::Debug for MapFailure<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MapFailure")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<B> core::fmt::Display for MapFailure<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> core::error::Error for MapFailure<B> {}

/// A buffer that an endpoint may use: it owns the buffer, and nobody can touch that meanwhile
/// except by copying.
///
/// The driver says with [`complete`](Self::complete) that the endpoint is done. A mapping that is
/// dropped without that word is unmapped, and its memory is **quarantined**: it is not used again
/// until [`Domain::release_quarantine`]. A mapping that is forgotten leaks its memory, and is
/// otherwise harmless.
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(device: &DmaDevice<P>, mut buffer: PageBuf<P>) {
///     let mapping = device.map::<FromDevice, _>(buffer).unwrap();
///     buffer[0] = 1; // the device owns it now
///     drop(mapping);
/// }
/// ```
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(mapping: Mapping<PageBuf<P>, FromDevice, P>) -> u8 {
///     mapping[0] // there are no references into memory that a device can write
/// }
/// ```
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(mapping: Mapping<PageBuf<P>, FromDevice, P>) -> PageBuf<P> {
///     mapping.unmap().unwrap() // nobody has said that the device is done
/// }
/// ```
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(mapping: Mapping<PageBuf<P>, FromDevice, P>) {
///     mapping.complete(); // saying so is unsafe
/// }
/// ```
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(device: &DmaDevice<P>) {
///     let mut bytes = [0; 512];
///     let _ = device.map::<FromDevice, _>(&mut bytes); // a slice on the stack is no buffer
/// }
/// ```
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// enum Sideways {}
/// impl Direction for Sideways { // directions are sealed
///     const ACCESS: Access = Access::READ;
/// }
/// ```
#[must_use = "a mapping that is dropped is quarantined with its buffer"]
pub struct Mapping<B: DmaBuffer, D: Direction, P: Platform> {
    live: ManuallyDrop<Live<B, P>>,
    direction: PhantomData<D>,
}

impl<B: DmaBuffer, D: Direction, P: Platform> Drop for Mapping<B, D, P> {
    fn drop(&mut self) {
        // SAFETY: it is not used afterwards.
        let live = unsafe { ManuallyDrop::take(&mut self.live) };
        live.abandon();
    }
}

impl<B: DmaBuffer, D: Direction, P: Platform> core::fmt::Debug for Mapping<B, D, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mapping({})", self.live.held().iova)
    }
}

impl<B: DmaBuffer, D: Direction, P: Platform> Mapping<B, D, P> {
    #[inline(always)]
    pub(super) fn of(live: Live<B, P>) -> Self {
        Self {
            live: ManuallyDrop::new(live),
            direction: PhantomData,
        }
    }

    pub(super) fn live(&self) -> &Live<B, P> {
        &self.live
    }

    /// Takes it apart, without the effect of dropping it.
    #[inline(always)]
    pub(super) fn into_live(self) -> Live<B, P> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so nothing takes it out again.
        unsafe { ManuallyDrop::take(&mut this.live) }
    }

    /// Where the endpoint finds the first byte.
    #[must_use]
    pub fn device_addr(&self) -> Iova {
        self.live.site.start()
    }

    /// The addresses of the endpoint. With [`DmaDevice::map_apart`] there are holes in it.
    #[must_use]
    pub fn iova(&self) -> IovaRange {
        self.live.held().iova
    }

    /// Size of the data, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// The addresses as an endpoint takes them: no segment longer than the largest that it can do,
    /// none across its boundary, none across a hole.
    pub fn segments(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.live.segments()
    }

    /// Copies from the buffer while the endpoint may be writing to it: bytes may be old, new, or
    /// a mixture. Up to 8 bytes at an address that is a multiple of their number are one access.
    ///
    /// `false`, and nothing is copied, if the buffer does not have the bytes.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool
    where
        D: DeviceWrites,
    {
        self.live.read(offset, into)
    }

    /// Copies to the buffer while the endpoint may be using it.
    ///
    /// `false`, and nothing is copied, if the buffer does not have the bytes.
    #[must_use = "nothing is copied to beyond the end"]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        self.live.write(offset, from)
    }

    /// Says that the endpoint is done: the buffer can go back to the CPU.
    ///
    /// # Safety
    ///
    /// Since this mapping was made, the endpoint has reported that every transfer that it was
    /// told to do with the buffer is finished, or it was reset and confirmed that; and so did every
    /// other endpoint of the domain that was told of these addresses. A time-out is no report, nor
    /// is UNMAP, DETACH, or a reset of the IOMMU.
    #[inline(always)]
    pub unsafe fn complete(self) -> Completed<B, D, P> {
        Completed::of(self.into_live())
    }
}

/// A buffer whose endpoint is done with it, and can still reach it.
///
/// Dropping this unmaps the buffer and drops it.
#[must_use = "the endpoint can reach the buffer until it is unmapped"]
pub struct Completed<B: DmaBuffer, D: Direction, P: Platform> {
    live: ManuallyDrop<Live<B, P>>,
    direction: PhantomData<D>,
}

impl<B: DmaBuffer, D: Direction, P: Platform> Drop for Completed<B, D, P> {
    fn drop(&mut self) {
        // SAFETY: it is not used afterwards.
        let live = unsafe { ManuallyDrop::take(&mut self.live) };
        // What fails is quarantined, and counted.
        drop(live.end());
    }
}

impl<B: DmaBuffer, D: Direction, P: Platform> core::fmt::Debug for Completed<B, D, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Completed({})", self.live.held().iova)
    }
}

impl<B: DmaBuffer, D: Direction, P: Platform> Completed<B, D, P> {
    #[inline(always)]
    pub(super) fn of(live: Live<B, P>) -> Self {
        Self {
            live: ManuallyDrop::new(live),
            direction: PhantomData,
        }
    }

    #[inline(always)]
    pub(super) fn into_live(self) -> Live<B, P> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so nothing takes it out again.
        unsafe { ManuallyDrop::take(&mut this.live) }
    }

    /// The buffer, or where it is, after the UNMAP was sent by somebody else.
    #[inline(always)]
    pub(super) fn settle(self, outcome: Outcome) -> Result<B, UnmapError> {
        let live = self.into_live();
        match outcome {
            Ok(()) => Ok(live.buffer),
            Err(error) => {
                live.keep();
                Err(UnmapError::Quarantined(error))
            }
        }
    }

    /// Whether the mapping belongs to this domain.
    pub(super) fn is_in(&self, domain: &Arc<Domain<P>>) -> bool {
        Arc::ptr_eq(&self.live.port.domain, domain)
    }

    pub(super) fn held(&self) -> Held {
        self.live.held()
    }

    /// Unmaps the buffer, and gives it back.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]: the buffer is in the quarantine of the domain, because the endpoint may
    /// still reach it.
    #[inline(always)]
    pub fn unmap(self) -> Result<B, UnmapError> {
        self.into_live().end()
    }

    /// Lets the endpoint use the buffer once more: the mapping was never undone.
    #[inline(always)]
    pub fn reuse(self) -> Mapping<B, D, P> {
        Mapping::of(self.into_live())
    }

    /// Puts the UNMAP off, so that it shares a request with others: see [`Deferred`].
    #[inline(always)]
    pub fn defer(self) -> Deferred<B, D, P> {
        Deferred::park(self.into_live())
    }

    /// As [`Mapping::read`]: the endpoint can still reach the buffer.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool
    where
        D: DeviceWrites,
    {
        self.live.read(offset, into)
    }
}

impl<P: Platform> DmaDevice<P> {
    /// Maps a buffer for the endpoint, at one contiguous range of addresses. Does not allocate.
    ///
    /// Pieces that are neighbours in physical memory take one request, and up to 64 requests one
    /// notification; all are mapped, or none. Inside of a range there are no holes: where devices
    /// look one byte too far, an access that begins with the last byte of a piece may reach the
    /// next one instead. [`map_apart`](Self::map_apart) is the way around that.
    ///
    /// # Errors
    ///
    /// [`MapFailure`], with the buffer.
    #[inline(always)]
    pub fn map<D: Direction, B: DmaBuffer>(
        &self,
        buffer: B,
    ) -> Result<Mapping<B, D, P>, MapFailure<B>> {
        self.map_with::<D, B>(buffer, 0).map(Mapping::of)
    }

    /// As [`map`](Self::map), but with a hole of one granule between pieces that are not
    /// neighbours in physical memory: see [`Mapping::segments`]. For IOMMUs that want each segment
    /// to be contiguous in physical memory, too, and for endpoints that begin accesses anywhere.
    ///
    /// # Errors
    ///
    /// [`MapFailure`], with the buffer.
    pub fn map_apart<D: Direction, B: DmaBuffer>(
        &self,
        buffer: B,
    ) -> Result<Mapping<B, D, P>, MapFailure<B>> {
        let gap = self.domain().granule();
        self.map_with::<D, B>(buffer, gap).map(Mapping::of)
    }

    /// Small enough to be inlined, and lends the buffer to nobody, so that it is moved in
    /// registers: what is long works on its pieces.
    #[inline(always)]
    fn map_with<D: Direction, B: DmaBuffer>(
        &self,
        mut buffer: B,
        gap: u64,
    ) -> Result<Live<B, P>, MapFailure<B>> {
        let domain = self.domain();
        buffer.conceal(domain.audience(), D::ACCESS);
        let options = self.options::<D>(&buffer, gap);
        let mapped = match first_two(&buffer) {
            (Some(only), None) => {
                self.map_pieces(slice::from_ref(&only).iter().copied(), options, gap)
            }
            (Some(first), _) => {
                let granule = domain.granule();
                match gather(phys(&buffer), granule, &mut [first; FEW]) {
                    Some(parts) => self.map_pieces(parts.iter().copied(), options, gap),
                    None => self.map_pieces(phys(&buffer), options, gap),
                }
            }
            (None, _) => Err(MapError::Length.into()),
        };
        match mapped {
            Ok(held) => Ok(Live {
                port: self.port().clone(),
                site: Site::of(held, gap),
                buffer,
            }),
            Err(failed) => Err(failed.with(domain, buffer)),
        }
    }

    #[inline(never)]
    fn map_pieces<I>(&self, pieces: I, options: MapOptions, gap: u64) -> Result<Held, Failed>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let domain = self.domain();
        let draft = domain.draft(pieces, options, gap)?;
        if !Site::is_for(draft.len()) {
            return Err(MapError::OutOfIova.into());
        }
        let plan = domain.plan_one(draft, Owner::Buffer)?;
        send_one(domain, plan)
    }

    /// What the mapping of a buffer has to be like, with holes of `gap` bytes.
    #[inline(always)]
    pub(super) fn options<D: Direction>(&self, buffer: &impl DmaBuffer, gap: u64) -> MapOptions {
        // Without a boundary nobody needs to know.
        let len = match self.limits().boundary {
            0 => None,
            _ => Extent::of(phys(buffer), gap, self.domain().granule())
                .ok()
                .map(|extent| extent.len),
        };
        self.options_for(D::ACCESS, len)
    }

    /// What a mapping of `len` bytes, holes included, has to be like.
    #[inline(always)]
    pub(super) fn options_for(&self, access: Access, len: Option<u64>) -> MapOptions {
        let limits = self.limits();
        let mut options = MapOptions::new(access)
            .with_limit(limits.mask)
            .with_align(limits.align);
        // What is longer than from one boundary to the next starts at one, and is cut there.
        match limits.boundary {
            0 => {}
            boundary if len.is_some_and(|len| len <= boundary) => options.boundary = boundary,
            boundary => options.align = options.align.max(boundary),
        }
        options
    }
}

/// Why a buffer is not mapped, and where endpoints may reach it all the same.
pub(super) struct Failed {
    error: MapError,
    exposed: Option<Held>,
}

impl From<MapError> for Failed {
    fn from(error: MapError) -> Self {
        Self {
            error,
            exposed: None,
        }
    }
}

impl Failed {
    pub(super) fn new(error: MapError, fate: Fate, held: Held) -> Self {
        Self {
            error,
            exposed: fate.exposed.then_some(held),
        }
    }

    /// The failure, with the buffer unless that has to be quarantined.
    #[cold]
    pub(super) fn with<B: DmaBuffer, P: Platform>(
        self,
        domain: &Domain<P>,
        buffer: B,
    ) -> MapFailure<B> {
        let error = self.error;
        let buffer = match self.exposed {
            Some(held) => {
                domain.keep(held, Erased::new(buffer));
                None
            }
            None => Some(buffer),
        };
        MapFailure { error, buffer }
    }
}

/// Sends the requests of one plan.
#[inline(always)]
pub(super) fn send_one<P: Platform, I>(domain: &Domain<P>, plan: Plan<I>) -> Result<Held, Failed>
where
    I: Iterator<Item = PhysRange> + Clone,
{
    let mut fate = Fate::default();
    match domain.change(None, &plan, &mut fate) {
        Ok(()) => Ok(plan.held),
        Err(error) => Err(Failed::new(error, fate, plan.held)),
    }
}
