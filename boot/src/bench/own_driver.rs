//! The driver under test, by its public API: allocator, ledger, locks and all.

use core::ops::Range;

use virtio_iommu::{Access, Domain, Iova, IovaRange, MapError, MapOptions, PhysRange, UnmapError};

use super::subject::{PAGES, Subject};
use crate::platform::KernelPlatform;

/// Where [`Subject::map_at`] maps: on every machine inside of what the device translates.
const CHOSEN: u64 = 0x1000_0000;

/// A domain with an endpoint that does nothing.
pub struct OwnDomain<'a> {
    domain: &'a Domain<KernelPlatform>,
    pages: &'a [PhysRange; PAGES],
    mapped: [IovaRange; PAGES],
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// No mapping.
    Map(MapError),
    /// No end of one.
    Unmap(UnmapError),
}

impl<'a> OwnDomain<'a> {
    /// The domain has no mappings, and room for [`PAGES`].
    pub fn new(domain: &'a Domain<KernelPlatform>, pages: &'a [PhysRange; PAGES]) -> Self {
        Self {
            domain,
            pages,
            mapped: [IovaRange::single(Iova(0)); PAGES],
        }
    }
}

const fn access() -> Access {
    Access::READ.union(Access::WRITE)
}

impl Subject for OwnDomain<'_> {
    type Error = DomainError;

    const RIVAL: &'static str = "domain";

    fn map(&mut self, pages: Range<usize>) -> Result<(), DomainError> {
        let memory = &self.pages[pages.clone()];
        let mapped = &mut self.mapped[pages];
        let options = MapOptions::new(access());
        // SAFETY: the endpoint does nothing, and the pages outlive the domain.
        unsafe { self.domain.map_all(memory, options, mapped) }.map_err(DomainError::Map)
    }

    fn unmap(&mut self, pages: Range<usize>) -> Result<(), DomainError> {
        self.domain
            .unmap_all(&self.mapped[pages])
            .map_err(DomainError::Unmap)
    }

    fn exchange(&mut self, page: usize) -> Result<(), DomainError> {
        self.unmap(page..page + 1)?;
        self.map(page..page + 1)
    }

    fn map_at(&mut self, page: usize) -> Option<Result<(), DomainError>> {
        // With a gap behind each.
        let iova = Iova(CHOSEN + 2 * 4096 * page as u64);
        // SAFETY: as above.
        let result = unsafe { self.domain.map_at(iova, self.pages[page], access()) };
        let result = result.map_err(DomainError::Map);
        Some(result.map(|mapped| self.mapped[page] = mapped))
    }
}
