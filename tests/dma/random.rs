//! Random programs over the whole interface, on a device that refuses, is late, or never answers.
//!
//! The judge is a naive book of who has which page: after every step, each endpoint access lands
//! exactly where a live transfer says, and nowhere but in memory that nobody else has.

use crate::model::personality::Personality;
use crate::rig::any_of;
use proptest::prelude::*;
use virtio_iommu::dma::{
    Bidirectional, Completed, Deferred, Direction, DmaBuffer, FromDevice, Mapping, ToDevice,
};
use virtio_iommu::{Access, DomainOptions, MapError, UnmapError};

use crate::desk::{Buf, Desk, wide_model};
use crate::model::PLAIN;
use crate::model::platform::ModelPlatform;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::ways::done;

type List = Vec<Buf>;
type Map<D> = Mapping<List, D, ModelPlatform>;
type Park<D> = Deferred<List, D, ModelPlatform>;

/// The three directions behind one type.
macro_rules! ways {
    ($name:ident, $of:ident) => {
        enum $name {
            To($of<ToDevice>),
            From($of<FromDevice>),
            Both($of<Bidirectional>),
        }
        impl From<$of<ToDevice>> for $name {
            fn from(it: $of<ToDevice>) -> Self {
                Self::To(it)
            }
        }
        impl From<$of<FromDevice>> for $name {
            fn from(it: $of<FromDevice>) -> Self {
                Self::From(it)
            }
        }
        impl From<$of<Bidirectional>> for $name {
            fn from(it: $of<Bidirectional>) -> Self {
                Self::Both(it)
            }
        }
    };
}

ways!(Live, Map);
ways!(Parked, Park);

/// Does the same for each of the three.
macro_rules! each {
    ($value:expr, $it:ident => $do:expr) => {
        match $value {
            Live::To($it) => $do,
            Live::From($it) => $do,
            Live::Both($it) => $do,
        }
    };
}

macro_rules! each_parked {
    ($value:expr, $it:ident => $do:expr) => {
        match $value {
            Parked::To($it) => $do,
            Parked::From($it) => $do,
            Parked::Both($it) => $do,
        }
    };
}

