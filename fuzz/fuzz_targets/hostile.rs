//! The whole driver against a device of which the bytes decide everything.

#![no_main]
#![allow(missing_docs, dead_code, reason = "shared with the tests")]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/hostile/book.rs"]
mod book;
#[path = "../../tests/hostile/kernel.rs"]
mod kernel;
#[path = "../../tests/model/mod.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| {
    kernel::run(bytes);
});
