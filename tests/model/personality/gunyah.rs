//! Gunyah's device, as others have described it: page tables of the guest's own (a feature that is
//! no standard), and neither MAP nor UNMAP.

use super::{Device, Manners};
use crate::model::config::ConfigSpace;
use crate::model::spec::feature;

/// ATTACH_TABLE of drafts: must not be accepted.
pub const ATTACH_TABLE: u64 = 1 << 7;

pub fn shape(device: &mut Device) {
    device.knobs.offered = feature::PROBE | ATTACH_TABLE | feature::VERSION_1;
    device.config = ConfigSpace {
        page_size_mask: 0x1000,
        ..ConfigSpace::default()
    };
    device.knobs.queue_sizes = [128, 128];
    device.manners = Manners {
        probes_only: true,
        config_width: Some(4),
        no_events: true,
        ..Manners::default()
    };
}
