//! The drivers of `virtio-drivers` behind the IOMMU: the real ones, over devices written from the
//! specification, whose every access goes through the page table of the model IOMMU.

#[path = "../model/mod.rs"]
mod model;

mod desk;
mod fake;

mod alike;
mod bindings;
mod block;
mod dropped;
mod exhausted;
mod net;
mod random;
mod refused;
mod ways;
