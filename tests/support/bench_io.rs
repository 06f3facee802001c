//! The benchmark of disks: that each mode does what its name says, whatever it takes.
//!
//! The guest looks at the data; what reached the IOMMU in each phase, QEMU's trace says.

use std::fmt::Write;
use xtask::Arch;
use xtask::bench::io::boot::{Measure, System};
use xtask::bench::io::ours::Ours;
use xtask::bench::io::phases::Counts;
use xtask::bench::io::record::Phase;

/// The name of the trial.
pub const NAME: &str = "bench-io-counts";

/// Boots all disks in all modes, and compares.
///
/// # Errors
///
/// What is wrong, in words.
pub fn run(arch: Arch) -> Result<(), String> {
    let ours = Ours::new(arch).map_err(|error| error.to_string())?;
    let boot = ours.boot(Measure::Counts)?;
    let mut wrong = String::new();
    for (phase, counts) in boot.phases.iter().zip(&boot.counts) {
        if !is_right(phase, *counts) {
            let _ = writeln!(wrong, "{phase:?}: {counts:?}");
        }
    }
    match wrong.is_empty() && boot.phases.len() == boot.counts.len() {
        true => Ok(()),
        false => Err(wrong),
    }
}

/// Whether a phase is within what its mode is for.
fn is_right(phase: &Phase, counts: Counts) -> bool {
    let Counts {
        maps,
        unmaps,
        kicks,
    } = counts;
    let ios = phase.ios;
    // Every page of a scattered buffer takes a MAP. One UNMAP takes them all.
    let pieces = match &*phase.case.layout {
        "scattered" => phase.case.size / 4096,
        _ => 1,
    };
    match &*phase.mode {
        "none" | "bypass" | "static" | "bounce" | "copy" => (maps, unmaps, kicks) == (0, 0, 0),
        "requests" => (maps, unmaps, kicks) == (pieces * ios, ios, ios),
        "strict" => {
            // Where an I/O follows another, they share a notification.
            let shared = ios + u64::from(phase.case.depth);
            (maps, unmaps, kicks) == (pieces * ios, ios, shared)
        }
        // How many UNMAPs share a request depends on their addresses.
        "deferred-fresh" => maps == pieces * ios && unmaps <= ios && kicks < 2 * ios,
        // On a slow host the oldest are due before they come again.
        "deferred" => maps <= pieces * ios && unmaps <= ios,
        _ => false,
    }
}
