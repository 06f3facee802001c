//! The driver against the model device. The names of the tests carry the ids of the rules that
//! they prove (DN: driver-normative, DV: device-normative, GV: generic virtio).

#[path = "../model/mod.rs"]
mod model;
mod rig;

mod bring_up;
mod mapping;
mod probe;
mod answers;
mod faults;
mod pipeline;
mod hostile;
mod random;
mod busy;
mod doorbell;
mod groups;
