//! The request queue: fixed slots, many in flight, answers in any order (§5.13.6).
//!
//! A slot is two descriptors, linked once: the request, which the device reads, and its tail,
//! which it writes. Submitting writes the body, poisons the tail and publishes the slot.

use alloc::vec::Vec;
use core::num::NonZeroU16;

use thiserror::Error;

use super::memory::{Place, SharedMemory};
use super::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, SplitRing, Used};
use crate::platform::Platform;
use crate::wire::{REQUEST_WORDS, Request, STATUS_OK, Status, TAIL_SIZE, parse_status};

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
    #[inline]
    fn of(slot: usize) -> Option<Self> {
        NonZeroU16::new((slot as u16).wrapping_add(1)).map(Self)
    }

    #[inline]
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

/// One slot: its state, and where its parts are in shared memory.
#[derive(Debug)]
struct Slot {
    body: Place<[u64; SLOT_WORDS]>,
    /// The length in the first descriptor.
    len: Place<u32>,
    state: State,
    /// The answer, when it is done.
    outcome: Outcome,
}

impl Slot {
    /// Writes a request.
    #[inline(always)]
    fn fill(&self, request: &Request) {
        // Copies, because the compiler cannot know that the writes to shared memory do not change
        // the slot itself.
        let Self { body, len, .. } = *self;
        let encoded = request.encode();
        let [a, b, c, d, e] = encoded.words;
        body.write::<0>(a);
        body.write::<1>(b);
        body.write::<2>(c);
        body.write::<3>(d);
        body.write::<4>(e);
        body.write::<TAIL>(POISON.into());
        len.write(encoded.len);
    }
}

pub(crate) struct RequestQueue {
    ring: SplitRing,
    memory: SharedMemory,
    slots: Vec<Slot>,
    /// The slot that is looked at first when one is needed.
    next: usize,
    /// Slots for everything but PROBE: the first ones.
    usable: usize,
    /// What was abandoned, by slot. Has room for all.
    abandoned: Vec<(usize, Request)>,
    probe: Option<Probe>,
}

/// Whether a used element is the answer of a slot, which is that all is well.
#[inline(always)]
fn answered_well(used: Used, at: usize, slot: &Slot) -> bool {
    let well = used.len == TAIL_SIZE && slot.body.read::<TAIL>() as u8 == STATUS_OK;
    well && used.id == 2 * at as u32
}

/// The reply to PROBE, whose slot is the last one.
struct Probe {
    reply: SharedMemory,
    /// Of the properties, in bytes.
    size: u32,
    status: Place<u8>,
}

/// Requests in slots that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    first: usize,
    sent: usize,
    /// Some requests were not sent, for want of slots that follow each other.
    pub(crate) left: bool,
}

impl Run {
    /// Requests that were all left.
    pub(crate) const NONE: Self = Self {
        first: 0,
        sent: 0,
        left: true,
    };

    #[inline]
    fn new(first: usize, sent: usize, left: bool) -> Self {
        Self { first, sent, left }
    }

    /// How many requests were sent.
    #[inline]
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// The slots.
    #[inline]
    fn slots(&self) -> core::ops::Range<usize> {
        self.first..self.first + self.sent
    }

    /// The ticket of one of its requests.
    pub(crate) fn ticket(&self, index: usize) -> Option<Ticket> {
        Ticket::of(self.first + index)
    }
}

impl RequestQueue {
    /// A queue over `size` descriptors, a power of two from 4; `probe_size` in bytes.
    pub(crate) fn new<P: Platform>(
        platform: &P,
        size: u16,
        probe_size: Option<u32>,
    ) -> Option<Self> {
        let count = usize::from(size / 2);
        let mut slots = Vec::new();
        slots.try_reserve_exact(count).ok()?;
        let mut abandoned = Vec::new();
        abandoned.try_reserve_exact(count).ok()?;
        let ring = SplitRing::new(platform, size)?;
        let memory = SharedMemory::new(platform, SLOT_SIZE * count);
        let probe = probe_size.map(|size| {
            let reply = SharedMemory::new(platform, (size + TAIL_SIZE) as usize)?;
            // SAFETY: kept beside the memory, and gone when that is freed.
            match unsafe { reply.place(size as usize) } {
                Some(status) => Some(Probe {
                    reply,
                    size,
                    status,
                }),
                None => {
                    // SAFETY: the device was not told of it.
                    unsafe { reply.free(platform) };
                    None
                }
            }
        });
        let mut queue = match (memory, probe) {
            (Some(memory), None) => Self::empty(ring, memory, slots, abandoned, None),
            (Some(memory), Some(Some(probe))) => {
                Self::empty(ring, memory, slots, abandoned, Some(probe))
            }
            (memory, probe) => {
                // SAFETY: the device was not told of the ring.
                unsafe { ring.into_memory().free(platform) };
                if let Some(memory) = memory {
                    // SAFETY: nor of the slots.
                    unsafe { memory.free(platform) };
                }
                if let Some(Some(probe)) = probe {
                    // SAFETY: nor of the reply.
                    unsafe { probe.reply.free(platform) };
                }
                return None;
            }
        };
        if queue.link(size / 2).is_none() {
            // SAFETY: the device was not told of it.
            unsafe { queue.free(platform) };
            return None;
        }
        queue.ring.suppress_interrupts();
        Some(queue)
    }