#[derive(Clone, Debug)]
enum Op {
    Map { way: u8, pieces: usize, apart: bool },
    Unmap(usize),
    Reuse(usize),
    Defer(usize),
    DeferredReuse(usize),
    Reclaim(usize),
    DropDeferred(usize),
    DropLive(usize),
    Exchange(usize, u8, usize),
    Flush,
    Poll,
    Release,
    Answer(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let which = 0..6_usize;
    prop_oneof![
        8 => (0..3_u8, 1..5_usize, any::<bool>())
            .prop_map(|(way, pieces, apart)| Op::Map { way, pieces, apart }),
        4 => which.clone().prop_map(Op::Unmap),
        2 => which.clone().prop_map(Op::Reuse),
        6 => which.clone().prop_map(Op::Defer),
        3 => which.clone().prop_map(Op::DeferredReuse),
        3 => which.clone().prop_map(Op::Reclaim),
        2 => which.clone().prop_map(Op::DropDeferred),
        2 => which.clone().prop_map(Op::DropLive),
        4 => (which.clone(), 0..3_u8, 1..4_usize).prop_map(|(at, way, n)| Op::Exchange(at, way, n)),
        2 => Just(Op::Flush),
        1 => Just(Op::Poll),
        1 => Just(Op::Release),
        3 => which.prop_map(Op::Answer),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        12 => Just(Answer::honest()),
        2 => Just(Answer::status(status::DEVERR)),
        1 => Just(Answer::unwritten()),
        1 => Just(Answer::late()),
        1 => Just(Answer::late_effect()),
        1 => Just(Answer::never()),
        1 => Just(Answer::done_never_told()),
    ]
}

/// In memory that belongs to the CPU, and shown to no endpoint that is not meant to read.
const SECRET: u8 = 0xee;
/// Written by the endpoint.
const DEVICE: u8 = 0x11;

/// The pages of a list, one by one.
fn pages(list: &List) -> Vec<u64> {
    let pieces = list.iter().flat_map(Buf::pieces);
    pieces
        .flat_map(|piece| (piece.phys.start().0..=piece.phys.end().0).step_by(0x1000))
        .collect()
}

struct World {
    live: Vec<Live>,
    /// Of each of `live`: its pages, in order.
    live_pages: Vec<Vec<u64>>,
    parked: Vec<Parked>,
    parked_pages: Vec<Vec<u64>>,
    /// Pages whose transfer was dropped: somebody may be writing there.
    given_up: Vec<u64>,
    /// Lists that the CPU has.
    owned: Vec<List>,
    never: bool,
    desk: Desk,
}

impl World {
    fn new(answers: Vec<Answer>) -> Self {
        let model = wide_model();
        model.clock().set_limit(u64::MAX / 2);
        model.clock().set_step(20_000_000);
        // The worst case: whoever can write can read.
        model.with(|d| d.unit.quirks.write_implies_read = true);
        let options = DomainOptions::new(200)
            .with_quarantine(200)
            .with_deferred(3, std::time::Duration::from_millis(200));
        let desk = Desk::on(model, options, Default::default());
        let never = answers
            .iter()
            .any(|answer| [Answer::never(), Answer::done_never_told()].contains(answer));
        let first = desk.model.request_count();
        desk.model
            .script(move |seen| answers[(seen.number - first) % answers.len()].clone());
        Self {
            live: Vec::new(),
            live_pages: Vec::new(),
            parked: Vec::new(),
            parked_pages: Vec::new(),
            given_up: Vec::new(),
            owned: Vec::new(),
            never,
            desk,
        }
    }

    /// A list that the CPU has, full of secrets.
    fn list(&mut self, pieces: usize) -> List {
        let at = self.owned.iter().position(|list| list.len() == pieces);
        let mut list = match at {
            Some(at) => self.owned.swap_remove(at),
            None => (0..pieces).map(|i| self.desk.alloc(1 + i % 2)).collect(),
        };
        list.iter_mut().for_each(|buffer| buffer.fill(SECRET));
        list
    }

    fn began<D: Direction>(&mut self, mapping: Map<D>, pages: Vec<u64>)
    where
        Live: From<Map<D>>,
    {
        self.live.push(Live::from(mapping));
        self.live_pages.push(pages);
    }

    /// What a failure means for the pages.
    fn failed(&mut self, error: MapError, buffer: Option<List>, pages: Vec<u64>) {
        assert_eq!(buffer.is_none(), error.may_be_exposed(), "{error}");
        match buffer {
            Some(list) => self.owned.push(list),
            None => self.given_up.extend(pages),
        }
    }

    fn ended(&mut self, result: Result<List, UnmapError>, pages: Vec<u64>) {
        match result {
            Ok(list) => self.owned.push(list),
            Err(UnmapError::Quarantined(_)) => self.given_up.extend(pages),
            Err(error) => panic!("{error}"),
        }
    }

    fn map<D: Direction>(&mut self, pieces: usize, apart: bool)
    where
        Live: From<Map<D>>,
    {
        let list = self.list(pieces);
        let pages = pages(&list);
        let device = self.desk.device.clone();
        let result = match apart {
            false => device.map::<D, _>(list),
            true => device.map_apart::<D, _>(list),
        };
        match result {
            Ok(mapping) => self.began(mapping, pages),
            Err(failure) => self.failed(failure.error, failure.buffer, pages),
        }
    }

