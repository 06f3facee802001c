//! What has happened to requests, in order, for a judge who wants to know what the device has told.

use super::device::Device;
use super::memory::GuestRam;
use super::queue::Chain;
use super::requests::Seen;
use super::spec::{TAIL_LEN, status};

/// What a used entry says about a request, to whoever reads it with care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Status(u8),
    /// Used length 0.
    Unwritten,
    /// Anything else: nobody can know.
    Unclear,
}

/// What a device that keeps a journal notes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A request, by its number, was taken from the ring.
    Seen(usize),
    Told(usize, Told),
    /// Everything that is on its way is forgotten.
    Reset,
}

impl Device {
    pub(super) fn note(&mut self, note: Note) {
        if let Some(journal) = &mut self.journal {
            journal.push(note);
        }
    }
}

/// Notes what a used entry of this length tells the driver.
pub(super) fn note_told(
    seen: &mut [Seen],
    journal: &mut Option<Vec<Note>>,
    chain: &Chain,
    ram: &GuestRam,
    len: u32,
) {
    /// What a driver poisons tails with, or nothing that a device writes.
    const NO_STATUS: u8 = 0xff;
    let room = chain.writable_len();
    let tail = chain.writable_bytes(ram);
    let told = match tail.get(room.wrapping_sub(TAIL_LEN)) {
        _ if len == 0 => Told::Unwritten,
        Some(status) if len as usize == room && *status != NO_STATUS => Told::Status(*status),
        _ => Told::Unclear,
    };
    let Some(asked) = seen.iter_mut().rfind(|seen| seen.head == chain.head) else {
        return;
    };
    asked.told_ok |= told == Told::Status(status::OK);
    if let Some(journal) = journal {
        journal.push(Note::Told(asked.number, told));
    }
}
