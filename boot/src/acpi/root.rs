//! From the root pointer to any table: RSDP, then RSDT or XSDT.

use virtio_iommu::PhysAddr;

use super::table::{self, HEADER_LEN};
use super::{AcpiError, Memory, Signature, Table, field, sum};

/// The root pointer of ACPI 1.0, and the part of all others that has a checksum of its own.
const RSDP_LEN: usize = 20;
/// The root pointer since ACPI 2.0.
const RSDP_2_LEN: usize = 36;
/// More tables than any machine has; those beyond are not looked at.
pub const MAX_TABLES: usize = 256;

/// All tables of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'m, M> {
    memory: M,
    root: Table<'m>,
    /// Of an address in the root table, in bytes: 4 or 8.
    width: usize,
}

impl<'m, M: Memory<'m>> Tables<'m, M> {
    /// Follows the root pointer at `rsdp`.
    ///
    /// # Errors
    ///
    /// [`AcpiError`] if it, or the table that it leads to, is not what it should be.
    pub fn new(memory: M, rsdp: PhysAddr) -> Result<Self, AcpiError> {
        let (address, signature, width) = root_pointer(&memory, rsdp)?;
        let root = Table::read(&memory, address, signature, HEADER_LEN)?;
        if !(root.bytes().len() - HEADER_LEN).is_multiple_of(width) {
            return Err(root.bad_length());
        }
        Ok(Self {
            memory,
            root,
            width,
        })
    }

    /// The addresses in the root table.
    fn addresses(&self) -> impl Iterator<Item = PhysAddr> + use<'m, M> {
        let entries = self.root.bytes().get(HEADER_LEN..).unwrap_or_default();
        entries
            .chunks_exact(self.width)
            .take(MAX_TABLES)
            .map(|entry| {
                // 4 or 8 bytes, the least significant first.
                let address = entry
                    .iter()
                    .rfold(0, |value, byte| value << 8 | u64::from(*byte));
                PhysAddr(address)
            })
    }

    /// The names of all tables; entries that lead nowhere are left out.
    pub fn signatures(&self) -> impl Iterator<Item = Signature> {
        let addresses = self.addresses();
        addresses.filter_map(|address| table::signature(&self.memory, address).ok())
    }

    /// The first table with a name, at least `shortest` bytes long; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`AcpiError`] if it is there and cannot be believed.
    pub fn find(&self, wanted: Signature, shortest: usize) -> Result<Option<Table<'m>>, AcpiError> {
        let found = self
            .addresses()
            .find(|address| table::signature(&self.memory, *address) == Ok(wanted));
        found
            .map(|address| Table::read(&self.memory, address, wanted, shortest))
            .transpose()
    }
}

