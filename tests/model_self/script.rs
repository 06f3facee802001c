//! The scripted personality.

use crate::PROBE_ROOM;
use crate::model::device::Mode;
use crate::model::hand::{self, Hand, POISON, Part};
use crate::model::script::{Answer, Id, Order, When};
use crate::model::spec::{REQUEST_QUEUE, status};
use crate::model::{Model, PLAIN};

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
