//! The walk over machines on which a firmware was before: what makes sense is kept.

use virtio_iommu::topology::pci::{BarFault, Command, PciWarning, PciWarningKind, walk};
use virtio_iommu::topology::{BusRange, HostBridge, RequesterId, WindowKind};

use crate::config_space::{Model, Port, ROOT};
use crate::walk::{EDU, GIB, MIB, host, ids, walk_and_check, window};

/// Two root ports, a switch behind the first one, devices at the ends.
fn tree() -> (Model, [usize; 4]) {
    let mut model = Model::new();
    let first = model.bridge(ROOT, 1, 0, Port::Root);
    let second = model.bridge(ROOT, 2, 0, Port::Root);
    let up = model.bridge(first, 0, 0, Port::Upstream);
    let down = model.bridge(up, 3, 0, Port::Downstream);
    for bridge in [second, down] {
        let device = model.device(bridge, 0, 0, EDU);
        model.bar(device, 0, MIB, 0);
    }
    (model, [first, second, up, down])
}

fn numbers(model: &Model, bridges: [usize; 4]) -> [[u8; 3]; 4] {
    bridges.map(|bridge| model.bus_numbers(bridge))
}

fn set(model: &mut Model, bridges: [usize; 4], numbers: [[u8; 3]; 4]) {
    for (bridge, numbers) in bridges.into_iter().zip(numbers) {
        model.set_bus_numbers(bridge, numbers);
    }
}

const FRESH: [[u8; 3]; 4] = [[0, 1, 3], [0, 4, 4], [1, 2, 3], [2, 3, 3]];

#[test]
fn consistent_numbers_are_kept() {
    let (mut model, bridges) = tree();
    // Nested and disjoint, with gaps, and the second port before the first.
    let theirs = [
        [0, 0x20, 0x2f],
        [0, 0x10, 0x1f],
        [0x20, 0x21, 0x28],
        [0x21, 0x25, 0x25],
    ];
    set(&mut model, bridges, theirs);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(numbers(&model, bridges), theirs);
    assert_eq!(ids(&tree), [0x0008, 0x0010, 0x1000, 0x2000, 0x2118, 0x2500]);
}

#[test]
fn a_second_walk_changes_nothing() {
    let (mut model, bridges) = tree();
    let once = walk_and_check(&mut model, &host());
    assert_eq!(numbers(&model, bridges), FRESH);
    let twice = walk_and_check(&mut model, &host());
    assert_eq!(once, twice);
}

#[test]
fn inconsistent_numbers_are_replaced() {
    let good = [
        [0, 0x20, 0x2f],
        [0, 0x10, 0x1f],
        [0x20, 0x21, 0x28],
        [0x21, 0x25, 0x25],
    ];
    let cases = [
        ("none at all", [[0, 0, 0]; 4]),
        (
            "siblings overlap",
            [good[0], [0, 0x2f, 0x30], good[2], good[3]],
        ),
        ("the same twice", [good[0], good[0], good[2], good[3]]),
        (
            "wrong primary",
            [good[0], good[1], [0, 0x21, 0x28], good[3]],
        ),
        (
            "secondary is the primary",
            [[0, 0, 0x2f], good[1], good[2], good[3]],
        ),
        ("inverted", [[0, 0x2f, 0x20], good[1], good[2], good[3]]),
        (
            "child beyond its parent",
            [good[0], good[1], [0x20, 0x21, 0x30], good[3]],
        ),
        ("child not numbered", [good[0], good[1], good[2], [0, 0, 0]]),
        (
            "stale numbers that are about to be given away",
            [[0, 1, 5], [0, 1, 5], [1, 2, 5], [2, 3, 5]],
        ),
        ("loop", [[0, 1, 0xff], good[1], [1, 1, 0xff], [1, 1, 0xff]]),
    ];
    for (name, theirs) in cases {
        let (mut model, bridges) = tree();
        set(&mut model, bridges, theirs);
        let tree = walk_and_check(&mut model, &host());
        assert_eq!(numbers(&model, bridges), FRESH, "{name}");
        assert_eq!(
            ids(&tree),
            [0x008, 0x010, 0x100, 0x218, 0x300, 0x400],
            "{name}"
        );
        assert_eq!(tree.warnings, [], "{name}");
    }
}

