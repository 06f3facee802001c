//! The local APIC: what the CPU is interrupted for, and its timer.
//!
//! Each CPU sees its own at the same address. Intel's manual, volume 3, chapter "APIC".

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use virtio_iommu::PhysAddr;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags};

use super::super::clock::{both, ticks};
use super::{SPURIOUS, TIMER};
use crate::interrupts::ControllerError;
use crate::registers::Registers;

/// Registers, in bytes; each is alone in 16 of them.
mod register {
    pub const ID: u64 = 0x20;
    pub const TASK_PRIORITY: u64 = 0x80;
    pub const END: u64 = 0xb0;
    pub const SPURIOUS: u64 = 0xf0;
    /// Of the vectors 0 to 31; there are seven more.
    pub const IN_SERVICE: u64 = 0x100;
    pub const TIMER: u64 = 0x320;
    pub const PINS: [u64; 2] = [0x350, 0x360];
    pub const ERROR: u64 = 0x370;
    pub const INITIAL_COUNT: u64 = 0x380;
    pub const COUNT: u64 = 0x390;
    pub const DIVIDE: u64 = 0x3e0;
    pub const LEN: u64 = 0x400;
}

/// In the register of the spurious vector: it is switched on.
const ENABLED: u32 = 1 << 8;
/// In the register of an interrupt of its own.
const MASKED: u32 = 1 << 16;
/// In the divide register: the timer counts as fast as its clock.
const BY_ONE: u32 = 0b1011;

/// Where they are; 0 until the first is started.
static PLACE: AtomicU64 = AtomicU64::new(0);

/// How far the timer counts in one tick of the clock, in units of 2^-32.
static RATE: AtomicU64 = AtomicU64::new(0);

/// The ticks of the alarms, by the id of the CPU's local APIC.
static ALARMS: [AtomicU64; 256] = [const { AtomicU64::new(NO_ALARM) }; 256];
const NO_ALARM: u64 = u64::MAX;

/// The local APIC of the CPU that looks.
#[derive(Clone, Copy)]
pub struct LocalApic(Registers);

impl LocalApic {
    /// That of this CPU, where the first was started.
    pub fn here() -> Option<Self> {
        match PLACE.load(Relaxed) {
            0 => None,
            place => Self::at(place),
        }
    }

    fn at(place: u64) -> Option<Self> {
        // SAFETY: the CPU says that these are the registers; the state in them belongs to the CPU,
        // and whoever asks runs on it with interrupts masked, or writes single registers only.
        unsafe { Registers::new(place, register::LEN) }.map(Self)
    }

    /// Switches that of this CPU on, with all interrupts of its own masked but the timer's, which
    /// stands still.
    ///
    /// The 8259s reach a CPU through a pin of its local APIC, which is masked, too.
    pub fn start(described: PhysAddr) -> Result<Self, ControllerError> {
        let (frame, flags) = ApicBase::read();
        let place = frame.start_address().as_u64();
        if place != described.0 {
            let why = "the CPU has its local APIC elsewhere";
            return Err(ControllerError::Malformed(why));
        }
        if !flags.contains(ApicBaseFlags::LAPIC_ENABLE) {
            return Err(ControllerError::Stuck("the local APIC is switched off"));
        }
        // Its registers are no memory then. No firmware does that for a few CPUs.
        if flags.contains(ApicBaseFlags::X2APIC_ENABLE) {
            return Err(ControllerError::Stuck("the local APIC is an x2APIC"));
        }
        let local = Self::at(place).ok_or(ControllerError::OutOfReach(described))?;
        for own in register::PINS.into_iter().chain([register::ERROR]) {
            local.0.write(own, MASKED);
        }
        local.0.write(register::TASK_PRIORITY, 0);
        local
            .0
            .write(register::SPURIOUS, ENABLED | u32::from(SPURIOUS));
        let rate = local.measure().ok_or(ControllerError::Stuck(
            "the local APIC's timer stands still",
        ))?;
        local.0.write(register::INITIAL_COUNT, 0);
        local.0.write(register::TIMER, u32::from(TIMER));
        RATE.store(rate, Relaxed);
        PLACE.store(place, Relaxed);
        Ok(local)
    }

    /// Its name in messages to it.
    pub fn id(self) -> u8 {
        let [.., id] = self.0.read(register::ID).to_le_bytes();
        id
    }

    /// The most urgent vector that the CPU was interrupted for and that did not end yet.
    pub fn in_service(self) -> Option<u8> {
        (0..8u8).rev().find_map(|word| {
            let vectors = self.0.read(register::IN_SERVICE + 0x10 * u64::from(word));
            let highest = vectors.checked_ilog2()?;
            Some(32 * word + highest as u8)
        })
    }

    /// The most urgent interrupt in service ends.
    pub fn end(self) {
        self.0.write(register::END, 0);
    }

    /// How fast the timer counts, measured; `None` if it does not.
    fn measure(self) -> Option<u64> {
        /// A millisecond with QEMU, and at most 50 elsewhere.
        const SPAN: u32 = 1 << 20;
        /// As in `ticks_per_second`.
        const MAX_READS: u32 = 10_000_000;
        self.0.write(register::TIMER, MASKED);
        self.0.write(register::DIVIDE, BY_ONE);
        self.0.write(register::INITIAL_COUNT, u32::MAX);
        let count = || u32::MAX - self.0.read(register::COUNT);
        let (first_tick, first) = both(count);
        let mut reads = 0;
        while count().wrapping_sub(first) < SPAN {
            reads += 1;
            if reads == MAX_READS {
                return None;
            }
        }
        let (last_tick, last) = both(count);
        let span = u64::from(last.wrapping_sub(first)) << 32;
        span.checked_div(last_tick.checked_sub(first_tick)?)
    }

    /// Has the timer interrupt at a tick, or earlier: it counts 32 bits, and is not exact.
    fn count_down(self, at: u64) {
        let left = u128::from(at.saturating_sub(ticks()));
        let count = (left * u128::from(RATE.load(Relaxed))) >> 32;
        // 0 would stop it.
        let count = u32::try_from(count + 1).unwrap_or(u32::MAX);
        self.0.write(register::INITIAL_COUNT, count);
    }

    /// The timer has interrupted. The alarm is over, unless it was too early.
    pub fn alarm(self) {
        self.end();
        let alarm = &ALARMS[usize::from(self.id())];
        match alarm.load(Relaxed) {
            NO_ALARM => {}
            at if at <= ticks() => alarm.store(NO_ALARM, Relaxed),
            at => self.count_down(at),
        }
    }
}

/// A timer interrupt of this CPU at a tick, or none.
pub fn set_alarm(at: Option<u64>) {
    let Some(local) = LocalApic::here() else {
        return;
    };
    ALARMS[usize::from(local.id())].store(at.unwrap_or(NO_ALARM), Relaxed);
    match at {
        Some(at) => local.count_down(at),
        None => local.0.write(register::INITIAL_COUNT, 0),
    }
}
