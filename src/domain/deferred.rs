//! UNMAPs that are put off, so that many of them share a request and a notification.
//!
//! A parked mapping is still translated: its memory belongs to a handle, or to the domain, until
//! the UNMAP is confirmed. The number of parked mappings and their age are bounded.

use alloc::vec::Vec;
use core::time::Duration;

use super::change::Held;
use super::erased::Erased;
use super::record::State;
use super::{Domain, DomainState, UnmapError};
use crate::address::IovaRange;
use crate::device::{BATCH, Outcome, RequestError};
use crate::iova::Slot;
use crate::platform::Platform;

const NONE: u32 = u32::MAX;

/// Where in the list a parked mapping is. Means nothing once the mapping is not parked any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// One parked mapping, linked to its neighbours in age.
#[derive(Clone, Copy, Debug)]
struct Link {
    slot: Option<Slot>,
    /// When the UNMAP has to be sent, in nanoseconds.
    deadline: u64,
    older: u32,
    /// The next free link, for one that is free.
    younger: u32,
}

/// The parked mappings, by age. Allocates when it is made, and never again.
#[derive(Debug)]
pub(super) struct ParkedList {
    links: Vec<Link>,
    oldest: u32,
    youngest: u32,
    free: u32,
    max_age: u64,
    /// Somebody is flushing.
    flushing: bool,
}

impl ParkedList {
    /// Room for `capacity` mappings; `None` without the memory for it.
    pub(super) fn new(capacity: usize, max_age: Duration) -> Option<Self> {
        let count = u32::try_from(capacity).ok().filter(|count| *count < NONE)?;
        let mut links = Vec::new();
        links.try_reserve_exact(capacity).ok()?;
        links.extend((0..count).map(|at| Link {
            slot: None,
            deadline: 0,
            older: NONE,
            younger: if at + 1 < count { at + 1 } else { NONE },
        }));
        Some(Self {
            links,
            oldest: NONE,
            youngest: NONE,
            free: if count == 0 { NONE } else { 0 },
            max_age: u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX),
            flushing: false,
        })
    }

    fn link(&mut self, at: u32) -> Option<&mut Link> {
        self.links.get_mut(at as usize)
    }

    /// Adds a mapping as the youngest; `None` when the list is full.
    fn push(&mut self, slot: Slot, now: u64) -> Option<Place> {
        let at = self.free;
        let youngest = self.youngest;
        let deadline = now.saturating_add(self.max_age);
        let link = self.link(at)?;
        let next_free = link.younger;
        *link = Link {
            slot: Some(slot),
            deadline,
            older: youngest,
            younger: NONE,
        };
        self.free = next_free;
        match self.link(youngest) {
            Some(before) => before.younger = at,
            None => self.oldest = at,
        }
        self.youngest = at;
        Some(Place(at))
    }

    /// Takes a mapping out.
    fn remove(&mut self, place: Place) -> Option<Slot> {
        let free = self.free;
        let link = self.link(place.0)?;
        let slot = link.slot.take()?;
        let (older, younger) = (link.older, link.younger);
        link.younger = free;
        self.free = place.0;
        match self.link(older) {
            Some(link) => link.younger = younger,
            None => self.oldest = younger,
        }
        match self.link(younger) {
            Some(link) => link.older = older,
            None => self.youngest = older,
        }
        Some(slot)
    }

    /// Takes the oldest mapping out.
    fn pop(&mut self) -> Option<Slot> {
        self.remove(Place(self.oldest))
    }

    /// When the oldest mapping has to be unmapped.
    fn next_deadline(&self) -> Option<u64> {
        Some(self.links.get(self.oldest as usize)?.deadline)
    }
}

/// Why an UNMAP cannot be put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParkError {
    /// As many are put off as there is room for.
    Full,
    /// The mapping is not in force, or an endpoint is being attached or detached.
    NotNow,
}

/// What became of a parked mapping that is wanted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It is in force: no request was needed.
    Mapped,
    /// It was unmapped. Its addresses are still taken.
    Revoked,
    /// The UNMAP was not confirmed.
    Quarantined(RequestError),
}

impl<P: Platform> Domain<P> {
    /// Puts the UNMAP of a mapping off.
    #[inline]
    pub(crate) fn park(&self, held: Held) -> Result<Place, ParkError> {
        let now = self.shared.platform.now();
        let mut state = self.state.lock();
        if state.is_exclusive() {
            return Err(ParkError::NotNow);
        }
        let place = state.parked.push(held.slot, now);
        let to = State::Parked;
        match place {
            Some(place) if !state.ledger.transition(held.slot, State::Mapped, to) => {
                state.parked.remove(place);
                Err(ParkError::NotNow)
            }
            Some(place) => Ok(place),
            None if state.ledger.state(held.slot) == Some(State::Mapped) => Err(ParkError::Full),
            None => Err(ParkError::NotNow),
        }
    }

