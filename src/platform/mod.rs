//! What a kernel supplies: pages, addresses, a lock and a clock.

mod hal;

use core::num::NonZeroUsize;
use core::ptr::NonNull;

pub use hal::HalPlatform;

use crate::address::PhysAddr;

/// The unit of [`Platform::alloc_pages`], in bytes.
pub const PAGE_SIZE: usize = 4096;

/// Memory from [`Platform::alloc_pages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Where the device finds the first byte.
    pub phys: PhysAddr,
    /// Where the CPU finds the first byte.
    pub virt: NonNull<u8>,
}

/// The few things that the driver needs from the kernel around it.
///
/// By value, not static: a kernel implements it for a zero-sized type, a test for one that counts
/// its pages. [`HalPlatform`] makes one from the `Hal` of `virtio-drivers`.
///
/// # Contexts
///
/// The driver allocates at set-up only. The lock is taken by every operation, for a bounded time;
/// it is never held while waiting for the device. If the driver is called from interrupt handlers
/// too, [`Lock`](Platform::Lock) must mask the interrupts.
///
/// # Safety
///
/// The implementor promises what each method says under *Implementation safety*.
pub unsafe trait Platform: Send + Sync + 'static {
    /// The lock around the state of the device and of each domain.
    ///
    /// # Implementation safety
    ///
    /// As [`lock_api::RawMutex`] demands: mutual exclusion, with acquire and release ordering.
    type Lock: lock_api::RawMutex + Send + Sync;

    /// Orders all accesses of this CPU to memory and to registers of devices that come before it
    /// against all that come after it, as devices see them.
    ///
    /// With it the driver accepts ORDER_PLATFORM (§6), which a device offers that is less coherent
    /// than a CPU: real hardware. It is then called a few times per request, under the lock. By
    /// default there is none, and the fences of the language are used, which are enough for every
    /// device that an emulator or a hypervisor makes.
    ///
    /// # Implementation safety
    ///
    /// It does that, for the compiler and for the CPU: as `fence iorw, iorw` on RISC-V, `dsb sy` on
    /// Arm, `mfence` on x86.
    const DEVICE_BARRIER: Option<fn()> = None;

    /// Allocates `pages` pages of [`PAGE_SIZE`] bytes, aligned to `align` bytes.
    ///
    /// `align` is a power of two and at least [`PAGE_SIZE`]. `None` when there are none left.
    ///
    /// # Implementation safety
    ///
    /// The pages are zeroed, physically contiguous, aligned both in [`Pages::phys`] and
    /// [`Pages::virt`], valid for reads and writes of the CPU, coherent with devices, and nobody
    /// else's until they are given back.
    fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages>;

    /// Takes pages back.
    ///
    /// # Safety
    ///
    /// `memory` came from [`alloc_pages`](Platform::alloc_pages) of this platform with the same
    /// `pages` and `align`, was not given back before, and neither CPU nor device uses it any more.
    unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, align: usize);

    /// The physical address of a byte of memory that a device may be told about.
    ///
    /// `None` if the byte has none that a device could use.
    ///
    /// # Implementation safety
    ///
    /// The answer is exact, and stays true as long as the memory is allocated.
    fn virt_to_phys(&self, virt: NonNull<u8>) -> Option<PhysAddr>;

    /// Nanoseconds since any fixed moment, monotonic.
    ///
    /// Every wait is bounded by it.
    fn now(&self) -> u64;
}
