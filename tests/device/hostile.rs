//! Random answers, random configurations, random reports: the driver does not panic, does not
//! wait without limit, and takes nothing for confirmed that was not.

use crate::each;
use crate::model::personality::Personality;
use crate::rig::any_of;
use proptest::prelude::*;

use crate::model::Model;
use crate::model::config::ConfigSpace;
use crate::model::requests::Request;
use crate::model::script::{Answer, Effect, Entry, Id, Length, When, Written};
use crate::model::spec::FAULT_LEN;
use crate::model::{OTHER, PLAIN, RESERVING};
use crate::rig::{self, GRANULE, ONE_WAIT, RW, endpoint, try_start};
use virtio_iommu::MapOptions;
use xtask::conformance::{Oracle, proves};

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        10 => Just(Id::Own),
        1 => any::<u32>().prop_map(Id::Raw),
        1 => (0..70u32).prop_map(Id::Raw),
        1 => Just(Id::Idle),
        1 => Just(Id::OwnTail),
        1 => Just(Id::Other),
    ]
}

fn length() -> impl Strategy<Value = Length> {
    prop_oneof![
        8 => Just(Length::True),
        1 => (0..9u32).prop_map(Length::Raw),
        1 => any::<u32>().prop_map(Length::Raw),
        1 => Just(Length::Raw(516)),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        6 => Just(Written::Honest),
        1 => Just(Written::Nothing),
        3 => (0..10u8).prop_map(Written::Status),
        1 => any::<u8>().prop_map(Written::Status),
        1 => proptest::collection::vec(any::<u8>(), 0..520).prop_map(Written::Bytes),
        2 => proptest::collection::vec(any::<u8>(), 0..520).prop_map(Written::Properties),
        2 => properties().prop_map(Written::Properties),
    ]
}

/// Lists that look like properties for some way.
fn properties() -> impl Strategy<Value = Vec<u8>> {
    let property = (
        prop_oneof![4 => Just(1u16), 1 => any::<u16>(), 1 => Just(0u16)],
        prop_oneof![4 => Just(20u16), 1 => 0..40u16, 1 => any::<u16>()],
        any::<[u8; 20]>(),
    );
    proptest::collection::vec(property, 0..24).prop_map(|list| {
        list.into_iter()
            .flat_map(|(kind, length, value)| {
                let mut bytes = kind.to_le_bytes().to_vec();
                bytes.extend(length.to_le_bytes());
                bytes.extend(value);
                bytes
            })
            .collect()
    })
}

fn strange() -> impl Strategy<Value = Answer> {
    let when = prop_oneof![8 => Just(When::Now), 2 => Just(When::Held), 1 => Just(When::Never)];
    let effect = prop_oneof![
        4 => Just(Effect::AtOnce),
        1 => Just(Effect::WithAnswer),
        2 => Just(Effect::None),
    ];
    let entry = (id(), length()).prop_map(|(id, len)| Entry { id, len });
    let jump = prop_oneof![20 => Just(0u16), 1 => any::<u16>(), 1 => 1..4u16];
    (
        when,
        effect,
        written(),
        any::<[u8; 3]>(),
        proptest::collection::vec(entry, 0..3),
        jump,
        prop::bool::weighted(0.03),
    )
        .prop_map(
            |(when, effect, written, reserved, entries, jump, needs_reset)| Answer {
                when,
                effect,
                written,
                reserved,
                entries,
                jump,
                needs_reset,
            },
        )
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![2 => Just(Answer::honest()), 1 => strange()]
}

fn number64() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..64u32).prop_map(|shift| 1 << shift),
        (0..64u32).prop_map(|shift| u64::MAX << shift),
        (0..64u32).prop_map(|shift| u64::MAX >> shift),
        Just(0u64),
    ]
}

fn number32() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0..100u32, Just(u32::MAX), Just(512u32)]
}

fn config() -> impl Strategy<Value = ConfigSpace> {
    (
        prop_oneof![2 => Just(!0xfffu64), 1 => number64()],
        prop_oneof![1 => Just((0, u64::MAX)), 2 => (number64(), number64())],
        prop_oneof![1 => Just((0, u32::MAX)), 1 => (number32(), number32())],
        prop_oneof![2 => Just(512u32), 1 => 0..5000u32, 1 => number32()],
        any::<u8>(),
        prop_oneof![4 => Just(40usize), 1 => 0..64usize],
    )
        .prop_map(
            |(page_size_mask, input_range, domain_range, probe_size, bypass, len)| ConfigSpace {
                page_size_mask,
                input_range,
                domain_range,
                probe_size,
                bypass,
                bypasses_until_written: false,
                reserved: [bypass; 3],
                len,
            },
        )
}

