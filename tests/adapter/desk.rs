//! What the tests share: the model IOMMU, a domain for each endpoint, and memory of the kernel.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use virtio_drivers::{BufferDirection, Hal, PhysAddr as HalPhysAddr};
use virtio_iommu::adapters::virtio_drivers::{
    AdapterOptions, BehindIommu, Endpoint, NotTranslated, Usage,
};
use virtio_iommu::dma::{DmaDevice, DmaLimits};
use virtio_iommu::{Domain, DomainOptions, EndpointId, Iommu, Options, Pages, PhysAddr, Platform};

use crate::fake::{Fake, FakeTransport, Kind};
use crate::model::platform::{ModelPlatform, WatchedLock};
use crate::model::requests::Request;
use crate::model::spec::REQUEST_QUEUE;
use crate::model::{Model, OTHER, PLAIN};

/// The platform of the model, with pages that a kernel may have scattered.
#[derive(Clone)]
pub struct TestPlatform {
    model: ModelPlatform,
    /// Which page is where in a group of four.
    order: Arc<AtomicUsize>,
    /// Memory from here on has no address for devices.
    secret: Arc<AtomicU64>,
}

/// Every page where it is.
pub const AS_THEY_ARE: [usize; 4] = [0, 1, 2, 3];
/// Neighbouring pages are exchanged.
const SWAPPED: [usize; 4] = [1, 0, 3, 2];

/// An order in one word.
fn packed(order: [usize; 4]) -> usize {
    order.iter().rev().fold(0, |word, to| word << 2 | to)
}

// SAFETY: the promises are those of the model's platform; while pages are exchanged, so are they in
// what the tests expect.
unsafe impl Platform for TestPlatform {
    type Lock = WatchedLock;

    fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages> {
        self.model.alloc_pages(pages, align)
    }

    unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.model.dealloc_pages(memory, pages, align) }
    }

    fn virt_to_phys(&self, virt: NonNull<u8>) -> Option<PhysAddr> {
        let phys = self.model.virt_to_phys(virt)?.0;
        if phys >= self.secret.load(Ordering::Relaxed) {
            return None;
        }
        let page = phys >> 12 & 3;
        let to = self.order.load(Ordering::Relaxed) >> (2 * page) & 3;
        Some(PhysAddr(phys & !0x3000 | (to as u64) << 12))
    }

    fn now(&self) -> u64 {
        self.model.now()
    }
}

/// The `Hal` that the kernel had: nothing but registers are asked of it.
pub struct OldHal;

// SAFETY: it gives out nothing.
unsafe impl Hal for OldHal {
    fn dma_alloc(_: usize, _: BufferDirection) -> (HalPhysAddr, NonNull<u8>) {
        panic!("memory around the IOMMU")
    }

    unsafe fn dma_dealloc(_: HalPhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        panic!("memory around the IOMMU")
    }

    unsafe fn mmio_phys_to_virt(paddr: HalPhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(std::ptr::without_provenance_mut(paddr as usize + 1)).unwrap()
    }

    unsafe fn share(_: NonNull<[u8]>, _: BufferDirection) -> HalPhysAddr {
        panic!("memory around the IOMMU")
    }

    unsafe fn unshare(_: HalPhysAddr, _: NonNull<[u8]>, _: BufferDirection) {
        panic!("memory around the IOMMU")
    }
}

/// The IOMMU, and a domain for each of two endpoints.
///
/// Fields are dropped in this order: the model, which counts pages, comes last.
pub struct Desk {
    pub domains: [Arc<Domain<TestPlatform>>; 2],
    pub iommu: Iommu<TestPlatform>,
    pub platform: TestPlatform,
    /// Pages of the IOMMU's own.
    own: usize,
    pub model: Arc<Model>,
}

pub const ENDPOINTS: [u32; 2] = [PLAIN, OTHER];

impl Desk {
    pub fn new() -> Self {
        Self::with(DomainOptions::new(256))
    }

    pub fn with(options: DomainOptions) -> Self {
        let model = Arc::new(Model::new());
        model.with(|d| d.knobs.queue_sizes = [256, 64]);
        let platform = TestPlatform {
            model: model.platform(),
            order: Arc::new(packed(AS_THEY_ARE).into()),
            secret: Arc::new(u64::MAX.into()),
        };
        let list = ENDPOINTS.map(EndpointId);
        let iommu = Iommu::start(
            model.transport(),
            platform.clone(),
            &list,
            Options::default(),
        );
        let iommu = iommu.expect("a strict device starts");
        let domains = [0, 1].map(|_| Arc::new(iommu.create_domain(options).expect("a domain")));
        let own = model.ram().live_pages();
        Self {
            domains,
            iommu,
            platform,
            own,
            model,
        }
    }

