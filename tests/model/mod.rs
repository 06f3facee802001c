//! A virtio-iommu written from the specification, as the oracle of the driver.
//!
//! It shares no layout, queue or request code with the driver: the numbers are in `spec`, the
//! queue side is that of `virtio-queue`, memory is that of `vm-memory`.
//!
//! * It checks every byte that the driver writes, in registers, rings and requests. What the driver
//!   does wrong becomes a violation; a [`Model`] that is dropped with violations that nobody looked
//!   at panics.
//! * It does what the specification says, or what another device is known to do: its
//!   [`personality`] decides.
//! * A test can [script](script) answers of its own.
//!
//! `unit` is the translation state, and decides where a DMA lands; `hand` is a driver made by
//! hand, to test the model with.

#![allow(
    dead_code,
    reason = "each test binary compiles the model and uses a part of it"
)]

pub mod config;
pub mod device;
pub mod events;
pub mod hand;
pub mod heap;
pub mod journal;
pub mod memory;
pub mod personality;
pub mod platform;
pub mod probe;
pub mod queue;
pub mod registers;
pub mod requests;
pub mod script;
pub mod spec;
pub mod transport;
pub mod unit;
pub mod violations;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use device::Device;
use hand::Hand;
use memory::{GuestRam, lock};
use personality::Personality;
use platform::{Clock, ModelPlatform};
use registers::Access;
use requests::{Request, Seen};
use script::Answer;
use transport::ModelTransport;
use unit::{Endpoint, Landing, Mapping, Region};
use violations::Violations;

/// Two endpoints without reserved regions, and one with both kinds.
pub const PLAIN: u32 = 0x10;
pub const OTHER: u32 = 0x18;
pub const RESERVING: u32 = 0x100;
/// The regions of `RESERVING`.
pub const REGIONS: [Region; 2] = [
    Region::reserved(0x0800_0000, 0x080f_ffff),
    Region::msi(0x0a00_0000, 0x0a0f_ffff),
];

/// A model device with its memory and the platform around it.
pub struct Model {
    device: Arc<Mutex<Device>>,
    ram: Arc<GuestRam>,
    violations: Violations,
    platform: ModelPlatform,
    /// Pages that may stay allocated at the end.
    leak: usize,
    /// Any number of pages may.
    leaks: AtomicBool,
    personality: Personality,
    _watch: Watch,
}

impl Model {
    /// A device of the [current](Personality::current) personality with the endpoints [`PLAIN`],
    /// [`OTHER`] and [`RESERVING`].
    pub fn new() -> Self {
        Self::of(Personality::current())
    }

    /// A device of this personality.
    pub fn of(personality: Personality) -> Self {
        xtask::conformance::met(personality.name());
        let violations = Violations::default();
        let ram = Arc::new(GuestRam::new(violations.clone()));
        let mut device = Device::new(ram.clone(), violations.clone());
        for id in [PLAIN, OTHER] {
            device.unit.endpoints.insert(id, Endpoint::default());
        }
        let reserving = Endpoint {
            regions: REGIONS.to_vec(),
            ..Endpoint::default()
        };
        device.unit.endpoints.insert(RESERVING, reserving);
        personality.shape(&mut device);
        let device = Arc::new(Mutex::new(device));
        let platform = ModelPlatform::new(ram.clone(), &device);
        Self {
            device,
            ram,
            violations,
            platform,
            leak: 0,
            leaks: AtomicBool::new(false),
            personality,
            _watch: Watch::new(),
        }
    }

    /// With the narrow ranges and queues of the strict device, for a test that needs limits.
    pub fn narrow(self) -> Self {
        self.with(|d| {
            let strict = config::ConfigSpace::default();
            d.config.input_range = strict.input_range;
            d.config.domain_range = strict.domain_range;
            d.knobs.queue_sizes = device::Knobs::default().queue_sizes;
        });
        self
    }

    pub fn personality(&self) -> Personality {
        self.personality
    }

    /// Works on the device: turns knobs, looks at the state, plays events.
    pub fn with<R>(&self, work: impl FnOnce(&mut Device) -> R) -> R {
        let _inside = heap::Inside::new();
        work(&mut lock(&self.device))
    }

    /// A transport for the driver.
    pub fn transport(&self) -> ModelTransport {
        ModelTransport::new(self.device.clone())
    }

    /// The platform for the driver.
    pub fn platform(&self) -> ModelPlatform {
        self.platform.clone()
    }

