//! A driver for NVMe disks (NVM Express base specification 1.4): one namespace, one pair of
//! queues for its blocks.
//!
//! | module | idea |
//! |---|---|
//! | [`registers`] | the controller: up, down, doorbells |
//! | [`queue`] | commands and completions |
//! | [`identify`] | what the controller says of itself and of its namespace |
//! | [`pages`] | data as the controller wants it: page by page |

mod identify;
mod pages;
mod queue;
mod registers;

use core::hint;

use virtio_iommu::topology::pci::Function;

use self::pages::{LIST, MOST_SEGMENTS, PAGE};
use self::queue::{Command, Pair, Place};
use self::registers::{AdminQueues, Controller, Pin};
use super::memory::Shared;
use super::wake::Wake;
use super::{BlockDevice, BlockError, Finished, Operation, Route, Segment, Ticket, check};
use crate::interrupts::Line;
use crate::machine::Machine;

/// PCI class, subclass and programming interface (NVM Express base specification 1.4, §2.1).
const CLASS: (u8, u8, u8) = (0x01, 0x08, 0x02);

/// Requests at once.
const SLOTS: usize = 32;
/// Entries of the queues: more than can be in use, so that they are never full.
const ENTRIES: u16 = 64;
const ADMIN_ENTRIES: u16 = 8;

const _: () = assert!(SLOTS + 16 < ENTRIES as usize);

/// The shared memory, in bytes from its start. Queues begin with a page.
mod layout {
    use super::{LIST, PAGE, SLOTS};

    pub const ADMIN_COMMANDS: usize = 0;
    pub const ADMIN_COMPLETIONS: usize = PAGE;
    pub const IDENTIFY: usize = 2 * PAGE;
    pub const COMMANDS: usize = 3 * PAGE;
    pub const COMPLETIONS: usize = 4 * PAGE;
    /// For each slot, a list of pages.
    pub const LISTS: usize = 5 * PAGE;
    pub const BYTES: usize = LISTS + LIST * SLOTS;
}

/// Commands to the controller (§5).
const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
const CREATE_COMPLETION_QUEUE: u8 = 0x05;
/// Commands to a namespace (NVM command set).
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;

/// Of a queue: contiguous in memory; it interrupts (§5.3, §5.4).
const CONTIGUOUS: u32 = 1 << 0;
const INTERRUPTS: u32 = 1 << 1;

/// How often nothing may be complete until the controller is asked how it is.
const PATIENCE: u32 = 64;

/// An NVMe disk: the first namespace of a controller.
pub struct Nvme {
    controller: Controller,
    memory: Shared,
    queue: Pair,
    /// Slots without a request, a bit for each.
    free: u32,
    block: usize,
    blocks: u64,
    max_bytes: usize,
    wake: Option<Wake<Pin>>,
    /// How often in a row nothing was complete.
    idle: u32,
}

impl Nvme {
    fn bring_up(controller: &Controller, memory: &Shared) -> Result<Found, BlockError> {
        let at = |offset| memory.device_addr(offset);
        controller.enable(&AdminQueues {
            submission: at(layout::ADMIN_COMMANDS),
            completion: at(layout::ADMIN_COMPLETIONS),
            entries: ADMIN_ENTRIES,
        })?;
        let place = Place {
            commands: layout::ADMIN_COMMANDS,
            completions: layout::ADMIN_COMPLETIONS,
            entries: ADMIN_ENTRIES,
        };
        let mut admin = Pair::new(0, place);
        let mut execute = |command: Command| admin.execute(memory, controller, &command);

        let page = at(layout::IDENTIFY);
        execute(identify::controller(page))?;
        let max_bytes = identify::max_bytes(memory, layout::IDENTIFY);
        execute(identify::namespace(page))?;
        let (block, blocks) = identify::format(memory, layout::IDENTIFY)?;

        let size = u64::from(ENTRIES - 1) << 16 | 1;
        execute(Command {
            opcode: CREATE_COMPLETION_QUEUE,
            prp1: at(layout::COMPLETIONS),
            low: size | u64::from(CONTIGUOUS | INTERRUPTS) << 32,
            ..Command::default()
        })?;
        execute(Command {
            opcode: CREATE_SUBMISSION_QUEUE,
            prp1: at(layout::COMMANDS),
            // With completions to queue 1.
            low: size | u64::from(CONTIGUOUS | 1 << 16) << 32,
            ..Command::default()
        })?;
        let place = Place {
            commands: layout::COMMANDS,
            completions: layout::COMPLETIONS,
            entries: ENTRIES,
        };
        Ok(Found {
            queue: Pair::new(1, place),
            block,
            blocks,
            max_bytes: max_bytes.min(LIST / 8 * PAGE),
        })
    }
}

