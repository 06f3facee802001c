//! The reader of the configuration space: any 36 bytes of it, and any features.

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/parsers/check.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests")]
mod check;

fuzz_target!(|space: [u8; 44]| check::config(&space));
