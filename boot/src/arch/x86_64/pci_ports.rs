//! The configuration space of PCI functions, through ports 0xCF8 and 0xCFC.

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86_64::instructions::port::Port;

/// What a register of a function reads that does not exist.
const ABSENT: u32 = u32::MAX;

/// Where the register is chosen.
const ADDRESS: u16 = 0xcf8;
/// The chosen register.
const DATA: u16 = 0xcfc;
/// The choice is valid.
const ENABLE: u32 = 1 << 31;

/// The configuration space of segment 0, by the way that every PC has.
///
/// An access is two port accesses, and what happens between them counts: only one CPU may use the
/// ports, and only outside of interrupt handlers.
#[derive(Clone, Copy, Debug)]
pub struct PciPorts(());

impl PciPorts {
    /// The ports.
    ///
    /// # Safety
    ///
    /// Accesses do not overlap: with those by this value and its copies, or any others.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Chooses a register. False if there is no such register.
fn choose(function: DeviceFunction, offset: u8) -> bool {
    if !function.valid() || !offset.is_multiple_of(4) {
        return false;
    }
    let slot = u32::from(function.device << 3 | function.function);
    let bus = u32::from(function.bus);
    let mut address = Port::new(ADDRESS);
    // SAFETY: a choice without any effect of its own.
    unsafe { address.write(ENABLE | bus << 16 | slot << 8 | u32::from(offset)) };
    true
}

impl ConfigurationAccess for PciPorts {
    fn read_word(&self, function: DeviceFunction, offset: u8) -> u32 {
        if !choose(function, offset) {
            return ABSENT;
        }
        let mut data = Port::new(DATA);
        // SAFETY: reads of configuration space do no harm, and nobody chooses another register in
        // between, as the maker of this value promised.
        unsafe { data.read() }
    }

    fn write_word(&mut self, function: DeviceFunction, offset: u8, value: u32) {
        if choose(function, offset) {
            let mut data = Port::new(DATA);
            // SAFETY: as for reads. Functions do DMA only when their drivers, in this kernel, say
            // so.
            unsafe { data.write(value) };
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}
