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

/// The device-readable part of a request, as little-endian 64-bit words.
///
/// The last word may be half used: [`len`](Encoded::len) counts bytes.
pub(crate) struct Encoded {
    words: [u64; 9],
    len: u32,
}

impl Encoded {
    const fn new<const N: usize>(body: [u64; N], len: u32) -> Self {
        let mut words = [0; 9];
        let mut i = 0;
        while i < N {
            words[i] = body[i].to_le();
            i += 1;
        }
        Self { words, len }
    }

    /// The words that hold the request.
    pub(crate) fn words(&self) -> &[u64] {
        let used = self.len.div_ceil(8) as usize;
        self.words.get(..used).unwrap_or(&self.words)
    }

    /// Length of the request, in bytes.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }
}

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

    /// Lays the request out as §5.13.6.3 to §5.13.6.7 say; all reserved bytes are 0.
    pub(crate) fn encode(&self) -> Encoded {
        match *self {
            // head, domain | endpoint, flags | reserved[4]
            Self::Attach {
                domain,
                endpoint,
                flags,
            } => Encoded::new(
                [
                    pair(TYPE_ATTACH, domain.0),
                    pair(endpoint.0.into(), flags.bits()),
                    0,
                ],
                20,
            ),
            // head, domain | endpoint, reserved[8]
            Self::Detach { domain, endpoint } => {
                Encoded::new([pair(TYPE_DETACH, domain.0), endpoint.0.into(), 0], 20)
            }
            // head, domain | virt_start | virt_end | phys_start | flags
            Self::Map {
                domain,
                virt,
                phys_start,
                access,
            } => Encoded::new(
                [
                    pair(TYPE_MAP, domain.0),
                    virt.start().0,
                    virt.end().0,
                    phys_start.0,
                    access.bits().into(),
                ],
                36,
            ),
            // head, domain | virt_start | virt_end | reserved[4]
            Self::Unmap { domain, virt } => Encoded::new(
                [pair(TYPE_UNMAP, domain.0), virt.start().0, virt.end().0, 0],
                28,
            ),
            // head, endpoint | reserved[64]
            Self::Probe { endpoint } => Encoded::new([pair(TYPE_PROBE, endpoint.0)], 72),
        }
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
