//! What goes to the device together: mappings that end, and mappings that begin (§5.13.6.5,
//! §5.13.6.6).

use core::sync::atomic::Ordering;

use super::map::MapOptions;
use super::parts::{Extent, ExtentError, Parts};
use super::record::{Owner, Record, State};
use super::{Domain, DomainState, MapError, UnmapError};
use crate::address::{IovaRange, PhysAddr, PhysRange};
use crate::device::{BATCH, Deadline, Outcome, RequestError};
use crate::iova::{IovaError, Slot, Wish};
use crate::platform::Platform;
use crate::wire::{Access, Features, Geometry, Request};

/// A mapping of the ledger, and its addresses. Whoever has it decides about the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) slot: Slot,
    pub(crate) iova: IovaRange,
}

/// A mapping that is in the ledger, and not yet at the device.
pub(crate) struct Plan<I> {
    pub(crate) held: Held,
    pieces: I,
    gap: u64,
    parts: usize,
    /// Where the first part leads.
    first: PhysAddr,
    access: Access,
}

impl<I> Plan<I> {
    /// Whether it takes one request.
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.parts == 1
    }
}

impl<I: Iterator<Item = PhysRange> + Clone> Plan<I> {
    fn parts(&self) -> Parts<I> {
        Parts::new(self.pieces.clone(), self.held.iova.start(), self.gap)
    }
}

/// What became of the requests of a plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// Parts that are mapped.
    mapped: usize,
    /// A part may be mapped, now or later.
    doubt: bool,
    /// The first error.
    error: Option<RequestError>,
    /// The endpoints may reach the memory in spite of the error.
    pub(crate) exposed: bool,
}

impl Fate {
    #[inline]
    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Ok(()) => self.mapped += 1,
            Err(error) => {
                self.doubt |= !error.had_no_effect();
                self.error = self.error.or(Some(error));
            }
        }
    }
}

/// What the pieces of one mapping take, checked without a look at the ledger.
pub(crate) struct Draft<I> {
    pieces: I,
    extent: Extent,
    options: MapOptions,
    gap: u64,
}

impl<I> Draft<I> {
    /// Addresses, in bytes, holes included.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.extent.len
    }
}