/// Where the root table is, what it is called, and how wide its entries are.
fn root_pointer<'m>(
    memory: &impl Memory<'m>,
    rsdp: PhysAddr,
) -> Result<(PhysAddr, Signature, usize), AcpiError> {
    let unreadable = AcpiError::Unreadable(rsdp);
    let bytes = memory.read(rsdp, RSDP_LEN as u64).ok_or(unreadable)?;
    if !bytes.starts_with(b"RSD PTR ") {
        return Err(AcpiError::NoRootPointer(rsdp));
    }
    if sum(bytes) != 0 {
        return Err(AcpiError::RootPointerChecksum(rsdp));
    }
    let revision = field::u8(bytes, 15).ok_or(unreadable)?;
    if revision >= 2 {
        let bytes = memory.read(rsdp, RSDP_2_LEN as u64).ok_or(unreadable)?;
        // The length at offset 20 is left alone: what is read here is in all versions.
        if sum(bytes) != 0 {
            return Err(AcpiError::RootPointerChecksum(rsdp));
        }
        let xsdt = field::u64(bytes, 24).ok_or(unreadable)?;
        if xsdt != 0 {
            return Ok((PhysAddr(xsdt), Signature::XSDT, 8));
        }
    }
    let rsdt = field::u32(bytes, 16).ok_or(unreadable)?;
    Ok((PhysAddr(rsdt.into()), Signature::RSDT, 4))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::testing::{FakeMemory, Q35, rsdp, table};
    use super::*;

    const RSDP: PhysAddr = PhysAddr(0x100);
    const ROOT: u64 = 0x200;

    fn names<'m>(memory: FakeMemory<'m>) -> Result<Vec<Signature>, AcpiError> {
        Ok(Tables::new(memory, RSDP)?.signatures().collect())
    }

    #[test]
    fn a_root_table_of_32_bits_is_followed() {
        let pointer = rsdp(0, ROOT as u32, 0);
        let a = table(b"AAAA", &[]);
        let b = table(b"BBBB", &[7]);
        let entries: Vec<u8> = [0x1000u32, 0x2000]
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        let root = table(b"RSDT", &entries);
        let memory = FakeMemory::new([
            (RSDP.0, &pointer[..]),
            (ROOT, &root),
            (0x1000, &a),
            (0x2000, &b),
        ]);
        let tables = Tables::new(memory, RSDP).unwrap();
        let find = |name: &[u8; 4]| tables.find(Signature(*name), HEADER_LEN);
        assert_eq!(find(b"BBBB").unwrap().unwrap().bytes(), b);
        assert_eq!(find(b"AAAA").unwrap().unwrap().bytes(), a);
        assert_eq!(find(b"CCCC"), Ok(None));
        assert_eq!(
            tables.find(Signature(*b"BBBB"), 38),
            Err(AcpiError::Length(Signature(*b"BBBB"), 37))
        );
    }

    #[test]
    fn a_root_table_of_64_bits_wins() {
        const HIGH: u64 = 0x12_3456_7000;
        let pointer = rsdp(2, 0x300, ROOT);
        let a = table(b"AAAA", &[]);
        let root = table(b"XSDT", &HIGH.to_le_bytes());
        let memory = FakeMemory::new([(RSDP.0, &pointer[..]), (ROOT, &root), (HIGH, &a)]);
        assert_eq!(names(memory), Ok([Signature(*b"AAAA")].to_vec()));
    }

    #[test]
    fn without_a_wide_root_table_the_narrow_one_is_used() {
        let pointer = rsdp(2, ROOT as u32, 0);
        let root = table(b"RSDT", &[]);
        let memory = FakeMemory::new([(RSDP.0, &pointer[..]), (ROOT, &root)]);
        assert_eq!(names(memory), Ok(Vec::new()));
    }

    #[test]
    fn a_bad_root_pointer_is_an_error() {
        let root = table(b"XSDT", &[]);
        for good in [rsdp(0, ROOT as u32, 0), rsdp(2, 0, ROOT)] {
            for index in 0..good.len() {
                let mut bad = good.clone();
                bad[index] ^= 0x40;
                let memory = FakeMemory::new([(RSDP.0, &bad[..]), (ROOT, &root)]);
                let error = names(memory).unwrap_err();
                match index {
                    0..8 => assert_eq!(error, AcpiError::NoRootPointer(RSDP)),
                    _ => assert_eq!(error, AcpiError::RootPointerChecksum(RSDP), "{index}"),
                }
            }
            for len in 0..good.len() {
                let memory = FakeMemory::new([(RSDP.0, &good[..len]), (ROOT, &root)]);
                assert_eq!(names(memory), Err(AcpiError::Unreadable(RSDP)));
            }
        }
    }

    #[test]
    fn a_root_table_that_ends_within_an_entry_is_an_error() {
        let pointer = rsdp(2, 0, ROOT);
        let root = table(b"XSDT", &[0; 12]);
        let memory = FakeMemory::new([(RSDP.0, &pointer[..]), (ROOT, &root)]);
        assert_eq!(names(memory), Err(AcpiError::Length(Signature::XSDT, 48)));
    }

    #[test]
    fn the_wrong_kind_of_root_table_is_an_error() {
        let pointer = rsdp(0, ROOT as u32, 0);
        let root = table(b"XSDT", &[]);
        let memory = FakeMemory::new([(RSDP.0, &pointer[..]), (ROOT, &root)]);
        let error = AcpiError::NotTheTable {
            wanted: Signature::RSDT,
            found: Signature::XSDT,
        };
        assert_eq!(names(memory), Err(error));
    }

    #[test]
    fn entries_that_lead_nowhere_are_passed_over() {
        // Nowhere, to itself, to the end of the address space, and to a table.
        let a = table(b"AAAA", &[]);
        let entries: Vec<u8> = [0, ROOT, u64::MAX, 0x1000]
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        let pointer = rsdp(2, 0, ROOT);
        let root = table(b"XSDT", &entries);
        let memory = FakeMemory::new([(RSDP.0, &pointer[..]), (ROOT, &root), (0x1000, &a)]);
        let expected = [Signature::XSDT, Signature(*b"AAAA")].to_vec();
        assert_eq!(names(memory), Ok(expected));
    }

    #[test]
    fn a_table_with_a_bad_sum_is_found_and_refused() {
        let mut a = table(b"AAAA", &[1]);
        a[36] = 2;
        let pointer = rsdp(2, 0, ROOT);
        let root = table(b"XSDT", &0x1000u64.to_le_bytes());
        let memory = FakeMemory::new([(RSDP.0, &pointer[..]), (ROOT, &root), (0x1000, &a)]);
        let tables = Tables::new(memory, RSDP).unwrap();
        let name = Signature(*b"AAAA");
        assert_eq!(tables.find(name, 0), Err(AcpiError::Checksum(name)));
    }

    #[test]
    fn the_number_of_tables_has_a_bound() {
        let a = table(b"AAAA", &[]);
        let b = table(b"BBBB", &[]);
        let mut entries = 0x1000u32.to_le_bytes().repeat(MAX_TABLES);
        entries.extend(0x2000u32.to_le_bytes());
        let pointer = rsdp(0, ROOT as u32, 0);
        let root = table(b"RSDT", &entries);
        let memory = FakeMemory::new([
            (RSDP.0, &pointer[..]),
            (ROOT, &root),
            (0x1000, &a),
            (0x2000, &b),
        ]);
        let tables = Tables::new(memory, RSDP).unwrap();
        assert_eq!(tables.signatures().count(), MAX_TABLES);
        assert_eq!(tables.find(Signature(*b"BBBB"), 0), Ok(None));
    }

    #[test]
    fn the_tables_of_qemu_are_found() {
        let tables = Tables::new(Q35.memory(), Q35.rsdp).unwrap();
        let names: Vec<[u8; 4]> = tables.signatures().map(|name| name.0).collect();
        let expected = [b"FACP", b"APIC", b"HPET", b"MCFG", b"VIOT", b"WAET"];
        assert_eq!(names, expected.map(|name| *name));
        for name in names {
            let table = tables.find(Signature(name), HEADER_LEN).unwrap().unwrap();
            assert_eq!(table.bytes()[..4], name);
        }
    }
}
