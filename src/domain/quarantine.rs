//! What a device may still reach although its driver gave it up.
//!
//! A confirmed UNMAP does not stop an access that an endpoint began before. Memory that was given
//! up without anybody's word that the endpoint is done with it waits here, with its addresses,
//! for a reset of the endpoints.

use alloc::vec::Vec;

use super::change::Held;
use super::erased::Erased;
use super::record::State;
use super::{Domain, DomainState, UnmapError};
use crate::device::Outcome;
use crate::iova::Slot;
use crate::platform::Platform;
use crate::wire::Request;

/// The memory of a mapping that nobody uses.
pub(super) struct Pen {
    slot: Slot,
    buffer: Erased,
}

impl Pen {
    /// Never drops the memory.
    pub(super) fn leak(self) {
        core::mem::forget(self.buffer);
    }
}

/// What a release of the quarantine did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Mappings whose addresses, and memory, are free again, or belong to their
    /// [`Deferred`](crate::dma::Deferred) alone.
    pub released: usize,
    /// Mappings that stay, because the IOMMU may still translate them.
    pub kept: usize,
}

impl DomainState {
    /// Keeps the memory of a mapping until the mapping is released. Without room it is lost for
    /// good, which is counted.
    pub(super) fn pen(&mut self, slot: Slot, buffer: Erased) {
        self.ledger.disown(slot);
        if self.pens.len() < self.pens.capacity() {
            self.pens.push(Pen { slot, buffer });
        } else {
            self.lost = self.lost.saturating_add(1);
            core::mem::forget(buffer);
        }
    }

    /// Whether [`pen`](Self::pen) has room.
    pub(super) fn has_pen(&self) -> bool {
        self.pens.len() < self.pens.capacity()
    }

    /// The memory of a mapping, if it is kept here.
    pub(super) fn take_pen(&mut self, slot: Slot) -> Option<Erased> {
        let at = self.pens.iter().position(|pen| pen.slot == slot)?;
        Some(self.pens.swap_remove(at).buffer)
    }

    /// Memory that was waiting for an UNMAP that is confirmed now; its addresses become free.
    pub(super) fn take_revoked(&mut self) -> Option<Erased> {
        let at = self
            .pens
            .iter()
            .position(|pen| self.ledger.state(pen.slot) == Some(State::Revoked))?;
        let pen = self.pens.swap_remove(at);
        self.ledger.remove(pen.slot);
        Some(pen.buffer)
    }
}

impl<P: Platform> Domain<P> {
    /// Gives a mapping up without anybody's word that the endpoints are done with it: it is
    /// unmapped, and quarantined with its memory.
    pub(crate) fn abandon(&self, held: Held, buffer: Erased) {
        let outcome = self.revoke(held);
        self.make_pen_room();
        let mut state = self.state.lock();
        let end = match outcome {
            Ok(()) => State::Retired,
            Err(_) => State::Quarantined,
        };
        for from in [State::Mapped, State::Unmapping] {
            state.ledger.transition(held.slot, from, end);
        }
        state.pen(held.slot, buffer);
    }

    /// Memory that waits for nothing but an UNMAP makes room for what has to wait for longer.
    fn make_pen_room(&self) {
        let full = !self.state.lock().has_pen();
        if full {
            let _ = self.flush();
        }
    }

    /// Unmaps a mapping and keeps its addresses. Waits while the domain is busy.
    fn revoke(&self, held: Held) -> Result<(), UnmapError> {
        if !self.patiently(|state| state.begin_keep(held))? {
            return Ok(());
        }
        self.send_end(held).map_err(UnmapError::Quarantined)
    }

    /// Unmaps a mapping at once whose owner means to ask for it later.
    pub(crate) fn revoke_now(&self, held: Held) {
        let end = match self.revoke(held) {
            Ok(()) => State::Revoked,
            Err(_) => State::Quarantined,
        };
        let mut state = self.state.lock();
        for from in [State::Mapped, State::Unmapping] {
            state.ledger.transition(held.slot, from, end);
        }
    }

