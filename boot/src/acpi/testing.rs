//! What the tests of this module share: memory that is made up, and that of a real machine.

use alloc::vec::Vec;

use virtio_iommu::PhysAddr;

use super::root::Tables;
use super::table::HEADER_LEN;
use super::{Memory, Signature, Table, sum};

/// Memory: stretches of bytes at physical addresses.
#[derive(Clone, Debug)]
pub struct FakeMemory<'m>(Vec<(u64, &'m [u8])>);

impl<'m> FakeMemory<'m> {
    pub fn new<const N: usize>(pieces: [(u64, &'m [u8]); N]) -> Self {
        Self(pieces.into())
    }
}

impl<'m> Memory<'m> for FakeMemory<'m> {
    fn read(&self, address: PhysAddr, len: u64) -> Option<&'m [u8]> {
        self.0.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(address.0.checked_sub(*start)?).ok()?;
            let end = offset.checked_add(usize::try_from(len).ok()?)?;
            bytes.get(offset..end)
        })
    }
}

/// Makes the bytes add up to 0, by the one at `offset`.
fn balance(bytes: &mut [u8], offset: usize) {
    bytes[offset] = bytes[offset].wrapping_sub(sum(bytes));
}

/// A table with a good length and sum.
pub fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(((HEADER_LEN + body.len()) as u32).to_le_bytes());
    bytes.resize(HEADER_LEN, 1);
    bytes.extend(body);
    balance(&mut bytes, 9);
    bytes
}

/// A root pointer with good sums.
pub fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0FAKED!".to_vec();
    bytes.push(revision);
    bytes.extend(rsdt.to_le_bytes());
    balance(&mut bytes, 8);
    if revision >= 2 {
        bytes.extend(36u32.to_le_bytes());
        bytes.extend(xsdt.to_le_bytes());
        bytes.resize(36, 0);
        balance(&mut bytes, 32);
    }
    bytes
}

/// The tables of a machine as they were in its memory.
pub struct Machine {
    pub rsdp: PhysAddr,
    pub pieces: [(u64, &'static [u8]); 2],
}

/// QEMU's q35 with SeaBIOS; see `tests/data/ACPI.md`.
pub const Q35: Machine = Machine {
    rsdp: PhysAddr(0xf_5240),
    pieces: [
        (0xf_5240, include_bytes!("../../../tests/data/q35-rsdp.bin")),
        (
            0x7fe_20fa,
            include_bytes!("../../../tests/data/q35-tables.bin"),
        ),
    ],
};

impl Machine {
    pub fn memory(&self) -> FakeMemory<'static> {
        FakeMemory::new(self.pieces)
    }

    pub fn table(&self, signature: Signature, shortest: usize) -> Table<'static> {
        let tables = Tables::new(self.memory(), self.rsdp).unwrap();
        tables.find(signature, shortest).unwrap().unwrap()
    }
}
