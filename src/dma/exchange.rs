//! The end of some transfers and the beginning of the next, with one notification.

use core::slice;

use super::DmaDevice;
use super::buffer::DmaBuffer;
use super::direction::Direction;
use super::live::{FEW, Live, Site, first_two, gather, phys};
use super::mapping::{Completed, Failed, MapFailure, Mapping};
use crate::address::PhysRange;
use crate::device::Outcome;
use crate::domain::{Fate, Held, MapError, MapOptions, Owner, UnmapError};
use crate::platform::Platform;

/// What became of an [exchange](DmaDevice::exchange).
#[derive(Debug)]
pub struct Exchanged<U, M, B> {
    /// The buffer that was unmapped.
    pub unmapped: Result<U, UnmapError>,
    /// The buffer that was mapped.
    pub mapped: Result<M, MapFailure<B>>,
}

impl<P: Platform> DmaDevice<P> {
    /// Unmaps a buffer and maps another, with one notification. Neither depends on the other: one
    /// may succeed and the other fail. Does not allocate.
    ///
    /// `done` must belong to the same domain; otherwise both are done one after the other.
    #[inline(always)]
    pub fn exchange<B, D, C, E>(
        &self,
        done: Completed<B, D, P>,
        mut next: C,
    ) -> Exchanged<B, Mapping<C, E, P>, C>
    where
        B: DmaBuffer,
        D: Direction,
        C: DmaBuffer,
        E: Direction,
    {
        let domain = self.domain();
        if !done.is_in(domain) {
            return Exchanged {
                unmapped: done.unmap(),
                mapped: self.map(next),
            };
        }
        next.conceal(domain.audience(), E::ACCESS);
        let (end, options) = (done.held(), self.options::<E>(&next, 0));
        let (ended, begun) = match first_two(&next) {
            (Some(only), None) => {
                self.exchange_pieces(end, slice::from_ref(&only).iter().copied(), options)
            }
            (Some(first), _) => match gather(phys(&next), domain.granule(), &mut [first; FEW]) {
                Some(parts) => self.exchange_pieces(end, parts.iter().copied(), options),
                None => self.exchange_pieces(end, phys(&next), options),
            },
            (None, _) => (None, Err(MapError::Length.into())),
        };
        let unmapped = match ended {
            None => done.unmap(),
            Some(ended) => done.settle(ended),
        };
        let mapped = match begun {
            Ok(held) => Ok(Mapping::of(Live {
                port: self.port().clone(),
                site: Site::of(held, 0),
                buffer: next,
            })),
            Err(failed) => Err(failed.with(domain, next)),
        };
        Exchanged { unmapped, mapped }
    }

    /// The requests of an exchange: the outcome of the UNMAP, if it was sent, and of the MAPs.
    #[inline(never)]
    fn exchange_pieces<I>(
        &self,
        end: Held,
        pieces: I,
        options: MapOptions,
    ) -> (Option<Outcome>, Result<Held, Failed>)
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let domain = self.domain();
        let planned = domain
            .draft(pieces, options, 0)
            .and_then(|draft| match Site::is_for(draft.len()) {
                true => Ok(draft),
                false => Err(MapError::OutOfIova),
            })
            .and_then(|draft| domain.plan_beside_end(draft, Owner::Buffer, end));
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => return (None, Err(error.into())),
        };
        let mut fate = Fate::default();
        let mut ended = Ok(());
        let begun = match domain.change(Some((end, &mut ended)), &plan, &mut fate) {
            Ok(()) => Ok(plan.held),
            Err(error) => Err(Failed::new(error, fate, plan.held)),
        };
        (Some(ended), begun)
    }
}
