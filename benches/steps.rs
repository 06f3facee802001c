//! The cost of one operation, counted in nodes visited: the same whatever the machine does.
//!
//! Not timed, and not of Criterion: `cargo xtask bench --host` reads its lines. There is one for each
//! kind of operation and number of live ranges, and one for what a mapping takes:
//!
//! ```text
//! steps iova alloc 1000 average=4.567 worst=21
//! size ledger mapping 48
//! ```

#[path = "common/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod common;

use std::collections::BTreeMap;

use virtio_iommu::internals::{Slot, Space};
use virtio_iommu::{Iova, IovaRange};

use common::{G, Lifetime, SIZES, plan, space, wish};

/// How often, how many nodes in all, and at most.
#[derive(Default)]
struct Cost {
    times: u64,
    sum: u64,
    worst: u64,
}

/// Costs by kind of operation.
#[derive(Default)]
struct Costs(BTreeMap<&'static str, Cost>);

impl Costs {
    fn of<T>(
        &mut self,
        kind: &'static str,
        space: &mut Space<u64>,
        op: impl FnOnce(&mut Space<u64>) -> T,
    ) -> T {
        let before = space.steps();
        let result = op(space);
        let steps = space.steps() - before;
        let cost = self.0.entry(kind).or_default();
        cost.times += 1;
        cost.sum += steps;
        cost.worst = cost.worst.max(steps);
        result
    }
}

fn main() {
    // Nothing is measured when the tests are run.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return;
    }
    for n in SIZES {
        for (kind, cost) in course(n).0 {
            let average = cost.sum as f64 / cost.times as f64;
            let worst = cost.worst;
            println!("steps iova {kind} {n} average={average:.3} worst={worst}");
        }
    }
    println!("size ledger mapping {}", Space::<u64>::NODE_SIZE);
}

/// As the benchmark does it, with lookups, and with lengths that are not kept when given back.
fn course(n: usize) -> Costs {
    let (lengths, exchanges) = plan(Lifetime::RandomMix, n);
    let mut costs = Costs::default();
    let mut space = space(n);
    let alloc = |costs: &mut Costs, space: &mut Space<u64>, granules| -> Slot {
        let kind = if granules > 64 { "alloc-long" } else { "alloc" };
        let found = costs.of(kind, space, |space| space.alloc(&wish(granules), 0));
        found.expect("a range").0
    };
    let mut live: Vec<Slot> = lengths
        .iter()
        .map(|granules| alloc(&mut costs, &mut space, *granules))
        .collect();
    for exchange in exchanges.iter().take(200_000) {
        // Every eighth is longer than what is kept.
        let long = exchange.granules % 8 == 0;
        let granules = exchange.granules + if long { 64 } else { 0 };
        let place = &mut live[exchange.victim as usize];
        let range = space.range(*place).expect("in use");
        costs.of("find", &mut space, |space| space.find(range));
        let single = IovaRange::single(Iova(range.end().0 - G / 2));
        costs.of("lookup", &mut space, |space| space.overlap(single));
        assert!(costs.of("free", &mut space, |space| space.free(*place)));
        *place = alloc(&mut costs, &mut space, granules);
    }
    costs
}
