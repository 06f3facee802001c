//! Each personality, by the hand-made driver: what was observed of the real devices.

use crate::model::hand::{self, Hand, POISON, Part};
use crate::model::personality::Personality;
use crate::model::personality::round::{self, Ending, Record, Rounds};
use crate::model::personality::{cloud_hypervisor, crosvm, gunyah};
use crate::model::spec::{
    EVENT_QUEUE, FAULT_LEN, MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, REQUEST_QUEUE, feature, status,
    status_bit,
};
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::{RW, ranges};

/// A device with `PLAIN` in domain 5, and its bypass off.
fn device(personality: Personality) -> (Model, Hand) {
    let model = Model::of(personality);
    let mut hand = model.hand();
    let room = model.with(|d| d.config.probe_size as usize + 4);
    for id in [PLAIN, OTHER] {
        hand.ask(hand::probe(id), room);
    }
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    if model.with(|d| d.negotiated(feature::BYPASS_CONFIG)) {
        model.with(|d| d.write_config(36, &[0]));
    }
    (model, hand)
}

fn mapped(hand: &mut Hand, start: u64, end: u64, phys: u64) {
    let map = hand::map(5, start, end, phys, RW);
    assert_eq!(hand.status(map), status::OK);
}

#[test]
fn qemu_takes_what_a_careful_driver_does_not_send() {
    let (model, mut hand) = device(Personality::Qemu);
    for (start, end, phys, flags, rule) in [
        (0x1001, 0x17ff, 0x8000, RW, "DV-MAP-1"),
        (0x2000, 0x2fff, 0x8800, RW, "DV-MAP-1"),
        (1 << 50, (1 << 50) + 0xfff, 0, RW, "DN-OPS-4"),
        (0x4000, 0x5fff, u64::MAX - 0xfff, RW, "DN-MAP-T1"),
    ] {
        assert_eq!(
            hand.status(hand::map(5, start, end, phys, flags)),
            status::OK
        );
        assert_eq!(model.violations().take_rules(), [rule]);
    }
    // No access at all, and MMIO without the feature; but no flag that is not defined.
    assert_eq!(hand.status(hand::map(5, 0x8000, 0x8fff, 0, 0)), status::OK);
    assert_eq!(
        hand.status(hand::map(5, 0x9000, 0x9fff, 0, 8)),
        status::INVAL
    );
    // Reserved bytes.
    let mut bytes = hand::attach(6, OTHER, 0);
    bytes[17] = 1;
    assert_eq!(hand.status(bytes), status::OK);
    // Flags are looked at.
    assert_eq!(hand.status(hand::attach(7, OTHER, 2)), status::INVAL);
    model.violations().take();
    hand.put_away();
}

#[test]
fn qemu_maps_over_reserved_regions_and_messages_pass_all_the_same() {
    let (model, mut hand) = device(Personality::Qemu);
    hand.ask(hand::probe(RESERVING), 516);
    assert_eq!(hand.status(hand::attach(5, RESERVING, 0)), status::OK);
    mapped(&mut hand, 0x0800_0000, 0x0800_0fff, 0x4000);
    mapped(&mut hand, 0x0a00_0000, 0x0a00_0fff, 0x4000);
    assert_eq!(model.violations().take_rules(), ["DN-RESV-1"; 2]);
    assert_eq!(model.reads(RESERVING, 0x0800_0000), None);
    assert_eq!(model.reads(RESERVING, 0x0a00_0000), None, "no memory");
    assert_eq!(model.reads(PLAIN, 0x0800_0000), Some(0x4000));
    hand.put_away();
}

#[test]
fn qemu_removes_what_a_refused_unmap_covers() {
    let (model, mut hand) = device(Personality::Qemu);
    mapped(&mut hand, 0, 4, 0x4000);
    mapped(&mut hand, 5, 9, 0x4000);
    assert_eq!(hand.status(hand::unmap(5, 0, 7)), status::RANGE);
    assert_eq!(ranges(&model, 5), [(5, 9)]);
    model.violations().take();
    hand.put_away();
}

