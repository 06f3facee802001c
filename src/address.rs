//! Addresses, ids and ranges: newtypes that cannot be confused with each other.
//!
//! Every range is inclusive (`start..=end`), because `2^64 - 1` is a legal last address and the
//! length of the whole space does not fit in 64 bits.

#![forbid(unsafe_code)]

use core::fmt;

/// A guest-physical address, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr(pub u64);

/// An I/O virtual address, in bytes: what an endpoint puts on the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(pub u64);

/// Names an endpoint to the IOMMU (virtio 1.2 §5.13.2).
///
/// For a PCI function it usually is the requester id, but only the platform's description of the
/// topology says so (see [`topology`](crate::topology)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// Names a domain, that is an address space, to the IOMMU (virtio 1.2 §5.13.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! inclusive_range {
    ($(#[$doc:meta])* $name:ident of $address:ident($raw:ty)) => {
        $(#[$doc])*
        ///
        /// Inclusive at both ends and never inverted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            start: $address,
            end: $address,
        }

        #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
        impl $name {
            /// The range `start..=end`, or `None` if `end < start`.
            #[must_use]
            pub const fn new(start: $address, end: $address) -> Option<Self> {
                if end.0 < start.0 {
                    return None;
                }
                Some(Self { start, end })
            }

            /// The range that holds `unit` alone.
            #[must_use]
            pub const fn single(unit: $address) -> Self {
                Self { start: unit, end: unit }
            }

            /// The range of `len` units from `start`, or `None` if `len` is 0 or the last unit
            /// would lie beyond the type.
            #[must_use]
            pub const fn from_len(start: $address, len: $raw) -> Option<Self> {
                let Some(last) = len.checked_sub(1) else {
                    return None;
                };
                match start.0.checked_add(last) {
                    Some(end) => Some(Self { start, end: $address(end) }),
                    None => None,
                }
            }

            /// The first unit.
            #[must_use]
            pub const fn start(&self) -> $address {
                self.start
            }

            /// The last unit, which belongs to the range.
            #[must_use]
            pub const fn end(&self) -> $address {
                self.end
            }

            /// The number of units, or `None` for the whole space, which does not fit.
            #[must_use]
            pub const fn len(&self) -> Option<$raw> {
                (self.end.0 - self.start.0).checked_add(1)
            }

            /// Whether `unit` lies inside.
            #[must_use]
            pub const fn contains(&self, unit: $address) -> bool {
                self.start.0 <= unit.0 && unit.0 <= self.end.0
            }

            /// Whether all of `other` lies inside.
            #[must_use]
            pub const fn contains_range(&self, other: &Self) -> bool {
                self.start.0 <= other.start.0 && other.end.0 <= self.end.0
            }

            /// Whether the two ranges have a unit in common.
            #[must_use]
            pub const fn overlaps(&self, other: &Self) -> bool {
                self.start.0 <= other.end.0 && other.start.0 <= self.end.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}..={}", self.start, self.end)
            }
        }
    };
}

inclusive_range! {
    /// A range of I/O virtual addresses, in bytes.
    IovaRange of Iova(u64)
}
inclusive_range! {
    /// A range of guest-physical addresses, in bytes.
    PhysRange of PhysAddr(u64)
}
inclusive_range! {
    /// A range of domain ids.
    DomainRange of DomainId(u32)
}

/// `value` rounded up to a multiple of `align`, a power of two; `None` beyond 64 bits.
#[must_use]
pub(crate) const fn align_up(value: u64, align: u64) -> Option<u64> {
    match value.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_space_is_a_range_without_a_length() {
        let all = IovaRange::new(Iova(0), Iova(u64::MAX)).unwrap();
        assert_eq!(all.len(), None);
        assert!(all.contains(Iova(u64::MAX)));
        assert!(all.contains_range(&all));
    }

    #[test]
    fn inverted_empty_and_wrapping_ranges_do_not_exist() {
        assert_eq!(IovaRange::new(Iova(1), Iova(0)), None);
        assert_eq!(PhysRange::from_len(PhysAddr(0x1000), 0), None);
        assert_eq!(PhysRange::from_len(PhysAddr(u64::MAX), 2), None);
        let last = PhysRange::from_len(PhysAddr(u64::MAX), 1).unwrap();
        assert_eq!((last.start(), last.len()), (PhysAddr(u64::MAX), Some(1)));
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let a = IovaRange::from_len(Iova(0x1000), 0x1000).unwrap();
        let b = IovaRange::from_len(Iova(0x2000), 0x1000).unwrap();
        assert!(!a.overlaps(&b) && !b.overlaps(&a));
        let c = IovaRange::new(Iova(0x1fff), Iova(0x2000)).unwrap();
        assert!(a.overlaps(&c) && c.overlaps(&b));
    }

    #[test]
    fn aligning_stops_at_the_end_of_the_space() {
        assert_eq!(align_up(0x1001, 0x1000), Some(0x2000));
        assert_eq!(align_up(0x1000, 0x1000), Some(0x1000));
        assert_eq!(align_up(u64::MAX, 0x1000), None);
    }
}
