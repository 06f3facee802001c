//! The list of properties that PROBE returns (§5.13.6.7, §5.13.6.8).

use alloc::vec::Vec;

use thiserror::Error;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::address::{Iova, IovaRange};

const TYPE_RESV_MEM: u16 = 1;
const SUBTYPE_MSI: u8 = 1;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PropertyHead {
    kind: U16,
    length: U16,
}

/// The value of a RESV_MEM property, without its head.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ResvMem {
    subtype: u8,
    reserved: [u8; 3],
    start: U64,
    end: U64,
}

/// What a reserved region is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReservedKind {
    /// Not usable for mappings; accesses may do anything.
    Reserved,
    /// Message-signalled interrupts: accesses pass untranslated.
    Msi,
}

/// I/O virtual addresses that must not be mapped for an endpoint (§5.13.6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservedRegion {
    /// The addresses.
    pub range: IovaRange,
    /// What they are for.
    pub kind: ReservedKind,
}

/// A list of properties that cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// A property is longer than what is left of the list.
    #[error("the property at offset {offset} overruns the list")]
    Overrun {
        /// Where the property starts, in bytes.
        offset: usize,
    },
    /// A RESV_MEM property is too short to hold a range.
    #[error("the RESV_MEM property at offset {offset} is too short")]
    Short {
        /// Where the property starts, in bytes.
        offset: usize,
    },
    /// A RESV_MEM property ends before it starts.
    #[error("the RESV_MEM property at offset {offset} is inverted")]
    Inverted {
        /// Where the property starts, in bytes.
        offset: usize,
    },
}

/// Reads the reserved regions out of a list, sorted, without overlaps, neighbours merged.
///
/// Properties that are not known, or have a reserved bit set, are skipped. An error is returned
/// where skipping could hide a region.
pub(crate) fn parse_properties(list: &[u8]) -> Result<Vec<ReservedRegion>, ProbeError> {
    let mut regions = Vec::new();
    let mut offset = 0;
    while let Some(rest) = list.get(offset..)
        && let Ok((head, rest)) = PropertyHead::ref_from_prefix(rest)
        && head.kind.get() != 0
    {
        let value = rest
            .get(..head.length.get().into())
            .ok_or(ProbeError::Overrun { offset })?;
        // The reserved bits take part in the comparison: a property that sets one is unknown.
        let kind = head.kind.get();
        #[cfg(viommu_broken)]
        let kind = match crate::broken::is(crate::broken::MASKED_NIBBLE) {
            true => kind & 0xfff,
            false => kind,
        };
        if kind == TYPE_RESV_MEM {
            let (value, _) =
                ResvMem::ref_from_prefix(value).map_err(|_| ProbeError::Short { offset })?;
            let range = IovaRange::new(Iova(value.start.get()), Iova(value.end.get()))
                .ok_or(ProbeError::Inverted { offset })?;
            regions.push(ReservedRegion {
                range,
                kind: match value.subtype {
                    SUBTYPE_MSI => ReservedKind::Msi,
                    _ => ReservedKind::Reserved,
                },
            });
        }
        offset += size_of::<PropertyHead>() + value.len();
    }
    Ok(merge(regions))
}

/// Sorts and merges; where kinds overlap, `Reserved` wins, because it promises less.
fn merge(mut regions: Vec<ReservedRegion>) -> Vec<ReservedRegion> {
    regions.sort_by_key(|region| (region.kind, region.range.start()));
    let mut merged: Vec<ReservedRegion> = Vec::with_capacity(regions.len());
    for region in regions {
        match merged.last_mut() {
            Some(last) if last.kind == region.kind && touches(last.range, region.range) => {
                last.range = hull(last.range, region.range);
            }
            _ => merged.push(region),
        }
    }
    let split = merged.partition_point(|region| region.kind == ReservedKind::Reserved);
    let msi = merged.split_off(split);
    let reserved = merged.len();
    for region in msi {
        subtract_into(region, reserved, &mut merged);
    }
    merged.sort_by_key(|region| region.range.start());
    merged
}

