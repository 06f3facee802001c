//! What holds of the readers of device bytes, whatever the bytes are: each against a second reader
//! that is as naive as can be.

use virtio_iommu::internals::parse;
use virtio_iommu::{FaultReason, ReservedKind};

/// Little-endian bytes as a number.
fn le(bytes: &[u8]) -> u64 {
    let digits = bytes.iter().rev();
    digits.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// A list of properties: the reserved addresses are those that a walk by hand finds, or the list
/// is refused as a whole.
pub fn probe(list: &[u8]) {
    let mut found = Vec::new();
    let mut good = true;
    let mut at = 0;
    while at + 4 <= list.len() {
        let (kind, length) = (le(&list[at..at + 2]), le(&list[at + 2..at + 4]) as usize);
        if kind == 0 {
            break;
        }
        let Some(value) = list.get(at + 4..at + 4 + length) else {
            good = false;
            break;
        };
        if kind == 1 {
            if length < 20 {
                good = false;
                break;
            }
            let (start, end) = (le(&value[4..12]), le(&value[12..20]));
            if end < start {
                good = false;
                break;
            }
            found.push((value[0] == 1, start, end));
        }
        at += 4 + length;
    }
    let Ok(regions) = parse::properties(list) else {
        assert!(!good, "refused: {list:x?}");
        return;
    };
    assert!(good, "accepted: {list:x?}");
    // Sorted, apart, and no more than pieces of what was there.
    assert!(regions.len() <= 2 * found.len());
    for pair in regions.windows(2) {
        assert!(pair[0].range.end() < pair[1].range.start());
    }
    // The same at each edge. MSI yields to RESERVED, which promises less.
    let edges = found
        .iter()
        .flat_map(|(_, start, end)| [*start, *end, start.wrapping_sub(1), end.wrapping_add(1)]);
    for address in edges {
        let mut covers = found
            .iter()
            .filter(|(_, s, e)| (*s..=*e).contains(&address));
        let expected = covers
            .next()
            .map(|first| first.0 && covers.all(|other| other.0));
        let mut hits = regions
            .iter()
            .filter(|r| r.range.contains(virtio_iommu::Iova(address)));
        let hit = hits.next().map(|region| region.kind == ReservedKind::Msi);
        assert_eq!(hit, expected, "{address:#x} in {list:x?}");
    }
}

/// A fault record.
pub fn fault(bytes: &[u8; 24]) {
    let fault = parse::event(bytes);
    let Some(fault) = fault else {
        assert_ne!(bytes[1..4], [0; 3], "ignored: {bytes:x?}");
        return;
    };
    assert_eq!(bytes[1..4], [0; 3], "not ignored: {bytes:x?}");
    let reason = match bytes[0] {
        1 => FaultReason::Domain,
        2 => FaultReason::Mapping,
        _ => FaultReason::Unknown,
    };
    assert_eq!(fault.reason, reason);
    assert_eq!(u64::from(fault.endpoint.0), le(&bytes[8..12]));
    let address = (bytes[5] & 1 != 0).then(|| le(&bytes[16..24]));
    assert_eq!(fault.address.map(|a| a.0), address);
    let access = fault.access.map_or(0, |a| a.bits());
    assert_eq!(access, u32::from(bytes[4] & 3));
}

/// A configuration space with the features that are offered.
pub fn config(bytes: &[u8; 44]) {
    let offered = le(&bytes[36..44]);
    let (mask, psize) = (le(&bytes[..8]), le(&bytes[32..36]));
    let input = match offered & 1 != 0 {
        true => (le(&bytes[8..16]), le(&bytes[16..24])),
        false => (0, u64::MAX),
    };
    let domains = match offered & 2 != 0 {
        true => (le(&bytes[24..28]), le(&bytes[28..32])),
        false => (0, u32::MAX.into()),
    };
    let granule = (0..64).map(|bit| 1_u64 << bit).find(|bit| mask & bit != 0);
    let Ok(geometry) = parse::geometry(bytes) else {
        // One of these is the reason.
        let granule = u128::from(granule.unwrap_or(1).max(0x1000));
        // Three whole granules hold one that is neither the first nor the last.
        let small = u128::from(input.1) < u128::from(input.0) + 4 * granule;
        let no_size = offered & 16 != 0 && !(1..=0x1_0000).contains(&psize);
        assert!(
            mask == 0 || small || domains.1 <= domains.0 || no_size,
            "{bytes:x?}"
        );
        return;
    };
    let granule = granule.expect("a mask that is not 0").max(0x1000);
    assert_eq!(geometry.granule(), granule);
    let (range, usable) = (geometry.input_range(), geometry.usable_range());
    assert_eq!((range.start().0, range.end().0), input);
    assert!(range.contains(usable.start()) && range.contains(usable.end()));
    assert!(usable.start().0.is_multiple_of(granule) && usable.start().0 >= granule);
    assert_eq!(usable.end().0 % granule, granule - 1);
    assert!(input.1 - usable.end().0 >= granule, "the last granule");
    let ids = geometry.domain_range();
    assert_eq!((u64::from(ids.start().0), u64::from(ids.end().0)), domains);
    assert!(domains.0 < domains.1);
    let size = (offered & 16 != 0).then_some(psize);
    assert_eq!(geometry.probe_size().map(u64::from), size);
}