/// A disk that was found, and its queues.
struct Found {
    queue: Pair,
    block: usize,
    blocks: u64,
    max_bytes: usize,
}

impl BlockDevice for Nvme {
    /// QEMU's.
    const ID: (u16, u16) = (0x1b36, 0x0010);

    fn open(
        machine: &mut Machine,
        function: &Function,
        route: Route<'_>,
    ) -> Result<Self, BlockError> {
        if (function.class, function.subclass, function.prog_if) != CLASS {
            return Err(BlockError::Registers("of another class"));
        }
        machine.enable(function.address.function)?;
        let (controller, capabilities) = Controller::find(function)?;
        if capabilities.queue_entries() < ENTRIES.into() {
            return Err(BlockError::QueueSize(capabilities.queue_entries()));
        }
        controller.disable()?;
        let memory = Shared::new(route, layout::BYTES)?;
        match Self::bring_up(&controller, &memory) {
            Ok(found) => Ok(Self {
                controller,
                memory,
                queue: found.queue,
                free: u32::MAX >> (32 - SLOTS),
                block: found.block,
                blocks: found.blocks,
                max_bytes: found.max_bytes,
                wake: None,
                idle: 0,
            }),
            Err(error) => {
                controller.disable()?;
                // SAFETY: the controller has confirmed its reset.
                unsafe { memory.release() }?;
                Err(error)
            }
        }
    }

    fn block_size(&self) -> usize {
        self.block
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn depth(&self) -> usize {
        SLOTS
    }

    fn max_segments(&self) -> usize {
        MOST_SEGMENTS
    }

    fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    fn offer(
        &mut self,
        operation: Operation,
        first: u64,
        blocks: usize,
        segments: &[Segment],
    ) -> Result<Ticket, BlockError> {
        check(self, first, blocks, segments)?;
        if self.free == 0 {
            return Err(BlockError::Full);
        }
        let slot = self.free.trailing_zeros() as usize;
        let list = layout::LISTS + LIST * slot;
        let (prp1, prp2) = pages::describe(&self.memory, list, segments)?;
        self.free &= !(1 << slot);
        let command = Command {
            opcode: match operation {
                Operation::Read => READ,
                Operation::Write => WRITE,
            },
            identifier: slot as u16,
            namespace: identify::NAMESPACE,
            prp1,
            prp2,
            low: first,
            // At most `max_bytes`, in blocks.
            high: (blocks - 1) as u32,
        };
        self.queue.push(&self.memory, &command);
        Ok(Ticket(slot))
    }

    fn submit(&mut self) {
        self.queue.show(&self.controller);
    }

    fn poll(&mut self) -> Result<Option<Finished>, BlockError> {
        if let Some((identifier, done)) = self.queue.take(&self.memory, &self.controller) {
            self.idle = 0;
            let slot = usize::from(identifier);
            if slot >= SLOTS || self.free & 1 << slot != 0 {
                return Err(BlockError::Nonsense(identifier.into()));
            }
            self.free |= 1 << slot;
            return Ok(Some((Ticket(slot), done)));
        }
        self.idle += 1;
        if self.idle >= PATIENCE {
            self.idle = 0;
            if self.controller.is_broken() {
                return Err(BlockError::NeedsReset);
            }
        }
        Ok(None)
    }

    fn wake_on(&mut self, line: Line) -> Result<(), BlockError> {
        self.wake = Some(Wake::new(line, Pin::new(self.controller))?);
        Ok(())
    }

    fn rest(&mut self) {
        let Some(wake) = &self.wake else {
            hint::spin_loop();
            return;
        };
        self.queue.tell(&self.controller);
        wake.disk().open();
        wake.sleep(|| self.queue.is_ready(&self.memory));
        wake.disk().close();
        // If nothing is complete, there was another reason.
        self.idle = PATIENCE;
    }

    fn close(mut self) -> Result<(), BlockError> {
        drop(self.wake.take());
        self.controller.disable()?;
        // SAFETY: the controller has confirmed its reset.
        unsafe { self.memory.release() }
    }
}
