//! Data as an NVMe controller wants it (NVM Express base specification 1.4, §4.3): page by page,
//! the first of which may begin anywhere, and the last end anywhere.

use super::super::memory::Shared;
use super::super::{BlockError, Segment};

/// The size of a page, in bytes.
pub const PAGE: usize = 4096;
/// The size of the list of a request, in bytes: one for each page but the first. It is a power of
/// two, and begins at a multiple of it, so it lies in one page.
pub const LIST: usize = 8 * 32;
/// Segments of a request.
pub const MOST_SEGMENTS: usize = LIST / 8 + 1;

/// Writes the list of a request, and returns both of its entries in the command.
///
/// # Errors
///
/// [`BlockError::Request`] if a segment begins or ends inside of a page where it must not, or if
/// there are too many pages.
pub fn describe(
    memory: &Shared,
    list: usize,
    segments: &[Segment],
) -> Result<(u64, u64), BlockError> {
    const WITHIN: u64 = PAGE as u64 - 1;
    let (first, rest) = segments.split_first().ok_or(BlockError::Request)?;
    let mut entries = 0;
    let mut second = 0;
    let mut append = |from: u64, end: u64| {
        let mut page = from;
        while page < end {
            if entries == 0 {
                second = page;
            }
            if entries == LIST / 8 {
                return Err(BlockError::Request);
            }
            memory.put(list + 8 * entries, page.to_le());
            entries += 1;
            page += PAGE as u64;
        }
        Ok(())
    };

    // Segments do not wrap: that was checked.
    let mut end = first.address + u64::from(first.bytes);
    // Words of 32 bits are the least that it takes.
    let mut odd = first.address & 3;
    let next = (first.address | WITHIN).saturating_add(1);
    append(next, end)?;
    for segment in rest {
        odd |= (end | segment.address) & WITHIN;
        end = segment.address + u64::from(segment.bytes);
        append(segment.address, end)?;
    }
    if odd != 0 {
        return Err(BlockError::Request);
    }
    let rest = match entries {
        0 | 1 => second,
        _ => memory.device_addr(list),
    };
    Ok((first.address, rest))
}
