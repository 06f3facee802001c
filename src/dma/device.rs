//! One endpoint, as its driver sees it: what can do DMA, and where.

use alloc::sync::Arc;

use thiserror::Error;

use super::buffer::PageBuf;
use crate::address::{EndpointId, Iova};
use crate::domain::{AttachError, Domain};
use crate::platform::Platform;

/// What an endpoint can put on the bus. By default there are no limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaLimits {
    /// The last address that it can reach: its DMA mask.
    pub mask: u64,
    /// Alignment of the first address of each mapping, in bytes, a power of two.
    pub align: u64,
    /// No segment crosses a multiple of so many bytes, a power of two from the granule on. 0 is
    /// no boundary.
    pub boundary: u64,
    /// The longest segment, in bytes, at least 1.
    pub max_segment: u64,
}

impl Default for DmaLimits {
    fn default() -> Self {
        Self::address_bits(64)
    }
}

impl DmaLimits {
    /// An endpoint with so many address bits, up to 64.
    #[must_use]
    pub const fn address_bits(bits: u32) -> Self {
        Self {
            mask: if bits >= 64 {
                u64::MAX
            } else {
                (1 << bits) - 1
            },
            align: 1,
            boundary: 0,
            max_segment: u64::MAX,
        }
    }

    /// Mappings begin at multiples of `align` bytes.
    #[must_use]
    pub const fn with_align(mut self, align: u64) -> Self {
        self.align = align;
        self
    }

    /// No segment crosses a multiple of `boundary` bytes.
    #[must_use]
    pub const fn with_boundary(mut self, boundary: u64) -> Self {
        self.boundary = boundary;
        self
    }

    /// No segment is longer than `max_segment` bytes.
    #[must_use]
    pub const fn with_max_segment(mut self, max_segment: u64) -> Self {
        self.max_segment = max_segment;
        self
    }
}

/// The limits, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) mask: Iova,
    pub(super) align: u64,
    pub(super) boundary: u64,
    pub(super) max_segment: u64,
}

/// What the handles and the mappings of an endpoint share.
pub(super) struct Port<P: Platform> {
    pub(super) domain: Arc<Domain<P>>,
    pub(super) limits: Limits,
    endpoint: EndpointId,
}

/// Why an endpoint cannot do DMA in a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DmaError {
    /// It was not attached.
    #[error("{0}")]
    Attach(#[from] AttachError),
    /// It reaches no address that the IOMMU translates.
    #[error("the endpoint reaches no address that is translated")]
    Mask,
    /// An alignment or a boundary that is no power of two, a boundary below the granule, or a
    /// longest segment of 0 bytes.
    #[error("the limits of the endpoint make no sense")]
    Limits,
}

/// An endpoint in an address space: what its driver maps buffers with. A handle, cheap to clone.
///
/// # Contexts
///
/// Mapping and unmapping wait for the device, without a lock, for up to
/// [`Options::timeout`](crate::Options::timeout); dropping a [`Mapping`](super::Mapping) does, too.
/// So they do not belong in an interrupt handler. Several CPUs may use one handle at once.
pub struct DmaDevice<P: Platform> {
    port: Arc<Port<P>>,
}

impl<P: Platform> Clone for DmaDevice<P> {
    fn clone(&self) -> Self {
        Self {
            port: self.port.clone(),
        }
    }
}

impl<P: Platform> core::fmt::Debug for DmaDevice<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DmaDevice")
            .field("endpoint", &self.endpoint())
            .field("domain", &self.domain().id())
            .finish_non_exhaustive()
    }
}

impl<P: Platform> DmaDevice<P> {
    /// The endpoint in `domain`, to which it is attached unless it is already.
    ///
    /// It stays attached until [`detach`](Self::detach), or until the domain is gone, which lives
    /// as long as one of its handles or mappings. Allocates.
    ///
    /// # Errors
    ///
    /// [`DmaError`]; the endpoint is not attached then.
    pub fn attach(
        domain: &Arc<Domain<P>>,
        endpoint: EndpointId,
        limits: DmaLimits,
    ) -> Result<Self, DmaError> {
        let granule = domain.granule();
        let DmaLimits {
            mask,
            align,
            boundary,
            max_segment,
        } = limits;
        let boundary_is_odd = boundary != 0 && (!boundary.is_power_of_two() || boundary < granule);
        if !align.is_power_of_two() || boundary_is_odd || max_segment == 0 {
            return Err(DmaError::Limits);
        }
        let first = domain.usable_range().start();
        if first
            .0
            .checked_add(granule - 1)
            .is_none_or(|last| mask < last)
        {
            return Err(DmaError::Mask);
        }
        match domain.attach(endpoint) {
            Ok(()) => {}
            Err(AttachError::Attached(owner)) if owner == domain.id() => {}
            Err(error) => return Err(error.into()),
        }
        let port = Port {
            domain: domain.clone(),
            limits: Limits {
                mask: Iova(mask),
                align,
                boundary,
                max_segment,
            },
            endpoint,
        };
        Ok(Self {
            port: Arc::new(port),
        })
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        self.port.endpoint
    }

    /// The address space. Other endpoints may be in it, too: what is mapped, is mapped for all.
    #[must_use]
    pub fn domain(&self) -> &Arc<Domain<P>> {
        &self.port.domain
    }

    #[inline]
    pub(super) fn port(&self) -> &Arc<Port<P>> {
        &self.port
    }

    #[inline]
    pub(super) fn limits(&self) -> &Limits {
        &self.port.limits
    }

    /// Zeroed pages that can be mapped, at least `bytes` bytes, rounded up to whole granules.
    ///
    /// `None` without memory for it.
    #[must_use]
    pub fn alloc(&self, bytes: usize) -> Option<PageBuf<P>> {
        PageBuf::new(
            self.domain().platform(),
            bytes,
            self.domain().granule(),
            false,
        )
    }

    /// The same, with a granule of memory in front that nobody uses: devices are known to look one
    /// byte too far, and to end up there.
    pub(crate) fn alloc_guarded(&self, bytes: usize) -> Option<PageBuf<P>> {
        PageBuf::new(
            self.domain().platform(),
            bytes,
            self.domain().granule(),
            true,
        )
    }

    /// Whether mappings can be told as one segment each, whatever their length.
    #[cfg(feature = "virtio-drivers")]
    pub(crate) fn takes_any_segment(&self) -> bool {
        self.limits().boundary == 0 && self.limits().max_segment == u64::MAX
    }

    /// Takes the endpoint, and all others of its isolation group, out of the address space.
    ///
    /// Mappings stay, for whoever else is in it, and for the next who comes.
    ///
    /// # Errors
    ///
    /// [`AttachError`], as [`Domain::detach`].
    pub fn detach(self) -> Result<(), AttachError> {
        self.domain().detach(self.endpoint())
    }
}
