//! Tests of the model device itself, with rings made by hand: each refusal, each check of the
//! strict personality and each trick of the scripted one is seen once.

mod model;

use model::config::{ConfigSpace, ResetBehaviour, Torn};
use model::device::Mode;
use model::events::{FaultStyle, Record};
use model::hand::{self, Hand, POISON, Part};
use model::memory::{PAGES_BASE, Refuse};
use model::requests::Request;
use model::script::{Answer, Id, Order, When};
use model::spec::{
    self, EVENT_QUEUE, FAULT_LEN, MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, REQUEST_QUEUE, TAIL_LEN,
    feature, status, status_bit,
};
use model::unit::{Access, Endpoint, Mapping};
use model::{Model, OTHER, PLAIN, REGIONS, RESERVING};

const RW: u32 = MAP_F_READ | MAP_F_WRITE;
const PROBE_ROOM: usize = 512 + TAIL_LEN;

/// Probes and attaches an endpoint.
fn attached(hand: &mut Hand, domain: u32, endpoint: u32) {
    hand.ask(hand::probe(endpoint), PROBE_ROOM);
    assert_eq!(hand.status(hand::attach(domain, endpoint, 0)), status::OK);
}

/// A device with byte granularity whose domain 5 has `PLAIN` in it: the setting of the examples.
fn blank() -> (Model, Hand) {
    let model = Model::new();
    model.with(|d| {
        d.config.page_size_mask = 1;
        d.config.input_range = (0, u64::MAX);
    });
    let mut hand = model.hand();
    attached(&mut hand, 5, PLAIN);
    (model, hand)
}

fn ranges(model: &Model, domain: u32) -> Vec<(u64, u64)> {
    let mappings = model.mappings(domain).expect("a domain");
    mappings.iter().map(|m| (m.start, m.end)).collect()
}

/// An example of the specification: maps, one UNMAP, its status, what is left.
fn example(maps: &[(u64, u64)], unmap: (u64, u64), expected: u8, left: &[(u64, u64)]) {
    let (model, mut hand) = blank();
    for (start, end) in maps {
        let map = hand::map(5, *start, *end, 0x1000 + *start, RW);
        assert_eq!(hand.status(map), status::OK);
    }
    assert_eq!(hand.status(hand::unmap(5, unmap.0, unmap.1)), expected);
    assert_eq!(ranges(&model, 5), left);
    if expected == status::RANGE {
        assert_eq!(model.violations().take_rules(), ["DN-UNMAP-4"]);
    }
    hand.put_away();
}

#[test]
fn dv_unm_7_example_1_of_nothing() {
    example(&[], (0, 4), status::OK, &[]);
}

#[test]
fn dv_unm_7_example_2_of_one_mapping() {
    example(&[(0, 9)], (0, 9), status::OK, &[]);
}

#[test]
fn dv_unm_7_example_3_of_two_mappings() {
    example(&[(0, 4), (5, 9)], (0, 9), status::OK, &[]);
}

#[test]
fn dv_unm_5_example_4_of_a_part() {
    example(&[(0, 9)], (0, 4), status::RANGE, &[(0, 9)]);
}

#[test]
fn dv_unm_7_example_5_of_the_first_of_two() {
    example(&[(0, 4), (5, 9)], (0, 4), status::OK, &[(5, 9)]);
}

#[test]
fn dv_unm_7_example_6_spills_over() {
    example(&[(0, 4)], (0, 9), status::OK, &[]);
}

#[test]
fn dv_unm_7_example_7_over_a_hole() {
    example(&[(0, 4), (10, 14)], (0, 14), status::OK, &[]);
}

#[test]
fn dv_unm_6_a_split_removes_nothing_at_either_end() {
    example(&[(0, 4), (5, 9)], (0, 7), status::RANGE, &[(0, 4), (5, 9)]);
    example(&[(0, 4), (5, 9)], (3, 9), status::RANGE, &[(0, 4), (5, 9)]);
}

#[test]
fn the_whole_space_can_be_mapped_and_unmapped() {
    example(&[(0, u64::MAX - 0x1000)], (0, u64::MAX), status::OK, &[]);
    let (model, mut hand) = blank();
    let all = hand::map(5, 0, u64::MAX, 0, MAP_F_READ);
    assert_eq!(hand.status(all), status::OK);
    assert_eq!(model.reads(PLAIN, u64::MAX), Some(u64::MAX));
    assert_eq!(model.writes(PLAIN, 0), None);
    hand.put_away();
}

#[test]
fn dv_unm_3_unknown_domain_and_inverted_range() {
    let (model, mut hand) = blank();
    assert_eq!(hand.status(hand::unmap(6, 0, 9)), status::NOENT);
    assert_eq!(hand.status(hand::unmap(5, 9, 0)), status::INVAL);
    // To ask whether a domain exists is no mistake.
    assert_eq!(model.violations().take_rules(), ["DN-UNMAP-2"]);
    hand.put_away();
}

#[test]
fn dv_att_attach_refusals() {
    let model = Model::new();
    let mut hand = model.hand();
    // Unknown flags, then a reserved byte, an endpoint that is not there, and a domain id below
    // and above the range.
    assert_eq!(hand.status(hand::attach(5, PLAIN, 2)), status::INVAL);
    let mut bytes = hand::attach(5, PLAIN, 0);
    bytes[19] = 1;
    assert_eq!(hand.status(bytes), status::INVAL);
    assert_eq!(hand.status(hand::attach(5, 0x999, 0)), status::NOENT);
    assert_eq!(hand.status(hand::attach(2, PLAIN, 0)), status::RANGE);
    assert_eq!(hand.status(hand::attach(41, PLAIN, 0)), status::RANGE);
    assert_eq!(model.domain_of(PLAIN), None);
    let rules = model.violations().take_rules();
    assert_eq!(
        rules,
        ["DN-ATTACH-T1", "DN-ATTACH-1", "DN-OPS-5", "DN-OPS-5"]
    );
    // Before its PROBE: attached, and noted.
    assert_eq!(hand.status(hand::attach(3, PLAIN, 0)), status::OK);
    assert_eq!(model.violations().take_rules(), ["DN-INIT-2"]);
    assert_eq!(model.domain_of(PLAIN), Some(3));
    hand.put_away();
}

