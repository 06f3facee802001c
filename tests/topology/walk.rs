//! The walk over machines that make sense and have no firmware: everything reads as after a reset.

use virtio_iommu::address::PhysAddr;
use virtio_iommu::topology::pci::{self, BarAddress, BridgeKind, Command, PciTree, Span, walk};
use virtio_iommu::topology::{
    BusRange, HostBridge, IommuIndex, Placement, RequesterId, Segment, Topology, Window, WindowKind,
};

use crate::config_space::{Model, Port, ROOT};
use xtask::conformance::{Oracle, proves};

pub const IOMMU: (u16, u16) = (0x1af4, 0x1057);
pub const EDU: (u16, u16) = (0x1234, 0x11e8);
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

pub fn window(kind: WindowKind, bus: u64, cpu: u64, size: u64) -> Window {
    Window::new(kind, bus, PhysAddr(cpu), size).unwrap()
}

/// The host bridge of QEMU's riscv64 `virt`.
pub fn host() -> HostBridge {
    HostBridge {
        segment: Segment(0),
        buses: BusRange::ALL,
        ecam: None,
        windows: vec![
            window(WindowKind::Io, 0, 0x300_0000, 0x1_0000),
            window(WindowKind::Memory, 0x4000_0000, 0x4000_0000, GIB),
            window(WindowKind::Memory, 0x4_0000_0000, 0x4_0000_0000, 16 * GIB),
        ],
        node: None,
    }
}

/// Walks, and checks what holds after every walk: no rule broken, nothing switched on, BARs where
/// the model finds them. Returns the tree with everything enabled that can be.
pub fn walk_and_check(model: &mut Model, host: &HostBridge) -> PciTree {
    let commands: Vec<u32> = (0..model.functions.len())
        .map(|index| model.command(index))
        .collect();
    let tree = walk(model, host);
    assert_eq!(model.violations, Vec::<String>::new());
    for (index, command) in commands.iter().enumerate() {
        assert_eq!(
            model.command(index),
            *command,
            "COMMAND of function {index}"
        );
    }
    for function in &tree.functions {
        let everything = Command::IO_SPACE | Command::MEMORY_SPACE;
        let _ = tree.enable(model, function.address.function, everything);
    }
    for function in &tree.functions {
        let index = at(model, function.address.function);
        if model.command(index) & 2 == 0 {
            continue;
        }
        for bar in &function.bars {
            let address = bar.address.expect("enabled without an address");
            let hard = model.functions[index].bars.iter();
            let hard = *hard.clone().find(|hard| hard.index == bar.index).unwrap();
            assert_eq!(hard.size, bar.size);
            assert_eq!(address.bus, model.bar_value(index, &hard));
            assert_eq!(address.bus % bar.size, 0, "natural alignment");
            for probe in [address.bus, address.bus + (bar.size - 1)] {
                let decoders = model.decoders(probe, hard.io);
                assert_eq!(decoders, [(index, bar.index)], "at {probe:#x}");
            }
            let window = host
                .windows
                .iter()
                .find(|window| {
                    (window.kind() == WindowKind::Io) == hard.io
                        && window.contains(address.bus, bar.size)
                })
                .unwrap_or_else(|| panic!("{:#x} is in no window", address.bus));
            assert_eq!(address.cpu, window.to_cpu(address.bus));
        }
    }
    for function in &tree.functions {
        if let Some(bridge) = &function.bridge {
            let index = at(model, function.address.function);
            let memory = [bridge.memory, bridge.prefetchable];
            check_windows(model, index, &memory, false);
            check_windows(model, index, &[bridge.io], true);
        }
    }
    tree
}

/// A bridge forwards what the tree says, and nothing beside it.
fn check_windows(model: &Model, bridge: usize, spans: &[Option<Span>], io: bool) {
    let spans: Vec<Span> = spans.iter().flatten().copied().collect();
    let ends = spans.iter().flat_map(|span| {
        let outside = [span.first.wrapping_sub(1), span.last.wrapping_add(1)];
        [span.first, span.last].into_iter().chain(outside)
    });
    for address in ends.chain([0, 0xfff, 0xf_ffff, 0xffff_ffff]) {
        let inside = |span: &Span| (span.first..=span.last).contains(&address);
        let expected = spans.iter().any(inside);
        assert_eq!(
            model.forwards(bridge, address, io),
            expected,
            "{address:#x}"
        );
    }
}

/// The function of the model that answers at an address.
pub fn at(model: &Model, id: RequesterId) -> usize {
    let mut found = (0..model.functions.len()).filter(|index| model.address(*index) == id.0);
    let index = found.next().expect("nobody is there");
    assert_eq!(found.next(), None);
    index
}

