//! The request queue: fixed slots, many in flight, answers in any order (§5.13.6).
//!
//! A slot is two descriptors, linked once: the request, which the device reads, and its tail,
//! which it writes. Submitting writes the body, poisons the tail and publishes the slot.

use alloc::vec::Vec;
use core::num::NonZeroU16;

use thiserror::Error;

use super::memory::{SharedMemory, View};
use super::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, SplitRing};
use crate::platform::Platform;
use crate::wire::{REQUEST_WORDS, Request, Status, TAIL_SIZE, parse_status};

/// Size of a slot, in words.
const SLOT_WORDS: usize = 16;
/// Size of a slot, in bytes.
const SLOT_SIZE: usize = 8 * SLOT_WORDS;
/// The word of a slot that is its tail.
const TAIL: usize = 12;
const _: () = assert!(REQUEST_WORDS <= TAIL);
/// In the tail until the device writes it: no status has this value.
const POISON: u8 = 0xff;

/// Why a request did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The device refused it: it had no effect.
    #[error("the device answered {0}")]
    Status(Status),
    /// The device gave the request back without an answer, which means failure (§5.13.6).
    #[error("the device did not answer the request")]
    NotWritten,
    /// No answer in time, or one that cannot be understood. Not failure: the request may have
    /// taken effect, or may still do so.
    #[error("the request was not confirmed")]
    Unconfirmed,
    /// No slot was free in time: the request was not sent.
    #[error("no request slot became free")]
    NoSlot,
    /// The device needs a reset, or broke the rules of its rings, or was shut down: the request
    /// was not sent.
    #[error("the device is not running")]
    NotRunning,
}

impl RequestError {
    /// Whether the request certainly has no effect.
    #[must_use]
    pub const fn had_no_effect(&self) -> bool {
        !matches!(self, Self::Unconfirmed)
    }
}

/// What became of a request.
pub(crate) type Outcome = Result<(), RequestError>;

/// The first error among some outcomes.
pub(crate) fn first_error(outcomes: &[Outcome]) -> Option<RequestError> {
    outcomes.iter().find_map(|outcome| outcome.err())
}

/// A used ring that cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// A request in flight.
///
/// Must be [collected](RequestQueue::collect) or [abandoned](RequestQueue::abandon).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(NonZeroU16);

impl Ticket {
    #[inline]
    fn of(slot: u16) -> Option<Self> {
        NonZeroU16::new(slot.wrapping_add(1)).map(Self)
    }

    #[inline]
    fn slot(self) -> u16 {
        self.0.get() - 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// With the device; somebody waits.
    InFlight,
    /// With the device; nobody waits. The slot is not used until the device gives it back, and
    /// the request may take effect until then.
    Abandoned,
    /// Answered; the answer was not collected.
    Done(Outcome),
}

pub(crate) struct RequestQueue {
    ring: SplitRing,
    memory: SharedMemory,
    /// The same memory, slot by slot.
    bodies: View<[u64; SLOT_WORDS]>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// What was abandoned, by slot. Has room for all.
    abandoned: Vec<(u16, Request)>,
    probe: Option<Probe>,
}

/// The slot for PROBE: the last one, whose tail is far longer.
struct Probe {
    slot: u16,
    reply: SharedMemory,
    /// Of the properties, in bytes.
    size: u32,
}

/// The lists of a queue, with room for each slot.
struct Lists {
    slots: Vec<Slot>,
    free: Vec<u16>,
    abandoned: Vec<(u16, Request)>,
}

impl Lists {
    fn new(slots: usize) -> Option<Self> {
        let mut lists = Self {
            slots: Vec::new(),
            free: Vec::new(),
            abandoned: Vec::new(),
        };
        lists.slots.try_reserve_exact(slots).ok()?;
        lists.free.try_reserve_exact(slots).ok()?;
        lists.abandoned.try_reserve_exact(slots).ok()?;
        Some(lists)
    }
}

impl RequestQueue {
    /// A queue over `size` descriptors, a power of two from 4; `probe_size` in bytes.
    pub(crate) fn new<P: Platform>(
        platform: &P,
        size: u16,
        probe_size: Option<u32>,
    ) -> Option<Self> {
        let lists = Lists::new(usize::from(size / 2))?;
        let ring = SplitRing::new(platform, size)?;
        match Self::over(platform, size / 2, probe_size) {
            Some((memory, bodies, probe)) => {
                Some(Self::assemble(lists, ring, memory, bodies, probe))
            }
            None => {
                // SAFETY: the device was not told of the ring.
                unsafe { ring.into_memory().free(platform) };
                None
            }
        }
    }

