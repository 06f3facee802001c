//! Mappings come and go (§5.13.6.5, §5.13.6.6).

use super::ledger::{Entry, State};
use super::{Domain, DomainState, MapError, UnmapError};
use crate::address::{Iova, IovaRange, PhysRange};
use crate::device::BATCH;
use crate::iova::IovaError;
use crate::platform::Platform;
use crate::wire::{Access, Features, Request};

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
    /// least.
    pub align: u64,
}

impl MapOptions {
    /// Any addresses.
    #[must_use]
    pub const fn new(access: Access) -> Self {
        Self {
            access,
            limit: Iova(u64::MAX),
            align: 1,
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
        let mut iova = [IovaRange::single(Iova(0))];
        // SAFETY: the contract is the same.
        unsafe { self.map_all(&[phys], options, &mut iova) }?;
        let [iova] = iova;
        Ok(iova)
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
        self.check(phys, options)?;
        let last = phys.end().0 - phys.start().0;
        let end = iova.0.checked_add(last).ok_or(MapError::OutOfRange)?;
        let range = IovaRange::new(iova, Iova(end)).ok_or(MapError::OutOfRange)?;
        if !iova.0.is_multiple_of(self.shared.geometry.granule()) {
            return Err(MapError::Misaligned);
        }
        {
            let mut state = self.state.lock();
            state.ready()?;
            state.iova.take(range)?;
            state.record(range, phys, access)?;
        }
        self.map_recorded(&[range], &[phys], access)?;
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
        for piece in phys {
            self.check(*piece, options)?;
        }
        self.record_all(phys, options, iova)?;
        self.map_recorded(iova, phys, options.access)
    }

    /// What must hold of every mapping before anything is looked at.
    fn check(&self, phys: PhysRange, options: MapOptions) -> Result<(), MapError> {
        let access = options.access;
        if !access.intersects(Access::READ | Access::WRITE) || !Access::all().contains(access) {
            return Err(MapError::NoAccess);
        }
        if access.contains(Access::MMIO) && !self.shared.features.contains(Features::MMIO) {
            return Err(MapError::MmioUnsupported);
        }
        let rest = self.shared.geometry.granule() - 1;
        if phys.start().0 & rest != 0
            || phys.end().0 & rest != rest
            || !options.align.is_power_of_two()
        {
            return Err(MapError::Misaligned);
        }
        Ok(())
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
            let found = match piece.len() {
                Some(len) => state.iova.alloc(len, options.align, options.limit),
                None => Err(IovaError::Exhausted),
            };
            let recorded = found
                .map_err(MapError::from)
                .and_then(|range| state.record(range, *piece, options.access).map(|()| range));
            match (recorded, iova.get_mut(i)) {
                (Ok(range), Some(place)) => *place = range,
                (Ok(range), None) => state.forget(range),
                (Err(error), _) => {
                    for range in iova.iter().take(i) {
                        state.forget(*range);
                    }
                    return Err(error);
                }
            }
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
        let mut failure = None;
        let mut exposed = false;
        let requests = iova.iter().zip(phys).map(|(virt, phys)| Request::Map {
            domain: self.id,
            virt: *virt,
            phys_start: phys.start(),
            access,
        });
        self.shared.execute::<BATCH, _>(requests, |first, outcomes| {
            let mut state = self.state.lock();
            for (range, outcome) in iova.iter().skip(first).zip(outcomes) {
                match outcome {
                    Ok(()) => {
                        state
                            .ledger
                            .transition(*range, State::Mapping, State::Mapped);
                    }
                    Err(error) => {
                        failure = failure.or(Some(*error));
                        if error.had_no_effect() {
                            state.forget(*range);
                        } else {
                            exposed = true;
                            state
                                .ledger
                                .transition(*range, State::Mapping, State::Quarantined);
                        }
                    }
                }
            }
        });
        let Some(error) = failure else {
            return Ok(());
        };
        let left = self.roll_back(iova);
        Err(if exposed || left.is_err() {
            MapError::Exposed(error)
        } else {
            MapError::Request(error)
        })
    }

    /// Unmaps those of `iova` that were mapped.
    fn roll_back(&self, iova: &[IovaRange]) -> Result<(), UnmapError> {
        let mut result = Ok(());
        for range in iova {
            let mapped =
                self.state
                    .lock()
                    .ledger
                    .transition(*range, State::Mapped, State::Unmapping);
            if mapped {
                result = result.and(self.unmap_recorded(core::slice::from_ref(range)));
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
        self.unmap_all(core::slice::from_ref(&iova))
    }

    /// Ends several mappings, with one notification of the device for up to 64 of them.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]: if one of the ranges is not a mapping, nothing is unmapped; otherwise each
    /// mapping is unmapped or quarantined, and the first error is returned.
    pub fn unmap_all(&self, iova: &[IovaRange]) -> Result<(), UnmapError> {
        {
            let mut state = self.state.lock();
            if state.changing {
                return Err(UnmapError::Busy);
            }
            for (i, range) in iova.iter().enumerate() {
                if state.is_doorbell(*range)
                    || !state
                        .ledger
                        .transition(*range, State::Mapped, State::Unmapping)
                {
                    for range in iova.iter().take(i) {
                        state
                            .ledger
                            .transition(*range, State::Unmapping, State::Mapped);
                    }
                    return Err(UnmapError::NotMapped(*range));
                }
            }
            if state.members.is_empty() {
                // The device does not know the domain.
                for range in iova {
                    state.forget(*range);
                }
                return Ok(());
            }
        }
        self.unmap_recorded(iova)
    }

    /// Tells the device to unmap what was recorded as such.
    pub(super) fn unmap_recorded(&self, iova: &[IovaRange]) -> Result<(), UnmapError> {
        let mut failure = None;
        let requests = iova.iter().map(|virt| Request::Unmap {
            domain: self.id,
            virt: *virt,
        });
        self.shared.execute::<BATCH, _>(requests, |first, outcomes| {
            let mut state = self.state.lock();
            for (range, outcome) in iova.iter().skip(first).zip(outcomes) {
                match outcome {
                    Ok(()) => state.forget(*range),
                    Err(error) => {
                        failure = failure.or(Some(*error));
                        state
                            .ledger
                            .transition(*range, State::Unmapping, State::Quarantined);
                    }
                }
            }
        });
        failure.map_or(Ok(()), |error| Err(UnmapError::Quarantined(error)))
    }
}

impl DomainState {
    /// Whether something can be mapped now.
    fn ready(&self) -> Result<(), MapError> {
        if self.changing {
            return Err(MapError::Busy);
        }
        if self.members.is_empty() {
            return Err(MapError::NotAttached);
        }
        Ok(())
    }

    /// Records a mapping at addresses that were just taken.
    fn record(&mut self, iova: IovaRange, phys: PhysRange, access: Access) -> Result<(), MapError> {
        let recorded = self.ledger.insert(Entry {
            iova,
            phys: phys.start(),
            access,
            state: State::Mapping,
        });
        if !recorded {
            self.iova.free(iova);
            return Err(MapError::Full);
        }
        Ok(())
    }
}

impl From<IovaError> for MapError {
    fn from(error: IovaError) -> Self {
        match error {
            IovaError::Full => Self::Full,
            IovaError::Exhausted => Self::OutOfIova,
            IovaError::OutOfRange => Self::OutOfRange,
            IovaError::InUse => Self::InUse,
            IovaError::Hole(hole) => Self::Reserved(hole),
        }
    }
}
