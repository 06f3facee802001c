//! Runs that take as long as one asks for.

use std::time::Instant;

use crate::kernel::Tally;
use crate::run;

/// A number out of the environment.
fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

#[test]
#[ignore = "takes as long as HOSTILE_STEPS asks for"]
fn a_hostile_device_is_survived_for_long() {
    let steps = number("HOSTILE_STEPS", 1_000_000);
    let seconds = number("HOSTILE_SECONDS", u64::MAX);
    let first = number("HOSTILE_SEED", 1 << 32);
    let begun = Instant::now();
    let mut sum = Tally::default();
    let mut strings = 0;
    while sum.steps < steps && begun.elapsed().as_secs() < seconds {
        sum += run(first + strings);
        strings += 1;
    }
    eprintln!("{strings} strings in {:?}: {sum:?}", begun.elapsed());
}
