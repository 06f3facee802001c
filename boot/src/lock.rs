//! The lock of this kernel: it masks interrupts while it is held.
//!
//! An interrupt handler takes the same locks as everybody else, so nobody may be interrupted while
//! holding one. Interrupts come back when the last lock is given up, in whatever order that
//! happens.

use core::hint;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lock_api::{GuardNoSend, RawMutex};

use crate::arch;

/// Data behind a [`MaskingLock`].
pub type Mutex<T> = lock_api::Mutex<MaskingLock, T>;

/// Locks that are held. This kernel runs on one CPU; with more, there would be one for each.
static HELD: AtomicUsize = AtomicUsize::new(0);
/// Whether interrupts were on before the first of them was taken.
static WERE_ON: AtomicBool = AtomicBool::new(false);

/// A spin lock that masks interrupts while it is held.
#[derive(Debug)]
pub struct MaskingLock(AtomicBool);

// SAFETY: `swap` lets one holder in, and nobody else until `unlock`.
unsafe impl RawMutex for MaskingLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicBool::new(false));

    /// The mask belongs to the CPU.
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        enter();
        while self.0.swap(true, Ordering::Acquire) {
            hint::spin_loop();
        }
    }

    fn try_lock(&self) -> bool {
        enter();
        let taken = !self.0.swap(true, Ordering::Acquire);
        if !taken {
            leave();
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
        leave();
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn enter() {
    let were_on = arch::interrupts_off();
    if HELD.fetch_add(1, Ordering::Relaxed) == 0 {
        WERE_ON.store(were_on, Ordering::Relaxed);
    }
}

fn leave() {
    // Read first: from the moment of the last `fetch_sub` nothing holds the value.
    let were_on = WERE_ON.load(Ordering::Relaxed);
    if HELD.fetch_sub(1, Ordering::Relaxed) == 1 && were_on {
        arch::interrupts_on();
    }
}

/// How many locks are held. In an interrupt handler, and outside of everything: none.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}