    pub fn clock(&self) -> &Clock {
        self.platform.clock()
    }

    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Something that can be asked at any time, of what the driver has written to a queue so far.
    pub fn onlooker(&self, queue: u16) -> impl Fn() -> Option<(u16, Vec<u8>, u64)> + 'static {
        let (device, ram) = (self.device.clone(), self.ram.clone());
        move || {
            let device = lock(&device);
            let (index, next) = device
                .queues
                .get(usize::from(queue))?
                .as_ref()?
                .written(&ram)?;
            Some((index, next, device.kicks(queue)))
        }
    }

    /// A driver made by hand that accepts what is offered.
    pub fn hand(&self) -> Hand {
        let offered = self.with(|d| d.knobs.offered);
        Hand::bring_up(&self.device, &self.ram, offered, 64)
    }

    pub fn hand_accepting(&self, features: u64) -> Hand {
        Hand::bring_up(&self.device, &self.ram, features, 64)
    }

    /// Answers each request from now on as the function says.
    pub fn script(&self, script: impl FnMut(&Seen) -> Answer + Send + 'static) {
        self.with(|d| d.script = Some(Box::new(script)));
    }

    /// Answers the next request that `which` accepts as given, and all others honestly.
    pub fn answer_once(
        &self,
        mut which: impl FnMut(&Request) -> bool + Send + 'static,
        answer: Answer,
    ) {
        let mut answer = Some(answer);
        self.script(move |seen| {
            if answer.is_some() && which(&seen.request) {
                return answer.take().unwrap_or_else(Answer::honest);
            }
            Answer::honest()
        });
    }

    /// Back to what the personality answers.
    pub fn honest(&self) {
        self.with(|d| d.script = None);
    }

    /// Runs at each look at the platform's clock, with the number of looks so far.
    pub fn on_tick(&self, hook: impl FnMut(&mut Device, u64) + Send + 'static) {
        self.with(|d| d.on_tick = Some(Box::new(hook)));
    }

    /// All requests that reached the device.
    pub fn requests(&self) -> Vec<Request> {
        self.with(|d| d.seen.iter().map(|s| s.request).collect())
    }

    /// How many requests reached the device, plus those in the ring that it has not yet taken.
    pub fn request_count(&self) -> usize {
        self.with(|d| d.seen.len())
    }

    /// Requests that `work` causes.
    pub fn requests_during<R>(&self, work: impl FnOnce() -> R) -> (R, Vec<Request>) {
        let before = self.request_count();
        let result = work();
        (result, self.requests().split_off(before))
    }

    /// The register accesses so far.
    pub fn log(&self) -> Vec<Access> {
        self.with(|d| d.log.clone())
    }

    /// The values written to the status register.
    pub fn status_writes(&self) -> Vec<u32> {
        let log = self.log();
        log.iter()
            .filter_map(|access| match access {
                Access::StatusWrite(value) => Some(*value),
                _ => None,
            })
            .collect()
    }

    /// The mappings of one domain, sorted; `None` if there is no such domain.
    pub fn mappings(&self, domain: u32) -> Option<Vec<Mapping>> {
        self.with(|d| {
            let mut mappings = d.unit.domains.get(&domain)?.mappings.clone();
            mappings.sort_by_key(|m| m.start);
            Some(mappings)
        })
    }

    /// The domain that an endpoint is attached to.
    pub fn domain_of(&self, endpoint: u32) -> Option<u32> {
        self.with(|d| d.unit.endpoints.get(&endpoint)?.domain)
    }

    /// Whether the endpoint can read the byte at `iova` now, and where that lands.
    pub fn reads(&self, endpoint: u32, iova: u64) -> Option<u64> {
        self.lands(endpoint, iova, unit::Access::Read)
    }

    /// Whether the endpoint can write the byte at `iova` now, and where that lands.
    pub fn writes(&self, endpoint: u32, iova: u64) -> Option<u64> {
        self.lands(endpoint, iova, unit::Access::Write)
    }

    fn lands(&self, endpoint: u32, iova: u64, access: unit::Access) -> Option<u64> {
        match self.with(|d| d.translate(endpoint, iova, access)) {
            Ok(Landing::Memory(phys)) => Some(phys),
            _ => None,
        }
    }

    pub fn violations(&self) -> &Violations {
        &self.violations
    }

    /// Allows this many pages to be held when the model is dropped.
    pub fn expect_leak(&mut self, pages: usize) {
        self.leak = pages;
    }

    /// Allows any number of pages to be held when the model is dropped.
    pub fn allow_leaks(&self) {
        self.leaks.store(true, Ordering::Relaxed);
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for violation in self.violations.take() {
                eprintln!("violation before the panic: {violation}");
            }
            eprintln!("the device was {}", self.personality);
            return;
        }
        self.ram.check_canaries();
        let list = self.violations.take();
        let text: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert!(
            list.is_empty(),
            "violations that nobody looked at ({}):\n{}",
            self.personality,
            text.join("\n")
        );
        if self.leaks.load(Ordering::Relaxed) {
            return;
        }
        assert_eq!(
            self.ram.live_pages(),
            self.leak,
            "pages still allocated at the end (left) and expected to be (right), {}",
            self.personality
        );
    }
}

/// Ends the process if a model lives too long: a loop that looks at neither clock nor register
/// would hang for ever.
struct Watch(u64);

const LONGEST_LIFE: Duration = Duration::from_secs(240);

type Lives = Mutex<(u64, Vec<(u64, Instant, String)>)>;

fn lives() -> &'static Lives {
    static LIVES: OnceLock<Lives> = OnceLock::new();
    LIVES.get_or_init(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                for (_, since, name) in &lock(lives()).1 {
                    if since.elapsed() > LONGEST_LIFE {
                        eprintln!("hangs: {name}");
                        std::process::abort();
                    }
                }
            }
        });
        Mutex::default()
    })
}

impl Watch {
    fn new() -> Self {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let mut lives = lock(lives());
        lives.0 += 1;
        let number = lives.0;
        lives.1.push((number, Instant::now(), name));
        Self(number)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(lives()).1.retain(|(number, ..)| *number != self.0);
    }
}
