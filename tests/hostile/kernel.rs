//! A kernel that uses the driver in any way that bytes say, on a device that answers in any way
//! that they say. What must hold whatever they are is checked after each step.

use std::sync::Arc;
use std::time::Duration;

use virtio_iommu::dma::{
    Bidirectional, Completed, Deferred, DmaBuffer, DmaDevice, MapFailure, Mapping, PageBuf,
};
use virtio_iommu::{
    Access, Domain, DomainId, DomainOptions, EndpointId, Iommu, Iova, IovaRange, MapError,
    MapOptions, Options, PhysAddr, PhysRange, Platform, UnmapError,
};

use crate::book::Book;
use crate::model::config::ResetBehaviour;
use crate::model::journal::{Note, Told};
use crate::model::personality::Personality;
use crate::model::personality::hostile::{self, Source};
use crate::model::platform::ModelPlatform;
use crate::model::requests::Request;
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN, RESERVING, heap};

type Buf = PageBuf<ModelPlatform>;
type List = Vec<Buf>;
type Live = Mapping<List, Bidirectional, ModelPlatform>;
type Parked = Deferred<List, Bidirectional, ModelPlatform>;

/// A mapping, and what it is of: two domains may have the same addresses.
struct Lent<T> {
    it: T,
    domain: DomainId,
    pages: Vec<u64>,
}

impl<T> Lent<T> {
    /// The same, in another state.
    fn now<U>(self, change: impl FnOnce(T) -> U) -> Lent<U> {
        Lent {
            it: change(self.it),
            domain: self.domain,
            pages: self.pages,
        }
    }
}

const ENDPOINTS: [u32; 3] = [PLAIN, OTHER, RESERVING];
/// Nanoseconds of a look at the clock: a wait of a second takes ten of them.
const LOOK_NS: u64 = 100_000_000;
const LOOKS_OF_A_WAIT: u64 = 12;
/// Mappings that a domain has room for.
const MAPPINGS: usize = 24;
/// Steps of one run.
pub const MOST_STEPS: usize = 400;
/// Bytes of heap that a step may take.
const MOST_BYTES: u64 = 4 << 20;
/// Pages that the driver may hold for itself: rings, requests, and a PROBE of 64 KiB.
const MOST_PAGES: usize = 64;

/// What a run has seen, for whoever wants to know whether it is worth something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub steps: u64,
    pub started: u64,
    pub requests: u64,
    pub mapped: u64,
    pub unmapped: u64,
    pub quarantined: u64,
    pub faults: u64,
}

/// One run. Panics if the driver does, or does what it must not.
pub fn run(bytes: &[u8]) -> Tally {
    let source = Source::new(bytes);
    let model = Model::of(Personality::Hostile);
    model.clock().set_step(LOOK_NS);
    model.clock().set_limit(u64::MAX / 2);
    model.with(|d| {
        d.registers.limit = Some(10_000_000);
        d.journal = Some(Vec::new());
    });
    model.ram().take_freed();
    hostile::unleash(&model, &source);
    let mut kernel = Kernel {
        live: Vec::new(),
        parked: Vec::new(),
        owned: Vec::new(),
        raw: Vec::new(),
        given_up: Vec::new(),
        domain: None,
        device: None,
        others: Vec::new(),
        iommu: None,
        book: Book::default(),
        told: Vec::new(),
        history: Vec::new(),
        strayed: false,
        torn: model.with(|d| d.knobs.torn.is_some()),
        last: None,
        buffers: 0,
        tally: Tally::default(),
        source,
        model,
    };
    kernel.start();
    while !kernel.source.is_empty() && (kernel.tally.steps as usize) < MOST_STEPS {
        kernel.step();
    }
    kernel.finish()
}

/// A request, and what the device has said about it.
#[derive(Clone, Copy)]
struct Heard {
    request: Request,
    told: Told,
}

struct Kernel {
    live: Vec<Lent<Live>>,
    parked: Vec<Lent<Parked>>,
    /// Lists that the CPU has.
    owned: Vec<List>,
    /// What was mapped without a buffer.
    raw: Vec<IovaRange>,
    /// Pages of transfers that were dropped: somebody may be writing there.
    given_up: Vec<u64>,
    device: Option<DmaDevice<ModelPlatform>>,
    domain: Option<Arc<Domain<ModelPlatform>>>,
    others: Vec<Arc<Domain<ModelPlatform>>>,
    iommu: Option<Iommu<ModelPlatform>>,
    book: Book,
    /// Of the step: what was asked, and what was told.
    told: Vec<Heard>,
    /// Everything that the device has noted, with the number of the step.
    history: Vec<(u64, Note)>,
    /// The device has answered what it had not been asked: from then on nobody can say what it has
    /// told about which request, and only panics, waits and allocations are judged.
    strayed: bool,
    /// The configuration changes while the driver reads it, or later.
    torn: bool,
    /// Why the last MAP failed.
    last: Option<MapError>,
    /// Pages of all buffers ever made.
    buffers: usize,
    tally: Tally,
    source: Source,
    model: Model,
}

