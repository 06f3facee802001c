//! Random work against the strict device: after each step the device translates exactly what the
//! API has said, and no rule was broken.

use crate::each;
use crate::model::personality::Personality;
use crate::rig::any_of;
use proptest::prelude::*;

use crate::model::device::Mode;
use crate::model::script::Order;
use crate::model::spec::feature;
use crate::model::unit::{Mapping, Region};
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::rig::{self, GRANULE, TestDomain, TestIommu, endpoint};
use virtio_iommu::{Access, AttachError, Iova, MapError, MapOptions, UnmapError};
use xtask::conformance::{Oracle, proves};

const ENDPOINTS: [u32; 3] = [PLAIN, OTHER, RESERVING];
/// The space: 64 granules, of which the first and the last are not handed out.
const GRANULES: u64 = 64;
/// What `RESERVING` reserves, in bytes.
const RESERVED: [(u64, u64); 2] = [(0x8000, 0x9fff), (0x2_0800, 0x2_1000)];
const CAPACITY: usize = 6;
const DOMAINS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Attach(usize, usize),
    Detach(usize, usize),
    Map {
        domain: usize,
        sizes: Vec<u64>,
        access: u8,
        limit: u64,
        align: u32,
    },
    MapAt {
        domain: usize,
        granule: u64,
        size: u64,
        access: u8,
    },
    Unmap(usize, Vec<usize>),
    UnmapNonsense {
        domain: usize,
        start: u64,
        len: u64,
    },
    Renew(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let domain = 0..DOMAINS;
    let sizes = proptest::collection::vec(1..6u64, 1..4);
    prop_oneof![
        3 => (domain.clone(), 0..3usize).prop_map(|(d, e)| Op::Attach(d, e)),
        2 => (domain.clone(), 0..3usize).prop_map(|(d, e)| Op::Detach(d, e)),
        6 => (domain.clone(), sizes, 1..8u8, 0..GRANULES + 4, 0..4u32).prop_map(
            |(domain, sizes, access, limit, align)| Op::Map { domain, sizes, access, limit, align }
        ),
        5 => (domain.clone(), 0..GRANULES + 2, 1..6u64, 1..8u8).prop_map(
            |(domain, granule, size, access)| Op::MapAt { domain, granule, size, access }
        ),
        4 => (domain.clone(), proptest::collection::vec(0..CAPACITY, 1..4))
            .prop_map(|(d, n)| Op::Unmap(d, n)),
        2 => (domain.clone(), 0..GRANULES * GRANULE, 1..0x6000u64)
            .prop_map(|(domain, start, len)| Op::UnmapNonsense { domain, start, len }),
        1 => domain.prop_map(Op::Renew),
    ]
}

#[derive(Clone, Debug)]
struct Setting {
    order: Order,
    mode: Mode,
    bypass_config: bool,
    like_qemu: bool,
    queue: u32,
}

fn setting() -> impl Strategy<Value = Setting> {
    let order = prop_oneof![
        Just(Order::Fifo),
        Just(Order::AnswerReversed),
        Just(Order::Reversed),
        any::<u64>().prop_map(Order::AnswerShuffled),
    ];
    let mode = prop_oneof![
        2 => Just(Mode::OnNotify),
        1 => (1..3usize).prop_map(Mode::OnTick),
    ];
    let queue = prop_oneof![Just(4u32), Just(8), Just(64)];
    (order, mode, any::<bool>(), any::<bool>(), queue).prop_map(
        |(order, mode, bypass_config, like_qemu, queue)| Setting {
            order,
            mode,
            bypass_config,
            like_qemu,
            queue,
        },
    )
}

/// What the test believes of one domain.
struct Belief {
    domain: TestDomain,
    members: Vec<u32>,
    mappings: Vec<Mapping>,
}

impl Belief {
    fn new(iommu: &TestIommu) -> Self {
        Self {
            domain: iommu.create_domain(CAPACITY).unwrap(),
            members: Vec::new(),
            mappings: Vec::new(),
        }
    }

    fn reserves(&self) -> bool {
        self.members.contains(&RESERVING)
    }

    /// Whether a mapping may be made at these addresses, with a margin to other mappings.
    fn is_free(&self, start: u64, end: u64, margin: u64) -> bool {
        let usable = start >= GRANULE && end < (GRANULES - 1) * GRANULE;
        let reserved = self.reserves() && RESERVED.iter().any(|r| r.0 <= end && start <= r.1);
        let taken = self
            .mappings
            .iter()
            .any(|m| m.start <= end.saturating_add(margin) && start <= m.end + margin);
        usable && !reserved && !taken
    }
}

struct World {
    beliefs: Vec<Belief>,
    iommu: TestIommu,
    next_phys: u64,
    model: Model,
}

