//! The devices that the model can be: each is data that the model consults, one file each.
//!
//! What a driver does wrong is recorded under every personality, whatever the answer is: the
//! real devices let much of it pass.

pub mod cloud_hypervisor;
pub mod crosvm;
pub mod gunyah;
pub mod hostile;
pub mod qemu;
pub mod round;
pub mod strict;

use std::fmt;

use super::device::Device;
use super::spec::RESV_MEM_T_MSI;
use super::unit::Region;

/// Which device the model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Personality {
    /// The specification to the letter, with narrow limits on every side.
    #[default]
    Strict,
    /// QEMU 10.0.2.
    Qemu,
    Crosvm,
    CloudHypervisor,
    /// Qualcomm's hypervisor: no MAP and no UNMAP.
    Gunyah,
    /// Anything at all: see [`hostile`].
    Hostile,
}

impl Personality {
    pub const ALL: [Self; 6] = [
        Self::Strict,
        Self::Qemu,
        Self::Crosvm,
        Self::CloudHypervisor,
        Self::Gunyah,
        Self::Hostile,
    ];

    /// Those under which tests run that do not say otherwise. Gunyah's device cannot be started,
    /// which has tests of its own, and so has the hostile one.
    pub const HONEST: [Self; 4] = [
        Self::Strict,
        Self::Qemu,
        Self::Crosvm,
        Self::CloudHypervisor,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Qemu => "qemu",
            Self::Crosvm => "crosvm",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Gunyah => "gunyah",
            Self::Hostile => "hostile",
        }
    }

    /// Makes a strict device with the usual endpoints into this one.
    pub(super) fn shape(self, device: &mut Device) {
        match self {
            Self::Strict => strict::shape(device),
            Self::Qemu => qemu::shape(device),
            Self::Crosvm => crosvm::shape(device),
            Self::CloudHypervisor => cloud_hypervisor::shape(device),
            Self::Gunyah => gunyah::shape(device),
            Self::Hostile => hostile::shape(device),
        }
    }
}

impl fmt::Display for Personality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a device treats requests that a careful driver does not send, and when it answers.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// The status for a type that it does not know; `None`: unwritten, with used length 0.
    pub unknown_type: Option<u8>,
    /// The status for a body that is too short; `None`: unwritten.
    pub short_body: Option<u8>,
    /// A chain that is malformed, or has no room for a head or a tail, ends all work until a
    /// reset; else it is returned unwritten.
    pub bad_chain_breaks: bool,
    /// The status for PROBE with too little room, written at the beginning of it, where nothing
    /// but zeros follow.
    pub short_probe: Option<u8>,
    /// Reserved bytes and flags that were not negotiated are ignored, ranges and alignment are
    /// not looked at: what is mapped is mapped.
    pub takes_everything: bool,
    /// MAP, UNMAP and PROBE are carried out without their features.
    pub ignores_negotiation: bool,
    /// Each half of a request has to be one descriptor of the exact size, else it is returned
    /// unwritten.
    pub exact_descriptors: bool,
    /// Every type but PROBE is UNSUPP.
    pub probes_only: bool,
    /// The status for a MAP of all 2^64 addresses.
    pub whole_space: Option<u8>,
    /// UNMAP and DETACH are answered after so many looks at the clock.
    pub slow: u64,
    /// A write to `bypass` that is not negotiated, or of another value than 0 and 1, ends all work
    /// until a reset.
    pub bypass_breaks: bool,
    /// Configuration reads of another width give ones.
    pub config_width: Option<usize>,
    /// Nothing is ever reported.
    pub no_events: bool,
    /// Event buffers that are too small end all work until a reset.
    pub small_event_breaks: bool,
}

/// A device that knows of one region, for messages.
fn one_msi_region(device: &mut Device) {
    for endpoint in device.unit.endpoints.values_mut() {
        let messages = |region: &Region| region.subtype == RESV_MEM_T_MSI;
        endpoint.regions.retain(messages);
    }
}