#[derive(Clone, Debug)]
enum Step {
    Attach(u32),
    Detach(u32),
    Map(u64),
    MapAll(u64),
    Unmap(usize),
    UnmapAll,
    Poll,
    Event(Vec<u8>, u32, Option<u32>),
    EventJump(u16),
    Release(usize),
    NewDomain,
}

fn step() -> impl Strategy<Value = Step> {
    let who = prop_oneof![Just(PLAIN), Just(OTHER), Just(RESERVING)];
    let event = (
        proptest::collection::vec(any::<u8>(), FAULT_LEN),
        prop_oneof![4 => Just(FAULT_LEN as u32), 1 => 0..32u32, 1 => any::<u32>()],
        prop_oneof![
            4 => Just(None),
            1 => (0..70u32).prop_map(Some),
            1 => any::<u32>().prop_map(Some)
        ],
    );
    prop_oneof![
        3 => who.clone().prop_map(Step::Attach),
        2 => who.prop_map(Step::Detach),
        4 => (1..4u64).prop_map(Step::Map),
        2 => (2..20u64).prop_map(Step::MapAll),
        3 => (0..8usize).prop_map(Step::Unmap),
        1 => Just(Step::UnmapAll),
        2 => Just(Step::Poll),
        3 => event.prop_map(|(bytes, len, id)| Step::Event(bytes, len, id)),
        1 => prop_oneof![Just(1u16), any::<u16>()].prop_map(Step::EventJump),
        2 => (1..5usize).prop_map(Step::Release),
        1 => Just(Step::NewDomain),
    ]
}

/// What the device told about requests since `from`: whether one that fits was told to be OK.
fn told_ok(model: &Model, from: usize, fits: impl Fn(&Request) -> bool) -> bool {
    model.with(|d| d.seen[from..].iter().any(|s| s.told_ok && fits(&s.request)))
}

fn map_of(range: virtio_iommu::IovaRange) -> impl Fn(&Request) -> bool {
    move |request| {
        matches!(request, Request::Map { start, end, .. }
            if (*start, *end) == (range.start().0, range.end().0))
    }
}

fn unmap_of(range: virtio_iommu::IovaRange) -> impl Fn(&Request) -> bool {
    move |request| {
        matches!(request, Request::Unmap { start, end, .. }
            if (*start, *end) == (range.start().0, range.end().0))
    }
}

/// Neighbours share an UNMAP.
fn unmap_over(range: virtio_iommu::IovaRange) -> impl Fn(&Request) -> bool {
    let (first, last) = (range.start().0, range.end().0);
    move |r| matches!(r, Request::Unmap { start, end, .. } if *start <= first && last <= *end)
}

/// Works with a driver that was started, and judges each success.
fn work(model: &Model, iommu: &rig::TestIommu, steps: Vec<Step>) {
    let mut domains = Vec::new();
    let mut mapped = Vec::new();
    let options = MapOptions::new(RW);
    for step in steps {
        let calls = model.clock().calls();
        let from = model.request_count();
        // Waits: batches, their roll-back one by one, and a move back to the scratch domain.
        let mut waits = 4;
        match step {
            Step::NewDomain => {
                waits = 10;
                domains.extend(iommu.create_domain(32));
            }
            Step::Poll => {
                let most = model.with(|d| d.knobs.queue_sizes[1]) as usize;
                assert!(iommu.poll_faults(|_| {}) <= most);
            }
            Step::Event(bytes, len, id) => {
                model.with(|d| d.report_raw(&bytes, len, id));
            }
            Step::EventJump(by) => model.with(|d| {
                if let Some(queue) = d.queues[1].as_mut() {
                    queue.jump(model.ram(), by);
                }
            }),
            Step::Release(most) => {
                model.with(|d| d.release(most));
            }
            _ => {
                let Some(domain) = domains.last() else {
                    continue;
                };
                match step {
                    Step::Attach(id) => {
                        if domain.attach(endpoint(id)).is_ok() {
                            let fits = |r: &Request| matches!(r, Request::Attach { endpoint, .. } if *endpoint == id);
                            assert!(told_ok(model, from, fits), "attached");
                        }
                    }
                    Step::Detach(id) => {
                        let _ = domain.detach(endpoint(id));
                    }
                    Step::Map(granules) => {
                        let piece = rig::phys(0x100_0000, granules << 21);
                        let piece = if granules == 1 {
                            rig::phys(0x100_0000, GRANULE)
                        } else {
                            piece
                        };
                        if let Ok(range) = rig::map(domain, piece, RW) {
                            assert!(told_ok(model, from, map_of(range)), "{range}");
                            mapped.push((domains.len(), range));
                        }
                    }
                    Step::MapAll(count) => {
                        waits = 4 + count;
                        let pieces: Vec<_> = (0..count)
                            .map(|i| rig::phys(0x100_0000 + i * 0x40_0000, 1 << 21))
                            .collect();
                        if let Ok(places) = rig::map_all(domain, &pieces, options) {
                            for range in places {
                                assert!(told_ok(model, from, map_of(range)), "{range}");
                                mapped.push((domains.len(), range));
                            }
                        }
                    }
                    Step::Unmap(which) => {
                        let own = mapped.iter().filter(|(d, _)| *d == domains.len());
                        let Some((_, range)) = own.cloned().nth(which) else {
                            continue;
                        };
                        let alone = domain.endpoints() == 0;
                        if domain.unmap(range).is_ok() && !alone {
                            assert!(told_ok(model, from, unmap_of(range)), "{range}");
                        }
                        mapped.retain(|(_, other)| *other != range);
                    }
                    _ => {
                        let own = mapped.iter().filter(|(d, _)| *d == domains.len());
                        let list: Vec<_> = own.map(|(_, range)| *range).collect();
                        let alone = domain.endpoints() == 0;
                        if domain.unmap_all(&list).is_ok() && !alone {
                            for range in &list {
                                assert!(told_ok(model, from, unmap_over(*range)), "{range}");
                            }
                        }
                        mapped.retain(|(d, _)| *d != domains.len());
                    }
                }
            }
        }
        let calls = model.clock().calls() - calls;
        assert!(calls <= waits * ONE_WAIT, "{calls} looks for {waits} waits");
    }
    // Each endpoint of each domain may wait once more.
    let calls = model.clock().calls();
    let most = domains.len() as u64 * 3 * 3 + 1;
    drop(domains);
    assert!(model.clock().calls() - calls <= most * ONE_WAIT);
}

