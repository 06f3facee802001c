//! The kernel around the driver: counted pages, a clock that moves when it is read, and a lock
//! that notices.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use virtio_iommu::address::PhysAddr;
use virtio_iommu::{Pages, Platform};

use super::device::Device;
use super::heap::Inside;
use super::memory::{GuestRam, lock};

/// Time, in nanoseconds, that passes only by being asked for.
#[derive(Debug)]
pub struct Clock {
    now: AtomicU64,
    step: AtomicU64,
    calls: AtomicU64,
    limit: AtomicU64,
    under_lock: AtomicU64,
}

/// A wait of the default second ends after a thousand looks at the clock.
const STEP_NS: u64 = 1_000_000;
/// More looks than any test has a use for.
const LIMIT: u64 = 3_000_000;

impl Clock {
    fn new() -> Self {
        Self {
            now: AtomicU64::new(7_000_000_000),
            step: AtomicU64::new(STEP_NS),
            calls: AtomicU64::new(0),
            limit: AtomicU64::new(LIMIT),
            under_lock: AtomicU64::new(0),
        }
    }

    /// Nanoseconds that pass at each look; 0 stops the clock.
    pub fn set_step(&self, ns: u64) {
        self.step.store(ns, Ordering::Relaxed);
    }

    /// Slow enough for several threads that wait for each other, each moving the clock: a wait of
    /// a second takes a thousand million looks, of which no test sees the end.
    pub fn for_threads(&self) {
        self.set_step(1);
        self.set_limit(u64::MAX);
    }

    /// Lets time pass without a look.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }

    /// Looks so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Looks after which [`Platform::now`] panics.
    pub fn set_limit(&self, calls: u64) {
        self.limit.store(calls, Ordering::Relaxed);
    }

    /// Looks that were taken by a thread which held a lock of the driver.
    pub fn calls_under_lock(&self) -> u64 {
        self.under_lock.load(Ordering::Relaxed)
    }

    fn look(&self) -> u64 {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let limit = self.limit.load(Ordering::Relaxed);
        if HELD.get() > 0 {
            self.under_lock.fetch_add(1, Ordering::Relaxed);
        }
        if calls > limit {
            if std::thread::panicking() {
                eprintln!("a wait without limit, again while unwinding");
                std::process::abort();
            }
            panic!("a wait without limit: the clock was read {calls} times");
        }
        let step = self.step.load(Ordering::Relaxed);
        if limit == u64::MAX && calls.is_multiple_of(16) {
            std::thread::yield_now();
        }
        self.now.fetch_add(step, Ordering::Relaxed) + step
    }
}

/// `Platform` over the memory of the model. Clones share everything.
#[derive(Clone)]
pub struct ModelPlatform {
    ram: Arc<GuestRam>,
    clock: Arc<Clock>,
    device: Weak<Mutex<Device>>,
}

impl ModelPlatform {
    pub(super) fn new(ram: Arc<GuestRam>, device: &Arc<Mutex<Device>>) -> Self {
        Self {
            ram,
            clock: Arc::new(Clock::new()),
            device: Arc::downgrade(device),
        }
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

// SAFETY: the memory is zeroed when it is mapped and each page of it is given out once, contiguous
// and aligned in both views, and stays mapped as long as any clone lives; `phys_of` is the exact
// inverse; the lock excludes, with acquire and release ordering.
unsafe impl Platform for ModelPlatform {
    type Lock = WatchedLock;

    fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages> {
        let _inside = Inside::new();
        let (phys, virt) = self.ram.allocate(pages.get(), align)?;
        Some(Pages {
            phys: PhysAddr(phys),
            virt,
        })
    }

    unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, align: usize) {
        let _inside = Inside::new();
        self.ram.free(memory.phys.0, pages.get(), align);
    }

    fn virt_to_phys(&self, virt: NonNull<u8>) -> Option<PhysAddr> {
        self.ram.phys_of(virt).map(PhysAddr)
    }

    fn now(&self) -> u64 {
        let _inside = Inside::new();
        let now = self.clock.look();
        if let Some(device) = self.device.upgrade() {
            lock(&device).tick(self.clock.calls());
        }
        now
    }
}

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// A spin lock that panics instead of waiting for itself, and counts what its thread holds.
pub struct WatchedLock {
    taken: AtomicBool,
    owner: AtomicU64,
}

fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

// SAFETY: `taken` goes from false to true in one atomic step with acquire ordering, and back with
// release ordering by `unlock` alone, so at most one thread is between the two.
unsafe impl lock_api::RawMutex for WatchedLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "lock_api asks for an initial value in this form"
    )]
    const INIT: Self = Self {
        taken: AtomicBool::new(false),
        owner: AtomicU64::new(0),
    };

    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        while !self.try_lock() {
            assert_ne!(
                self.owner.load(Ordering::Relaxed),
                thread_number(),
                "a lock taken twice by one thread"
            );
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        let got = self
            .taken
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if got {
            self.owner.store(thread_number(), Ordering::Relaxed);
            HELD.set(HELD.get() + 1);
        }
        got
    }

    unsafe fn unlock(&self) {
        HELD.set(HELD.get().saturating_sub(1));
        self.owner.store(0, Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
    }
}
