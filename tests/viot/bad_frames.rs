//! Tables that break their own frame: a typed error, and never a part of a topology.

use std::time::{Duration, Instant};

use virtio_iommu::topology::viot::{ViotError, WarningKind, from_viot};

use crate::qemu_tables::{BRIDGES, PXB, Q35};
use crate::writer::{Table, plain, seal};

/// A field of 16 bits, and a checksum that agrees with it.
fn with_word(table: &[u8], at: usize, word: u16) -> Vec<u8> {
    let mut table = table.to_vec();
    table[at..at + 2].copy_from_slice(&word.to_le_bytes());
    seal(&mut table);
    table
}

const NODE_COUNT: usize = 36;
const NODE_OFFSET: usize = 38;

#[test]
fn another_table_is_told_by_its_signature() {
    let mut other = Q35.to_vec();
    other[..4].copy_from_slice(b"MCFG");
    seal(&mut other);
    assert_eq!(from_viot(&other), Err(ViotError::Signature(*b"MCFG")));
    // Even if it is shorter than any VIOT.
    assert_eq!(
        from_viot(b"WAET\x28\0\0\0"),
        Err(ViotError::Signature(*b"WAET"))
    );
}

#[test]
fn a_slice_that_ends_early_is_truncated() {
    for table in [Q35, PXB] {
        for available in 0..table.len() {
            let needed = if available < 48 { 48 } else { table.len() };
            let expected = ViotError::Truncated { needed, available };
            assert_eq!(from_viot(&table[..available]), Err(expected));
        }
    }
}

#[test]
fn a_length_beyond_the_slice_is_truncated() {
    for length in [89_u32, 0x1_0058, u32::MAX] {
        let mut table = Q35.to_vec();
        table[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut table);
        let (needed, available) = (length as usize, 88);
        assert_eq!(
            from_viot(&table),
            Err(ViotError::Truncated { needed, available })
        );
    }
}

#[test]
fn a_length_less_than_the_header_is_no_length() {
    for length in [0_u32, 1, 36, 47] {
        let mut table = Q35.to_vec();
        table[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut table);
        assert_eq!(from_viot(&table), Err(ViotError::Length(length)));
    }
}

#[test]
fn a_shorter_length_cuts_the_nodes() {
    for length in 48..88_u32 {
        let mut table = Q35.to_vec();
        table[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut table);
        let expected = match length {
            48..52 => ViotError::MissingNode { offset: 48 },
            52..64 => ViotError::NodeLength {
                offset: 48,
                length: 16,
            },
            64..68 => ViotError::MissingNode { offset: 64 },
            _ => ViotError::NodeLength {
                offset: 64,
                length: 24,
            },
        };
        assert_eq!(from_viot(&table), Err(expected), "{length}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for table in [Q35, PXB, BRIDGES] {
        for bit in 0..table.len() * 8 {
            let mut table = table.to_vec();
            table[bit / 8] ^= 1 << (bit % 8);
            assert!(from_viot(&table).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_wrong_checksum_says_by_how_much() {
    let mut table = Q35.to_vec();
    table[9] = table[9].wrapping_add(5);
    assert_eq!(from_viot(&table), Err(ViotError::Checksum(5)));
}

#[test]
fn nodes_do_not_begin_inside_of_the_header() {
    for offset in [0, 1, 36, 47] {
        let table = with_word(Q35, NODE_OFFSET, offset);
        assert_eq!(from_viot(&table), Err(ViotError::NodeOffset(offset)));
    }
}

#[test]
fn nodes_do_not_begin_behind_the_table() {
    for offset in [85, 88, 89, u16::MAX] {
        let table = with_word(Q35, NODE_OFFSET, offset);
        let offset = offset.into();
        assert_eq!(from_viot(&table), Err(ViotError::MissingNode { offset }));
    }
}

#[test]
fn fewer_nodes_than_promised_are_missed() {
    for count in [3, 4, u16::MAX] {
        let table = with_word(Q35, NODE_COUNT, count);
        assert_eq!(
            from_viot(&table),
            Err(ViotError::MissingNode { offset: 88 })
        );
    }
}

#[test]
fn more_bytes_than_promised_are_left_unread() {
    let description = from_viot(&with_word(Q35, NODE_COUNT, 1)).unwrap();
    assert_eq!(description.topology.iommus().len(), 1);
    assert_eq!(description.topology.ranges(), []);
    let [warning] = description.warnings[..] else {
        panic!("{:?}", description.warnings)
    };
    assert_eq!(
        (warning.offset, warning.kind),
        (64, WarningKind::UnreadBytes(24))
    );
}

#[test]
fn a_node_without_a_length_is_not_visited_for_ever() {
    for length in 0..4 {
        let mut table = Table::new();
        let iommu = table.pci_iommu(0, 8);
        let offset = table.node_of_length(1, length, &[]);
        table.range(plain(0, 0xff, iommu));
        table.nodes = u16::MAX;
        let offset = offset.into();
        let expected = ViotError::NodeLength { offset, length };
        assert_eq!(from_viot(&table.finish()), Err(expected));
    }
}

#[test]
fn a_node_does_not_end_behind_the_table() {
    for length in [25, 26, 1000, u16::MAX] {
        let mut table = Table::new();
        table.pci_iommu(0, 8);
        // 24 bytes are there.
        let offset = table.node_of_length(1, length, &[0; 20]).into();
        let expected = ViotError::NodeLength { offset, length };
        assert_eq!(from_viot(&table.finish()), Err(expected));
    }
}

#[test]
fn the_largest_table_is_read_in_a_moment() {
    // As many nodes as can be counted, each a range that is worth a warning.
    let mut table = Table::new();
    let iommu = table.pci_iommu(0, 8);
    while table.nodes < u16::MAX {
        table.range(plain(0, 0xffff, iommu));
    }
    let table = table.finish();
    let begin = Instant::now();
    let description = from_viot(&table).unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(description.topology.ranges().len(), 1024);
    assert_eq!(description.warnings.len(), 64);
    // All but the first are warned of: the IOMMU and the first range are not.
    assert_eq!(description.warnings_omitted, usize::from(u16::MAX) - 2 - 64);
}

#[test]
fn errors_and_warnings_say_what_is_wrong() {
    let error = from_viot(b"\0AB\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        r"the signature is not VIOT, but \x00AB\n"
    );
    let error = from_viot(&Q35[..50]).unwrap_err();
    assert_eq!(error.to_string(), "50 bytes of 88 are there");
    let description = from_viot(&with_word(Q35, NODE_COUNT, 1)).unwrap();
    let warning = description.warnings[0].to_string();
    assert_eq!(warning, "at 0x40: 24 bytes belong to no node");
}