    /// The memory of the slots.
    fn over<P: Platform>(
        platform: &P,
        slots: u16,
        probe_size: Option<u32>,
    ) -> Option<(SharedMemory, View<[u64; SLOT_WORDS]>, Option<Probe>)> {
        let memory = SharedMemory::new(platform, SLOT_SIZE * usize::from(slots))?;
        // SAFETY: kept beside the memory, and dropped by `free`.
        let bodies = unsafe { memory.view(0, usize::from(slots)) };
        let probe = probe_size.map(|size| {
            let reply = SharedMemory::new(platform, (size + TAIL_SIZE) as usize)?;
            let slot = slots - 1;
            Some(Probe { slot, reply, size })
        });
        match (bodies, probe) {
            (Some(bodies), None) => Some((memory, bodies, None)),
            (Some(bodies), Some(Some(probe))) => Some((memory, bodies, Some(probe))),
            (_, probe) => {
                // SAFETY: the device was not told of the slots.
                unsafe { memory.free(platform) };
                if let Some(Some(probe)) = probe {
                    // SAFETY: nor of this.
                    unsafe { probe.reply.free(platform) };
                }
                None
            }
        }
    }

    fn assemble(
        lists: Lists,
        ring: SplitRing,
        memory: SharedMemory,
        bodies: View<[u64; SLOT_WORDS]>,
        probe: Option<Probe>,
    ) -> Self {
        let slots = ring.size() / 2;
        let usable = slots - u16::from(probe.is_some());
        let Lists {
            slots: mut states,
            mut free,
            abandoned,
        } = lists;
        states.resize(usize::from(slots), Slot::Free);
        // The lowest slot is taken first.
        free.extend((0..usable).rev());
        let queue = Self {
            ring,
            memory,
            bodies,
            slots: states,
            free,
            abandoned,
            probe,
        };
        for slot in 0..slots {
            queue.link(slot);
        }
        queue.ring.suppress_interrupts();
        queue
    }

    fn link(&self, slot: u16) {
        let at = SLOT_SIZE * usize::from(slot);
        let (tail, len) = match &self.probe {
            Some(probe) if probe.slot == slot => (probe.reply.phys(0), probe.size + TAIL_SIZE),
            _ => (self.memory.phys(at + 8 * TAIL), TAIL_SIZE),
        };
        self.ring.set_descriptor(
            2 * slot,
            Descriptor {
                address: self.memory.phys(at),
                len: 0,
                flags: DESC_F_NEXT,
                next: 2 * slot + 1,
            },
        );
        self.ring.set_descriptor(
            2 * slot + 1,
            Descriptor {
                address: tail,
                len,
                flags: DESC_F_WRITE,
                next: 0,
            },
        );
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
        unsafe { self.memory.free(platform) };
        if let Some(probe) = self.probe {
            // SAFETY: the caller vouches for the device.
            unsafe { probe.reply.free(platform) };
        }
    }

    pub(crate) fn ring(&self) -> &SplitRing {
        &self.ring
    }

    /// Writes a request into a slot, for the next [`publish`](SplitRing::publish) of the ring;
    /// `None` when no slot is free.
    #[inline]
    pub(crate) fn prepare(&mut self, request: &Request) -> Option<Ticket> {
        let slot = if request.is_probe() {
            self.prepare_probe()?
        } else {
            let slot = self.free.pop()?;
            let body = self.bodies.block(slot.into())?;
            body.write::<TAIL>(POISON.into());
            slot
        };
        let body = self.bodies.block(slot.into())?;
        let encoded = request.encode();
        let [a, b, c, d, e] = encoded.words;
        body.write::<0>(a);
        body.write::<1>(b);
        body.write::<2>(c);
        body.write::<3>(d);
        body.write::<4>(e);
        self.ring.set_len(2 * slot, encoded.len);
        self.set(slot, Slot::InFlight);
        self.ring.prepare(2 * slot);
        Ticket::of(slot)
    }

