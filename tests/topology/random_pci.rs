//! Random machines: whatever the shape, every function is found, nothing overlaps, and a DMA
//! arrives under the id that was promised.

use proptest::prelude::*;
use virtio_iommu::topology::RequesterId;
use virtio_iommu::topology::pci::{Command, PciWarningKind};

use crate::config_space::{Model, Port, ROOT};
use crate::walk::{EDU, host, walk_and_check};

/// One function to be plugged: where, as what, with which BARs.
#[derive(Clone, Debug)]
struct Plug {
    /// Chooses among the buses that there are so far.
    bus: prop::sample::Index,
    device: u8,
    /// A bridge, or none.
    port: Option<Port>,
    /// Kind, binary logarithm of the size, and what a firmware left there.
    bars: Vec<(u32, u32, u32)>,
}

fn plug() -> impl Strategy<Value = Plug> {
    let port = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Port::Root)),
        1 => Just(Some(Port::Upstream)),
        1 => Just(Some(Port::Downstream)),
        1 => Just(Some(Port::ToPci)),
        1 => Just(Some(Port::Conventional)),
    ];
    let bar = prop_oneof![
        (Just(0), 4..28_u32),
        (Just(8), 4..28_u32),
        (Just(4), 4..35_u32),
        (Just(12), 4..35_u32),
        (Just(1), 2..13_u32),
    ];
    let left = prop_oneof![3 => Just(0), 1 => any::<u32>(), 2 => 0x4000_0000..0x4800_0000_u32];
    let bar = (bar, left).prop_map(|((flags, order), left)| (flags, order, left));
    let bars = prop::collection::vec(bar, 0..3);
    (any::<prop::sample::Index>(), 0..32_u8, port, bars).prop_map(|(bus, device, port, bars)| {
        Plug {
            bus,
            device,
            port,
            bars,
        }
    })
}

/// Plugs what can be plugged; says how many bridges there are.
fn build(plugs: &[Plug]) -> (Model, usize) {
    let mut model = Model::new();
    let mut buses = vec![ROOT];
    for plug in plugs {
        let parent = *plug.bus.get(&buses);
        let express = parent != ROOT
            && matches!(
                model.functions[parent].port,
                Some(Port::Root | Port::Downstream)
            );
        let device = if express { 0 } else { plug.device };
        let taken = model
            .functions
            .iter()
            .any(|hard| (hard.parent, hard.device) == (parent, device));
        if taken {
            continue;
        }
        let index = match plug.port {
            None => model.device(parent, device, 0, EDU),
            Some(port) => {
                let index = model.bridge(parent, device, 0, port);
                buses.push(index);
                index
            }
        };
        let count = if plug.port.is_some() { 2 } else { 6 };
        let mut at = 0;
        for (flags, order, left) in &plug.bars {
            let registers = if flags & 7 == 4 { 2 } else { 1 };
            if at + registers <= count {
                model.bar(index, at, 1 << order, *flags);
                let offset = 0x10 + 4 * at;
                let size_mask = !((1_u64 << order) - 1) as u32;
                model.set_register(index, offset, left & size_mask | flags);
                at += registers;
            }
        }
    }
    (model, buses.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_machine_is_walked(plugs in prop::collection::vec(plug(), 1..40)) {
        let (mut model, buses) = build(&plugs);
        prop_assert!(buses <= 256);
        let tree = walk_and_check(&mut model, &host());
        prop_assert_eq!(tree.functions.len(), model.functions.len());
        for warning in &tree.warnings {
            // Nothing but a shortage of room can go wrong here.
            let shortage = matches!(warning.kind, PciWarningKind::Bar { .. });
            prop_assert!(shortage, "{:?}", warning);
        }
        for function in &tree.functions {
            let id = function.address.function;
            tree.enable(&mut model, id, Command::BUS_MASTER).unwrap();
        }
        for index in 0..model.functions.len() {
            let id = RequesterId(model.address(index));
            let requester = tree.function(id).unwrap().requester;
            prop_assert_eq!(model.dma(index), Some(requester.0));
        }
    }
}