#[test]
fn numbers_beyond_the_host_bridge_are_replaced() {
    let (mut model, bridges) = tree();
    let theirs = [
        [0, 0x20, 0x2f],
        [0, 0x10, 0x1f],
        [0x20, 0x21, 0x28],
        [0x21, 0x25, 0x25],
    ];
    set(&mut model, bridges, theirs);
    let host = HostBridge {
        buses: BusRange::new(0, 0x2e).unwrap(),
        ..host()
    };
    walk_and_check(&mut model, &host);
    assert_eq!(numbers(&model, bridges), FRESH);
}

#[test]
fn exhausted_bus_numbers_leave_the_rest_out() {
    let mut model = Model::new();
    let ports: Vec<usize> = (1..=4)
        .map(|device| {
            let port = model.bridge(ROOT, device, 0, Port::Root);
            model.device(port, 0, 0, EDU);
            port
        })
        .collect();
    let host = HostBridge {
        buses: BusRange::new(0, 2).unwrap(),
        ..host()
    };
    let tree = walk(&mut model, &host);
    assert_eq!(ids(&tree), [0x08, 0x10, 0x18, 0x20, 0x100, 0x200]);
    let expected: Vec<PciWarning> = [0x18, 0x20]
        .map(|id| PciWarning {
            function: RequesterId(id),
            kind: PciWarningKind::NoBusNumber,
        })
        .into();
    assert_eq!(tree.warnings, expected);
    for port in &ports[2..] {
        assert_eq!(model.bus_numbers(*port), [0, 0, 0]);
    }
    let closed = tree.function(RequesterId(0x20)).unwrap().bridge.unwrap();
    assert_eq!((closed.secondary, closed.subordinate), (0, 0));
    assert_eq!(model.violations, Vec::<String>::new());
}

#[test]
fn addresses_of_a_firmware_are_kept_and_the_others_fitted_in() {
    let mut model = Model::new();
    let kept = model.device(ROOT, 1, 0, EDU);
    model.bar(kept, 0, MIB, 0);
    model.set_register(kept, 0x10, 0x4010_0000);
    // Decoding, as a firmware leaves it: off while sizing, on afterwards.
    model.set_register(kept, 4, 0x0103);
    let new = model.device(ROOT, 2, 0, EDU);
    model.bar(new, 0, MIB, 0);
    model.bar(new, 1, 2 * MIB, 0);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(model.command(kept), 0x0103);
    let bars = |id| -> Vec<u64> {
        let function = tree.function(RequesterId(id)).unwrap();
        function
            .bars
            .iter()
            .map(|bar| bar.address.unwrap().bus)
            .collect()
    };
    assert_eq!(bars(0x08), [0x4010_0000]);
    assert_eq!(bars(0x10), [0x4000_0000, 0x4020_0000]);
}

#[test]
fn addresses_that_make_no_sense_are_replaced() {
    // All equal and in the window; all equal and outside, above and below it.
    for address in [0x4000_0000, 0x8000_0000, 0x3ff0_0000_u32] {
        let mut model = Model::new();
        for device in 1..=3 {
            let index = model.device(ROOT, device, 0, EDU);
            model.bar(index, 0, MIB, 0);
            model.set_register(index, 0x10, address);
        }
        let tree = walk_and_check(&mut model, &host());
        let mut bars: Vec<u64> = tree
            .functions
            .iter()
            .map(|function| function.bars[0].address.unwrap().bus)
            .collect();
        bars.sort_unstable();
        assert_eq!(bars, [0x4000_0000, 0x4010_0000, 0x4020_0000]);
    }
}

#[test]
fn windows_of_a_firmware_are_kept_and_used() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let first = model.device(port, 0, 0, EDU);
    model.set_multifunction(first);
    model.bar(first, 0, MIB, 0);
    model.bar(first, 2, MIB, 0xc);
    let second = model.device(port, 0, 1, EDU);
    model.bar(second, 0, MIB, 0);
    model.set_bus_numbers(port, [0, 1, 1]);
    // 2 MiB of memory and 1 MiB of prefetchable memory, both below 4 GiB.
    model.set_register(port, 0x20, 0x4210_4200);
    model.set_register(port, 0x24, 0x4301_4301);
    model.set_register(first, 0x10, 0x4210_0000);
    model.set_register(first, 0x18, 0x4300_000c);
    let tree = walk_and_check(&mut model, &host());
    let port = tree.function(RequesterId(0x08)).unwrap().bridge.unwrap();
    let memory = port.memory.unwrap();
    assert_eq!((memory.first, memory.last), (0x4200_0000, 0x421f_ffff));
    let prefetchable = port.prefetchable.unwrap();
    assert_eq!(
        (prefetchable.first, prefetchable.last),
        (0x4300_0000, 0x430f_ffff)
    );
    let bars: Vec<u64> = tree.functions[1..]
        .iter()
        .flat_map(|function| &function.bars)
        .map(|bar| bar.address.unwrap().bus)
        .collect();
    assert_eq!(bars, [0x4210_0000, 0x4300_0000, 0x4200_0000]);
}