fn survive(config: Option<ConfigSpace>, offered: u64, answers: Vec<Answer>, steps: Vec<Step>) {
    let mut model = Model::new();
    model.clock().set_limit(200_000_000);
    model.with(|d| {
        d.registers.limit = Some(100_000_000);
        d.knobs.queue_sizes = [32, 16];
        d.knobs.offered |= offered;
        if let Some(config) = config {
            d.config = config;
        }
    });
    let script = move |number: usize| match number.checked_rem(answers.len()) {
        Some(at) => answers[at].clone(),
        None => Answer::honest(),
    };
    model.script(move |seen| script(seen.number));
    let calls = model.clock().calls();
    let started = try_start(&model, &[PLAIN, OTHER, RESERVING]);
    let calls = model.clock().calls() - calls;
    assert!(calls <= 24 * ONE_WAIT, "{calls}");
    match started {
        Ok(iommu) => {
            work(&model, &iommu, steps);
            drop(iommu);
        }
        Err(_) => assert!(rig::is_failed(&model)),
    }
    assert_eq!(model.ram().live_pages(), 0);
    // Buffers that a lying device returns twice, or without ever having taken them, are posted
    // twice; nothing else goes wrong.
    for violation in model.violations().take() {
        let twice = ["GV-VQ-4", "GV-VQ-6"].contains(&violation.rule);
        let events = violation.what.starts_with("queue 1");
        assert!(twice && events, "{violation}");
    }
    model.expect_leak(0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn gv_vq_5_strange_answers_are_survived(
        who in any_of(&Personality::HONEST),
        answers in proptest::collection::vec(answer(), 1..40),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let _proof = proves(Oracle::Fuzz, &["GV-VQ-5"]);
        let _round = each!(one who);
        // The bring-up is answered honestly, so that what follows is reached.
        let honest = vec![Answer::honest(); 11];
        let answers = honest.into_iter().chain(answers).collect();
        let steps = [Step::NewDomain, Step::Attach(PLAIN)].into_iter().chain(steps).collect();
        survive(None, 0, answers, steps);
    }

    #[test]
    fn strange_answers_to_the_bring_up_are_survived(
        who in any_of(&Personality::HONEST),
        answers in proptest::collection::vec(answer(), 1..12),
    ) {
        let _round = each!(one who);
        survive(None, 0, answers, vec![Step::NewDomain, Step::Attach(PLAIN), Step::Map(1)]);
    }

    #[test]
    fn bad_input_strange_configurations_are_survived(
        who in any_of(&Personality::HONEST),
        config in config(),
        offered in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..10),
    ) {
        let _round = each!(one who);
        let steps = [Step::NewDomain, Step::Attach(PLAIN)].into_iter().chain(steps).collect();
        survive(Some(config), offered, vec![], steps);
    }

    #[test]
    fn bad_input_strange_properties_are_survived(
        who in any_of(&Personality::HONEST),
        list in prop_oneof![properties(), proptest::collection::vec(any::<u8>(), 0..520)],
        probe_size in 1..600u32,
    ) {
        let _round = each!(one who);
        let config = ConfigSpace { probe_size, ..ConfigSpace::default() };
        let probe = Answer::honest().with_properties(list);
        let answers = vec![Answer::honest(), probe];
        survive(Some(config), 0, answers, vec![Step::NewDomain, Step::Attach(PLAIN), Step::Map(1)]);
    }
}
