//! The DMA layer under the traits of other crates, for kernels that have drivers for those.

pub mod virtio_drivers;
