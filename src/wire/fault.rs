//! Fault records from the event queue (§5.13.6.9).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::Access;
use crate::address::{EndpointId, Iova};

/// Size of a fault record, in bytes; a device may refuse smaller buffers.
pub(crate) const EVENT_SIZE: usize = 24;

const FLAG_READ: u32 = 1 << 0;
const FLAG_WRITE: u32 = 1 << 1;
const FLAG_ADDRESS: u32 = 1 << 8;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FaultRecord {
    reason: u8,
    reserved: [u8; 3],
    flags: U32,
    endpoint: U32,
    reserved1: U32,
    address: U64,
}

const _: () = assert!(size_of::<FaultRecord>() == EVENT_SIZE);

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultReason {
    /// The device does not say, or says something that the specification does not define. QEMU
    /// reports endpoints without a domain like this.
    Unknown,
    /// The endpoint is not attached to a domain.
    Domain,
    /// The address is not mapped, or not for this kind of access.
    Mapping,
}

/// An access of an endpoint that the IOMMU refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Who tried. Not checked against the endpoints that the driver knows.
    pub endpoint: EndpointId,
    /// Why it was refused.
    pub reason: FaultReason,
    /// What it tried; `None` when the device does not say, which is usual for unmapped addresses.
    pub access: Option<Access>,
    /// Where; `None` when the device does not say.
    pub address: Option<Iova>,
}

/// Decodes an event.
///
/// `None` for a record whose `reserved` bytes are not zero, which the driver has to ignore.
pub(crate) fn parse_event(bytes: &[u8; EVENT_SIZE]) -> Option<Fault> {
    let record = FaultRecord::ref_from_bytes(bytes).ok()?;
    if record.reserved != [0; 3] {
        return None;
    }
    let flags = record.flags.get();
    let mut access = Access::empty();
    access.set(Access::READ, flags & FLAG_READ != 0);
    access.set(Access::WRITE, flags & FLAG_WRITE != 0);
    Some(Fault {
        endpoint: EndpointId(record.endpoint.get()),
        reason: match record.reason {
            1 => FaultReason::Domain,
            2 => FaultReason::Mapping,
            _ => FaultReason::Unknown,
        },
        access: (!access.is_empty()).then_some(access),
        address: (flags & FLAG_ADDRESS != 0).then(|| Iova(record.address.get())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: [u8; EVENT_SIZE] = [
        2, 0, 0, 0, 0x02, 0x01, 0, 0, 0x10, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0x78, 0x56, 0x34,
        0x12, 0, 0, 0, 0x80,
    ];

    #[test]
    fn a_refused_write_is_decoded() {
        let fault = parse_event(&RECORD).unwrap();
        assert_eq!(fault.endpoint, EndpointId(0x10));
        assert_eq!(fault.reason, FaultReason::Mapping);
        assert_eq!(fault.access, Some(Access::WRITE));
        assert_eq!(fault.address, Some(Iova(0x8000_0000_1234_5678)));
    }

    #[test]
    fn dn_fault_1_reserved_bytes_make_it_ignored() {
        for at in 1..4 {
            let mut record = RECORD;
            record[at] = 1;
            assert_eq!(parse_event(&record), None);
        }
    }

    #[test]
    fn dn_fault_3_and_4_undefined_flags_and_reasons() {
        let mut record = RECORD;
        record[0] = 200;
        record[4..8].copy_from_slice(&0xffff_fefc_u32.to_le_bytes());
        let fault = parse_event(&record).unwrap();
        assert_eq!(fault.reason, FaultReason::Unknown);
        assert_eq!(fault.access, None);
        assert_eq!(fault.address, None);
    }
}