#[test]
fn qemu_keeps_everything_over_a_device_reset() {
    let (model, mut hand) = device(Personality::Qemu);
    mapped(&mut hand, 0x1000, 0x1fff, 0x4000);
    hand.put_away();
    assert_eq!(model.reads(PLAIN, 0x1000), Some(0x4000));
    assert_eq!(model.with(|d| d.config.bypass), 0, "sticky");
    assert_eq!(model.reads(OTHER, 0x1000), None);
    let mut hand = model.hand();
    let again = hand::map(5, 0x1000, 0x1fff, 0x4000, RW);
    assert_eq!(hand.status(again), status::INVAL);
    model.violations().take();
    hand.put_away();
}

#[test]
fn qemu_starts_a_domain_anew_and_detaches_before_it_refuses() {
    let (model, mut hand) = device(Personality::Qemu);
    mapped(&mut hand, 0x1000, 0x1fff, 0x4000);
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    assert_eq!(ranges(&model, 5), []);
    assert_eq!(hand.status(hand::attach(6, OTHER, 1)), status::OK);
    assert_eq!(hand.status(hand::attach(6, PLAIN, 0)), status::INVAL);
    assert_eq!(model.domain_of(PLAIN), None);
    model.violations().take();
    // Not INVAL for one that is attached nowhere; an id with more than 16 bits is another's.
    assert_eq!(hand.status(hand::detach(5, PLAIN)), status::NOENT);
    assert_eq!(hand.status(hand::detach(5, OTHER)), status::INVAL);
    let alias = 0x1_0000 | PLAIN;
    assert_eq!(hand.status(hand::attach(5, alias, 0)), status::OK);
    assert_eq!(model.domain_of(PLAIN), None);
    hand.put_away();
}

#[test]
fn qemu_answers_what_it_does_not_know_and_stops_at_bad_chains() {
    let (model, mut hand) = device(Personality::Qemu);
    assert_eq!(hand.status(vec![9, 0, 0, 0]), status::UNSUPP);
    let short = hand::map(5, 0, 0xfff, 0, RW)[..8].to_vec();
    assert_eq!(hand.status(short), status::INVAL);
    // More room than a tail: the status comes first.
    let long = hand.ask(hand::unmap(5, 0, 0xfff), 16).unwrap();
    assert_eq!((long.len, long.written[0]), (4, status::OK));
    // Too little for PROBE: zeros where the tail would be.
    let probed = hand.ask(hand::probe(PLAIN), 104).unwrap();
    assert_eq!((probed.len, probed.written[0]), (4, status::DEVERR));
    assert!(probed.written[1..].iter().all(|byte| *byte == 0));
    let unknown = hand.ask(hand::probe(0x999), 516).unwrap();
    assert_eq!((unknown.len, unknown.written[512]), (516, status::NOENT));
    model.violations().take();
    hand.put_away();
    let request = || Part::Read(hand::unmap(5, 0, 0xfff));
    for parts in [
        vec![request(), Part::Write(3)],
        vec![Part::Read(vec![4, 0]), Part::Write(4)],
        vec![Part::Write(4), request()],
    ] {
        let (model, mut hand) = device(Personality::Qemu);
        hand.add(REQUEST_QUEUE, &parts);
        hand.kick(REQUEST_QUEUE);
        assert_eq!(hand.reap(REQUEST_QUEUE), None);
        assert!(!model.with(|d| d.is_live()));
        model.violations().take();
        hand.put_away();
    }
}

#[test]
fn qemu_stops_at_writes_to_bypass_that_are_wrong() {
    for (accepted, value) in [(!0, 2), (!feature::BYPASS_CONFIG, 0)] {
        let model = Model::of(Personality::Qemu);
        let offered = model.with(|d| d.knobs.offered);
        let hand = model.hand_accepting(offered & accepted);
        model.with(|d| d.write_config(36, &[value]));
        let status = model.with(|d| d.read_status());
        assert_eq!(status & status_bit::NEEDS_RESET, status_bit::NEEDS_RESET);
        assert_eq!(model.with(|d| d.config.bypass), 1);
        model.violations().take();
        hand.put_away();
    }
}

#[test]
fn qemu_carries_out_what_was_not_negotiated() {
    let model = Model::of(Personality::Qemu);
    let mut hand = model.hand_accepting(feature::VERSION_1);
    let probed = hand.ask(hand::probe(PLAIN), 516).unwrap();
    assert_eq!(probed.status(), Some(status::OK));
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    let map = hand::map(5, 0, 0xfff, 0, RW | MAP_F_MMIO);
    assert_eq!(hand.status(map), status::OK);
    let rules = model.violations().take_rules();
    assert_eq!(rules, ["DV-PRB-3", "DN-MAP-T1", "DN-MAP-7"]);
    hand.put_away();
}

