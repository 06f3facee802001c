//! Requests (§5.13.6): what the device reads.

use super::Access;
use crate::address::{DomainId, EndpointId, IovaRange, PhysAddr};
use bitflags::bitflags;
use core::fmt;

/// Size of the tail that the device writes behind each request, in bytes.
pub(crate) const TAIL_SIZE: u32 = 4;

const TYPE_ATTACH: u64 = 1;
const TYPE_DETACH: u64 = 2;
const TYPE_MAP: u64 = 3;
const TYPE_UNMAP: u64 = 4;
const TYPE_PROBE: u64 = 5;

bitflags! {
    /// Flags of an ATTACH request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct AttachFlags: u32 {
        /// Accesses of the endpoint pass untranslated.
        const BYPASS = 1 << 0;
    }
}

/// A request, made of values that were checked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Attach {
        domain: DomainId,
        endpoint: EndpointId,
        flags: AttachFlags,
    },
    Detach {
        domain: DomainId,
        endpoint: EndpointId,
    },
    Map {
        domain: DomainId,
        virt: IovaRange,
        phys_start: PhysAddr,
        access: Access,
    },
    Unmap {
        domain: DomainId,
        virt: IovaRange,
    },
    Probe {
        endpoint: EndpointId,
    },
}

/// The device-readable part of a request, as 64-bit words.
///
/// The words beyond, up to [`len`](Encoded::len), are 0; the last one may be half used.
pub(crate) struct Encoded {
    /// The first words, in the order of the CPU.
    pub(crate) words: [u64; ENCODED_WORDS],
    /// Length of the request, in bytes.
    pub(crate) len: u32,
}

/// The longest request but PROBE, in 64-bit words.
pub(crate) const ENCODED_WORDS: usize = 5;
/// A PROBE, in 64-bit words.
pub(crate) const PROBE_WORDS: usize = 9;

/// `low` at the lower address, `high` at the higher one.
const fn pair(low: u64, high: u32) -> u64 {
    low | (high as u64) << 32
}

impl Request {
    /// The domain that it is about.
    pub(crate) const fn domain(&self) -> Option<DomainId> {
        match *self {
            Self::Attach { domain, .. }
            | Self::Detach { domain, .. }
            | Self::Map { domain, .. }
            | Self::Unmap { domain, .. } => Some(domain),
            Self::Probe { .. } => None,
        }
    }

    /// The endpoint that it is about.
    pub(crate) const fn endpoint(&self) -> Option<EndpointId> {
        match *self {
            Self::Attach { endpoint, .. }
            | Self::Detach { endpoint, .. }
            | Self::Probe { endpoint } => Some(endpoint),
            Self::Map { .. } | Self::Unmap { .. } => None,
        }
    }

    /// Whether it is a PROBE, whose answer is longer than a tail.
    pub(crate) const fn is_probe(&self) -> bool {
        matches!(self, Self::Probe { .. })
    }

    /// Lays the request out as §5.13.6.3 to §5.13.6.7 say; all reserved bytes are 0.
    #[inline]
    pub(crate) const fn encode(&self) -> Encoded {
        let (words, len) = match *self {
            // head, domain | endpoint, flags | reserved[4]
            Self::Attach {
                domain,
                endpoint,
                flags,
            } => {
                let head = pair(TYPE_ATTACH, domain.0);
                ([head, pair(endpoint.0 as u64, flags.bits()), 0, 0, 0], 20)
            }
            // head, domain | endpoint, reserved[8]
            Self::Detach { domain, endpoint } => {
                let head = pair(TYPE_DETACH, domain.0);
                ([head, endpoint.0 as u64, 0, 0, 0], 20)
            }
            // head, domain | virt_start | virt_end | phys_start | flags
            Self::Map {
                domain,
                virt,
                phys_start,
                access,
            } => {
                let head = pair(TYPE_MAP, domain.0);
                let (start, end) = (virt.start().0, virt.end().0);
                ([head, start, end, phys_start.0, access.bits() as u64], 36)
            }
            // head, domain | virt_start | virt_end | reserved[4]
            Self::Unmap { domain, virt } => {
                let head = pair(TYPE_UNMAP, domain.0);
                ([head, virt.start().0, virt.end().0, 0, 0], 28)
            }
            // head, endpoint | reserved[64]
            Self::Probe { endpoint } => ([pair(TYPE_PROBE, endpoint.0), 0, 0, 0, 0], 72),
        };
        Encoded { words, len }
    }
}

/// The words that QEMU's trace uses, so that the two can be compared.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Attach {
                domain,
                endpoint,
                flags,
            } => write!(
                f,
                "attach domain={} endpoint={} flags={}",
                domain.0,
                endpoint.0,
                flags.bits()
            ),
            Self::Detach { domain, endpoint } => {
                write!(f, "detach domain={} endpoint={}", domain.0, endpoint.0)
            }
            Self::Map {
                domain,
                virt,
                phys_start,
                access,
            } => write!(
                f,
                "map domain={} virt_start={} virt_end={} phys_start={} flags={}",
                domain.0,
                virt.start(),
                virt.end(),
                phys_start,
                access.bits()
            ),
            Self::Unmap { domain, virt } => write!(
                f,
                "unmap domain={} virt_start={} virt_end={}",
                domain.0,
                virt.start(),
                virt.end()
            ),
            Self::Probe { endpoint } => write!(f, "probe endpoint={}", endpoint.0),
        }
    }
}