impl World {
    fn new(setting: &Setting) -> Self {
        let model = Model::new();
        model.with(|d| {
            d.knobs.order = setting.order;
            d.knobs.mode = setting.mode;
            d.knobs.queue_sizes = [setting.queue, setting.queue];
            d.config.input_range = (0, GRANULES * GRANULE - 1);
            d.config.domain_range = (3, 3 + DOMAINS as u32);
            let quirks = &mut d.unit.quirks;
            quirks.state_outlives_reset = setting.like_qemu;
            quirks.reattach_drops_mappings = setting.like_qemu;
            quirks.refused_attach_detaches = setting.like_qemu;
            quirks.refused_unmap_removes = setting.like_qemu;
            if !setting.bypass_config {
                d.knobs.offered &= !feature::BYPASS_CONFIG;
            }
            let regions = RESERVED.map(|(start, end)| Region::reserved(start, end));
            d.unit.endpoints.get_mut(&RESERVING).unwrap().regions = regions.to_vec();
        });
        let iommu = rig::start(&model, &ENDPOINTS);
        let beliefs = (0..DOMAINS).map(|_| Belief::new(&iommu)).collect();
        Self {
            beliefs,
            iommu,
            next_phys: 0x100_0000,
            model,
        }
    }

    fn phys(&mut self, granules: u64) -> virtio_iommu::PhysRange {
        // Sometimes contiguous with the one before.
        let start = self.next_phys;
        self.next_phys += (granules + granules % 2) * GRANULE;
        rig::phys(start, granules * GRANULE)
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Attach(at, id) => self.attach(at, ENDPOINTS[id]),
            Op::Detach(at, id) => {
                let id = ENDPOINTS[id];
                let belief = &mut self.beliefs[at];
                let expected = if belief.members.contains(&id) {
                    Ok(())
                } else {
                    Err(AttachError::NotAttached)
                };
                assert_eq!(belief.domain.detach(endpoint(id)), expected);
                belief.members.retain(|member| *member != id);
            }
            Op::Map {
                domain,
                sizes,
                access,
                limit,
                align,
            } => self.map(domain, &sizes, access, limit, align),
            Op::MapAt {
                domain,
                granule,
                size,
                access,
            } => self.map_at(domain, granule * GRANULE, size, access),
            Op::Unmap(at, mut which) => {
                let belief = &mut self.beliefs[at];
                which.sort_unstable();
                which.dedup();
                which.retain(|i| *i < belief.mappings.len());
                let list: Vec<_> = which
                    .iter()
                    .map(|i| belief.mappings[*i])
                    .map(|m| rig::iova(m.start, m.end - m.start + 1))
                    .collect();
                assert_eq!(belief.domain.unmap_all(&list), Ok(()));
                for i in which.into_iter().rev() {
                    belief.mappings.remove(i);
                }
            }
            Op::UnmapNonsense { domain, start, len } => {
                let belief = &mut self.beliefs[domain];
                let range = rig::iova(start, len);
                let exact = belief
                    .mappings
                    .iter()
                    .position(|m| (m.start, m.end) == (start, start + len - 1));
                let expected = match exact {
                    Some(at) => {
                        belief.mappings.remove(at);
                        Ok(())
                    }
                    None => Err(UnmapError::NotMapped(range)),
                };
                assert_eq!(belief.domain.unmap(range), expected);
            }
            Op::Renew(at) => {
                self.beliefs.remove(at);
                let new = Belief::new(&self.iommu);
                self.beliefs.insert(at, new);
            }
        }
    }

    fn attach(&mut self, at: usize, id: u32) {
        let owner = self.beliefs.iter().find(|b| b.members.contains(&id));
        let owner = owner.map(|belief| belief.domain.id());
        let belief = &mut self.beliefs[at];
        let conflict = id == RESERVING
            && belief
                .mappings
                .iter()
                .any(|m| RESERVED.iter().any(|r| r.0 <= m.end && m.start <= r.1));
        match (belief.domain.attach(endpoint(id)), owner) {
            (Err(AttachError::Attached(said)), Some(owner)) => assert_eq!(said, owner),
            (Err(AttachError::Conflict { .. }), None) => assert!(conflict),
            (Ok(()), None) => {
                assert!(!conflict);
                belief.members.push(id);
            }
            (result, owner) => panic!("{result:?}, owner {owner:?}"),
        }
    }

    fn map(&mut self, at: usize, sizes: &[u64], access: u8, limit: u64, align: u32) {
        let pieces: Vec<_> = sizes.iter().map(|size| self.phys(*size)).collect();
        let access = Access::from_bits_retain(u32::from(access));
        let limit = limit * GRANULE + GRANULE / 2;
        let align = GRANULE << align;
        let options = MapOptions::new(access)
            .with_limit(Iova(limit))
            .with_align(align);
        let belief = &mut self.beliefs[at];
        let result = rig::map_all(&belief.domain, &pieces, options);
        let free = |belief: &Belief, size: u64| {
            (0..GRANULES).map(|g| g * GRANULE).any(|start| {
                let end = start + size * GRANULE - 1;
                start % align == 0 && end <= limit && belief.is_free(start, end, GRANULE)
            })
        };
        match result {
            Ok(places) => {
                for (place, piece) in places.iter().zip(&pieces) {
                    let (start, end) = (place.start().0, place.end().0);
                    assert_eq!(end - start, piece.end().0 - piece.start().0);
                    assert_eq!(start % align, 0);
                    assert!(end <= limit, "{place} beyond {limit:#x}");
                    assert!(belief.is_free(start, end, GRANULE), "{place} is not free");
                    belief.mappings.push(Mapping {
                        start,
                        end,
                        phys: piece.start().0,
                        flags: access.bits(),
                    });
                }
                assert!(belief.mappings.len() <= CAPACITY);
                assert!(!belief.members.is_empty());
            }
            Err(MapError::NotAttached) => assert!(belief.members.is_empty()),
            Err(MapError::NoAccess) => {
                assert!(!access.intersects(Access::READ | Access::WRITE));
            }
            Err(MapError::Full) => {
                assert!(belief.mappings.len() + sizes.len() > CAPACITY);
            }
            Err(MapError::OutOfIova) => {
                // With one piece the answer can be checked exactly.
                assert!(sizes.len() > 1 || !free(belief, sizes[0]), "{sizes:?} fits");
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn map_at(&mut self, at: usize, start: u64, size: u64, access: u8) {
        let piece = self.phys(size);
        let access = Access::from_bits_retain(u32::from(access));
        let end = start + size * GRANULE - 1;
        let belief = &mut self.beliefs[at];
        let possible = belief.is_free(start, end, 0)
            && !belief.members.is_empty()
            && belief.mappings.len() < CAPACITY
            && access.intersects(Access::READ | Access::WRITE);
        match rig::map_at(&belief.domain, start, piece, access) {
            Ok(place) => {
                assert!(possible, "{place}");
                assert_eq!(place, rig::iova(start, size * GRANULE));
                belief.mappings.push(Mapping {
                    start,
                    end,
                    phys: piece.start().0,
                    flags: access.bits(),
                });
            }
            Err(error) => assert!(!possible, "{error:?} at {start:#x}..={end:#x}"),
        }
    }

    /// The device is as the test believes, byte for byte where it matters.
    fn judge(&self) {
        let violations = self.model.violations().take();
        assert!(violations.is_empty(), "{violations:#?}");
        let scratch = self.iommu.scratch_domain().0;
        let locked = self.iommu.bypass() == virtio_iommu::Bypass::Locked;
        for belief in &self.beliefs {
            let id = belief.domain.id().0;
            let mut expected = belief.mappings.clone();
            expected.sort_by_key(|m| m.start);
            let found = self.model.mappings(id);
            if belief.members.is_empty() {
                assert_eq!(found, None, "domain {id} without endpoints");
            } else {
                assert_eq!(found, Some(expected), "domain {id}");
            }
            assert_eq!(belief.domain.mapped(), belief.mappings.len());
            assert_eq!(belief.domain.quarantined(), 0);
            assert_eq!(belief.domain.endpoints(), belief.members.len());
        }
        for id in ENDPOINTS {
            let belief = self.beliefs.iter().find(|b| b.members.contains(&id));
            let at_rest = if locked { None } else { Some(scratch) };
            let expected = belief.map_or(at_rest, |b| Some(b.domain.id().0));
            assert_eq!(self.model.domain_of(id), expected, "endpoint {id:#x}");
            // The borders of every mapping of every domain.
            let borders = self.beliefs.iter().flat_map(|b| &b.mappings);
            let borders = borders.flat_map(|m| [m.start - 1, m.start, m.end, m.end + 1]);
            for at in borders {
                let mapping = belief.and_then(|b| {
                    let mut mappings = b.mappings.iter();
                    mappings.find(|m| (m.start..=m.end).contains(&at))
                });
                let lands = |bit: u32| {
                    mapping
                        .filter(|m| m.flags & bit != 0)
                        .map(|m| m.phys + (at - m.start))
                };
                assert_eq!(self.model.reads(id, at), lands(1), "{id:#x} at {at:#x}");
                assert_eq!(self.model.writes(id, at), lands(2), "{id:#x} at {at:#x}");
                if let (Some(belief), Some(mapping)) = (belief, mapping) {
                    let said = belief.domain.translate(Iova(at)).unwrap();
                    assert_eq!(said.0.0, mapping.phys + (at - mapping.start));
                }
            }
        }
    }
}

/// Who a case may meet.
const WHO: [Personality; 2] = [Personality::Strict, Personality::Qemu];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_device_translates_what_the_api_says(
        who in any_of(&WHO),
        setting in setting(),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let _proof = proves(Oracle::Model, &["DN-OPS-1", "DN-ATTACH-1", "DN-DETACH-1", "DN-UNMAP-1", "DN-PROBE-1", "DN-PROBE-2", "DN-OPS-5", "DN-MAP-6", "DN-UNMAP-2", "DV-ATT-4", "GV-VQ-2", "GV-VQ-4"]);
        let _round = each!(one who);
        let mut world = World::new(&setting);
        world.judge();
        for op in ops {
            world.run(op);
            world.judge();
        }
        world.beliefs.clear();
        assert_eq!(world.model.clock().calls_under_lock(), 0);
        let violations = world.model.violations().take();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}