#[test]
fn dv_att_6_bypass_domains() {
    let model = Model::new();
    let mut hand = model.hand();
    hand.ask(hand::probe(PLAIN), PROBE_ROOM);
    hand.ask(hand::probe(OTHER), PROBE_ROOM);
    assert_eq!(hand.status(hand::attach(5, PLAIN, 1)), status::OK);
    assert_eq!(model.reads(PLAIN, 0x1234), Some(0x1234));
    assert_eq!(hand.status(hand::attach(5, OTHER, 0)), status::INVAL);
    let map = hand::map(5, 0x1000, 0x1fff, 0, RW);
    assert_eq!(hand.status(map), status::INVAL);
    assert_eq!(hand.status(hand::unmap(5, 0x1000, 0x1fff)), status::INVAL);
    let rules = model.violations().take_rules();
    assert_eq!(rules, ["DN-ATTACH-3", "DN-MAP-2", "DN-UNMAP-6"]);
    hand.put_away();
}

#[test]
fn dn_attach_t1_the_bypass_flag_needs_its_feature() {
    let model = Model::new();
    let offered = model.with(|d| d.knobs.offered);
    let mut hand = model.hand_accepting(offered & !feature::BYPASS_CONFIG);
    hand.ask(hand::probe(PLAIN), PROBE_ROOM);
    assert_eq!(hand.status(hand::attach(5, PLAIN, 1)), status::INVAL);
    assert_eq!(model.violations().take_rules(), ["DN-ATTACH-T1"]);
    hand.put_away();
}

#[test]
fn dv_att_7_attach_elsewhere_detaches_first_and_ends_the_domain() {
    let (model, mut hand) = blank();
    let map = hand::map(5, 0, 9, 0x4000, RW);
    assert_eq!(hand.status(map), status::OK);
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    assert_eq!(ranges(&model, 5), [(0, 9)], "the same domain is no other");
    assert_eq!(hand.status(hand::attach(6, PLAIN, 0)), status::OK);
    assert_eq!(model.mappings(5), None);
    assert_eq!(ranges(&model, 6), []);
    hand.put_away();
}

#[test]
fn dv_det_detach_refusals_and_the_end_of_a_domain() {
    let (model, mut hand) = blank();
    attached(&mut hand, 5, OTHER);
    let map = hand::map(5, 0, 9, 0x4000, RW);
    assert_eq!(hand.status(map), status::OK);
    assert_eq!(hand.status(hand::detach(5, 0x999)), status::NOENT);
    assert_eq!(hand.status(hand::detach(6, PLAIN)), status::INVAL);
    assert_eq!(hand.status(hand::detach(5, PLAIN)), status::OK);
    assert_eq!(model.reads(PLAIN, 0), Some(0), "config.bypass is still 1");
    assert_eq!(model.reads(OTHER, 0), Some(0x4000));
    assert_eq!(ranges(&model, 5), [(0, 9)]);
    assert_eq!(hand.status(hand::detach(5, PLAIN)), status::INVAL);
    // Reserved bytes are ignored by the device, and noted.
    let mut bytes = hand::detach(5, OTHER);
    bytes[12] = 1;
    assert_eq!(hand.status(bytes), status::OK);
    assert_eq!(model.mappings(5), None);
    assert_eq!(model.violations().take_rules(), ["DN-DETACH-1"]);
    hand.put_away();
}

/// Sends a MAP into domain 5 and expects a refusal and the rule.
fn refused(model: &Model, hand: &mut Hand, map: Vec<u8>, expected: u8, rule: &str) {
    let before = model.mappings(5);
    assert_eq!(hand.status(map), expected, "{rule}");
    assert_eq!(model.violations().take_rules(), [rule]);
    assert_eq!(model.mappings(5), before, "{rule}");
}

#[test]
fn dv_map_every_refusal() {
    let model = Model::new();
    let mut hand = model.hand();
    attached(&mut hand, 5, PLAIN);
    let ok = hand::map(5, 0x10_0000, 0x10_1fff, 0x8000, RW);
    assert_eq!(hand.status(ok), status::OK);
    let cases = [
        ((0x1001, 0x1fff, 0x8000, RW), status::RANGE, "DV-MAP-1"),
        ((0x1000, 0x1ffe, 0x8000, RW), status::RANGE, "DV-MAP-1"),
        ((0x1000, 0x1fff, 0x8800, RW), status::RANGE, "DV-MAP-1"),
        ((0x10_1000, 0x10_2fff, 0, RW), status::INVAL, "DV-MAP-2"),
        ((0x0f_f000, 0x10_0fff, 0, RW), status::INVAL, "DV-MAP-2"),
        ((0x1000, 0x1fff, 0, 8 | RW), status::INVAL, "DN-MAP-1"),
        ((0x2000, 0x1fff, 0, RW), status::INVAL, "DN-MAP-3"),
        ((0x2000, 0x2000, 0, RW), status::INVAL, "DN-MAP-3"),
        ((0x0000, 0x0fff, 0, RW), status::RANGE, "DN-OPS-4"),
        (
            (0xff_ffff_f000, 0x100_0000_0fff, 0, RW),
            status::RANGE,
            "DN-OPS-4",
        ),
        (
            (0x1000, 0x2fff, u64::MAX - 0xfff, RW),
            status::RANGE,
            "DN-MAP-T1",
        ),
    ];
    for ((start, end, phys, flags), expected, rule) in cases {
        let map = hand::map(5, start, end, phys, flags);
        refused(&model, &mut hand, map, expected, rule);
    }
    let no_domain = hand::map(6, 0x1000, 0x1fff, 0, RW);
    refused(&model, &mut hand, no_domain, status::NOENT, "DV-MAP-4");
    let outside = hand::map(2, 0x1000, 0x1fff, 0, RW);
    refused(&model, &mut hand, outside, status::RANGE, "DN-OPS-5");
    // The last page of the range and of memory are fine.
    let last = hand::map(
        5,
        0xff_ffff_f000,
        0xff_ffff_ffff,
        u64::MAX - 0xfff,
        MAP_F_MMIO,
    );
    assert_eq!(hand.status(last), status::OK);
    hand.put_away();
}

