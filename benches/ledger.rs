//! The record of what is mapped, against maps of the standard library.
//!
//! Ids are `ledger/<operation>/<what>/<n>`, with `n` mappings live all the time. `exchange`: one
//! mapping is forgotten, one recorded; ours also finds the addresses. `lookup`: which mapping does
//! an address belong to?

#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use common::{Exchange, G, Lifetime, Random, plan, space, wish};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use virtio_iommu::internals::{Slot, Space};
use virtio_iommu::{Iova, IovaRange};

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Mappings in our structure, each with its name and its range.
struct OurLedger {
    space: Space<u64>,
    live: Vec<(Slot, IovaRange)>,
}

impl OurLedger {
    fn new(n: usize) -> Self {
        let mut space = space(n);
        let (lengths, _) = plan(Lifetime::RandomMix, n);
        let live = lengths
            .iter()
            .map(|granules| space.alloc(&wish(*granules), 0).expect("a range"))
            .collect();
        Self { space, live }
    }
}

/// Mappings as one would write it: first address, last address, value.
type Map = BTreeMap<u64, (u64, u64)>;

fn mean_of<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    n: usize,
    make: impl Fn() -> T,
    mut step: impl FnMut(&mut T, Exchange),
) {
    let mut state = None;
    let mut at = 0;
    group.bench_function(BenchmarkId::new(name, n), |bencher| {
        let (state, exchanges) =
            state.get_or_insert_with(|| (make(), plan(Lifetime::RandomMix, n).1));
        bencher.iter(|| {
            // The number of exchanges is a power of two.
            let exchange = exchanges[at & (exchanges.len() - 1)];
            at += 1;
            step(state, exchange);
        });
    });
}

fn exchange(group: &mut BenchmarkGroup<'_, WallTime>, n: usize) {
    let ours = || OurLedger::new(n);
    mean_of(group, "ours", n, ours, |ours, exchange| {
        let place = &mut ours.live[exchange.victim as usize];
        assert!(ours.space.free(place.0));
        let wish = wish(exchange.granules);
        *place = black_box(ours.space.alloc(&wish, 7)).expect("a range");
    });
    mean_of(group, "ours-by-range", n, ours, |ours, exchange| {
        let place = &mut ours.live[exchange.victim as usize];
        let slot = ours.space.find(place.1).expect("in use");
        assert!(ours.space.free(slot));
        let wish = wish(exchange.granules);
        *place = black_box(ours.space.alloc(&wish, 7)).expect("a range");
    });
    // The addresses that our allocator gives out: those that have just come free.
    let allocated = || {
        let ours = OurLedger::new(n);
        let keys: Vec<u64> = ours.live.iter().map(|(_, at)| at.start().0).collect();
        let map: Map = keys.iter().map(|key| (*key, (key + G - 1, 0))).collect();
        (keys, map)
    };
    mean_of(group, "btreemap", n, allocated, |(keys, map), exchange| {
        let key = keys[exchange.victim as usize];
        let (end, _) = map.remove(&key).expect("mapped");
        map.insert(key, black_box((end, 7)));
    });
    // Addresses without a pattern.
    let random = || {
        let mut random = Random::new();
        let keys: Vec<u64> = (0..n).map(|_| random.next() & !(G - 1)).collect();
        let map: Map = keys.iter().map(|key| (*key, (key | (G - 1), 0))).collect();
        (keys, map, random)
    };
    mean_of(
        group,
        "btreemap-random",
        n,
        random,
        |(keys, map, random), exchange| {
            let key = &mut keys[exchange.victim as usize];
            map.remove(key).expect("mapped");
            *key = random.next() & !(G - 1);
            map.insert(*key, black_box((*key | (G - 1), 7)));
        },
    );
}

fn lookup(group: &mut BenchmarkGroup<'_, WallTime>, n: usize) {
    let ours = || OurLedger::new(n);
    mean_of(group, "ours", n, ours, |ours, exchange| {
        let (slot, range) = ours.live[exchange.victim as usize];
        let single = IovaRange::single(Iova(range.start().0 + G / 2));
        assert_eq!(black_box(ours.space.overlap(single)), Some(slot));
    });
    let map = || {
        let ours = OurLedger::new(n);
        let ranges: Vec<(u64, u64)> = ours
            .live
            .iter()
            .map(|(_, range)| (range.start().0, range.end().0))
            .collect();
        let map: Map = ranges
            .iter()
            .map(|(start, end)| (*start, (*end, 0)))
            .collect();
        (ranges, map)
    };
    mean_of(group, "btreemap", n, map, |(ranges, map), exchange| {
        let (start, end) = ranges[exchange.victim as usize];
        let address = start + G / 2;
        let found = black_box(map.range(..=address).next_back());
        assert_eq!(found.map(|(_, (end, _))| *end), Some(end));
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    let mut group = criterion.benchmark_group("ledger/exchange");
    for n in SIZES {
        exchange(&mut group, n);
    }
    group.finish();
    let mut group = criterion.benchmark_group("ledger/lookup");
    for n in SIZES {
        lookup(&mut group, n);
    }
    group.finish();
    criterion.final_summary();
    println!("\n{} bytes per mapping", Space::<u64>::NODE_SIZE);
}
