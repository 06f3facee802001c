//! Isolation groups: endpoints that an IOMMU, or the topology above them, cannot keep apart.
//!
//! All that an IOMMU knows of an access is the requester id with which it arrives. Functions that
//! share one share its mappings, whatever a kernel intends; a group is what can be attached,
//! quarantined and released as a whole only. [`Groups`] computes them from the functions that
//! [`pci::walk`](super::pci::walk) found and from the [`Topology`]:
//!
//! * behind a conventional PCI bridge, all arrives with the bridge's own id: one endpoint, the
//!   bridge and everything below it;
//! * behind a bridge from PCI Express to PCI, all arrives as device 0, function 0 of the secondary
//!   bus. Real bridges use their own id as well for some transactions, so the group has both
//!   endpoints, if both are behind the same IOMMU;
//! * functions that the description gives the same endpoint id are one endpoint;
//! * a platform device with several endpoint ids may use any of them: one group.
//!
//! Below a conventional bridge the ids of the functions themselves belong to no group: the IOMMU
//! does not see them, and a device may well refuse to attach them.
//!
//! What is not behind an IOMMU is in no group, and neither is an IOMMU.
//!
//! # Peer-to-peer
//!
//! Functions of one device, or below one switch, could also reach each other without passing the
//! IOMMU. On hardware the ACS capability says whether they can. It is in the extended
//! configuration space, which [`ConfigurationAccess`](super::pci::ConfigurationAccess) does not
//! reach, so nothing here knows. [`Policy`] decides what to make of that.

#![forbid(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::pci::{BridgeKind, Function, PciTree};
use super::{
    IommuIndex, IommuLocation, PciAddress, Placement, PlatformEndpoint, RequesterId, Topology,
};
use crate::address::EndpointId;

/// What two functions must have in common to be in one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// An endpoint id, see the [module](self).
    ///
    /// The default, because it is what a guest can observe. The devices that a machine emulator
    /// implements itself have no path to each other but memory; for those that it passes through,
    /// the host knows the hardware's groups, and has to keep each of them in one address space.
    #[default]
    Aliases,
    /// An endpoint id, or the slot on the root bus that leads to them: nothing is assumed to have
    /// ACS. For real hardware behind the guest's own switches, where nobody else takes care.
    AssumeNoAcs,
}

/// Endpoints that cannot be kept apart, and who uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The IOMMU that they are behind.
    pub iommu: IommuIndex,
    /// Their ids, in ascending order, each once; at least one.
    pub endpoints: Vec<EndpointId>,
    /// The PCI functions whose DMA arrives with these ids, in the order of their addresses,
    /// bridges included. Empty for a platform device.
    pub functions: Vec<PciAddress>,
}

/// The isolation groups of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    groups: Vec<Group>,
}

impl Groups {
    /// The groups of all functions of `trees` (one tree for each host bridge) and of the platform
    /// devices of `topology`, as far as they are behind an IOMMU.
    #[must_use]
    pub fn new<'a>(
        topology: &Topology,
        trees: impl IntoIterator<Item = &'a PciTree>,
        policy: Policy,
    ) -> Self {
        let mut builder = Builder::default();
        for tree in trees {
            builder.tree(topology, &tree.functions, policy);
        }
        builder.platform(topology.platform());
        builder.finish()
    }

    /// All groups, by IOMMU and then by lowest endpoint id.
    #[must_use]
    pub fn as_slice(&self) -> &[Group] {
        &self.groups
    }

    /// The group of an endpoint; none if nobody is known to use it.
    #[must_use]
    pub fn of_endpoint(&self, iommu: IommuIndex, endpoint: EndpointId) -> Option<&Group> {
        self.behind(iommu)
            .find(|group| group.endpoints.binary_search(&endpoint).is_ok())
    }

    /// The group of a PCI function, by its own address (not its requester id); none if it is not
    /// behind an IOMMU.
    #[must_use]
    pub fn of_function(&self, function: PciAddress) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.functions.binary_search(&function).is_ok())
    }

    /// The endpoint ids of each group behind an IOMMU, as plain data for its driver.
    #[must_use]
    pub fn members(&self, iommu: IommuIndex) -> Vec<&[EndpointId]> {
        self.behind(iommu)
            .map(|group| group.endpoints.as_slice())
            .collect()
    }

    /// `endpoints` and all others in their groups, in ascending order, each once: a driver that
    /// is to attach one of them has to own them all. Endpoints without a group stay as they are.
    #[must_use]
    pub fn complete(&self, iommu: IommuIndex, endpoints: &[EndpointId]) -> Vec<EndpointId> {
        let mut complete = endpoints.to_vec();
        for endpoint in endpoints {
            if let Some(group) = self.of_endpoint(iommu, *endpoint) {
                complete.extend_from_slice(&group.endpoints);
            }
        }
        complete.sort_unstable();
        complete.dedup();
        complete
    }

    fn behind(&self, iommu: IommuIndex) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |group| group.iommu == iommu)
    }
}

/// An endpoint, among all IOMMUs.
type Endpoint = (IommuIndex, EndpointId);

/// Disjoint sets of endpoints while they are joined.
#[derive(Default)]
struct Builder {
    /// The endpoints by number.
    numbers: BTreeMap<Endpoint, usize>,
    /// For each number a lower one in the same set, or itself: then it stands for the set.
    lower: Vec<usize>,
    functions: Vec<(Endpoint, PciAddress)>,
}

