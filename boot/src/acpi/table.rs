//! One table: a header with a name, a length and a checksum, and what comes behind it.

use virtio_iommu::PhysAddr;

use super::{AcpiError, Memory, Signature, field, sum};

/// The length of the header that all tables have.
pub const HEADER_LEN: usize = 36;
/// No table is longer; most of the long ones are byte code.
const MAX_LEN: u32 = 1 << 20;

/// The name of the table at an address; nothing else of it is checked.
pub fn signature<'m>(memory: &impl Memory<'m>, address: PhysAddr) -> Result<Signature, AcpiError> {
    let header = memory.read(address, HEADER_LEN as u64);
    header
        .and_then(|header| field::array(header, 0))
        .map(Signature)
        .ok_or(AcpiError::Unreadable(address))
}

/// A table with a good checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'m> {
    signature: Signature,
    bytes: &'m [u8],
}

impl<'m> Table<'m> {
    /// Reads the table `wanted` at an address, at least `shortest` bytes long, header included.
    ///
    /// # Errors
    ///
    /// [`AcpiError`]: it cannot be read, is another table, has an absurd length, or a bad checksum.
    pub fn read(
        memory: &impl Memory<'m>,
        address: PhysAddr,
        wanted: Signature,
        shortest: usize,
    ) -> Result<Self, AcpiError> {
        let found = signature(memory, address)?;
        if found != wanted {
            return Err(AcpiError::NotTheTable { wanted, found });
        }
        let header = memory.read(address, HEADER_LEN as u64);
        let len = header
            .and_then(|header| field::u32(header, 4))
            .ok_or(AcpiError::Unreadable(address))?;
        if len > MAX_LEN || (len as usize) < shortest.max(HEADER_LEN) {
            return Err(AcpiError::Length(wanted, len));
        }
        let bytes = memory
            .read(address, u64::from(len))
            .ok_or(AcpiError::Unreadable(address))?;
        if sum(bytes) != 0 {
            return Err(AcpiError::Checksum(wanted));
        }
        Ok(Self {
            signature: wanted,
            bytes,
        })
    }

    /// All of it, the header included.
    pub fn bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// That its length cannot be right, for whoever looks closer.
    pub(super) fn bad_length(&self) -> AcpiError {
        AcpiError::Length(self.signature, self.bytes.len() as u32)
    }

    /// That the entry at `offset` makes no sense.
    pub(super) fn bad_entry(&self, offset: usize) -> AcpiError {
        AcpiError::Entry {
            table: self.signature,
            offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeMemory, table};
    use super::*;

    const AT: PhysAddr = PhysAddr(0x1000);
    const NAME: Signature = Signature(*b"TEST");

    fn read(bytes: &[u8]) -> Result<&[u8], AcpiError> {
        let memory = FakeMemory::new([(AT.0, bytes)]);
        Table::read(&memory, AT, NAME, HEADER_LEN).map(|table| table.bytes())
    }

    #[test]
    fn a_table_is_as_long_as_it_says() {
        let good = table(b"TEST", &[1, 2, 3]);
        assert_eq!(read(&good), Ok(&good[..]));
        let mut longer = good.clone();
        longer.push(99);
        assert_eq!(read(&longer), Ok(&good[..]));
    }

    #[test]
    fn no_change_of_a_byte_goes_unnoticed() {
        let good = table(b"TEST", &[1, 2, 3]);
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x10;
            let error = read(&bad).unwrap_err();
            match index {
                0..4 => assert!(matches!(error, AcpiError::NotTheTable { .. }), "{index}"),
                // 0x37, or absurd.
                4 => assert_eq!(error, AcpiError::Unreadable(AT)),
                5 => assert_eq!(error, AcpiError::Unreadable(AT)),
                6 | 7 => assert!(matches!(error, AcpiError::Length(NAME, _)), "{index}"),
                _ => assert_eq!(error, AcpiError::Checksum(NAME), "{index}"),
            }
        }
    }

    #[test]
    fn a_table_ends_with_the_memory() {
        let good = table(b"TEST", &[1, 2, 3]);
        for len in 0..good.len() {
            assert_eq!(read(&good[..len]), Err(AcpiError::Unreadable(AT)), "{len}");
        }
        let memory = FakeMemory::new([(AT.0, &good[..])]);
        for wrong in [0, AT.0 - 1, AT.0 + 1000, u64::MAX] {
            let wrong = PhysAddr(wrong);
            let error = Table::read(&memory, wrong, NAME, HEADER_LEN).unwrap_err();
            assert_eq!(error, AcpiError::Unreadable(wrong));
        }
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for len in [0, 1, 35, MAX_LEN + 1, u32::MAX] {
            let mut bad = table(b"TEST", &[1, 2, 3]);
            bad[4..8].copy_from_slice(&len.to_le_bytes());
            assert_eq!(read(&bad), Err(AcpiError::Length(NAME, len)));
        }
        let short = table(b"TEST", &[]);
        let memory = FakeMemory::new([(AT.0, &short[..])]);
        let error = Table::read(&memory, AT, NAME, HEADER_LEN + 1).unwrap_err();
        assert_eq!(error, AcpiError::Length(NAME, HEADER_LEN as u32));
    }
}
