//! The endpoints that the driver answers for: their reserved regions, and where they belong.

use alloc::vec::Vec;

use lock_api::{Mutex, RawMutex};

use super::bring_up::{EndpointError, StartError};
use super::{Bypass, Outcome, RequestError, Shared};
use crate::address::{DomainId, EndpointId};
use crate::platform::Platform;
use crate::wire::{AttachFlags, Request, ReservedRegion, Status, parse_properties};

/// Domain ids that are tried before the device is taken at its word that all of them exist.
const DOMAIN_TRIES: usize = 8;

/// Where an endpoint belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    Domain(DomainId),
}

struct Endpoint {
    id: EndpointId,
    reserved: Vec<ReservedRegion>,
    /// The same for all endpoints that cannot be told apart.
    group: usize,
    /// The empty domain in which it rests, if it must be in one.
    scratch: DomainId,
}

pub(crate) struct Endpoints<L> {
    list: Vec<Endpoint>,
    /// In the order of `list`.
    owners: Mutex<L, Vec<Owner>>,
}

impl<L: RawMutex> Endpoints<L> {
    pub(super) const fn empty() -> Self {
        Self {
            list: Vec::new(),
            owners: Mutex::new(Vec::new()),
        }
    }

    fn add(&mut self, id: EndpointId, reserved: Vec<ReservedRegion>, scratch: DomainId) {
        let group = self.list.len();
        self.list.push(Endpoint {
            id,
            reserved,
            group,
            scratch,
        });
        self.owners.get_mut().push(Owner::Nobody);
    }

    /// Makes one group of the listed endpoints, or names one that is unknown or has a group.
    fn join(&mut self, members: &[EndpointId]) -> Result<(), EndpointId> {
        let mut group = None;
        for &id in members {
            // Every endpoint starts in a group of its own.
            if self.group(id).count() != 1 {
                return Err(id);
            }
            group = group.or(self.position(id));
        }
        for endpoint in &mut self.list {
            if members.contains(&endpoint.id) {
                endpoint.group = group.unwrap_or(endpoint.group);
            }
        }
        Ok(())
    }

    /// The endpoints that cannot be told apart from `endpoint`, itself among them.
    pub(crate) fn group(&self, endpoint: EndpointId) -> impl Iterator<Item = EndpointId> + '_ {
        let group = self
            .position(endpoint)
            .and_then(|at| self.list.get(at))
            .map(|endpoint| endpoint.group);
        self.list
            .iter()
            .filter(move |endpoint| Some(endpoint.group) == group)
            .map(|endpoint| endpoint.id)
    }

    fn position(&self, endpoint: EndpointId) -> Option<usize> {
        self.list.iter().position(|known| known.id == endpoint)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.list.iter().map(|endpoint| endpoint.id)
    }

    pub(crate) fn reserved_regions(&self, endpoint: EndpointId) -> Option<&[ReservedRegion]> {
        let at = self.position(endpoint)?;
        Some(&self.list.get(at)?.reserved)
    }

    /// Makes `domain` the owner of the whole group of `endpoint`, if it has none; else tells whose
    /// it is, or `None` if nobody answers for it.
    pub(crate) fn claim(
        &self,
        endpoint: EndpointId,
        domain: DomainId,
    ) -> Result<(), Option<DomainId>> {
        let at = self.position(endpoint).ok_or(None)?;
        let mut owners = self.owners.lock();
        // A group is owned as a whole.
        if let Some(Owner::Domain(owner)) = owners.get(at) {
            return Err(Some(*owner));
        }
        self.set_owner(&mut owners, endpoint, Owner::Domain(domain));
        Ok(())
    }

    /// Takes the owner of the whole group of `endpoint` away.
    pub(crate) fn release(&self, endpoint: EndpointId) {
        self.set_owner(&mut self.owners.lock(), endpoint, Owner::Nobody);
    }

    fn set_owner(&self, owners: &mut [Owner], endpoint: EndpointId, new: Owner) {
        for member in self.group(endpoint) {
            if let Some(owner) = self.position(member).and_then(|at| owners.get_mut(at)) {
                *owner = new;
            }
        }
    }
}

