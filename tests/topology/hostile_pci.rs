//! The walk over functions that lie.

use std::cell::Cell;
use std::collections::HashMap;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_iommu::topology::RequesterId;
use virtio_iommu::topology::pci::{
    BarFault, Command, EnableError, ExpressKind, MAX_FUNCTIONS, MAX_WARNINGS, PciTree,
    PciWarningKind, walk,
};

use crate::config_space::{Model, Port, ROOT};
use crate::walk::{EDU, MIB, host, ids, walk_and_check};

fn kinds(tree: &PciTree) -> Vec<PciWarningKind> {
    tree.warnings.iter().map(|warning| warning.kind).collect()
}

#[test]
fn absurd_bars_are_skipped_and_their_neighbours_placed() {
    // Low register: bits that stay whatever is written, bits that take a write.
    let cases: [(u32, u32, BarFault); 5] = [
        (0, 0xfff7_0000, BarFault::NotPowerOfTwo),
        (0x8, 0, BarFault::NotPowerOfTwo),
        (0xffff_ffff, 0, BarFault::AllOnes),
        (0x2, 0xfff0_0000, BarFault::Type),
        (0x6, 0xfff0_0000, BarFault::Type),
    ];
    for (fixed, writable, fault) in cases {
        let mut model = Model::new();
        let device = model.device(ROOT, 1, 0, EDU);
        model.bar(device, 1, MIB, 0);
        model.set_register(device, 0x10, fixed);
        model.set_writable(device, 0x10, writable);
        let tree = walk_and_check(&mut model, &host());
        let function = tree.function(RequesterId(0x08)).unwrap();
        assert_eq!(kinds(&tree), [PciWarningKind::Bar { index: 0, fault }]);
        assert_eq!(function.bar(0), None);
        assert_eq!(function.absurd_bars, 1);
        assert_eq!(function.bar(1).unwrap().address.unwrap().bus, 0x4000_0000);
        assert_eq!(model.register(device, 0x10), fixed, "restored");
        let refused = tree.enable(&mut model, RequesterId(0x08), Command::MEMORY_SPACE);
        assert_eq!(refused, Err(EnableError::Bar(0)));
        // Bus mastering decodes nothing.
        tree.enable(&mut model, RequesterId(0x08), Command::BUS_MASTER)
            .unwrap();
        assert_eq!(model.command(device), 4);
    }
}

#[test]
fn a_wide_bar_needs_two_registers() {
    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    model.set_register(device, 0x24, 0x4);
    model.set_writable(device, 0x24, 0xfff0_0000);
    let port = model.bridge(ROOT, 2, 0, Port::Root);
    model.set_register(port, 0x14, 0x4);
    model.set_writable(port, 0x14, 0xfff0_0000);
    let tree = walk_and_check(&mut model, &host());
    let fault = BarFault::NoUpperHalf;
    let bar = |index| PciWarningKind::Bar { index, fault };
    assert_eq!(kinds(&tree), [bar(5), bar(1)]);
    // What follows the BARs of a bridge are its bus numbers.
    assert_eq!(model.bus_numbers(port), [0, 1, 1]);
}

#[test]
fn capability_lists_that_do_not_end() {
    // Into itself; in a circle of three; a circle that the wanted one is not part of.
    let lists: [&[(u8, u8)]; 3] = [
        &[(0x40, 0x40)],
        &[(0x40, 0x48), (0x48, 0x80), (0x80, 0x40)],
        &[(0x40, 0xfc), (0xfc, 0x40)],
    ];
    for list in lists {
        let mut model = Model::new();
        let device = model.device(ROOT, 1, 0, EDU);
        for (offset, next) in list {
            model.capability(device, *offset, 0x09, *next, 0);
        }
        model.set_capabilities(device, 0x40);
        let tree = walk_and_check(&mut model, &host());
        assert_eq!(kinds(&tree), [PciWarningKind::CyclicCapabilities]);
        assert_eq!(tree.functions[0].express, None);
    }
}