    fn empty(
        ring: SplitRing,
        memory: SharedMemory,
        slots: Vec<Slot>,
        abandoned: Vec<(usize, Request)>,
        probe: Option<Probe>,
    ) -> Self {
        Self {
            ring,
            memory,
            slots,
            next: 0,
            usable: 0,
            abandoned,
            probe,
        }
    }

    /// Makes the slots, and writes their descriptors.
    fn link(&mut self, count: u16) -> Option<()> {
        for slot in 0..count {
            let at = SLOT_SIZE * usize::from(slot);
            let reply = match &self.probe {
                Some(probe) if slot + 1 == count => (probe.reply.phys(0), probe.size + TAIL_SIZE),
                _ => {
                    self.usable += 1;
                    (self.memory.phys(at + 8 * TAIL), TAIL_SIZE)
                }
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
                    address: reply.0,
                    len: reply.1,
                    flags: DESC_F_WRITE,
                    next: 0,
                },
            );
            self.slots.push(Slot {
                // SAFETY: the place is kept beside its memory, and is gone when that is freed.
                body: unsafe { self.memory.place(at) }?,
                // SAFETY: the ring is freed together with the slots.
                len: unsafe { self.ring.len_place(2 * slot) }?,
                state: State::Free,
                outcome: Err(RequestError::Unconfirmed),
            });
        }
        Some(())
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

    /// Whether all answers were taken out of the ring.
    #[inline(always)]
    pub(crate) fn is_quiet(&self) -> bool {
        self.ring.is_quiet()
    }

    /// Makes up to `most` requests available to the device, in slots that follow each other. Those
    /// that come after a PROBE, or find no such slot, are left.
    ///
    /// Slots come back in the order in which they were taken, as a rule: this is the fast way.
    /// [`reap_run`](Self::reap_run) must follow before anybody else looks at the queue.
    #[inline(always)]
    pub(crate) fn send_run(&mut self, requests: impl Iterator<Item = Request>, most: usize) -> Run {
        let mut first = self.next;
        if self.usable - first < most {
            first = 0;
        }
        let mut ring = self.ring.preparing();
        let mut left = false;
        let mut at = first;
        for request in requests {
            left = true;
            let Some(slot) = self.slots.get(at) else {
                break;
            };
            if slot.state != State::Free || at >= self.usable || request.is_probe() {
                break;
            }
            left = false;
            slot.fill(&request);
            ring.prepare(2 * at as u16);
            at += 1;
        }
        self.next = at;
        self.ring.publish_prepared(&ring);
        Run::new(first, at - first, left)
    }

    /// As [`send_run`](Self::send_run), for so few that they are sent all or not at all. Returns
    /// the first slot.
    #[inline(always)]
    pub(crate) fn send_few<const N: usize>(&mut self, requests: [Request; N]) -> Option<usize> {
        if requests.iter().any(Request::is_probe) {
            return None;
        }
        let mut first = self.next;
        if self.usable - first < N {
            first = 0;
        }
        let slots = self.slots.get(first..first + N)?;
        if first + N > self.usable || slots.iter().any(|slot| slot.state != State::Free) {
            return None;
        }
        let mut ring = self.ring.preparing();
        let heads = (2 * first as u16..).step_by(2);
        for ((request, slot), head) in requests.into_iter().zip(slots).zip(heads) {
            slot.fill(&request);
            ring.prepare(head);
        }
        self.next = first + N;
        self.ring.publish_prepared(&ring);
        Some(first)
    }

    /// As [`reap_run`](Self::reap_run), for what [`send_few`](Self::send_few) has sent: whether all
    /// is well, or what there is instead.
    #[inline(always)]
    pub(crate) fn reap_few<const N: usize>(&mut self, first: usize) -> Result<(), (Run, usize)> {
        let mut taken = 0;
        if self.ring.is_all_used()
            && let Some(slots) = self.slots.get(first..first + N)
        {
            let mut ring = self.ring.consuming();
            for (at, slot) in (first..).zip(slots) {
                if !answered_well(ring.peek(), at, slot) {
                    break;
                }
                ring.consume();
                taken += 1;
            }
            let consumed = ring.consumed();
            self.ring.set_consumed(consumed);
        }
        if taken == N {
            return Ok(());
        }
        let run = Run::new(first, N, false);
        self.note_in_flight(run, taken);
        Err((run, taken))
    }

