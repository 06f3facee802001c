//! MCFG: where configuration space is in memory (ECAM). PCI Firmware Specification 3.3, §4.1.2.

use virtio_iommu::topology::{BusRange, Segment};
use virtio_iommu::{PhysAddr, PhysRange};

use super::{AcpiError, Table, field};

/// The length of a table without entries: behind the header are 8 reserved bytes.
pub const SHORTEST: usize = 44;
const ENTRY_LEN: usize = 16;

/// The configuration space of some buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Their segment.
    pub segment: Segment,
    /// The buses.
    pub buses: BusRange,
    /// Their configuration space: 1 MiB each, and the first byte belongs to the first of them.
    /// (The table itself counts from bus 0.)
    pub ecam: PhysRange,
}

/// The entries of the table, in order; of those that make no sense, the error.
///
/// # Errors
///
/// [`AcpiError::Length`] if the table ends within an entry.
pub fn allocations<'m>(
    table: &Table<'m>,
) -> Result<impl Iterator<Item = Result<Allocation, AcpiError>> + use<'m>, AcpiError> {
    let table = *table;
    let entries = table.bytes().get(SHORTEST..).ok_or(table.bad_length())?;
    if !entries.len().is_multiple_of(ENTRY_LEN) {
        return Err(table.bad_length());
    }
    let entries = entries.chunks_exact(ENTRY_LEN).enumerate();
    Ok(entries.map(move |(index, entry)| {
        allocation(entry).ok_or_else(|| table.bad_entry(SHORTEST + index * ENTRY_LEN))
    }))
}

fn allocation(entry: &[u8]) -> Option<Allocation> {
    let base = field::u64(entry, 0)?;
    let segment = Segment(field::u16(entry, 8)?);
    let buses = BusRange::new(field::u8(entry, 10)?, field::u8(entry, 11)?)?;
    let first = base.checked_add(u64::from(buses.first()) << 20)?;
    let count = u64::from(buses.last() - buses.first()) + 1;
    Some(Allocation {
        segment,
        buses,
        ecam: PhysRange::from_len(PhysAddr(first), count << 20)?,
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::Signature;
    use super::super::testing::{FakeMemory, Q35, table};
    use super::*;

    fn entry(base: u64, segment: u16, first: u8, last: u8) -> Vec<u8> {
        let mut entry = base.to_le_bytes().to_vec();
        entry.extend(segment.to_le_bytes());
        entry.extend([first, last, 0, 0, 0, 0]);
        entry
    }

    fn read(body: &[u8]) -> Result<Vec<Result<Allocation, AcpiError>>, AcpiError> {
        let bytes = table(b"MCFG", body);
        let memory = FakeMemory::new([(0x1000, &bytes[..])]);
        let table = Table::read(&memory, PhysAddr(0x1000), Signature::MCFG, SHORTEST)?;
        Ok(allocations(&table)?.collect())
    }

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    #[test]
    fn the_base_counts_from_bus_0() {
        let mut body = [0; 8].to_vec();
        body.extend(entry(0xe000_0000, 3, 0x10, 0x1f));
        let expected = Allocation {
            segment: Segment(3),
            buses: BusRange::new(0x10, 0x1f).unwrap(),
            ecam: range(0xe100_0000, 0xe1ff_ffff),
        };
        assert_eq!(read(&body), Ok([Ok(expected)].to_vec()));
    }

    #[test]
    fn a_bad_entry_does_not_spoil_the_next() {
        let mut body = [0; 8].to_vec();
        body.extend(entry(0, 0, 1, 0));
        body.extend(entry(u64::MAX - 0xf_ffff, 0, 0, 1));
        body.extend(entry(u64::MAX - 0xf_ffff, 0, 0, 0));
        body.extend(entry(u64::MAX, 0, 255, 255));
        let bad = |offset| AcpiError::Entry {
            table: Signature::MCFG,
            offset,
        };
        let read = read(&body).unwrap();
        assert_eq!(read[0], Err(bad(44)));
        assert_eq!(read[1], Err(bad(60)));
        assert_eq!(
            read[2].map(|allocation| allocation.ecam),
            Ok(range(u64::MAX - 0xf_ffff, u64::MAX))
        );
        assert_eq!(read[3], Err(bad(92)));
    }

    #[test]
    fn a_table_that_ends_within_an_entry_is_an_error() {
        let mut body = [0; 8].to_vec();
        assert_eq!(read(&body), Ok(Vec::new()));
        body.extend(&entry(0, 0, 0, 0)[..15]);
        assert_eq!(read(&body), Err(AcpiError::Length(Signature::MCFG, 59)));
        assert_eq!(read(&[0; 7]), Err(AcpiError::Length(Signature::MCFG, 43)));
    }

    #[test]
    fn the_ecam_of_qemu_is_found() {
        let table = Q35.table(Signature::MCFG, SHORTEST);
        let expected = Allocation {
            segment: Segment(0),
            buses: BusRange::ALL,
            ecam: range(0xb000_0000, 0xbfff_ffff),
        };
        let all: Vec<_> = allocations(&table).unwrap().collect();
        assert_eq!(all, [Ok(expected)]);
    }
}
