//! QEMU 10.0.2, as it was measured.

use super::{Device, Manners};
use crate::model::config::ConfigSpace;
use crate::model::events::FaultStyle;
use crate::model::spec::status;
use crate::model::unit::Quirks;

pub fn shape(device: &mut Device) {
    // As on aarch64 and q35; on riscv64 `input_range` is the whole space.
    device.config = ConfigSpace {
        page_size_mask: !0xfff,
        input_range: (0, (1 << 48) - 1),
        domain_range: (0, u32::MAX),
        probe_size: 512,
        bypass: 1,
        ..ConfigSpace::default()
    };
    device.knobs.queue_sizes = [256, 256];
    device.knobs.faults = FaultStyle {
        tells_direction: false,
        tells_address: true,
        beat: Some(4),
    };
    device.unit.quirks = Quirks {
        state_outlives_reset: true,
        reattach_drops_mappings: true,
        refused_attach_detaches: true,
        refused_unmap_removes: true,
        takes_all_mappings: true,
        absent_is_noent: true,
        endpoint_ids_have_16_bits: true,
        forgets_detached: true,
        ..Quirks::default()
    };
    device.manners = Manners {
        unknown_type: Some(status::UNSUPP),
        short_body: Some(status::INVAL),
        bad_chain_breaks: true,
        short_probe: Some(status::DEVERR),
        takes_everything: true,
        ignores_negotiation: true,
        bypass_breaks: true,
        small_event_breaks: true,
        ..Manners::default()
    };
}
