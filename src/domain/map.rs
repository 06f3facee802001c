//! The raw interface: ranges of physical memory come and go (§5.13.6.5, §5.13.6.6).

use super::change::{Held, Plan};
use super::record::{Owner, Record, State};
use super::runs::join;
use super::{Domain, DomainState, MapError, UnmapError};
use crate::address::{Iova, IovaRange, PhysRange};
use crate::device::BATCH;
use crate::iova::Slot;
use crate::platform::Platform;
use crate::wire::{Access, Request};

/// What a mapping has to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapOptions {
    /// What the endpoints may do.
    pub access: Access,
    /// The last address that the endpoints can put on the bus: their DMA mask. No limit by
    /// default.
    pub limit: Iova,
    /// Alignment of the first address, in bytes, a power of two. The granule by default, and at
    /// least. Mappings of 2 MiB and more are aligned to the larger page sizes of the device, too,
    /// where there is room.
    pub align: u64,
    /// No mapping crosses a multiple of so many bytes, a power of two. 0, the default, is no
    /// boundary.
    pub boundary: u64,
}

impl MapOptions {
    /// Any addresses.
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self {
            access,
            limit: Iova(u64::MAX),
            align: 1,
            boundary: 0,
        }
    }

    /// Addresses up to `limit`.
    #[must_use]
    pub const fn with_limit(mut self, limit: Iova) -> Self {
        self.limit = limit;
        self
    }

    /// Addresses that are multiples of `align` bytes.
    #[must_use]
    pub const fn with_align(mut self, align: u64) -> Self {
        self.align = align;
        self
    }

    /// Addresses on one side of each multiple of `boundary` bytes.
    #[must_use]
    pub const fn with_boundary(mut self, boundary: u64) -> Self {
        self.boundary = boundary;
        self
    }
}

impl<P: Platform> Domain<P> {
    /// Maps physical memory at free addresses.
    ///
    /// `phys` is whole granules. The range returned has its length, lies outside of all reserved
    /// regions of the endpoints, and keeps a distance of a granule from all others.
    ///
    /// # Errors
    ///
    /// [`MapError`]. Unless it [may be exposed](MapError::may_be_exposed), nothing is mapped.
    ///
    /// # Safety
    ///
    /// From now on the endpoints of the domain may read and, if asked for, write the memory at
    /// any time; with [`Access::WRITE`] alone they may still be able to read it. The caller
    /// promises that this breaks nobody's assumptions for as long as it can happen: until
    /// [`unmap`](Self::unmap) was confirmed **and** all endpoints of the domain are done with
    /// accesses that they began before, as they or a reset of them say.
    pub unsafe fn map(&self, phys: PhysRange, options: MapOptions) -> Result<IovaRange, MapError> {
        let held = self.map_held(core::iter::once(phys), options, Owner::Raw)?;
        Ok(held.iova)
    }

    /// Maps one piece of memory, for somebody.
    #[inline(always)]
    pub(super) fn map_held(
        &self,
        piece: core::iter::Once<PhysRange>,
        options: MapOptions,
        owner: Owner,
    ) -> Result<Held, MapError> {
        let draft = self.draft(piece, options, 0)?;
        let plan = self.plan_one(draft, owner)?;
        self.change(None, &plan, &mut Default::default())?;
        Ok(plan.held)
    }

    /// Maps physical memory at an address of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map). No hole is left around the mapping: where devices look one byte too
    /// far, an access to the byte before it may reach the byte before `phys`.
    pub unsafe fn map_at(
        &self,
        iova: Iova,
        phys: PhysRange,
        access: Access,
    ) -> Result<IovaRange, MapError> {
        let options = MapOptions::new(access);
        self.draft(core::iter::once(phys), options, 0)?;
        let last = phys.end().0 - phys.start().0;
        let end = iova.0.checked_add(last).ok_or(MapError::OutOfRange)?;
        let range = IovaRange::new(iova, Iova(end)).ok_or(MapError::OutOfRange)?;
        if !iova.0.is_multiple_of(self.shared.geometry.granule()) {
            return Err(MapError::Misaligned);
        }
        let slot = {
            let mut state = self.state.lock();
            state.ready()?;
            let record = Record::new(phys.start(), access, Owner::Raw);
            state.ledger.insert_at(range, record)?
        };
        let outcome = self.shared.execute_one(Request::Map {
            domain: self.id,
            virt: range,
            phys_start: phys.start(),
            access,
        });
        self.state.lock().settle_begin(slot, outcome)?;
        Ok(range)
    }

