//! Traces and records that disagree, each in one way, and each red for its own reason.

use crate::support::expect::Kind;
use crate::support::finding::{Finding, Rule};
use crate::support::request::Range;
use crate::support::trace::Event;
use crate::trace::{DEVICE, EXPECT, GUEST, MAP_1, NOTIFY, UNMAP_2, change, find};
use libtest_mimic::Trial;

/// A change to [`DEVICE`] or [`GUEST`], what must be found then, and what may be found besides.
struct Red {
    name: &'static str,
    device: &'static [(&'static str, &'static str)],
    guest: &'static [(&'static str, &'static str)],
    rule: fn(&Finding) -> bool,
    besides: fn(&Finding) -> bool,
}

macro_rules! red {
    ($name:ident, device: [$($device:expr),*], guest: [$($guest:expr),*], $finding:pat) => {
        red!($name, device: [$($device),*], guest: [$($guest),*], $finding, Finding::Absent if false)
    };
    ($name:ident, device: [$($device:expr),*], guest: [$($guest:expr),*], $finding:pat, $($besides:tt)+) => {
        Red {
            name: stringify!($name),
            device: &[$($device),*],
            guest: &[$($guest),*],
            rule: |finding| matches!(finding, $finding),
            besides: |finding| matches!(finding, $($besides)+),
        }
    };
}

