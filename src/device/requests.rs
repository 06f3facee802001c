//! The request queue: fixed slots, many in flight, answers in any order (§5.13.6).
//!
//! A slot is two descriptors, linked once: the request, which the device reads, and its tail,
//! which it writes. Submitting writes the body, poisons the tail and publishes the slot.

use alloc::vec::Vec;

use thiserror::Error;

use super::memory::SharedMemory;
use super::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, SplitRing};
use crate::platform::Platform;
use crate::wire::{Request, Status, TAIL_SIZE, parse_status};

/// Distance of the slots, in bytes.
const STRIDE: usize = 128;
/// Where the tail of a slot is; the body of the longest request takes 72 bytes.
const TAIL: usize = 96;
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

/// A used ring that cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// A request in flight.
///
/// Must be [collected](RequestQueue::collect) or [abandoned](RequestQueue::abandon).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// With the device; somebody waits.
    InFlight,
    /// With the device; nobody waits. The slot is not used until the device gives it back, and
    /// the request may take effect until then.
    Abandoned(Request),
    /// Answered; the answer was not collected.
    Done(Outcome),
}

pub(crate) struct RequestQueue {
    ring: SplitRing,
    bodies: SharedMemory,
    slots: Vec<Slot>,
    free: Vec<u16>,
    probe: Option<Probe>,
}

/// The slot for PROBE: the last one, whose tail is far longer.
struct Probe {
    slot: u16,
    reply: SharedMemory,
    /// Of the properties, in bytes.
    size: u32,
}

impl RequestQueue {
    /// A queue over `size` descriptors, a power of two from 4; `probe_size` in bytes.
    pub(crate) fn new<P: Platform>(
        platform: &P,
        size: u16,
        probe_size: Option<u32>,
    ) -> Option<Self> {
        let slots = size / 2;
        let ring = SplitRing::new(platform, size)?;
        let Some(bodies) = SharedMemory::new(platform, STRIDE * usize::from(slots)) else {
            // SAFETY: the device was not told of the ring.
            unsafe { ring.into_memory().free(platform) };
            return None;
        };
        let probe = match probe_size {
            None => None,
            Some(size) => match SharedMemory::new(platform, (size + TAIL_SIZE) as usize) {
                Some(reply) => Some(Probe {
                    slot: slots - 1,
                    reply,
                    size,
                }),
                None => {
                    // SAFETY: the device was not told of the ring.
                    unsafe { ring.into_memory().free(platform) };
                    // SAFETY: the device was not told of the bodies.
                    unsafe { bodies.free(platform) };
                    return None;
                }
            },
        };
        let usable = slots - u16::from(probe.is_some());
        let queue = Self {
            ring,
            bodies,
            slots: alloc::vec![Slot::Free; usize::from(slots)],
            // The lowest slot is taken first.
            free: (0..usable).rev().collect(),
            probe,
        };
        for slot in 0..slots {
            queue.link(slot);
        }
        queue.ring.suppress_interrupts();
        Some(queue)
    }

    fn link(&self, slot: u16) {
        let at = STRIDE * usize::from(slot);
        let (tail, len) = match &self.probe {
            Some(probe) if probe.slot == slot => (probe.reply.phys(0), probe.size + TAIL_SIZE),
            _ => (self.bodies.phys(at + TAIL), TAIL_SIZE),
        };
        self.ring.set_descriptor(
            2 * slot,
            Descriptor {
                address: self.bodies.phys(at),
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
        unsafe { self.bodies.free(platform) };
        if let Some(probe) = self.probe {
            // SAFETY: the caller vouches for the device.
            unsafe { probe.reply.free(platform) };
        }
    }

    pub(crate) fn ring(&self) -> &SplitRing {
        &self.ring
    }

    /// Puts a request in the ring, without a kick; `None` when no slot is free.
    pub(crate) fn submit(&mut self, request: &Request) -> Option<Ticket> {
        let slot = match request {
            Request::Probe { .. } => {
                let slot = self.probe.as_ref()?.slot;
                let free = self.slots.get(usize::from(slot)) == Some(&Slot::Free);
                free.then_some(slot)?
            }
            _ => self.free.pop()?,
        };
        let at = STRIDE * usize::from(slot);
        let body = request.encode();
        for (i, word) in body.words().iter().enumerate() {
            self.bodies.write(at + 8 * i, *word);
        }
        match &self.probe {
            Some(probe) if probe.slot == slot => {
                let len = (probe.size + TAIL_SIZE) as usize;
                probe.reply.fill(0, len, POISON);
            }
            _ => self.bodies.write(at + TAIL, u32::from(POISON)),
        }
        self.ring.set_len(2 * slot, body.len());
        self.set(slot, Slot::InFlight);
        self.ring.publish(2 * slot);
        Some(Ticket(slot))
    }

    /// Takes all answers out of the ring.
    pub(crate) fn reap(&mut self) -> Result<(), Broken> {
        while let Some(used) = self.ring.next_used().map_err(|_| Broken)? {
            // The id is the head of a chain that the device has, or a lie.
            let slot = match u16::try_from(used.id) {
                Ok(head) if head.is_multiple_of(2) => head / 2,
                _ => return Err(Broken),
            };
            match self.slots.get(usize::from(slot)) {
                Some(Slot::InFlight) => {
                    let outcome = self.outcome(slot, used.len);
                    self.set(slot, Slot::Done(outcome));
                }
                Some(Slot::Abandoned(_)) => self.release(slot),
                _ => return Err(Broken),
            }
        }
        Ok(())
    }

    fn set(&mut self, slot: u16, state: Slot) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = state;
        }
    }

    /// Reads the answer of `slot`, of which the device says to have written `len` bytes.
    fn outcome(&self, slot: u16, len: u32) -> Outcome {
        let (tail, expected) = match &self.probe {
            Some(probe) if probe.slot == slot => (
                probe.reply.read(probe.size as usize),
                probe.size + TAIL_SIZE,
            ),
            _ => (
                self.bodies.read(STRIDE * usize::from(slot) + TAIL),
                TAIL_SIZE,
            ),
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
        let Some(Slot::Done(outcome)) = self.slots.get(usize::from(ticket.0)).copied() else {
            return None;
        };
        self.release(ticket.0);
        Some(outcome)
    }

    /// Stops waiting for `request`: the slot comes back when the device gives it back.
    pub(crate) fn abandon(&mut self, ticket: Ticket, request: Request) {
        if self.slots.get(usize::from(ticket.0)) == Some(&Slot::InFlight) {
            self.set(ticket.0, Slot::Abandoned(request));
        }
    }

    /// Whether a request that nobody waits for, and of which this is true, may yet take effect.
    pub(crate) fn may_yet(&self, matches: impl Fn(&Request) -> bool) -> bool {
        let abandoned = |slot: &Slot| matches!(slot, Slot::Abandoned(request) if matches(request));
        self.slots.iter().any(abandoned)
    }

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
