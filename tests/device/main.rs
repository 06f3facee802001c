//! The driver against the model device. The names of the tests carry the ids of the rules that
//! they prove (DN: driver-normative, DV: device-normative, GV: generic virtio).

#[path = "../model/mod.rs"]
mod model;

mod bench;
mod rig;

mod answers;
mod bring_up;
mod busy;
mod config;
mod doorbell;
mod faults;
mod groups;
mod hostile;
mod isolation;
mod large;
mod late;
mod lock_down;
mod mapping;
mod neighbours;
mod order;
mod pipeline;
mod probe;
mod probe_random;
mod random;
mod refused;
mod regions;
mod rules;
mod special;
mod stop;
mod trace;
