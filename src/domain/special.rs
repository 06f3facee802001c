//! Address spaces in which nothing is mapped by drivers: none, one to one, untranslated.

use alloc::vec::Vec;

use lock_api::Mutex;

use super::{AttachError, CreateError, Domain, DomainOptions, MapError};
use crate::address::{DomainId, EndpointId, Iova, IovaRange, PhysAddr, PhysRange};
use crate::device::Iommu;
use crate::platform::Platform;
use crate::wire::{Access, AttachFlags, Features};

/// An address space in which there is nothing: its endpoints reach no memory, and what they try is
/// reported.
///
/// For an endpoint that misbehaves: unlike DETACH, it does not depend on what the IOMMU does with
/// endpoints that have no domain. Accesses that an endpoint began before may still be carried out.
pub struct BlockedDomain<P: Platform>(Domain<P>);

/// An address space in which endpoints reach some ranges of memory, at their physical addresses.
///
/// The ranges are exposed for as long as an endpoint is attached. No hole is around them: where
/// devices look one byte too far, an access that begins just below a range may reach the byte
/// before it, which is not in the range.
pub struct IdentityDomain<P: Platform> {
    domain: Domain<P>,
    ranges: Vec<PhysRange>,
    access: Access,
    /// The ranges are mapped. Held while an endpoint is being attached.
    mapped: Mutex<P::Lock, Mapped>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    No,
    InProgress,
    Yes,
}

/// An address space whose endpoints are not translated: they reach all memory (§5.13.6.3,
/// VIRTIO_IOMMU_ATTACH_F_BYPASS).
pub struct BypassDomain<P: Platform>(Domain<P>);

macro_rules! membership {
    ($domain:ident, $inner:tt) => {
        impl<P: Platform> core::fmt::Debug for $domain<P> {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($domain))
                    .field("id", &self.id())
                    .finish_non_exhaustive()
            }
        }

        impl<P: Platform> $domain<P> {
            /// The id under which the device knows the domain.
            #[must_use]
            pub fn id(&self) -> DomainId {
                self.$inner.id()
            }

            /// How many endpoints are attached, or may be.
            #[must_use]
            pub fn endpoints(&self) -> usize {
                self.$inner.endpoints()
            }

            /// Takes an endpoint, and all others of its isolation group, out of the domain: they
            /// reach nothing afterwards.
            ///
            /// # Errors
            ///
            /// [`AttachError`]; the group then still counts as attached.
            pub fn detach(&self, endpoint: EndpointId) -> Result<(), AttachError> {
                self.$inner.detach(endpoint)
            }
        }
    };
}

membership!(BlockedDomain, 0);
membership!(BypassDomain, 0);
membership!(IdentityDomain, domain);

impl<P: Platform> BlockedDomain<P> {
    /// Puts an endpoint, and all others of its isolation group, where they reach nothing but their
    /// MSI regions. Allocates.
    ///
    /// # Errors
    ///
    /// [`AttachError`]: all of the group or none is attached.
    pub fn attach(&self, endpoint: EndpointId) -> Result<(), AttachError> {
        self.0.attach(endpoint)
    }
}

impl<P: Platform> BypassDomain<P> {
    /// Lets an endpoint, and all others of its isolation group, reach all memory. Allocates.
    ///
    /// # Errors
    ///
    /// [`AttachError`]: all of the group or none is attached.
    ///
    /// # Safety
    ///
    /// From now on these endpoints may read and write any memory at any time. The caller promises
    /// that their drivers, and what is behind the endpoints, use none but what they were given.
    pub unsafe fn attach(&self, endpoint: EndpointId) -> Result<(), AttachError> {
        self.0.attach(endpoint)
    }
}

impl<P: Platform> IdentityDomain<P> {
    /// Puts an endpoint, and all others of its isolation group, into the domain. What the first
    /// endpoint cannot be mapped at, because it is reserved or out of range, is left out: see
    /// [`translate`](Self::translate). Allocates.
    ///
    /// # Errors
    ///
    /// [`AttachError`]: all of the group or none is attached. [`AttachError::Busy`] while another
    /// CPU attaches the first endpoint; [`AttachError::Identity`] if the ranges cannot be mapped.
    pub fn attach(&self, endpoint: EndpointId) -> Result<(), AttachError> {
        let before = {
            let mut mapped = self.mapped.lock();
            match *mapped {
                Mapped::InProgress => return Err(AttachError::Busy),
                before => {
                    *mapped = Mapped::InProgress;
                    before
                }
            }
        };
        let mut now = before;
        let mut outcome = self.domain.attach(endpoint);
        if outcome.is_ok() && before == Mapped::No {
            match self.map_all(endpoint) {
                Ok(()) => now = Mapped::Yes,
                Err(error) => {
                    outcome = self
                        .domain
                        .detach(endpoint)
                        .and(Err(AttachError::Identity(error)));
                }
            }
        }
        *self.mapped.lock() = now;
        outcome
    }

    /// Where an access of an endpoint to `iova` goes, and which accesses are allowed: to the same
    /// address, or nowhere.
    #[must_use]
    pub fn translate(&self, iova: Iova) -> Option<(PhysAddr, Access)> {
        self.domain.translate(iova)
    }

