//! The DMA interface against the model device: what endpoints reach, byte by byte, and what becomes
//! of memory whatever the device answers and however a transfer ends.
//!
//! Nothing in the driver is lock-free, so there is nothing for loom to explore: threads are real
//! here (`threads`).

#[path = "../model/mod.rs"]
mod model;

#[path = "../device/rig.rs"]
#[allow(dead_code, reason = "shared with the tests of the driver")]
mod rig;

mod buffers;
mod desk;

mod bounce;
mod deferred;
mod dropped;
mod limits;
mod memory;
mod pool;
mod random;
mod refusals;
mod regressions;
mod secrets;
mod threads;
mod time_outs;
mod ways;