pub fn ids(tree: &PciTree) -> Vec<u16> {
    tree.functions
        .iter()
        .map(|function| function.address.function.0)
        .collect()
}

fn bar_at(tree: &PciTree, function: u16, bar: u8) -> Option<u64> {
    let function = tree.function(RequesterId(function)).unwrap();
    Some(function.bar(bar).unwrap().address?.bus)
}

#[test]
fn root_bus_only() {
    let mut model = Model::new();
    model.device(ROOT, 0, 0, (0x1b36, 0x0008));
    let iommu = model.device(ROOT, 1, 0, IOMMU);
    model.bar(iommu, 4, 0x4000, 0xc);
    let edu = model.device(ROOT, 2, 0, EDU);
    model.bar(edu, 0, MIB, 0);
    let io = model.device(ROOT, 31, 0, (0x1af4, 0x1000));
    model.bar(io, 0, 0x20, 1);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(ids(&tree), [0x00, 0x08, 0x10, 0xf8]);
    assert_eq!(tree.warnings, []);
    // The most aligned first, from the bottom of the 32-bit window; I/O port 0 is left out.
    assert_eq!(bar_at(&tree, 0x10, 0), Some(0x4000_0000));
    assert_eq!(bar_at(&tree, 0x08, 4), Some(0x4010_0000));
    let io = tree.function(RequesterId(0xf8)).unwrap().bar(0).unwrap();
    let expected = BarAddress {
        bus: 0x1000,
        cpu: Some(PhysAddr(0x300_1000)),
    };
    assert_eq!(io.address, Some(expected));

    let iommu = tree.find(pci::VIRTIO_VENDOR, pci::VIRTIO_IOMMU_DEVICE);
    let [iommu] = iommu.collect::<Vec<_>>()[..] else {
        panic!("one IOMMU");
    };
    assert!(iommu.is_iommu());
    assert_eq!((iommu.class, iommu.subclass, iommu.revision), (0, 0xff, 1));
    assert_eq!((iommu.header_type, iommu.interrupt_pin), (0, 1));
    assert_eq!(
        (iommu.parent, iommu.bridge, iommu.express),
        (None, None, None)
    );
}

#[test]
fn a_root_port_gets_a_bus_and_a_window() {
    let mut model = Model::new();
    let iommu = model.device(ROOT, 1, 0, IOMMU);
    model.bar(iommu, 4, 0x4000, 0xc);
    let port = model.bridge(ROOT, 2, 0, Port::Root);
    let edu = model.device(port, 0, 0, EDU);
    model.bar(edu, 0, MIB, 0);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(ids(&tree), [0x08, 0x10, 0x100]);
    assert_eq!(model.bus_numbers(port), [0, 1, 1]);
    let behind = tree.function(RequesterId(0x100)).unwrap();
    assert_eq!(behind.requester, RequesterId(0x100));
    assert_eq!(behind.parent, Some(RequesterId(0x10)));
    assert_eq!(bar_at(&tree, 0x100, 0), Some(0x4000_0000));
    let bridge = tree.function(RequesterId(0x10)).unwrap().bridge.unwrap();
    assert_eq!(bridge.kind, BridgeKind::RootPort);
    assert_eq!((bridge.secondary, bridge.subordinate), (1, 1));
    let memory = Span {
        first: 0x4000_0000,
        last: 0x400f_ffff,
    };
    assert_eq!(bridge.memory, Some(memory));
    assert_eq!((bridge.io, bridge.prefetchable), (None, None));
    assert_eq!(model.decoders(0x4010_0000, false), [(iommu, 4)]);
}