    /// A device of the first or second endpoint, and that bound to `E`.
    pub fn device<E: Endpoint<Platform = TestPlatform>>(
        &self,
        which: usize,
        kind: Kind,
        options: AdapterOptions,
    ) -> Fake {
        let endpoint = EndpointId(ENDPOINTS[which]);
        let device = DmaDevice::attach(&self.domains[which], endpoint, DmaLimits::default());
        E::bind(device.expect("attached"), options).expect("bound");
        Fake::new(&self.model, ENDPOINTS[which], kind)
    }

    /// Whole pages of the kernel.
    pub fn pages(&self, count: usize) -> Buffer {
        let (phys, virt) = self.model.ram().allocate(count, 4096).expect("memory");
        Buffer {
            phys,
            virt,
            len: count * 4096,
            model: self.model.clone(),
        }
    }

    /// Exchanges neighbouring pages from now on.
    pub fn swap_pages(&self, swapped: bool) {
        self.arrange(if swapped { SWAPPED } else { AS_THEY_ARE });
    }

    /// Puts the pages of every group of four in another order from now on.
    pub fn arrange(&self, order: [usize; 4]) {
        self.platform.order.store(packed(order), Ordering::Relaxed);
    }

    /// Hides all memory from devices that begins at an address or behind it.
    pub fn hide_pages_from(&self, phys: u64) {
        self.platform.secret.store(phys, Ordering::Relaxed);
    }

    /// Pages that are not the IOMMU's own.
    pub fn live_pages(&self) -> usize {
        self.model.ram().live_pages() - self.own
    }

    /// The requests and the notifications of the IOMMU that `work` takes.
    pub fn cost<R>(&self, work: impl FnOnce() -> R) -> (R, String, u64) {
        let kicks = || self.model.with(|d| d.kicks(REQUEST_QUEUE));
        let before = kicks();
        let (result, requests) = self.model.requests_during(work);
        let letter = |request: &Request| match request {
            Request::Map { .. } => 'M',
            Request::Unmap { .. } => 'U',
            _ => '?',
        };
        (
            result,
            requests.iter().map(letter).collect(),
            kicks() - before,
        )
    }

    /// Mappings of an endpoint at the IOMMU.
    pub fn at_device(&self, which: usize) -> usize {
        let mappings = self.model.mappings(self.domains[which].id().0);
        mappings.map_or(0, |list| list.len())
    }

    /// Unbinds an endpoint, and looks for what is left of it.
    pub fn close<E: Endpoint<Platform = TestPlatform>>(&self, which: usize, fake: &Fake) {
        fake.assert_translated();
        let mut faults = 0;
        self.iommu.poll_faults(|_| faults += 1);
        assert_eq!(faults, 0, "reported faults");
        let device = E::unbind().expect("nothing in use");
        assert_eq!(device.endpoint(), EndpointId(ENDPOINTS[which]));
        let domain = &self.domains[which];
        assert_eq!((domain.mapped(), domain.deferred()), (0, 0));
        assert_eq!((domain.quarantined(), domain.lost()), (0, 0));
        assert_eq!(self.at_device(which), 0, "mappings at the IOMMU");
        assert_eq!(E::usage(), Usage::default());
    }
}

/// A transport behind the IOMMU.
pub fn behind<E: Endpoint>(fake: &Fake) -> BehindIommu<E, FakeTransport> {
    open_transport(fake).expect("a device that goes along")
}

/// The same, or why not.
pub fn open_transport<E: Endpoint>(
    fake: &Fake,
) -> Result<BehindIommu<E, FakeTransport>, NotTranslated> {
    // SAFETY: it is the device that the endpoint is bound to, or nothing is bound.
    unsafe { BehindIommu::new(fake.transport()) }
}

/// Pages of the kernel, at an address that devices could be told.
pub struct Buffer {
    pub phys: u64,
    virt: NonNull<u8>,
    len: usize,
    model: Arc<Model>,
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the pages are the buffer's, and the model leaves them alone unless told.
        unsafe { std::slice::from_raw_parts(self.virt.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.virt.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.model.ram().free(self.phys, self.len / 4096, 4096);
    }
}
