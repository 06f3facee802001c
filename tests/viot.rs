//! The VIOT reader from outside: tables of QEMU, hand-made good and bad ones, and mutations of
//! them that are compared with a second reader.
//!
//! `VIOT_MUTATIONS=N` sets how many mutated tables are read (default 100000; a long run is 10
//! million), `VIOT_SEED=N` where the sequence begins.

#[path = "viot/bad_frames.rs"]
mod bad_frames;
#[path = "viot/bad_nodes.rs"]
mod bad_nodes;
#[path = "viot/good.rs"]
mod good;
#[path = "viot/mutations.rs"]
mod mutations;
#[path = "viot/naive.rs"]
mod naive;
#[path = "viot/qemu_tables.rs"]
mod qemu_tables;
#[path = "topology/random.rs"]
mod random;
#[path = "viot/writer.rs"]
mod writer;