#[test]
fn a_switch_is_numbered_depth_first() {
    let mut model = Model::new();
    let first = model.bridge(ROOT, 1, 0, Port::Root);
    let second = model.bridge(ROOT, 2, 0, Port::Root);
    let up = model.bridge(first, 0, 0, Port::Upstream);
    let down = [4, 9].map(|device| model.bridge(up, device, 0, Port::Downstream));
    for bridge in [down[0], down[1], second] {
        let device = model.device(bridge, 0, 0, EDU);
        model.bar(device, 0, 64 << 10, 0);
        model.bar(device, 2, 2 * MIB, 0xc);
        model.bar(device, 4, 0x40, 1);
    }
    // On PCI Express only device 0 can be there, and nobody asks for another one.
    let ghost = model.device(down[1], 5, 0, EDU);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(model.bus_numbers(first), [0, 1, 4]);
    assert_eq!(model.bus_numbers(up), [1, 2, 4]);
    assert_eq!(model.bus_numbers(down[0]), [2, 3, 3]);
    assert_eq!(model.bus_numbers(down[1]), [2, 4, 4]);
    assert_eq!(model.bus_numbers(second), [0, 5, 5]);
    assert_eq!(
        ids(&tree),
        [0x008, 0x010, 0x100, 0x220, 0x248, 0x300, 0x400, 0x500]
    );
    assert_eq!(model.address(ghost), 0x428);
    // Windows are whole granules, nested: 3 MiB behind each of the downstream ports, aligned to
    // the 2 MiB of its largest BAR, makes 7 MiB for the upstream port and the root port.
    let memory = |id| {
        tree.function(RequesterId(id))
            .unwrap()
            .bridge
            .unwrap()
            .memory
            .unwrap()
    };
    assert_eq!(memory(0x008).last - memory(0x008).first, 7 * MIB - 1);
    assert_eq!(memory(0x100), memory(0x008));
    let io = |id| {
        tree.function(RequesterId(id))
            .unwrap()
            .bridge
            .unwrap()
            .io
            .unwrap()
    };
    assert_eq!(io(0x008).last - io(0x008).first, 0x1fff);
    assert_eq!(tree.warnings, []);
}

#[test]
fn other_functions_are_asked_only_if_function_0_says_so() {
    let mut model = Model::new();
    let single = model.device(ROOT, 3, 0, EDU);
    model.device(ROOT, 3, 1, EDU);
    let multi = model.device(ROOT, 4, 0, EDU);
    model.set_multifunction(multi);
    model.device(ROOT, 4, 2, EDU);
    model.device(ROOT, 4, 7, EDU);
    // Without function 0 there is no device.
    model.device(ROOT, 5, 1, EDU);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(ids(&tree), [0x18, 0x20, 0x22, 0x27]);
    assert_eq!(model.address(single), 0x18);
}

#[test]
fn conventional_bridges_hide_what_is_behind_them() {
    let mut model = Model::new();
    let pci = model.bridge(ROOT, 7, 0, Port::Conventional);
    let behind_pci = model.device(pci, 3, 0, EDU);
    let to_pci = model.bridge(ROOT, 8, 0, Port::ToPci);
    let behind_to_pci = model.device(to_pci, 4, 0, EDU);
    let nested = model.bridge(to_pci, 5, 0, Port::Conventional);
    let behind_nested = model.device(nested, 6, 0, EDU);
    let port = model.bridge(ROOT, 9, 0, Port::Root);
    let below_port = model.bridge(port, 0, 0, Port::ToPci);
    let behind_both = model.device(below_port, 1, 0, EDU);
    let tree = walk_and_check(&mut model, &host());
    let requester = |index: usize| {
        let id = RequesterId(model.address(index));
        tree.function(id).unwrap().requester
    };
    assert_eq!(requester(pci), RequesterId(0x38));
    assert_eq!(requester(behind_pci), RequesterId(0x38));
    assert_eq!(requester(behind_to_pci), RequesterId(0x200));
    assert_eq!(requester(nested), RequesterId(0x200));
    assert_eq!(requester(behind_nested), RequesterId(0x200));
    assert_eq!(requester(below_port), RequesterId(0x400));
    assert_eq!(requester(behind_both), RequesterId(0x500));
    assert_eq!(model.address(behind_both), 0x508);
}

#[test]
fn enabling_a_function_enables_the_way_to_it() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let up = model.bridge(port, 0, 0, Port::Upstream);
    let down = model.bridge(up, 2, 0, Port::Downstream);
    let edu = model.device(down, 0, 0, EDU);
    model.bar(edu, 0, MIB, 0);
    let other = model.bridge(ROOT, 2, 0, Port::Root);
    let tree = walk(&mut model, &host());
    let id = RequesterId(model.address(edu));
    assert_eq!(id, RequesterId(0x300));
    assert_eq!(model.dma(edu), None);

    tree.enable(&mut model, id, Command::MEMORY_SPACE).unwrap();
    for index in [port, up, down, edu] {
        assert_eq!(model.command(index), 2);
    }
    assert_eq!(model.command(other), 0);
    assert_eq!(model.dma(edu), None);

    // Bits that are not switches are left alone.
    let command = Command::BUS_MASTER | Command::INTERRUPT_DISABLE;
    tree.enable(&mut model, id, command).unwrap();
    assert_eq!(model.command(edu), 6);
    assert_eq!(model.dma(edu), Some(0x300));

    tree.disable(&mut model, id, Command::BUS_MASTER).unwrap();
    assert_eq!((model.command(edu), model.command(port)), (2, 6));
    assert_eq!(model.dma(edu), None);
    assert_eq!(model.violations, Vec::<String>::new());

    let unknown = RequesterId(0x18);
    let error = Err(pci::EnableError::Unknown(unknown));
    assert_eq!(tree.enable(&mut model, unknown, Command::all()), error);
    assert_eq!(tree.disable(&mut model, unknown, Command::all()), error);
}

