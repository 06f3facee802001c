//! The whole driver against a device of which bytes decide everything: see `kernel` and, for the
//! device, `tests/model/personality/hostile.rs`.
//!
//! `cargo test` runs a few thousand random byte strings, more with `PROPTEST_CASES`. The long run,
//! on a stable compiler, is
//!
//! ```sh
//! HOSTILE_STEPS=100000000 cargo test --release --test hostile -- --ignored --nocapture
//! ```

#[path = "../model/mod.rs"]
mod model;

mod book;
mod kernel;
mod long;
#[path = "../support/splitmix.rs"]
mod splitmix;

use kernel::Tally;
use splitmix::Random;

impl Random {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len).collect()
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.started += other.started;
        self.requests += other.requests;
        self.mapped += other.mapped;
        self.unmapped += other.unmapped;
        self.quarantined += other.quarantined;
        self.faults += other.faults;
    }
}

/// The byte string with this number. A device that is hostile from the beginning is not started
/// often: most strings begin with an honest one.
pub fn string(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let len = 64 + random.next() as usize % 2_000;
    let mut bytes = random.bytes(len);
    if !seed.is_multiple_of(8) {
        bytes.iter_mut().take(24).for_each(|byte| *byte &= 0x3f);
    }
    bytes
}

/// Runs one string, and names it if something is wrong with it.
pub fn run(seed: u64) -> Tally {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the string has the number {}", self.0);
            }
        }
    }
    let _name = Name(seed);
    kernel::run(&string(seed))
}

#[test]
fn a_hostile_device_is_survived() {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.and_then(|c| c.parse().ok()).unwrap_or(256_u64) * 8;
    let mut sum = Tally::default();
    for seed in 0..cases {
        sum += run(seed);
    }
    eprintln!("{cases} strings: {sum:?}");
    // A device that nothing works with would prove nothing.
    assert!(sum.steps > cases * 10, "{sum:?}");
    assert!(sum.mapped > cases && sum.unmapped > cases / 4, "{sum:?}");
    assert!(sum.quarantined > 0 && sum.faults > 0, "{sum:?}");
}

#[test]
fn a_mapping_whose_restoring_was_late_is_not_reached_after_its_unmap() {
    run(4_294_971_031);
}

#[test]
fn an_attach_that_is_answered_during_a_detach_is_not_forgotten() {
    run(4_294_971_589);
}

#[test]
fn a_map_that_is_answered_during_an_unmap_stays_in_quarantine() {
    run(4_294_975_257);
}

#[test]
fn seeds_of_the_corpus_are_survived() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/hostile");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let path = entry.expect("a file").path();
        kernel::run(&std::fs::read(path).expect("a file"));
        count += 1;
    }
    assert!(count >= 8, "{count} seeds");
}