#[test]
fn qemu_reports_each_four_bytes() {
    let (model, mut hand) = device(Personality::Qemu);
    let write_only = hand::map(5, 0x4000, 0x4fff, 0x8000, MAP_F_WRITE);
    assert_eq!(hand.status(write_only), status::OK);
    for _ in 0..7 {
        hand.add(EVENT_QUEUE, &[Part::Write(FAULT_LEN)]);
    }
    hand.kick(EVENT_QUEUE);
    model.with(|d| {
        d.dma_read(PLAIN, 0x1000, 16);
        d.dma_read(PLAIN, 0x4000, 4);
        d.dma_read(OTHER, 0x1000, 1);
    });
    let mut reports = std::iter::from_fn(|| hand.reap(EVENT_QUEUE)).map(|r| {
        let flags = u32::from_le_bytes(r.written[4..8].try_into().unwrap());
        let address = u64::from_le_bytes(r.written[16..].try_into().unwrap());
        (r.written[0], flags, address)
    });
    for at in [0x1000, 0x1004, 0x1008, 0x100c] {
        assert_eq!(reports.next(), Some((2, 0x100, at)), "no direction");
    }
    assert_eq!(reports.next(), Some((2, 0x101, 0x4000)), "a permission");
    assert_eq!(reports.next(), Some((0, 0x100, 0x1000)), "unknown");
    drop(reports);
    // One buffer is left: all others are dropped.
    model.with(|d| d.dma_read(PLAIN, 0x1000, 64));
    assert_eq!(model.with(|d| d.events.dropped), 15);
    hand.add(EVENT_QUEUE, &[Part::Write(16)]);
    hand.kick(EVENT_QUEUE);
    model.with(|d| d.dma_read(PLAIN, 0x1000, 4));
    assert!(!model.with(|d| d.is_live()), "a buffer that is too small");
    model.violations().take();
    hand.put_away();
}

#[test]
fn crosvm_has_one_endpoint_in_a_domain_and_no_bypass() {
    let (model, mut hand) = device(Personality::Crosvm);
    assert_eq!(hand.status(hand::attach(5, OTHER, 0)), status::UNSUPP);
    assert_eq!(hand.status(hand::attach(6, OTHER, 0)), status::OK);
    assert!(!model.with(|d| d.offers(feature::BYPASS_CONFIG) || d.offers(feature::BYPASS)));
    assert_eq!(model.reads(RESERVING, 0x1000), None);
    // Seen when two have come into one domain in another way.
    model.with(|d| d.unit.seed(OTHER, 5, &[]));
    let detach = hand.add(
        REQUEST_QUEUE,
        &[Part::Read(hand::detach(5, OTHER)), Part::Write(4)],
    );
    hand.kick(REQUEST_QUEUE);
    let returned = later(&model, &mut hand);
    assert_eq!(
        (returned.id, returned.written[0]),
        (detach.into(), status::UNSUPP)
    );
    hand.put_away();
}

/// What comes back after some looks at the clock.
fn later(model: &Model, hand: &mut Hand) -> hand::Returned {
    use virtio_iommu::Platform;
    let platform = model.platform();
    for _ in 0..crosvm::SLOW - 1 {
        platform.now();
        assert_eq!(hand.reap(REQUEST_QUEUE), None);
    }
    platform.now();
    platform.now();
    hand.reap(REQUEST_QUEUE).expect("an answer")
}

#[test]
fn crosvm_takes_its_time_for_an_unmap_and_reads_what_can_be_written() {
    let (model, mut hand) = device(Personality::Crosvm);
    let map = hand::map(5, 0x1000, 0x1fff, 0x4000, MAP_F_WRITE);
    assert_eq!(hand.status(map), status::OK);
    assert_eq!(model.reads(PLAIN, 0x1000), Some(0x4000));
    let misaligned = hand::map(5, 0x2000, 0x2ffe, 0x4000, RW);
    assert_eq!(hand.status(misaligned), status::RANGE);
    let all = hand::map(5, 0, u64::MAX, 0, RW);
    assert_eq!(hand.status(all), status::DEVERR);
    assert_eq!(hand.ask(hand::unmap(5, 0x1000, 0x1fff), 4), None);
    assert_eq!(later(&model, &mut hand).status(), Some(status::OK));
    assert_eq!(ranges(&model, 5), []);
    // Types that it does not know come back unwritten.
    let unknown = hand.ask(vec![9, 0, 0, 0], 4).unwrap();
    assert_eq!((unknown.len, unknown.written), (0, vec![POISON; 4]));
    model.violations().take();
    hand.put_away();
}