#[test]
fn dn_map_7_mmio_needs_its_feature() {
    let model = Model::new();
    let offered = model.with(|d| d.knobs.offered);
    let mut hand = model.hand_accepting(offered & !feature::MMIO);
    attached(&mut hand, 5, PLAIN);
    let map = hand::map(5, 0x1000, 0x1fff, 0, RW | MAP_F_MMIO);
    refused(&model, &mut hand, map, status::INVAL, "DN-MAP-7");
    hand.put_away();
}

#[test]
fn dn_resv_1_reserved_regions_refuse_a_map_and_an_attach() {
    let model = Model::new();
    let mut hand = model.hand();
    attached(&mut hand, 5, RESERVING);
    for region in REGIONS {
        let over = hand::map(5, region.start - 0x1000, region.start + 0xfff, 0, RW);
        refused(&model, &mut hand, over, status::INVAL, "DN-RESV-1");
        let below = hand::map(5, region.start - 0x1000, region.start - 1, 0, RW);
        assert_eq!(hand.status(below), status::OK);
    }
    assert_eq!(model.reads(RESERVING, REGIONS[0].start), None);
    assert_eq!(model.reads(RESERVING, REGIONS[1].start), None);
    // The other way round: mapped first, then an endpoint that reserves the addresses.
    attached(&mut hand, 6, PLAIN);
    let map = hand::map(6, REGIONS[0].start, REGIONS[0].start + 0xfff, 0, RW);
    assert_eq!(hand.status(map), status::OK);
    assert_eq!(hand.status(hand::attach(6, RESERVING, 0)), status::UNSUPP);
    assert_eq!(model.violations().take_rules(), ["DN-RESV-1"]);
    assert_eq!(model.domain_of(RESERVING), Some(5));
    hand.put_away();
}

#[test]
fn dv_prb_probe_lists_what_an_endpoint_reserves() {
    let model = Model::new();
    let mut hand = model.hand();
    let plain = hand.ask(hand::probe(PLAIN), PROBE_ROOM).unwrap();
    assert_eq!(plain.len as usize, PROBE_ROOM);
    assert_eq!(plain.written, [0; PROBE_ROOM]);
    let list = hand.ask(hand::probe(RESERVING), PROBE_ROOM).unwrap();
    let expected = [
        // type 1, length 20, subtype 0, reserved, start, end: 24 bytes, then the next.
        1, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0xff, 0xff, 0x0f, 8, 0, 0, 0, 0, //
        1, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0xff, 0xff, 0x0f, 10, 0, 0, 0, 0,
    ];
    assert_eq!(list.written[..48], expected);
    assert!(list.written[48..].iter().all(|byte| *byte == 0));
    let unknown = hand.ask(hand::probe(0x999), PROBE_ROOM).unwrap();
    assert_eq!(unknown.status(), Some(status::NOENT));
    assert_eq!(unknown.len as usize, PROBE_ROOM);
    hand.put_away();
}

#[test]
fn dn_probe_1_2_sizes_and_reserved_bytes() {
    let model = Model::new();
    let mut hand = model.hand();
    for room in [PROBE_ROOM - 4, PROBE_ROOM + 4] {
        hand.ask(hand::probe(PLAIN), room).unwrap();
        assert_eq!(model.violations().take_rules(), ["DN-PROBE-1"]);
    }
    let mut bytes = hand::probe(PLAIN);
    bytes[71] = 1;
    let returned = hand.ask(bytes, PROBE_ROOM).unwrap();
    assert_eq!(returned.status(), Some(status::OK), "MUST be ignored");
    assert_eq!(model.violations().take_rules(), ["DN-PROBE-2"]);
    // The properties of RESERVING do not fit.
    model.with(|d| d.config.probe_size = 24);
    let returned = hand.ask(hand::probe(RESERVING), 28).unwrap();
    assert_eq!(returned.status(), Some(status::INVAL));
    assert!(returned.written[..24].iter().all(|byte| *byte == 0));
    hand.put_away();
}

#[test]
fn dv_prb_3_probe_without_its_feature_is_not_answered() {
    let model = Model::new();
    let offered = model.with(|d| d.knobs.offered);
    let mut hand = model.hand_accepting(offered & !feature::PROBE);
    let returned = hand.ask(hand::probe(PLAIN), PROBE_ROOM).unwrap();
    assert_eq!(returned.len, 0);
    assert_eq!(returned.written, [POISON; PROBE_ROOM]);
    assert_eq!(model.violations().take_rules(), ["DV-PRB-3"]);
    // And no PROBE is expected before an ATTACH.
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    hand.put_away();
}

#[test]
fn dv_ops_2_what_cannot_be_parsed_comes_back_unwritten() {
    let model = Model::new();
    let mut hand = model.hand();
    let cases: [(Vec<u8>, usize, &[&str]); 5] = [
        (vec![9, 0, 0, 0, 1, 2], 4, &["GV-FEAT-2"]),
        (vec![3, 0], 4, &["DN-OPS-1"]),
        (hand::attach(5, PLAIN, 0)[..16].to_vec(), 4, &["MODEL"]),
        (hand::map(5, 0x1000, 0x1fff, 0, RW), 3, &["MODEL"]),
        (hand::detach(5, PLAIN), 2, &["MODEL"]),
    ];
    for (readable, room, rules) in cases {
        let returned = hand.ask(readable, room).unwrap();
        assert_eq!(returned.len, 0);
        assert_eq!(returned.written, vec![POISON; room]);
        assert_eq!(model.violations().take_rules(), rules);
    }
    hand.put_away();
}

