//! The topology module from outside: device trees of QEMU and hand-made bad ones, mutations of
//! them, and the PCI walk over a model of configuration space.
//!
//! `TOPOLOGY_MUTATIONS=N` sets how many mutated device trees are read (default 50000; a long run
//! is 10 million), `TOPOLOGY_SEED=N` where the sequence begins.

#[cfg(feature = "device-tree")]
#[path = "topology/bad_bridges.rs"]
mod bad_bridges;
#[cfg(feature = "device-tree")]
#[path = "topology/bad_trees.rs"]
mod bad_trees;
#[path = "topology/config_space.rs"]
mod config_space;
#[cfg(feature = "device-tree")]
#[path = "topology/fdt.rs"]
mod fdt;
#[path = "topology/hostile_pci.rs"]
mod hostile_pci;
#[cfg(feature = "device-tree")]
#[path = "topology/machine.rs"]
mod machine;
#[cfg(feature = "device-tree")]
#[path = "topology/mutations.rs"]
mod mutations;
#[cfg(feature = "device-tree")]
#[path = "topology/qemu_trees.rs"]
mod qemu_trees;
#[path = "topology/random.rs"]
mod random;
#[path = "topology/random_pci.rs"]
mod random_pci;
#[path = "topology/walk.rs"]
mod walk;
#[path = "topology/walk_firmware.rs"]
mod walk_firmware;
