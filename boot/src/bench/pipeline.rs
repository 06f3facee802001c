//! The request queue of the driver by itself: no allocator, no ledger, as the rival has none.

use core::ops::Range;

use virtio_iommu::internals::{Pipeline, Place};
use virtio_iommu::{Access, Domain, Iova, IovaRange, PhysRange, RequestError};

use super::subject::{PAGES, Subject};
use crate::platform::KernelPlatform;

/// Where the pages are mapped: on every machine inside of what the device translates.
const BASE: u64 = 0x2000_0000;

/// A domain with an endpoint that does nothing, behind its own back.
pub struct Queue {
    pipeline: Pipeline<KernelPlatform>,
    places: [Place; PAGES],
}

impl Queue {
    /// The domain has no mappings.
    pub fn new(domain: &Domain<KernelPlatform>, pages: &[PhysRange; PAGES]) -> Self {
        Self {
            pipeline: Pipeline::of(domain),
            places: core::array::from_fn(|i| {
                let start = Iova(BASE + 2 * 4096 * i as u64);
                let iova = IovaRange::from_len(start, 4096);
                (iova.unwrap_or(IovaRange::single(start)), pages[i])
            }),
        }
    }
}

const fn access() -> Access {
    Access::READ.union(Access::WRITE)
}

impl Subject for Queue {
    type Error = RequestError;

    const RIVAL: &'static str = "pipeline";

    fn map(&mut self, pages: Range<usize>) -> Result<(), RequestError> {
        match &self.places[pages] {
            // SAFETY: the endpoint does nothing, and nobody else maps in the domain.
            [place] => unsafe { self.pipeline.map(place, access()) },
            // SAFETY: as above.
            places => unsafe { self.pipeline.map_all(places, access()) },
        }
    }

    fn unmap(&mut self, pages: Range<usize>) -> Result<(), RequestError> {
        match &self.places[pages] {
            // SAFETY: `map` has mapped it.
            [place] => unsafe { self.pipeline.unmap(place) },
            // SAFETY: as above.
            places => unsafe { self.pipeline.unmap_all(places) },
        }
    }

    fn exchange(&mut self, page: usize) -> Result<(), RequestError> {
        let place = &self.places[page];
        // The page goes back to where it was: the device does one after the other, in order.
        // SAFETY: as above.
        unsafe { self.pipeline.exchange(place.0, place, access()) }
    }

    fn map_at(&mut self, _: usize) -> Option<Result<(), RequestError>> {
        None
    }
}