    /// Gets the slot for PROBE ready, but for the first words of the request.
    #[cold]
    fn prepare_probe(&self) -> Option<u16> {
        let probe = self.probe.as_ref()?;
        if self.slots.get(usize::from(probe.slot)) != Some(&Slot::Free) {
            return None;
        }
        let body = self.bodies.block(probe.slot.into())?;
        body.write::<5>(0);
        body.write::<6>(0);
        body.write::<7>(0);
        body.write::<8>(0);
        let len = (probe.size + TAIL_SIZE) as usize;
        probe.reply.fill(0, len, POISON);
        Some(probe.slot)
    }

    /// Takes all answers out of the ring that are there. Those of `first`, in this order and
    /// without a gap, go to `sink`, which says for whom to look next; others are left for
    /// [`collect`](Self::collect).
    #[inline]
    pub(crate) fn reap(
        &mut self,
        first: Option<Ticket>,
        mut sink: impl FnMut(Outcome) -> Option<Ticket>,
    ) -> Result<(), Broken> {
        let mut expected = first;
        for _ in 0..self.ring.waiting().map_err(|_| Broken)? {
            let used = self.ring.take_used();
            // The id is the head of a chain that the device has, or a lie.
            let slot = match u16::try_from(used.id) {
                Ok(head) if head.is_multiple_of(2) => head / 2,
                _ => return Err(Broken),
            };
            match self.slots.get(usize::from(slot)) {
                Some(Slot::InFlight) => {
                    let outcome = self.outcome(slot, used.len);
                    if expected.is_some_and(|ticket| ticket.slot() == slot) {
                        self.release(slot);
                        expected = sink(outcome);
                    } else {
                        self.set(slot, Slot::Done(outcome));
                    }
                }
                Some(Slot::Abandoned) => {
                    self.abandoned.retain(|(other, _)| *other != slot);
                    self.release(slot);
                }
                _ => return Err(Broken),
            }
        }
        Ok(())
    }

    #[inline]
    fn set(&mut self, slot: u16, state: Slot) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = state;
        }
    }

    /// Reads the answer of `slot`, of which the device says to have written `len` bytes.
    #[inline]
    fn outcome(&self, slot: u16, len: u32) -> Outcome {
        let (tail, expected) = match &self.probe {
            Some(probe) if probe.slot == slot => (
                probe.reply.read(probe.size as usize),
                probe.size + TAIL_SIZE,
            ),
            _ => {
                let body = self.bodies.block(slot.into());
                let tail = body.map_or(POISON, |body| body.read::<TAIL>() as u8);
                (tail, TAIL_SIZE)
            }
        };
        match len {
            0 => Err(RequestError::NotWritten),
            // The poison is no status: nothing was written, whatever the length says.
            _ if len != expected || tail == POISON => Err(RequestError::Unconfirmed),
            _ => parse_status(tail).map_err(RequestError::Status),
        }
    }

    /// The answer, once: the slot is free afterwards.
    pub(crate) fn collect(&mut self, ticket: Ticket) -> Option<Outcome> {
        let slot = ticket.slot();
        let Some(Slot::Done(outcome)) = self.slots.get(usize::from(slot)).copied() else {
            return None;
        };
        self.release(slot);
        Some(outcome)
    }

    /// Stops waiting for `request`: the slot comes back when the device gives it back.
    pub(crate) fn abandon(&mut self, ticket: Ticket, request: Request) {
        let slot = ticket.slot();
        if self.slots.get(usize::from(slot)) == Some(&Slot::InFlight) {
            self.set(slot, Slot::Abandoned);
            // One entry per slot: there is always room.
            self.abandoned.push((slot, request));
        }
    }

    /// Whether a request that nobody waits for, and of which this is true, may yet take effect.
    pub(crate) fn may_yet(&self, matches: impl Fn(&Request) -> bool) -> bool {
        self.abandoned.iter().any(|(_, request)| matches(request))
    }

    #[inline]
    fn release(&mut self, slot: u16) {
        self.set(slot, Slot::Free);
        // One entry per slot: there is always room. The slot of PROBE is not among them.
        if self.probe.as_ref().is_none_or(|probe| probe.slot != slot) {
            self.free.push(slot);
        }
    }

    /// The properties that the last PROBE returned.
    ///
    /// Meaningful after its outcome was collected as success, until the next PROBE.
    pub(crate) fn properties(&self) -> Vec<u8> {
        let Some(probe) = &self.probe else {
            return Vec::new();
        };
        let mut list = alloc::vec![0; probe.size as usize];
        probe.reply.read_bytes(0, &mut list);
        list
    }
}
