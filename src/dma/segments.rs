//! A mapping as an endpoint takes it: in segments.

use super::buffer::DmaBuffer;
use super::device::Limits;
use super::live::{Live, phys};
use crate::address::{Iova, IovaRange, PhysRange};
use crate::domain::Parts;
use crate::platform::Platform;

impl<B: DmaBuffer, P: Platform> Live<B, P> {
    /// The addresses, cut where the endpoint wants them cut, and at holes.
    #[inline(always)]
    pub(super) fn segments(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let limits = &self.port.limits;
        match self.gap() {
            0 => Segments {
                cut: Cut::new(Some(self.held().iova), limits),
                parts: None,
            },
            gap => Segments {
                cut: Cut::new(None, limits),
                parts: Some(Parts::new(phys(&self.buffer), self.site.start(), gap)),
            },
        }
    }
}

/// Parts, each cut into segments.
struct Segments<I> {
    /// Of the part that is next.
    cut: Cut,
    /// Those behind it, if there are holes.
    parts: Option<Parts<I>>,
}

impl<I: Iterator<Item = PhysRange>> Iterator for Segments<I> {
    type Item = IovaRange;

    #[inline(always)]
    fn next(&mut self) -> Option<IovaRange> {
        if self.cut.rest.is_none()
            && let Some(parts) = &mut self.parts
        {
            self.cut.rest = parts.next().map(|(part, _)| part);
        }
        self.cut.next()
    }
}

/// A range, cut into segments.
pub(super) struct Cut {
    rest: Option<IovaRange>,
    /// 0, or a power of two.
    boundary: u64,
    /// At least 1.
    longest: u64,
}

impl Cut {
    #[inline(always)]
    pub(super) fn new(rest: Option<IovaRange>, limits: &Limits) -> Self {
        Self {
            rest,
            boundary: limits.boundary,
            longest: limits.max_segment,
        }
    }
}

impl Iterator for Cut {
    type Item = IovaRange;

    #[inline(always)]
    fn next(&mut self) -> Option<IovaRange> {
        let rest = self.rest?;
        let start = rest.start().0;
        let mut last = rest.end().0.min(start.saturating_add(self.longest - 1));
        if self.boundary != 0 {
            last = last.min(start | (self.boundary - 1));
        }
        let next = last.checked_add(1);
        self.rest = next.and_then(|next| IovaRange::new(Iova(next), rest.end()));
        IovaRange::new(rest.start(), Iova(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn cuts_at_boundaries_and_lengths_and_nowhere_else() {
        for (boundary, longest) in [(0_u64, u64::MAX), (8, u64::MAX), (0, 5), (16, 5), (8, 1)] {
            for start in 0..20_u64 {
                for len in 1..40_u64 {
                    let whole = IovaRange::from_len(Iova(start), len).unwrap();
                    let cut = Cut {
                        rest: Some(whole),
                        boundary,
                        longest,
                    };
                    let seen: Vec<_> = cut
                        .flat_map(|part| {
                            let count = part.len().unwrap();
                            (0..count).map(move |i| (part.start().0 + i, i == 0))
                        })
                        .collect();
                    // Byte by byte: a segment begins where it has to.
                    let mut run = 0;
                    let mut expected = Vec::new();
                    for at in start..start + len {
                        let edge = boundary != 0 && at % boundary == 0;
                        let begins = at == start || edge || run == longest;
                        run = if begins { 1 } else { run + 1 };
                        expected.push((at, begins));
                    }
                    assert_eq!(seen, expected, "{boundary} {longest} {start} {len}");
                }
            }
        }
    }

    #[test]
    fn the_end_of_the_space_is_no_trap() {
        let whole = IovaRange::new(Iova(u64::MAX - 9), Iova(u64::MAX)).unwrap();
        let cut = Cut {
            rest: Some(whole),
            boundary: 0,
            longest: 5,
        };
        let ends: Vec<_> = cut.map(|part| part.end().0).collect();
        assert_eq!(ends, [u64::MAX - 5, u64::MAX]);
    }
}
