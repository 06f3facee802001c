//! Endpoints come and go (§5.13.6.3, §5.13.6.4).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::record::State;
use super::{AttachError, Domain, DomainState};
use crate::address::{EndpointId, Iova, IovaRange, PhysAddr};
use crate::device::{BATCH, RequestError, Shared};
use crate::platform::Platform;
use crate::wire::{Access, Request};

impl<P: Platform> Domain<P> {
    /// Puts an endpoint, and all others of its isolation group, into the address space: from now
    /// on they see what is mapped, and nothing else but their own MSI regions.
    ///
    /// The first endpoint brings the domain into being at the device, with all mappings that the
    /// domain has; until they are restored its accesses may fault. Allocates.
    ///
    /// # Errors
    ///
    /// [`AttachError`]: all of the group or none is attached.
    pub fn attach(&self, endpoint: EndpointId) -> Result<(), AttachError> {
        match self.shared.endpoints.claim(endpoint, self.id) {
            Ok(()) => {}
            Err(None) => return Err(AttachError::UnknownEndpoint),
            Err(Some(owner)) => return Err(AttachError::Attached(owner)),
        }
        let group: Vec<EndpointId> = self.shared.endpoints.group(endpoint).collect();
        let replay = self.begin_attach(&group).inspect_err(|_| {
            self.shared.endpoints.release(endpoint);
        })?;
        let outcome = self
            .attach_group(&group)
            .and_then(|()| self.replay(&group, &replay));
        let stays = matches!(
            outcome,
            Ok(()) | Err(AttachError::Request(RequestError::Unconfirmed))
        );
        let mut state = self.state.lock();
        state.changing = false;
        state.restored |= outcome.is_ok();
        if !stays {
            state.leave(&self.shared, &group);
        }
        outcome
    }

    /// Checks and notes everything that can be checked and noted before the requests; says what
    /// the device has to be told of the mappings.
    fn begin_attach(&self, group: &[EndpointId]) -> Result<Replay, AttachError> {
        let mut state = self.state.lock();
        // An attempt before this one may have been made, or half made: the device is told of
        // everything once more, and must not be told of anything else meanwhile.
        let uncertain = !state.restored && !state.members.is_empty();
        if state.changing || uncertain && state.ledger.is_busy() {
            return Err(AttachError::Busy);
        }
        // What a MAP of long ago maps may have been unmapped since, without a word to a device
        // that did not know the domain.
        if state.members.is_empty() && self.awaits_late_maps() {
            return Err(AttachError::Busy);
        }
        let regions = group
            .iter()
            .filter_map(|member| self.shared.endpoints.reserved_regions(*member))
            .flatten();
        for region in regions {
            let granules = whole_granules(region.range, self.shared.geometry.granule());
            let conflict = state
                .ledger
                .iter()
                .find(|entry| !given_up(entry.record.state()) && entry.iova.overlaps(&granules));
            if let Some(entry) = conflict {
                return Err(AttachError::Conflict {
                    mapping: entry.iova,
                });
            }
        }
        let replay = Replay {
            mappings: match state.restored {
                true => Vec::new(),
                false => state.in_force(),
            },
            uncertain,
        };
        state.changing = true;
        state.members.extend(group);
        state.set_holes(&self.shared);
        Ok(replay)
    }

    /// Whether a MAP with which mappings were restored may still come.
    fn awaits_late_maps(&self) -> bool {
        let late = |request: &Request| matches!(request, Request::Map { domain, .. } if *domain == self.id);
        self.late_maps.load(Ordering::Relaxed) && self.shared.may_yet(late)
    }

    /// Attaches all of a group, or none.
    fn attach_group(&self, group: &[EndpointId]) -> Result<(), AttachError> {
        for (i, member) in group.iter().enumerate() {
            let Err(error) = self.shared.attach(*member, self.id, self.flags) else {
                continue;
            };
            let gone = self.detach_all(group.iter().take(i));
            return Err(AttachError::Request(match gone {
                true => error,
                false => RequestError::Unconfirmed,
            }));
        }
        Ok(())
    }

