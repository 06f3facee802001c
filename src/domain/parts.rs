//! How pieces of physical memory lie in the address space: neighbours become one request.

#![forbid(unsafe_code)]

use crate::address::{Iova, IovaRange, PhysAddr, PhysRange};

/// The MAP requests that a list of pieces takes, in order of addresses.
///
/// Pieces that are neighbours in physical memory become one. Ends early if the addresses run out,
/// which [`Extent::of`] tells beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Parts<I> {
    pieces: I,
    /// The piece that the next part begins with.
    ahead: Option<PhysRange>,
    /// Where the next part begins; `None` at the end of the space.
    at: Option<Iova>,
    /// Left free between parts, in bytes.
    gap: u64,
}

impl<I: Iterator<Item = PhysRange>> Parts<I> {
    /// The parts of `pieces` from `start`, with `gap` bytes between them.
    #[inline(always)]
    pub(crate) fn new(mut pieces: I, start: Iova, gap: u64) -> Self {
        let ahead = pieces.next();
        Self {
            pieces,
            ahead,
            at: Some(start),
            gap,
        }
    }
}

impl<I: Iterator<Item = PhysRange>> Iterator for Parts<I> {
    type Item = (IovaRange, PhysAddr);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let first = self.ahead.take()?;
        let mut end = first.end();
        for piece in self.pieces.by_ref() {
            if end.0.checked_add(1) != Some(piece.start().0) {
                self.ahead = Some(piece);
                break;
            }
            end = piece.end();
        }
        let start = self.at?;
        let last = start.0.checked_add(end.0 - first.start().0)?;
        let iova = IovaRange::new(start, Iova(last))?;
        self.at = last
            .checked_add(1)
            .and_then(|next| next.checked_add(self.gap))
            .map(Iova);
        Some((iova, first.start()))
    }
}

/// What a list of pieces takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Addresses, in bytes, gaps included.
    pub(crate) len: u64,
    /// MAP requests.
    pub(crate) parts: usize,
    /// Where the first part leads.
    pub(crate) first: PhysAddr,
}

/// Why a list of pieces cannot be mapped at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtentError {
    /// A piece is not whole granules.
    Misaligned,
    /// There is no piece, or more than the address space has.
    Length,
}

impl Extent {
    /// Of pieces that have to be whole granules.
    #[inline(always)]
    pub(crate) fn of(
        pieces: impl Iterator<Item = PhysRange>,
        gap: u64,
        granule: u64,
    ) -> Result<Self, ExtentError> {
        let rest = granule - 1;
        let mut extent = None::<Self>;
        let mut before = None;
        for piece in pieces {
            let (start, end) = (piece.start().0, piece.end().0);
            if start & rest != 0 || end & rest != rest {
                return Err(ExtentError::Misaligned);
            }
            let len = piece.len().ok_or(ExtentError::Length)?;
            extent = Some(match extent {
                None => Self {
                    len,
                    parts: 1,
                    first: piece.start(),
                },
                Some(so_far) => {
                    let joins = before == start.checked_sub(1);
                    let gap = if joins { 0 } else { gap };
                    let grown = so_far.len.checked_add(gap);
                    let grown = grown.and_then(|grown| grown.checked_add(len));
                    Self {
                        len: grown.ok_or(ExtentError::Length)?,
                        parts: so_far.parts + usize::from(!joins),
                        first: so_far.first,
                    }
                }
            });
            before = Some(end);
        }
        extent.ok_or(ExtentError::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn pages(list: &[(u64, u64)]) -> Vec<PhysRange> {
        let range = |&(first, count): &(u64, u64)| {
            PhysRange::from_len(PhysAddr(first * 0x1000), count * 0x1000).unwrap()
        };
        list.iter().map(range).collect()
    }

    #[test]
    fn neighbours_become_one_part() {
        let pieces = pages(&[(5, 1), (6, 2), (4, 1), (5, 1), (9, 1)]);
        let iova = |start, end| IovaRange::new(Iova(start), Iova(end)).unwrap();
        let parts: Vec<_> = Parts::new(pieces.iter().copied(), Iova(0x10_0000), 0).collect();
        assert_eq!(
            parts,
            [
                (iova(0x10_0000, 0x10_2fff), PhysAddr(0x5000)),
                (iova(0x10_3000, 0x10_4fff), PhysAddr(0x4000)),
                (iova(0x10_5000, 0x10_5fff), PhysAddr(0x9000)),
            ]
        );
        let extent = Extent::of(pieces.iter().copied(), 0x1000, 0x1000).unwrap();
        assert_eq!((extent.len, extent.parts), (0x8000, 3));
    }

    #[test]
    fn what_cannot_be_mapped() {
        let of = |pieces: &[PhysRange], granule| Extent::of(pieces.iter().copied(), 0, granule);
        assert_eq!(of(&[], 0x1000), Err(ExtentError::Length));
        assert_eq!(of(&pages(&[(1, 1)]), 0x2000), Err(ExtentError::Misaligned));
        assert_eq!(of(&pages(&[(2, 1)]), 0x2000), Err(ExtentError::Misaligned));
        let half = PhysRange::new(PhysAddr(0), PhysAddr(u64::MAX / 2)).unwrap();
        assert_eq!(of(&[half, half], 0x1000), Err(ExtentError::Length));
        let all = PhysRange::new(PhysAddr(0), PhysAddr(u64::MAX)).unwrap();
        assert_eq!(of(&[all], 0x1000), Err(ExtentError::Length));
    }

    proptest! {
        /// Byte by byte (a page stands for a byte): each address leads where its piece says.
        #[test]
        fn every_page_leads_where_its_piece_says(
            list in proptest::collection::vec((0_u64..20, 1_u64..4), 1..12),
            gap in 0_u64..2,
        ) {
            let pieces = pages(&list);
            let wanted: Vec<u64> =
                list.iter().flat_map(|&(first, count)| first..first + count).collect();
            let mut seen = Vec::new();
            let mut last = None::<u64>;
            let mut count = 0;
            for (iova, phys) in Parts::new(pieces.iter().copied(), Iova(0x1_0000), gap * 0x1000) {
                let start = iova.start().0;
                if let Some(last) = last {
                    prop_assert_eq!(start, last + 1 + gap * 0x1000);
                } else {
                    prop_assert_eq!(start, 0x1_0000);
                }
                let len = iova.len().unwrap();
                seen.extend((0..len / 0x1000).map(|i| phys.0 / 0x1000 + i));
                last = Some(iova.end().0);
                count += 1;
            }
            prop_assert_eq!(&seen, &wanted);
            let jumps = wanted.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
            prop_assert!(count <= list.len());
            // Two pieces may meet by chance: only the number of jumps counts.
            prop_assert_eq!(count, jumps + 1);
            let extent = Extent::of(pieces.iter().copied(), gap * 0x1000, 0x1000).unwrap();
            prop_assert_eq!(extent.parts, count);
            prop_assert_eq!(extent.len, last.unwrap() + 1 - 0x1_0000);
            prop_assert_eq!(extent.first, pieces[0].start());
        }
    }
}
