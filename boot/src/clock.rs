//! The clock: nanoseconds since the machine was switched on.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::arch;

const NANOSECONDS: u64 = 1_000_000_000;

static TICKS_PER_SECOND: AtomicU64 = AtomicU64::new(NANOSECONDS);

/// Tells how fast the counter counts; at most 4 GHz, and not 0.
pub fn init(ticks_per_second: u64) {
    TICKS_PER_SECOND.store(
        ticks_per_second.clamp(1, u64::from(u32::MAX)),
        Ordering::Relaxed,
    );
}

/// How fast [`arch::ticks`] counts.
pub fn ticks_per_second() -> u64 {
    TICKS_PER_SECOND.load(Ordering::Relaxed)
}

/// Nanoseconds, monotonic.
pub fn now() -> u64 {
    let frequency = ticks_per_second();
    let ticks = arch::ticks();
    // In two parts, because the product would overflow after 18 seconds.
    let seconds = ticks / frequency;
    let rest = ticks % frequency;
    seconds * NANOSECONDS + rest * NANOSECONDS / frequency
}

/// The tick at which `duration` will be over.
pub fn tick_after(duration: Duration) -> u64 {
    let frequency = u128::from(ticks_per_second());
    let ticks = duration.as_nanos() * frequency / u128::from(NANOSECONDS);
    // One more, so that the duration is over by then.
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1);
    arch::ticks().saturating_add(ticks)
}

/// A moment after which it is too late.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(u64);

impl Deadline {
    /// The moment `duration` from now.
    pub fn after(duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(now().saturating_add(nanoseconds))
    }

    /// Whether it is too late.
    pub fn passed(self) -> bool {
        now() > self.0
    }
}

/// A moment, for the log: milliseconds since the start.
pub struct Stamp(u64);

impl Stamp {
    /// This moment.
    pub fn now() -> Self {
        Self(now())
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let microseconds = self.0 / 1000;
        write!(f, "{:5}.{:03} ms", microseconds / 1000, microseconds % 1000)
    }
}
