//! Rings and chains that are broken.

use crate::model::device::Mode;
use crate::model::hand::{self, Part};
use crate::model::memory::PAGES_BASE;
use crate::model::script::Answer;
use crate::model::spec::{self, REQUEST_QUEUE};
use crate::model::{Model, PLAIN};

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

#[test]
fn gv_vq_6_giving_back_the_memory_of_a_live_queue_is_noticed() {
    let model = Model::new();
    let hand = model.hand();
    model.ram().free(PAGES_BASE, 1, 4096);
    assert_eq!(model.violations().take_rules(), ["GV-VQ-6"]);
    hand.put_away();
    assert_eq!(model.violations().take_rules(), ["PLATFORM"], "twice");
}