/// The pages of a list.
fn pages(list: &List) -> impl Iterator<Item = u64> + '_ {
    let pieces = list.iter().flat_map(Buf::pieces);
    pieces.flat_map(|piece| (piece.phys.start().0..=piece.phys.end().0).step_by(0x1000))
}

/// What will be mapped, and where.
fn lend(device: &DmaDevice<ModelPlatform>, list: &List) -> Lent<()> {
    Lent {
        it: (),
        domain: device.domain().id(),
        pages: pages(list).collect(),
    }
}

/// What became of it.
fn begun(
    lent: Lent<()>,
    result: Result<Live, MapFailure<List>>,
) -> Result<Lent<Live>, (MapError, Option<List>)> {
    match result {
        Ok(live) => Ok(lent.now(|()| live)),
        Err(failure) => Err((failure.error, failure.buffer)),
    }
}

/// Says that the endpoint is done.
fn done(mapping: Live) -> Completed<List, Bidirectional, ModelPlatform> {
    // SAFETY: the endpoints are functions of the test, which have returned.
    unsafe { mapping.complete() }
}

impl Kernel {
    /// Does something with a bound on time and memory, and reads what the device has noted.
    fn bounded<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        let looks = self.model.clock().calls();
        let requests = self.model.request_count();
        let (result, (_, bytes)) = heap::weigh(|| work(self));
        let looks = self.model.clock().calls() - looks;
        let requests = (self.model.request_count() - requests) as u64;
        // A wait for each request, for the reset, and, while no slot is free, for each mapping that
        // a domain has room for.
        assert!(
            looks <= (2 * requests + 8 + MAPPINGS as u64) * LOOKS_OF_A_WAIT,
            "{looks} looks at the clock for {requests} requests"
        );
        assert!(bytes <= MOST_BYTES, "{bytes} bytes of heap");
        self.tally.requests += requests;
        self.hear();
        result
    }

    /// Reads the journal, and judges.
    fn hear(&mut self) {
        let Self {
            book,
            told,
            strayed,
            ..
        } = self;
        let step = self.tally.steps;
        let history = &mut self.history;
        self.model.with(|d| {
            let journal = d.journal.replace(Vec::new()).unwrap_or_default();
            history.extend(journal.iter().map(|note| (step, *note)));
            *strayed |= d.queues[0].as_ref().is_some_and(|queue| queue.strayed);
            if !*strayed {
                book.read(&journal, &d.seen);
            }
            told.clear();
            for note in &journal {
                if let Note::Told(number, what) = *note {
                    let request = d.seen[number].request;
                    told.push(Heard {
                        request,
                        told: what,
                    });
                }
            }
        });
        let freed = self.model.ram().take_freed();
        if self.strayed {
            return;
        }
        for page in freed {
            assert!(!self.book.reaches(page), "{page:#x} was freed");
            assert!(!self.given_up.contains(&page), "{page:#x} was freed");
        }
        for page in self.owned.iter().flat_map(pages) {
            assert!(!self.book.reaches(page), "{page:#x} belongs to the CPU");
            assert!(!self.given_up.contains(&page), "{page:#x} is written to");
        }
    }

    /// Whether the device has said OK, in this step, to a request like this.
    fn told_ok(&self, fits: impl Fn(&Request) -> bool) -> bool {
        let ok = Told::Status(status::OK);
        self.strayed || self.told.iter().any(|h| h.told == ok && fits(&h.request))
    }

    fn start(&mut self) {
        let list = ENDPOINTS.map(EndpointId);
        let pages = self.model.ram().live_pages();
        let started = self.bounded(|kernel| {
            let transport = kernel.model.transport();
            let platform = kernel.model.platform();
            Iommu::start(transport, platform, &list, Options::default())
        });
        if let Ok(iommu) = started {
            self.tally.started += 1;
            let own = self.model.ram().live_pages() - pages;
            assert!(own <= MOST_PAGES, "{own} pages");
            self.iommu = Some(iommu);
            self.new_domain();
            self.attach_device();
        }
    }

    fn new_domain(&mut self) {
        let Some(iommu) = self.iommu.clone() else {
            return;
        };
        let options = DomainOptions::new(MAPPINGS)
            .with_quarantine(64)
            .with_deferred(3, Duration::from_millis(500));
        let made = self.bounded(|_| iommu.create_domain(options));
        if let Ok(domain) = made {
            if let Some(old) = self.domain.replace(Arc::new(domain)) {
                self.others.push(old);
            }
            self.device = None;
            self.raw.clear();
        }
    }

    fn attach_device(&mut self) {
        let Some(domain) = self.domain.clone() else {
            return;
        };
        let who = ENDPOINTS[self.source.below(3)];
        let members = domain.endpoints();
        let result =
            self.bounded(|_| DmaDevice::attach(&domain, EndpointId(who), Default::default()));
        if let Ok(device) = result {
            let fits =
                |r: &Request| matches!(r, Request::Attach { endpoint, .. } if *endpoint == who);
            // It may be a member already.
            let is_new = domain.endpoints() > members;
            assert!(
                self.told_ok(fits) || !is_new,
                "attached, and nobody said so"
            );
            self.device = Some(device);
        }
    }

    fn list(&mut self) -> Option<List> {
        let count = 1 + self.source.below(3);
        let at = self.owned.iter().position(|list| list.len() == count);
        if let Some(at) = at {
            return Some(self.owned.swap_remove(at));
        }
        let device = self.device.clone()?;
        if self.buffers > 1_500 {
            return None;
        }
        let before = self.model.ram().live_pages();
        let list = (0..count).map(|_| device.alloc(0x1000)).collect();
        // A buffer is a granule, of many pages on some devices.
        self.buffers += self.model.ram().live_pages() - before;
        list
    }

    fn began(&mut self, result: Result<Lent<Live>, (MapError, Option<List>)>) {
        match result {
            Ok(live) => {
                let of = |iova: IovaRange| {
                    move |r: &Request| {
                        matches!(r, Request::Map { start, .. }
                            if (iova.start().0..=iova.end().0).contains(start))
                    }
                };
                assert!(
                    self.told_ok(of(live.it.iova())),
                    "mapped, and nobody said so"
                );
                self.tally.mapped += 1;
                self.live.push(live);
            }
            Err((error, buffer)) => {
                assert_eq!(buffer.is_none(), error.may_be_exposed(), "{error}");
                self.last = Some(error);
                self.owned.extend(buffer);
            }
        }
    }

    fn ended(&mut self, result: Result<List, UnmapError>, unmapped: bool) {
        match result {
            Ok(list) => {
                self.tally.unmapped += 1;
                // Without an endpoint the device need not be told.
                let alone = self.domain.as_ref().is_none_or(|d| d.endpoints() == 0);
                let ok = self.told_ok(|r| matches!(r, Request::Unmap { .. }));
                assert!(ok || alone || !unmapped, "unmapped, and nobody said so");
                self.owned.push(list);
            }
            Err(UnmapError::Quarantined(_)) => self.tally.quarantined += 1,
            Err(_) => {}
        }
    }

    fn step(&mut self) {
        self.tally.steps += 1;
        let at = |len: usize, source: &Source| (len > 0).then(|| source.below(len));
        match self.source.below(28) {
            0..=4 => {
                let (Some(list), Some(device)) = (self.list(), self.device.clone()) else {
                    return;
                };
                let apart = self.source.below(2) == 1;
                let lent = lend(&device, &list);
                let result = self.bounded(|_| match apart {
                    false => device.map(list),
                    true => device.map_apart(list),
                });
                self.judge_and(|k| k.began(begun(lent, result)));
            }
            5..=7 => {
                if let Some(at) = at(self.live.len(), &self.source) {
                    let live = self.live.swap_remove(at);
                    let mine = self.is_mine(&live);
                    let result = self.bounded(|_| done(live.it).unmap());
                    self.judge_and(|k| k.ended(result, mine));
                }
            }
            8..=9 => {
                if let Some(at) = at(self.live.len(), &self.source) {
                    let live = self.live.swap_remove(at);
                    let parked = self.bounded(|_| live.now(|live| done(live).defer()));
                    self.parked.push(parked);
                }
            }
            10 => {
                if let Some(at) = at(self.parked.len(), &self.source) {
                    let parked = self.parked.swap_remove(at);
                    let result = self.bounded(|_| parked.it.reclaim());
                    self.judge_and(|k| k.ended(result, false));
                }
            }
            11 => {
                if let Some(at) = at(self.parked.len(), &self.source) {
                    let parked = self.parked.swap_remove(at);
                    let Lent { it, domain, pages } = parked;
                    match self.bounded(|_| it.reuse()) {
                        Ok(it) => self.live.push(Lent { it, domain, pages }),
                        Err(failure) => self.owned.extend(failure.buffer),
                    }
                    self.hear();
                }
            }
            12 => {
                if let Some(at) = at(self.parked.len(), &self.source) {
                    let parked = self.parked.swap_remove(at);
                    self.bounded(|_| drop(parked.it));
                }
            }
            13 => {
                if let Some(at) = at(self.live.len(), &self.source) {
                    let live = self.live.swap_remove(at);
                    // From here on somebody may write there at any time.
                    self.bounded(|_| drop(live.it));
                    self.given_up.extend(live.pages);
                }
            }
            14..=16 => self.exchange(),
            17 => {
                if let Some(domain) = self.domain.clone() {
                    let flushed = self.source.below(2) == 0;
                    self.bounded(|k| match flushed {
                        true => drop(domain.flush()),
                        false => drop(domain.poll(k.model.platform().now())),
                    });
                }
            }
            18 => self.release(),
            19 => {
                if let Some(iommu) = self.iommu.clone() {
                    let most = self.model.with(|d| d.knobs.queue_sizes[1]) as usize;
                    let faults = self.bounded(|_| iommu.poll_faults(|_| {}));
                    assert!(faults <= most, "{faults} faults");
                    self.tally.faults += faults as u64;
                }
            }
            20 => {
                if let Some(iommu) = self.iommu.clone() {
                    let _ = self.bounded(|_| iommu.handle_interrupt());
                }
            }
            21 => match self.source.below(3) {
                0 => self.new_domain(),
                1 => {
                    if !self.others.is_empty() {
                        let other = self.others.swap_remove(0);
                        self.bounded(|_| drop(other));
                    }
                }
                _ => self.attach_device(),
            },
            22 => {
                let who = EndpointId(ENDPOINTS[self.source.below(3)]);
                let attaches = self.source.below(2) == 0;
                if let Some(domain) = self.domain.clone() {
                    self.bounded(|_| match attaches {
                        true => drop(domain.attach(who)),
                        false => drop(domain.detach(who)),
                    });
                }
            }
            23 => self.map_raw(),
            24 => self.unmap_raw(),
            25 | 26 => {
                let source = self.source.clone();
                self.model.with(|d| hostile::act(d, &source));
                self.hear();
            }
            _ if self.source.byte() >= 0xf0 => self.restart(),
            _ => {}
        }
    }

    /// Judges what the step has left, with its result taken into account.
    fn judge_and(&mut self, note: impl FnOnce(&mut Self)) {
        note(self);
        self.hear();
    }

    fn is_mine(&self, live: &Lent<Live>) -> bool {
        let domain = self.domain.as_ref();
        domain.is_some_and(|domain| domain.id() == live.domain)
    }

    fn exchange(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let (Some(list), Some(device)) = (self.list(), self.device.clone()) else {
            return;
        };
        let at = self.source.below(self.live.len());
        let old = self.live.swap_remove(at);
        let mine = self.is_mine(&old);
        let lent = lend(&device, &list);
        let result = self.bounded(|_| device.exchange(done(old.it), list));
        self.judge_and(|k| {
            k.ended(result.unmapped, mine);
            k.began(begun(lent, result.mapped));
        });
    }

    /// All endpoints are reset: what they had begun will not come any more.
    fn release(&mut self) {
        let Some(domain) = self.domain.clone() else {
            return;
        };
        if !self.others.is_empty() {
            return;
        }
        self.given_up.clear();
        // SAFETY: the endpoints are functions of the test, which have returned.
        let released = self.bounded(|_| unsafe { domain.release_quarantine() });
        assert_eq!(released.kept, domain.quarantined());
    }

    fn map_raw(&mut self) {
        let Some(domain) = self.domain.clone() else {
            return;
        };
        let granule = self
            .iommu
            .as_ref()
            .map_or(0x1000, |i| i.geometry().granule());
        let start = PhysAddr(granule.saturating_mul(0x10 + u64::from(self.source.byte())));
        let Some(piece) = PhysRange::from_len(start, granule) else {
            return;
        };
        let at = self.source.number();
        let fixed = self.source.below(2) == 0;
        let result = self.bounded(|_| match fixed {
            // SAFETY: nobody but the model looks at the memory.
            true => unsafe { domain.map_at(Iova(at), piece, Access::READ) },
            // SAFETY: nobody but the model looks at the memory.
            false => unsafe { domain.map(piece, MapOptions::new(Access::READ)) },
        });
        if let Ok(range) = result {
            let fits = |r: &Request| {
                matches!(r, Request::Map { start, end, .. }
                    if (*start, *end) == (range.start().0, range.end().0))
            };
            assert!(self.told_ok(fits), "mapped {range}, and nobody said so");
            self.tally.mapped += 1;
            self.raw.push(range);
        }
    }

    fn unmap_raw(&mut self) {
        let Some(domain) = self.domain.clone() else {
            return;
        };
        if self.raw.is_empty() {
            let range = IovaRange::from_len(Iova(self.source.number()), 0x1000);
            if let Some(range) = range {
                let before = self.model.request_count();
                let result = self.bounded(|_| domain.unmap(range));
                assert!(result.is_err(), "{range} is no mapping");
                assert_eq!(self.model.request_count(), before);
            }
            return;
        }
        let at = self.source.below(self.raw.len());
        let range = self.raw[at];
        let alone = domain.endpoints() == 0;
        match self.bounded(|_| domain.unmap(range)) {
            Ok(()) => {
                let fits = |r: &Request| {
                    matches!(r, Request::Unmap { start, end, .. }
                        if *start <= range.start().0 && range.end().0 <= *end)
                };
                assert!(self.told_ok(fits) || alone, "unmapped, and nobody said so");
                self.raw.swap_remove(at);
            }
            Err(UnmapError::Busy) => {}
            Err(_) => {
                self.raw.swap_remove(at);
            }
        }
    }

    /// The driver ends, in whatever way, and begins anew.
    fn restart(&mut self) {
        let way = self.source.below(2);
        self.put_away(way == 0);
        self.start();
    }

    fn put_away(&mut self, by_shutdown: bool) {
        let shut_down = |kernel: &mut Self| {
            if let Some(iommu) = kernel.iommu.take() {
                let _ = kernel.bounded(|_| iommu.shutdown());
            }
        };
        if by_shutdown {
            shut_down(self);
        }
        // What is dropped now has no one's word.
        for live in std::mem::take(&mut self.live) {
            self.bounded(|_| drop(live.it));
            self.given_up.extend(live.pages);
        }
        for parked in std::mem::take(&mut self.parked) {
            self.bounded(|_| drop(parked.it));
        }
        let owned = std::mem::take(&mut self.owned);
        self.bounded(|_| drop(owned));
        self.raw.clear();
        self.device = None;
        for domain in std::mem::take(&mut self.others) {
            self.bounded(|_| drop(domain));
        }
        if let Some(domain) = self.domain.take() {
            self.bounded(|_| drop(domain));
        }
        shut_down(self);
        self.iommu = None;
        self.hear();
    }

    /// The end: whatever is still held is held because the device may use it.
    fn finish(&mut self) -> Tally {
        self.put_away(false);
        let left = self.model.ram().live_pages();
        assert!(left <= self.buffers + 2 * MOST_PAGES * self.tally.started.max(1) as usize);
        // Rules that a driver breaks because a device returns what it never had, or twice.
        for violation in self.model.violations().take() {
            let twice = ["GV-VQ-4", "GV-VQ-6"].contains(&violation.rule);
            let events = violation.what.starts_with("queue 1");
            // A second start of a device that does not end its reset, or ends it in the middle.
            let stuck = self
                .model
                .with(|d| d.knobs.reset != ResetBehaviour::Immediate);
            // A configuration that changes once the driver has read it.
            // Granules that are larger than what the model's memory is aligned to.
            let vast = violation.rule == "PLATFORM" && violation.what.starts_with("alignment");
            let excused = twice && events || stuck || self.torn || vast;
            assert!(excused, "{violation}");
        }
        self.model.expect_leak(left);
        self.tally
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("the last MAP that failed: {:?}", self.last);
        let from = self.history.len().saturating_sub(60);
        self.model.with(|d| {
            for (step, note) in &self.history[from..] {
                let request = match note {
                    Note::Seen(number) | Note::Told(number, _) => Some(d.seen[*number].request),
                    Note::Reset => None,
                };
                eprintln!("step {step}: {note:?} {request:x?}");
            }
        });
    }
}