    /// Maps several pieces of physical memory, all or none, with one notification of the device
    /// for up to 64 of them. `iova` receives where each piece is, in order.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    ///
    /// # Safety
    ///
    /// As [`map`](Self::map), for every piece; after an error that
    /// [may be exposed](MapError::may_be_exposed), for all of them.
    pub unsafe fn map_all(
        &self,
        phys: &[PhysRange],
        options: MapOptions,
        iova: &mut [IovaRange],
    ) -> Result<(), MapError> {
        if phys.len() != iova.len() {
            return Err(MapError::Length);
        }
        if let ([phys], [iova]) = (phys, &mut *iova) {
            // SAFETY: the contract is the same.
            *iova = unsafe { self.map(*phys, options) }?;
            return Ok(());
        }
        self.record_all(phys, options, iova)?;
        self.map_recorded(iova, phys, options.access)
    }

    /// Finds and records addresses for all pieces, or for none.
    fn record_all(
        &self,
        phys: &[PhysRange],
        options: MapOptions,
        iova: &mut [IovaRange],
    ) -> Result<(), MapError> {
        let mut state = self.state.lock();
        state.ready()?;
        for (i, piece) in phys.iter().enumerate() {
            let recorded = self
                .draft(core::iter::once(*piece), options, 0)
                .and_then(|draft| self.plan(&mut state, draft, Owner::Raw));
            let error = match (recorded, iova.get_mut(i)) {
                (Ok(Plan { held, .. }), Some(place)) => {
                    *place = held.iova;
                    continue;
                }
                (Ok(Plan { held, .. }), None) => {
                    state.ledger.remove(held.slot);
                    MapError::Length
                }
                (Err(error), _) => error,
            };
            for range in iova.iter().take(i) {
                if let Some(slot) = state.ledger.find(*range) {
                    state.ledger.remove(slot);
                }
            }
            return Err(error);
        }
        Ok(())
    }

    /// Tells the device of mappings that were recorded; takes them back if it refuses one.
    fn map_recorded(
        &self,
        iova: &[IovaRange],
        phys: &[PhysRange],
        access: Access,
    ) -> Result<(), MapError> {
        let mut exposed = false;
        let requests = iova.iter().zip(phys).map(|(virt, phys)| Request::Map {
            domain: self.id,
            virt: *virt,
            phys_start: phys.start(),
            access,
        });
        let mapped = self
            .shared
            .execute::<BATCH, _>(requests, |first, outcomes| {
                let mut state = self.state.lock();
                let mut near = Slot::NONE;
                for (range, outcome) in iova.iter().skip(first).zip(outcomes) {
                    let Some(slot) = state.ledger.find_near(near, *range) else {
                        continue;
                    };
                    near = slot;
                    if let Err(error) = state.settle_begin(slot, *outcome) {
                        exposed |= error.may_be_exposed();
                    }
                }
            });
        let Err(error) = mapped else {
            return Ok(());
        };
        let left = self.roll_back_raw(iova);
        Err(if exposed || left.is_err() {
            MapError::Exposed(error)
        } else {
            MapError::Request(error)
        })
    }

    /// Unmaps those of `iova` that were mapped.
    fn roll_back_raw(&self, iova: &[IovaRange]) -> Result<(), UnmapError> {
        let mut result = Ok(());
        for range in iova {
            let slot = self.state.lock().ledger.find_raw(*range);
            if let Some(slot) = slot {
                let held = Held { slot, iova: *range };
                match self.end(held) {
                    // It was not mapped.
                    Err(UnmapError::NotMapped(_)) => {}
                    outcome => result = result.and(outcome),
                }
            }
        }
        result
    }

