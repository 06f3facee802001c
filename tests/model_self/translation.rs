//! ATTACH, DETACH, MAP, UNMAP: the examples of the specification, and every refusal.

use crate::model::hand::{self, Hand};
use crate::model::spec::{self, MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, feature, status};
use crate::model::unit::{Access, Endpoint, Mapping};
use crate::model::{Model, OTHER, PLAIN, REGIONS, RESERVING};
use crate::{PROBE_ROOM, RW, attached, blank, ranges};

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
    let quirk = |set: fn(&mut crate::model::unit::Quirks)| model.with(|d| set(&mut d.unit.quirks));
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