#[test]
fn cloud_hypervisor_refuses_with_length_zero() {
    let (model, mut hand) = device(Personality::CloudHypervisor);
    mapped(&mut hand, 0x1000, 0x1fff, 0x4000);
    for (request, expected) in [
        (hand::map(5, 0x1000, 0x1fff, 0, RW), status::INVAL),
        (hand::map(6, 0x1000, 0x1fff, 0, RW), status::NOENT),
        (hand::map(5, 0x2000, 0x2ffe, 0, RW), status::RANGE),
        (hand::map(5, 0, u64::MAX, 0, RW), status::RANGE),
        (hand::unmap(5, 0x1000, 0x17ff), status::RANGE),
    ] {
        let returned = hand.ask(request, 4).unwrap();
        assert_eq!((returned.len, returned.written[0]), (0, expected));
    }
    assert_eq!(ranges(&model, 5), [(0x1000, 0x1fff)], "nothing removed");
    model.violations().take();
    hand.put_away();
    assert_eq!(model.reads(PLAIN, 0x1000), Some(0x4000), "over a reset");
}

#[test]
fn cloud_hypervisor_wants_one_descriptor_of_the_exact_size() {
    let (model, mut hand) = device(Personality::CloudHypervisor);
    let bytes = hand::unmap(5, 0x1000, 0x1fff);
    let mut long = bytes.clone();
    long.push(0);
    for parts in [
        vec![
            Part::Read(bytes[..4].to_vec()),
            Part::Read(bytes[4..].to_vec()),
            Part::Write(4),
        ],
        vec![Part::Read(long), Part::Write(4)],
        vec![Part::Read(bytes.clone()), Part::Write(5)],
    ] {
        hand.add(REQUEST_QUEUE, &parts);
        hand.kick(REQUEST_QUEUE);
        assert_eq!(hand.reap(REQUEST_QUEUE).unwrap().len, 0);
    }
    assert_eq!(hand.status(bytes), status::OK);
    model.violations().take();
    hand.put_away();
}

#[test]
fn cloud_hypervisor_bypasses_although_it_reads_0_and_believes_everybody() {
    let model = Model::of(Personality::CloudHypervisor);
    assert_eq!(model.with(|d| d.read_config(36, 1)), Some(vec![0]));
    assert_eq!(model.reads(PLAIN, 0x1234), Some(0x1234));
    assert_eq!(model.with(|d| d.config.page_size_mask), 0x20_1000);
    let (model, mut hand) = device(Personality::CloudHypervisor);
    assert_eq!(model.reads(OTHER, 0x1234), None, "written");
    // Every endpoint is there, every DETACH succeeds, and access flags mean nothing.
    let probed = hand.ask(hand::probe(0x999), 28).unwrap();
    assert_eq!(probed.status(), Some(status::OK));
    assert_eq!(hand.status(hand::attach(9, 0x999, 0)), status::OK);
    assert_eq!(hand.status(hand::detach(5, 0x777)), status::OK);
    let map = hand::map(5, 0x1000, 0x1fff, 0x4000, MAP_F_READ);
    assert_eq!(hand.status(map), status::OK);
    assert_eq!(model.writes(PLAIN, 0x1000), Some(0x4000));
    // An ATTACH to the same domain keeps the mappings.
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    assert_eq!(ranges(&model, 5).len(), 1);
    hand.put_away();
}

#[test]
fn cloud_hypervisor_has_limits() {
    let (model, mut hand) = device(Personality::CloudHypervisor);
    model.with(|d| {
        let quirks = &mut d.unit.quirks;
        assert_eq!(quirks.mappings_per_domain, Some(cloud_hypervisor::MAPPINGS));
        assert_eq!(quirks.domains, Some(cloud_hypervisor::DOMAINS));
        (quirks.mappings_per_domain, quirks.domains) = (Some(1), Some(1));
    });
    mapped(&mut hand, 0x1000, 0x1fff, 0x4000);
    for request in [
        hand::map(5, 0x3000, 0x3fff, 0x4000, RW),
        hand::attach(6, OTHER, 0),
    ] {
        let returned = hand.ask(request, 4).unwrap();
        assert_eq!((returned.len, returned.written[0]), (0, status::NOMEM));
    }
    hand.put_away();
}