impl<P: Platform> Shared<P> {
    /// Probes and scrubs the endpoints of `list`, and answers for them from then on.
    pub(super) fn lock_down(
        &mut self,
        list: &[EndpointId],
        groups: &[&[EndpointId]],
    ) -> Result<(), StartError> {
        // From the top, so that the ids of callers start at the bottom.
        self.scratch = self
            .claim_domain_id(DomainEnd::Highest)
            .map_err(|_| StartError::NoDomain)?;
        for &endpoint in list {
            if self.endpoints.position(endpoint).is_some() {
                continue;
            }
            let failed = |error| StartError::Endpoint { endpoint, error };
            let reserved = self.probe(endpoint).map_err(failed)?;
            let scratch = self
                .scrub(endpoint)
                .map_err(|error| failed(EndpointError::Scrub(error)))?;
            self.endpoints.add(endpoint, reserved, scratch);
        }
        for members in groups {
            self.endpoints.join(members).map_err(StartError::Group)?;
        }
        Ok(())
    }

    fn probe(&self, endpoint: EndpointId) -> Result<Vec<ReservedRegion>, EndpointError> {
        if self.geometry.probe_size().is_none() {
            return Ok(Vec::new());
        }
        self.execute_one(Request::Probe { endpoint })
            .map_err(EndpointError::Probe)?;
        let list = match self.device.lock().queues() {
            Some(queues) => queues.requests.properties(),
            None => Vec::new(),
        };
        parse_properties(&list).map_err(EndpointError::Properties)
    }

    /// Takes the endpoint out of whatever domain it is in, and sees to it that it reaches nothing.
    /// Returns the empty domain that this took.
    fn scrub(&self, endpoint: EndpointId) -> Result<DomainId, RequestError> {
        let shared = self.rest_in(self.scratch, endpoint);
        if self.bypass == Bypass::Locked {
            shared?;
            self.execute_one(Request::Detach {
                domain: self.scratch,
                endpoint,
            })?;
        } else if shared == Err(RequestError::Status(Status::Unsupp)) {
            // Some devices have one endpoint in a domain (§5.13.6.3.2): it gets one of its own.
            let own = match self.claim_domain_id(DomainEnd::Highest) {
                Ok(own) => own,
                Err(ClaimError::Request(error)) => return Err(error),
                Err(ClaimError::NoneFree) => return shared.map(|()| self.scratch),
            };
            return self.rest_in(own, endpoint).map(|()| own);
        }
        shared.map(|()| self.scratch)
    }

    fn rest_in(&self, scratch: DomainId, endpoint: EndpointId) -> Outcome {
        self.execute_one(Request::Attach {
            domain: scratch,
            endpoint,
            flags: AttachFlags::empty(),
        })
    }

    /// The empty domain of an endpoint.
    fn scratch_of(&self, endpoint: EndpointId) -> DomainId {
        let at = self.endpoints.position(endpoint);
        let found = at.and_then(|at| self.endpoints.list.get(at));
        found.map_or(self.scratch, |endpoint| endpoint.scratch)
    }

    fn attach_to_scratch(&self, endpoint: EndpointId) -> Outcome {
        self.rest_in(self.scratch_of(endpoint), endpoint)
    }

    /// Moves an endpoint from where it rests into `domain`.
    pub(crate) fn attach(
        &self,
        endpoint: EndpointId,
        domain: DomainId,
        flags: AttachFlags,
    ) -> Outcome {
        let attach = Request::Attach {
            domain,
            endpoint,
            flags,
        };
        let mut outcome = self.execute_one(attach);
        if self.bypass == Bypass::Locked || outcome.is_ok() {
            return outcome;
        }
        // It rests in the scratch domain. Some devices do not move endpoints (§5.13.6.3.2).
        if outcome == Err(RequestError::Status(Status::Unsupp)) {
            gone(self.execute_one(Request::Detach {
                domain: self.scratch_of(endpoint),
                endpoint,
            }))?;
            outcome = self.execute_one(attach);
            if outcome.is_ok() {
                return outcome;
            }
        }
        // Devices are known to detach first and to refuse then.
        let rests = self.attach_to_scratch(endpoint);
        match outcome {
            // What may yet take effect is no refusal, whatever came after it.
            Err(error) if !error.had_no_effect() => outcome,
            _ => rests.and(outcome),
        }
    }

    /// Takes an endpoint out of `domain`, to where it reaches nothing.
    pub(crate) fn detach(&self, endpoint: EndpointId, domain: DomainId) -> Outcome {
        let detach = Request::Detach { domain, endpoint };
        let late = |request: &Request| request.endpoint() == Some(endpoint);
        // One that is answered meanwhile may have been carried out after the DETACH.
        let awaited = self.may_yet(late);
        match self.bypass {
            Bypass::Locked => gone(self.execute_one(detach))?,
            Bypass::NotConfigurable => match self.attach_to_scratch(endpoint) {
                Err(RequestError::Status(Status::Unsupp)) => {
                    gone(self.execute_one(detach))?;
                    self.attach_to_scratch(endpoint)?;
                }
                outcome => outcome?,
            },
        }
        // An ATTACH of long ago may still be on its way: requests have no order.
        if awaited || self.may_yet(late) {
            return Err(RequestError::Unconfirmed);
        }
        Ok(())
    }

