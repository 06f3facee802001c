//! Disks behind the IOMMU: what an I/O costs in each mode, with this driver and with others.
//!
//! | module | what it does |
//! |---|---|
//! | [`record`] | what a guest says of each phase: what it did, and what it took |
//! | [`phases`] | what QEMU's trace says of the same phases |

pub mod phases;
pub mod record;
