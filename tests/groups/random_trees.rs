//! Random trees against a slow model: functions are in one group if, and only if, a chain of
//! shared requester ids leads from one to the other, as the model's own bridges rewrite them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use virtio_iommu::topology::groups::{Groups, Policy};
use virtio_iommu::topology::pci::{Command, walk};
use virtio_iommu::topology::{IommuIndex, IommuLocation, Segment, Topology};
use virtio_iommu::{EndpointId, PhysAddr};

use crate::config_space::{Model, Port, ROOT};
use crate::hand_made::host;

/// A function: where among the bridges so far, its slot, and what it is.
type Plan = (usize, u8, u8, Option<Port>);

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let port = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Port::Root)),
        1 => Just(Some(Port::Upstream)),
        1 => Just(Some(Port::Downstream)),
        1 => Just(Some(Port::ToPci)),
        1 => Just(Some(Port::Conventional)),
    ];
    prop::collection::vec((0_usize..64, 0_u8..4, 0_u8..3, port), 1..24)
}

/// Builds what can be built: slots are taken once, and functions need a function 0.
fn build(plans: &[Plan]) -> Model {
    let mut model = Model::new();
    let mut bridges = vec![ROOT];
    let mut taken = BTreeSet::new();
    for (place, device, function, port) in plans {
        let parent = bridges[place % bridges.len()];
        // Behind a port there is device 0 only.
        let link = parent != ROOT
            && matches!(
                model.functions[parent].port,
                Some(Port::Root | Port::Downstream)
            );
        let device = if link { 0 } else { *device };
        let first = taken.contains(&(parent, device, 0));
        let function = if first { *function } else { 0 };
        if !taken.insert((parent, device, function)) {
            continue;
        }
        let index = match port {
            Some(port) => {
                let bridge = model.bridge(parent, device, function, *port);
                bridges.push(bridge);
                bridge
            }
            None => model.device(parent, device, function, (0x1234, 0x11e8)),
        };
        if function == 0 {
            model.set_multifunction(index);
        }
    }
    model
}

/// The slot of the root bus that leads to a function.
fn root_slot(model: &Model, mut index: usize) -> u8 {
    while model.functions[index].parent != ROOT {
        index = model.functions[index].parent;
    }
    model.functions[index].device
}

/// All requester ids that a function may be seen with: the one that its DMA arrives with, and, if
/// it is a bridge to PCI whose secondary bus shows at the root, what it makes of those behind it.
fn ids(model: &Model, index: usize) -> BTreeSet<u16> {
    let mut ids = BTreeSet::from([model.dma(index).unwrap()]);
    if model.functions[index].port == Some(Port::ToPci) {
        let behind = (0..model.functions.len())
            .filter(|child| model.functions[*child].parent == index)
            .map(|child| model.dma(child).unwrap());
        ids.extend(behind);
    }
    ids
}

/// Joins sets until no two of them have anything in common.
fn close(mut sets: Vec<BTreeSet<(bool, u16)>>) -> Vec<BTreeSet<(bool, u16)>> {
    loop {
        let overlap = (0..sets.len()).find_map(|a| {
            let b = (a + 1..sets.len()).find(|b| !sets[a].is_disjoint(&sets[*b]))?;
            Some((a, b))
        });
        let Some((a, b)) = overlap else {
            return sets;
        };
        let set = sets.swap_remove(b);
        sets[a].extend(set);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn groups_are_what_the_bridges_make_of_them(plans in plans(), acs in any::<bool>()) {
        let mut model = build(&plans);
        let tree = walk(&mut model, &host(0));
        prop_assert_eq!(tree.functions.len(), model.functions.len());
        // Bus mastering, so that the model lets DMA pass.
        for function in &tree.functions {
            let _ = tree.enable(&mut model, function.address.function, Command::BUS_MASTER);
        }
        let iommu = IommuLocation::Mmio { base: PhysAddr(0x1000), size: None };
        let topology = Topology::identity(iommu, Segment(0));
        let policy = if acs { Policy::Aliases } else { Policy::AssumeNoAcs };
        let groups = Groups::new(&topology, [&tree], policy);

        // (false, requester id) and, for the other policy, (true, slot).
        let sets = (0..model.functions.len()).map(|index| {
            let mut set: BTreeSet<_> = ids(&model, index).into_iter().map(|id| (false, id)).collect();
            if !acs {
                set.insert((true, root_slot(&model, index).into()));
            }
            set
        });
        let mut expected: Vec<Vec<EndpointId>> = close(sets.collect())
            .into_iter()
            .map(|set| {
                let ids = set.into_iter().filter(|(slot, _)| !slot);
                ids.map(|(_, id)| EndpointId(id.into())).collect()
            })
            .collect();
        expected.sort();
        prop_assert_eq!(groups.members(IommuIndex(0)), expected);

        // Every function is in the group of the id that its DMA arrives with, and in no other.
        for index in 0..model.functions.len() {
            let function = tree.functions.iter().find(|function| {
                function.address.function.0 == model.address(index)
            });
            let group = groups.of_function(function.unwrap().address).unwrap();
            let endpoint = EndpointId(model.dma(index).unwrap().into());
            prop_assert_eq!(Some(group), groups.of_endpoint(IommuIndex(0), endpoint));
        }
        let listed: usize = groups.as_slice().iter().map(|group| group.functions.len()).sum();
        prop_assert_eq!(listed, model.functions.len());
    }
}
