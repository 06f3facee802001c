//! A [`Platform`] out of what a user of `virtio-drivers` has already.

use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal};

use super::{PAGE_SIZE, Pages, Platform};
use crate::address::PhysAddr;

/// A [`Platform`] made from a [`Hal`], a lock, a clock and an address translation.
///
/// `H` must be the [`Hal`] that gives out *physical* addresses: the rings of the IOMMU are never
/// behind itself. A `Hal` cannot ask for an alignment beyond [`PAGE_SIZE`], so memory for larger
/// granules is only found if the pages happen to be aligned, as those of buddy allocators are.
pub struct HalPlatform<H, L> {
    now: fn() -> u64,
    virt_to_phys: fn(NonNull<u8>) -> Option<PhysAddr>,
    parts: PhantomData<fn() -> (H, L)>,
}

impl<H: Hal, L> HalPlatform<H, L> {
    /// A platform with `H`'s pages.
    ///
    /// # Safety
    ///
    /// `now` and `virt_to_phys` fulfil the promises of [`Platform::now`] and
    /// [`Platform::virt_to_phys`], and the addresses that `H` gives out are physical ones.
    pub const unsafe fn new(
        now: fn() -> u64,
        virt_to_phys: fn(NonNull<u8>) -> Option<PhysAddr>,
    ) -> Self {
        Self {
            now,
            virt_to_phys,
            parts: PhantomData,
        }
    }
}

// SAFETY: `Hal` makes the same promises about its pages, the alignment is checked, and the caller
// of `new` vouches for the rest.
unsafe impl<H, L> Platform for HalPlatform<H, L>
where
    H: Hal + 'static,
    L: lock_api::RawMutex + Send + Sync + 'static,
{
    type Lock = L;

    fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages> {
        let (phys, virt) = H::dma_alloc(pages.get(), BufferDirection::Both);
        // 0 is how a `Hal` says that there is nothing left.
        if phys == 0 {
            return None;
        }
        let aligned = align <= PAGE_SIZE
            || phys.is_multiple_of(align as u64) && virt.addr().get().is_multiple_of(align);
        if !aligned {
            // SAFETY: `dma_alloc` gave these values, and nobody has seen them since.
            unsafe { H::dma_dealloc(phys, virt, pages.get()) };
            return None;
        }
        Some(Pages {
            phys: PhysAddr(phys),
            virt,
        })
    }

    unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, _align: usize) {
        // SAFETY: `alloc_pages` got these values from `dma_alloc`; the caller vouches for the rest.
        let result = unsafe { H::dma_dealloc(memory.phys.0, memory.virt, pages.get()) };
        if result != 0 {
            log::error!("{pages} pages at {} were not taken back", memory.phys);
        }
    }

    fn virt_to_phys(&self, virt: NonNull<u8>) -> Option<PhysAddr> {
        (self.virt_to_phys)(virt)
    }

    fn now(&self) -> u64 {
        (self.now)()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use core::cell::Cell;
    use virtio_drivers::PhysAddr as HalPhysAddr;

    std::thread_local! {
        /// What the next allocation returns, and how many pages are live.
        static NEXT: Cell<HalPhysAddr> = const { Cell::new(0) };
        static LIVE: Cell<usize> = const { Cell::new(0) };
    }

    /// Physical addresses are virtual ones plus this.
    const OFFSET: u64 = 0x1000_0000;

    struct FakeHal;

    // SAFETY: nobody accesses the memory that it pretends to give out.
    unsafe impl Hal for FakeHal {
        fn dma_alloc(pages: usize, _: BufferDirection) -> (HalPhysAddr, NonNull<u8>) {
            let phys = NEXT.get();
            if phys == 0 {
                return (0, NonNull::dangling());
            }
            LIVE.set(LIVE.get() + pages);
            let virt = usize::try_from(phys - OFFSET).unwrap();
            (phys, NonNull::without_provenance(virt.try_into().unwrap()))
        }

        unsafe fn dma_dealloc(_: HalPhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
            LIVE.set(LIVE.get() - pages);
            0
        }

        unsafe fn mmio_phys_to_virt(_: HalPhysAddr, _: usize) -> NonNull<u8> {
            unimplemented!("no transport is made")
        }

        unsafe fn share(_: NonNull<[u8]>, _: BufferDirection) -> HalPhysAddr {
            unimplemented!("the driver shares nothing")
        }

        unsafe fn unshare(_: HalPhysAddr, _: NonNull<[u8]>, _: BufferDirection) {
            unimplemented!("the driver shares nothing")
        }
    }

    #[test]
    fn pages_of_a_hal_are_checked_for_what_it_cannot_promise() {
        // SAFETY: the clock stands still, which is monotonic; no memory is ever accessed.
        let platform =
            unsafe { HalPlatform::<FakeHal, spin::mutex::SpinMutex<()>>::new(|| 7, |_| None) };
        let three = NonZeroUsize::new(3).unwrap();
        assert_eq!(platform.alloc_pages(three, PAGE_SIZE), None);

        NEXT.set(OFFSET + 0x1_1000);
        let pages = platform.alloc_pages(three, PAGE_SIZE).unwrap();
        assert_eq!(pages.phys, PhysAddr(OFFSET + 0x1_1000));
        assert_eq!(LIVE.get(), 3);
        assert_eq!(platform.alloc_pages(three, 0x1_0000), None);
        assert_eq!(LIVE.get(), 3);
        // SAFETY: from `alloc_pages`, with the same size and alignment.
        unsafe { platform.dealloc_pages(pages, three, PAGE_SIZE) };
        assert_eq!(LIVE.get(), 0);

        NEXT.set(OFFSET + 0x2_0000);
        assert!(platform.alloc_pages(three, 0x1_0000).is_some());
        assert_eq!(platform.now(), 7);
    }
}
