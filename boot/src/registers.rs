//! Registers of devices, in words of 32 and 64 bits, through the direct map.

use core::ptr::NonNull;

use virtio_iommu::PhysAddr;

use crate::memory::direct_map;

/// A stretch of registers.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: NonNull<u8>,
    phys: PhysAddr,
    /// In bytes.
    len: u64,
}

// SAFETY: registers belong to the machine, not to a thread.
unsafe impl Send for Registers {}
// SAFETY: reads and writes are single accesses; what they mean is the device's affair.
unsafe impl Sync for Registers {}

#[allow(dead_code, reason = "not every controller has registers of every kind")]
impl Registers {
    /// The `len` bytes at `phys`; `None` where the direct map does not reach.
    ///
    /// # Safety
    ///
    /// They are registers of a device, whose driver the caller is. Accesses to them break no
    /// promise that was made about memory.
    pub unsafe fn new(phys: u64, len: u64) -> Option<Self> {
        Some(Self {
            base: direct_map::pointer(phys, len)?,
            phys: PhysAddr(phys),
            len,
        })
    }

    /// Where they are, physically.
    pub fn phys(&self) -> PhysAddr {
        self.phys
    }

    /// Where they are, for drivers that are not this kernel's.
    pub fn pointer(&self) -> NonNull<u8> {
        self.base
    }

    /// A register.
    ///
    /// # Panics
    ///
    /// If there is none: offsets are constants, or were checked.
    #[track_caller]
    fn register<T>(&self, offset: u64) -> NonNull<T> {
        let size = size_of::<T>() as u64;
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        assert!(
            inside && (self.phys.0 + offset).is_multiple_of(size),
            "no register at {:#x} + {offset:#x}",
            self.phys.0
        );
        // SAFETY: inside of what the direct map covers.
        unsafe { self.base.byte_add(offset as usize) }.cast()
    }

    /// Reads 32 bits.
    #[track_caller]
    pub fn read(&self, offset: u64) -> u32 {
        // SAFETY: an aligned register, as `new` was promised.
        unsafe { self.register::<u32>(offset).read_volatile() }
    }

    /// Writes 32 bits.
    #[track_caller]
    pub fn write(&self, offset: u64, value: u32) {
        // SAFETY: an aligned register, as `new` was promised.
        unsafe { self.register::<u32>(offset).write_volatile(value) };
    }

    /// Reads 64 bits.
    #[track_caller]
    pub fn read_u64(&self, offset: u64) -> u64 {
        // SAFETY: an aligned register, as `new` was promised.
        unsafe { self.register::<u64>(offset).read_volatile() }
    }

    /// Writes 64 bits.
    #[track_caller]
    pub fn write_u64(&self, offset: u64, value: u64) {
        // SAFETY: an aligned register, as `new` was promised.
        unsafe { self.register::<u64>(offset).write_volatile(value) };
    }
}
