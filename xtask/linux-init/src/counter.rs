//! The counter of instructions that the processor has: on aarch64, under `-icount`, exact.

use crate::system::{self, Failure, File};

/// `perf_event_attr`: a general event of the hardware, in 64 bytes; `type` and `size` are halves of the first word.
const HARDWARE: u64 = 0;
const SIZE: u64 = 64;
/// Instructions that were executed, in user and kernel, idle or not.
const INSTRUCTIONS: u64 = 1;
/// On the counter all the time, or an error.
const PINNED: u64 = 1 << 2;

/// How often the loop is run whose length is known.
const TURNS: u64 = 1_000_000;
/// The timer interrupts it. By how much it may be longer: one part in so many.
const PART: u64 = 50;

/// All instructions of the machine.
pub struct Counter {
    file: File,
    /// What is counted between two readings that follow one another.
    overhead: u64,
}

impl Counter {
    /// Starts it.
    pub fn open() -> Result<Self, Failure> {
        let attributes = [HARDWARE | SIZE << 32, INSTRUCTIONS, 0, 0, 0, PINNED, 0, 0];
        let file = system::perf_event(&attributes)?;
        let mut counter = Self { file, overhead: 0 };
        let mut least = u64::MAX;
        for _ in 0..16 {
            let before = counter.read()?;
            least = least.min(counter.read()? - before);
        }
        counter.overhead = least;
        Ok(counter)
    }

    /// What it stands at.
    pub fn read(&self) -> Result<u64, Failure> {
        let mut value = [0; 8];
        match self.file.read(&mut value)? {
            8 => Ok(u64::from_ne_bytes(value)),
            _ => Err(Failure::of("the counter of instructions does not run")),
        }
    }

    /// What was executed since it stood at `before`.
    pub fn since(&self, before: u64) -> Result<u64, Failure> {
        let counted = self.read()?.checked_sub(before);
        let counted = counted.ok_or(Failure::of("the counter runs backwards"))?;
        Ok(counted.saturating_sub(self.overhead))
    }

    /// It has to count a loop of two instructions a turn as that.
    pub fn check(&self) -> Result<(), Failure> {
        let before = self.read()?;
        spin(TURNS);
        let counted = self.since(before)?;
        let expected = 2 * TURNS;
        if (expected..=expected + expected / PART).contains(&counted) {
            Ok(())
        } else {
            Err(Failure::at(
                "the counter does not count instructions",
                counted,
            ))
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn spin(turns: u64) {
    // SAFETY: it changes nothing but a register and the flags.
    unsafe {
        core::arch::asm!("2: subs {0}, {0}, #1", "b.ne 2b", inout(reg) turns => _, options(nomem, nostack));
    }
}

#[cfg(target_arch = "x86_64")]
fn spin(turns: u64) {
    // SAFETY: it changes nothing but a register and the flags.
    unsafe {
        core::arch::asm!("2: dec {0}", "jnz 2b", inout(reg) turns => _, options(nomem, nostack));
    }
}
