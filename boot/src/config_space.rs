//! The configuration space of PCI functions, whichever way leads to it.

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_iommu::topology::HostBridge;

#[cfg(target_arch = "x86_64")]
use crate::arch::PciPorts;
use crate::ecam::Ecam;

/// The configuration space of a host bridge; a copy is as good as the original.
#[derive(Clone, Copy, Debug)]
pub enum ConfigSpace {
    /// In memory.
    Ecam(Ecam),
    /// Behind two ports.
    #[cfg(target_arch = "x86_64")]
    Ports(PciPorts),
}

impl ConfigSpace {
    /// That of `bridge`, or `None` if it has none within reach.
    pub fn new(bridge: &HostBridge) -> Option<Self> {
        Ecam::new(bridge)
            .map(Self::Ecam)
            .or_else(|| Self::ports(bridge))
    }

    /// Other architectures have no ports.
    #[cfg(not(target_arch = "x86_64"))]
    fn ports(_bridge: &HostBridge) -> Option<Self> {
        None
    }

    /// The ports, which lead to segment 0 only.
    #[cfg(target_arch = "x86_64")]
    fn ports(bridge: &HostBridge) -> Option<Self> {
        use virtio_iommu::topology::Segment;

        // SAFETY: there is one CPU, no interrupt handler uses them, and nobody else does.
        (bridge.segment == Segment(0)).then(|| Self::Ports(unsafe { PciPorts::new() }))
    }
}

impl ConfigurationAccess for ConfigSpace {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        match self {
            Self::Ecam(ecam) => ecam.read_word(function, offset),
            #[cfg(target_arch = "x86_64")]
            Self::Ports(ports) => ports.read_word(function, offset),
        }
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        match self {
            Self::Ecam(ecam) => ecam.write_word(function, offset, data),
            #[cfg(target_arch = "x86_64")]
            Self::Ports(ports) => ports.write_word(function, offset, data),
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
