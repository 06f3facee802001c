//! Which mutant is on: compiled into the copy of the driver that `cargo xtask mutants` makes, and
//! nowhere else.

extern crate std;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

/// The environment was not looked at.
const UNKNOWN: u32 = u32::MAX;
/// No mutant is on: those that are reached are written down.
const RECORD: u32 = u32::MAX - 1;

static CHOSEN: AtomicU32 = AtomicU32::new(UNKNOWN);

/// Whether this mutant is on.
#[inline]
pub(crate) fn on(mutant: u32) -> bool {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    chosen == mutant || chosen >= RECORD && slowly(chosen, mutant)
}

#[cold]
fn slowly(chosen: u32, mutant: u32) -> bool {
    let chosen = if chosen == UNKNOWN { choose() } else { chosen };
    if chosen == RECORD {
        record(mutant);
    }
    chosen == mutant
}

fn choose() -> u32 {
    let chosen = match reached_file() {
        Some(_) => RECORD,
        None => std::env::var("VIOMMU_MUTANT")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    };
    CHOSEN.store(chosen, Ordering::Relaxed);
    chosen
}

/// Where those that are reached are written down, if they are to be.
fn reached_file() -> Option<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    FILE.get_or_init(|| File::create(std::env::var_os("VIOMMU_MUTANTS_REACHED")?).ok())
        .as_ref()
}

/// Writes a mutant down, once.
fn record(mutant: u32) {
    static SEEN: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
    let bit = 1 << (mutant % 64);
    let seen = SEEN
        .get(mutant as usize / 64)
        .is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit != 0);
    if !seen && let Some(mut file) = reached_file() {
        let _ = file.write_all(&mutant.to_le_bytes());
    }
}
