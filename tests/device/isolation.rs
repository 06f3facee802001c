//! A device that is honest and slow: answers come late, in any order, or never, and requests take
//! effect at once or with their answer. At no moment does an endpoint reach more than the driver
//! has said that it may.

use crate::each;
use crate::model::personality::Personality;
use crate::rig::any_of;
use proptest::prelude::*;

use crate::model::Model;
use crate::model::script::Answer;
use crate::model::spec::feature;
use crate::model::{OTHER, PLAIN, RESERVING};
use crate::rig::{self, GRANULE, RW, TestDomain, TestIommu, endpoint};
use virtio_iommu::{AttachError, IovaRange, MapError, MapOptions, RequestError, UnmapError};

const ENDPOINTS: [u32; 3] = [PLAIN, OTHER, RESERVING];
const DOMAINS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Attach(usize, usize),
    Detach(usize, usize),
    Map(usize),
    MapAll(usize, u64),
    Unmap(usize, usize),
    Renew(usize),
    Release(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let domain = 0..DOMAINS;
    prop_oneof![
        4 => (domain.clone(), 0..3usize).prop_map(|(d, e)| Op::Attach(d, e)),
        3 => (domain.clone(), 0..3usize).prop_map(|(d, e)| Op::Detach(d, e)),
        4 => domain.clone().prop_map(Op::Map),
        2 => (domain.clone(), 2..5u64).prop_map(|(d, n)| Op::MapAll(d, n)),
        4 => (domain.clone(), 0..8usize).prop_map(|(d, n)| Op::Unmap(d, n)),
        3 => domain.prop_map(Op::Renew),
        5 => (0..6usize).prop_map(Op::Release),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        8 => Just(Answer::honest()),
        1 => Just(Answer::late()),
        2 => Just(Answer::late_effect()),
        1 => Just(Answer::never()),
        1 => Just(Answer::done_never_told()),
    ]
}

/// The most that the driver has said may be so.
struct Belief {
    domain: TestDomain,
    members: Vec<u32>,
    /// Where, and at which physical address.
    mappings: Vec<(IovaRange, u64)>,
}

struct World {
    beliefs: Vec<Belief>,
    /// Domains that could not be emptied.
    graveyard: Vec<Belief>,
    next_phys: u64,
    iommu: TestIommu,
    model: Model,
}

/// Whether a request that ended so may have an effect, now or later.
fn in_doubt(error: RequestError) -> bool {
    error == RequestError::Unconfirmed
}

impl World {
    fn new(answers: Vec<Answer>, bypass_config: bool) -> Self {
        let model = Model::new();
        model.clock().set_limit(100_000_000);
        model.with(|d| {
            d.config.domain_range = (3, 7);
            if !bypass_config {
                d.knobs.offered &= !feature::BYPASS_CONFIG;
            }
        });
        let iommu = rig::start(&model, &ENDPOINTS);
        let mut world = Self {
            beliefs: Vec::new(),
            graveyard: Vec::new(),
            next_phys: 0x100_0000,
            iommu,
            model,
        };
        for _ in 0..DOMAINS {
            world.renew(usize::MAX);
        }
        world
            .model
            .script(move |seen| answers[seen.number % answers.len()].clone());
        world
    }

    fn renew(&mut self, at: usize) {
        if at < self.beliefs.len() {
            let mut old = self.beliefs.remove(at);
            let domain = &old.domain;
            old.members
                .retain(|id| domain.detach(endpoint(*id)).is_err());
            if old.members.is_empty() {
                // Its id may be used again from here on.
                drop(old);
            } else {
                self.graveyard.push(old);
            }
        }
        if let Ok(domain) = self.iommu.create_domain(64) {
            self.beliefs.push(Belief {
                domain,
                members: Vec::new(),
                mappings: Vec::new(),
            });
        }
    }

