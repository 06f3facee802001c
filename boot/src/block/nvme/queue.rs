//! A pair of queues of an NVMe controller (NVM Express base specification 1.4, §4.1): commands one
//! way, completions the other.

use core::sync::atomic::{Ordering, fence};

use super::super::memory::Shared;
use super::super::{BlockError, Failed};
use super::registers::Controller;

/// The size of a command, and of a completion, in bytes.
pub const COMMAND: usize = 64;
pub const COMPLETION: usize = 16;

/// In a completion: identifier, phase and status (§4.6).
const STATUS: usize = 12;
/// In that word: the phase.
const PHASE: u32 = 1 << 16;
/// And above it, without the bits that mean that there is more to be asked, or to be tried: type
/// and code of the status.
const CODE: u32 = 0x7ff;

/// Completions that are taken before the controller is told: half of what it can be ahead.
const TOLD: u16 = 16;

/// A command. What is not here is zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Command {
    /// What is done.
    pub opcode: u8,
    /// The name of the command, as long as it is not complete.
    pub identifier: u16,
    /// The namespace, if it is about one.
    pub namespace: u32,
    /// The first page of the data.
    pub prp1: u64,
    /// The second page, or a list of all others, or nothing.
    pub prp2: u64,
    /// Words 10 and 11.
    pub low: u64,
    /// Word 12.
    pub high: u32,
}

/// Where the queues are in the shared memory, and how long they are.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Commands, in bytes from the start of the memory.
    pub commands: usize,
    /// Completions, likewise.
    pub completions: usize,
    /// Of each, a power of two. All but one of them can be in use.
    pub entries: u16,
}

/// A pair of queues.
pub struct Pair {
    place: Place,
    number: u16,
    /// Where the next command goes, and up to where the controller knows of them.
    tail: u16,
    shown: u16,
    /// Where the next completion is, and up to where the controller knows that they were taken.
    head: u16,
    told: u16,
    /// The phase of new completions: it changes with each turn.
    phase: u32,
}

/// A command that is complete.
pub type Complete = (u16, Result<(), Failed>);

impl Pair {
    /// Queues with a number, 0 or 1, in memory that is zero.
    pub fn new(number: u16, place: Place) -> Self {
        Self {
            place,
            number,
            tail: 0,
            shown: 0,
            head: 0,
            told: 0,
            phase: PHASE,
        }
    }

    /// Prepares a command. The caller sees to it that there is room.
    #[inline]
    pub fn push(&mut self, memory: &Shared, command: &Command) {
        let at = self.place.commands + COMMAND * usize::from(self.tail);
        let name = u64::from(command.opcode) | u64::from(command.identifier) << 16;
        let first = name | u64::from(command.namespace) << 32;
        memory.put(at, first.to_le());
        memory.put(at + 24, command.prp1.to_le());
        memory.put(at + 32, command.prp2.to_le());
        memory.put(at + 40, command.low.to_le());
        memory.put(at + 48, u64::from(command.high).to_le());
        self.tail = (self.tail + 1) % self.place.entries;
    }

    /// Shows the controller all that was prepared.
    pub fn show(&mut self, controller: &Controller) {
        if self.shown == self.tail {
            return;
        }
        self.shown = self.tail;
        // What is in the queue comes before the doorbell.
        fence(Ordering::SeqCst);
        controller.ring_tail(self.number, self.tail);
    }

    fn status(&self, memory: &Shared) -> u32 {
        let at = self.place.completions + COMPLETION * usize::from(self.head);
        u32::from_le(memory.get(at + STATUS))
    }

    /// Whether there is a completion.
    #[inline]
    pub fn is_ready(&self, memory: &Shared) -> bool {
        self.status(memory) & PHASE == self.phase
    }

    /// The next completion.
    #[inline]
    pub fn take(&mut self, memory: &Shared, controller: &Controller) -> Option<Complete> {
        let status = self.status(memory);
        if status & PHASE != self.phase {
            return None;
        }
        // Whatever else the controller wrote, it wrote before.
        fence(Ordering::Acquire);
        self.head = (self.head + 1) % self.place.entries;
        if self.head == 0 {
            self.phase ^= PHASE;
        }
        let taken = self.head.wrapping_sub(self.told) % self.place.entries;
        if taken >= TOLD.min(self.place.entries / 2) {
            self.tell(controller);
        }
        let code = status >> 17 & CODE;
        let done = match code {
            0 => Ok(()),
            code => Err(Failed(code as u16)),
        };
        Some((status as u16, done))
    }

    /// Tells the controller which completions were taken: it has room for others, and takes its
    /// interrupt back if these were all.
    pub fn tell(&mut self, controller: &Controller) {
        if self.told != self.head {
            self.told = self.head;
            controller.ring_head(self.number, self.head);
        }
    }

    /// Carries a command out, one at a time.
    ///
    /// # Errors
    ///
    /// [`BlockError`].
    pub fn execute(
        &mut self,
        memory: &Shared,
        controller: &Controller,
        command: &Command,
    ) -> Result<(), BlockError> {
        self.push(memory, command);
        self.show(controller);
        super::super::wait_for(|| self.is_ready(memory))?;
        let complete = self.take(memory, controller);
        self.tell(controller);
        match complete {
            Some((identifier, done)) if identifier == command.identifier => {
                done.map_err(BlockError::Failed)
            }
            Some((identifier, _)) => Err(BlockError::Nonsense(identifier.into())),
            None => Err(BlockError::Timeout),
        }
    }
}
