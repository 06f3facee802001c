//! I/Os: one at a time, and many at once by Linux' native asynchronous I/O.

use core::time::Duration;

use syscalls::{Sysno, syscall};

use crate::system::{self, Failure, File};

/// As many at once as there may be.
pub const DEPTH: usize = 16;

/// `iocb`: what is to be done.
const PREAD: u16 = 0;
const PWRITE: u16 = 1;

/// One I/O.
#[derive(Clone, Copy)]
pub struct Transfer {
    /// The block device.
    pub file: File,
    /// From memory to the disk.
    pub write: bool,
    /// Where on the disk, in bytes.
    pub place: u64,
    /// Where in memory.
    pub memory: *mut u8,
    /// How many bytes.
    pub size: usize,
}

/// Does one, and waits for it.
pub fn one(transfer: &Transfer) -> Result<(), Failure> {
    let Transfer {
        file,
        memory,
        size,
        place,
        ..
    } = *transfer;
    let number = match transfer.write {
        false => Sysno::pread64,
        true => Sysno::pwrite64,
    };
    // SAFETY: the memory is in a buffer, which nobody has a reference into; the kernel reads or writes it until this
    // returns, and not longer.
    let done = unsafe { syscall!(number, file.number(), memory, size, place) };
    match done {
        Ok(done) if done == size => Ok(()),
        Ok(done) => Err(Failure::at("an I/O that is short", done as u64)),
        Err(errno) => Err(Failure {
            what: "an I/O",
            errno: errno.into_raw(),
            number: place,
        }),
    }
}

/// `struct iocb` of Linux.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Control {
    data: u64,
    key_and_flags: u64,
    code: u16,
    priority: u16,
    file: u32,
    memory: u64,
    size: u64,
    place: u64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

const _: () = assert!(size_of::<Control>() == 64);

/// A queue of I/Os.
pub struct Queue(u64);

impl Queue {
    /// Makes one.
    pub fn new() -> Result<Self, Failure> {
        system::io_setup(DEPTH).map(Self)
    }

    /// Does `count` I/Os, `depth` of them at once: as many begin together as have ended together. The next one is
    /// `make(slot)`, where no other one is in that slot of `depth`; what each took goes to `took`, by `clock`.
    pub fn run(
        &self,
        count: usize,
        depth: usize,
        mut make: impl FnMut(usize) -> Result<Transfer, Failure>,
        clock: impl Fn() -> Result<Duration, Failure>,
        mut took: impl FnMut(Duration),
    ) -> Result<(), Failure> {
        let mut controls = [Control::default(); DEPTH];
        let mut began = [Duration::ZERO; DEPTH];
        let mut free = [0; DEPTH];
        let mut frees = 0;
        for (room, slot) in free.iter_mut().zip(0..depth.min(count)) {
            *room = slot;
            frees += 1;
        }
        let (mut started, mut ended) = (0, 0);
        while ended < count {
            let mut starting = [0; DEPTH];
            let mut batch = 0;
            let now = clock()?;
            for (&slot, room) in free.iter().take(frees).zip(&mut starting) {
                if started == count {
                    break;
                }
                let missing = Failure::at("no such slot", slot as u64);
                let control = controls.get_mut(slot).ok_or(missing)?;
                let transfer = make(slot)?;
                *control = Control {
                    data: slot as u64,
                    code: if transfer.write { PWRITE } else { PREAD },
                    file: transfer.file.number() as u32,
                    memory: transfer.memory.expose_provenance() as u64,
                    size: transfer.size as u64,
                    place: transfer.place,
                    ..Control::default()
                };
                *room = (&raw const *control).expose_provenance() as u64;
                *began.get_mut(slot).ok_or(missing)? = now;
                started += 1;
                batch += 1;
            }
            let mut waiting = starting.get(..batch).unwrap_or_default();
            while !waiting.is_empty() {
                // SAFETY: each is the address of a control of this function, which outlives the I/O: it returns early
                // only with an error, which ends this program. Memory of buffers is nobody's by reference.
                let begun = unsafe { system::submit(self.0, waiting) }?;
                waiting = waiting.get(begun..).unwrap_or_default();
            }
            let mut events = [[0; 4]; DEPTH];
            let happened = system::events(self.0, &mut events)?;
            if happened == 0 {
                return Err(Failure::at("an I/O that does not end", ended as u64));
            }
            let now = clock()?;
            frees = 0;
            for ([slot, _, result, _], room) in events.iter().take(happened).zip(&mut free) {
                let slot = *slot as usize;
                let missing = Failure::at("no such slot", slot as u64);
                let wanted = controls.get(slot).ok_or(missing)?.size;
                if *result != wanted {
                    return Err(Failure::at("an I/O that is short, or failed", *result));
                }
                let began = *began.get(slot).ok_or(missing)?;
                took(now.saturating_sub(began));
                ended += 1;
                *room = slot;
                frees += 1;
            }
        }
        Ok(())
    }
}
