//! The registers of the transports, judged by QEMU's trace: what a library writes is not ours, and is looked at all the
//! same.

use super::request::{u32_of, u64_of};
use std::collections::BTreeSet;

/// What QEMU is told to trace besides.
pub const PATTERNS: &[&str] = &["virtio_mmio_*", "virtio_pci_notify_write"];

/// What a driver may read, and write, below the configuration space.
const READABLE: [u64; 10] = [0, 4, 8, 0xc, 0x10, 0x34, 0x44, 0x60, STATUS, 0xfc];
const WRITABLE: [u64; 15] = [
    0x14,
    0x20,
    0x24,
    QUEUE_SELECT,
    QUEUE_SIZE,
    QUEUE_READY,
    0x50,
    0x64,
    STATUS,
    0x80,
    0x84,
    0x90,
    0x94,
    0xa0,
    0xa4,
];
/// Magic, version, device id.
const IDENTITY: [u64; 3] = [0, 4, 8];
const STATUS: u64 = 0x70;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const CONFIG: u64 = 0x100;
/// Registers of shared memory.
const SHARED: std::ops::RangeInclusive<u64> = 0xac..=0xbc;
/// `notify_off_multiplier` of QEMU's devices, in bytes.
const MULTIPLIER: u64 = 4;

/// What must not be done with registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A notification of another width, value or place than that of its queue.
    Notification,
    /// Written before magic, version and device id were read.
    Unidentified,
    /// Not aligned, or read or written though it may not be.
    Access,
    /// A half of the features without saying which.
    Unselected,
    /// A queue larger than the device allows.
    QueueSize,
    /// A queue that is changed while it is ready.
    LiveQueue,
    /// An interrupt acknowledged that was not looked at.
    Acknowledged,
    /// A register of shared memory.
    SharedMemory,
    /// A line that cannot be read.
    Unreadable,
}

/// Misuse, with the line of the trace.
pub fn judge(trace: &str) -> Vec<(usize, Misuse)> {
    let mut judge = Judge::default();
    for (index, line) in trace.lines().enumerate() {
        judge.number = index + 1;
        if judge.line(line).is_none() {
            judge.wrong(Misuse::Unreadable);
        }
    }
    judge.wrong
}

#[derive(Default)]
struct Judge {
    number: usize,
    wrong: Vec<(usize, Misuse)>,
    /// The value of a notification whose queue is in the next line.
    notified: Option<u64>,
    /// Registers that were read so far.
    read: BTreeSet<u64>,
    /// The last access: offset, and whether it was a write.
    last: Option<(u64, bool)>,
    /// The interrupt status was read since it was acknowledged.
    looked: bool,
    queue: u64,
    ready: BTreeSet<u64>,
}

impl Judge {
    fn wrong(&mut self, what: Misuse) {
        self.wrong.push((self.number, what));
    }

    fn forbid_if(&mut self, broken: bool, what: Misuse) {
        if broken {
            self.wrong(what);
        }
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (name, rest) = line.split_once(' ')?;
        match name {
            "virtio_pci_notify_write" => {
                let (address, rest) = rest.split_once(" = ")?;
                let (value, rest) = rest.split_once(" (")?;
                let (address, value) = (u64_of(address)?, u64_of(value)?);
                let wrong = rest != "2)" || address != value * MULTIPLIER;
                self.forbid_if(wrong, Misuse::Notification);
                self.notified = Some(value);
            }
            "virtio_queue_notify" => {
                let (_, queue) = rest.split_once(" n ")?;
                let queue = u32_of(queue.split(' ').next()?)?;
                let other = self
                    .notified
                    .take()
                    .is_some_and(|value| value != u64::from(queue));
                self.forbid_if(other, Misuse::Notification);
            }
            "virtio_mmio_read" => {
                let offset = u64_of(rest.strip_prefix("virtio_mmio_read offset ")?)?;
                self.reads(offset);
            }
            "virtio_mmio_write_offset" => {
                let rest = rest.strip_prefix("virtio_mmio_write offset ")?;
                let (offset, value) = rest.split_once(" value ")?;
                self.writes(u64_of(offset)?, u64_of(value)?);
            }
            "virtio_mmio_queue_write" => {
                let rest = rest.strip_prefix("mmio_queue write ")?;
                let (size, most) = rest.split_once(" max ")?;
                let (size, most) = (u64_of(size)?, u64::from(u32_of(most)?));
                // A queue that is taken back has none.
                let odd = size != 0 && !size.is_power_of_two();
                self.forbid_if(size > most || odd, Misuse::QueueSize);
            }
            _ => {}
        }
        Some(())
    }

    fn reads(&mut self, offset: u64) {
        self.forbid_if(SHARED.contains(&offset), Misuse::SharedMemory);
        let known = offset >= CONFIG || READABLE.contains(&offset);
        self.forbid_if(!known, Misuse::Access);
        let selected = offset != 0x10 || self.last == Some((0x14, true));
        self.forbid_if(!selected, Misuse::Unselected);
        self.looked |= offset == 0x60;
        self.read.insert(offset);
        self.last = Some((offset, false));
    }

    fn writes(&mut self, offset: u64, value: u64) {
        self.forbid_if(SHARED.contains(&offset), Misuse::SharedMemory);
        let unknown = IDENTITY
            .iter()
            .any(|register| !self.read.contains(register));
        self.forbid_if(unknown, Misuse::Unidentified);
        let known = offset >= CONFIG || WRITABLE.contains(&offset);
        self.forbid_if(!known, Misuse::Access);
        let selected = offset != 0x20 || self.last == Some((0x24, true));
        self.forbid_if(!selected, Misuse::Unselected);
        match offset {
            QUEUE_SELECT => self.queue = value,
            QUEUE_READY if value == 1 => {
                let again = !self.ready.insert(self.queue);
                self.forbid_if(again, Misuse::LiveQueue);
            }
            QUEUE_READY => {
                self.ready.remove(&self.queue);
            }
            QUEUE_SIZE | 0x80..=0xa4 => {
                let live = self.ready.contains(&self.queue);
                self.forbid_if(live, Misuse::LiveQueue);
            }
            STATUS if value == 0 => self.ready.clear(),
            0x64 => {
                let wrong = !self.looked || value == 0 || value & !3 != 0;
                self.forbid_if(wrong, Misuse::Acknowledged);
                self.looked = false;
            }
            _ => {}
        }
        self.last = Some((offset, true));
    }
}
