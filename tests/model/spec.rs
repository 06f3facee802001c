//! The numbers of the specification, typed in again: virtio 1.2 §5.13 and §2.7.
//!
//! Nothing here comes from the driver, so that a wrong offset cannot agree with itself.

/// Feature bits (§5.13.3 and §6).
pub mod feature {
    pub const INPUT_RANGE: u64 = 1 << 0;
    pub const DOMAIN_RANGE: u64 = 1 << 1;
    pub const MAP_UNMAP: u64 = 1 << 2;
    pub const BYPASS: u64 = 1 << 3;
    pub const PROBE: u64 = 1 << 4;
    pub const MMIO: u64 = 1 << 5;
    pub const BYPASS_CONFIG: u64 = 1 << 6;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const IN_ORDER: u64 = 1 << 35;
    pub const ORDER_PLATFORM: u64 = 1 << 36;
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    pub const RING_RESET: u64 = 1 << 40;

    /// What a complete device of the specification offers.
    pub const ALL_OF_THE_DEVICE: u64 =
        INPUT_RANGE | DOMAIN_RANGE | MAP_UNMAP | PROBE | MMIO | BYPASS_CONFIG;
    /// The bits that mean something to a virtio-iommu, this model included.
    pub const DEFINED: u64 = ALL_OF_THE_DEVICE
        | BYPASS
        | INDIRECT_DESC
        | EVENT_IDX
        | VERSION_1
        | ACCESS_PLATFORM
        | RING_PACKED
        | IN_ORDER
        | ORDER_PLATFORM
        | NOTIFICATION_DATA
        | RING_RESET;
    /// The bits whose acceptance would change the rings in ways that this model does not play.
    pub const NOT_PLAYED: u64 =
        INDIRECT_DESC | EVENT_IDX | RING_PACKED | IN_ORDER | NOTIFICATION_DATA | RING_RESET;
}

/// Bits of the device status field (§2.1).
pub mod status_bit {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// The configuration space (§5.13.4): offset and width of each field, in bytes.
pub mod config {
    pub const PAGE_SIZE_MASK: usize = 0;
    pub const INPUT_START: usize = 8;
    pub const INPUT_END: usize = 16;
    pub const DOMAIN_START: usize = 24;
    pub const DOMAIN_END: usize = 28;
    pub const PROBE_SIZE: usize = 32;
    pub const BYPASS: usize = 36;
    pub const LEN: usize = 40;
}

/// Request types (§5.13.6).
pub mod kind {
    pub const ATTACH: u8 = 1;
    pub const DETACH: u8 = 2;
    pub const MAP: u8 = 3;
    pub const UNMAP: u8 = 4;
    pub const PROBE: u8 = 5;
}

/// Bytes that the device reads, per request; the four bytes of the tail follow in the part that
/// it writes.
pub mod readable_len {
    pub const ATTACH: usize = 20;
    pub const DETACH: usize = 20;
    pub const MAP: usize = 36;
    pub const UNMAP: usize = 28;
    pub const PROBE: usize = 72;
}

/// The tail: one byte of status, three reserved.
pub const TAIL_LEN: usize = 4;
/// The head: one byte of type, three reserved.
pub const HEAD_LEN: usize = 4;
/// A fault record (§5.13.6.9).
pub const FAULT_LEN: usize = 24;

/// Status codes of a request.
pub mod status {
    pub const OK: u8 = 0;
    pub const IOERR: u8 = 1;
    pub const UNSUPP: u8 = 2;
    pub const DEVERR: u8 = 3;
    pub const INVAL: u8 = 4;
    pub const RANGE: u8 = 5;
    pub const NOENT: u8 = 6;
    pub const FAULT: u8 = 7;
    pub const NOMEM: u8 = 8;
}

pub const ATTACH_F_BYPASS: u32 = 1 << 0;

pub const MAP_F_READ: u32 = 1 << 0;
pub const MAP_F_WRITE: u32 = 1 << 1;
pub const MAP_F_MMIO: u32 = 1 << 2;

pub const PROBE_T_RESV_MEM: u16 = 1;
/// `length` of a RESV_MEM property: its 24 bytes without the four of the header.
pub const RESV_MEM_VALUE_LEN: u16 = 20;
pub const RESV_MEM_T_RESERVED: u8 = 0;
pub const RESV_MEM_T_MSI: u8 = 1;

pub const FAULT_R_UNKNOWN: u8 = 0;
pub const FAULT_R_DOMAIN: u8 = 1;
pub const FAULT_R_MAPPING: u8 = 2;
pub const FAULT_F_READ: u32 = 1 << 0;
pub const FAULT_F_WRITE: u32 = 1 << 1;
pub const FAULT_F_ADDRESS: u32 = 1 << 8;

pub const REQUEST_QUEUE: u16 = 0;
pub const EVENT_QUEUE: u16 = 1;

/// Split virtqueues (§2.7).
pub mod ring {
    pub const DESC_LEN: u64 = 16;
    pub const DESC_F_NEXT: u16 = 1;
    pub const DESC_F_WRITE: u16 = 2;
    pub const DESC_F_INDIRECT: u16 = 4;
    pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
    pub const USED_F_NO_NOTIFY: u16 = 1;

    /// Bytes of the available ring, with the field of EVENT_IDX, which is reserved without it.
    pub const fn avail_len(size: u16) -> u64 {
        6 + 2 * size as u64
    }

    /// Bytes of the used ring, likewise.
    pub const fn used_len(size: u16) -> u64 {
        6 + 8 * size as u64
    }
}

/// Little-endian fields out of a byte string; `None` beyond its end.
pub fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