#[test]
fn enabling_says_when_a_bit_does_not_stay() {
    let mut model = Model::new();
    let deaf = model.device(ROOT, 1, 0, EDU);
    model.bar(deaf, 0, MIB, 0);
    model.set_writable(deaf, 4, 0x0002);
    let tree = walk(&mut model, &host());
    let id = RequesterId(0x08);
    tree.enable(&mut model, id, Command::MEMORY_SPACE).unwrap();
    let error = Err(pci::EnableError::NotKept(id));
    assert_eq!(tree.enable(&mut model, id, Command::BUS_MASTER), error);
}

#[test]
fn the_root_bus_may_have_any_number() {
    let mut model = Model::at_bus(0x10);
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let edu = model.device(port, 0, 0, EDU);
    let host = HostBridge {
        segment: Segment(2),
        buses: BusRange::new(0x10, 0x1f).unwrap(),
        ..host()
    };
    let tree = walk_and_check(&mut model, &host);
    assert_eq!(model.bus_numbers(port), [0x10, 0x11, 0x11]);
    assert_eq!(ids(&tree), [0x1008, model.address(edu)]);
    assert_eq!(tree.functions[1].address.segment, Segment(2));
}

#[test]
fn wide_bars_go_beyond_4_gib_when_they_must() {
    let mut model = Model::new();
    let root = model.device(ROOT, 1, 0, EDU);
    model.bar(root, 0, 8 * GIB, 0xc);
    let port = model.bridge(ROOT, 2, 0, Port::Root);
    let behind = model.device(port, 0, 0, EDU);
    model.bar(behind, 0, 2 * GIB, 0xc);
    model.bar(behind, 2, MIB, 0x4);
    model.bar(behind, 4, MIB, 0xc);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(tree.warnings, []);
    assert_eq!(bar_at(&tree, 0x08, 0), Some(0x4_0000_0000));
    assert_eq!(bar_at(&tree, 0x100, 0), Some(0x6_0000_0000));
    // What fits stays below: it is reachable with 32-bit addresses.
    assert_eq!(bar_at(&tree, 0x100, 2), Some(0x4000_0000));
    assert_eq!(bar_at(&tree, 0x100, 4), Some(0x4010_0000));
    let bridge = tree.function(RequesterId(0x10)).unwrap().bridge.unwrap();
    let prefetchable = Span {
        first: 0x6_0000_0000,
        last: 0x6_7fff_ffff,
    };
    assert_eq!(bridge.prefetchable, Some(prefetchable));
}

#[test]
fn a_prefetchable_window_forwards_nothing_that_has_side_effects() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let behind = model.device(port, 0, 0, EDU);
    model.bar(behind, 0, 2 * GIB, 0x4);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(bar_at(&tree, 0x100, 0), None);
    assert_eq!(tree.warnings.len(), 1);
}

#[test]
fn bridges_without_the_optional_windows() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    for offset in [0x1c, 0x24, 0x28, 0x2c, 0x30] {
        model.set_register(port, offset, 0);
        model.set_writable(port, offset, 0);
    }
    let behind = model.device(port, 0, 0, EDU);
    model.bar(behind, 0, MIB, 0xc);
    model.bar(behind, 2, 2 * GIB, 0xc);
    model.bar(behind, 4, 0x20, 1);
    let tree = walk_and_check(&mut model, &host());
    let placed: Vec<_> = [0, 2, 4].map(|bar| bar_at(&tree, 0x100, bar)).into();
    assert_eq!(placed, [Some(0x4000_0000), None, None]);
    // Only the BARs are missed; the bridge keeps what it was told.
    assert_eq!(tree.warnings.len(), 2);
}

#[test]
fn windows_of_the_host_may_overlap() {
    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    model.bar(device, 0, 8 * MIB, 0x0);
    model.bar(device, 2, 8 * MIB, 0x4);
    let mut host = host();
    let memory = WindowKind::Memory;
    host.windows = vec![
        window(memory, 0x4000_0000, 0x4000_0000, 8 * MIB),
        window(memory, 0x4000_0000, 0x4000_0000, 16 * GIB),
    ];
    let tree = walk_and_check(&mut model, &host);
    let placed: Vec<_> = [0, 2].map(|bar| bar_at(&tree, 0x08, bar)).into();
    assert_eq!(placed, [Some(0x4000_0000), Some(0x4080_0000)]);
}

