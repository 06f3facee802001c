//! A second reader: for one question, it goes through the bytes from the beginning. Slow, without
//! lists, bounds or warnings, and without a line in common with the first one.

/// The IOMMU of a requester id: its type, the eight bytes that say where it is, and the endpoint
/// id behind it.
pub type Answer = (u8, u64, u32);

fn le(bytes: &[u8], at: usize, length: usize) -> u64 {
    (0..length).fold(0, |value, byte| {
        value | u64::from(bytes[at + byte]) << (8 * byte)
    })
}

/// (offset, type, length) of all nodes, or none if the frame is broken.
pub fn nodes(table: &[u8]) -> Option<Vec<(usize, u8, usize)>> {
    if table.len() < 48 || &table[..4] != b"VIOT" {
        return None;
    }
    let length = le(table, 4, 4) as usize;
    if length < 48 || length > table.len() {
        return None;
    }
    let sum: u64 = table[..length].iter().map(|byte| u64::from(*byte)).sum();
    if !sum.is_multiple_of(256) {
        return None;
    }
    let mut at = le(table, 38, 2) as usize;
    let mut nodes = Vec::new();
    for _ in 0..le(table, 36, 2) {
        if at < 48 || at + 4 > length {
            return None;
        }
        let size = le(table, at + 2, 2) as usize;
        if size < 4 || at + size > length {
            return None;
        }
        nodes.push((at, table[at], size));
        at += size;
    }
    Some(nodes)
}

fn iommu_at(table: &[u8], nodes: &[(usize, u8, usize)], offset: u64) -> Option<(u8, u64)> {
    let found = nodes.iter().find(|(at, _, _)| *at as u64 == offset);
    match found {
        // Segment and requester id.
        Some((at, 3, 16..)) => Some((3, le(table, at + 4, 4))),
        Some((at, 4, 16..)) => Some((4, le(table, at + 8, 8))),
        _ => None,
    }
}

/// Who translates a PCI function.
pub fn pci(table: &[u8], segment: u16, requester: u16) -> Option<Answer> {
    let nodes = nodes(table)?;
    for (at, kind, size) in &nodes {
        if *kind != 1 || *size < 24 {
            continue;
        }
        let field = |offset, length| le(table, at + offset, length);
        let (endpoint, output) = (field(4, 4), field(16, 2));
        let (segments, requesters) = (field(8, 2)..=field(10, 2), field(12, 2)..=field(14, 2));
        if segments.is_empty() || requesters.is_empty() {
            continue;
        }
        let id = |segment, requester| {
            (segment - segments.start()) * 65536 + requester - requesters.start() + endpoint
        };
        if id(*segments.end(), *requesters.end()) > u64::from(u32::MAX) {
            continue;
        }
        let Some((kind, place)) = iommu_at(table, &nodes, output) else {
            continue;
        };
        let (segment, requester) = (u64::from(segment), u64::from(requester));
        if !segments.contains(&segment) || !requesters.contains(&requester) {
            continue;
        }
        // The first range that has it decides, even if it is the IOMMU's own.
        if (kind, place) == (3, requester << 16 | segment) {
            return None;
        }
        return Some((kind, place, id(segment, requester) as u32));
    }
    None
}

/// Who translates the device at `base`, in the order of the table.
pub fn mmio(table: &[u8], base: u64) -> Vec<Answer> {
    let nodes = nodes(table).unwrap_or_default();
    let mut answers = Vec::new();
    for (at, kind, size) in &nodes {
        if *kind != 2 || *size < 24 || le(table, at + 8, 8) != base {
            continue;
        }
        let Some((kind, place)) = iommu_at(table, &nodes, le(table, at + 16, 2)) else {
            continue;
        };
        let answer = (kind, place, le(table, at + 4, 4) as u32);
        if (kind, place) != (4, base) && !answers.contains(&answer) {
            answers.push(answer);
        }
    }
    answers
}