#[test]
fn the_longest_list_of_capabilities_is_read_to_its_end() {
    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    for offset in (0x40..0xfc_u8).step_by(4) {
        model.capability(device, offset, 0x09, offset + 4, 0);
    }
    model.capability(device, 0xfc, 0x10, 0, 0x0002);
    model.set_capabilities(device, 0x40);
    let tree = walk_and_check(&mut model, &host());
    let express = tree.functions[0].express;
    assert_eq!(
        (kinds(&tree), express),
        (vec![], Some(ExpressKind::Endpoint))
    );
}

#[test]
fn capability_lists_that_leave_the_space_end_there() {
    let mut model = Model::new();
    let device = model.device(ROOT, 1, 0, EDU);
    model.capability(device, 0x40, 0x09, 0x08, 0);
    model.set_capabilities(device, 0x40);
    let tree = walk_and_check(&mut model, &host());
    assert_eq!((kinds(&tree), tree.functions[0].express), (vec![], None));
}

#[test]
fn headers_that_are_neither_device_nor_bridge() {
    let mut model = Model::new();
    let cardbus = model.device(ROOT, 1, 0, EDU);
    model.set_register(cardbus, 0x0c, 0x0002_0000);
    // Present, but every other register reads as ones: multifunction, type 0x7f.
    let ones = model.device(ROOT, 2, 0, EDU);
    model.set_register(ones, 0x0c, u32::MAX);
    model.device(ROOT, 2, 3, EDU);
    let resetting = model.device(ROOT, 3, 0, (0x0001, 0xffff));
    model.set_register(resetting, 0x0c, 0);
    model.device(ROOT, 4, 0, (0x0000, 0x0000));
    let tree = walk_and_check(&mut model, &host());
    assert_eq!(ids(&tree), [0x13]);
    let header = PciWarningKind::HeaderType;
    assert_eq!(kinds(&tree), [header(2), header(0x7f)]);
}

/// A model between whose registers and the walk somebody meddles.
struct Stuck {
    model: Model,
    /// The registers that keep nothing but ones.
    offsets: &'static [u8],
}

impl ConfigurationAccess for Stuck {
    fn read_word(&self, target: DeviceFunction, offset: u8) -> u32 {
        self.model.read_word(target, offset)
    }

    fn write_word(&mut self, target: DeviceFunction, offset: u8, data: u32) {
        if !self.offsets.contains(&offset) || data == u32::MAX || data == 0 {
            self.model.write_word(target, offset, data);
        }
    }

    // SAFETY: the trait asks nothing of an implementation beyond access to the same bus; nobody
    // calls this, and a call would end the test.
    unsafe fn unsafe_clone(&self) -> Self {
        unimplemented!("the walk does not clone its access")
    }
}

#[test]
fn addresses_that_are_not_kept_are_reported() {
    let mut model = Model::new();
    let port = model.bridge(ROOT, 1, 0, Port::Root);
    let device = model.device(port, 0, 0, EDU);
    model.bar(device, 0, MIB, 0);
    let mut stuck = Stuck {
        model,
        offsets: &[0x10, 0x20],
    };
    let tree = walk(&mut stuck, &host());
    let fault = BarFault::NotKept;
    let bar = PciWarningKind::Bar { index: 0, fault };
    assert_eq!(kinds(&tree), [PciWarningKind::WindowsNotKept, bar]);
    let bar = tree.function(RequesterId(0x100)).unwrap().bar(0).unwrap();
    assert_eq!(bar.address, None);
}

/// Answers every read by a rule, remembers no write, and counts.
struct Oracle<F> {
    answer: F,
    accesses: Cell<u64>,
}

impl<F: Fn(DeviceFunction, u8, u64) -> u32> ConfigurationAccess for Oracle<F> {
    fn read_word(&self, target: DeviceFunction, offset: u8) -> u32 {
        self.accesses.set(self.accesses.get() + 1);
        (self.answer)(target, offset, self.accesses.get())
    }

    fn write_word(&mut self, _: DeviceFunction, _: u8, _: u32) {
        self.accesses.set(self.accesses.get() + 1);
    }

    // SAFETY: the trait asks nothing of an implementation beyond access to the same bus; nobody
    // calls this, and a call would end the test.
    unsafe fn unsafe_clone(&self) -> Self {
        unimplemented!("the walk does not clone its access")
    }
}

