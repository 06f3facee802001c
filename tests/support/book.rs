//! An independent account of what the device holds: which endpoint is in which domain, and what is mapped there.
//!
//! The rules are those of QEMU's device, which answers OK to an UNMAP of nothing and drops a domain, with its
//! mappings, when the last endpoint leaves. Each call says which status the device must have given and which
//! consequences it must have traced, so that a wrong belief of the driver shows up at the request that is wrong.

use super::request::{Mapping, Range, Status};
use super::trace::Event;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Flag of ATTACH: accesses pass untranslated.
const ATTACH_BYPASS: u32 = 1;
/// READ, WRITE and MMIO.
const MAP_FLAGS: u32 = 7;

/// One domain of the device.
#[derive(Clone, Debug, Default)]
pub struct Domain {
    /// Accesses pass untranslated.
    bypass: bool,
    /// By first address.
    mappings: BTreeMap<u64, Mapping>,
    /// Who is attached.
    endpoints: BTreeSet<u32>,
}

/// What the device holds.
#[derive(Clone, Debug, Default)]
pub struct Book {
    domains: BTreeMap<u32, Domain>,
    /// The endpoints that the device has a record of, and the domain of each.
    endpoints: BTreeMap<u32, Option<u32>>,
}

/// What a request must have led to: its status and the trace lines below it, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The status.
    pub status: Status,
    /// The consequences.
    pub effects: Vec<Event>,
}

impl Outcome {
    fn refused(status: Status, effects: Vec<Event>) -> Self {
        Self { status, effects }
    }
}

impl Book {
    /// ATTACH. `found` are the traced consequences: only they tell whether the device knows the endpoint.
    pub fn attach(&mut self, domain: u32, endpoint: u32, flags: u32, found: &[Event]) -> Outcome {
        let mut effects = Vec::new();
        if flags & !ATTACH_BYPASS != 0 {
            return Outcome::refused(Status::Inval, effects);
        }
        if let Entry::Vacant(unknown) = self.endpoints.entry(endpoint) {
            let made = Event::EndpointMade(endpoint);
            if !found.contains(&made) {
                return Outcome::refused(Status::NoEnt, effects);
            }
            effects.push(made);
            unknown.insert(None);
        }
        // An endpoint leaves its domain even where the new one is the same, or then refuses it.
        self.leave(endpoint, &mut effects);
        let bypass = flags & ATTACH_BYPASS != 0;
        let entry = self.domains.entry(domain).or_insert_with(|| {
            effects.push(Event::DomainMade(domain));
            Domain {
                bypass,
                ..Domain::default()
            }
        });
        if entry.bypass != bypass {
            return Outcome::refused(Status::Inval, effects);
        }
        entry.endpoints.insert(endpoint);
        self.endpoints.insert(endpoint, Some(domain));
        let status = Status::Ok;
        Outcome { status, effects }
    }

    /// DETACH. Some versions of the device forget the endpoint with it; `found` tells.
    pub fn detach(&mut self, domain: u32, endpoint: u32, found: &[Event]) -> Outcome {
        let mut effects = Vec::new();
        match self.endpoints.get(&endpoint) {
            None => return Outcome::refused(Status::NoEnt, effects),
            Some(at) if *at != Some(domain) => return Outcome::refused(Status::Inval, effects),
            Some(_) => {}
        }
        self.leave(endpoint, &mut effects);
        let gone = Event::EndpointGone(endpoint);
        if found.contains(&gone) {
            effects.push(gone);
            self.endpoints.remove(&endpoint);
        }
        let status = Status::Ok;
        Outcome { status, effects }
    }

    /// MAP.
    pub fn map(&mut self, domain: u32, mapping: Mapping) -> Outcome {
        let status = self.judge_map(domain, mapping);
        if status == Status::Ok
            && let Some(domain) = self.domains.get_mut(&domain)
        {
            domain.mappings.insert(mapping.range.start, mapping);
        }
        let effects = Vec::new();
        Outcome { status, effects }
    }

