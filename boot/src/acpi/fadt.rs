//! FADT: fixed hardware; of all that, the PM timer. ACPI 6.5, §5.2.9.

use super::{AcpiError, Table, field};

/// The length of the table of ACPI 1.0.
pub const SHORTEST: usize = 116;

/// Of a generic address: a port, not memory.
const SYSTEM_IO: u8 = 1;
/// FLAGS: the PM timer counts in 32 bits, not in 24.
const TIMER_32_BITS: u32 = 1 << 8;

/// The PM timer counts this fast, in Hz.
pub const PM_TIMER_FREQUENCY: u64 = 3_579_545;

/// The PM timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// The port, 32 bits wide.
    pub port: u16,
    /// The bits that count.
    pub mask: u32,
}

/// The PM timer, or `None` if there is none, or none behind a port.
///
/// # Errors
///
/// [`AcpiError::Length`] if the table is too short.
pub fn pm_timer(table: &Table<'_>) -> Result<Option<PmTimer>, AcpiError> {
    let bytes = table.bytes();
    let field_32 = |offset| field::u32(bytes, offset).ok_or(table.bad_length());
    let legacy = field_32(76)?;
    let flags = field_32(112)?;
    let port = match extended(bytes) {
        Some((SYSTEM_IO, address)) => address,
        // Elsewhere; the legacy field has to be 0 or wrong then.
        Some(_) => return Ok(None),
        None => u64::from(legacy),
    };
    let mask = match flags & TIMER_32_BITS {
        0 => 0x00ff_ffff,
        _ => u32::MAX,
    };
    Ok(u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .map(|port| PmTimer { port, mask }))
}

/// The generic address of the timer, since ACPI 2.0: address space and address.
fn extended(bytes: &[u8]) -> Option<(u8, u64)> {
    const X_PM_TMR_BLK: usize = 208;
    let space = field::u8(bytes, X_PM_TMR_BLK)?;
    let address = field::u64(bytes, X_PM_TMR_BLK + 4)?;
    (address != 0).then_some((space, address))
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use virtio_iommu::PhysAddr;

    use super::super::Signature;
    use super::super::testing::{FakeMemory, Q35, table};
    use super::*;

    /// A table of `len` bytes with a legacy port and flags.
    fn fadt(len: usize, port: u32, flags: u32) -> Vec<u8> {
        let mut body = vec![0; len - 36];
        body[76 - 36..][..4].copy_from_slice(&port.to_le_bytes());
        body[112 - 36..][..4].copy_from_slice(&flags.to_le_bytes());
        body
    }

    fn with_extended(mut body: Vec<u8>, space: u8, address: u64) -> Vec<u8> {
        body[208 - 36] = space;
        body[212 - 36..][..8].copy_from_slice(&address.to_le_bytes());
        body
    }

    fn read(body: &[u8]) -> Result<Option<PmTimer>, AcpiError> {
        let bytes = table(b"FACP", body);
        let memory = FakeMemory::new([(0x1000, &bytes[..])]);
        pm_timer(&Table::read(
            &memory,
            PhysAddr(0x1000),
            Signature::FADT,
            SHORTEST,
        )?)
    }

    fn timer(port: u16, mask: u32) -> Result<Option<PmTimer>, AcpiError> {
        Ok(Some(PmTimer { port, mask }))
    }

    #[test]
    fn the_port_of_the_first_version_is_enough() {
        assert_eq!(read(&fadt(116, 0x608, 0)), timer(0x608, 0xff_ffff));
        assert_eq!(read(&fadt(116, 0x608, 1 << 8)), timer(0x608, u32::MAX));
        // Generic addresses that the table is too short for.
        assert_eq!(read(&fadt(219, 0x608, 0)), timer(0x608, 0xff_ffff));
    }

    #[test]
    fn the_generic_address_wins() {
        let both = with_extended(fadt(244, 0x608, 0), SYSTEM_IO, 0xb008);
        assert_eq!(read(&both), timer(0xb008, 0xff_ffff));
        let none = with_extended(fadt(244, 0x608, 0), SYSTEM_IO, 0);
        assert_eq!(read(&none), timer(0x608, 0xff_ffff));
        let in_memory = with_extended(fadt(244, 0x608, 0), 0, 0x608);
        assert_eq!(read(&in_memory), Ok(None));
    }

    #[test]
    fn what_is_no_port_is_no_timer() {
        assert_eq!(read(&fadt(116, 0, 0)), Ok(None));
        assert_eq!(read(&fadt(116, 0x1_0608, 0)), Ok(None));
        let far = with_extended(fadt(244, 0x608, 0), SYSTEM_IO, u64::MAX);
        assert_eq!(read(&far), Ok(None));
    }

    #[test]
    fn a_short_table_is_an_error() {
        let short = &fadt(116, 0x608, 0)[..79];
        assert_eq!(read(short), Err(AcpiError::Length(Signature::FADT, 115)));
    }

    #[test]
    fn the_timer_of_qemu_is_found() {
        let table = Q35.table(Signature::FADT, SHORTEST);
        assert_eq!(pm_timer(&table), timer(0x608, 0xff_ffff));
    }
}
