//! The request queue: fixed slots, many in flight, answers in any order (§5.13.6).
//!
//! While nobody has a slot, requests go the fast way: into the first slots, and their answers are
//! looked at before anybody else sees the queue. Whatever is not answered at once, in order and
//! well is in flight from then on, and each of its slots has a state.

use alloc::vec::Vec;
use core::num::NonZeroU16;

use thiserror::Error;

use super::memory::SharedMemory;
use super::order::Order;
use super::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, SplitRing, Turn};
use super::slots::{self, POISON, Probe, SLOT_SIZE, Slot, Slots, TAIL_OFFSET};
use crate::address::PhysAddr;
use crate::platform::Platform;
use crate::wire::{Request, STATUS_OK, Status, TAIL_SIZE, parse_status};

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

/// What the device says about a request with a status, having written `len` bytes of `expected`.
fn outcome(status: u8, len: u32, expected: u32) -> Outcome {
    match len {
        0 => Err(RequestError::NotWritten),
        // The poison is no status: nothing was written, whatever the length says.
        _ if len != expected || status == POISON => Err(RequestError::Unconfirmed),
        _ => parse_status(status).map_err(RequestError::Status),
    }
}

/// A used ring that cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// A request in flight: the number of its slot, and one.
///
/// Must be [collected](RequestQueue::collect) or [abandoned](RequestQueue::abandon).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(NonZeroU16);

impl Ticket {
    pub(crate) fn of(slot: usize) -> Option<Self> {
        NonZeroU16::new((slot as u16).wrapping_add(1)).map(Self)
    }

    fn slot(self) -> usize {
        usize::from(self.0.get() - 1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// With the device; somebody waits.
    InFlight,
    /// With the device; nobody waits. The slot is not used until the device gives it back, and
    /// the request may take effect until then.
    Abandoned,
    /// Answered; the answer was not collected.
    Done,
}

/// What is known of a slot.
#[derive(Clone, Copy, Debug)]
struct Progress {
    state: State,
    /// The answer, when it is done.
    outcome: Outcome,
}

impl Progress {
    const FREE: Self = Self {
        state: State::Free,
        outcome: Err(RequestError::Unconfirmed),
    };
}

pub(crate) struct RequestQueue {
    ring: SplitRing,
    memory: SharedMemory,
    slots: Slots,
    /// How many slots are not free.
    busy: usize,
    /// All slots, that of PROBE last.
    progress: Vec<Progress>,
    /// The slot that is looked at first when one is needed and some are not free.
    next: usize,
    /// What was abandoned, by slot. Has room for all.
    abandoned: Vec<(usize, Request)>,
    probe: Option<Probe>,
}

/// Ends a turn: takes out the answers for the first slots, as long as all were given and they come
/// in order and say that all is well. Returns how many.
#[inline(always)]
fn take_answers(turn: Turn<'_>, slots: impl Iterator<Item = Slot>) -> usize {
    let mut well = 0;
    if turn.is_all_used() {
        for slot in slots {
            let used = turn.used(well as u16);
            let is_well = used.len == TAIL_SIZE && slots::status(slot) == STATUS_OK;
            if !is_well || used.id != 2 * well {
                break;
            }
            well += 1;
        }
    }
    turn.end(well as u16);
    well as usize
}

/// What became of requests that went the fast way, in the first slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// How many were sent.
    pub(crate) sent: usize,
    /// How many of the first were answered, and well; the others are in flight.
    pub(crate) well: usize,
    /// Some requests were not sent, for want of slots.
    pub(crate) left: bool,
}

impl Sent {
    /// All requests were left.
    pub(crate) const NOTHING: Self = Self {
        sent: 0,
        well: 0,
        left: true,
    };
}

impl RequestQueue {
    /// A queue over `size` descriptors, a power of two from 4; `probe_size` in bytes.
    pub(crate) fn new<P: Platform>(
        platform: &P,
        size: u16,
        order: Order,
        probe_size: Option<u32>,
    ) -> Option<Self> {
        let count = size / 2;
        let usable = count - u16::from(probe_size.is_some());
        let mut progress = Vec::new();
        progress.try_reserve_exact(usize::from(count)).ok()?;
        progress.resize(usize::from(count), Progress::FREE);
        let mut abandoned = Vec::new();
        abandoned.try_reserve_exact(usize::from(count)).ok()?;
        let ring = SplitRing::new(platform, size, order);
        let memory = SharedMemory::new(platform, SLOT_SIZE * usize::from(usable));
        let probe = probe_size.map(|size| Probe::new(platform, size));
        let (ring, memory, probe) = match (ring, memory, probe) {
            (Some(ring), Some(memory), None) => (ring, memory, None),
            (Some(ring), Some(memory), Some(Some(probe))) => (ring, memory, Some(probe)),
            (ring, memory, probe) => {
                // SAFETY: the device was not told of it.
                unsafe { free_parts(platform, ring, memory, probe.flatten()) };
                return None;
            }
        };
        // SAFETY: the slots are kept beside their memory, and are gone when that is freed.
        let bodies = unsafe { memory.view(0, usize::from(usable)) };
        // SAFETY: the ring is freed together with the slots.
        let pairs = unsafe { ring.pairs(usable) };
        let (Some(bodies), Some(pairs)) = (bodies, pairs) else {
            // SAFETY: the device was not told of it.
            unsafe { free_parts(platform, Some(ring), Some(memory), probe) };
            return None;
        };
        let queue = Self {
            ring,
            memory,
            slots: bodies.beside(pairs),
            busy: 0,
            progress,
            next: 0,
            abandoned,
            probe,
        };
        queue.link(usable);
        queue.ring.suppress_interrupts();
        Some(queue)
    }