    /// Maps what can be mapped of the ranges; all of that, or nothing.
    fn map_all(&self, endpoint: EndpointId) -> Result<(), MapError> {
        let mut done = Vec::new();
        for range in &self.ranges {
            for piece in self.mappable(endpoint, *range) {
                let phys = PhysRange::new(PhysAddr(piece.start().0), PhysAddr(piece.end().0));
                let phys = phys.ok_or(MapError::OutOfRange)?;
                // SAFETY: whoever made the domain has promised that the endpoints may use it.
                match unsafe { self.domain.map_at(piece.start(), phys, self.access) } {
                    Ok(mapping) => done.push(mapping),
                    Err(error) => {
                        let undone = self.domain.unmap_all(&done);
                        return match undone {
                            Ok(()) => Err(error),
                            Err(_) => Err(MapError::Busy),
                        };
                    }
                }
            }
        }
        Ok(())
    }

    /// The parts of a range that are no reserved region of the group of `endpoint`, and that the
    /// device translates.
    fn mappable(&self, endpoint: EndpointId, range: PhysRange) -> Vec<IovaRange> {
        let usable = self.domain.usable_range();
        let granule = self.domain.granule();
        let start = Iova(range.start().0).max(usable.start());
        let end = Iova(range.end().0).min(usable.end());
        let mut rest: Vec<IovaRange> = IovaRange::new(start, end).into_iter().collect();
        for hole in self.domain.holes_for(endpoint) {
            rest = rest
                .into_iter()
                .flat_map(|part| without(part, hole))
                .collect();
        }
        rest.retain(|part| {
            part.start().0.is_multiple_of(granule) && (part.end().0 & (granule - 1)) == granule - 1
        });
        rest
    }
}

/// What is left of a range without another.
fn without(range: IovaRange, hole: IovaRange) -> impl Iterator<Item = IovaRange> {
    if !range.overlaps(&hole) {
        return [Some(range), None].into_iter().flatten();
    }
    let below = hole
        .start()
        .0
        .checked_sub(1)
        .and_then(|last| IovaRange::new(range.start(), Iova(last)));
    let above = hole
        .end()
        .0
        .checked_add(1)
        .and_then(|first| IovaRange::new(Iova(first), range.end()));
    [below, above].into_iter().flatten()
}

impl<P: Platform> Iommu<P> {
    /// An address space in which there is nothing.
    ///
    /// # Errors
    ///
    /// As [`create_domain`](Self::create_domain).
    pub fn create_blocked_domain(&self) -> Result<BlockedDomain<P>, CreateError> {
        self.create_domain(bare(0)).map(BlockedDomain)
    }

    /// An address space in which endpoints reach `ranges`, whole granules, at their physical
    /// addresses, as far as these are translated and not reserved. Allocates.
    ///
    /// # Errors
    ///
    /// As [`create_domain`](Self::create_domain).
    ///
    /// # Safety
    ///
    /// As for [`Domain::map`], for all of the ranges, and for as long as an endpoint is attached.
    pub unsafe fn create_identity_domain(
        &self,
        ranges: &[PhysRange],
        access: Access,
    ) -> Result<IdentityDomain<P>, CreateError> {
        // Each reserved region may cut a range in two.
        let holes: usize = self
            .endpoints()
            .filter_map(|endpoint| self.reserved_regions(endpoint))
            .map(<[_]>::len)
            .sum();
        Ok(IdentityDomain {
            domain: self.create_domain(bare(ranges.len() + holes))?,
            ranges: ranges.to_vec(),
            access,
            mapped: Mutex::new(Mapped::No),
        })
    }

    /// An address space whose endpoints are not translated, and reach all memory.
    ///
    /// # Errors
    ///
    /// As [`create_domain`](Self::create_domain); [`CreateError::BypassUnsupported`] if the device
    /// has no such domains (BYPASS_CONFIG).
    pub fn create_bypass_domain(&self) -> Result<BypassDomain<P>, CreateError> {
        if !self.features().contains(Features::BYPASS_CONFIG) {
            return Err(CreateError::BypassUnsupported);
        }
        let mut domain = self.create_domain(bare(0))?;
        domain.set_flags(AttachFlags::BYPASS);
        Ok(BypassDomain(domain))
    }
}

/// Room for so many mappings, and for nothing else.
const fn bare(mappings: usize) -> DomainOptions {
    DomainOptions::new(mappings)
        .with_quarantine(0)
        .with_deferred(0, core::time::Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_cut_out_byte_by_byte() {
        for start in 0..6_u64 {
            for end in start..6 {
                for from in 0..6_u64 {
                    for to in from..6 {
                        let range = IovaRange::new(Iova(start), Iova(end)).unwrap();
                        let hole = IovaRange::new(Iova(from), Iova(to)).unwrap();
                        let left: Vec<IovaRange> = without(range, hole).collect();
                        for at in 0..7 {
                            let inside = left.iter().filter(|part| part.contains(Iova(at))).count();
                            let wanted = range.contains(Iova(at)) && !hole.contains(Iova(at));
                            assert_eq!(inside, usize::from(wanted));
                        }
                    }
                }
            }
        }
    }
}