/// Pushes what the first `reserved` regions leave of `region`.
fn subtract_into(region: ReservedRegion, reserved: usize, regions: &mut Vec<ReservedRegion>) {
    let mut start = region.range.start();
    for i in 0..reserved {
        let Some(cover) = regions.get(i).map(|region| region.range) else {
            break;
        };
        let Some(left) = IovaRange::new(start, region.range.end()) else {
            return;
        };
        if !cover.overlaps(&left) {
            continue;
        }
        if let Some(end) = cover.start().0.checked_sub(1)
            && let Some(range) = IovaRange::new(start, Iova(end))
        {
            regions.push(ReservedRegion { range, ..region });
        }
        match cover.end().0.checked_add(1) {
            Some(next) => start = Iova(next),
            None => return,
        }
    }
    if let Some(range) = IovaRange::new(start, region.range.end()) {
        regions.push(ReservedRegion { range, ..region });
    }
}

/// Whether `b`, which does not start before `a`, overlaps or follows it without a gap.
fn touches(a: IovaRange, b: IovaRange) -> bool {
    a.end()
        .0
        .checked_add(1)
        .is_none_or(|next| b.start().0 <= next)
}

/// The smallest range with both in it; `b` does not start before `a`.
fn hull(a: IovaRange, b: IovaRange) -> IovaRange {
    IovaRange::new(a.start(), a.end().max(b.end())).unwrap_or(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn property(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((value.len() as u16).to_le_bytes());
        bytes.extend(value);
        bytes
    }

    fn resv(subtype: u8, start: u64, end: u64) -> Vec<u8> {
        let mut value = vec![subtype, 0xaa, 0xbb, 0xcc];
        value.extend(start.to_le_bytes());
        value.extend(end.to_le_bytes());
        property(1, &value)
    }

    fn region(kind: ReservedKind, start: u64, end: u64) -> ReservedRegion {
        ReservedRegion {
            range: IovaRange::new(Iova(start), Iova(end)).unwrap(),
            kind,
        }
    }

    use ReservedKind::{Msi, Reserved};

    #[test]
    fn an_empty_list_and_zeros_reserve_nothing() {
        assert_eq!(parse_properties(&[]), Ok(vec![]));
        assert_eq!(parse_properties(&[0; 512]), Ok(vec![]));
    }

    #[test]
    fn dn_probe_3_to_6_what_is_unknown_is_stepped_over() {
        let list = [
            property(0x0abc, &[1, 2, 3]),
            resv(1, 0xfee0_0000, 0xfeef_ffff),
            // reserved nibble: not a RESV_MEM, although it looks like one
            {
                let mut p = resv(0, 0, 0xfff);
                p[1] = 0x10;
                p
            },
            // longer than today's RESV_MEM, with an unknown subtype
            {
                let mut p = resv(7, 0x1000, 0x1fff);
                p.extend([9; 8]);
                p[2] = 28;
                p
            },
            vec![0; 16],
            resv(0, 0x5000, 0x5fff),
        ]
        .concat();
        assert_eq!(
            parse_properties(&list),
            Ok(vec![
                region(Reserved, 0x1000, 0x1fff),
                region(Msi, 0xfee0_0000, 0xfeef_ffff)
            ])
        );
    }

    #[test]
    fn lists_that_lie_are_refused() {
        let good = resv(0, 0, 0xfff);
        let cut = &good[..good.len() - 1];
        assert_eq!(
            parse_properties(cut),
            Err(ProbeError::Overrun { offset: 0 })
        );
        let short = [property(2, &[]), property(1, &[0; 19])].concat();
        assert_eq!(
            parse_properties(&short),
            Err(ProbeError::Short { offset: 4 })
        );
        assert_eq!(
            parse_properties(&resv(0, 2, 1)),
            Err(ProbeError::Inverted { offset: 0 })
        );
    }

    #[test]
    fn neighbours_merge_and_reserved_wins_over_msi() {
        let list = [
            resv(1, 0x0, 0x9fff),
            resv(0, 0x2000, 0x2fff),
            resv(0, 0x3000, 0x3fff),
            resv(0, 0x9000, u64::MAX),
        ]
        .concat();
        assert_eq!(
            parse_properties(&list),
            Ok(vec![
                region(Msi, 0, 0x1fff),
                region(Reserved, 0x2000, 0x3fff),
                region(Msi, 0x4000, 0x8fff),
                region(Reserved, 0x9000, u64::MAX),
            ])
        );
    }
}
