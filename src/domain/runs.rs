//! Mappings that end as runs of neighbours, with one UNMAP each (§5.13.6.6).

use super::Domain;
use crate::address::IovaRange;
use crate::platform::Platform;

/// Mappings to end, in the order of their owner, as runs that take one UNMAP each: the addresses,
/// and how many mappings.
#[derive(Clone)]
pub(super) struct Runs<'a> {
    ends: &'a [IovaRange],
    /// How far neighbours are apart; `None` if each takes a request of its own.
    merge: Option<u64>,
}

impl Iterator for Runs<'_> {
    type Item = (IovaRange, usize);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (first, mut rest) = self.ends.split_first()?;
        let mut run = *first;
        let mut last = run;
        let mut count = 1;
        if let Some(granule) = self.merge {
            // Only one that follows the last: what is beside the first was not looked at.
            while let Some((next, others)) = rest.split_first()
                && let Some(longer) = join(run, *next, granule)
                && (longer.start() == run.start() || run.start() == last.start())
                && (longer.end() == run.end() || run.end() == last.end())
            {
                run = longer;
                last = *next;
                count += 1;
                rest = others;
            }
        }
        self.ends = rest;
        Some((run, count))
    }
}

/// The two as one range, if not more than a hole of one granule is between them.
#[inline]
pub(super) fn join(a: IovaRange, b: IovaRange, granule: u64) -> Option<IovaRange> {
    let (below, above) = if a.start() < b.start() {
        (a, b)
    } else {
        (b, a)
    };
    let gap = above.start().0.checked_sub(below.end().0)?.checked_sub(1)?;
    if gap != 0 && gap != granule {
        return None;
    }
    IovaRange::new(below.start(), above.end())
}

impl<P: Platform> Domain<P> {
    /// The runs of mappings that are about to end, which may only be merged if nothing is in the
    /// holes between neighbours.
    #[inline]
    pub(super) fn runs<'a>(&self, ends: &'a [IovaRange], may_merge: bool) -> Runs<'a> {
        Runs {
            ends,
            merge: may_merge.then_some(self.shared.geometry.granule()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Iova;

    fn range(start: u64, end: u64) -> IovaRange {
        IovaRange::new(Iova(start), Iova(end)).unwrap()
    }

    #[test]
    fn neighbours_join_in_both_directions_and_others_do_not() {
        let (a, b) = (range(0x1000, 0x1fff), range(0x3000, 0x3fff));
        assert_eq!(join(a, b, 0x1000), Some(range(0x1000, 0x3fff)));
        assert_eq!(join(b, a, 0x1000), Some(range(0x1000, 0x3fff)));
        assert_eq!(
            join(a, range(0x2000, 0x2fff), 0x1000),
            Some(range(0x1000, 0x2fff))
        );
        assert_eq!(join(a, range(0x4000, 0x4fff), 0x1000), None);
        assert_eq!(join(a, range(0x1800, 0x2fff), 0x1000), None);
        assert_eq!(join(a, a, 0x1000), None);
        assert_eq!(join(a, b, 0x800), None);
    }

    #[test]
    fn runs_go_one_way() {
        let page = |page: u64| range(page * 0x1000, page * 0x1000 + 0xfff);
        let [a, b, c, d] = [page(2), page(4), page(6), page(9)];
        let runs = |ends: &[IovaRange], merge| {
            let runs = Runs { ends, merge };
            runs.map(|(run, count)| (run.start().0, run.end().0, count))
                .collect::<alloc::vec::Vec<_>>()
        };
        let merge = Some(0x1000);
        assert_eq!(
            runs(&[a, b, c, d], merge),
            [(0x2000, 0x6fff, 3), (0x9000, 0x9fff, 1)]
        );
        assert_eq!(
            runs(&[d, c, b, a], merge),
            [(0x9000, 0x9fff, 1), (0x2000, 0x6fff, 3)]
        );
        assert_eq!(
            runs(&[b, c, a], merge),
            [(0x4000, 0x6fff, 2), (0x2000, 0x2fff, 1)]
        );
        assert_eq!(runs(&[a, b], None).len(), 2);
        assert_eq!(runs(&[], merge), []);
    }
}
