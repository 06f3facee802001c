//! What the driver under test, and the transports below it, get from this kernel.

use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use virtio_drivers::{BufferDirection, Hal};
use virtio_iommu::{Pages, PhysAddr, Platform};

use crate::arch;
use crate::clock;
use crate::lock::MaskingLock;
use crate::memory::direct_map;
use crate::memory::frames::{FRAME, Frames};

/// Pages that were given to the driver and not taken back.
static LIVE_PAGES: AtomicUsize = AtomicUsize::new(0);

/// How many pages the driver has at the moment.
pub fn live_pages() -> usize {
    LIVE_PAGES.load(Relaxed)
}

/// This kernel, as the driver sees it.
#[derive(Clone, Copy, Debug)]
pub struct KernelPlatform;

// SAFETY: `Frames` are zeroed, in a row, aligned (the direct map is aligned to 1 GiB, so virtual
// addresses are aligned as physical ones), coherent (the emulator has no caches) and handed out
// once; the direct map is exact and for ever; the clock is the monotonic counter of the CPU; the
// barrier is the strongest that the CPU has.
unsafe impl Platform for KernelPlatform {
    type Lock = MaskingLock;

    const DEVICE_BARRIER: Option<fn()> = Some(arch::device_barrier);

    fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages> {
        let (phys, virt) = Frames::new(pages, align)?.into_raw();
        LIVE_PAGES.fetch_add(pages.get(), Relaxed);
        let phys = PhysAddr(phys);
        Some(Pages { phys, virt })
    }

    unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, align: usize) {
        // SAFETY: the caller gives back what `alloc_pages` got, once, with the same size and
        // alignment.
        drop(unsafe { Frames::from_raw(memory.phys.0, memory.virt, pages, align) });
        LIVE_PAGES.fetch_sub(pages.get(), Relaxed);
    }

    fn virt_to_phys(&self, virt: NonNull<u8>) -> Option<PhysAddr> {
        direct_map::phys_of_pointer(virt.as_ptr()).map(PhysAddr)
    }

    fn now(&self) -> u64 {
        clock::now()
    }
}

/// This kernel, as the transports of `virtio-drivers` see it: DMA by physical address.
#[derive(Clone, Copy, Debug)]
pub struct KernelHal;

// SAFETY: as for `KernelPlatform`; registers of devices are reached through the direct map, too.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        NonZeroUsize::new(pages)
            .and_then(|pages| Frames::new(pages, FRAME))
            .map_or((0, NonNull::dangling()), Frames::into_raw)
    }

    unsafe fn dma_dealloc(phys: u64, virt: NonNull<u8>, pages: usize) -> i32 {
        match NonZeroUsize::new(pages) {
            Some(pages) => {
                // SAFETY: the caller gives back what `dma_alloc` got, once, with the same size.
                drop(unsafe { Frames::from_raw(phys, virt, pages, FRAME) });
                0
            }
            None => -1,
        }
    }

    unsafe fn mmio_phys_to_virt(phys: u64, size: usize) -> NonNull<u8> {
        match direct_map::pointer(phys, size as u64) {
            Some(pointer) => pointer,
            None => panic!("registers at {phys:#x} are outside of the direct map"),
        }
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> u64 {
        let first: *const u8 = buffer.as_ptr().cast();
        match direct_map::phys_of_pointer(first) {
            Some(phys) => phys,
            None => panic!("the buffer at {first:p} has no physical address"),
        }
    }

    unsafe fn unshare(_: u64, _: NonNull<[u8]>, _: BufferDirection) {}
}
