//! ACPI tables: where they are, and the few things that this kernel wants from them.
//!
//! | module | idea |
//! |---|---|
//! | [`table`] | one table: header, length, checksum |
//! | [`root`] | the way from the RSDP to the others |
//! | [`fadt`] | fixed hardware: the PM timer |
//! | [`madt`] | interrupt controllers |
//! | [`mcfg`] | configuration space of PCI (ECAM) |
//! | [`window`] | addresses that nobody has |
//!
//! Nothing here believes a table: every length is compared with the memory that can be read, every
//! sum is checked, every loop has a bound, and what is wrong is an [`AcpiError`]. All of it works
//! over byte slices, without unsafe code; whoever calls says by [`Memory`] what can be read. Who is
//! behind which IOMMU (VIOT) is read by the driver crate, from the bytes of the table.
//!
//! The `acpi` crate is not used: it maps memory by a function that cannot fail, takes the length in
//! a header as it comes, and has no way to name a VIOT.

#![forbid(unsafe_code)]

pub mod fadt;
pub mod madt;
pub mod mcfg;
pub mod root;
pub mod table;
pub mod window;

use core::fmt;

use virtio_iommu::PhysAddr;

pub use table::Table;

/// What a table is called: four letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 4]);

impl Signature {
    /// The root table with addresses of 32 bits.
    pub const RSDT: Self = Self(*b"RSDT");
    /// The root table with addresses of 64 bits.
    pub const XSDT: Self = Self(*b"XSDT");
    /// Fixed hardware.
    pub const FADT: Self = Self(*b"FACP");
    /// Interrupt controllers.
    pub const MADT: Self = Self(*b"APIC");
    /// Configuration space of PCI.
    pub const MCFG: Self = Self(*b"MCFG");
    /// Who is behind which virtio-iommu.
    pub const VIOT: Self = Self(*b"VIOT");
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Physical memory, as far as tables may be read from it.
pub trait Memory<'m> {
    /// Exactly `len` bytes at an address, or `None` if not all of them can be read.
    fn read(&self, address: PhysAddr, len: u64) -> Option<&'m [u8]>;
}

/// Why a table is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// There is no memory where a table should be.
    Unreadable(PhysAddr),
    /// There is no root pointer (RSDP) at this address.
    NoRootPointer(PhysAddr),
    /// The bytes of the root pointer do not add up to 0.
    RootPointerChecksum(PhysAddr),
    /// Another table is where this one should be.
    NotTheTable {
        /// The one that should be there.
        wanted: Signature,
        /// The one that is.
        found: Signature,
    },
    /// The bytes of the table do not add up to 0.
    Checksum(Signature),
    /// The table says that it is shorter than it must be, or longer than any is.
    Length(Signature, u32),
    /// An entry ends outside of the table, is shorter than it must be, or contradicts itself.
    Entry {
        /// The table.
        table: Signature,
        /// Where the entry begins, in bytes from the start of the table.
        offset: usize,
    },
}

/// Numbers in a table: the least significant byte first, not aligned.
mod field {
    pub fn u8(bytes: &[u8], offset: usize) -> Option<u8> {
        bytes.get(offset).copied()
    }

    pub fn u16(bytes: &[u8], offset: usize) -> Option<u16> {
        array(bytes, offset).map(u16::from_le_bytes)
    }

    pub fn u32(bytes: &[u8], offset: usize) -> Option<u32> {
        array(bytes, offset).map(u32::from_le_bytes)
    }

    pub fn u64(bytes: &[u8], offset: usize) -> Option<u64> {
        array(bytes, offset).map(u64::from_le_bytes)
    }

    pub fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
        bytes.get(offset..)?.first_chunk().copied()
    }
}

/// The sum of all bytes: 0 in everything that ACPI protects.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
pub(crate) mod testing;
