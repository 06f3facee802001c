//! The reader of PROBE lists: any bytes.

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/parsers/check.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests")]
mod check;

fuzz_target!(|list: &[u8]| check::probe(list));
