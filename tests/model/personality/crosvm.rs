//! crosvm, as its source has it: one endpoint in a domain, no bypass of any kind, no events.

use super::{Device, Manners};
use crate::model::config::ConfigSpace;
use crate::model::spec::{feature, status};
use crate::model::unit::Quirks;

/// Looks at the clock until an UNMAP or a DETACH is answered: it may wait for somebody else to let
/// go of the memory.
pub const SLOW: u64 = 3;

pub fn shape(device: &mut Device) {
    device.knobs.offered = feature::MAP_UNMAP
        | feature::INPUT_RANGE
        | feature::MMIO
        | feature::PROBE
        | feature::VERSION_1;
    device.config = ConfigSpace {
        page_size_mask: !0xfff,
        input_range: (0, (1 << 48) - 1),
        // Room for one region.
        probe_size: 24,
        ..ConfigSpace::default()
    };
    super::one_msi_region(device);
    device.knobs.queue_sizes = [256, 256];
    device.unit.quirks = Quirks {
        endpoints_per_domain: Some(1),
        shared_detach_is_unsupp: true,
        write_implies_read: true,
        reattach_drops_mappings: true,
        ..Quirks::default()
    };
    device.manners = Manners {
        whole_space: Some(status::DEVERR),
        slow: SLOW,
        no_events: true,
        ..Manners::default()
    };
}
