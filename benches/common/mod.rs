//! What the benchmarks share: numbers without a pattern, and what is done in which order.

use virtio_iommu::internals::{Space, Wish};
use virtio_iommu::{Iova, IovaRange};

/// The size of a granule in bytes.
pub const G: u64 = 0x1000;

/// How many ranges are live.
pub const SIZES: [usize; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];

/// The longest range of the mix, in granules.
pub const LONGEST: u64 = 32;

/// The highest address handed out.
pub const LAST: u64 = (1 << 47) - 1;

/// Our structure for `n` live ranges: a quarter more, and a thousand.
pub fn space(n: usize) -> Space<u64> {
    let usable = IovaRange::new(Iova(G), Iova(LAST)).expect("a range");
    Space::new(usable, G, G, n + n / 4 + 1_000).expect("memory")
}

/// So many granules, anywhere.
pub fn wish(granules: u32) -> Wish {
    Wish {
        len: u64::from(granules) * G,
        align: G,
        limit: Iova(u64::MAX),
        boundary: 0,
    }
}

/// A simple generator of numbers without a pattern.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }
}

/// Which live range goes, and how many granules the one that comes in its place has.
#[derive(Clone, Copy)]
pub struct Exchange {
    pub victim: u32,
    pub granules: u32,
}

/// How ranges come and go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// A random one goes, one of the same length comes.
    RandomSame,
    /// A random one goes, one of another length of the mix comes.
    RandomMix,
    /// The oldest goes, one of another length comes.
    Ring,
    /// As `RandomMix`, after twice as many were there and every second one went.
    Fragmented,
}

impl Lifetime {
    pub const ALL: [Self; 4] = [
        Self::RandomSame,
        Self::RandomMix,
        Self::Ring,
        Self::Fragmented,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::RandomSame => "random-same",
            Self::RandomMix => "random-mix",
            Self::Ring => "ring",
            Self::Fragmented => "fragmented",
        }
    }
}

/// The lengths of `n` ranges at the start, and what is done then, over and over: made in advance,
/// so that only the allocator is measured.
pub fn plan(lifetime: Lifetime, n: usize) -> (Vec<u32>, Vec<Exchange>) {
    let mut random = Random::new();
    let granules = |random: &mut Random| 1 + random.below(LONGEST) as u32;
    let lengths: Vec<u32> = (0..n).map(|_| granules(&mut random)).collect();
    let count = (1 << 16_usize).max(n.next_power_of_two());
    let exchanges = (0..count)
        .map(|at| {
            let victim = match lifetime {
                Lifetime::Ring => (at % n) as u64,
                _ => random.below(n as u64),
            };
            Exchange {
                victim: victim as u32,
                granules: match lifetime {
                    Lifetime::RandomSame => lengths[victim as usize],
                    _ => granules(&mut random),
                },
            }
        })
        .collect();
    (lengths, exchanges)
}
