//! Buffers whose UNMAP is put off.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use super::buffer::DmaBuffer;
use super::direction::{DeviceWrites, Direction};
use super::live::{Live, phys};
use super::mapping::{Failed, MapFailure, Mapping, send_one};
use crate::device::RequestError;
use crate::domain::{Again, Domain, Erased, Held, MapError, ParkError, Place, UnmapError};
use crate::platform::Platform;

/// A buffer whose endpoint is done with it, and whose UNMAP is put off so that it shares a request
/// and a notification with others.
///
/// The endpoint can reach the buffer until the UNMAP is confirmed, so nobody else gets it before.
/// Using it again in the meantime costs no request. The number of UNMAPs that are put off, and
/// their age, are bounded: see [`Domain::poll`](crate::Domain::poll),
/// [`Domain::flush`](crate::Domain::flush) and [`DomainOptions`](crate::DomainOptions). When there
/// is no room, all that were put off are sent.
///
/// Dropping this leaves the buffer to the domain, which drops it when the UNMAP is confirmed.
///
/// ```compile_fail
/// # use virtio_iommu::{*, dma::*};
/// fn misuse<P: Platform>(parked: Deferred<PageBuf<P>, FromDevice, P>) -> u8 {
///     parked[0] // the endpoint can still write there
/// }
/// ```
#[must_use = "the endpoint can reach the buffer until it is unmapped"]
pub struct Deferred<B: DmaBuffer, D: Direction, P: Platform> {
    live: ManuallyDrop<Live<B, P>>,
    /// Where it waits; `None` if it could not wait, and was unmapped at once.
    place: Option<Place>,
    direction: PhantomData<D>,
}

impl<B: DmaBuffer, D: Direction, P: Platform> Drop for Deferred<B, D, P> {
    fn drop(&mut self) {
        let place = self.place;
        // SAFETY: it is not used afterwards.
        let live = unsafe { ManuallyDrop::take(&mut self.live) };
        let held = live.held();
        let Live { port, buffer, .. } = live;
        let domain = &port.domain;
        let Err(buffer) = domain.leave(held, Erased::new(buffer)) else {
            return;
        };
        match domain.reclaim(held, place) {
            Ok(()) => drop(buffer),
            Err(_) => domain.keep(held, buffer),
        }
    }
}

impl<B: DmaBuffer, D: Direction, P: Platform> core::fmt::Debug for Deferred<B, D, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Deferred({})", self.live.held().iova)
    }
}

impl<B: DmaBuffer, D: Direction, P: Platform> Deferred<B, D, P> {
    /// Puts an UNMAP off, or sends it now if there is no room for another.
    #[inline(always)]
    pub(super) fn park(live: Live<B, P>) -> Self {
        let place = match live.domain().park(live.held()) {
            Ok(place) => Some(place),
            Err(error) => park_again(live.domain(), live.held(), error),
        };
        Self {
            place,
            live: ManuallyDrop::new(live),
            direction: PhantomData,
        }
    }

    #[inline(always)]
    fn into_parts(self) -> (Live<B, P>, Option<Place>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so nothing takes it out again.
        let live = unsafe { ManuallyDrop::take(&mut this.live) };
        (live, this.place)
    }

    /// Lets the endpoint use the buffer once more, at the same addresses. Without a request, if
    /// the UNMAP was not sent yet.
    ///
    /// # Errors
    ///
    /// [`MapFailure`], with the buffer unless it is quarantined.
    #[inline(always)]
    pub fn reuse(self) -> Result<Mapping<B, D, P>, MapFailure<B>> {
        let (live, place) = self.into_parts();
        match live.domain().unpark(live.held(), place) {
            Ok(Again::Mapped) => Ok(Mapping::of(live)),
            again => Self::reuse_unmapped(live, again),
        }
    }

    /// What [`reuse`](Self::reuse) does when the mapping is no longer in force.
    #[cold]
    fn reuse_unmapped(
        live: Live<B, P>,
        again: Result<Again, UnmapError>,
    ) -> Result<Mapping<B, D, P>, MapFailure<B>> {
        match again {
            Ok(Again::Mapped) => Ok(Mapping::of(live)),
            Ok(Again::Revoked) => Self::map_again(live),
            Ok(Again::Quarantined(error)) => {
                live.keep();
                Err(MapFailure {
                    error: MapError::Exposed(error),
                    buffer: None,
                })
            }
            Err(_) => {
                live.abandon();
                Err(MapFailure {
                    error: MapError::Exposed(RequestError::Unconfirmed),
                    buffer: None,
                })
            }
        }
    }

    /// As [`reuse`](Self::reuse), but only while it takes no request. Otherwise gives the buffer
    /// up, with its addresses.
    #[cfg(feature = "virtio-drivers")]
    pub(crate) fn resume(self) -> Option<Mapping<B, D, P>> {
        let (live, place) = self.into_parts();
        let held = live.held();
        match live.domain().unpark(held, place) {
            Ok(Again::Mapped) => return Some(Mapping::of(live)),
            Ok(Again::Revoked) => live.domain().forget_revoked(held),
            Ok(Again::Quarantined(_)) => live.keep(),
            Err(_) => live.abandon(),
        }
        None
    }

    /// Maps a buffer at the addresses that it had.
    fn map_again(live: Live<B, P>) -> Result<Mapping<B, D, P>, MapFailure<B>> {
        match Self::send_again(&live) {
            Ok(()) => Ok(Mapping::of(live)),
            Err(failed) => Err(failed.with(&live.port.domain, live.buffer)),
        }
    }

    fn send_again(live: &Live<B, P>) -> Result<(), Failed> {
        let (domain, held) = (live.domain(), live.held());
        let plan = domain
            .plan_again(held, phys(&live.buffer), live.gap(), D::ACCESS)
            .inspect_err(|_| domain.forget_revoked(held))?;
        send_one(domain, plan)?;
        Ok(())
    }

    /// Gives the buffer back. The UNMAP is sent, if it was not sent yet.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]: the buffer is in the quarantine of the domain, because the endpoint may
    /// still reach it.
    pub fn reclaim(self) -> Result<B, UnmapError> {
        let (live, place) = self.into_parts();
        match live.domain().reclaim(live.held(), place) {
            Ok(()) => Ok(live.buffer),
            Err(error) => {
                live.keep();
                Err(error)
            }
        }
    }

    /// Whether the UNMAP is confirmed: [`reclaim`](Self::reclaim) takes no request then.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.live.domain().is_revoked(self.live.held())
    }

    /// As [`Mapping::read`]: the endpoint can still reach the buffer.
    #[must_use = "nothing is copied from beyond the end"]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool
    where
        D: DeviceWrites,
    {
        self.live.read(offset, into)
    }

    /// Copies to the buffer, for the next time that the endpoint uses it.
    ///
    /// `false`, and nothing is copied, if the buffer does not have the bytes.
    #[must_use = "nothing is copied to beyond the end"]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        self.live.write(offset, from)
    }
}

/// Makes room, or sends the UNMAP.
#[cold]
fn park_again<P: Platform>(domain: &Domain<P>, held: Held, error: ParkError) -> Option<Place> {
    let mut place = None;
    if error == ParkError::Full {
        // If somebody else is flushing, there may be room afterwards, or not.
        let _ = domain.flush();
        place = domain.park(held).ok();
    }
    if place.is_none() {
        domain.revoke_now(held);
    }
    place
}