    /// Writes the descriptors of all slots.
    fn link(&self, usable: u16) {
        for slot in 0..usable {
            let at = SLOT_SIZE * usize::from(slot);
            let tail = (self.memory.phys(at + TAIL_OFFSET), TAIL_SIZE);
            // The length comes with each request.
            self.link_one(slot, [(self.memory.phys(at), 0), tail]);
        }
        if let Some(probe) = &self.probe {
            self.link_one(usable, probe.parts());
        }
    }

    /// Writes the descriptors of a slot: what the device reads, and what it writes.
    fn link_one(&self, slot: u16, [request, reply]: [(PhysAddr, u32); 2]) {
        self.ring.set_descriptor(
            2 * slot,
            Descriptor {
                address: request.0,
                len: request.1,
                flags: DESC_F_NEXT,
                next: 2 * slot + 1,
            },
        );
        self.ring.set_descriptor(
            2 * slot + 1,
            Descriptor {
                address: reply.0,
                len: reply.1,
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
        unsafe { free_parts(platform, Some(self.ring), Some(self.memory), self.probe) };
    }

    pub(crate) fn ring(&self) -> &SplitRing {
        &self.ring
    }

    /// Sends requests with one kick, up to `most`, and takes out the answers that are there when it
    /// returns. What comes after a PROBE, or finds no slot, is left.
    #[inline(always)]
    pub(crate) fn send_run(
        &mut self,
        requests: &mut impl Iterator<Item = Request>,
        most: usize,
        kick: impl FnOnce(),
    ) -> Sent {
        if self.busy > 0 {
            return Sent::NOTHING;
        }
        let Some(mut turn) = self.ring.turn() else {
            return Sent::NOTHING;
        };
        let mut head = 0;
        let mut left = false;
        for slot in self.slots.rows(most) {
            let Some(request) = requests.next() else {
                break;
            };
            if request.is_probe() {
                left = true;
                break;
            }
            slots::fill(slot, &request);
            turn.prepare(head);
            head += 2;
        }
        let sent = usize::from(head / 2);
        if sent == self.slots.len() && sent < most {
            left = requests.next().is_some();
        }
        if sent == 0 {
            return Sent {
                left,
                ..Sent::NOTHING
            };
        }
        if turn.publish() {
            kick();
        }
        let well = take_answers(turn, self.slots.rows(sent));
        if well < sent {
            self.note_in_flight(sent, well);
        }
        Sent { sent, well, left }
    }

    /// As [`send_run`](Self::send_run), for so few that they are sent all or not at all: whether all
    /// is well, or what there is instead.
    #[inline(always)]
    pub(crate) fn send_few<const N: usize>(
        &mut self,
        requests: [Request; N],
        kick: impl FnOnce(),
    ) -> Result<(), Sent> {
        if self.busy > 0 || requests.iter().any(Request::is_probe) {
            return Err(Sent::NOTHING);
        }
        let Some(slots) = self.slots.first::<N>() else {
            return Err(Sent::NOTHING);
        };
        let Some(mut turn) = self.ring.turn() else {
            return Err(Sent::NOTHING);
        };
        let heads = (0..).step_by(2);
        for ((request, slot), head) in requests.iter().zip(slots).zip(heads) {
            slots::fill(slot, request);
            turn.prepare(head);
        }
        if turn.publish() {
            kick();
        }
        let well = take_answers(turn, slots.into_iter());
        if well == N {
            return Ok(());
        }
        self.note_in_flight(N, well);
        Err(Sent {
            sent: N,
            well,
            left: false,
        })
    }

    /// Notes that requests that went the fast way are in flight, but for the first ones.
    #[cold]
    #[inline(never)]
    fn note_in_flight(&mut self, sent: usize, well: usize) {
        for slot in self.progress.iter_mut().take(sent).skip(well) {
            slot.state = State::InFlight;
            self.busy += 1;
        }
    }

    /// Writes one request into any slot; `None` when none is free.
    #[cold]
    pub(crate) fn prepare_one(&mut self, request: &Request) -> Option<Ticket> {
        let at = if request.is_probe() {
            let at = self.slots.len();
            if self.progress.get(at)?.state != State::Free {
                return None;
            }
            self.probe.as_ref()?.fill(request);
            at
        } else {
            let at = self.free_slot()?;
            slots::fill(self.slots.get(at)?, request);
            self.next = at + 1;
            at
        };
        let slot = self.progress.get_mut(at)?;
        slot.state = State::InFlight;
        self.busy += 1;
        self.ring.prepare(2 * at as u16);
        Ticket::of(at)
    }

    /// A free slot: one that was not looked at lately, as a rule.
    fn free_slot(&self) -> Option<usize> {
        let slots = self.progress.get(..self.slots.len())?;
        let (before, after) = slots.split_at_checked(self.next)?;
        let is_free = |slot: &Progress| slot.state == State::Free;
        let later = after.iter().position(is_free).map(|at| self.next + at);
        later.or_else(|| before.iter().position(is_free))
    }

    /// Takes all answers out of the ring that are there, for [`collect`](Self::collect).
    #[cold]
    pub(crate) fn reap(&mut self) -> Result<(), Broken> {
        for _ in 0..self.ring.waiting().map_err(|_| Broken)? {
            let used = self.ring.take_used();
            // The id is the head of a chain that the device has, or a lie.
            let at = used.id as usize / 2;
            let slot = match self.progress.get_mut(at) {
                Some(slot) if used.id.is_multiple_of(2) => slot,
                _ => return Err(Broken),
            };
            match slot.state {
                State::InFlight => {
                    let (status, expected) = match (self.slots.get(at), &self.probe) {
                        (Some(slot), _) => (slots::status(slot), TAIL_SIZE),
                        (None, Some(probe)) => (probe.status(), probe.reply_len()),
                        (None, None) => return Err(Broken),
                    };
                    slot.outcome = outcome(status, used.len, expected);
                    slot.state = State::Done;
                }
                State::Abandoned => {
                    slot.state = State::Free;
                    self.busy -= 1;
                    self.abandoned.retain(|(other, _)| *other != at);
                }
                State::Free | State::Done => return Err(Broken),
            }
        }
        Ok(())
    }

    /// The answer, once: the slot is free afterwards.
    pub(crate) fn collect(&mut self, ticket: Ticket) -> Option<Outcome> {
        let slot = self.progress.get_mut(ticket.slot())?;
        if slot.state != State::Done {
            return None;
        }
        slot.state = State::Free;
        self.busy -= 1;
        Some(slot.outcome)
    }

    /// Stops waiting for `request`: the slot comes back when the device gives it back.
    pub(crate) fn abandon(&mut self, ticket: Ticket, request: Request) {
        let at = ticket.slot();
        if let Some(slot) = self.progress.get_mut(at)
            && slot.state == State::InFlight
        {
            slot.state = State::Abandoned;
            // One entry per slot: there is always room.
            self.abandoned.push((at, request));
        }
    }

    /// Whether a request that nobody waits for, and of which this is true, may yet take effect.
    pub(crate) fn may_yet(&self, matches: impl Fn(&Request) -> bool) -> bool {
        self.abandoned.iter().any(|(_, request)| matches(request))
    }

    /// The properties that the last PROBE returned.
    ///
    /// Meaningful after its outcome was collected as success, until the next PROBE.
    pub(crate) fn properties(&self) -> Vec<u8> {
        self.probe.as_ref().map_or_else(Vec::new, Probe::properties)
    }
}

/// Gives memory back.
///
/// # Safety
///
/// The device was never told of it, or was reset since, and confirmed it.
unsafe fn free_parts<P: Platform>(
    platform: &P,
    ring: Option<SplitRing>,
    memory: Option<SharedMemory>,
    probe: Option<Probe>,
) {
    if let Some(ring) = ring {
        // SAFETY: the caller vouches for the device.
        unsafe { ring.into_memory().free(platform) };
    }
    if let Some(memory) = memory {
        // SAFETY: the caller vouches for the device.
        unsafe { memory.free(platform) };
    }
    if let Some(probe) = probe {
        // SAFETY: the caller vouches for the device.
        unsafe { probe.free(platform) };
    }
}
