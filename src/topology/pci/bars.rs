//! How large the BARs of a function are, and how a BAR is written.

#![forbid(unsafe_code)]

use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::ConfigurationAccess;

use super::config::{BAR0, Config};
use super::{BarFault, BarKind};
use crate::topology::RequesterId;

/// A BAR that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SizedBar {
    pub(super) index: u8,
    pub(super) kind: BarKind,
    /// A power of two.
    pub(super) size: u64,
    /// What the register held.
    pub(super) current: u64,
}

/// The BARs of a function with `count` of them (6, or 2 for a bridge), and those that are absurd.
///
/// Sizing puts ones into the register, so decoding is switched off meanwhile; values and COMMAND
/// are restored.
pub(super) fn size<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    function: RequesterId,
    count: u8,
) -> (Vec<SizedBar>, Vec<(u8, BarFault)>) {
    let mut bars = Vec::new();
    let mut faults = Vec::new();
    config.without_decoding(function, |config| {
        let mut index = 0;
        while index < count {
            let (low, mask) = probe(config, function, index);
            let wide = mask & 7 == 4;
            let high = if wide && index + 1 < count {
                Some(probe(config, function, index + 1))
            } else {
                None
            };
            match judge(index, low, mask, high) {
                Ok(Some(bar)) => bars.push(bar),
                Ok(None) => {}
                Err(fault) => faults.push((index, fault)),
            }
            index += if wide { 2 } else { 1 };
        }
    });
    (bars, faults)
}

/// The value of one register, and what it reads as after ones were written to it.
fn probe<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    function: RequesterId,
    index: u8,
) -> (u32, u32) {
    let offset = BAR0 + 4 * index;
    let value = config.read(function, offset);
    config.write(function, offset, u32::MAX);
    let mask = config.read(function, offset);
    config.write(function, offset, value);
    (value, mask)
}

/// Kind and size from the bits that did not take the ones.
fn judge(
    index: u8,
    low: u32,
    mask: u32,
    high: Option<(u32, u32)>,
) -> Result<Option<SizedBar>, BarFault> {
    if mask == 0 {
        return Ok(None);
    }
    if mask == u32::MAX {
        return Err(BarFault::AllOnes);
    }
    let prefetchable = mask & 8 != 0;
    let (kind, current, writable) = match mask & 7 {
        1 | 5 => {
            let bits = mask & !3;
            if bits == 0 {
                return Err(BarFault::NotPowerOfTwo);
            }
            // Devices of the PC may leave out the upper half: their ports end at 0xffff.
            let bits = if bits & 0xffff_0000 == 0 {
                bits | 0xffff_0000
            } else {
                bits
            };
            let writable = u64::from(bits) | 0xffff_ffff_0000_0000;
            (BarKind::Io, u64::from(low & !3), writable)
        }
        0 => {
            let writable = u64::from(mask & !0xf) | 0xffff_ffff_0000_0000;
            let kind = BarKind::Memory32 { prefetchable };
            (kind, u64::from(low & !0xf), writable)
        }
        4 => {
            let (high, high_mask) = high.ok_or(BarFault::NoUpperHalf)?;
            let writable = u64::from(high_mask) << 32 | u64::from(mask & !0xf);
            let current = u64::from(high) << 32 | u64::from(low & !0xf);
            (BarKind::Memory64 { prefetchable }, current, writable)
        }
        // Below 1 MiB, reserved, and an I/O BAR with its reserved bit set.
        _ => return Err(BarFault::Type),
    };
    // Only type bits, no address: a BAR of 2^32 or 2^64 bytes.
    let size = (!writable).checked_add(1).ok_or(BarFault::NotPowerOfTwo)?;
    if !size.is_power_of_two() || (kind.is_32_bit() && size > u64::from(u32::MAX)) {
        return Err(BarFault::NotPowerOfTwo);
    }
    Ok(Some(SizedBar {
        index,
        kind,
        size,
        current,
    }))
}

/// Writes an address into a BAR and says whether the function took it. Decoding must be off.
pub(super) fn write<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    function: RequesterId,
    bar: &SizedBar,
    address: u64,
) -> bool {
    let offset = BAR0 + 4 * bar.index;
    let mut taken = put(config, function, offset, address as u32, bar.kind.flags());
    if matches!(bar.kind, BarKind::Memory64 { .. }) {
        let high = (address >> 32) as u32;
        taken &= put(config, function, offset + 4, high, 0);
    }
    taken
}

fn put<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    function: RequesterId,
    offset: u8,
    value: u32,
    flags: u32,
) -> bool {
    config.write(function, offset, value);
    config.read(function, offset) & !flags == value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(mask: u32, high: Option<u32>) -> Result<Option<(BarKind, u64)>, BarFault> {
        let bar = judge(0, 0, mask, high.map(|mask| (0, mask)))?;
        Ok(bar.map(|bar| (bar.kind, bar.size)))
    }

    #[test]
    fn sizes_of_sane_bars() {
        let memory32 = |prefetchable| BarKind::Memory32 { prefetchable };
        let memory64 = |prefetchable| BarKind::Memory64 { prefetchable };
        assert_eq!(sized(0, None), Ok(None));
        assert_eq!(sized(0xffff_fff0, None), Ok(Some((memory32(false), 16))));
        assert_eq!(
            sized(0xfff0_0008, None),
            Ok(Some((memory32(true), 1 << 20)))
        );
        assert_eq!(
            sized(0x8000_0000, None),
            Ok(Some((memory32(false), 1 << 31)))
        );
        assert_eq!(
            sized(0xffff_c00c, Some(u32::MAX)),
            Ok(Some((memory64(true), 1 << 14)))
        );
        assert_eq!(
            sized(0x0000_0004, Some(u32::MAX)),
            Ok(Some((memory64(false), 1 << 32)))
        );
        assert_eq!(
            sized(0x0000_0004, Some(0x8000_0000)),
            Ok(Some((memory64(false), 1 << 63)))
        );
        assert_eq!(sized(0xffff_ff01, None), Ok(Some((BarKind::Io, 256))));
        assert_eq!(sized(0x0000_fffd, None), Ok(Some((BarKind::Io, 4))));
    }

    #[test]
    fn absurd_bars() {
        assert_eq!(sized(u32::MAX, None), Err(BarFault::AllOnes));
        assert_eq!(sized(0xffff_fff2, None), Err(BarFault::Type));
        assert_eq!(sized(0xffff_fff6, None), Err(BarFault::Type));
        assert_eq!(sized(0xffff_fff3, None), Err(BarFault::Type));
        assert_eq!(sized(0xffff_fff4, None), Err(BarFault::NoUpperHalf));
        assert_eq!(sized(0xfff7_0000, None), Err(BarFault::NotPowerOfTwo));
        assert_eq!(sized(0xfff0_0004, Some(0xf)), Err(BarFault::NotPowerOfTwo));
        // Type bits alone: no address bit can be written.
        assert_eq!(sized(0x0000_0008, None), Err(BarFault::NotPowerOfTwo));
        assert_eq!(sized(0x0000_0004, Some(0)), Err(BarFault::NotPowerOfTwo));
        assert_eq!(sized(0x0000_0001, None), Err(BarFault::NotPowerOfTwo));
    }
}
