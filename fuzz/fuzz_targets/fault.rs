//! The reader of fault records: any 24 bytes.

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/parsers/check.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests")]
mod check;

fuzz_target!(|record: [u8; 24]| check::fault(&record));
