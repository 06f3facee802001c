//! The IOVA allocator against others: one range goes, one comes, with `n` live all the time.
//!
//! Ids are `iova/<lifetime>/<rival>/<n>`; the time is that of one pair.

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;
mod rivals;

use std::hint::black_box;
use std::time::Duration;

use bitmap_allocator::BitAlloc1M;
use common::{Exchange, Lifetime, SIZES, plan};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use rivals::{
    Bitmap, Buddy, Entries, FirstFit, OffsetAllocator, Ours, RangeAlloc, Rival, VmAllocator,
};

/// A rival with its live ranges, and what is done to it.
struct Course<R: Rival> {
    rival: R,
    live: Vec<R::Range>,
    exchanges: Vec<Exchange>,
    at: usize,
}

impl<R: Rival> Course<R> {
    fn new(lifetime: Lifetime, n: usize) -> Self {
        let (lengths, exchanges) = plan(lifetime, n);
        let fragmented = lifetime == Lifetime::Fragmented;
        let mut rival = R::new(if fragmented { 2 * n } else { n });
        let mut live = Vec::with_capacity(n);
        let mut extra = Vec::new();
        for granules in &lengths {
            live.push(rival.alloc(*granules));
            if fragmented {
                extra.push(rival.alloc(*granules));
            }
        }
        for range in extra {
            rival.free(range);
        }
        Self {
            rival,
            live,
            exchanges,
            at: 0,
        }
    }

    fn step(&mut self) {
        // The number of exchanges is a power of two.
        let exchange = self.exchanges[self.at & (self.exchanges.len() - 1)];
        self.at += 1;
        let place = &mut self.live[exchange.victim as usize];
        self.rival.free(*place);
        *place = black_box(self.rival.alloc(exchange.granules));
    }
}

fn bench<R: Rival>(group: &mut BenchmarkGroup<'_, WallTime>, lifetime: Lifetime, n: usize) {
    if n > R::MOST {
        return;
    }
    // Made once, and only if it is asked for; the closure is called many times.
    let mut course = None;
    group.bench_function(BenchmarkId::new(R::NAME, n), |bencher| {
        let course = course.get_or_insert_with(|| Course::<R>::new(lifetime, n));
        bencher.iter(|| course.step());
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    for lifetime in Lifetime::ALL {
        let mut group = criterion.benchmark_group(format!("iova/{}", lifetime.name()));
        for n in SIZES {
            bench::<Ours>(&mut group, lifetime, n);
            bench::<Entries>(&mut group, lifetime, n);
            // The others at all sizes where sizes differ, otherwise at two.
            if lifetime != Lifetime::RandomMix && n != 1_000 && n != 100_000 {
                continue;
            }
            bench::<VmAllocator>(&mut group, lifetime, n);
            bench::<RangeAlloc>(&mut group, lifetime, n);
            bench::<OffsetAllocator>(&mut group, lifetime, n);
            bench::<Buddy>(&mut group, lifetime, n);
            bench::<Bitmap<BitAlloc1M>>(&mut group, lifetime, n);
            bench::<FirstFit>(&mut group, lifetime, n);
        }
        group.finish();
    }
    criterion.final_summary();
}