impl<P: Platform> Domain<P> {
    /// Checks what can be checked of a mapping without the ledger.
    #[inline(always)]
    pub(crate) fn draft<I>(
        &self,
        pieces: I,
        options: MapOptions,
        gap: u64,
    ) -> Result<Draft<I>, MapError>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let access = options.access;
        if !access.intersects(Access::READ | Access::WRITE) || !Access::all().contains(access) {
            return Err(MapError::NoAccess);
        }
        if access.contains(Access::MMIO) && !self.shared.features.contains(Features::MMIO) {
            return Err(MapError::MmioUnsupported);
        }
        let granule = self.shared.geometry.granule();
        let extent = Extent::of(pieces.clone(), gap, granule).map_err(|error| match error {
            ExtentError::Misaligned => MapError::Misaligned,
            ExtentError::Length => MapError::Length,
        })?;
        let power = |value: u64| value == 0 || value.is_power_of_two();
        if !options.align.is_power_of_two() || !power(options.boundary) {
            return Err(MapError::Misaligned);
        }
        Ok(Draft {
            pieces,
            extent,
            options,
            gap,
        })
    }

    /// Finds addresses for a draft, and records the mapping. The caller has checked that the
    /// domain [is ready](DomainState::ready).
    #[inline(always)]
    pub(super) fn plan<I>(
        &self,
        state: &mut DomainState,
        draft: Draft<I>,
        owner: Owner,
    ) -> Result<Plan<I>, MapError>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let Draft {
            pieces,
            extent,
            options,
            gap,
        } = draft;
        let access = options.access;
        let record = match extent.parts {
            1 => Record::new(extent.first, access, owner),
            _ => Record::scattered(access, owner),
        };
        let granule = self.shared.geometry.granule();
        let mut wish = Wish {
            len: extent.len,
            align: options.align.max(granule),
            limit: options.limit,
            boundary: options.boundary,
        };
        let plain = wish.align;
        wish.align = plain.max(large_page(&self.shared.geometry, extent.len));
        let mut found = state.ledger.insert(&wish, record);
        if wish.align > plain && found == Err(IovaError::Exhausted) {
            wish.align = plain;
            found = state.ledger.insert(&wish, record);
        }
        let (slot, iova) = found?;
        let plan = Plan {
            held: Held { slot, iova },
            pieces,
            gap,
            parts: extent.parts,
            first: extent.first,
            access,
        };
        if extent.parts > 1
            && let Err(error) = state.ledger.push_pieces(slot, plan.parts())
        {
            state.ledger.remove(slot);
            return Err(error.into());
        }
        Ok(plan)
    }

    /// The plan for one mapping, after its draft.
    #[inline(always)]
    pub(crate) fn plan_one<I>(&self, draft: Draft<I>, owner: Owner) -> Result<Plan<I>, MapError>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let mut state = self.state.lock();
        state.ready()?;
        self.plan(&mut state, draft, owner)
    }

    /// As [`plan_one`](Self::plan_one), while another mapping begins to end: both or none. The
    /// device knows the domain.
    #[inline]
    pub(crate) fn plan_beside_end<I>(
        &self,
        draft: Draft<I>,
        owner: Owner,
        end: Held,
    ) -> Result<Plan<I>, MapError>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let mut state = self.state.lock();
        state.ready()?;
        let plan = self.plan(&mut state, draft, owner)?;
        if state.begin_end(end).is_err() {
            state.ledger.remove(plan.held.slot);
            return Err(MapError::Busy);
        }
        Ok(plan)
    }

    /// The plan for a mapping that was unmapped, and whose addresses are still taken.
    pub(crate) fn plan_again<I>(
        &self,
        held: Held,
        pieces: I,
        gap: u64,
        access: Access,
    ) -> Result<Plan<I>, MapError>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let granule = self.shared.geometry.granule();
        let extent = Extent::of(pieces.clone(), gap, granule).map_err(|_| MapError::Length)?;
        let mut state = self.state.lock();
        state.ready()?;
        let again = state
            .ledger
            .transition(held.slot, State::Revoked, State::Mapping);
        if !again {
            return Err(MapError::Busy);
        }
        Ok(Plan {
            held,
            pieces,
            gap,
            parts: extent.parts,
            first: extent.first,
            access,
        })
    }

    /// Maps what was planned, all or nothing, and unmaps what [was begun](Self::begin_end) to
    /// end, with one notification for up to 64 requests. Neither depends on the other.
    ///
    /// `end` receives its outcome: if that is an error, it is quarantined. After an error the plan
    /// is not mapped, and its `fate` tells whether memory may be exposed: then it is quarantined.
    #[inline(always)]
    pub(crate) fn change<I>(
        &self,
        end: Option<(Held, &mut Outcome)>,
        plan: &Plan<I>,
        fate: &mut Fate,
    ) -> Result<(), MapError>
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        match end {
            None if plan.is_single() => {
                let outcome = self.execute_map(plan);
                self.settle_maps(&mut self.state.lock(), plan, fate, &[outcome]);
            }
            Some((end, ended)) if plan.is_single() => {
                let awaited = self.surely(end.iova, Ok(()));
                let [unmapped, outcome] = self.execute_pair(end, plan);
                *ended = self.surely(end.iova, unmapped.and(awaited));
                let mut state = self.state.lock();
                state.settle_end(end, *ended);
                self.settle_maps(&mut state, plan, fate, &[outcome]);
            }
            end => self.change_many(end, plan, fate),
        }
        match fate.error {
            None => Ok(()),
            Some(error) => Err(self.roll_back(plan, fate, error)),
        }
    }

    #[inline(always)]
    fn execute_map<I>(&self, plan: &Plan<I>) -> Outcome {
        let [outcome] = self.shared.execute_few(|| [self.map_request(plan)]);
        outcome
    }

    #[inline(always)]
    fn execute_pair<I>(&self, end: Held, plan: &Plan<I>) -> [Outcome; 2] {
        self.shared
            .execute_few(|| [self.unmap_request(end.iova), self.map_request(plan)])
    }

    #[inline(always)]
    pub(super) fn unmap_request(&self, virt: IovaRange) -> Request {
        #[cfg(viommu_broken)]
        let virt = match crate::broken::is(crate::broken::SPLIT_UNMAP) {
            true => IovaRange::from_len(virt.start(), virt.len().unwrap_or(2) / 2).unwrap_or(virt),
            false => virt,
        };
        Request::Unmap {
            domain: self.id,
            virt,
        }
    }

    /// The only MAP request of a plan.
    #[inline(always)]
    fn map_request<I>(&self, plan: &Plan<I>) -> Request {
        Request::Map {
            domain: self.id,
            virt: plan.held.iova,
            phys_start: plan.first,
            access: plan.access,
        }
    }

    /// Notes what became of parts of a plan.
    #[inline(always)]
    fn settle_maps<I>(
        &self,
        state: &mut DomainState,
        plan: &Plan<I>,
        fate: &mut Fate,
        outcomes: &[Outcome],
    ) {
        outcomes.iter().for_each(|outcome| fate.note(*outcome));
        if fate.mapped == plan.parts {
            let slot = plan.held.slot;
            let mapped = state.ledger.transition(slot, State::Mapping, State::Mapped);
            debug_assert!(mapped);
        }
    }

    /// As [`change`](Self::change), for a plan of several requests.
    fn change_many<I>(&self, end: Option<(Held, &mut Outcome)>, plan: &Plan<I>, fate: &mut Fate)
    where
        I: Iterator<Item = PhysRange> + Clone,
    {
        let requests = Requests {
            domain: self,
            end: end.as_ref().map(|(end, _)| end.iova),
            parts: plan.parts(),
            access: plan.access,
        };
        let awaited = match &end {
            Some((end, _)) => self.surely(end.iova, Ok(())),
            None => Ok(()),
        };
        let mut end = end;
        // The fate has the error.
        let _ = self.shared.execute::<BATCH, _>(requests, |_, outcomes| {
            let mut state = self.state.lock();
            let mut of_plan = outcomes;
            if let Some((outcome, others)) = outcomes.split_first()
                && let Some((end, ended)) = end.take()
            {
                *ended = self.surely(end.iova, outcome.and(awaited));
                state.settle_end(end, *ended);
                of_plan = others;
            }
            self.settle_maps(&mut state, plan, fate, of_plan);
        });
    }

    /// Takes back what was mapped of a plan that failed.
    #[cold]
    fn roll_back<I>(&self, plan: &Plan<I>, fate: &mut Fate, error: RequestError) -> MapError {
        let Held { slot, .. } = plan.held;
        let gone = !fate.doubt
            && (fate.mapped == 0 || {
                let to = State::Unmapping;
                self.state
                    .lock()
                    .ledger
                    .transition(slot, State::Mapping, to);
                self.send_end(plan.held).is_ok()
            });
        let mut state = self.state.lock();
        if gone {
            state.ledger.remove(slot);
            return MapError::Request(error);
        }
        for from in [State::Mapping, State::Unmapping] {
            state.ledger.transition(slot, from, State::Quarantined);
        }
        fate.exposed = true;
        MapError::Exposed(error)
    }

    /// Unmaps a mapping; quarantines it if that is not confirmed.
    #[inline(always)]
    pub(super) fn end(&self, held: Held) -> Result<(), UnmapError> {
        let begun = self.state.lock().begin_end(held);
        self.finish_end(held, begun)
    }

    /// As [`end`](Self::end), but waits while the domain is busy, and quarantines the mapping
    /// after any error.
    #[inline(never)]
    pub(crate) fn end_held(&self, held: Held) -> Result<(), UnmapError> {
        let begun = self.state.lock().begin_end(held);
        let begun = match begun {
            Err(UnmapError::Busy) => self.patiently(|state| state.begin_end(held)),
            begun => begun,
        };
        let outcome = self.finish_end(held, begun);
        if outcome == Err(UnmapError::Busy) {
            let mut state = self.state.lock();
            state
                .ledger
                .transition(held.slot, State::Mapped, State::Quarantined);
        }
        outcome
    }

    #[inline(always)]
    pub(super) fn finish_end(
        &self,
        held: Held,
        begun: Result<bool, UnmapError>,
    ) -> Result<(), UnmapError> {
        if !begun? {
            return Ok(());
        }
        let outcome = self.send_end(held);
        self.state.lock().settle_end(held, outcome);
        outcome.map_err(UnmapError::Quarantined)
    }

    /// Tries again while the domain is busy, up to the time-out of the device.
    #[cold]
    pub(super) fn patiently<T>(
        &self,
        mut attempt: impl FnMut(&mut DomainState) -> Result<T, UnmapError>,
    ) -> Result<T, UnmapError> {
        let platform = &*self.shared.platform;
        let mut deadline = Deadline::after(platform, self.shared.timeout);
        loop {
            match attempt(&mut self.state.lock()) {
                Err(UnmapError::Busy) if !deadline.passed(platform) => {}
                outcome => return outcome,
            }
        }
    }

    /// The UNMAP of one mapping.
    #[inline(always)]
    pub(super) fn send_end(&self, held: Held) -> Outcome {
        // What is answered meanwhile may have been carried out after the UNMAP.
        let awaited = self.surely(held.iova, Ok(()));
        let outcome = self.shared.execute_one(self.unmap_request(held.iova));
        self.surely(held.iova, outcome.and(awaited))
    }

    /// What an UNMAP of `virt` is worth that was answered so. A MAP of it that was repeated for a
    /// new endpoint, and not answered, may be carried out after it.
    #[inline(always)]
    pub(super) fn surely(&self, virt: IovaRange, outcome: Outcome) -> Outcome {
        if self.late_maps.load(Ordering::Relaxed) {
            return self.surely_in_time(virt, outcome);
        }
        outcome
    }

    /// What UNMAPs of all of `runs` are worth that are about to be sent: a MAP that is answered
    /// meanwhile may have been carried out after them.
    #[inline(always)]
    pub(super) fn surely_all(&self, mut runs: impl Iterator<Item = IovaRange>) -> Outcome {
        if self.late_maps.load(Ordering::Relaxed) {
            return runs.try_for_each(|run| self.surely_in_time(run, Ok(())));
        }
        Ok(())
    }

    #[cold]
    fn surely_in_time(&self, virt: IovaRange, outcome: Outcome) -> Outcome {
        let late = |request: &Request| {
            matches!(request, Request::Map { domain, virt: of, .. }
                if *domain == self.id && of.overlaps(&virt))
        };
        match self.shared.may_yet(late) {
            true => outcome.and(Err(RequestError::Unconfirmed)),
            false => outcome,
        }
    }
}