#[test]
fn dn_ops_1_sizes_heads_and_tails_are_checked() {
    let model = Model::new();
    let mut hand = model.hand();
    hand.ask(hand::probe(PLAIN), PROBE_ROOM);
    let mut head = hand::attach(5, PLAIN, 0);
    head[2] = 7;
    assert_eq!(hand.status(head), status::OK, "MUST be ignored");
    assert_eq!(model.violations().take_rules(), ["DN-OPS-1"]);
    // Too long on either side.
    let mut long = hand::unmap(5, 0x1000, 0x1fff);
    long.extend_from_slice(&[0; 4]);
    assert_eq!(hand.status(long), status::OK);
    hand.ask(hand::unmap(5, 0x1000, 0x1fff), 8).unwrap();
    assert_eq!(model.violations().take_rules(), ["MODEL", "MODEL"]);
    // UNMAP with reserved bytes MAY be refused.
    let mut bytes = hand::unmap(5, 0x1000, 0x1fff);
    bytes[24] = 1;
    assert_eq!(hand.status(bytes), status::INVAL);
    assert_eq!(model.violations().take_rules(), ["DN-UNMAP-1"]);
    // An old OK in the tail.
    let head = hand.add(
        REQUEST_QUEUE,
        &[
            Part::Read(hand::unmap(5, 0x1000, 0x1fff)),
            Part::Write(TAIL_LEN),
        ],
    );
    let tail = hand.spare();
    model.ram().write(tail, &[0; 4]);
    hand.put_descriptor(0, head + 1, tail, 4, [spec::ring::DESC_F_WRITE, 0]);
    hand.kick(REQUEST_QUEUE);
    assert_eq!(model.violations().take_rules(), ["GV-VQ-5"]);
    hand.put_away();
}

#[test]
fn gv_vq_2_3_broken_chains() {
    let model = Model::new();
    let mut hand = model.hand();
    let request = || Part::Read(hand::detach(5, PLAIN));
    // Writable first.
    hand.add(REQUEST_QUEUE, &[Part::Write(4), request()]);
    hand.kick(REQUEST_QUEUE);
    assert_eq!(model.violations().take_rules(), ["GV-VQ-2"]);
    // Pieces: legal, and not what cloud-hypervisor bears.
    let bytes = hand::detach(5, PLAIN);
    hand.add(
        REQUEST_QUEUE,
        &[
            Part::Read(bytes[..4].to_vec()),
            Part::Read(bytes[4..].to_vec()),
            Part::Write(4),
        ],
    );
    hand.kick(REQUEST_QUEUE);
    assert_eq!(model.violations().take_rules(), ["MODEL"]);
    model.with(|d| d.knobs.one_descriptor_per_half = false);
    hand.add(REQUEST_QUEUE, &[request(), Part::Write(1), Part::Write(3)]);
    hand.kick(REQUEST_QUEUE);
    assert!(model.violations().is_empty());
    // A loop, an indirect table, an empty descriptor, memory that is not there.
    let next = spec::ring::DESC_F_NEXT;
    let spare = hand.spare();
    for (addr, len, flags, rule) in [
        (spare, 24, next, "GV-VQ-3"),
        (spare, 32, spec::ring::DESC_F_INDIRECT, "GV-IND"),
        (spare, 0, 0, "GV-VQ-3"),
        (PAGES_BASE + (1 << 24), 24, 0, "GV-VQ-6"),
    ] {
        let head = hand.add(REQUEST_QUEUE, &[request()]);
        hand.put_descriptor(0, head, addr, len, [flags, head]);
        hand.kick(REQUEST_QUEUE);
        let rules = model.violations().take_rules();
        assert!(rules.contains(&rule), "{rule} not in {rules:?}");
    }
    hand.put_away();
}

#[test]
fn gv_vq_4_6_broken_rings() {
    let model = Model::new();
    let mut hand = model.hand();
    model.with(|d| d.knobs.mode = Mode::Manual);
    let parts = [Part::Read(hand::detach(5, PLAIN)), Part::Write(4)];
    let head = hand.add(REQUEST_QUEUE, &parts);
    hand.offer(REQUEST_QUEUE, head);
    hand.kick(REQUEST_QUEUE);
    model.script(|_| Answer::never());
    model.with(|d| d.process(9));
    let rules = model.violations().take_rules();
    assert!(rules.contains(&"GV-VQ-6"), "{rules:?}");
    // A head beyond the queue.
    hand.offer(REQUEST_QUEUE, 64);
    hand.kick(REQUEST_QUEUE);
    model.honest();
    model.with(|d| d.process(9));
    assert_eq!(model.violations().take_rules(), ["GV-VQ-3"]);
    // Backwards, and too far.
    for by in [u16::MAX, 66] {
        hand.skip(REQUEST_QUEUE, by);
        hand.kick(REQUEST_QUEUE);
        assert_eq!(model.violations().take_rules(), ["GV-VQ-4"]);
    }
    hand.put_away();
}

#[test]
fn gv_vq_1_6_queues_at_wrong_places() {
    let model = Model::new();
    let hand = model.hand();
    model.with(|d| {
        d.write_status(0);
        d.read_status();
        for status in [1, 3] {
            d.write_status(status);
        }
        d.write_features(d.knobs.offered);
        d.write_status(11);
        d.set_queue(
            0,
            8,
            [PAGES_BASE + 8, PAGES_BASE + 0x2001, PAGES_BASE + 0x4002],
        );
    });
    let rules = model.violations().take_rules();
    // Three places, and the queue as a whole.
    assert_eq!(rules.iter().filter(|r| **r == "GV-VQ-1").count(), 4);
    model.with(|d| {
        d.set_queue(1, 48, [PAGES_BASE; 3]);
        d.set_queue(1, 128, [PAGES_BASE; 3]);
        d.set_queue(2, 8, [PAGES_BASE; 3]);
        d.set_queue(1, 8, [PAGES_BASE, PAGES_BASE + 64, PAGES_BASE + (1 << 24)]);
    });
    let rules = model.violations().take_rules();
    assert_eq!(rules[..3], ["GV-PCI-3"; 3]);
    assert!(rules[3..].contains(&"GV-VQ-6"), "{rules:?}");
    // DRIVER_OK now would be too early.
    model.with(|d| d.write_status(15));
    assert_eq!(model.violations().take_rules(), ["GV-INIT-1"]);
    hand.put_away();
}

/// A device that was just reset.
fn fresh() -> Model {
    let model = Model::new();
    model.with(|d| {
        d.write_status(0);
        assert_eq!(d.read_status(), 0);
    });
    model
}