    fn piece(&mut self) -> virtio_iommu::PhysRange {
        self.next_phys += 2 * GRANULE;
        rig::phys(self.next_phys, GRANULE)
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Renew(at) => return self.renew(at),
            Op::Release(index) => return self.model.with(|d| d.release_one(index)),
            _ => {}
        }
        let pieces: Vec<_> = (0..5).map(|_| self.piece()).collect();
        let count = self.beliefs.len();
        let (Op::Attach(at, _)
        | Op::Detach(at, _)
        | Op::Map(at)
        | Op::MapAll(at, _)
        | Op::Unmap(at, _)) = op
        else {
            return;
        };
        if at >= count {
            return;
        }
        let belief = &mut self.beliefs[at];
        match op {
            Op::Attach(_, id) => {
                let id = ENDPOINTS[id];
                match belief.domain.attach(endpoint(id)) {
                    Ok(()) => belief.members.push(id),
                    Err(AttachError::Request(error)) if in_doubt(error) => belief.members.push(id),
                    Err(_) => {}
                }
            }
            Op::Detach(_, id) => {
                let id = ENDPOINTS[id];
                if belief.domain.detach(endpoint(id)).is_ok() {
                    belief.members.retain(|member| *member != id);
                }
            }
            Op::Map(_) => match rig::map(&belief.domain, pieces[0], RW) {
                Ok(at) => belief.mappings.push((at, pieces[0].start().0)),
                Err(MapError::Exposed(_)) => {
                    // Where, the driver does not say: anywhere in this domain.
                    let anywhere = rig::iova(0, u64::MAX);
                    belief.mappings.push((anywhere, pieces[0].start().0));
                }
                Err(_) => {}
            },
            Op::MapAll(_, count) => {
                let pieces = &pieces[..count as usize];
                match rig::map_all(&belief.domain, pieces, MapOptions::new(RW)) {
                    Ok(places) => {
                        let pairs = places.into_iter().zip(pieces);
                        belief.mappings.extend(pairs.map(|(a, p)| (a, p.start().0)));
                    }
                    Err(MapError::Exposed(_)) => {
                        let anywhere = rig::iova(0, u64::MAX);
                        let pairs = pieces.iter().map(|p| (anywhere, p.start().0));
                        belief.mappings.extend(pairs);
                    }
                    Err(_) => {}
                }
            }
            Op::Unmap(_, which) => {
                let Some((range, _)) = belief.mappings.get(which).copied() else {
                    return;
                };
                match belief.domain.unmap(range) {
                    Ok(()) => {
                        belief.mappings.remove(which);
                    }
                    Err(UnmapError::NotMapped(_) | UnmapError::Quarantined(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            _ => {}
        }
    }

    /// Everything that any endpoint reaches now is something that the driver has said it may.
    fn judge(&self) {
        for id in ENDPOINTS {
            let mappings = self.model.with(|d| {
                let domain = d.unit.endpoints.get(&id)?.domain?;
                Some((domain, d.unit.domains.get(&domain)?.mappings.clone()))
            });
            let Some((domain, mappings)) = mappings else {
                continue;
            };
            for mapping in mappings {
                assert_eq!(self.model.reads(id, mapping.start), Some(mapping.phys));
                let mut known = self.beliefs.iter().chain(&self.graveyard);
                let allowed = known.any(|belief| {
                    belief.members.contains(&id)
                        && belief.mappings.iter().any(|(at, phys)| {
                            at.contains(virtio_iommu::Iova(mapping.start)) && *phys == mapping.phys
                        })
                });
                assert!(
                    allowed,
                    "endpoint {id:#x} reaches {:#x} at {:#x} in domain {domain}",
                    mapping.phys, mapping.start
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_endpoint_reaches_more_than_the_driver_has_said(
        who in any_of(&Personality::HONEST),
        answers in proptest::collection::vec(answer(), 1..40),
        bypass_config in prop::bool::weighted(0.8),
        ops in proptest::collection::vec(op(), 1..50),
    ) {
        let _round = each!(one who);
        let mut world = World::new(answers, bypass_config);
        for op in ops {
            world.run(op);
            world.judge();
        }
        // Whatever is still on its way takes effect at last.
        while world.model.with(|d| d.waiting()) > 0 {
            world.model.with(|d| d.release_one(0));
            world.judge();
        }
        let violations = world.model.violations().take();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}
