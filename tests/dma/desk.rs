//! What the tests share: the model device, a domain and an endpoint in it, and what it costs and
//! does.

use std::sync::Arc;

use virtio_iommu::dma::{DmaBuffer, DmaDevice, DmaLimits, PageBuf};
use virtio_iommu::{DomainOptions, Options, PhysAddr};

use crate::model::platform::ModelPlatform;
use crate::model::requests::Request;
use crate::model::spec::REQUEST_QUEUE;
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::rig::{self, TestDomain, TestIommu, endpoint};

pub type Device = DmaDevice<ModelPlatform>;
pub type Buf = PageBuf<ModelPlatform>;

/// One endpoint in one domain, and the others without one.
///
/// Fields are dropped in this order: the model, which counts pages, comes last.
pub struct Desk {
    pub device: Device,
    pub domain: Arc<TestDomain>,
    pub iommu: TestIommu,
    /// Pages of rings and requests.
    pub own_pages: usize,
    pub model: Model,
}

impl Desk {
    pub fn new() -> Self {
        Self::with(DomainOptions::new(256), DmaLimits::default())
    }

    pub fn with(options: DomainOptions, limits: DmaLimits) -> Self {
        Self::on(wide_model(), options, limits)
    }

    pub fn on(model: Model, options: DomainOptions, limits: DmaLimits) -> Self {
        Self::tuned(model, options, limits, Options::default())
    }

    pub fn tuned(model: Model, domain: DomainOptions, limits: DmaLimits, options: Options) -> Self {
        let iommu = rig::try_start_with(&model, &[PLAIN, OTHER, RESERVING], options).unwrap();
        let own_pages = model.ram().live_pages();
        let domain = Arc::new(iommu.create_domain(domain).unwrap());
        let device = DmaDevice::attach(&domain, endpoint(PLAIN), limits).unwrap();
        Self {
            device,
            domain,
            iommu,
            own_pages,
            model,
        }
    }

    pub fn alloc(&self, pages: usize) -> Buf {
        self.device.alloc(pages * 0x1000).expect("memory")
    }

    /// Pages filled with one byte.
    pub fn filled(&self, pages: usize, byte: u8) -> Buf {
        let mut buffer = self.alloc(pages);
        buffer.fill(byte);
        buffer
    }

    /// Pages of buffers that are not given back.
    pub fn pages(&self) -> usize {
        self.model.ram().live_pages() - self.own_pages
    }

    /// Mappings at the device.
    pub fn at_device(&self) -> usize {
        let mappings = self.model.mappings(self.domain.id().0);
        mappings.map_or(0, |list| list.len())
    }

    /// The requests and the notifications that `work` takes.
    pub fn cost<R>(&self, work: impl FnOnce() -> R) -> (R, Vec<Request>, u64) {
        let kicks = || self.model.with(|d| d.kicks(REQUEST_QUEUE));
        let before = kicks();
        let (result, requests) = self.model.requests_during(work);
        (result, requests, kicks() - before)
    }

    /// The endpoint reads; `None` if a byte is out of its reach.
    pub fn dma_read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = self.model.with(|d| d.dma_read(PLAIN, at, len));
        bytes.into_iter().collect()
    }

    /// The endpoint writes; how many bytes land.
    pub fn dma_write(&self, at: u64, bytes: &[u8]) -> usize {
        self.model.with(|d| d.dma_write(PLAIN, at, bytes))
    }

    /// The endpoint carries out a write that it translated before, perhaps long ago.
    pub fn late_write(&self, phys: u64, bytes: &[u8]) {
        assert!(self.model.ram().write(phys, bytes));
    }

    /// What is at a physical address.
    pub fn peek(&self, phys: u64, len: usize) -> Vec<u8> {
        self.model.ram().read(phys, len).expect("memory")
    }

    /// Nothing is mapped, quarantined, put off or held.
    pub fn assert_empty(&self) {
        assert_eq!((self.domain.mapped(), self.domain.deferred()), (0, 0));
        assert_eq!((self.domain.quarantined(), self.domain.lost()), (0, 0));
        assert_eq!(self.at_device(), 0, "mappings at the device");
        assert_eq!(self.pages(), 0, "pages");
    }

    /// Ends the quarantine; how many were released and kept.
    pub fn release(&self) -> (usize, usize) {
        // SAFETY: the endpoints are functions of the test, which call no more.
        let released = unsafe { self.domain.release_quarantine() };
        (released.released, released.kept)
    }
}

/// A model with a ring that has room for a batch of 64 requests.
pub fn wide_model() -> Model {
    let model = Model::new();
    model.with(|d| d.knobs.queue_sizes = [256, 64]);
    model
}

/// Where a buffer begins in physical memory.
pub fn phys_of(buffer: &impl DmaBuffer) -> u64 {
    let PhysAddr(start) = buffer.pieces().next().expect("a piece").phys.start();
    start
}

/// Whether a request is a MAP or an UNMAP, and of which addresses.
pub fn kinds(requests: &[Request]) -> String {
    let letter = |request: &Request| match request {
        Request::Map { .. } => 'M',
        Request::Unmap { .. } => 'U',
        _ => '?',
    };
    requests.iter().map(letter).collect()
}
