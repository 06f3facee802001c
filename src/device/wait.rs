//! How long the driver waits for the device.

use core::time::Duration;

use crate::platform::Platform;

/// Looks at a clock that stands still before it counts as broken.
const LOOKS_AT_A_STOPPED_CLOCK: u32 = 1 << 22;

/// The end of a wait: a moment of the platform's clock, or a number of looks if the clock stands
/// still.
pub(crate) struct Deadline {
    end: u64,
    last: u64,
    looks: u32,
}

impl Deadline {
    pub(crate) fn after<P: Platform>(platform: &P, timeout: Duration) -> Self {
        let now = platform.now();
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Self {
            end: now.saturating_add(timeout),
            last: now,
            looks: 0,
        }
    }

    /// Whether the wait is over; called once per look at the device.
    pub(crate) fn passed<P: Platform>(&mut self, platform: &P) -> bool {
        let now = platform.now();
        if now == self.last {
            self.looks = self.looks.saturating_add(1);
        } else {
            self.last = now;
            self.looks = 0;
        }
        core::hint::spin_loop();
        now >= self.end || self.looks >= LOOKS_AT_A_STOPPED_CLOCK
    }
}