#[test]
fn gv_init_1_steps_left_out_are_noticed() {
    let model = fresh();
    let rules = |model: &Model| model.violations().take_rules();
    model.with(|d| d.write_status(2));
    assert_eq!(rules(&model), ["GV-INIT-1"], "DRIVER without ACKNOWLEDGE");
    model.with(|d| d.write_status(3));
    model.with(|d| d.write_status(11));
    assert_eq!(rules(&model), ["GV-INIT-1"], "FEATURES_OK before features");
    model.with(|d| d.write_features(feature::VERSION_1));
    assert_eq!(rules(&model), ["GV-INIT-3"], "features after FEATURES_OK");
    model.with(|d| d.write_status(8));
    assert_eq!(rules(&model), ["GV-STAT-1"], "a bit cleared");
    model.with(|d| d.notify(0));
    assert_eq!(rules(&model), ["GV-INIT-6"]);
    model.with(|d| d.write_status(0x80 | 11));
    model.with(|d| d.write_status(0x80 | 15));
    assert_eq!(rules(&model)[0], "GV-INIT-5", "on after FAILED");
    model.with(|d| d.write_config(36, &[0]));
    assert!(rules(&model).contains(&"GV-INIT-5"));
}

#[test]
fn gv_init_2_and_dn_cfg_config_accesses_are_judged() {
    let model = fresh();
    let rules = |model: &Model| model.violations().take_rules();
    model.with(|d| {
        d.write_status(1);
        d.write_status(3);
        assert!(d.read_config(0, 4).is_some());
        d.write_config(36, &[0]);
    });
    assert_eq!(rules(&model), ["GV-INIT-2", "DN-CFG-1"]);
    model.with(|d| {
        d.write_features(d.knobs.offered & !feature::BYPASS_CONFIG);
        d.write_status(11);
        d.write_config(36, &[0]);
    });
    assert_eq!(rules(&model), ["DN-CFG-1"]);
    model.with(|d| {
        d.write_status(0);
        d.read_status();
        d.write_status(1);
        d.write_status(3);
        d.write_features(d.knobs.offered);
        d.write_status(11);
    });
    model.with(|d| d.write_config(36, &[2]));
    assert_eq!(rules(&model), ["DN-CFG-3"]);
    model.with(|d| d.write_config(37, &[0]));
    model.with(|d| d.write_config(36, &[0; 4]));
    assert_eq!(rules(&model), ["DN-CFG-2", "DN-CFG-2"]);
    assert_eq!(model.with(|d| d.config.bypass), 1);
    model.with(|d| d.write_config(36, &[0]));
    assert_eq!(model.with(|d| d.config.bypass), 0);
    // Reads: too wide, unaligned, beyond, not offered.
    model.with(|d| assert!(d.read_config(0, 8).is_some()));
    model.with(|d| assert!(d.read_config(2, 4).is_some()));
    assert_eq!(rules(&model), ["GV-PCI-2", "GV-PCI-2"]);
    model.with(|d| assert!(d.read_config(40, 4).is_none()));
    model.with(|d| {
        d.knobs.offered &= !feature::PROBE;
        assert_eq!(d.read_config(32, 4), Some(vec![0xee; 4]));
    });
    assert_eq!(rules(&model), ["GV-CFG-2", "GV-CFG-2"]);
}

#[test]
fn gv_feat_features_are_judged() {
    let model = fresh();
    model.with(|d| {
        d.write_status(1);
        d.write_status(3);
        d.knobs.offered |= 1 << 41;
        d.write_features(1 << 41 | feature::BYPASS);
    });
    let rules = model.violations().take_rules();
    assert_eq!(rules, ["GV-FEAT-1", "GV-FEAT-2", "GV-V1"]);
    model.with(|d| {
        d.knobs.offered |= feature::EVENT_IDX;
        d.write_features(feature::EVENT_IDX | feature::VERSION_1);
    });
    assert_eq!(model.violations().take_rules(), ["MODEL"]);
}

#[test]
fn gv_rst_1_a_slow_reset_has_to_be_waited_for() {
    let model = fresh();
    model.with(|d| {
        d.write_status(1);
        d.knobs.reset = ResetBehaviour::AfterReads(2);
        d.write_status(0);
        d.write_status(1);
    });
    assert_eq!(model.violations().take_rules(), ["GV-RST-1"]);
    model.with(|d| {
        d.write_status(0);
        assert_ne!(d.read_status(), 0);
        assert_ne!(d.read_status(), 0);
        assert_eq!(d.read_status(), 0);
        d.knobs.reset = ResetBehaviour::Never;
        d.write_status(1);
        d.write_status(0);
        for _ in 0..100 {
            assert_eq!(d.read_status(), 1);
        }
    });
}

#[test]
fn a_device_refuses_features() {
    let model = fresh();
    model.with(|d| {
        d.knobs.refuse_features = true;
        d.write_status(1);
        d.write_status(3);
        d.write_features(d.knobs.offered);
        d.write_status(11);
        assert_eq!(d.read_status(), 3);
    });
    let model = fresh();
    model.with(|d| {
        d.knobs.offered |= feature::ACCESS_PLATFORM;
        d.write_status(1);
        d.write_status(3);
        d.write_features(d.knobs.offered & !feature::ACCESS_PLATFORM);
        d.write_status(11);
        assert_eq!(d.read_status(), 3);
    });
}

#[test]
fn a_config_that_changes_between_two_reads() {
    let model = fresh();
    model.with(|d| {
        d.knobs.torn = Some(Torn {
            after_reads: 1,
            then: ConfigSpace {
                page_size_mask: 0x1_0000_0000_0000,
                ..ConfigSpace::default()
            },
        });
        let before = d.read_generation();
        assert_eq!(d.read_config(0, 4), Some(vec![0, 0xf0, 0xff, 0xff]));
        assert_eq!(d.read_config(4, 4), Some(vec![0, 0, 1, 0]));
        assert_ne!(d.read_generation(), before);
    });
}

#[test]
fn needs_reset_at_an_access_stops_everything() {
    let model = Model::new();
    let mut hand = model.hand();
    model.with(|d| d.knobs.needs_reset_at = Some(d.registers.accesses));
    assert_eq!(hand.ask(hand::probe(PLAIN), PROBE_ROOM), None);
    let status = model.with(|d| d.read_status());
    assert_eq!(status & status_bit::NEEDS_RESET, status_bit::NEEDS_RESET);
    assert!(!model.with(|d| d.report(Record::default())));
    model.with(|d| d.write_status(0));
    assert_eq!(model.with(|d| d.read_status()), 0);
    hand.put_away();
}

