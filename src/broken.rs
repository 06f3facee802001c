//! Faults that are put in on purpose, for the check that the tests notice each of them.
//!
//! Compiled with `--cfg viommu_broken` only, which nothing gives but `cargo xtask broken`. One of
//! them is chosen when a test program starts, by its environment.

extern crate std;

use std::string::String;
use std::sync::OnceLock;

/// The status of a request is read one byte behind its place.
pub(crate) const STATUS_OFFSET: &str = "status_offset";
/// No buffer is posted to the event queue.
pub(crate) const NO_EVENTS: &str = "no_events";
/// The reserved bits of a property's type are masked off, and the property is used.
pub(crate) const MASKED_NIBBLE: &str = "masked_nibble";
/// `bypass` is left as it is.
pub(crate) const BYPASS_LEFT: &str = "bypass_left";
/// A queue is notified before DRIVER_OK.
pub(crate) const EARLY_KICK: &str = "early_kick";
/// UNMAP stops in the middle of its mapping.
pub(crate) const SPLIT_UNMAP: &str = "split_unmap";

/// Whether this fault is the one that was asked for.
pub(crate) fn is(fault: &str) -> bool {
    static CHOSEN: OnceLock<String> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("VIOMMU_BROKEN").unwrap_or_default());
    chosen == fault
}
