//! The request queue: takes requests apart byte by byte and answers them, as the specification
//! says or as a script says.

use super::device::Device;
use super::journal::{Note, note_told};
use super::probe::properties;
use super::queue::{Chain, VirtQueue};
use super::script::{Answer, Effect, Id, Length, When, Written};
use super::spec::{
    ATTACH_F_BYPASS, HEAD_LEN, MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, REQUEST_QUEUE, TAIL_LEN,
    feature, kind, le32, le64, readable_len, status,
};
use super::unit::{Mapping, Refusal};

/// A request, as it was found in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Attach {
        domain: u32,
        endpoint: u32,
        flags: u32,
    },
    Detach {
        domain: u32,
        endpoint: u32,
    },
    Map {
        domain: u32,
        start: u64,
        end: u64,
        phys: u64,
        flags: u32,
    },
    Unmap {
        domain: u32,
        start: u64,
        end: u64,
    },
    Probe {
        endpoint: u32,
    },
    /// A type that the specification does not know.
    Unknown(u8),
    /// Too short for its type.
    Short,
    /// Not even a head, or no place for the answer.
    Malformed,
}

/// One request that the device has taken from the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counted from 0 since the model was made.
    pub number: usize,
    /// Notifications of the request queue before and with it.
    pub kick: u64,
    pub head: u16,
    pub request: Request,
    /// What the strict personality did with it; `None` before, or if it was not asked.
    pub status: Option<u8>,
    /// A used entry with the right length and the status OK was put into the ring for it, true
    /// or not: the driver may believe in its success.
    pub told_ok: bool,
}

/// What the strict personality wants to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing, with used length 0.
    Unwritten,
    Status(u8),
    Probed(u8, Vec<u8>),
    /// The tail at the very beginning, and zeros behind it.
    Early(u8),
}

impl Outcome {
    fn status(&self) -> Option<u8> {
        match self {
            Self::Unwritten => None,
            Self::Status(status) | Self::Probed(status, _) | Self::Early(status) => Some(*status),
        }
    }
}

/// A request whose answer waits for the test.
pub struct Held {
    chain: Chain,
    answer: Answer,
    seen: usize,
    outcome: Option<Outcome>,
    /// The look at the clock at which it is answered, if not when the test says.
    due: Option<u64>,
}

/// An answer on its way into the ring.
struct Ready {
    chain: Chain,
    answer: Answer,
    outcome: Outcome,
}

impl Device {
    /// Processes at most `most` requests that the device was notified of; returns how many.
    pub fn process(&mut self, most: usize) -> usize {
        if !self.is_live() {
            return 0;
        }
        let mut batch = Vec::new();
        if let Some(queue) = &mut self.queues[usize::from(REQUEST_QUEUE)] {
            while batch.len() < most {
                let Some(chain) = queue.pop(&self.ram, &self.violations) else {
                    break;
                };
                batch.push(chain);
            }
        }
        let taken = batch.len();
        let (execution, answers) = self.knobs.order.positions(taken);
        let mut ready: Vec<Option<Ready>> = (0..taken).map(|_| None).collect();
        for at in execution {
            ready[at] = self.treat(batch[at].clone());
            if !self.is_live() {
                return taken;
            }
        }
        for at in answers {
            if let Some(ready) = ready[at].take() {
                self.put(ready);
            }
        }
        taken
    }

    /// Answers that wait for the test.
    pub fn waiting(&self) -> usize {
        self.held.iter().filter(|held| held.due.is_none()).count()
    }

    /// Puts the first held answers into the ring.
    pub fn release(&mut self, most: usize) -> usize {
        let count = most.min(self.waiting());
        (0..count).for_each(|_| self.release_one(0));
        count
    }

    /// Puts the answers into the ring whose time has come.
    pub(super) fn release_due(&mut self) {
        let now = self.ticks;
        let come = |held: &Held| held.due.is_some_and(|due| due <= now);
        while let Some(at) = self.held.iter().position(come) {
            let held = self.held.remove(at);
            self.answer(held);
        }
    }

    /// Puts one held answer into the ring, out of turn.
    pub fn release_one(&mut self, index: usize) {
        let mut places = (0..self.held.len()).filter(|at| self.held[*at].due.is_none());
        if let Some(at) = places.nth(index) {
            let held = self.held.remove(at);
            self.answer(held);
        }
    }

    fn answer(&mut self, held: Held) {
        let outcome = match held.outcome {
            Some(outcome) => outcome,
            None => self.carry_out(&held.chain, held.seen),
        };
        self.put(Ready {
            chain: held.chain,
            answer: held.answer,
            outcome,
        });
    }

