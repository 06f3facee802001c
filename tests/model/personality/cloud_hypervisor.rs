//! cloud-hypervisor, as its source has it: a refusal looks like no answer, and many things are not
//! looked at.

use super::{Device, Manners};
use crate::model::config::ConfigSpace;
use crate::model::spec::{feature, status};
use crate::model::unit::Quirks;

/// Most mappings of one domain.
pub const MAPPINGS: usize = 1 << 20;
/// Most domains.
pub const DOMAINS: usize = 1 << 16;

pub fn shape(device: &mut Device) {
    device.knobs.offered = feature::MAP_UNMAP
        | feature::PROBE
        | feature::BYPASS_CONFIG
        | feature::INPUT_RANGE
        | feature::VERSION_1;
    device.config = ConfigSpace {
        // 2 MiB and 4 KiB.
        page_size_mask: 0x20_1000,
        input_range: (0, (1 << 39) - 1),
        probe_size: 24,
        // So it reads, and yet endpoints pass until it is written.
        bypass: 0,
        bypasses_until_written: true,
        ..ConfigSpace::default()
    };
    super::one_msi_region(device);
    device.knobs.queue_sizes = [256, 256];
    device.knobs.refusals_have_length_zero = true;
    device.unit.quirks = Quirks {
        state_outlives_reset: true,
        mappings_per_domain: Some(MAPPINGS),
        domains: Some(DOMAINS),
        any_endpoint: true,
        detach_never_fails: true,
        ignores_access: true,
        ..Quirks::default()
    };
    device.manners = Manners {
        exact_descriptors: true,
        whole_space: Some(status::RANGE),
        no_events: true,
        ..Manners::default()
    };
}