    /// Takes a domain id that does not exist at the device.
    ///
    /// An UNMAP of the whole range tells: the device answers NOENT unless somebody whom the
    /// driver does not answer for is still attached. Such a domain must not be shared.
    pub(crate) fn claim_domain_id(&self, end: DomainEnd) -> Result<DomainId, ClaimError> {
        let mut first = None;
        for _ in 0..DOMAIN_TRIES {
            let taken = {
                let mut ids = self.domain_ids.lock();
                match end {
                    DomainEnd::Lowest => ids.take_lowest(),
                    DomainEnd::Highest => ids.take_highest(),
                }
            };
            let Some(domain) = taken else { break };
            let outcome = self.execute_one(Request::Unmap {
                domain,
                virt: self.geometry.input_range(),
            });
            match outcome {
                Err(RequestError::Status(Status::NoEnt) | RequestError::NotWritten) => {
                    return Ok(domain);
                }
                Ok(()) | Err(RequestError::Status(_)) => {
                    log::info!("domain {domain} is in use at the IOMMU: skipped");
                    first = first.or(outcome.ok().map(|()| domain));
                }
                // The id stays taken: a late UNMAP would empty its next owner.
                Err(error @ RequestError::Unconfirmed) => return Err(ClaimError::Request(error)),
                Err(error) => {
                    self.domain_ids.lock().give_back(domain);
                    return Err(ClaimError::Request(error));
                }
            }
        }
        // Nothing but OK: the device does not tell, and the range is empty now in any case.
        first.ok_or(ClaimError::NoneFree)
    }
}

/// From which end of the range of domain ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DomainEnd {
    Lowest,
    Highest,
}

/// Why there is no domain id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    NoneFree,
    Request(RequestError),
}

/// An endpoint that the device does not find in the domain is not in it (§5.13.6.4).
fn gone(outcome: Outcome) -> Outcome {
    match outcome {
        Err(RequestError::Status(Status::NoEnt | Status::Inval)) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type List = Endpoints<spin::mutex::SpinMutex<()>>;

    const A: EndpointId = EndpointId(8);
    const B: EndpointId = EndpointId(16);
    const C: EndpointId = EndpointId(24);
    const D: EndpointId = EndpointId(32);

    fn list() -> List {
        let mut list = List::empty();
        for id in [A, B, C, D] {
            list.add(id, Vec::new(), DomainId(7));
        }
        list
    }

    fn group(list: &List, endpoint: EndpointId) -> Vec<EndpointId> {
        list.group(endpoint).collect()
    }

    #[test]
    fn a_group_is_claimed_and_released_as_a_whole() {
        let mut list = list();
        assert_eq!(list.join(&[C, A]), Ok(()));
        assert_eq!(group(&list, A), [A, C]);
        assert_eq!(group(&list, C), [A, C]);
        assert_eq!(group(&list, B), [B]);
        assert_eq!(group(&list, EndpointId(9)), []);
        assert_eq!(list.claim(A, DomainId(1)), Ok(()));
        assert_eq!(list.claim(C, DomainId(2)), Err(Some(DomainId(1))));
        assert_eq!(list.claim(B, DomainId(2)), Ok(()));
        assert_eq!(list.claim(EndpointId(9), DomainId(2)), Err(None));
        list.release(C);
        assert_eq!(list.claim(A, DomainId(3)), Ok(()));
    }

    #[test]
    fn groups_do_not_overlap_and_know_their_members() {
        assert_eq!(list().join(&[A, EndpointId(9)]), Err(EndpointId(9)));
        for second in [[A, C], [C, A], [B, C], [C, B]] {
            let mut list = list();
            assert_eq!(list.join(&[A, B]), Ok(()));
            assert!(list.join(&second).is_err(), "{second:?}");
        }
        let mut list = list();
        assert_eq!(list.join(&[A, B, A]), Ok(()));
        assert_eq!(list.join(&[]), Ok(()));
        assert_eq!(list.join(&[C, D]), Ok(()));
        assert_eq!(group(&list, D), [C, D]);
    }
}