/// The requests of a change: first the UNMAP, then the MAPs.
struct Requests<'a, P: Platform, I> {
    domain: &'a Domain<P>,
    end: Option<IovaRange>,
    parts: Parts<I>,
    access: Access,
}

impl<P: Platform, I: Clone> Clone for Requests<'_, P, I> {
    fn clone(&self) -> Self {
        Self {
            domain: self.domain,
            end: self.end,
            parts: self.parts.clone(),
            access: self.access,
        }
    }
}

impl<P: Platform, I: Iterator<Item = PhysRange>> Iterator for Requests<'_, P, I> {
    type Item = Request;

    #[inline(always)]
    fn next(&mut self) -> Option<Request> {
        if let Some(end) = self.end.take() {
            return Some(self.domain.unmap_request(end));
        }
        let (virt, phys_start) = self.parts.next()?;
        Some(Request::Map {
            domain: self.domain.id,
            virt,
            phys_start,
            access: self.access,
        })
    }
}

impl DomainState {
    /// Whether something can be mapped now.
    #[inline(always)]
    pub(super) fn ready(&self) -> Result<(), MapError> {
        if self.changing {
            return Err(MapError::Busy);
        }
        if self.members.is_empty() {
            return Err(MapError::NotAttached);
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn begin_end(&mut self, held: Held) -> Result<bool, UnmapError> {
        if self.changing {
            return Err(UnmapError::Busy);
        }
        let begun = self
            .ledger
            .transition(held.slot, State::Mapped, State::Unmapping);
        if !begun {
            return Err(UnmapError::NotMapped(held.iova));
        }
        let known = !self.members.is_empty();
        if !known {
            self.ledger.remove(held.slot);
        }
        Ok(known)
    }

    /// Notes what became of the only MAP of a mapping.
    #[inline(always)]
    pub(super) fn settle_begin(&mut self, slot: Slot, outcome: Outcome) -> Result<(), MapError> {
        let (settled, result) = match outcome {
            Ok(()) => (State::Mapped, Ok(())),
            Err(error) if error.had_no_effect() => {
                self.ledger.remove(slot);
                return Err(MapError::Request(error));
            }
            Err(error) => (State::Quarantined, Err(MapError::Exposed(error))),
        };
        self.ledger.transition(slot, State::Mapping, settled);
        result
    }

    /// Notes what became of an UNMAP.
    #[inline(always)]
    pub(super) fn settle_end(&mut self, held: Held, outcome: Outcome) {
        match outcome {
            Ok(()) => self.ledger.remove(held.slot),
            Err(_) => {
                self.ledger
                    .transition(held.slot, State::Unmapping, State::Quarantined);
            }
        }
    }
}

/// The alignment that lets the device use large pages for so many bytes, if it hints at some.
fn large_page(geometry: &Geometry, len: u64) -> u64 {
    const SMALLEST: u64 = 1 << 21;
    const LARGEST: u64 = 1 << 30;
    if len < SMALLEST {
        return 1;
    }
    let fits = u64::MAX >> len.min(LARGEST).leading_zeros();
    let sizes = geometry.page_size_mask() & fits & !(SMALLEST - 1);
    sizes.checked_ilog2().map_or(1, |bit| 1 << bit)
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
