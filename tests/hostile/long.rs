//! Runs that take as long as one asks for.

use std::process::Command;
use std::time::Instant;

use crate::kernel::Tally;
use crate::run;

/// Steps of one process: what a hostile device may still be using stays allocated for ever, 0.4 GiB
/// in a million steps.
const AT_ONCE: u64 = 4_000_000;
/// How far apart the strings of two processes are.
const APART: u64 = 1 << 32;

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
    let first = number("HOSTILE_SEED", APART);
    if steps > AT_ONCE {
        return divided(steps, seconds, first);
    }
    let begun = Instant::now();
    let mut sum = Tally::default();
    let mut strings = 0;
    while sum.steps < steps && begun.elapsed().as_secs() < seconds {
        sum += run(first + strings);
        strings += 1;
    }
    eprintln!("{strings} strings in {:?}: {sum:?}", begun.elapsed());
}

/// This test, in one process after the other.
fn divided(steps: u64, seconds: u64, mut first: u64) {
    let begun = Instant::now();
    let mut left = steps;
    while left > 0 {
        let Some(time) = seconds.checked_sub(begun.elapsed().as_secs()) else {
            break;
        };
        let now = left.min(AT_ONCE);
        let mut part = Command::new(std::env::current_exe().expect("a program"));
        part.args(["--exact", "long::a_hostile_device_is_survived_for_long"]);
        part.args(["--ignored", "--nocapture", "--quiet"]);
        part.env("HOSTILE_STEPS", now.to_string())
            .env("HOSTILE_SECONDS", time.to_string())
            .env("HOSTILE_SEED", first.to_string());
        let status = part.status().expect("a process");
        assert!(status.success(), "strings from {first}: {status}");
        left -= now;
        first += APART;
    }
    eprintln!("{} steps in {:?}", steps - left, begun.elapsed());
}
