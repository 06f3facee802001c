//! The readers of what a device writes: PROBE lists, fault records, the configuration space. Random
//! bytes, most of them near to what makes sense, against a second reader: see `check`.
//!
//! The long run, on a stable compiler, is
//!
//! ```sh
//! PARSER_RUNS=1000000000 cargo test --release --features internals --test parsers -- --ignored --nocapture
//! ```

mod check;
#[path = "../support/splitmix.rs"]
mod splitmix;

use std::time::Instant;

use splitmix::Random;

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    /// Of any size, and often at an edge.
    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        match self.below(6) {
            0 => 0,
            1 => 1 << shift,
            2 => u64::MAX << shift,
            3 => u64::MAX >> shift,
            4 => self.below(0x1_0000),
            _ => self.next(),
        }
    }

    fn fault(&mut self) -> [u8; 24] {
        let mut bytes = [0; 24];
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        if self.below(8) != 0 {
            bytes[1..4].fill(0);
        }
        bytes[0] %= 4;
        bytes
    }

    fn config(&mut self) -> [u8; 44] {
        let mut bytes = [0; 44];
        let mask = self.number();
        bytes[..8].copy_from_slice(&mask.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number().to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number().to_le_bytes());
        for at in [24, 28, 32] {
            let number = self.number() as u32;
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[36..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }

    /// Into the same memory again and again.
    fn probe(&mut self, list: &mut Vec<u8>) {
        list.clear();
        for _ in 0..self.below(6) {
            let kind = match self.below(8) {
                0 => self.next() as u16,
                1 => 0x1001,
                _ => 1,
            };
            let length = match self.below(8) {
                0 => self.below(64) as u16,
                1 => self.next() as u16,
                _ => 20,
            };
            list.extend(kind.to_le_bytes());
            list.extend(length.to_le_bytes());
            let (a, b) = (self.number(), self.number());
            let inverted = self.below(16) == 0;
            let (start, end) = if (a < b) != inverted { (a, b) } else { (b, a) };
            list.extend([self.below(3) as u8, 0, 0, self.next() as u8]);
            list.extend(start.to_le_bytes());
            list.extend(end.to_le_bytes());
            let missing = usize::from(length).saturating_sub(20);
            list.resize(list.len() + missing.min(44), 0x5a);
        }
        list.resize(list.len() + self.below(9) as usize, 0);
    }
}

/// Runs of each of the three.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    faults: u64,
    configs: u64,
    probes: u64,
}

/// So many runs: of ten, seven are fault records, two configurations and one is a list.
fn runs(total: u64, seed: u64) -> Count {
    let mut random = Random(seed);
    let mut list = Vec::new();
    let mut count = Count::default();
    for run in 0..total {
        match run % 10 {
            0 => {
                random.probe(&mut list);
                check::probe(&list);
                count.probes += 1;
            }
            1 | 2 => {
                check::config(&random.config());
                count.configs += 1;
            }
            _ => {
                check::fault(&random.fault());
                count.faults += 1;
            }
        }
    }
    count
}

#[test]
fn whatever_a_device_writes_is_read_as_a_second_reader_does() {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.and_then(|c| c.parse().ok()).unwrap_or(256_u64);
    runs(cases * 4_000, 1);
}

#[test]
fn seeds_of_the_corpora_are_read() {
    let seeds = |name: &str| {
        let path = format!("{}/fuzz/seeds/{name}", env!("CARGO_MANIFEST_DIR"));
        let entries = std::fs::read_dir(path).expect("seeds");
        let files = entries.map(|entry| std::fs::read(entry.expect("a file").path()));
        files
            .map(|bytes| bytes.expect("a file"))
            .collect::<Vec<_>>()
    };
    for list in seeds("probe") {
        check::probe(&list);
    }
    for record in seeds("fault") {
        check::fault(&record.try_into().expect("24 bytes"));
    }
    for space in seeds("config") {
        check::config(&space.try_into().expect("44 bytes"));
    }
}

#[test]
#[ignore = "takes as long as PARSER_RUNS asks for"]
fn whatever_a_device_writes_is_read_for_long() {
    let total = std::env::var("PARSER_RUNS").ok();
    let total = total.map_or(10_000_000, |t| t.parse().expect("a number"));
    let begun = Instant::now();
    let count = runs(total, 1 << 32);
    eprintln!("{count:?} in {:?}", begun.elapsed());
}