#[test]
fn what_has_side_effects_does_not_stay_in_prefetchable_windows() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let behind = model.device(port, 0, 0, EDU);
    model.bar(behind, 0, MIB, 0);
    model.set_bus_numbers(port, [0, 1, 1]);
    model.set_register(port, 0x24, 0x4301_4301);
    model.set_register(behind, 0x10, 0x4300_0000);
    let tree = walk_and_check(&mut model, &host());
    let address = tree.functions[1].bars[0].address.unwrap();
    assert_eq!(address.bus, 0x4000_0000);

    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    model.bar(device, 0, MIB, 0);
    model.set_register(device, 0x10, 0x4300_0000);
    let mut host = host();
    host.windows = vec![window(
        WindowKind::Prefetchable,
        0x4000_0000,
        0x4000_0000,
        GIB,
    )];
    let tree = walk_and_check(&mut model, &host);
    assert_eq!(tree.functions[0].bars[0].address, None);
}

#[test]
fn without_windows_a_firmware_is_believed() {
    let mut model = Model::new();
    let kept = model.device(ROOT, 1, 0, EDU);
    model.bar(kept, 0, MIB, 0);
    model.set_register(kept, 0x10, 0xfe80_0000);
    let empty = model.device(ROOT, 2, 0, EDU);
    model.bar(empty, 0, MIB, 0);
    let mut host = host();
    host.windows = vec![window(WindowKind::Io, 0, 0, 0x1_0000)];
    let tree = walk(&mut model, &host);
    let address = tree.functions[0].bars[0].address.unwrap();
    assert_eq!((address.bus, address.cpu), (0xfe80_0000, None));
    assert_eq!(tree.functions[1].bars[0].address, None);
    let fault = BarFault::NoRoom;
    let kind = PciWarningKind::Bar { index: 0, fault };
    assert_eq!(
        tree.warnings.iter().map(|w| w.kind).collect::<Vec<_>>(),
        [kind]
    );
}

#[test]
fn exhausted_windows_cost_the_largest_bars() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let behind = model.device(port, 0, 0, EDU);
    model.bar(behind, 0, 4 * MIB, 0);
    model.bar(behind, 1, MIB, 0);
    let root = model.device(ROOT, 2, 0, EDU);
    model.bar(root, 0, 2 * MIB, 0);
    model.bar(root, 1, 2 * GIB, 0);
    let mut host = host();
    host.windows = vec![window(
        WindowKind::Memory,
        0x4000_0000,
        0x4000_0000,
        4 * MIB,
    )];
    let tree = walk_and_check(&mut model, &host);
    let warnings: Vec<(u16, PciWarningKind)> = tree
        .warnings
        .iter()
        .map(|warning| (warning.function.0, warning.kind))
        .collect();
    let bar = |index, fault| PciWarningKind::Bar { index, fault };
    assert_eq!(
        warnings,
        [
            (0x10, bar(1, BarFault::LargerThanWindow)),
            (0x100, bar(0, BarFault::NoRoom)),
        ]
    );
    let address = |id, index| {
        let function = tree.function(RequesterId(id)).unwrap();
        function
            .bar(index)
            .unwrap()
            .address
            .map(|address| address.bus)
    };
    assert_eq!(address(0x10, 0), Some(0x4000_0000));
    assert_eq!(address(0x100, 1), Some(0x4020_0000));
    // A function with a homeless BAR is not switched on.
    let refused = tree.enable(&mut model, RequesterId(0x100), Command::MEMORY_SPACE);
    assert_eq!(
        refused,
        Err(virtio_iommu::topology::pci::EnableError::Bar(0))
    );
    assert_eq!((model.command(behind), model.command(root)), (0, 0));
}
