//! How requests are taken apart, PROBE, and what is reported.

use crate::model::events::{FaultStyle, Record};
use crate::model::hand::{self, POISON, Part};
use crate::model::requests::Request;
use crate::model::spec::{
    self, EVENT_QUEUE, FAULT_LEN, MAP_F_READ, MAP_F_WRITE, REQUEST_QUEUE, TAIL_LEN, feature, status,
};
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::{PROBE_ROOM, RW, blank};

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
