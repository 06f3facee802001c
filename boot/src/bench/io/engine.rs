//! Does I/Os: some at once, one after the other has finished.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::case::{Case, DEEP, Pattern};
use super::way::{IoError, Segments, Way};
use crate::block::{BlockDevice, Finished};
use crate::clock::Deadline;

/// The longest wait for the disk.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at the disk between two looks at the clock.
pub const LOOKS: u32 = 256;

/// Who watches I/Os.
pub trait Watch {
    /// The next I/O of a slot begins at a byte of the disk.
    fn begins<W: Way>(&mut self, _: &mut W, _: usize, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    /// The last I/O of a slot, at a byte of the disk, has ended.
    fn ended<W: Way>(&mut self, _: &mut W, _: usize, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    /// Nothing is finished, and nothing is left to do: passes some time.
    fn idle(&mut self) {
        core::hint::spin_loop();
    }
}

/// Nobody.
pub struct Nobody;

impl Watch for Nobody {}

/// Where I/Os go: a part of a disk, in the order of a pattern.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pattern: Pattern,
    size: u64,
    /// The first byte, and how many I/Os have room.
    first: u64,
    room: u64,
    state: u64,
}

impl Places {
    /// In `bytes` bytes from `first` on.
    pub fn new(case: &Case, first: u64, bytes: u64) -> Self {
        let size = case.size as u64;
        Self {
            pattern: case.pattern,
            size,
            first,
            room: (bytes / size).max(1),
            state: 0,
        }
    }

    #[inline]
    fn next(&mut self) -> u64 {
        let number = match self.pattern {
            Pattern::Sequential => {
                let number = self.state;
                self.state = if number + 1 < self.room {
                    number + 1
                } else {
                    0
                };
                number
            }
            Pattern::Random => {
                // A generator of Knuth's; the upper half is random enough.
                let next = self.state.wrapping_mul(6_364_136_223_846_793_005);
                self.state = next.wrapping_add(1_442_695_040_888_963_407);
                ((self.state >> 32) * self.room) >> 32
            }
        };
        self.first + number * self.size
    }
}

/// A disk at work on a case.
pub struct Engine<'a, D> {
    disk: &'a mut D,
    case: Case,
    places: Places,
    /// The slot of each ticket.
    slots: Vec<usize>,
    /// Where the I/O of each slot is.
    at: [u64; DEEP],
    segments: Segments,
    /// What begins an I/O on the disk.
    block: u64,
}

impl<'a, D: BlockDevice> Engine<'a, D> {
    /// I/Os of a case at some places. Allocates.
    pub fn new(disk: &'a mut D, case: Case, places: Places) -> Self {
        Self {
            slots: vec![0; disk.depth()],
            block: disk.block_size() as u64,
            disk,
            case,
            places,
            at: [0; DEEP],
            segments: Segments::new(),
        }
    }

    /// Does so many I/Os, and waits for all of them.
    #[inline(never)]
    pub fn run<W: Way, O: Watch>(
        &mut self,
        way: &mut W,
        watch: &mut O,
        ios: usize,
    ) -> Result<(), IoError> {
        let mut begun = self.case.depth.min(ios);
        for slot in 0..begun {
            let at = self.places.next();
            watch.begins(way, slot, at)?;
            way.begin(slot, &mut self.segments)?;
            self.offer(slot, at)?;
        }
        let mut to_submit = true;
        let mut ended = 0;
        while ended < ios {
            let (ticket, result) = match self.disk.poll()? {
                Some(finished) => finished,
                None => {
                    if to_submit {
                        self.disk.submit();
                        to_submit = false;
                    }
                    self.wait(watch)?
                }
            };
            result.map_err(IoError::Failed)?;
            let slot = *self.slots.get(ticket.number()).ok_or(IoError::Order)?;
            let old = *self.at.get(slot).ok_or(IoError::Order)?;
            if begun < ios {
                let at = self.places.next();
                watch.begins(way, slot, at)?;
                // SAFETY: the disk has answered the only request of the slot.
                unsafe { way.again(slot, &mut self.segments) }?;
                watch.ended(way, slot, old)?;
                self.offer(slot, at)?;
                begun += 1;
                to_submit = true;
            } else {
                // SAFETY: as above.
                unsafe { way.end(slot) }?;
                watch.ended(way, slot, old)?;
            }
            ended += 1;
        }
        Ok(())
    }

    #[inline]
    fn offer(&mut self, slot: usize, at: u64) -> Result<(), IoError> {
        let blocks = self.case.size / self.block as usize;
        let list = self.segments.list();
        let ticket = self
            .disk
            .offer(self.case.operation, at / self.block, blocks, list)?;
        *self.slots.get_mut(ticket.number()).ok_or(IoError::Order)? = slot;
        *self.at.get_mut(slot).ok_or(IoError::Order)? = at;
        Ok(())
    }

    fn wait<O: Watch>(&mut self, watch: &mut O) -> Result<Finished, IoError> {
        if let Some(finished) = look(self.disk, watch, LOOKS)? {
            return Ok(finished);
        }
        let deadline = Deadline::after(TIMEOUT);
        loop {
            if let Some(finished) = look(self.disk, watch, LOOKS)? {
                return Ok(finished);
            }
            if deadline.passed() {
                return Err(IoError::Timeout);
            }
        }
    }
}

/// Lets time pass, and looks at the disk: up to so many times.
#[inline(never)]
pub fn look<D: BlockDevice, O: Watch>(
    disk: &mut D,
    watch: &mut O,
    times: u32,
) -> Result<Option<Finished>, IoError> {
    for _ in 0..times {
        watch.idle();
        if let Some(finished) = disk.poll()? {
            return Ok(Some(finished));
        }
    }
    Ok(None)
}