#[test]
fn dma_lands_where_the_mapping_says_and_blocked_bytes_are_reported() {
    let (model, mut hand) = blank();
    model.with(|d| d.config.bypass = 0);
    let [a, b] = [1, 2].map(|pages| model.ram().buffer(pages));
    model.ram().write(a, b"read me!");
    for map in [
        hand::map(5, 0x1000, 0x1007, a, MAP_F_READ),
        hand::map(5, 0x1008, 0x100f, b, MAP_F_WRITE),
    ] {
        assert_eq!(hand.status(map), status::OK);
    }
    for _ in 0..3 {
        hand.add(EVENT_QUEUE, &[Part::Write(FAULT_LEN)]);
    }
    hand.kick(EVENT_QUEUE);
    // Over the border of a mapping that cannot be read.
    let bytes = model.with(|d| d.dma_read(PLAIN, 0x1006, 4));
    assert_eq!(bytes, [Some(b'e'), Some(b'!'), None, None]);
    assert_eq!(model.with(|d| d.dma_write(PLAIN, 0x1006, &[1, 2, 3, 4])), 2);
    assert_eq!(model.ram().read(b, 3), Some(vec![3, 4, 0]));
    assert_eq!(model.with(|d| d.dma_read(OTHER, 0x1000, 1)), [None]);
    let mut reports = std::iter::from_fn(|| hand.reap(EVENT_QUEUE)).map(|r| r.written);
    let expected = |reason, flags: u32, endpoint: u32, address: u64| {
        let mut bytes = vec![reason, 0, 0, 0];
        bytes.extend(flags.to_le_bytes());
        bytes.extend(endpoint.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(address.to_le_bytes());
        Some(bytes)
    };
    assert_eq!(reports.next(), expected(2, 0x101, PLAIN, 0x1008));
    assert_eq!(reports.next(), expected(2, 0x102, PLAIN, 0x1006));
    assert_eq!(reports.next(), expected(1, 0x100, OTHER, 0x1000));
    assert_eq!(reports.next(), None);
    drop(reports);
    // No buffer is left: dropped, and counted. One fault for each four bytes.
    model.with(|d| {
        d.knobs.faults = FaultStyle {
            beat: Some(4),
            ..FaultStyle::default()
        };
        d.dma_read(OTHER, 0, 64);
        assert_eq!((d.events.delivered, d.events.dropped), (3, 16));
    });
    hand.put_away();
}

#[test]
fn event_buffers_that_are_too_small_or_not_announced() {
    let model = Model::new();
    let mut hand = model.hand();
    hand.add(EVENT_QUEUE, &[Part::Write(16)]);
    assert!(!model.with(|d| d.report(Record::default())), "no kick yet");
    hand.kick(EVENT_QUEUE);
    assert!(model.with(|d| d.report(Record::default())));
    assert_eq!(model.violations().take_rules(), ["DV-FLT-5"]);
    hand.put_away();
}

#[test]
fn bypass_of_unattached_endpoints_follows_the_features() {
    let model = Model::new();
    model.with(|d| d.config.bypass = 1);
    assert_eq!(model.reads(PLAIN, 0x77), Some(0x77), "even if not accepted");
    model.with(|d| d.config.bypass = 0);
    assert_eq!(model.reads(PLAIN, 0x77), None);
    model.with(|d| {
        d.config.bypass = 1;
        d.knobs.offered &= !feature::BYPASS_CONFIG;
    });
    assert_eq!(model.reads(PLAIN, 0x77), None, "not even offered");
    model.with(|d| d.registers.accepted = feature::BYPASS);
    assert_eq!(model.reads(PLAIN, 0x77), Some(0x77), "the old feature");
    assert_eq!(model.reads(0x999, 0x77), None, "no such endpoint");
}

#[test]
fn a_reset_detaches_unless_the_device_is_like_qemu() {
    for survives in [false, true] {
        let (model, mut hand) = blank();
        model.with(|d| {
            d.unit.quirks.state_outlives_reset = survives;
            d.config.bypass = 0;
        });
        let map = hand::map(5, 0, 9, 0x4000, RW);
        assert_eq!(hand.status(map), status::OK);
        hand.put_away();
        assert_eq!(model.reads(PLAIN, 0).is_some(), survives);
        assert_eq!(model.with(|d| d.config.bypass), 0, "§5.13.4.2");
    }
}

#[test]
fn quirks_of_real_devices() {
    let (model, mut hand) = blank();
    hand.ask(hand::probe(OTHER), PROBE_ROOM);
    let quirk = |set: fn(&mut model::unit::Quirks)| model.with(|d| set(&mut d.unit.quirks));
    quirk(|q| q.endpoints_per_domain = Some(1));
    assert_eq!(hand.status(hand::attach(5, OTHER, 0)), status::UNSUPP);
    quirk(|q| q.mappings_per_domain = Some(2));
    for (at, expected) in [(0, status::OK), (10, status::OK), (20, status::NOMEM)] {
        let map = hand::map(5, at, at + 4, 0x4000, MAP_F_WRITE);
        assert_eq!(hand.status(map), expected);
    }
    assert_eq!(model.reads(PLAIN, 0), None);
    quirk(|q| q.write_implies_read = true);
    assert_eq!(model.reads(PLAIN, 0), Some(0x4000));
    quirk(|q| q.refused_unmap_removes = true);
    assert_eq!(hand.status(hand::unmap(5, 0, 12)), status::RANGE);
    assert_eq!(ranges(&model, 5), [(10, 14)]);
    model.violations().take();
    quirk(|q| q.no_implicit_detach = true);
    assert_eq!(hand.status(hand::attach(6, PLAIN, 0)), status::UNSUPP);
    quirk(|q| q.reattach_drops_mappings = true);
    assert_eq!(hand.status(hand::attach(5, PLAIN, 0)), status::OK);
    assert_eq!(ranges(&model, 5), []);
    quirk(|q| q.refused_attach_detaches = true);
    assert_eq!(hand.status(hand::attach(6, PLAIN, 0)), status::UNSUPP);
    assert_eq!(model.domain_of(PLAIN), None);
    model.with(|d| d.knobs.refusals_have_length_zero = true);
    let returned = hand.ask(hand::detach(5, PLAIN), 4).unwrap();
    assert_eq!((returned.len, returned.written[0]), (0, status::INVAL));
    hand.put_away();
}

/// Sends three DETACHes with one kick under a script for the second; returns what comes back.
fn three(model: &Model, hand: &mut Hand, second: Answer) -> Vec<(u32, u32)> {
    model.script(move |seen| {
        if seen.number % 3 == 1 {
            second.clone()
        } else {
            Answer::honest()
        }
    });
    for _ in 0..3 {
        let parts = [Part::Read(hand::detach(5, PLAIN)), Part::Write(4)];
        hand.add(REQUEST_QUEUE, &parts);
    }
    hand.kick(REQUEST_QUEUE);
    std::iter::from_fn(|| hand.reap(REQUEST_QUEUE))
        .map(|r| (r.id, r.len))
        .collect()
}

#[test]
fn scripted_used_entries() {
    let cases: [(Answer, &[(u32, u32)]); 8] = [
        (Answer::honest(), &[(0, 4), (2, 4), (4, 4)]),
        (Answer::never(), &[(0, 4), (4, 4)]),
        (Answer::honest().twice(), &[(0, 4), (2, 4), (2, 4), (4, 4)]),
        (
            Answer::honest().with_id(Id::Raw(0x1_0000)),
            &[(0, 4), (0x1_0000, 4), (4, 4)],
        ),
        (
            Answer::honest().with_id(Id::Idle),
            &[(0, 4), (0, 4), (4, 4)],
        ),
        (
            Answer::honest().with_id(Id::OwnTail),
            &[(0, 4), (3, 4), (4, 4)],
        ),
        (
            Answer::honest().with_id(Id::Other),
            &[(0, 4), (4, 4), (4, 4)],
        ),
        (
            Answer::honest().with_len(u32::MAX),
            &[(0, 4), (2, u32::MAX), (4, 4)],
        ),
    ];
    for (answer, expected) in cases {
        let model = Model::new();
        let mut hand = model.hand();
        assert_eq!(
            three(&model, &mut hand, answer.clone()),
            expected,
            "{answer:?}"
        );
        hand.put_away();
    }
}

#[test]
fn scripted_order() {
    for (order, expected) in [
        (Order::Fifo, [0, 2, 4]),
        (Order::AnswerReversed, [4, 2, 0]),
        (Order::Reversed, [4, 2, 0]),
    ] {
        let model = Model::new();
        let mut hand = model.hand();
        model.with(|d| d.knobs.order = order);
        let returned = three(&model, &mut hand, Answer::honest());
        let ids: Vec<u32> = returned.iter().map(|r| r.0).collect();
        assert_eq!(ids, expected);
        let heads: Vec<u16> = model.with(|d| d.seen.iter().map(|s| s.head).collect());
        assert_eq!(heads[0], if order == Order::Reversed { 4 } else { 0 });
        hand.put_away();
    }
    let (_, mut shuffled) = Order::AnswerShuffled(7).positions(20);
    assert_ne!(shuffled, (0..20).collect::<Vec<_>>());
    shuffled.sort_unstable();
    assert_eq!(shuffled, (0..20).collect::<Vec<_>>());
}

#[test]
fn scripted_contents() {
    let model = Model::new();
    let mut hand = model.hand();
    hand.ask(hand::probe(PLAIN), PROBE_ROOM);
    let attach = || hand::attach(5, PLAIN, 0);
    let mut ask = |answer: Answer| {
        model.script(move |_| answer.clone());
        let returned = hand.ask(attach(), 4).unwrap();
        let attached = model.domain_of(PLAIN).is_some();
        model.with(|d| d.unit.reset());
        (returned.len, returned.written, attached)
    };
    assert_eq!(ask(Answer::status(7)), (4, vec![7, 0, 0, 0], false));
    assert_eq!(ask(Answer::done_but_status(1)), (4, vec![1, 0, 0, 0], true));
    assert_eq!(ask(Answer::unwritten()), (0, vec![POISON; 4], false));
    assert_eq!(ask(Answer::claims(4)), (4, vec![POISON; 4], false));
    let dirty = Answer::honest().with_reserved([1, 2, 3]);
    assert_eq!(ask(dirty), (4, vec![0, 1, 2, 3], true));
    model.script(|_| Answer::honest().with_properties(vec![0xab; 8]));
    let returned = hand.ask(hand::probe(PLAIN), PROBE_ROOM).unwrap();
    assert_eq!(
        returned.written[..9],
        [0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0]
    );
    assert_eq!(returned.status(), Some(status::OK));
    // The used index runs ahead of the entries.
    model.script(|_| Answer::honest().with_jump(2));
    hand.ask(hand::detach(5, PLAIN), 4).unwrap();
    assert!(hand.reap(REQUEST_QUEUE).is_some());
    assert!(hand.reap(REQUEST_QUEUE).is_some());
    assert!(hand.reap(REQUEST_QUEUE).is_none());
    model.violations().take();
    hand.put_away();
}

#[test]
fn scripted_time() {
    let model = Model::new();
    let mut hand = model.hand();
    hand.ask(hand::probe(PLAIN), PROBE_ROOM);
    // Late answer, effect at once; late effect; never told; and NEEDS_RESET.
    model.script(|_| Answer::late());
    assert_eq!(hand.ask(hand::attach(5, PLAIN, 0), 4), None);
    assert_eq!(model.domain_of(PLAIN), Some(5));
    model.script(|_| Answer::late_effect());
    assert_eq!(hand.ask(hand::detach(5, PLAIN), 4), None);
    assert_eq!(model.domain_of(PLAIN), Some(5));
    assert_eq!(model.with(|d| d.waiting()), 2);
    assert_eq!(model.with(|d| d.release(9)), 2);
    assert_eq!(model.domain_of(PLAIN), None);
    for _ in 0..2 {
        assert_eq!(hand.reap(REQUEST_QUEUE).unwrap().status(), Some(status::OK));
    }
    assert_eq!(Answer::done_never_told().when, When::Never);
    model.script(|_| Answer::done_never_told());
    assert_eq!(hand.ask(hand::attach(5, PLAIN, 0), 4), None);
    assert_eq!(model.domain_of(PLAIN), Some(5));
    model.script(|_| Answer::needs_reset());
    assert_eq!(hand.ask(hand::detach(5, PLAIN), 4), None);
    assert_eq!(model.domain_of(PLAIN), Some(5));
    assert!(!model.with(|d| d.is_live()));
    hand.put_away();
}

#[test]
fn processing_on_the_tick_of_the_clock_and_without_notification() {
    use virtio_iommu::Platform;
    let model = Model::new();
    let mut hand = model.hand();
    model.with(|d| d.knobs.mode = Mode::OnTick(1));
    for _ in 0..2 {
        let parts = [Part::Read(hand::detach(5, PLAIN)), Part::Write(4)];
        hand.add(REQUEST_QUEUE, &parts);
    }
    hand.kick(REQUEST_QUEUE);
    let platform = model.platform();
    for _ in 0..2 {
        assert_eq!(hand.reap(REQUEST_QUEUE), None);
        platform.now();
        assert!(hand.reap(REQUEST_QUEUE).is_some());
    }
    hand.put_away();
    // A device that polls: kicks are a mistake.
    model.with(|d| {
        d.knobs.mode = Mode::OnNotify;
        d.knobs.no_notify = true;
    });
    let mut hand = model.hand();
    let parts = [Part::Read(hand::detach(5, PLAIN)), Part::Write(4)];
    hand.add(REQUEST_QUEUE, &parts);
    assert_eq!(hand.reap(REQUEST_QUEUE), None);
    platform.now();
    assert!(hand.reap(REQUEST_QUEUE).is_some());
    hand.kick(REQUEST_QUEUE);
    assert_eq!(model.violations().take_rules(), ["GV-NOTIF-1"]);
    hand.put_away();
}

#[test]
fn requests_are_told_apart() {
    let model = Model::new();
    let mut hand = model.hand();
    hand.ask(hand::probe(7), PROBE_ROOM);
    hand.status(hand::attach(4, 7, 0));
    hand.status(hand::map(4, 0x1000, 0x2fff, 0x5000, 3));
    hand.status(hand::unmap(4, 0x1000, 0x2fff));
    hand.status(hand::detach(4, 7));
    model.violations().take();
    let (domain, start, end) = (4, 0x1000, 0x2fff);
    assert_eq!(
        model.requests(),
        [
            Request::Probe { endpoint: 7 },
            Request::Attach {
                domain,
                endpoint: 7,
                flags: 0
            },
            Request::Map {
                domain,
                start,
                end,
                phys: 0x5000,
                flags: 3
            },
            Request::Unmap { domain, start, end },
            Request::Detach {
                domain,
                endpoint: 7
            },
        ]
    );
    hand.put_away();
}

#[test]
fn the_platform_notices_what_is_done_with_its_pages() {
    let model = Model::new();
    let ram = model.ram();
    let (phys, virt) = ram.allocate(2, 0x1_0000).unwrap();
    assert_eq!(phys % 0x1_0000, 0);
    assert_eq!(virt.as_ptr() as usize % 0x1_0000, 0);
    assert_eq!(ram.phys_of(virt), Some(phys));
    assert_ne!(virt.as_ptr() as u64, phys, "no address is its own pointer");
    assert!(ram.is_live(phys, 0x2000));
    assert!(!ram.is_live(phys, 0x2001));
    assert_eq!((ram.live_pages(), ram.peak_pages()), (2, 2));
    ram.write(phys + 0x2000, &[0]);
    ram.free(phys, 2, 0x1000);
    ram.free(phys, 2, 0x1000);
    assert_eq!(model.violations().take_rules(), ["PLATFORM"; 3]);
    assert_eq!(ram.read(phys, 1), Some(vec![0xdd]));
    ram.refuse(Some(Refuse::Only(1)));
    assert!(ram.allocate(1, 4096).is_none());
    let (phys, _) = ram.allocate(1, 4096).unwrap();
    ram.free(phys, 1, 4096);
    ram.refuse(Some(Refuse::From(3)));
    assert!(ram.allocate(1, 4096).is_none());
    assert!(ram.allocate(1, 4096).is_none());
}

#[test]
fn gv_vq_6_giving_back_the_memory_of_a_live_queue_is_noticed() {
    let model = Model::new();
    let hand = model.hand();
    model.ram().free(PAGES_BASE, 1, 4096);
    assert_eq!(model.violations().take_rules(), ["GV-VQ-6"]);
    hand.put_away();
    assert_eq!(model.violations().take_rules(), ["PLATFORM"], "twice");
}

#[test]
#[should_panic(expected = "violations that nobody looked at")]
fn a_violation_that_nobody_looks_at_fails_the_test() {
    let model = Model::new();
    model.with(|d| d.notify(0));
}

#[test]
#[should_panic(expected = "pages still allocated")]
fn a_leak_fails_the_test() {
    let model = Model::new();
    model.ram().allocate(1, 4096);
}

#[test]
#[should_panic(expected = "a wait without limit")]
fn an_endless_wait_fails_the_test() {
    use virtio_iommu::Platform;
    let model = Model::new();
    model.clock().set_limit(50);
    let platform = model.platform();
    loop {
        platform.now();
    }
}

#[test]
#[should_panic(expected = "registers read without limit")]
fn an_endless_poll_fails_the_test() {
    let model = Model::new();
    model.with(|d| d.registers.limit = Some(50));
    loop {
        model.with(|d| d.read_generation());
    }
}

#[test]
#[should_panic(expected = "a lock taken twice")]
fn a_lock_that_waits_for_itself_fails_the_test() {
    let lock = lock_api::Mutex::<model::platform::WatchedLock, u32>::new(1);
    let _one = lock.lock();
    let _two = lock.lock();
}

#[test]
fn the_state_that_an_earlier_driver_left_can_be_planted() {
    let model = Model::new();
    model.with(|d| {
        d.config.bypass = 0;
        d.unit.quirks.state_outlives_reset = true;
        d.unit.endpoints.insert(0x20, Endpoint::default());
        let mapping = Mapping {
            start: 0x1000,
            end: 0x1fff,
            phys: 0x9000,
            flags: MAP_F_READ,
        };
        d.unit.seed(0x20, 9, &[mapping]);
    });
    let hand = model.hand();
    assert_eq!(model.reads(0x20, 0x1fff), Some(0x9fff));
    assert_eq!(
        model.with(|d| d.translate(0x20, 0x2000, Access::Read).unwrap_err().reason),
        spec::FAULT_R_MAPPING
    );
    hand.put_away();
}