    /// Takes the answers for a run out of the ring that was sent just now, as long as they come in
    /// its order and say that all is well. Returns how many; the others are in flight.
    #[inline(always)]
    pub(crate) fn reap_run(&mut self, run: Run) -> usize {
        let mut taken = 0;
        if self.ring.is_all_used() {
            let mut ring = self.ring.consuming();
            let slots = self.slots.get(run.slots()).unwrap_or_default();
            for (at, slot) in run.slots().zip(slots) {
                if !answered_well(ring.peek(), at, slot) {
                    break;
                }
                ring.consume();
                taken += 1;
            }
            let consumed = ring.consumed();
            self.ring.set_consumed(consumed);
        }
        if taken < run.sent() {
            self.note_in_flight(run, taken);
        }
        taken
    }

    /// Notes that the requests of a run are in flight, but for the first ones.
    #[cold]
    #[inline(never)]
    fn note_in_flight(&mut self, run: Run, answered: usize) {
        let slots = self.slots.get_mut(run.slots()).unwrap_or_default();
        for slot in slots.iter_mut().skip(answered) {
            slot.state = State::InFlight;
        }
    }

    /// Writes one request into any slot; `None` when none is free.
    #[cold]
    pub(crate) fn prepare_one(&mut self, request: &Request) -> Option<Ticket> {
        let at = if request.is_probe() {
            self.prepare_probe()?
        } else {
            let slots = self.slots.get(..self.usable)?;
            slots.iter().position(|slot| slot.state == State::Free)?
        };
        let slot = self.slots.get_mut(at)?;
        slot.fill(request);
        slot.state = State::InFlight;
        self.ring.prepare(2 * at as u16);
        Ticket::of(at)
    }

    /// Gets the slot for PROBE ready, but for the first words of the request, if it is free.
    #[cold]
    fn prepare_probe(&self) -> Option<usize> {
        let probe = self.probe.as_ref()?;
        let slot = self.slots.get(self.usable)?;
        if slot.state != State::Free {
            return None;
        }
        slot.body.write::<5>(0);
        slot.body.write::<6>(0);
        slot.body.write::<7>(0);
        slot.body.write::<8>(0);
        let len = (probe.size + TAIL_SIZE) as usize;
        probe.reply.fill(0, len, POISON);
        Some(self.usable)
    }

    /// Takes all answers out of the ring that are there, for [`collect`](Self::collect).
    #[cold]
    pub(crate) fn reap(&mut self) -> Result<(), Broken> {
        for _ in 0..self.ring.waiting().map_err(|_| Broken)? {
            let used = self.ring.take_used();
            // The id is the head of a chain that the device has, or a lie.
            let at = used.id as usize / 2;
            let slot = match self.slots.get_mut(at) {
                Some(slot) if used.id.is_multiple_of(2) => slot,
                _ => return Err(Broken),
            };
            match slot.state {
                State::InFlight => {
                    let body = slot.body;
                    let (status, expected) = match &self.probe {
                        Some(probe) if at >= self.usable => {
                            (probe.status.read(), probe.size + TAIL_SIZE)
                        }
                        _ => (body.read::<TAIL>() as u8, TAIL_SIZE),
                    };
                    slot.outcome = outcome(status, used.len, expected);
                    slot.state = State::Done;
                }
                State::Abandoned => {
                    slot.state = State::Free;
                    self.abandoned.retain(|(other, _)| *other != at);
                }
                State::Free | State::Done => return Err(Broken),
            }
        }
        Ok(())
    }

    /// The answer, once: the slot is free afterwards.
    pub(crate) fn collect(&mut self, ticket: Ticket) -> Option<Outcome> {
        let slot = self.slots.get_mut(ticket.slot())?;
        if slot.state != State::Done {
            return None;
        }
        slot.state = State::Free;
        Some(slot.outcome)
    }

    /// Stops waiting for `request`: the slot comes back when the device gives it back.
    pub(crate) fn abandon(&mut self, ticket: Ticket, request: Request) {
        let at = ticket.slot();
        if let Some(slot) = self.slots.get_mut(at)
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
        let Some(probe) = &self.probe else {
            return Vec::new();
        };
        let mut list = alloc::vec![0; probe.size as usize];
        probe.reply.read_bytes(0, &mut list);
        list
    }
}