#[rustfmt::skip]
fn reds() -> Vec<Red> {
    use Finding::{Disagreement, Effects, Forbidden};
    vec![
        // The two sides disagree.
        red!(guest_attach_missing, device: [], guest: [("@viommu 1 req attach domain=1 endpoint=16 flags=0 status=OK\n", "")],
            Disagreement { device: Some((_, Event::Attach { domain: 1, .. })), .. }),
        red!(guest_map_missing, device: [], guest: [("@viommu 1 req map domain=1 virt_start=0x1000 virt_end=0x2fff phys_start=0x80001000 flags=3 status=OK\n", "")],
            Disagreement { device: Some((_, Event::Map { .. })), guest: Some(_) }),
        red!(guest_last_detach_missing, device: [], guest: [("@viommu 1 req detach domain=1 endpoint=16 status=OK\n", "")],
            Disagreement { device: Some((_, Event::Detach { .. })), guest: None }),
        red!(device_map_missing, device: [("virtio_iommu_map domain=1 virt_start=0x4000 virt_end=0x4fff phys_start=0x80008000 flags=1\n", "")], guest: [],
            Disagreement { guest: Some(_), device: Some((_, Event::Unmap { .. })) }),
        red!(device_last_request_missing, device: [("virtio_iommu_detach domain=1 endpoint=16\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\nvirtio_iommu_put_domain Free domain=1\nvirtio_iommu_put_endpoint Free endpoint=16\n", "")], guest: [],
            Disagreement { guest: Some(_), device: None }),
        red!(attach_other_domain, device: [], guest: [("attach domain=1 ", "attach domain=2 ")], Disagreement { .. }),
        red!(attach_other_endpoint, device: [], guest: [("attach domain=1 endpoint=16", "attach domain=1 endpoint=17")], Disagreement { .. }),
        red!(detach_other_domain, device: [], guest: [("detach domain=1 ", "detach domain=2 ")], Disagreement { .. }),
        red!(map_other_start, device: [], guest: [("map domain=1 virt_start=0x1000", "map domain=1 virt_start=0x0")], Disagreement { .. }),
        red!(map_other_end, device: [], guest: [("0x2fff phys", "0x3fff phys")], Disagreement { .. }),
        red!(map_other_page, device: [], guest: [("phys_start=0x80008000", "phys_start=0x80009000")], Disagreement { .. }),
        red!(map_other_flags, device: [], guest: [("flags=1 ", "flags=3 ")], Disagreement { .. }),
        red!(unmap_other_range, device: [], guest: [("unmap domain=1 virt_start=0x4000", "unmap domain=1 virt_start=0x3000")], Disagreement { .. }),
        red!(order, device: [(MAP_1, "@"), ("map domain=1 virt_start=0x4000 virt_end=0x4fff phys_start=0x80008000 flags=1", MAP_1), ("@", "map domain=1 virt_start=0x4000 virt_end=0x4fff phys_start=0x80008000 flags=1")], guest: [], Disagreement { .. }),
        red!(refused_map_was_accepted, device: [], guest: [("flags=1 status=OK", "flags=1 status=NOMEM")], Finding::Status { .. }),
        red!(accepted_map_was_refused, device: [("virtio_iommu_map domain=1 virt_start=0x4000 virt_end=0x4fff phys_start=0x80008000 flags=1\n", "")], guest: [("flags=1 status=OK", "flags=1 status=INVAL")], Finding::Status { .. }),
        red!(other_status, device: [], guest: [("unmap domain=1 virt_start=0x1000 virt_end=0x2fff status=OK", "unmap domain=1 virt_start=0x1000 virt_end=0x2fff status=RANGE")], Finding::Status { .. }),
        red!(unconfirmed, device: [], guest: [("detach domain=1 endpoint=16 status=OK", "detach domain=1 endpoint=16 status=unconfirmed")], Finding::Status { .. }),
        red!(unwritten, device: [], guest: [("detach domain=1 endpoint=16 status=OK", "detach domain=1 endpoint=16 status=unwritten")], Finding::Status { .. }),
        red!(probe_missing, device: [], guest: [("@viommu 1 req probe endpoint=16 status=OK\n", "")], Disagreement { device: Some((_, Event::Reserved { .. })), .. }),
        red!(probe_failed, device: [], guest: [("probe endpoint=16 status=OK", "probe endpoint=16 status=NOENT")], Disagreement { device: Some((_, Event::Reserved { .. })), .. }),
        red!(probe_of_another, device: [], guest: [("probe endpoint=16", "probe endpoint=17")], Disagreement { device: Some((_, Event::Reserved { .. })), .. }),
        // The device did something else than the request asks for.
        red!(unmap_did_nothing, device: [("virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x2fff\n", "")], guest: [], Effects { .. }),
        red!(unmap_did_too_much, device: [("virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x2fff\n", "virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x2fff\nvirtio_iommu_unmap_done domain=1 virt_start=0x4000 virt_end=0x4fff\n")], guest: [], Effects { .. }),
        red!(purge_found_something, device: [("virt_end=0xffffffffff\nvirtio_queue", "virt_end=0xffffffffff\nvirtio_iommu_unmap_done domain=1 virt_start=0x0 virt_end=0xfff\nvirtio_queue")], guest: [], Effects { .. }),
        red!(domain_survived, device: [("virtio_iommu_put_domain Free domain=-1\n", "")], guest: [], Effects { .. }),
        red!(endpoint_moved_by_itself, device: [("address =0x7000\n", "address =0x7000\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\n")], guest: [], Effects { .. }),
        red!(unmap_of_nothing, device: [("virtio_iommu_unmap domain=1 virt_start=0x4000", "virtio_iommu_unmap domain=1 virt_start=0x8000 virt_end=0x8fff\nvirtio_iommu_unmap domain=1 virt_start=0x4000")],
            guest: [("@viommu 1 req unmap domain=1 virt_start=0x4000", "@viommu 1 req unmap domain=1 virt_start=0x8000 virt_end=0x8fff status=OK\n@viommu 1 req unmap domain=1 virt_start=0x4000")], Finding::EmptyUnmap { .. }, Finding::NoBatch(Kind::Unmap, 2)),
        red!(unmap_ends_late, device: [("virt_end=0x4fff\nvirtio_iommu_unmap_done", "virt_end=0x5fff\nvirtio_iommu_unmap_done")], guest: [("virt_end=0x4fff status", "virt_end=0x5fff status")], Finding::LooseUnmap { .. }),
        red!(unmap_begins_early, device: [("virtio_iommu_unmap domain=1 virt_start=0x4000", "virtio_iommu_unmap domain=1 virt_start=0x3000")], guest: [("unmap domain=1 virt_start=0x4000", "unmap domain=1 virt_start=0x3000")], Finding::LooseUnmap { .. }),
        // Rules that the device does not check.
        red!(map_inverted, device: [("virt_start=0x4000 virt_end=0x4fff phys", "virt_start=0x6000 virt_end=0x5fff phys"), (UNMAP_2, "unmap domain=1 virt_start=0x6000 virt_end=0x5fff")], guest: [("virt_start=0x4000 virt_end=0x4fff phys", "virt_start=0x6000 virt_end=0x5fff phys"), (UNMAP_2, "unmap domain=1 virt_start=0x6000 virt_end=0x5fff")],
            Forbidden { rule: Rule::Inverted, .. }),
        red!(map_below_the_granule, device: [("virt_start=0x4000 virt_end=0x4fff", "virt_start=0x4000 virt_end=0x43ff"), (UNMAP_2, "unmap domain=1 virt_start=0x4000 virt_end=0x43ff"), ("unmap_done domain=1 virt_start=0x4000 virt_end=0x4fff", "unmap_done domain=1 virt_start=0x4000 virt_end=0x43ff")], guest: [("virt_start=0x4000 virt_end=0x4fff", "virt_start=0x4000 virt_end=0x43ff"), (UNMAP_2, "unmap domain=1 virt_start=0x4000 virt_end=0x43ff")],
            Forbidden { rule: Rule::Granule, .. }),
        red!(map_of_half_a_granule, device: [("0xfffffffffffff000", "0xffffffffffffe000")], guest: [], Forbidden { rule: Rule::Granule, .. }, Finding::Machine("granule")),
        red!(physical_misaligned, device: [("0x80008000", "0x80008800")], guest: [("0x80008000", "0x80008800")], Forbidden { rule: Rule::Granule, .. }),
        red!(physical_wraps, device: [("0x80001000", "0xfffffffffffff000")], guest: [("0x80001000", "0xfffffffffffff000")], Forbidden { rule: Rule::Physical, .. }),
        red!(above_the_input_range, device: [("input range end=0xffffffffff ", "input range end=0x3fff "), ("virt_end=0xffffffffff\n", "virt_end=0x3fff\n")], guest: [("virt_end=0xffffffffff ", "virt_end=0x3fff ")],
            Forbidden { rule: Rule::InputRange, .. }, Finding::Machine("end of the input range")),
        red!(map_over_a_reserved_region, device: [("start=0x8020000 end=0x8020fff", "start=0x4000 end=0x40ff")], guest: [], Forbidden { rule: Rule::Reserved, .. }, Finding::Machine("reserved regions")),
        red!(domain_out_of_range, device: [("domain range start=0 ", "domain range start=1 "), ("domain range end=4294967295", "domain range end=2147483647")], guest: [], Forbidden { rule: Rule::DomainRange, .. }),
        red!(map_without_access, device: [("flags=1\n", "flags=0\n")], guest: [("flags=1 ", "flags=0 ")], Forbidden { rule: Rule::Flags, .. }),
        red!(attach_before_probe, device: [("virtio_iommu_fill_resv_property dev= 16, type=1 start=0x8020000 end=0x8020fff\n", "")], guest: [("@viommu 1 req probe endpoint=16 status=OK\n", "")], Forbidden { rule: Rule::ProbeFirst, .. }, Finding::Machine("reserved regions") | Finding::Kicks { .. }),
        red!(bypass_left_open, device: [("virtio_iommu_set_config bypass=0x0\n", "")], guest: [], Forbidden { rule: Rule::Bypass, .. }),
        red!(bypass_opened, device: [("address =0x7000\n", "address =0x7000\nvirtio_iommu_set_config bypass=0x1\n")], guest: [], Forbidden { rule: Rule::Bypass, .. }),
        red!(bypass_before_driver_ok, device: [("virtio_iommu_set_config bypass=0x0\n", ""), ("virtio_iommu_get_config", "virtio_iommu_set_config bypass=0x0\nvirtio_iommu_get_config")], guest: [], Forbidden { rule: Rule::Bypass, .. }),
        red!(attach_to_pass_through, device: [], guest: [("attach domain=4294967295 endpoint=16 flags=0", "attach domain=4294967295 endpoint=16 flags=1")], Forbidden { rule: Rule::PassThrough, .. }),
        red!(bypass_never_locked, device: [("virtio_iommu_set_config bypass=0x0\n", ""), ("virtio_iommu_detach domain=1", "virtio_iommu_set_config bypass=0x0\nvirtio_iommu_detach domain=1")], guest: [], Forbidden { rule: Rule::Bypass, .. }),
        red!(kick_before_driver_ok, device: [("virtio_iommu_get_config", "virtio_queue_notify vdev 0x557c n 1 vq 0x7f01\nvirtio_iommu_get_config")], guest: [], Forbidden { rule: Rule::EarlyKick, .. }),
        // Leftovers, order and numbers.
        red!(mapping_left, device: [("virtio_iommu_unmap domain=1 virt_start=0x4000 virt_end=0x4fff\nvirtio_iommu_unmap_done domain=1 virt_start=0x4000 virt_end=0x4fff\n", ""), ("virtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_iommu_detach domain=1 endpoint=16\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\nvirtio_iommu_put_domain Free domain=1\nvirtio_iommu_put_endpoint Free endpoint=16\n", "")], guest: [("@viommu 1 req unmap domain=1 virt_start=0x4000 virt_end=0x4fff status=OK\n@viommu 1 req detach domain=1 endpoint=16 status=OK\n", "")],
            Finding::StillMapped(1, Range { start: 0x4000, end: 0x4fff }), Finding::StillAttached(_) | Finding::NoBatch(Kind::Unmap, 2)),
        red!(endpoint_left, device: [("virtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_iommu_detach domain=1 endpoint=16\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\nvirtio_iommu_put_domain Free domain=1\nvirtio_iommu_put_endpoint Free endpoint=16\n", "")], guest: [("@viommu 1 req detach domain=1 endpoint=16 status=OK\n", "")], Finding::StillAttached(_)),
        red!(status_out_of_order, device: [("driver status = 3\n", "driver status = 2\n")], guest: [], Finding::StatusOrder(_), Finding::Starts { complete: 0, .. }),
        red!(failed_out_of_order, device: [("virtio_set_status vdev 0x557c val 0\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset", "virtio_set_status vdev 0x557c val 1\nvirtio_iommu_device_status driver status = 1\nvirtio_iommu_device_status driver status = 131\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset")], guest: [], Finding::StatusOrder(_)),
        red!(failed_after_a_gap, device: [("virtio_set_status vdev 0x557c val 0\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset", "virtio_set_status vdev 0x557c val 1\nvirtio_iommu_device_status driver status = 3\nvirtio_iommu_device_status driver status = 131\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset")], guest: [], Finding::StatusOrder(_)),
        red!(failed_out_of_the_blue, device: [("virtio_set_status vdev 0x557c val 0\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset", "virtio_set_status vdev 0x557c val 128\nvirtio_iommu_device_status driver status = 128\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset")], guest: [], Finding::Starts { complete: 1, failed: 1 }),
        red!(request_refused, device: [("virtio_iommu_report", "virtio_iommu_detach domain=1 endpoint=99\nvirtio_iommu_report")], guest: [("@viommu 1 req unmap domain=1 virt_start=0x1000", "@viommu 1 req detach domain=1 endpoint=99 status=NOENT\n@viommu 1 req unmap domain=1 virt_start=0x1000")], Finding::Refusals(true), Finding::NoBatch(..)),
        red!(status_skipped, device: [("virtio_iommu_device_status driver status = 3\n", "")], guest: [], Finding::StatusOrder(_), Finding::Starts { complete: 0, .. }),
        red!(failed_start, device: [("virtio_set_status vdev 0x557c val 0\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset", "virtio_set_status vdev 0x557c val 1\nvirtio_iommu_device_status driver status = 1\nvirtio_iommu_device_status driver status = 129\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_reset")], guest: [], Finding::Starts { complete: 1, failed: 1 }),
        red!(fault_missing, device: [("virtio_iommu_report_fault FAULT reason=2 flags=256 endpoint=16 address =0x7000\n", "")], guest: [], Finding::MissingFault(2, 0x100, 0)),
        red!(fault_of_another_kind, device: [("address =0x7000\n", "address =0x7000\nvirtio_iommu_report_fault FAULT reason=2 flags=258 endpoint=16 address =0x7000\n")], guest: [], Finding::UnexpectedFault { .. }),
        red!(fault_for_another_reason, device: [("address =0x7000\n", "address =0x7000\nvirtio_iommu_report_fault FAULT reason=0 flags=256 endpoint=16 address =0x7000\n")], guest: [], Finding::UnexpectedFault { .. }, Finding::Reason { expected: 2, .. }),
        red!(fault_of_a_stranger, device: [("address =0x7000\n", "address =0x7000\nvirtio_iommu_report_fault FAULT reason=2 flags=256 endpoint=17 address =0x7000\n")], guest: [], Finding::UnexpectedFault { .. }, Finding::Reason { expected: 0, .. }),
        red!(one_kick_too_many, device: [("phys_start=0x80001000 flags=3\n", "phys_start=0x80001000 flags=3\nvirtio_queue_notify vdev 0x557c n 0 vq 0x7f00\n")], guest: [], Finding::NoBatch(Kind::Map, 2)),
        red!(kicks_without_requests, device: [(NOTIFY, "virtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_queue_notify vdev 0x557c n 0 vq 0x7f00\n")], guest: [], Finding::Kicks { kicks: 4, requests: 1 }),
        red!(kick_twice, device: [("vq 0x7f00\nvirtio_iommu_detach domain=1", "vq 0x7f00\nvirtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_iommu_detach domain=1")], guest: [], Finding::Kicks { kicks: 2, requests: 1 }),
        red!(no_iommu, device: [(DEVICE, "")], guest: [], Finding::Absent),
    ]
}

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    reds()
        .into_iter()
        .map(|red| {
            Trial::test(format!("trace::red::{}", red.name), move || {
                let findings = find(
                    &change(DEVICE, red.device),
                    &change(GUEST, red.guest),
                    &EXPECT,
                );
                assert!(
                    findings.iter().any(red.rule),
                    "not red for its reason: {findings:#?}"
                );
                let more = |finding: &&Finding| !(red.rule)(finding) && !(red.besides)(finding);
                let more: Vec<&Finding> = findings.iter().filter(more).collect();
                assert!(more.is_empty(), "red for another reason, too: {more:#?}");
                Ok(())
            })
        })
        .collect()
}
