//! Mutated device trees: whatever the bytes, an answer within a bounded time.

use std::time::{Duration, Instant};

use virtio_iommu::topology::device_tree::{
    Description, DeviceTreeError, MAX_HOST_BRIDGES, MAX_WARNINGS, from_device_tree,
};
use virtio_iommu::topology::pci::walk;
use virtio_iommu::topology::{
    MAX_IOMMUS, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, Placement, RequesterId,
};

use crate::config_space::{Model, Port, ROOT};
use crate::fdt::Node;
use crate::machine::{DMA, PCI, machine};
use crate::qemu_trees::{AARCH64_ROOT_PORT, RISCV64_MMIO, RISCV64_SLOT_1};
use crate::random::{Random, variable};
use crate::walk::{EDU, IOMMU, MIB};

/// How many trees are read when nobody says otherwise.
const DEFAULT_MUTATIONS: u64 = 50_000;
/// What one tree of a few KiB may take; in truth it is well below a millisecond.
const LIMIT: Duration = Duration::from_millis(500);

/// One to four changes: a byte, a bit, a word with a value of interest, a word from elsewhere, or
/// a shorter blob.
fn mutate(random: &mut Random, blob: &mut Vec<u8>) {
    const WORDS: [u32; 14] = [
        0,
        1,
        2,
        3,
        4,
        5,
        9,
        0x10,
        0xff,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0xffff_fff0,
        0xffff_ffff,
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(blob.len());
        let word = at & !3;
        match random.below(8) {
            0 | 1 => blob[at] = random.next() as u8,
            2 | 3 => blob[at] ^= 1 << random.below(8),
            4 | 5 => {
                let value = WORDS[random.below(WORDS.len())];
                if let Some(slot) = blob.get_mut(word..word + 4) {
                    slot.copy_from_slice(&value.to_be_bytes());
                }
            }
            6 => {
                let from = random.below(blob.len()) & !3;
                if from + 4 <= blob.len() && word + 4 <= blob.len() {
                    blob.copy_within(from..from + 4, word);
                }
            }
            _ if random.below(16) == 0 => blob.truncate(random.below(blob.len()).max(1)),
            _ => blob[at] = blob[at].wrapping_add(1),
        }
    }
}

/// One to four changes to the properties of a tree that stays well-formed: these get past the
/// format.
fn mutate_values(random: &mut Random, tree: &mut Node) {
    for _ in 0..=random.below(4) {
        let mut node = &mut *tree;
        while !node.children.is_empty() && random.below(4) != 0 {
            let child = random.below(node.children.len());
            node = &mut node.children[child];
        }
        if random.below(16) == 0 {
            let copy = node.clone();
            node.children.push(copy);
        }
        if node.properties.is_empty() {
            continue;
        }
        let property = random.below(node.properties.len());
        match random.below(8) {
            0 => drop(node.properties.remove(property)),
            1 => {
                // A value under another name.
                let other = random.below(node.properties.len());
                node.properties[property].1 = node.properties[other].1.clone();
            }
            2 => {
                let value = &mut node.properties[property].1;
                value.resize(random.below(value.len() + 9), 0xff);
            }
            _ => {
                let value = &mut node.properties[property].1;
                if !value.is_empty() {
                    mutate(random, value);
                }
            }
        }
    }
}

/// What holds for any tree that was read.
fn check(description: &Description, random: &mut Random) {
    let topology = &description.topology;
    assert!(topology.iommus().len() <= MAX_IOMMUS);
    assert!(topology.ranges().len() <= MAX_PCI_RANGES);
    assert!(topology.platform().len() <= MAX_PLATFORM_ENDPOINTS);
    assert!(description.host_bridges.len() <= MAX_HOST_BRIDGES);
    assert!(description.warnings.len() <= MAX_WARNINGS);
    let segments = description.host_bridges.iter().map(|host| host.segment);
    for segment in segments {
        for _ in 0..8 {
            let id = RequesterId(random.next() as u16);
            if let Placement::Behind { iommu, .. } = topology.pci(segment, id) {
                assert!(iommu.0 < topology.iommus().len());
            }
        }
    }
    for endpoint in topology.platform() {
        assert!(endpoint.iommu.0 < topology.iommus().len());
    }
}

