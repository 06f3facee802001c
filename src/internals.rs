//! What the benchmarks need of the inside. Not part of the API: no promise of stability.

use alloc::sync::Arc;

pub use crate::iova::{IovaError, Slot, Space, Wish};

use crate::address::{DomainId, IovaRange, PhysRange};
use crate::device::{BATCH, RequestError, Shared};
use crate::domain::Domain;
use crate::platform::Platform;
use crate::wire::{Access, Request};

/// The request queue by itself: no ledger, no allocator, no checks.
pub struct Pipeline<P: Platform> {
    shared: Arc<Shared<P>>,
    domain: DomainId,
}

/// Where something is mapped, and what.
pub type Place = (IovaRange, PhysRange);

impl<P: Platform> Pipeline<P> {
    /// The queue of the IOMMU of `domain`, for requests about it.
    #[must_use]
    pub fn of(domain: &Domain<P>) -> Self {
        Self {
            shared: domain.shared().clone(),
            domain: domain.id(),
        }
    }

    #[inline(always)]
    fn map_request(&self, place: &Place, access: Access) -> Request {
        Request::Map {
            domain: self.domain,
            virt: place.0,
            phys_start: place.1.start(),
            access,
        }
    }

    #[inline(always)]
    fn unmap_request(&self, virt: IovaRange) -> Request {
        Request::Unmap {
            domain: self.domain,
            virt,
        }
    }

    fn all<const N: usize>(
        &self,
        requests: impl Iterator<Item = Request> + Clone,
    ) -> Result<(), RequestError> {
        self.shared.execute::<N, _>(requests, |_, _| {})
    }

    /// Maps one page or more.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    ///
    /// # Safety
    ///
    /// As for [`Domain::map`]; the addresses are whole granules, in range, in no reserved region,
    /// and used by nobody, the domain included.
    #[inline(never)]
    pub unsafe fn map(&self, place: &Place, access: Access) -> Result<(), RequestError> {
        let [outcome] = self
            .shared
            .execute_few(|| [self.map_request(place, access)]);
        outcome
    }

    /// Maps many, with one notification for up to 64.
    ///
    /// # Errors
    ///
    /// The first [`RequestError`].
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map).
    #[inline(never)]
    pub unsafe fn map_all(&self, places: &[Place], access: Access) -> Result<(), RequestError> {
        self.all::<BATCH>(places.iter().map(|place| self.map_request(place, access)))
    }

    /// Unmaps one.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    ///
    /// # Safety
    ///
    /// The addresses were mapped by [`map`](Self::map).
    #[inline(never)]
    pub unsafe fn unmap(&self, place: &Place) -> Result<(), RequestError> {
        let [outcome] = self.shared.execute_few(|| [self.unmap_request(place.0)]);
        outcome
    }

    /// Unmaps many, with one notification for up to 64.
    ///
    /// # Errors
    ///
    /// The first [`RequestError`].
    ///
    /// # Safety
    ///
    /// As for [`unmap`](Self::unmap).
    #[inline(never)]
    pub unsafe fn unmap_all(&self, places: &[Place]) -> Result<(), RequestError> {
        self.all::<BATCH>(places.iter().map(|place| self.unmap_request(place.0)))
    }

    /// Unmaps one and maps another, with one notification.
    ///
    /// # Errors
    ///
    /// The first [`RequestError`].
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map) and [`unmap`](Self::unmap).
    #[inline(never)]
    pub unsafe fn exchange(
        &self,
        old: IovaRange,
        new: &Place,
        access: Access,
    ) -> Result<(), RequestError> {
        let make = || [self.unmap_request(old), self.map_request(new, access)];
        let [unmapped, mapped] = self.shared.execute_few(make);
        unmapped.and(mapped)
    }
}

/// The readers of what a device writes, for the fuzz targets.
pub mod parse {
    use alloc::vec::Vec;

    use crate::wire::{
        ConfigError, Fault, Features, Geometry, ProbeError, RawConfig, ReservedRegion, offset,
    };

    /// A list of properties.
    ///
    /// # Errors
    ///
    /// [`ProbeError`].
    pub fn properties(list: &[u8]) -> Result<Vec<ReservedRegion>, ProbeError> {
        crate::wire::parse_properties(list)
    }

    /// A fault record; `None` if it has to be ignored.
    #[must_use]
    pub fn event(record: &[u8; 24]) -> Option<Fault> {
        crate::wire::parse_event(record)
    }

    /// 36 bytes of a configuration, and the features that are offered with it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn geometry(bytes: &[u8; 44]) -> Result<Geometry, ConfigError> {
        let u32_at = |offset: usize| {
            let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
            field.map_or(0, |field| u32::from_le_bytes(*field))
        };
        let u64_at = |offset| u64::from(u32_at(offset)) | u64::from(u32_at(offset + 4)) << 32;
        let offered = u64_at(36);
        let given = |feature| Features::describes(offered, feature);
        Geometry::new(RawConfig {
            page_size_mask: u64_at(offset::PAGE_SIZE_MASK),
            input_range: given(Features::INPUT_RANGE).then(|| {
                (
                    u64_at(offset::INPUT_RANGE_START),
                    u64_at(offset::INPUT_RANGE_END),
                )
            }),
            domain_range: given(Features::DOMAIN_RANGE).then(|| {
                (
                    u32_at(offset::DOMAIN_RANGE_START),
                    u32_at(offset::DOMAIN_RANGE_END),
                )
            }),
            probe_size: given(Features::PROBE).then(|| u32_at(offset::PROBE_SIZE)),
        })
    }
}
