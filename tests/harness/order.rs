//! Records of two CPUs: any mixture of what each did in its order is believed, and nothing else.

use crate::support::audit::audit;
use crate::support::expect::Expect;
use crate::support::finding::Finding;
use crate::support::order::{merge, turns};
use crate::support::records;
use crate::support::request::{Body, Range, Request, Status};
use crate::support::trace::{Event, Trace};
use crate::trace::{DEVICE, EXPECT, GUEST, change};
use libtest_mimic::Trial;

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 4] = [
        ("one_cpu_is_left_alone", one_cpu),
        ("merges_are_found_where_there_are_some", merges),
        ("requests_of_both_are_audited", audited),
        ("untraced_requests_keep_their_place", untraced),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("order::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

/// An UNMAP of one page.
fn page(cpu: u32, page: u64) -> Request {
    let range = Range {
        start: page << 12,
        end: (page << 12) | 0xfff,
    };
    Request {
        cpu,
        body: Body::Unmap { domain: 1, range },
        status: Status::Ok,
    }
}

fn traced(pages: &[u64]) -> Trace {
    let event = |(line, at): (usize, &u64)| match page(0, *at).body {
        Body::Unmap { domain, range } => (line, Event::Unmap { domain, range }),
        _ => unreachable!("a page is unmapped"),
    };
    let events = pages.iter().enumerate().map(event).collect();
    Trace { events }
}

/// The records of two CPUs on the serial line, where `mixture` says whose turn it is.
fn mixed(sides: [&[u64]; 2], mixture: &[usize]) -> Vec<(usize, Request)> {
    let mut sides = sides.map(|pages| pages.iter());
    let next = |(line, side): (usize, &usize)| {
        let at = sides[*side].next().expect("as many as there are");
        (line + 1, page(*side as u32, *at))
    };
    mixture.iter().enumerate().map(next).collect()
}

fn pages(records: &[(usize, Request)]) -> Vec<u64> {
    let of = |(_, request): &(usize, Request)| match request.body {
        Body::Unmap { range, .. } => range.start >> 12,
        _ => unreachable!("a page is unmapped"),
    };
    records.iter().map(of).collect()
}

fn one_cpu() {
    // Even where it is not the device's order.
    let guest = [(1, page(0, 2)), (2, page(0, 1))];
    assert_eq!(merge(&traced(&[1, 2]), &guest), guest);
    assert_eq!(turns(&guest), 0);
}

/// Every word of 0 and 1 with as many of each.
fn mixtures(zeros: usize, ones: usize) -> Vec<Vec<usize>> {
    if zeros == 0 && ones == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (digit, [zeros, ones], left) in [
        (0, [zeros.wrapping_sub(1), ones], zeros),
        (1, [zeros, ones.wrapping_sub(1)], ones),
    ] {
        if left > 0 {
            let rest = mixtures(zeros, ones).into_iter();
            all.extend(rest.map(|rest| [vec![digit], rest].concat()));
        }
    }
    all
}

/// All sequences of two CPUs over two pages, and all orders of the device: the naive answer is to try every mixture.
fn merges() {
    let words =
        |len: u32| (0..1_u64 << len).map(move |word| (0..len).map(|i| word >> i & 1).collect());
    let (mut found, mut not_found) = (0, 0);
    for first in words(3).collect::<Vec<Vec<u64>>>() {
        for second in words(2).collect::<Vec<Vec<u64>>>() {
            let sides = [&first[..], &second[..]];
            let all = mixtures(3, 2);
            let possible: Vec<Vec<u64>> = all
                .iter()
                .map(|mixture| pages(&mixed(sides, mixture)))
                .collect();
            for device in words(5).collect::<Vec<Vec<u64>>>() {
                let trace = traced(&device);
                for mixture in &all {
                    let guest = mixed(sides, mixture);
                    let merged = merge(&trace, &guest);
                    let agrees = pages(&merged) == device;
                    assert_eq!(
                        agrees,
                        possible.contains(&device),
                        "{sides:?} {mixture:?} {device:?}"
                    );
                    // Nothing is lost, nothing is new, and each CPU keeps its order.
                    let of = |records: &[(usize, Request)], cpu: u32| -> Vec<(usize, Request)> {
                        let records = records.iter().copied();
                        records.filter(|(_, request)| request.cpu == cpu).collect()
                    };
                    for cpu in [0, 1] {
                        assert_eq!(of(&merged, cpu), of(&guest, cpu));
                    }
                    if agrees { found += 1 } else { not_found += 1 }
                }
            }
        }
    }
    assert!(found > 1000 && not_found > 1000, "{found} {not_found}");
}

/// The UNMAPs of the short run are another CPU's, and come on the serial line before the MAPs.
fn audited() {
    let unmap = "@viommu 1 req unmap domain=1 virt_start=0x1000 virt_end=0x2fff status=OK\n";
    let second = "@viommu 1 req unmap domain=1 virt_start=0x4000 virt_end=0x4fff status=OK\n";
    let on_second = |line: &str| line.replace("req ", "req cpu=1 ");
    let early = "@viommu 1 req map domain=1 virt_start=0x1000";
    let both = format!("{}{}", on_second(unmap), on_second(second));
    let guest = change(
        GUEST,
        &[
            (unmap, ""),
            (second, ""),
            (early, &format!("{both}{early}")),
        ],
    );
    let expect = Expect { turns: 2, ..EXPECT };
    let find = |guest: &str, expect: &Expect| {
        let trace = Trace::parse(DEVICE).expect("readable");
        let log = records::parse(guest.as_bytes()).expect("believed");
        audit(&trace, &log.requests, expect)
    };
    assert_eq!(find(&guest, &expect), []);
    assert_eq!(find(&guest, &EXPECT), [Finding::Turns(2)]);
    assert_eq!(
        find(&guest, &Expect { turns: 3, ..EXPECT }),
        [Finding::Turns(2)]
    );
    assert_eq!(find(GUEST, &expect), [Finding::Turns(0)]);
    // On one CPU the same is wrong.
    let alone = guest.replace("cpu=1 ", "");
    assert!(matches!(
        find(&alone, &EXPECT)[..],
        [Finding::Disagreement { .. }]
    ));
    // So is another order of that CPU's own, another operand, one less, one more.
    let swapped = guest.replace(&both, &format!("{}{}", on_second(second), on_second(unmap)));
    let other = guest.replace(
        "cpu=1 unmap domain=1 virt_start=0x4000",
        "cpu=1 unmap domain=1 virt_start=0x3000",
    );
    let less = guest.replace(&on_second(second), "");
    let more = guest.replace(&on_second(second), &on_second(second).repeat(2));
    for wrong in [swapped, other, less, more] {
        assert!(
            matches!(find(&wrong, &expect)[..], [Finding::Disagreement { .. }]),
            "{wrong}"
        );
    }
    // A wrong status is found at the request that has it.
    let refused = guest.replace(
        &on_second(second),
        &on_second(second).replace("OK", "RANGE"),
    );
    assert!(matches!(
        find(&refused, &expect)[..],
        [Finding::Status { .. }]
    ));
}

/// A MAP that the device refused leaves no trace: it stays behind what its CPU sent before.
fn untraced() {
    let refused = Request {
        body: Body::Probe { endpoint: 1 },
        ..page(1, 0)
    };
    let guest = [
        (1, page(1, 5)),
        (2, refused),
        (3, page(1, 6)),
        (4, page(0, 7)),
    ];
    let merged = merge(&traced(&[5, 7, 6]), &guest);
    let lines: Vec<usize> = merged.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 4, 2, 3]);
    assert_eq!(turns(&merged), 2);
}