#[test]
fn gunyah_probes_and_does_nothing_else() {
    let model = Model::of(Personality::Gunyah);
    let offered = model.with(|d| d.knobs.offered);
    let expected = feature::PROBE | gunyah::ATTACH_TABLE | feature::VERSION_1;
    assert_eq!(offered, expected);
    // Two halves, and nothing as a whole or in bytes.
    assert_eq!(
        model.with(|d| d.read_config(0, 4)),
        Some(vec![0, 0x10, 0, 0])
    );
    assert_eq!(model.with(|d| d.read_config(0, 2)), Some(vec![0xff; 2]));
    let mut hand = model.hand_accepting(feature::PROBE | feature::VERSION_1);
    let probed = hand.ask(hand::probe(PLAIN), 516).unwrap();
    assert_eq!(probed.status(), Some(status::OK));
    for request in [
        hand::attach(5, PLAIN, 0),
        hand::map(5, 0x1000, 0x1fff, 0, RW),
        hand::unmap(5, 0x1000, 0x1fff),
    ] {
        assert_eq!(hand.status(request), status::UNSUPP);
    }
    let unknown = hand.ask(vec![6, 0, 0, 0], 4).unwrap();
    assert_eq!(unknown.len, 0);
    model.violations().take();
    hand.put_away();
}

#[test]
fn the_hostile_device_is_what_bytes_say() {
    use crate::model::personality::hostile::{self, Source};
    let seen = |bytes: &[u8]| {
        let model = Model::of(Personality::Hostile);
        model.with(|d| d.knobs.queue_sizes = [64, 64]);
        hostile::unleash(&model, &Source::new(bytes));
        let mut hand = model.hand();
        let first = hand.ask(hand::probe(PLAIN), 516);
        model.violations().take();
        hand.put_away();
        first.map(|r| (r.len, r.status()))
    };
    // No bytes: nothing strange.
    assert_eq!(seen(&[]), Some((516, Some(status::OK))));
    // The answer: strange, of kind 6, which is none; and of kind 3, unwritten.
    assert_eq!(seen(&[0, 0, 0, 0, 0, 0, 0xff, 6]), None);
    assert_eq!(seen(&[0, 0, 0, 0, 0, 0, 0xff, 3]), Some((0, None)));
}

#[test]
fn rounds_are_counted_and_say_why_others_are_left_out() {
    let mut seen = Vec::new();
    for personality in crate::each!(but[(Crosvm, "an example")]) {
        assert_eq!(Personality::current(), personality);
        assert_eq!(Model::new().personality(), personality);
        seen.push(personality);
    }
    assert_eq!(Personality::current(), Personality::Strict);
    let name = "model_self::personalities::rounds_are_counted_and_say_why_others_are_left_out";
    let records = round::records();
    let of = |personality| {
        let found = records
            .iter()
            .find(|r| (r.test, r.personality) == (name, personality));
        found.map(|record: &Record| record.ending)
    };
    for personality in &seen {
        assert_eq!(of(*personality), Some(Ending::Ok));
    }
    assert_eq!(of(Personality::Crosvm), Some(Ending::LeftOut("an example")));
    assert_eq!(of(Personality::Gunyah), None);
}

#[test]
fn a_round_that_fails_is_noted_as_such() {
    let failed = std::panic::catch_unwind(|| {
        for personality in Rounds::new("example", &Personality::HONEST, &[]) {
            assert_ne!(personality, Personality::Qemu, "so that it fails");
        }
    });
    assert!(failed.is_err());
    let records = round::records();
    let mut endings = records.iter().filter(|r| r.test == "example");
    assert_eq!(endings.next().map(|r| r.ending), Some(Ending::Ok));
    let last = endings.next().map(|r| (r.personality, r.ending));
    assert_eq!(last, Some((Personality::Qemu, Ending::Failed)));
    assert_eq!(endings.next(), None);
}