impl Builder {
    fn tree(&mut self, topology: &Topology, functions: &[Function], policy: Policy) {
        for function in functions {
            let Some(endpoint) = member(topology, function) else {
                continue;
            };
            self.number(endpoint);
            self.functions.push((endpoint, function.address));
        }
        for bridge in functions {
            self.join_both_ids(topology, bridge);
        }
        if policy == Policy::AssumeNoAcs {
            self.join_slots(topology, functions);
        }
    }

    /// A bridge from PCI Express to PCI answers for those behind it under two ids.
    fn join_both_ids(&mut self, topology: &Topology, function: &Function) {
        let behind = function
            .bridge
            // Bus 0 stands for a bridge without a bus.
            .filter(|bridge| bridge.kind == BridgeKind::ExpressToPci && bridge.secondary != 0)
            .and_then(|bridge| RequesterId::new(bridge.secondary, 0, 0))
            .and_then(|behind| endpoint(topology, function, behind))
            // Nobody is behind it, or an outer bridge hides them.
            .filter(|behind| self.numbers.contains_key(behind));
        let own = member(topology, function);
        if let (Some(behind), Some(own)) = (behind, own) {
            self.join(behind, own);
        }
    }

    /// Everything that the same slot of the root bus leads to.
    fn join_slots(&mut self, topology: &Topology, functions: &[Function]) {
        let mut slots: BTreeMap<RequesterId, (u8, u8)> = BTreeMap::new();
        let mut first: BTreeMap<(IommuIndex, (u8, u8)), Endpoint> = BTreeMap::new();
        for function in functions {
            let address = function.address.function;
            // Parents come first.
            let above = function.parent.and_then(|parent| slots.get(&parent));
            let slot = *above.unwrap_or(&(address.bus(), address.device()));
            slots.insert(address, slot);
            if let Some(member) = member(topology, function) {
                let leader = *first.entry((member.0, slot)).or_insert(member);
                self.join(leader, member);
            }
        }
    }

    /// A device has a path or a base address; its ids behind one IOMMU belong together.
    fn platform(&mut self, endpoints: &[PlatformEndpoint]) {
        let mut nodes = BTreeMap::new();
        let mut bases = BTreeMap::new();
        for entry in endpoints {
            let endpoint = (entry.iommu, entry.endpoint);
            self.number(endpoint);
            if let Some(node) = entry.node.as_deref() {
                let leader = *nodes.entry((entry.iommu, node)).or_insert(endpoint);
                self.join(leader, endpoint);
            }
            if let Some(base) = entry.base {
                let leader = *bases.entry((entry.iommu, base)).or_insert(endpoint);
                self.join(leader, endpoint);
            }
        }
    }

    /// The number of an endpoint, a new one if need be.
    fn number(&mut self, endpoint: Endpoint) -> usize {
        let next = self.lower.len();
        let number = *self.numbers.entry(endpoint).or_insert(next);
        if number == next {
            self.lower.push(next);
        }
        number
    }

    /// The number that stands for the set: numbers only ever lead to lower ones.
    fn set(&self, mut number: usize) -> usize {
        while let Some(lower) = self.lower.get(number).filter(|lower| **lower < number) {
            number = *lower;
        }
        number
    }

    /// Puts two endpoints into one set. A group has one IOMMU: across two, there is nothing that
    /// could be attached as a whole.
    fn join(&mut self, a: Endpoint, b: Endpoint) {
        if a.0 != b.0 {
            return;
        }
        let (a, b) = (self.number(a), self.number(b));
        let (a, b) = (self.set(a), self.set(b));
        if let Some(lower) = self.lower.get_mut(a.max(b)) {
            *lower = a.min(b);
        }
    }

    fn finish(self) -> Groups {
        let mut sets: BTreeMap<usize, Group> = BTreeMap::new();
        // In the order of the endpoint ids, so that each list is sorted.
        for (endpoint, number) in &self.numbers {
            let group = sets.entry(self.set(*number)).or_insert_with(|| Group {
                iommu: endpoint.0,
                endpoints: Vec::new(),
                functions: Vec::new(),
            });
            group.endpoints.push(endpoint.1);
        }
        for (endpoint, function) in &self.functions {
            let number = self.numbers.get(endpoint).map(|number| self.set(*number));
            if let Some(group) = number.and_then(|number| sets.get_mut(&number)) {
                group.functions.push(*function);
            }
        }
        let mut groups: Vec<Group> = sets.into_values().collect();
        for group in &mut groups {
            group.functions.sort_unstable();
            group.functions.dedup();
        }
        groups.sort_unstable_by_key(|group| (group.iommu, group.endpoints.first().copied()));
        Groups { groups }
    }
}

/// The endpoint of a function; none for an IOMMU, which is not behind itself, even if a bridge
/// lends it another id.
fn member(topology: &Topology, function: &Function) -> Option<Endpoint> {
    let endpoint = endpoint(topology, function, function.requester)?;
    let itself = IommuLocation::Pci(function.address);
    let iommu = topology.iommus().get(endpoint.0.0);
    (iommu != Some(&itself)).then_some(endpoint)
}

/// The endpoint behind a requester id, in the segment of `function`.
fn endpoint(topology: &Topology, function: &Function, requester: RequesterId) -> Option<Endpoint> {
    match topology.pci(function.address.segment, requester) {
        Placement::Behind { iommu, endpoint } => Some((iommu, endpoint)),
        Placement::NotBehind => None,
    }
}
