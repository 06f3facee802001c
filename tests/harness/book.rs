//! The independent account of the device, call by call, against what QEMU's device was seen to do.

use crate::support::book::Book;
use crate::support::request::{Mapping, Range, Status};
use crate::support::trace::Event;
use libtest_mimic::Trial;

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 7] = [
        ("ranges", ranges),
        ("maps", maps),
        ("unmaps", unmaps),
        ("a_cut_mapping", a_cut_mapping),
        ("domains_come_and_go", domains_come_and_go),
        ("detach", detach),
        ("bypass_domains", bypass_domains),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("book::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

const fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

const fn mapping(start: u64, end: u64, flags: u32) -> Mapping {
    Mapping {
        range: range(start, end),
        phys_start: 0x8000_0000,
        flags,
    }
}

const fn done(start: u64, end: u64) -> Event {
    Event::UnmapDone {
        domain: 1,
        range: range(start, end),
    }
}

const fn left(domain: u32, endpoint: u32) -> Event {
    Event::Left { domain, endpoint }
}

/// Endpoint 16 in domain 1, with pages 1, 2 and 5 mapped, one by one.
fn book() -> Book {
    let mut book = Book::default();
    attach(&mut book, 1, 16);
    for page in [1, 2, 5] {
        let page = mapping(page << 12, (page << 12) + 0xfff, 3);
        assert_eq!(book.map(1, page).status, Status::Ok);
    }
    book
}

fn attach(book: &mut Book, domain: u32, endpoint: u32) -> Vec<Event> {
    let outcome = book.attach(domain, endpoint, 0, &[Event::EndpointMade(endpoint)]);
    assert_eq!(outcome.status, Status::Ok);
    outcome.effects
}

fn ranges() {
    let middle = range(10, 20);
    for (other, overlaps, contains) in [
        (range(0, 9), false, false),
        (range(0, 10), true, false),
        (range(0, 15), true, false),
        (range(0, 20), true, false),
        (range(0, 30), true, false),
        (range(10, 10), true, true),
        (range(10, 20), true, true),
        (range(10, 21), true, false),
        (range(9, 20), true, false),
        (range(11, 19), true, true),
        (range(20, 20), true, true),
        (range(20, 30), true, false),
        (range(21, 30), false, false),
    ] {
        assert_eq!(middle.overlaps(other), overlaps, "{other}");
        assert_eq!(other.overlaps(middle), overlaps, "{other}");
        assert_eq!(middle.contains(other), contains, "{other}");
    }
}

fn maps() {
    let mut book = book();
    for (domain, page, status) in [
        (1, mapping(0x1000, 0x1fff, 3), Status::Inval),
        (1, mapping(0x1fff, 0x1fff, 3), Status::Inval),
        (1, mapping(0x0, 0x1000, 3), Status::Inval),
        (1, mapping(0x0, u64::MAX, 3), Status::Inval),
        (1, mapping(0x4000, 0x5000, 3), Status::Inval),
        (1, mapping(0x6000, 0x6fff, 8), Status::Inval),
        (2, mapping(0x6000, 0x6fff, 3), Status::NoEnt),
        (1, mapping(0x0, 0xfff, 0), Status::Ok),
        (1, mapping(0x3000, 0x4fff, 7), Status::Ok),
        (1, mapping(0x6000, u64::MAX, 1), Status::Ok),
    ] {
        assert_eq!(book.judge_map(domain, page), status, "{page:?}");
        let outcome = book.map(domain, page);
        assert_eq!(
            (outcome.status, outcome.effects),
            (status, vec![]),
            "{page:?}"
        );
    }
    assert_eq!(book.mappings().count(), 6);
}

fn unmaps() {
    let mut book = book();
    for (domain, addresses, status, effects) in [
        (2, range(0x1000, 0x1fff), Status::NoEnt, vec![]),
        (1, range(0x3000, 0x4fff), Status::Ok, vec![]),
        (
            1,
            range(0x1000, 0x1fff),
            Status::Ok,
            vec![done(0x1000, 0x1fff)],
        ),
        (1, range(0x1000, 0x1fff), Status::Ok, vec![]),
        (
            1,
            range(0x0, u64::MAX),
            Status::Ok,
            vec![done(0x2000, 0x2fff), done(0x5000, 0x5fff)],
        ),
    ] {
        let outcome = book.unmap(domain, addresses, &[]);
        assert_eq!(
            (outcome.status, outcome.effects),
            (status, effects),
            "{addresses}"
        );
    }
    assert_eq!(book.mappings().count(), 0);
}

/// The device works through its tree and stops at the mapping that is cut: what it removed before is its affair.
fn a_cut_mapping() {
    let none = book().unmap(1, range(0x1000, 0x57ff), &[]);
    assert_eq!((none.status, none.effects), (Status::Range, vec![]));
    let mut book = book();
    let found = [done(0x2000, 0x2fff)];
    let some = book.unmap(1, range(0x1000, 0x57ff), &found);
    assert_eq!((some.status, some.effects), (Status::Range, found.to_vec()));
    let kept: Vec<Range> = book.mapped(1).collect();
    assert_eq!(kept, [range(0x1000, 0x1fff), range(0x5000, 0x5fff)]);
    // The cut one is never removed, and nothing outside is.
    let lie = [done(0x5000, 0x5fff)];
    assert_eq!(book.unmap(1, range(0x1000, 0x57ff), &lie).effects, []);
}

fn domains_come_and_go() {
    let mut book = book();
    let outcome = book.attach(1, 99, 0, &[]);
    assert_eq!((outcome.status, outcome.effects), (Status::NoEnt, vec![]));
    assert_eq!(attach(&mut book, 1, 24), [Event::EndpointMade(24)]);
    assert!(book.members(1).eq([16, 24]));
    // One leaves: the mappings stay for the other.
    let gone = book.attach(2, 16, 0, &[]);
    assert_eq!(gone.effects, [left(1, 16), Event::DomainMade(2)]);
    assert_eq!(book.mapped(1).count(), 3);
    assert!(book.attached().eq([(16, 2), (24, 1)]));
    // The last leaves, if only to come back: the domain is a new one.
    let again = book.attach(1, 24, 0, &[]);
    assert_eq!(
        again.effects,
        [left(1, 24), Event::DomainGone(1), Event::DomainMade(1)]
    );
    assert_eq!(book.mappings().count(), 0);
    // A request with unknown flags has no effect.
    let flags = book.attach(7, 24, 2, &[]);
    assert_eq!((flags.status, flags.effects), (Status::Inval, vec![]));
    // A reset of the older device.
    let mut cleared = book.clear();
    cleared.sort_by_key(|event| format!("{event:?}"));
    let mut expected = vec![
        left(1, 24),
        left(2, 16),
        Event::DomainGone(1),
        Event::DomainGone(2),
        Event::EndpointGone(16),
        Event::EndpointGone(24),
    ];
    expected.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(cleared, expected);
    assert_eq!(book.attached().count(), 0);
}

fn detach() {
    let mut book = book();
    attach(&mut book, 1, 24);
    let outcome = book.detach(1, 99, &[]);
    assert_eq!((outcome.status, outcome.effects), (Status::NoEnt, vec![]));
    let outcome = book.detach(2, 16, &[]);
    assert_eq!((outcome.status, outcome.effects), (Status::Inval, vec![]));
    let gone = Event::EndpointGone(16);
    let outcome = book.detach(1, 16, &[gone]);
    assert_eq!(
        (outcome.status, outcome.effects),
        (Status::Ok, vec![left(1, 16), gone])
    );
    assert_eq!(book.detach(1, 16, &[]).status, Status::NoEnt);
    // QEMU 9.0 keeps the endpoint in mind, and says INVAL the second time.
    let outcome = book.detach(1, 24, &[]);
    assert_eq!(outcome.effects, [left(1, 24), Event::DomainGone(1)]);
    assert_eq!(book.detach(1, 24, &[]).status, Status::Inval);
    assert_eq!(book.mappings().count(), 0);
}

fn bypass_domains() {
    let mut book = book();
    let made = [Event::EndpointMade(24), Event::DomainMade(3)];
    let outcome = book.attach(3, 24, 1, &made);
    assert_eq!(
        (outcome.status, outcome.effects),
        (Status::Ok, made.to_vec())
    );
    assert_eq!(
        book.map(3, mapping(0x1000, 0x1fff, 3)).status,
        Status::Inval
    );
    assert_eq!(
        book.unmap(3, range(0x1000, 0x1fff), &[]).status,
        Status::Inval
    );
    // The wrong flag for a domain that exists: refused, and out of the old one all the same.
    let outcome = book.attach(3, 16, 0, &[]);
    assert_eq!(outcome.status, Status::Inval);
    assert_eq!(outcome.effects, [left(1, 16), Event::DomainGone(1)]);
    assert!(book.attached().eq([(24, 3)]));
    assert_eq!(book.attach(3, 16, 1, &[]).status, Status::Ok);
}
