//! Which I/O virtual addresses are in use, and for what: a pure data structure.
//!
//! | file | idea |
//! |---|---|
//! | `node` | the memory: nodes of 48 bytes, allocated once |
//! | `tree` | ranges by address, and where the large gaps are |
//! | `classes` | ranges that were given back, by length |
//! | `wish` | what a range has to be like, and where one like it is free |
//! | `space` | the rules: who gets which addresses, and who is refused |
//! | `pieces` | parts of a range in use, each with a value |
//!
//! Addresses are handed out from the top, because devices that can only reach little memory ask
//! for low ones. Between two ranges stays a hole of one granule, if the owner of the space wants
//! it: an access just before a range is then a fault, also on devices that look one byte too far.

#![forbid(unsafe_code)]

mod classes;
#[cfg(test)]
mod model;
mod node;
mod pieces;
mod space;
#[cfg(test)]
mod steps;
mod tree;
mod wish;

pub use {
    space::{IovaError, Slot, Space},
    wish::Wish,
};