    fn exchange<D: Direction, E: Direction>(
        &mut self,
        ended: Completed<List, D, ModelPlatform>,
        old: Vec<u64>,
        pieces: usize,
    ) where
        Live: From<Map<E>>,
    {
        let list = self.list(pieces);
        let pages = pages(&list);
        let device = self.desk.device.clone();
        let result = device.exchange::<_, _, _, E>(ended, list);
        self.ended(result.unmapped, old);
        match result.mapped {
            Ok(mapping) => self.began(mapping, pages),
            Err(failure) => self.failed(failure.error, failure.buffer, pages),
        }
    }

    fn take_live(&mut self, at: usize) -> Option<(Live, Vec<u64>)> {
        if at >= self.live.len() {
            return None;
        }
        Some((self.live.remove(at), self.live_pages.remove(at)))
    }

    fn take_parked(&mut self, at: usize) -> Option<(Parked, Vec<u64>)> {
        if at >= self.parked.len() {
            return None;
        }
        Some((self.parked.remove(at), self.parked_pages.remove(at)))
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Map {
                way: 0,
                pieces,
                apart,
            } => self.map::<ToDevice>(pieces, apart),
            Op::Map {
                way: 1,
                pieces,
                apart,
            } => self.map::<FromDevice>(pieces, apart),
            Op::Map { pieces, apart, .. } => self.map::<Bidirectional>(pieces, apart),
            Op::Unmap(at) => {
                if let Some((live, pages)) = self.take_live(at) {
                    let result = each!(live, it => done(it).unmap());
                    self.ended(result, pages);
                }
            }
            Op::Reuse(at) => {
                if let Some((live, pages)) = self.take_live(at) {
                    each!(live, it => self.began(done(it).reuse(), pages));
                }
            }
            Op::Defer(at) => {
                if let Some((live, pages)) = self.take_live(at) {
                    let parked = each!(live, it => Parked::from(done(it).defer()));
                    self.parked.push(parked);
                    self.parked_pages.push(pages);
                }
            }
            Op::DeferredReuse(at) => {
                if let Some((parked, pages)) = self.take_parked(at) {
                    each_parked!(parked, it => match it.reuse() {
                        Ok(mapping) => self.began(mapping, pages),
                        Err(failure) => self.failed(failure.error, failure.buffer, pages),
                    });
                }
            }
            Op::Reclaim(at) => {
                if let Some((parked, pages)) = self.take_parked(at) {
                    let result = each_parked!(parked, it => it.reclaim());
                    self.ended(result, pages);
                }
            }
            Op::DropDeferred(at) => drop(self.take_parked(at)),
            Op::DropLive(at) => {
                if let Some((live, pages)) = self.take_live(at) {
                    drop(live);
                    self.given_up.extend(pages);
                }
            }
            Op::Exchange(at, way, pieces) => {
                if let Some((live, old)) = self.take_live(at) {
                    each!(live, it => match way {
                        0 => self.exchange::<_, ToDevice>(done(it), old, pieces),
                        1 => self.exchange::<_, FromDevice>(done(it), old, pieces),
                        _ => self.exchange::<_, Bidirectional>(done(it), old, pieces),
                    });
                }
            }
            Op::Flush => drop(self.desk.domain.flush()),
            Op::Poll => {
                let now = virtio_iommu::Platform::now(&self.desk.model.platform());
                self.desk.domain.poll(now);
            }
            Op::Release => {
                // The endpoint was reset: what it had begun will not come any more.
                self.given_up.clear();
                self.desk.release();
            }
            Op::Answer(index) => self.desk.model.with(|d| d.release_one(index)),
        }
    }