    /// Takes a parked mapping back into use. Waits if it is being unmapped right now.
    #[inline(always)]
    pub(crate) fn unpark(&self, held: Held, place: Option<Place>) -> Result<Again, UnmapError> {
        let taken = self.state.lock().take_back(held.slot, place);
        match taken {
            true => Ok(Again::Mapped),
            false => self.unpark_other(held, place),
        }
    }

    /// As [`unpark`](Self::unpark), if it is not parked, or the domain is busy.
    #[cold]
    #[inline(never)]
    fn unpark_other(&self, held: Held, place: Option<Place>) -> Result<Again, UnmapError> {
        self.patiently(|state| {
            if state.take_back(held.slot, place) {
                return Ok(Again::Mapped);
            }
            match state.ledger.state(held.slot) {
                Some(State::Revoked) => Ok(Again::Revoked),
                Some(State::Quarantined) => Ok(Again::Quarantined(RequestError::Unconfirmed)),
                Some(State::Parked | State::Flushing) => Err(UnmapError::Busy),
                _ => Err(UnmapError::NotMapped(held.iova)),
            }
        })
    }

    /// Unmaps a parked mapping, if that was not done yet, and frees its addresses. Waits if it is
    /// being unmapped right now.
    pub(crate) fn reclaim(&self, held: Held, place: Option<Place>) -> Result<(), UnmapError> {
        match self.unpark(held, place)? {
            Again::Mapped => self.end_held(held),
            Again::Revoked => {
                self.forget_revoked(held);
                Ok(())
            }
            Again::Quarantined(error) => Err(UnmapError::Quarantined(error)),
        }
    }

    /// Frees the addresses of a mapping whose UNMAP is confirmed.
    pub(crate) fn forget_revoked(&self, held: Held) {
        let mut state = self.state.lock();
        if state.ledger.state(held.slot) == Some(State::Revoked) {
            state.ledger.remove(held.slot);
        }
    }

    /// Whether the UNMAP of a parked mapping is confirmed.
    pub(crate) fn is_revoked(&self, held: Held) -> bool {
        self.state.lock().ledger.state(held.slot) == Some(State::Revoked)
    }

    /// Leaves the memory of a parked mapping to the domain, which drops it once the UNMAP is
    /// confirmed. Gives it back if there is no room.
    pub(crate) fn leave(&self, held: Held, buffer: Erased) -> Result<(), Erased> {
        let mut state = self.state.lock();
        match state.ledger.state(held.slot) {
            Some(State::Parked | State::Flushing) if state.has_pen() => {
                state.pen(held.slot, buffer);
                Ok(())
            }
            _ => Err(buffer),
        }
    }

    /// Sends all UNMAPs that were put off, and drops the memory that was left to the domain.
    ///
    /// Neighbours share a request, and up to 64 requests a notification.
    ///
    /// # Errors
    ///
    /// [`UnmapError::Busy`] while an endpoint is being attached or detached, or somebody else is
    /// flushing; [`UnmapError::Quarantined`] if one of the UNMAPs was not confirmed.
    pub fn flush(&self) -> Result<(), UnmapError> {
        {
            let mut state = self.state.lock();
            if state.is_exclusive() || state.parked.flushing {
                return Err(UnmapError::Busy);
            }
            state.parked.flushing = true;
        }
        let mut failure = None;
        while let Some(outcome) = self.flush_some() {
            failure = failure.or(outcome.err());
        }
        let left = {
            let mut state = self.state.lock();
            state.parked.flushing = false;
            state.is_exclusive() && state.parked.oldest != NONE
        };
        loop {
            let buffer = self.state.lock().take_revoked();
            // Without a lock: this runs code of whoever made the buffer.
            if buffer.is_none() {
                break;
            }
        }
        match failure {
            Some(error) => Err(UnmapError::Quarantined(error)),
            None if left => Err(UnmapError::Busy),
            None => Ok(()),
        }
    }