    /// Keeps the memory of a mapping that failed to end, or to begin: it is quarantined already.
    pub(crate) fn keep(&self, held: Held, buffer: Erased) {
        self.make_pen_room();
        let mut state = self.state.lock();
        // Released in the meantime: it waits for the next time.
        state
            .ledger
            .transition(held.slot, State::Revoked, State::Retired);
        state.pen(held.slot, buffer);
    }

    /// How many mappings the endpoints may still use although they were given up, with their
    /// memory.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        let state = self.state.lock();
        state.ledger.count(State::Quarantined) + state.ledger.count(State::Retired)
    }

    /// How many buffers were lost for good, because the quarantine had no room for them.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.state.lock().lost
    }

    /// Ends the quarantine of all mappings of which the IOMMU confirms that it does not translate
    /// them: their addresses are used again, and their memory is dropped. Allocates, and waits for
    /// the device.
    ///
    /// # Safety
    ///
    /// Every endpoint that was attached to the domain at any time while one of the quarantined
    /// mappings existed has been reset since that mapping was given up, and has confirmed its
    /// reset. Neither DETACH nor a reset of the IOMMU is a substitute.
    pub unsafe fn release_quarantine(&self) -> Released {
        let (mut released, mut buffers, doubtful) = {
            let mut state = self.state.lock();
            // What is given up from now on may not be covered by the promise.
            if core::mem::replace(&mut state.releasing, true) {
                return Released {
                    released: 0,
                    kept: state.ledger.count(State::Quarantined),
                };
            }
            let retired = state.held(State::Retired);
            let doubtful = state.held(State::Quarantined);
            let mut buffers = Vec::new();
            for held in &retired {
                buffers.extend(state.free_kept(*held));
            }
            (retired.len(), buffers, doubtful)
        };
        for held in doubtful {
            if self.surely_ends(held) {
                buffers.extend(self.state.lock().free_kept(held));
                released += 1;
            }
        }
        let kept = {
            let mut state = self.state.lock();
            state.releasing = false;
            state.ledger.count(State::Quarantined)
        };
        // Without a lock: this runs code of whoever made the buffers.
        drop(buffers);
        Released { released, kept }
    }

    /// Whether the device certainly does not translate a quarantined mapping, after another UNMAP.
    fn surely_ends(&self, held: Held) -> bool {
        let touches = |request: &Request| match request {
            Request::Map { domain, virt, .. } | Request::Unmap { domain, virt } => {
                *domain == self.id && virt.overlaps(&held.iova)
            }
            Request::Attach { domain, .. } | Request::Detach { domain, .. } => *domain == self.id,
            Request::Probe { .. } => false,
        };
        // What is answered meanwhile may have been carried out after the UNMAP.
        let awaited = self.shared.may_yet(touches);
        let known = !self.state.lock().members.is_empty();
        let outcome: Outcome = match known {
            true => self.send_end(held),
            // The domain ended with its last endpoint.
            false => Ok(()),
        };
        outcome.is_ok() && !awaited && !self.shared.may_yet(touches)
    }
}

impl DomainState {
    /// All mappings in a state.
    fn held(&self, state: State) -> Vec<Held> {
        let entries = self.ledger.iter();
        entries
            .filter(|entry| entry.record.state() == state)
            .map(|entry| Held {
                slot: entry.slot,
                iova: entry.iova,
            })
            .collect()
    }

    /// Frees the addresses of a mapping, and hands out its memory, if it was kept. If somebody has
    /// the memory still, and the addresses with it, they learn that the mapping has ended.
    fn free_kept(&mut self, held: Held) -> Option<Erased> {
        if self.ledger.is_owned(held.slot) {
            self.ledger
                .transition(held.slot, State::Quarantined, State::Revoked);
            return None;
        }
        self.ledger.remove(held.slot);
        self.take_pen(held.slot)
    }

    /// As [`begin_end`](Self::begin_end), but the addresses stay taken in any case.
    fn begin_keep(&mut self, held: Held) -> Result<bool, UnmapError> {
        if self.is_exclusive() {
            return Err(UnmapError::Busy);
        }
        let begun = self
            .ledger
            .transition(held.slot, State::Mapped, State::Unmapping);
        if !begun {
            return Err(UnmapError::NotMapped(held.iova));
        }
        Ok(!self.members.is_empty())
    }
}