    /// Detaches endpoints; tells whether all of them are surely gone.
    fn detach_all<'a>(&self, members: impl Iterator<Item = &'a EndpointId>) -> bool {
        let kept = members
            .filter(|member| self.shared.detach(**member, self.id).is_err())
            .count();
        kept == 0
    }

    /// Makes the mappings known to a device that has just made the domain.
    fn replay(&self, group: &[EndpointId], replay: &Replay) -> Result<(), AttachError> {
        let mut cleared = Ok(());
        if replay.uncertain && self.flags.is_empty() {
            let clear = self.unmap_request(self.shared.geometry.input_range());
            cleared = self.shared.execute_one(clear);
        }
        let requests = replay.mappings.iter().map(|mapping| Request::Map {
            domain: self.id,
            virt: mapping.iova,
            phys_start: mapping.phys,
            access: mapping.access,
        });
        let mapped = self.shared.execute::<BATCH, _>(requests, |_, _| {});
        let Err(error) = cleared.and(mapped) else {
            return Ok(());
        };
        self.late_maps.store(true, Ordering::Relaxed);
        // The domain ends with its only group, and with it what was restored.
        Err(match self.detach_all(group.iter()) {
            true => AttachError::Replay(error),
            false => AttachError::Request(RequestError::Unconfirmed),
        })
    }

    /// Takes an endpoint, and all others of its isolation group, out of the address space: they
    /// reach nothing afterwards.
    ///
    /// Accesses that they began before may still be carried out: only a reset of the endpoint
    /// stops those.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; the group then still counts as attached.
    pub fn detach(&self, endpoint: EndpointId) -> Result<(), AttachError> {
        let group: Vec<EndpointId> = self.shared.endpoints.group(endpoint).collect();
        {
            let mut state = self.state.lock();
            if !state.members.contains(&endpoint) {
                return Err(AttachError::NotAttached);
            }
            let last = state.members.len() == group.len();
            if state.changing || last && state.ledger.is_busy() {
                return Err(AttachError::Busy);
            }
            state.changing = true;
        }
        let mut outcome = Ok(());
        for member in &group {
            outcome = outcome.and(self.shared.detach(*member, self.id));
        }
        let mut state = self.state.lock();
        state.changing = false;
        if outcome.is_ok() {
            state.leave(&self.shared, &group);
        } else if state.members.len() == group.len() {
            // The domain may have ended with it.
            state.restored = false;
        }
        outcome.map_err(AttachError::Request)
    }
}

/// What the device has to be told when an endpoint is attached.
struct Replay {
    mappings: Vec<Mapping>,
    /// It may have some of the mappings already.
    uncertain: bool,
}

/// One MAP request of the past.
struct Mapping {
    iova: IovaRange,
    phys: PhysAddr,
    access: Access,
}

/// Whether a mapping in this state is none any more, whatever the device may still translate.
fn given_up(state: State) -> bool {
    matches!(state, State::Quarantined | State::Retired)
}

impl DomainState {
    /// What the device has to know of the mappings, part by part.
    fn in_force(&self) -> Vec<Mapping> {
        let known = |state| matches!(state, State::Mapped | State::Parked);
        self.ledger
            .iter()
            .filter(|entry| known(entry.record.state()))
            .flat_map(|entry| {
                let access = entry.record.access();
                let parts = self.ledger.pieces(entry);
                parts.map(move |(iova, phys)| Mapping { iova, phys, access })
            })
            .collect()
    }

    /// Notes that a group is gone.
    fn leave<P: Platform>(&mut self, shared: &Shared<P>, group: &[EndpointId]) {
        self.members.retain(|member| !group.contains(member));
        // A domain ends with its last endpoint.
        self.restored &= !self.members.is_empty();
        self.set_holes(shared);
        if let Some(endpoint) = group.first() {
            shared.endpoints.release(*endpoint);
        }
    }

    /// Merges the reserved regions of all members into the holes of the address space.
    fn set_holes<P: Platform>(&mut self, shared: &Shared<P>) {
        let holes = holes(shared, self.members.iter().copied());
        self.ledger.set_holes(holes);
    }
}

impl<P: Platform> Domain<P> {
    /// What must not be mapped for the group of an endpoint: whole granules, sorted.
    pub(super) fn holes_for(&self, endpoint: EndpointId) -> Vec<IovaRange> {
        holes(&self.shared, self.shared.endpoints.group(endpoint))
    }
}

/// The reserved regions of some endpoints, in whole granules, merged.
fn holes<P: Platform>(
    shared: &Shared<P>,
    endpoints: impl Iterator<Item = EndpointId>,
) -> Vec<IovaRange> {
    let mut holes: Vec<IovaRange> = endpoints
        .filter_map(|endpoint| shared.endpoints.reserved_regions(endpoint))
        .flatten()
        .map(|region| whole_granules(region.range, shared.geometry.granule()))
        .collect();
    holes.sort_by_key(IovaRange::start);
    let mut merged: Vec<IovaRange> = Vec::with_capacity(holes.len());
    for hole in holes {
        match merged.last_mut() {
            Some(last) if last.overlaps(&hole) => {
                let end = last.end().max(hole.end());
                *last = IovaRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => merged.push(hole),
        }
    }
    merged
}

/// The granules that `range` touches.
fn whole_granules(range: IovaRange, granule: u64) -> IovaRange {
    let start = Iova(range.start().0 & !(granule - 1));
    let end = Iova(range.end().0 | (granule - 1));
    IovaRange::new(start, end).unwrap_or(range)
}
