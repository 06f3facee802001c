//! The harts, which the firmware starts and stops: the HSM extension of the SBI.

use core::arch::asm;

use super::entry::{boot_hart, second_start};
use super::interrupts_off;
use crate::cpus::{Local, StartError};
use crate::device_tree::MachineTree;
use crate::memory::direct_map;

/// The HSM extension, and its functions.
const HSM: usize = 0x48_534d;
const HART_START: usize = 0;
const HART_STOP: usize = 1;
const HART_STATUS: usize = 2;

/// A status: not started, or stopped.
const STOPPED: usize = 1;

/// What this CPU has of its own.
#[inline]
pub fn local() -> &'static Local {
    let local: *const Local;
    // SAFETY: reads a register that compilers leave alone.
    unsafe {
        asm!("mv {}, tp", out(reg) local, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: the entry code of each hart has put the address of a static there.
    unsafe { &*local }
}

/// Has another hart begin at its entry code. It may not have come there yet.
pub fn start_second(machine: &MachineTree) -> Result<(), StartError> {
    let hart = machine
        .cpus()
        .find(|hart| *hart != boot_hart())
        .ok_or(StartError::NotFound)?;
    let entry = direct_map::phys_of_pointer(second_start as *const u8)
        .ok_or(StartError::Malformed("the kernel is not in the direct map"))?;
    // A hart that is about to stop is refused like one that does not exist.
    if hsm(HART_STATUS, hart as usize, 0)? != STOPPED {
        return Err(StartError::StillOn);
    }
    hsm(HART_START, hart as usize, entry as usize).map(drop)
}

/// Ends what [`start_second`] began.
pub fn switch_off() -> ! {
    interrupts_off();
    // It comes back only if the firmware does not want to.
    let _ = hsm(HART_STOP, 0, 0);
    park()
}

/// Stops this hart until the machine ends.
pub fn park() -> ! {
    interrupts_off();
    loop {
        // SAFETY: waits, and wakes for nothing but interrupts, which are masked.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// An SBI call. The last argument of a start is for the hart, and unused.
fn hsm(function: usize, first: usize, second: usize) -> Result<usize, StartError> {
    let (error, value): (isize, usize);
    // SAFETY: OpenSBI preserves every register but a0 and a1. The hart that is started begins at
    // the entry code, with a stack of its own.
    unsafe {
        asm!(
            "ecall",
            inlateout("a0") first => error,
            inlateout("a1") second => value,
            in("a2") 0usize,
            in("a6") function,
            in("a7") HSM,
            options(nostack),
        );
    }
    match error {
        0 => Ok(value),
        error => Err(StartError::Refused(error as i64)),
    }
}