    /// The status that a MAP has to get now.
    pub fn judge_map(&self, domain: u32, mapping: Mapping) -> Status {
        if mapping.flags & !MAP_FLAGS != 0 {
            return Status::Inval;
        }
        match self.domains.get(&domain) {
            None => Status::NoEnt,
            Some(domain) if domain.bypass || domain.overlapping(mapping.range).next().is_some() => {
                Status::Inval
            }
            Some(_) => Status::Ok,
        }
    }

    /// UNMAP. Where the range cuts a mapping, the device may have removed some of the others first; `found` tells.
    pub fn unmap(&mut self, id: u32, range: Range, found: &[Event]) -> Outcome {
        let mut effects = Vec::new();
        let Some(domain) = self.domains.get_mut(&id) else {
            return Outcome::refused(Status::NoEnt, effects);
        };
        if domain.bypass {
            return Outcome::refused(Status::Inval, effects);
        }
        let touched: Vec<Range> = domain.overlapping(range).collect();
        let cut = touched.iter().any(|mapped| !range.contains(*mapped));
        for mapped in touched.into_iter().filter(|mapped| range.contains(*mapped)) {
            let done = Event::UnmapDone {
                domain: id,
                range: mapped,
            };
            if !cut || found.contains(&done) {
                domain.mappings.remove(&mapped.start);
                effects.push(done);
            }
        }
        let status = if cut { Status::Range } else { Status::Ok };
        Outcome { status, effects }
    }

    /// The device dropped everything: with the machine, and in some versions with its own reset.
    pub fn clear(&mut self) -> Vec<Event> {
        let mut effects = Vec::new();
        let endpoints: Vec<u32> = self.endpoints.keys().copied().collect();
        for endpoint in endpoints {
            self.leave(endpoint, &mut effects);
            effects.push(Event::EndpointGone(endpoint));
        }
        let bare = self.domains.keys().map(|domain| Event::DomainGone(*domain));
        effects.extend(bare);
        *self = Self::default();
        effects
    }

    /// Why an access of an endpoint is refused: the device has no record of it, or one without a domain, or there is no
    /// mapping in its domain.
    pub fn reason(&self, endpoint: u32) -> u32 {
        match self.endpoints.get(&endpoint) {
            None => 0,
            Some(None) => 1,
            Some(Some(_)) => 2,
        }
    }

    /// Who is attached, and to what.
    pub fn attached(&self) -> impl Iterator<Item = (u32, u32)> {
        let pairs = self.endpoints.iter();
        pairs.filter_map(|(endpoint, domain)| Some((*endpoint, (*domain)?)))
    }

    /// All that is mapped.
    pub fn mappings(&self) -> impl Iterator<Item = (u32, Range)> {
        self.domains
            .iter()
            .flat_map(|(id, domain)| domain.mappings.values().map(|mapping| (*id, mapping.range)))
    }

    /// The endpoints of a domain.
    pub fn members(&self, domain: u32) -> impl Iterator<Item = u32> {
        let domain = self.domains.get(&domain);
        domain
            .into_iter()
            .flat_map(|domain| domain.endpoints.iter().copied())
    }

    /// The ranges mapped in a domain.
    pub fn mapped(&self, domain: u32) -> impl Iterator<Item = Range> {
        let domain = self.domains.get(&domain);
        domain
            .into_iter()
            .flat_map(|domain| domain.mappings.values().map(|mapping| mapping.range))
    }

    fn leave(&mut self, endpoint: u32, effects: &mut Vec<Event>) {
        let Some(id) = self.endpoints.get_mut(&endpoint).and_then(Option::take) else {
            return;
        };
        effects.push(Event::Left {
            domain: id,
            endpoint,
        });
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.endpoints.remove(&endpoint);
            if domain.endpoints.is_empty() {
                self.domains.remove(&id);
                effects.push(Event::DomainGone(id));
            }
        }
    }
}

impl Domain {
    fn overlapping(&self, range: Range) -> impl Iterator<Item = Range> {
        let all = self.mappings.values().map(|mapping| mapping.range);
        all.filter(move |mapped| mapped.overlaps(range))
    }
}