    /// Sends up to [`BATCH`] UNMAPs; `None` when nothing is parked, or the domain is busy.
    fn flush_some(&self) -> Option<Outcome> {
        let mut slots = [None; BATCH];
        let mut runs = [None::<IovaRange>; BATCH];
        let known = {
            let mut state = self.state.lock();
            if state.is_exclusive() {
                return None;
            }
            for place in &mut slots {
                *place = state.parked.pop();
                if let Some(slot) = *place {
                    state
                        .ledger
                        .transition(slot, State::Parked, State::Flushing);
                }
            }
            slots.first().copied().flatten()?;
            let starts = slots.iter().flatten();
            let found = starts.filter_map(|slot| state.ledger.run_from(*slot, State::Flushing));
            for (place, run) in runs.iter_mut().zip(found) {
                *place = Some(run);
            }
            !state.members.is_empty()
        };
        let runs = runs.iter().flatten();
        let settle = |run: IovaRange, outcome| self.state.lock().settle_run(run, outcome);
        let mut all = Ok(());
        if known {
            let requests = runs.clone().map(|virt| self.unmap_request(*virt));
            let awaited = self.surely_all(runs.clone().copied());
            let mut settled = runs.clone();
            all = self.shared.execute::<BATCH, _>(requests, |_, outcomes| {
                for (run, outcome) in settled.by_ref().zip(outcomes) {
                    settle(*run, self.surely(*run, outcome.and(awaited)));
                }
            });
        } else {
            // The device does not know the domain.
            runs.for_each(|run| settle(*run, Ok(())));
        }
        Some(all)
    }

    /// Sends the UNMAPs that were put off if the oldest of them is due at `now`, in nanoseconds of
    /// [`Platform::now`]. Returns when to call again, or `None` if nothing is put off.
    ///
    /// Whatever fails is quarantined, and counted by [`quarantined`](Self::quarantined).
    pub fn poll(&self, now: u64) -> Option<u64> {
        let due = |deadline: u64| deadline <= now;
        if self.next_deadline().is_some_and(due) {
            // What is busy is looked at again in time.
            let _ = self.flush();
        }
        self.next_deadline()
    }

    fn next_deadline(&self) -> Option<u64> {
        self.state.lock().parked.next_deadline()
    }

    /// How many mappings are in force only because their UNMAP was put off.
    #[must_use]
    pub fn deferred(&self) -> usize {
        self.state.lock().ledger.count(State::Parked)
    }
}

impl DomainState {
    /// Takes a mapping back into use, if it is parked and the domain is not busy.
    #[inline(always)]
    fn take_back(&mut self, slot: Slot, place: Option<Place>) -> bool {
        let parked =
            !self.is_exclusive() && self.ledger.transition(slot, State::Parked, State::Mapped);
        if parked && let Some(place) = place {
            self.parked.remove(place);
        }
        parked
    }

    /// Notes what became of the UNMAP of a run.
    fn settle_run(&mut self, run: IovaRange, outcome: Outcome) {
        let to = match outcome {
            Ok(()) => State::Revoked,
            Err(_) => State::Quarantined,
        };
        let mut at = None;
        while let Some(slot) = self.ledger.next_in(run, at) {
            self.ledger.transition(slot, State::Flushing, to);
            at = Some(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Iova;
    use crate::iova::Space;

    #[test]
    fn a_list_by_age_with_removals_in_between() {
        let mut list = ParkedList::new(3, Duration::from_nanos(10)).unwrap();
        let usable = IovaRange::new(Iova(0x1000), Iova(0xffff)).unwrap();
        let mut space = Space::new(usable, 0x1000, 0, 3).unwrap();
        let mut slot = |page: u64| {
            let range = IovaRange::from_len(Iova(page * 0x1000), 0x1000).unwrap();
            space.take(range, ()).unwrap()
        };
        let [a, b, c] = [slot(1), slot(2), slot(3)];
        assert_eq!(list.next_deadline(), None);
        let place_a = list.push(a, 100).unwrap();
        let place_b = list.push(b, 101).unwrap();
        assert!(list.push(c, 102).is_some());
        assert_eq!(list.push(a, 103), None);
        assert_eq!(list.next_deadline(), Some(110));
        assert_eq!(list.remove(place_b), Some(b));
        assert_eq!(list.remove(place_b), None);
        assert!(list.push(b, 104).is_some());
        assert_eq!(list.remove(place_a), Some(a));
        assert_eq!(list.next_deadline(), Some(112));
        assert_eq!(list.pop(), Some(c));
        assert_eq!(list.next_deadline(), Some(114));
        assert_eq!(list.pop(), Some(b));
        assert_eq!(list.pop(), None);
        assert_eq!(list.next_deadline(), None);
        assert!(list.push(c, u64::MAX).is_some());
        assert_eq!(list.next_deadline(), Some(u64::MAX));
        assert_eq!(ParkedList::new(0, Duration::ZERO).unwrap().push(a, 0), None);
    }
}
