//! Mutated tables: whatever the bytes, an answer within a bounded time, and the same one that a
//! second reader gives.

use std::time::{Duration, Instant};

use virtio_iommu::PhysAddr;
use virtio_iommu::topology::viot::{Description, MAX_WARNINGS, from_viot};
use virtio_iommu::topology::{
    IommuIndex, IommuLocation, MAX_IOMMUS, MAX_PCI_RANGES, MAX_PLATFORM_ENDPOINTS, Placement,
    RequesterId, Segment,
};

use crate::naive::{self, Answer};
use crate::qemu_tables::{BRIDGES, BYPASS, PC, PXB, Q35, ROOT_PORT, SLOT_5};
use crate::random::{Random, variable};
use crate::writer::{Range, Table, plain, seal};

/// How many tables are read when nobody says otherwise.
const DEFAULT_MUTATIONS: u64 = 100_000;
/// What one table of a few hundred bytes may take; in truth it is some microseconds.
const LIMIT: Duration = Duration::from_secs(2);

/// All types of nodes, references both ways, several segments, an overlap, an unknown node.
fn everything() -> Vec<u8> {
    let mut table = Table::new();
    table.range(plain(0, 0xff, 72));
    assert_eq!(table.pci_iommu(0, 8), 72);
    let mmio = table.mmio_iommu(0x1000_0000);
    table.range(Range {
        endpoint: 0x10_0000,
        segments: (0, 3),
        requesters: (0x80, 0x1ff),
        output: mmio,
    });
    table.mmio_endpoint(0x77, 0x2000_0000, 72);
    table.node(9, &[1, 2, 3]);
    table.mmio_endpoint(0x78, 0x2000_0000, mmio);
    table.pci_iommu(3, 0x108);
    table.range(plain(0x100, 0xffff, mmio));
    table.finish()
}

/// One to four changes: a byte, a bit, a 16-bit word of interest or from elsewhere, a node moved
/// over another one, or another length.
fn mutate(random: &mut Random, table: &mut Vec<u8>) {
    const WORDS: [u16; 16] = [
        0, 1, 3, 4, 15, 16, 23, 24, 47, 48, 64, 72, 0xff, 0x7fff, 0x8000, 0xffff,
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(table.len());
        let word = (at & !1).min(table.len() - 2);
        match random.below(10) {
            0 | 1 => table[at] = random.next() as u8,
            2 | 3 => table[at] ^= 1 << random.below(8),
            4 | 5 => {
                let value = WORDS[random.below(WORDS.len())].to_le_bytes();
                table[word..word + 2].copy_from_slice(&value);
            }
            6 => {
                let from = random.below(table.len() - 1);
                table.copy_within(from..from + 2, word);
            }
            7 => {
                let length = random.below(33).min(table.len() - at);
                let from = random.below(table.len() - length + 1);
                table.copy_within(from..from + length, at);
            }
            8 => {
                // The header learns of it, or it does not.
                let length = 48 + random.below(table.len());
                table.resize(length, random.next() as u8);
                if random.below(2) == 0 {
                    table[4..8].copy_from_slice(&(length as u32).to_le_bytes());
                }
            }
            _ => {
                // The fields of the header, which are small among so many bytes.
                let field = [4, 36, 38][random.below(3)];
                table[field] = table[field]
                    .wrapping_add(random.below(5) as u8)
                    .wrapping_sub(2);
            }
        }
        // A table is never so short that a change has no place, nor does it grow for ever.
        if table.len() < 48 || table.len() > 1024 {
            table.resize(256, 0);
        }
    }
}

/// The location of an IOMMU in the words of the second reader.
fn place(location: &IommuLocation) -> (u8, u64) {
    match location {
        IommuLocation::Pci(address) => {
            let (segment, function) = (address.segment.0, address.function.0);
            (3, u64::from(function) << 16 | u64::from(segment))
        }
        IommuLocation::Mmio { base, size } => {
            assert_eq!(*size, None);
            (4, base.0)
        }
    }
}