    fn treat(&mut self, chain: Chain) -> Option<Ready> {
        let request = self.parse(&chain);
        let number = self.seen.len();
        let seen = Seen {
            number,
            kick: self.kicks(REQUEST_QUEUE),
            head: chain.head,
            request,
            status: None,
            told_ok: false,
        };
        self.seen.push(seen);
        self.note(Note::Seen(number));
        let unreadable = request == Request::Malformed || chain.odd;
        if unreadable && self.manners.bad_chain_breaks {
            self.break_down();
            return None;
        }
        let mut answer = match &mut self.script {
            Some(script) => script(&seen),
            None => Answer::honest(),
        };
        let mut due = None;
        let may_take_time = matches!(request, Request::Unmap { .. } | Request::Detach { .. });
        if self.manners.slow > 0 && may_take_time && answer == Answer::honest() {
            due = Some(self.ticks + self.manners.slow);
        }
        self.lied |= !answer.is_true();
        if answer.needs_reset {
            if answer.effect == Effect::AtOnce {
                self.carry_out(&chain, number);
            }
            self.break_down();
            return None;
        }
        if due.is_some() {
            answer.when = When::Held;
        }
        let outcome = match (answer.effect, answer.when) {
            (Effect::AtOnce, _) => Some(self.carry_out(&chain, number)),
            (Effect::WithAnswer, When::Now) => Some(self.carry_out(&chain, number)),
            (Effect::WithAnswer, _) => None,
            (Effect::None, _) => Some(match request {
                Request::Probe { .. } => {
                    Outcome::Probed(status::OK, vec![0; self.config.probe_size as usize])
                }
                _ => Outcome::Status(status::OK),
            }),
        };
        match answer.when {
            When::Never => None,
            When::Held => {
                self.held.push(Held {
                    chain,
                    answer,
                    seen: number,
                    outcome,
                    due,
                });
                None
            }
            When::Now => Some(Ready {
                chain,
                answer,
                outcome: outcome.unwrap_or(Outcome::Unwritten),
            }),
        }
    }

    /// Reads the device-readable part and says what is wrong with it.
    fn parse(&self, chain: &Chain) -> Request {
        if chain.broken {
            return Request::Malformed;
        }
        let wrong = |rule, what: String| self.violations.record(rule, what);
        if self.knobs.one_descriptor_per_half
            && (chain.readable.len() != 1 || chain.writable.len() != 1)
        {
            wrong(
                "MODEL",
                format!(
                    "{} readable and {} writable descriptors",
                    chain.readable.len(),
                    chain.writable.len()
                ),
            );
        }
        let bytes = chain.readable_bytes(&self.ram);
        let Some(&[kind, ref reserved @ ..]) = bytes.get(..HEAD_LEN) else {
            wrong("DN-OPS-1", format!("a head of {} bytes", bytes.len()));
            return Request::Malformed;
        };
        if reserved != [0; 3] {
            wrong("DN-OPS-1", format!("head.reserved {reserved:x?}"));
        }
        let (expected, rule, padding) = match kind {
            kind::ATTACH => (readable_len::ATTACH, "DN-ATTACH-1", 16..20),
            kind::DETACH => (readable_len::DETACH, "DN-DETACH-1", 12..20),
            kind::MAP => (readable_len::MAP, "DN-MAP-1", 0..0),
            kind::UNMAP => (readable_len::UNMAP, "DN-UNMAP-1", 24..28),
            kind::PROBE => (readable_len::PROBE, "DN-PROBE-2", 8..72),
            other => {
                wrong("GV-FEAT-2", format!("a request of type {other}"));
                return Request::Unknown(other);
            }
        };
        if bytes.len() != expected {
            wrong(
                "MODEL",
                format!("type {kind}: {} bytes, not {expected}", bytes.len()),
            );
        }
        let place = chain.writable_len();
        if place < TAIL_LEN {
            wrong("MODEL", format!("type {kind}: {place} writable bytes"));
            return Request::Malformed;
        }
        if bytes.len() < expected {
            return Request::Short;
        }
        if bytes[padding].iter().any(|byte| *byte != 0) {
            wrong(rule, format!("type {kind}: reserved bytes not zero"));
        }
        let writable = match kind {
            kind::PROBE => (self.config.probe_size as usize).saturating_add(TAIL_LEN),
            _ => TAIL_LEN,
        };
        if place != writable {
            let rule = if kind == kind::PROBE {
                "DN-PROBE-1"
            } else {
                "MODEL"
            };
            wrong(
                rule,
                format!("type {kind}: {place} writable bytes, not {writable}"),
            );
        }
        let exact = chain.readable.len() == 1
            && chain.writable.len() == 1
            && (bytes.len(), place) == (expected, writable);
        if self.manners.exact_descriptors && !exact {
            return Request::Malformed;
        }
        // A debugging read of a writable buffer, which a device MAY do: an old status that says
        // OK must not be lying there (GV-VQ-5).
        let tail = chain.writable_bytes(&self.ram);
        if tail.get(place - TAIL_LEN) == Some(&status::OK) {
            wrong("GV-VQ-5", format!("type {kind}: tail.status not poisoned"));
        }
        take_apart(kind, &bytes).unwrap_or(Request::Malformed)
    }