    fn judge(&self) -> Result<(), TestCaseError> {
        let model = &self.desk.model;
        // Each live transfer reaches its pages, in order, as its direction says.
        for (live, pages) in self.live.iter().zip(&self.live_pages) {
            let (segments, access): (Vec<_>, _) = match live {
                Live::To(it) => (it.segments().collect(), Access::READ),
                Live::From(it) => (it.segments().collect(), Access::WRITE),
                Live::Both(it) => (it.segments().collect(), Access::READ | Access::WRITE),
            };
            let places = segments
                .iter()
                .flat_map(|part| (part.start().0..=part.end().0).step_by(0x1000));
            prop_assert_eq!(places.clone().count(), pages.len());
            for (at, phys) in places.zip(pages) {
                let writes = access.contains(Access::WRITE).then_some(phys + 0xfff);
                prop_assert_eq!(model.writes(PLAIN, at + 0xfff), writes);
                prop_assert_eq!(model.reads(PLAIN, at), Some(*phys));
                let seen = self.desk.dma_read(at, 0x40).unwrap_or_default();
                if access == Access::WRITE {
                    prop_assert!(!seen.contains(&SECRET), "a secret at {:#x}", at);
                }
                if writes.is_some() {
                    self.desk.dma_write(at + 0x20, &[DEVICE; 0x10]);
                }
            }
        }
        // Whatever else the endpoint reaches is memory that the CPU does not have, and that the
        // platform was not given back.
        let owned: Vec<u64> = self.owned.iter().flat_map(pages).collect();
        let mappings = model.mappings(self.desk.domain.id().0).unwrap_or_default();
        for mapping in mappings {
            let last = mapping.phys + (mapping.end - mapping.start);
            for page in (mapping.phys..=last).step_by(0x1000) {
                prop_assert!(!owned.contains(&page), "{:#x} belongs to the CPU", page);
                prop_assert!(model.ram().is_live(page, 0x1000), "{:#x} was freed", page);
            }
        }
        // Accesses that began before they were given up may come at any time.
        for page in &self.given_up {
            prop_assert!(!owned.contains(page), "{:#x} belongs to the CPU", page);
            prop_assert!(model.ram().is_live(*page, 0x1000), "{:#x} was freed", page);
            self.desk.late_write(*page, &[0xbd; 0x40]);
        }
        for list in &self.owned {
            prop_assert!(list.iter().all(|buffer| !buffer.contains(&0xbd)));
        }
        prop_assert_eq!(self.desk.domain.lost(), 0);
        let live = self.desk.domain.mapped() - self.desk.domain.deferred();
        prop_assert_eq!(live, self.live.len());
        Ok(())
    }

    /// The end: everything is answered, dropped, flushed and released.
    fn finish(mut self) -> Result<(), TestCaseError> {
        self.desk.model.honest();
        while self.desk.model.with(|d| d.waiting()) > 0 {
            self.desk.model.with(|d| d.release_one(0));
            self.judge()?;
        }
        self.live.clear();
        self.parked.clear();
        self.owned.clear();
        let _ = self.desk.domain.flush();
        let (_, kept) = self.desk.release();
        let rest = (self.desk.domain.mapped(), self.desk.domain.deferred());
        prop_assert_eq!(rest, (0, 0));
        prop_assert_eq!(self.desk.domain.quarantined(), kept);
        if self.never {
            let pages = self.desk.pages();
            prop_assert_eq!(kept == 0, pages == 0);
            self.desk.model.expect_leak(pages);
        } else {
            prop_assert_eq!(kept, 0);
            self.desk.assert_empty();
        }
        Ok(())
    }
}

/// Who a case may meet.
const WHO: [Personality; 3] = [Personality::Strict, Personality::Qemu, Personality::Crosvm];

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_access_lands_where_it_should_or_nowhere(
        who in any_of(&WHO),
        answers in proptest::collection::vec(answer(), 1..40),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let _round = crate::each!(one who);
        let mut world = World::new(answers);
        for op in &ops {
            world.run(op);
            world.judge()?;
        }
        world.finish()?;
    }

    #[test]
    fn an_honest_device_leaves_nothing(
        who in any_of(&WHO),
        ops in proptest::collection::vec(op(), 1..100),
    ) {
        let _round = crate::each!(one who);
        let mut world = World::new(vec![Answer::honest()]);
        for op in &ops {
            world.run(op);
            world.judge()?;
        }
        world.finish()?;
    }
}