    /// Ends a mapping: no new access of the endpoints is translated through it.
    ///
    /// An access that began before may still be carried out. See [`map`](Self::map) for when the
    /// memory can be used for something else.
    ///
    /// # Errors
    ///
    /// [`UnmapError`].
    pub fn unmap(&self, iova: IovaRange) -> Result<(), UnmapError> {
        let begun = {
            let mut state = self.state.lock();
            let slot = state.ledger.find_raw(iova);
            slot.map(|slot| {
                let held = Held { slot, iova };
                (held, state.begin_end(held))
            })
        };
        let (held, begun) = begun.ok_or(UnmapError::NotMapped(iova))?;
        self.finish_end(held, begun)
    }

    /// Ends several mappings, with one notification of the device for up to 64 requests.
    /// Neighbours that follow each other in the list, in either direction, take one request.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]: if one of the ranges is not a mapping, nothing is unmapped; otherwise each
    /// mapping is unmapped or quarantined, and the first error is returned.
    pub fn unmap_all(&self, iova: &[IovaRange]) -> Result<(), UnmapError> {
        if let [iova] = iova {
            return self.unmap(*iova);
        }
        let begun = self.begin_all(iova)?;
        if !begun.known {
            return Ok(());
        }
        let runs = self.runs(iova, begun.may_merge);
        let requests = runs.clone().map(|(virt, _)| self.unmap_request(virt));
        let awaited = self.surely_all(runs.clone().map(|(run, _)| run));
        let mut runs = runs;
        let mut failure = None;
        let mut ranges = iova.iter();
        let unmapped = self.shared.execute::<BATCH, _>(requests, |_, outcomes| {
            let mut state = self.state.lock();
            let mut near = Slot::NONE;
            for (outcome, (run, count)) in outcomes.iter().zip(runs.by_ref()) {
                let outcome = &self.surely(run, outcome.and(awaited));
                failure = failure.or(outcome.err());
                for range in ranges.by_ref().take(count) {
                    if let Some(slot) = state.ledger.find_near(near, *range) {
                        near = slot;
                        let held = Held { slot, iova: *range };
                        state.settle_end(held, *outcome);
                    }
                }
            }
        });
        let unmapped = failure.map_or(unmapped, Err);
        unmapped.map_err(UnmapError::Quarantined)
    }

    /// Notes that mappings are about to end: all or none.
    fn begin_all(&self, iova: &[IovaRange]) -> Result<Begun, UnmapError> {
        let granule = self.shared.geometry.granule();
        let mut state = self.state.lock();
        if state.changing {
            return Err(UnmapError::Busy);
        }
        let mut begun = Begun {
            may_merge: true,
            known: !state.members.is_empty(),
        };
        let mut before = None;
        for (i, range) in iova.iter().enumerate() {
            let near = before.map_or(Slot::NONE, |(slot, _)| slot);
            let slot = state.ledger.find_raw_near(near, *range).filter(|slot| {
                state
                    .ledger
                    .transition(*slot, State::Mapped, State::Unmapping)
            });
            let Some(slot) = slot else {
                state.unbegin_all(iova.iter().take(i));
                return Err(UnmapError::NotMapped(*range));
            };
            let this = (slot, *range);
            if let Some(before) = before
                && join(before.1, *range, granule).is_some()
            {
                begun.may_merge &= state.ledger.are_side_by_side(before, this);
            }
            before = Some(this);
        }
        if !begun.known {
            // The device does not know the domain.
            for range in iova {
                if let Some(slot) = state.ledger.find(*range) {
                    state.ledger.remove(slot);
                }
            }
        }
        Ok(begun)
    }
}

impl DomainState {
    /// Notes that mappings are not about to end after all.
    #[cold]
    fn unbegin_all<'a>(&mut self, iova: impl Iterator<Item = &'a IovaRange>) {
        for range in iova {
            if let Some(slot) = self.ledger.find(*range) {
                self.ledger
                    .transition(slot, State::Unmapping, State::Mapped);
            }
        }
    }
}

/// Mappings that are about to end.
struct Begun {
    /// Nothing is in the holes between neighbours.
    may_merge: bool,
    /// The device has to be told.
    known: bool,
}