fn compare(random: &mut Random, table: &[u8], description: &Description) {
    let topology = &description.topology;
    assert!(topology.iommus().len() <= MAX_IOMMUS);
    assert!(topology.ranges().len() <= MAX_PCI_RANGES);
    assert!(topology.platform().len() <= MAX_PLATFORM_ENDPOINTS);
    assert!(description.warnings.len() <= MAX_WARNINGS);
    let answer = |iommu: IommuIndex, endpoint: u32| -> Answer {
        let (kind, place) = place(&topology.iommus()[iommu.0]);
        (kind, place, endpoint)
    };
    // The ids of interest: the ends of the ranges and their neighbours, IOMMUs, anything.
    let mut ids = vec![
        (random.next() as u16, random.next() as u16),
        (0, 8),
        (0, 0x90),
    ];
    for range in topology.ranges() {
        let segment = range.segment().0;
        for edge in [range.first().0, range.last().0] {
            ids.extend([-1, 0, 1].map(|step| (segment, edge.wrapping_add_signed(step))));
            ids.push((segment.wrapping_add(1 + random.below(3) as u16), edge));
        }
    }
    for iommu in topology.iommus() {
        if let IommuLocation::Pci(address) = iommu {
            ids.push((address.segment.0, address.function.0));
        }
    }
    for (segment, requester) in ids {
        let placement = topology.pci(Segment(segment), RequesterId(requester));
        let found = match placement {
            Placement::Behind { iommu, endpoint } => Some(answer(iommu, endpoint.0)),
            Placement::NotBehind => None,
        };
        let expected = naive::pci(table, segment, requester);
        assert_eq!(found, expected, "{segment:#x}:{requester:#x}");
    }
    let mut bases: Vec<u64> = topology
        .platform()
        .iter()
        .filter_map(|endpoint| endpoint.base)
        .map(|base| base.0)
        .collect();
    bases.push(0x2000_0000);
    for base in bases {
        let found: Vec<_> = topology
            .platform_at(PhysAddr(base))
            .map(|endpoint| answer(endpoint.iommu, endpoint.endpoint.0))
            .collect();
        assert_eq!(found, naive::mmio(table, base), "{base:#x}");
    }
}

#[test]
fn mutated_tables_are_read_as_a_second_reader_reads_them() {
    let everything = everything();
    let originals: [&[u8]; 8] = [
        &everything,
        Q35,
        PC,
        SLOT_5,
        ROOT_PORT,
        BYPASS,
        PXB,
        BRIDGES,
    ];
    let seed = variable("VIOT_SEED", 1);
    let budget = variable("VIOT_MUTATIONS", DEFAULT_MUTATIONS);
    let (mut read, mut behind, mut warned) = (0_u64, 0_u64, 0_u64);
    for number in 0..budget {
        let mut random = Random(
            seed.wrapping_add(number)
                .wrapping_mul(0x5851_f42d_4c95_7f2d),
        );
        // The richest one half of the time.
        let original = originals[random.below(16).saturating_sub(8)];
        let mut table = original.to_vec();
        mutate(&mut random, &mut table);
        if random.below(8) != 0 {
            seal(&mut table);
        }
        let begin = Instant::now();
        let result = std::panic::catch_unwind(|| from_viot(&table));
        let Ok(result) = result else {
            panic!("number {number}, seed {seed}: a panic on {table:02x?}");
        };
        assert!(
            begin.elapsed() < LIMIT,
            "number {number}, seed {seed}: {table:02x?}"
        );
        assert_eq!(
            result.is_ok(),
            naive::nodes(&table).is_some(),
            "number {number}, seed {seed}: {result:?} of {table:02x?}"
        );
        if let Ok(description) = result {
            read += 1;
            behind += u64::from(!description.topology.ranges().is_empty());
            warned += u64::from(!description.warnings.is_empty());
            let compared = std::panic::catch_unwind(move || {
                compare(&mut random, &table, &description);
            });
            assert!(compared.is_ok(), "number {number}, seed {seed}");
        }
    }
    println!("{budget} tables: {read} read, {behind} with ranges, {warned} with warnings");
    // Mutations that break every table, or none, would test nothing.
    if budget >= 1000 {
        assert!(read > budget / 8 && read < budget, "{read} of {budget}");
        assert!(behind > budget / 16 && warned > budget / 16);
    }
}
