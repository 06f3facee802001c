//! The configuration space of PCI functions, through the ECAM.

use core::ptr::NonNull;

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_iommu::topology::{BusRange, HostBridge};

use crate::memory::direct_map;

/// What a register of a function reads that does not exist.
const ABSENT: u32 = u32::MAX;

/// The ECAM of a host bridge; a copy is as good as the original.
#[derive(Clone, Copy, Debug)]
pub struct Ecam {
    base: NonNull<u8>,
    /// In bytes.
    size: u64,
    buses: BusRange,
}

impl Ecam {
    /// That of `bridge`, or `None` if it has none within reach.
    pub fn new(bridge: &HostBridge) -> Option<Self> {
        let range = bridge.ecam?;
        let size = range.len()?;
        Some(Self {
            base: direct_map::pointer(range.start().0, size)?,
            size,
            buses: bridge.buses,
        })
    }

    /// The register, or `None` where the ECAM has none.
    fn register(&self, function: DeviceFunction, offset: u8) -> Option<NonNull<u32>> {
        if !self.buses.contains(function.bus) || !function.valid() || !offset.is_multiple_of(4) {
            return None;
        }
        let bus = u64::from(function.bus - self.buses.first());
        let slot = u64::from(function.device << 3 | function.function);
        let offset = bus << 20 | slot << 12 | u64::from(offset);
        if offset + 4 > self.size {
            return None;
        }
        // SAFETY: the offset is inside the ECAM, which the direct map covers as a whole.
        Some(unsafe { self.base.byte_add(offset as usize) }.cast())
    }
}

impl ConfigurationAccess for Ecam {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        match self.register(function, offset) {
            // SAFETY: a register of the ECAM, aligned; reads of configuration space do no harm.
            Some(register) => unsafe { register.read_volatile() },
            None => ABSENT,
        }
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, data: u32) {
        if let Some(register) = self.register(function, offset) {
            // SAFETY: a register of the ECAM, aligned. Functions do DMA only when their drivers,
            // in this kernel, say so.
            unsafe { register.write_volatile(data) };
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