#[test]
fn no_two_bars_share_a_page() {
    let mut model = Model::new();
    for device in 1..=3 {
        let device = model.device(ROOT, device, 0, EDU);
        model.bar(device, 0, 0x10, 0);
    }
    let tree = walk_and_check(&mut model, &host());
    let placed: Vec<_> = [0x08, 0x10, 0x18]
        .map(|id| bar_at(&tree, id, 0).unwrap())
        .into();
    assert_eq!(placed, [0x4000_0000, 0x4000_1000, 0x4000_2000]);
}

#[test]
fn narrow_bars_go_first_where_the_low_window_is_short() {
    let mut model = Model::new();
    let wide = model.device(ROOT, 1, 0, EDU);
    model.bar(wide, 0, 8 * MIB, 0xc);
    let narrow = model.device(ROOT, 2, 0, EDU);
    model.bar(narrow, 0, 8 * MIB, 0);
    let mut host = host();
    host.windows[1] = window(WindowKind::Memory, 0x4000_0000, 0x4000_0000, 8 * MIB);
    let tree = walk_and_check(&mut model, &host);
    assert_eq!(bar_at(&tree, 0x10, 0), Some(0x4000_0000));
    assert_eq!(bar_at(&tree, 0x08, 0), Some(0x4_0000_0000));
    assert_eq!(tree.warnings, []);
}

#[test]
fn a_window_for_prefetchable_memory_takes_nothing_else() {
    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    model.bar(device, 0, MIB, 0x8);
    model.bar(device, 1, MIB, 0x0);
    model.bar(device, 2, 2 * GIB, 0x4);
    model.bar(device, 4, 2 * GIB, 0xc);
    let kind = WindowKind::Prefetchable;
    let mut host = host();
    host.windows = vec![
        window(kind, 0x4000_0000, 0x4000_0000, GIB),
        window(kind, 0x4_0000_0000, 0x4_0000_0000, 16 * GIB),
    ];
    let tree = walk_and_check(&mut model, &host);
    let placed: Vec<_> = [0, 1, 2, 4].map(|bar| bar_at(&tree, 0x08, bar)).into();
    assert_eq!(placed, [Some(0x4000_0000), None, None, Some(0x4_0000_0000)]);
}

#[test]
fn bus_and_cpu_addresses_may_differ() {
    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    model.bar(device, 0, MIB, 0);
    let mut host = host();
    host.windows = vec![window(WindowKind::Memory, 0, 0x8_0000_0000, 16 * MIB)];
    let tree = walk_and_check(&mut model, &host);
    let expected = BarAddress {
        // Address 0 reads as "not assigned".
        bus: 0x10_0000,
        cpu: Some(PhysAddr(0x8_0010_0000)),
    };
    assert_eq!(tree.functions[0].bars[0].address, Some(expected));
}

#[test]
fn the_fallback_finds_the_iommu_by_its_id() {
    let _proof = proves(Oracle::Model, &["GV-PCI-1"]);
    let mut model = Model::new();
    model.device(ROOT, 5, 0, IOMMU);
    let port = model.bridge(ROOT, 6, 0, Port::Root);
    model.device(port, 0, 0, EDU);
    let tree = walk_and_check(&mut model, &host());
    let topology = Topology::scan(&tree.functions).unwrap();
    assert_eq!(topology.iommus().len(), 1);
    let place = |id| topology.pci(Segment(0), RequesterId(id));
    assert_eq!(place(0x28), Placement::NotBehind);
    let Placement::Behind { iommu, endpoint } = place(0x100) else {
        panic!("edu is behind the IOMMU");
    };
    assert_eq!((iommu, endpoint.0), (IommuIndex(0), 0x100));

    // Without an IOMMU nobody is behind one; with two nobody can say.
    let without: Vec<_> = tree
        .functions
        .iter()
        .filter(|f| !f.is_iommu())
        .cloned()
        .collect();
    let empty = Topology::scan(&without).unwrap();
    assert_eq!(empty, Topology::new());
    assert_eq!(
        empty.pci(Segment(0), RequesterId(0x100)),
        Placement::NotBehind
    );
    model.device(ROOT, 9, 0, IOMMU);
    let twice = walk(&mut model, &host());
    let error = virtio_iommu::topology::TableError::SeveralIommus(Segment(0));
    assert_eq!(Topology::scan(&twice.functions), Err(error));
}
