//! The lock of this kernel: it masks interrupts while it is held.
//!
//! An interrupt handler takes the same locks as everybody else, so nobody may be interrupted while
//! holding one. Interrupts come back when the last lock of a CPU is given up, in whatever order
//! that happens.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use lock_api::{GuardNoSend, RawMutex};

use crate::{arch, cpus};

/// Data behind a [`MaskingLock`].
pub type Mutex<T> = lock_api::Mutex<MaskingLock, T>;

/// The locks that a CPU holds. Nobody but that CPU looks, with interrupts masked.
#[derive(Debug)]
pub struct Held {
    count: AtomicUsize,
    /// Whether interrupts were on before the first of them was taken.
    were_on: AtomicBool,
}

impl Held {
    /// None.
    pub const fn none() -> Self {
        Self {
            count: AtomicUsize::new(0),
            were_on: AtomicBool::new(false),
        }
    }
}

/// A spin lock that masks interrupts while it is held. A word, because not all CPUs swap bytes.
#[derive(Debug)]
pub struct MaskingLock(AtomicU32);

// SAFETY: `swap` lets one holder in, and nobody else until `unlock`.
unsafe impl RawMutex for MaskingLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicU32::new(0));

    /// The mask belongs to the CPU.
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        enter();
        while self.0.swap(1, Ordering::Acquire) != 0 {
            arch::relax();
        }
    }

    fn try_lock(&self) -> bool {
        enter();
        let taken = self.0.swap(1, Ordering::Acquire) == 0;
        if !taken {
            leave();
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.0.store(0, Ordering::Release);
        leave();
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

#[inline]
fn enter() {
    let were_on = arch::interrupts_off();
    let locks = &cpus::this().locks;
    let count = locks.count.load(Ordering::Relaxed);
    if count == 0 {
        locks.were_on.store(were_on, Ordering::Relaxed);
    }
    locks.count.store(count.wrapping_add(1), Ordering::Relaxed);
}

#[inline]
fn leave() {
    let locks = &cpus::this().locks;
    let left = locks.count.load(Ordering::Relaxed).wrapping_sub(1);
    locks.count.store(left, Ordering::Relaxed);
    if left == 0 && locks.were_on.load(Ordering::Relaxed) {
        arch::interrupts_on();
    }
}

/// How many locks this CPU holds. In an interrupt handler, and outside of everything: none.
pub fn held() -> usize {
    cpus::this().locks.count.load(Ordering::Relaxed)
}