    /// What the strict personality does.
    fn carry_out(&mut self, chain: &Chain, number: usize) -> Outcome {
        let Some(seen) = self.seen.get(number).copied() else {
            return Outcome::Unwritten;
        };
        let outcome = match self.execute(seen.request, chain) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                let known = refusal.rule.filter(|_| !self.lied);
                if let Some(rule) = known {
                    let what = format!("{:x?} refused: {}", seen.request, refusal.why);
                    self.violations.record(rule, what);
                }
                match seen.request {
                    Request::Probe { .. } => {
                        let room = chain.writable_len().saturating_sub(TAIL_LEN);
                        Outcome::Probed(refusal.status, vec![0; room])
                    }
                    _ => Outcome::Status(refusal.status),
                }
            }
        };
        if let Some(seen) = self.seen.get_mut(number) {
            seen.status = outcome.status();
        }
        outcome
    }

    fn execute(&mut self, request: Request, chain: &Chain) -> Result<Outcome, Refusal> {
        let map_unmap = self.negotiated(feature::MAP_UNMAP);
        let lenient = self.manners.ignores_negotiation;
        let status_or_nothing = |status: Option<u8>| match status {
            Some(status) => Ok(Outcome::Status(status)),
            None => Ok(Outcome::Unwritten),
        };
        match request {
            Request::Malformed => return Ok(Outcome::Unwritten),
            Request::Unknown(_) => return status_or_nothing(self.manners.unknown_type),
            Request::Short => return status_or_nothing(self.manners.short_body),
            Request::Probe { .. } => {}
            _ if self.manners.probes_only => return Ok(Outcome::Status(status::UNSUPP)),
            _ => {}
        }
        match request {
            Request::Map { .. } | Request::Unmap { .. } if !map_unmap => {
                self.violations
                    .record("DN-MAP-T1", "MAP_UNMAP not accepted");
                if !lenient {
                    return Ok(Outcome::Unwritten);
                }
            }
            Request::Probe { .. } if !self.negotiated(feature::PROBE) => {
                self.violations.record("DV-PRB-3", "PROBE not accepted");
                if !lenient {
                    return Ok(Outcome::Unwritten);
                }
            }
            _ => {}
        }
        match request {
            Request::Attach {
                domain,
                endpoint,
                flags,
            } => {
                let bytes = chain.readable_bytes(&self.ram);
                let reserved = bytes.get(16..20).is_some_and(|r| r != [0; 4]);
                if reserved && !self.manners.takes_everything {
                    return Err(Refusal::honest(status::INVAL, "reserved bytes"));
                }
                let known = if self.negotiated(feature::BYPASS_CONFIG) {
                    ATTACH_F_BYPASS
                } else {
                    0
                };
                if flags & !known != 0 {
                    let why = "flags that the device does not know";
                    let refusal = Refusal::broken(status::INVAL, "DN-ATTACH-T1", why);
                    match flags & !ATTACH_F_BYPASS {
                        0 => self.refuse_or_note(refusal)?,
                        _ => return Err(refusal),
                    }
                }
                self.check_domain(domain)?;
                let known = self.unit.endpoints.get(&endpoint);
                let unprobed = known.is_some_and(|found| !found.probed);
                if unprobed && self.negotiated(feature::PROBE) && !self.lied {
                    let what = format!("ATTACH of {endpoint:#x} before its PROBE");
                    self.violations.record("DN-INIT-2", what);
                }
                let bypass = flags & ATTACH_F_BYPASS != 0;
                self.unit.attach(domain, endpoint, bypass)?;
            }
            Request::Detach { domain, endpoint } => {
                self.check_domain(domain)?;
                self.unit.detach(domain, endpoint)?;
            }
            Request::Map {
                domain,
                start,
                end,
                phys,
                flags,
            } => {
                let mapping = Mapping {
                    start,
                    end,
                    phys,
                    flags,
                };
                if let (0, u64::MAX, Some(status)) = (start, end, self.manners.whole_space) {
                    return Err(Refusal::honest(status, "the whole space"));
                }
                self.check_mapping(&mapping)?;
                self.check_domain(domain)?;
                self.check_reserved(domain, &mapping)?;
                self.unit.map(domain, mapping)?;
            }
            Request::Unmap { domain, start, end } => {
                if end < start {
                    let why = "an inverted range";
                    return Err(Refusal::broken(status::INVAL, "DN-UNMAP-2", why));
                }
                let bytes = chain.readable_bytes(&self.ram);
                let reserved = bytes.get(24..28).is_some_and(|r| r != [0; 4]);
                if reserved && !self.manners.takes_everything {
                    return Err(Refusal::honest(status::INVAL, "reserved bytes"));
                }
                self.check_input(start, end)?;
                self.check_domain(domain)?;
                self.unit.unmap(domain, start, end)?;
            }
            Request::Probe { endpoint } => {
                if self.unit.quirks.any_endpoint {
                    self.unit.endpoints.entry(endpoint).or_default();
                }
                let Some(found) = self.unit.endpoints.get_mut(&endpoint) else {
                    return Err(Refusal::honest(status::NOENT, "no such endpoint"));
                };
                let mut list = properties(&found.regions);
                let room = self.config.probe_size as usize;
                let given = chain.writable_len().saturating_sub(TAIL_LEN);
                if given < room
                    && let Some(status) = self.manners.short_probe
                {
                    return Ok(Outcome::Early(status));
                }
                if list.len() > room || given < room {
                    return Err(Refusal::honest(status::INVAL, "no room for the properties"));
                }
                found.probed = true;
                list.resize(given, 0);
                return Ok(Outcome::Probed(status::OK, list));
            }
            Request::Unknown(_) | Request::Short | Request::Malformed => {}
        }
        Ok(Outcome::Status(status::OK))
    }

    fn check_domain(&self, domain: u32) -> Result<(), Refusal> {
        let (first, last) = self.config.domain_range;
        if self.offers(feature::DOMAIN_RANGE) && !(first..=last).contains(&domain) {
            let why = "a domain id outside domain_range";
            return Err(Refusal::broken(status::RANGE, "DN-OPS-5", why));
        }
        Ok(())
    }

    fn check_input(&self, start: u64, end: u64) -> Result<(), Refusal> {
        let (first, last) = self.config.input_range;
        if self.offers(feature::INPUT_RANGE) && (start < first || end > last) {
            let why = "outside input_range";
            self.refuse_or_note(Refusal::broken(status::RANGE, "DN-OPS-4", why))?;
        }
        Ok(())
    }

    /// Refuses what a careful driver does not send; a device that takes everything takes it, and
    /// only notes what was wrong.
    fn refuse_or_note(&self, refusal: Refusal) -> Result<(), Refusal> {
        if !self.manners.takes_everything {
            return Err(refusal);
        }
        if let Some(rule) = refusal.rule.filter(|_| !self.lied) {
            let what = format!("taken all the same: {}", refusal.why);
            self.violations.record(rule, what);
        }
        Ok(())
    }

    fn check_reserved(&self, domain: u32, mapping: &Mapping) -> Result<(), Refusal> {
        if self.unit.is_reserved(domain, mapping) {
            let why = "over a reserved region";
            self.refuse_or_note(Refusal::broken(status::INVAL, "DN-RESV-1", why))?;
        }
        Ok(())
    }

    fn check_mapping(&self, mapping: &Mapping) -> Result<(), Refusal> {
        let broken = |status, rule, why| self.refuse_or_note(Refusal::broken(status, rule, why));
        let mut known = MAP_F_READ | MAP_F_WRITE;
        if self.negotiated(feature::MMIO) {
            known |= MAP_F_MMIO;
        }
        if mapping.flags & !known & MAP_F_MMIO != 0 {
            broken(status::INVAL, "DN-MAP-7", "MMIO without the feature")?;
            known |= MAP_F_MMIO;
        }
        if mapping.flags & !known != 0 {
            let why = "undefined flags";
            return Err(Refusal::broken(status::INVAL, "DN-MAP-1", why));
        }
        if mapping.end <= mapping.start {
            broken(status::INVAL, "DN-MAP-3", "virt_end not above virt_start")?;
        }
        self.check_input(mapping.start, mapping.end)?;
        let granule = 1u64 << self.config.page_size_mask.trailing_zeros().min(63);
        let aligned = mapping.start.is_multiple_of(granule)
            && mapping.phys.is_multiple_of(granule)
            && mapping.end % granule == granule - 1;
        if !aligned {
            broken(status::RANGE, "DV-MAP-1", "not aligned to the granule")?;
        }
        let len = mapping.end.wrapping_sub(mapping.start);
        if mapping.phys.checked_add(len).is_none() {
            broken(status::RANGE, "DN-MAP-T1", "the physical range wraps")?;
        }
        Ok(())
    }

    /// Writes an answer and its used ring entries.
    fn put(&mut self, ready: Ready) {
        let Ready {
            chain,
            answer,
            outcome,
        } = ready;
        let room = chain.writable_len();
        let mut full = match &outcome {
            Outcome::Unwritten => Vec::new(),
            Outcome::Status(status) | Outcome::Early(status) => vec![*status],
            Outcome::Probed(status, list) => {
                let mut bytes = list.clone();
                bytes.resize(room.saturating_sub(TAIL_LEN), 0);
                bytes.push(*status);
                bytes
            }
        };
        if !full.is_empty() {
            full.extend_from_slice(&answer.reserved);
        }
        let tail_at = full.len().saturating_sub(TAIL_LEN);
        let refused = outcome.status().is_some_and(|s| s != status::OK);
        let mut honest_len = full.len() as u32;
        if matches!(outcome, Outcome::Early(_)) {
            full.resize(room, 0);
        }
        match answer.written {
            Written::Honest => {
                if refused && self.knobs.refusals_have_length_zero {
                    honest_len = 0;
                }
            }
            Written::Nothing => {
                full.clear();
                honest_len = 0;
            }
            Written::Status(status) => {
                if let Some(byte) = full.get_mut(tail_at) {
                    *byte = status;
                }
            }
            Written::Bytes(bytes) => {
                full = bytes;
                honest_len = full.len().min(room) as u32;
            }
            Written::Properties(mut list) => {
                list.resize(tail_at, 0);
                full.splice(..tail_at, list);
            }
        }
        chain.write(&self.ram, &full);
        let Some(queue) = &mut self.queues[usize::from(REQUEST_QUEUE)] else {
            return;
        };
        if let Some(len) = queue.settled.remove(&chain.head) {
            note_told(&mut self.seen, &mut self.journal, &chain, &self.ram, len);
        }
        for entry in &answer.entries {
            let other = queue.in_flight.keys().copied().find(|h| *h != chain.head);
            let id = match entry.id {
                Id::Own => u32::from(chain.head),
                Id::Raw(id) => id,
                Id::Idle => queue.idle_head(&self.ram).map_or(u32::MAX, u32::from),
                Id::OwnTail => u32::from(chain.head) ^ 1,
                Id::Other => u32::from(other.unwrap_or(chain.head)),
            };
            let len = match entry.len {
                Length::True => honest_len,
                Length::Raw(len) => len,
            };
            if let Some(named) = in_flight(queue, id) {
                note_told(&mut self.seen, &mut self.journal, named, &self.ram, len);
            }
            queue.strayed |= id != u32::from(chain.head);
            if entry.id == Id::Own && answer.entries.len() == 1 {
                queue.give_back(&self.ram, chain.head, len);
            } else {
                queue.put_raw(&self.ram, id, len);
            }
        }
        if answer.jump != 0 {
            queue.strayed = true;
            for (id, len) in queue.stale(&self.ram, answer.jump) {
                if let Some(named) = in_flight(queue, id) {
                    note_told(&mut self.seen, &mut self.journal, named, &self.ram, len);
                }
            }
            queue.jump(&self.ram, answer.jump);
        }
        if queue.wants_interrupt(&self.ram) {
            self.registers.isr |= 1;
        }
    }
}

fn in_flight(queue: &VirtQueue, id: u32) -> Option<&Chain> {
    queue.in_flight.get(&u16::try_from(id).ok()?)
}

fn take_apart(kind: u8, bytes: &[u8]) -> Option<Request> {
    Some(match kind {
        kind::ATTACH => Request::Attach {
            domain: le32(bytes, 4)?,
            endpoint: le32(bytes, 8)?,
            flags: le32(bytes, 12)?,
        },
        kind::DETACH => Request::Detach {
            domain: le32(bytes, 4)?,
            endpoint: le32(bytes, 8)?,
        },
        kind::MAP => Request::Map {
            domain: le32(bytes, 4)?,
            start: le64(bytes, 8)?,
            end: le64(bytes, 16)?,
            phys: le64(bytes, 24)?,
            flags: le32(bytes, 32)?,
        },
        kind::UNMAP => Request::Unmap {
            domain: le32(bytes, 4)?,
            start: le64(bytes, 8)?,
            end: le64(bytes, 16)?,
        },
        kind::PROBE => Request::Probe {
            endpoint: le32(bytes, 4)?,
        },
        _ => return None,
    })
}
