//! Isolation groups: of a machine of QEMU, of hand-made trees, and of random trees against a
//! slow model that lets every DMA walk up through the bridges.

#[path = "topology/config_space.rs"]
#[allow(dead_code, reason = "the PCI walk's tests use all of it")]
mod config_space;
#[path = "groups/hand_made.rs"]
mod hand_made;
#[path = "groups/qemu_machine.rs"]
mod qemu_machine;
#[path = "groups/random_trees.rs"]
mod random_trees;
