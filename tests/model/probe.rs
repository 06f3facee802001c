//! The bytes of lists of properties (§5.13.6.7, §5.13.6.8).

use super::spec::{PROBE_T_RESV_MEM, RESV_MEM_VALUE_LEN};
use super::unit::Region;

/// The list of properties of §5.13.6.7 that describes these regions.
pub fn properties(regions: &[Region]) -> Vec<u8> {
    let mut list = Vec::new();
    for region in regions {
        list.extend_from_slice(&property(
            PROBE_T_RESV_MEM,
            RESV_MEM_VALUE_LEN,
            &resv_mem(region.subtype, [0; 3], region.start, region.end),
        ));
    }
    list
}

/// One property: `kind` with its reserved nibble, `length` as it shall be claimed, and the value.
pub fn property(kind: u16, length: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// The value of a RESV_MEM property.
pub fn resv_mem(subtype: u8, reserved: [u8; 3], start: u64, end: u64) -> Vec<u8> {
    let mut value = vec![subtype];
    value.extend_from_slice(&reserved);
    value.extend_from_slice(&start.to_le_bytes());
    value.extend_from_slice(&end.to_le_bytes());
    debug_assert_eq!(value.len(), usize::from(RESV_MEM_VALUE_LEN));
    value
}