/// What a walk over 65536 functions may cost at most: a few passes, each with a capability list.
const MAX_ACCESSES: u64 = 65536 * 300;

fn survive(answer: impl Fn(DeviceFunction, u8, u64) -> u32) -> (PciTree, u64) {
    let mut oracle = Oracle {
        answer,
        accesses: Cell::new(0),
    };
    let tree = walk(&mut oracle, &host());
    let accesses = oracle.accesses.get();
    assert!(accesses < MAX_ACCESSES, "{accesses} accesses");
    assert!(tree.functions.len() <= MAX_FUNCTIONS);
    assert!(tree.warnings.len() <= MAX_WARNINGS);
    for function in &tree.functions {
        let _ = tree.enable(&mut oracle, function.address.function, Command::all());
    }
    (tree, accesses)
}

#[test]
fn bridges_everywhere_that_ignore_their_numbers() {
    // Whatever is asked for is a multifunction bridge whose capabilities run in a circle.
    for numbers in [
        0x0000_0000,
        0x00ff_0100,
        0x00ff_ff00,
        0xffff_ffff,
        0x0001_0000,
    ] {
        let (tree, _) = survive(|_, offset, _| match offset {
            0x00 => 0x0001_1b36,
            0x04 => 0x0010_0000,
            0x0c => 0x0081_0000,
            0x18 => numbers,
            0x34 => 0x40,
            0x40 => 0x4009,
            _ => 0,
        });
        assert!(!tree.functions.is_empty());
        assert!(tree.warnings_omitted > 0);
    }
}

#[test]
fn bridges_that_change_their_minds() {
    let memory = std::cell::RefCell::new(HashMap::new());
    let (tree, _) = survive(|target, offset, count| match offset {
        0x00 => 0x0001_1b36,
        0x0c => 0x0081_0000,
        0x18 => {
            // Consistent as long as one looks once.
            let mut memory = memory.borrow_mut();
            let first = memory.insert(target, ()).is_none();
            let bus = u32::from(target.bus);
            if first && target.device == 0 && target.function == 0 {
                bus | (bus + 1).min(0xff) << 8 | 0x00ff_0000
            } else {
                count as u32
            }
        }
        _ => 0,
    });
    assert!(tree.functions.len() <= MAX_FUNCTIONS);
}

#[test]
fn everything_answers_the_same_word() {
    for word in [
        0,
        u32::MAX,
        1,
        0x0001_0001,
        0x8181_8181,
        0x1af4_1057,
        0x0081_0010,
        0x1010_1010,
    ] {
        survive(|_, _, _| word);
    }
}

#[test]
fn noise() {
    for seed in 1..=8_u64 {
        survive(|target, offset, count| {
            let mut x = seed ^ count << 16 ^ u64::from(target.bus) << 40 ^ u64::from(offset);
            x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (x ^ x >> 31) as u32
        });
    }
}

#[test]
fn noise_behind_sane_headers() {
    for seed in 1..=8_u64 {
        survive(|target, offset, count| match offset {
            0x00 => 0x0001_1b36,
            0x0c if target.device < 4 => 0x0081_0000,
            0x0c => 0x0080_0000,
            0x18 if target.device < 4 => 0,
            _ => {
                let mut x = seed ^ count << 20 ^ u64::from(offset);
                x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                (x ^ x >> 31) as u32
            }
        });
    }
}

#[test]
fn many_huge_bars() {
    // 1024 functions with three 64-bit BARs each, all of them too many for the windows.
    let (tree, _) = survive(|target, offset, count| match offset {
        0x00 => 0x0001_1b36,
        0x0c if target.bus == 0 && target.device < 4 => 0x0081_0000,
        0x0c => 0x0080_0000,
        0x18 if target.bus == 0 && target.device < 4 => 0,
        0x10 | 0x18 | 0x20 => 0xff00_000c,
        0x14 | 0x1c | 0x24 => 0xffff_ffff,
        _ => count as u32 & 0xf900_0000,
    });
    assert!(tree.warnings_omitted > 0);
}