/// A walk behind a host bridge that only a mutation can have thought of.
fn walk_behind(description: &Description) {
    for host in &description.host_bridges {
        let mut model = Model::at_bus(host.buses.first());
        let iommu = model.device(ROOT, 1, 0, IOMMU);
        model.bar(iommu, 4, 0x4000, 0xc);
        let port = model.bridge(ROOT, 2, 0, Port::Root);
        let edu = model.device(port, 0, 0, EDU);
        model.bar(edu, 0, MIB, 0);
        let tree = walk(&mut model, host);
        assert_eq!(model.violations, Vec::<String>::new());
        assert!(tree.functions.len() >= 2);
    }
}

/// Reads a tree. A machine that did something else meanwhile is given a second chance.
fn timed(blob: &[u8]) -> (Result<Description, DeviceTreeError>, Duration) {
    let mut best = Duration::MAX;
    loop {
        let begin = Instant::now();
        let result = from_device_tree(blob);
        let slow = begin.elapsed();
        let first = best == Duration::MAX;
        best = best.min(slow);
        if best < LIMIT || !first {
            return (result, best);
        }
    }
}

#[test]
fn mutated_trees_are_read_or_refused() {
    let count = variable("TOPOLOGY_MUTATIONS", DEFAULT_MUTATIONS);
    let mut random = Random(variable("TOPOLOGY_SEED", 1));
    let hand_made = machine().blob();
    let seeds = [RISCV64_SLOT_1, AARCH64_ROOT_PORT, RISCV64_MMIO, &hand_made];
    let (mut read, mut warned, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    for round in 0..count {
        let blob = if round % 2 == 0 {
            let mut blob = seeds[random.below(seeds.len())].to_vec();
            mutate(&mut random, &mut blob);
            blob
        } else {
            let mut tree = machine();
            mutate_values(&mut random, &mut tree);
            tree.blob()
        };
        let (result, time) = timed(&blob);
        slowest = slowest.max(time);
        assert!(time < LIMIT, "round {round} took {time:?}");
        if let Ok(description) = result {
            read += 1;
            warned += u64::from(!description.warnings.is_empty());
            check(&description, &mut random);
            if round % 16 < 2 {
                walk_behind(&description);
            }
        }
    }
    println!("{count} trees: {read} read, {warned} with warnings, slowest {slowest:?}");
    // Otherwise the mutations would only test the header.
    assert!(read > count / 4 && warned > count / 8, "{read}, {warned}");
}

/// Shapes whose cost would grow faster than their size if anything here did.
#[test]
fn large_trees_take_linear_time() {
    let repeat = |node: Node, count: usize| {
        let mut parent = Node::new("p");
        parent.children = vec![node; count];
        parent
    };
    let siblings = repeat(Node::new("a").cells("phandle", &[1]), 60_000);
    // At the greatest depth, so that each level above has them to skip.
    let deep = (2..31).fold(siblings.clone(), |node, _| Node::new("d").child(node));
    let mut properties = Node::new("p");
    properties.properties = vec![("reg".into(), vec![0; 4]); 100_000];
    let mut platform = machine();
    let dma = platform.at(DMA).clone();
    platform.at(&["soc"]).children = vec![dma; 20_000];
    // Each address is looked for in all of these.
    platform.at(&["soc"]).set_cells("ranges", &[0xff; 60_000]);
    let mut tuples = machine();
    tuples
        .at(PCI)
        .set_cells("iommu-map", &[0, 1, 0, 1].repeat(100_000));
    let mut dangling = machine();
    dangling
        .at(PCI)
        .set_cells("iommu-map", &[0, 9, 0, 1].repeat(100_000));
    let root = |node| Node::new("").child(node);
    let shapes = [
        ("siblings", root(siblings)),
        ("deep", root(deep)),
        ("properties", root(properties)),
        ("platform", platform),
        ("tuples", tuples),
        ("dangling", dangling),
    ];
    for (name, tree) in shapes {
        let blob = tree.blob();
        let (result, time) = timed(&blob);
        println!("{name}: {} KiB in {time:?}", blob.len() >> 10);
        assert!(result.is_ok(), "{name}");
        assert!(time < Duration::from_secs(5), "{name} took {time:?}");
    }
}
