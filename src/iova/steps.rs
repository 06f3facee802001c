//! The cost of an operation, in nodes visited: logarithmic in the worst case, not on average.

use alloc::vec::Vec;

use super::model::{check, range};
use super::{IovaError, Slot, Space, Wish};
use crate::address::Iova;

const G: u64 = 0x1000;

/// The largest number of steps of one operation, by kind.
#[derive(Debug, Default)]
struct Worst {
    alloc: u64,
    free: u64,
    take: u64,
    ask: u64,
}

fn measured<T>(
    space: &mut Space<u64>,
    worst: &mut u64,
    op: impl FnOnce(&mut Space<u64>) -> T,
) -> T {
    let before = space.steps();
    let result = op(space);
    *worst = (*worst).max(space.steps() - before);
    result
}

/// A simple generator of numbers without a pattern.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Fills a space with `n` ranges, makes it ragged, and goes on with operations of all kinds.
fn worst(n: usize, longest: u64) -> Worst {
    let usable = range(G, (1 << 47) - 1);
    let mut space = Space::new(usable, G, G, n + n / 4).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut worst = Worst::default();
    let mut live: Vec<Slot> = Vec::new();
    let mut wish = move |limit: u64| Wish {
        len: G * (1 + random.below(longest)),
        align: G << random.below(4),
        limit: Iova(limit),
        boundary: [0, 0, 1 << 32, 1 << 24][random.below(4) as usize],
    };
    let mut random = Random(88_172_645_463_325_252);
    for _ in 0..n {
        let wish = wish(u64::MAX);
        let (slot, _) = measured(&mut space, &mut worst.alloc, |s| s.alloc(&wish, 0)).unwrap();
        live.push(slot);
    }
    let bottom = space.iter().next().unwrap().1.start().0;
    for _ in 0..2 * n {
        let victim = live.swap_remove(random.below(live.len() as u64) as usize);
        let at = space.range(victim).unwrap();
        assert!(measured(&mut space, &mut worst.free, |s| s.free(victim)));
        let asked = range(at.start().0 - 2 * G, at.start().0 - G - 1);
        measured(&mut space, &mut worst.ask, |s| {
            (s.find(at), s.overlap(asked))
        });
        let slot = match random.below(4) {
            0 => measured(&mut space, &mut worst.take, |s| s.take(asked, 1)).ok(),
            kind => {
                // Half of the limits cut through what is in use.
                let limit = match kind {
                    1 => bottom + random.below((1 << 47) - bottom),
                    _ => u64::MAX,
                };
                let wish = wish(limit);
                let got = measured(&mut space, &mut worst.alloc, |s| s.alloc(&wish, 1));
                assert_ne!(got.err(), Some(IovaError::Exhausted));
                got.ok().map(|(slot, _)| slot)
            }
        };
        live.extend(slot);
    }
    if n <= 10_000 {
        check(&space, G, G, usable);
    }
    worst
}

#[test]
fn one_operation_is_logarithmic() {
    for n in [100, 1_000, 10_000, 100_000] {
        for longest in [32, 128] {
            let worst = worst(n, longest);
            let log = u64::from(n.ilog2()) + 1;
            assert!(worst.ask <= 4 * log + 8, "{n}: {worst:?}");
            assert!(worst.free <= 3 * log + 8, "{n}: {worst:?}");
            // One range is dropped for a node, and one that is too close; each is a way down and up.
            assert!(worst.take <= 14 * log + 16, "{n}: {worst:?}");
            // One range is dropped for a node.
            assert!(worst.alloc <= 9 * log + 16, "{n}: {worst:?}");
        }
    }
}
