//! The counter behind the clock: the time stamp counter, measured against the ACPI PM timer.

use core::arch::x86_64::{_mm_lfence, _rdtsc};

use x86_64::instructions::port::Port;

use super::Firmware;
use crate::acpi::fadt::{PM_TIMER_FREQUENCY, PmTimer};

/// How long the measurement takes: 20 ms, in ticks of the PM timer. That timer has a step of
/// 280 ns and takes a microsecond to read, which is 0.01 % of it.
const SPAN: u32 = (PM_TIMER_FREQUENCY / 50) as u32;

/// The most reads of the PM timer: a read takes 0.1 µs at least, so this is far more than `SPAN`.
/// Reached only by a timer that stands still.
const MAX_READS: u32 = 10_000_000;

/// Looks at both counters as often, and takes the pair with the least time between.
const LOOKS: u32 = 8;

/// The counter behind the clock.
pub fn ticks() -> u64 {
    // SAFETY: SSE2 is part of the architecture; the instruction needs no register of it. It keeps
    // the read from being done early.
    unsafe { _mm_lfence() };
    // SAFETY: the instruction is part of the architecture and allowed in the kernel.
    unsafe { _rdtsc() }
}

/// How fast [`ticks`] counts, measured; `None` if there is no PM timer, or none that counts.
pub fn ticks_per_second(firmware: &Firmware) -> Option<u64> {
    let timer = firmware.pm_timer()?;
    let both = || both(|| read(timer));
    let (first_tick, first) = both();
    let mut reads = 0;
    // The timer wraps after 4.7 s at the earliest.
    while elapsed(timer, first, read(timer)) < SPAN {
        reads += 1;
        if reads == MAX_READS {
            return None;
        }
    }
    let (last_tick, last) = both();
    let ticks = u128::from(last_tick.checked_sub(first_tick)?);
    let span = u128::from(elapsed(timer, first, last));
    let frequency = (ticks * u128::from(PM_TIMER_FREQUENCY)).checked_div(span)?;
    u64::try_from(frequency)
        .ok()
        .filter(|frequency| *frequency != 0)
}

/// [`ticks`] and another counter at the same moment, as far as that is possible.
pub(super) fn both(read: impl Fn() -> u32) -> (u64, u32) {
    let look = || {
        let before = ticks();
        let value = read();
        let between = ticks().saturating_sub(before);
        (between, before + between / 2, value)
    };
    let mut best = look();
    for _ in 1..LOOKS {
        best = best.min(look());
    }
    let (_, tick, value) = best;
    (tick, value)
}

fn read(timer: PmTimer) -> u32 {
    let mut port = Port::<u32>::new(timer.port);
    // SAFETY: the port of the PM timer, which is there to be read.
    unsafe { port.read() & timer.mask }
}

fn elapsed(timer: PmTimer, from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) & timer.mask
}
