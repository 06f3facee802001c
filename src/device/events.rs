//! The event queue: faults, pulled (§5.13.6.9).

use super::memory::SharedMemory;
use super::order::Order;
use super::ring::{DESC_F_WRITE, Descriptor, SplitRing};
use crate::platform::Platform;
use crate::wire::{EVENT_SIZE, Fault, parse_event};

/// Distance of the buffers, in bytes.
const STRIDE: usize = 32;
const _: () = assert!(STRIDE >= EVENT_SIZE);

/// What became of the events so far. The counters saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Faults that were handed out.
    pub received: u64,
    /// Events with reserved bytes set, which the specification says to ignore.
    pub ignored: u64,
    /// Events too short to be a fault, or for a buffer that does not exist.
    pub malformed: u64,
    /// How often the queue was found without a free buffer. Devices drop faults for want of a
    /// buffer without saying so: each time may stand for any number of lost ones.
    pub overflows: u64,
}

/// What was in an event buffer.
pub(crate) enum Event {
    Fault(Fault),
    /// Counted already.
    Nothing,
}

pub(crate) struct EventQueue {
    ring: SplitRing,
    buffers: SharedMemory,
    counters: FaultCounters,
}

impl EventQueue {
    /// A queue of `size` buffers, all of them posted.
    pub(crate) fn new<P: Platform>(platform: &P, size: u16, order: Order) -> Option<Self> {
        let mut ring = SplitRing::new(platform, size, order)?;
        let Some(buffers) = SharedMemory::new(platform, STRIDE * usize::from(size)) else {
            // SAFETY: the device was not told of the ring.
            unsafe { ring.into_memory().free(platform) };
            return None;
        };
        for index in 0..size {
            ring.set_descriptor(
                index,
                Descriptor {
                    address: buffers.phys(STRIDE * usize::from(index)),
                    len: EVENT_SIZE as u32,
                    flags: DESC_F_WRITE,
                    next: 0,
                },
            );
            #[cfg(viommu_broken)]
            if crate::broken::is(crate::broken::NO_EVENTS) {
                continue;
            }
            ring.prepare(index);
        }
        ring.publish();
        Some(Self {
            ring,
            buffers,
            counters: FaultCounters::default(),
        })
    }

    /// Gives all memory back.
    ///
    /// # Safety
    ///
    /// The device was never told of the queue, or was reset since, and confirmed it.
    pub(crate) unsafe fn free<P: Platform>(self, platform: &P) {
        // SAFETY: the caller vouches for the device.
        unsafe { self.ring.into_memory().free(platform) };
        // SAFETY: the caller vouches for the device.
        unsafe { self.buffers.free(platform) };
    }

    pub(crate) fn ring(&self) -> &SplitRing {
        &self.ring
    }

    pub(crate) fn counters(&self) -> FaultCounters {
        self.counters
    }

    /// Notes an overflow if no buffer is left for the device. Called before the queue is emptied.
    pub(crate) fn note_overflow(&mut self) {
        if self.ring.waiting() == Ok(self.ring.size()) {
            count(&mut self.counters.overflows);
        }
    }

    /// Whether an event is waiting; not if the ring cannot be believed.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ring.waiting().is_ok_and(|waiting| waiting > 0)
    }

    /// Takes one event out and posts its buffer again.
    ///
    /// `None` when there is none, or when the ring cannot be believed.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let used = self.ring.next_used().ok()??;
        let Ok(index) = u16::try_from(used.id) else {
            count(&mut self.counters.malformed);
            return Some(Event::Nothing);
        };
        if index >= self.ring.size() {
            count(&mut self.counters.malformed);
            return Some(Event::Nothing);
        }
        let mut bytes = [0; EVENT_SIZE];
        let whole = used.len as usize >= EVENT_SIZE;
        if whole {
            self.buffers
                .read_bytes(STRIDE * usize::from(index), &mut bytes);
        }
        self.ring.prepare(index);
        self.ring.publish();
        if !whole {
            count(&mut self.counters.malformed);
            return Some(Event::Nothing);
        }
        match parse_event(&bytes) {
            Some(fault) => {
                count(&mut self.counters.received);
                Some(Event::Fault(fault))
            }
            None => {
                count(&mut self.counters.ignored);
                Some(Event::Nothing)
            }
        }
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
