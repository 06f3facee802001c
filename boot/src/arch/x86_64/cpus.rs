//! The CPUs: the second one is started by messages between local APICs, INIT and STARTUP. Intel
//! SDM, volume 3, §11.4.4 and §12.6.

use core::arch::asm;
use core::hint;
use core::ptr::NonNull;
use core::time::Duration;

use super::entry::{prepare_start, second_trampoline};
use super::{Firmware, interrupts_off};
use crate::clock::Deadline;
use crate::cpus::{Local, StartError};
use crate::memory::direct_map;
use crate::registers::Registers;

/// Registers of the local APIC, in bytes from its start.
mod register {
    /// Its id is in the upper 8 bits.
    pub const ID: u64 = 0x20;
    /// Writing it sends a message.
    pub const COMMAND: u64 = 0x300;
    /// To whom, in the upper 8 bits.
    pub const DESTINATION: u64 = 0x310;
}

/// The size of its registers, in bytes.
const APIC: u64 = 0x1000;
/// The id that means everybody.
const EVERYBODY: u32 = 0xff;

/// In the command: resets a CPU, which then waits for the next.
const INIT: u32 = 5 << 8;
/// In the command: has it begin in 16-bit mode, at the page whose number is in the lowest 8 bits.
const STARTUP: u32 = 6 << 8;
/// In the command: what both are.
const ASSERT: u32 = 1 << 14;
/// In the command: not sent yet.
const PENDING: u32 = 1 << 12;

/// How long a CPU takes for INIT, and between two STARTUPs; and the longest wait for a message to
/// be sent.
const AFTER_INIT: Duration = Duration::from_millis(10);
const AFTER_STARTUP: Duration = Duration::from_micros(200);
const SENDING: Duration = Duration::from_millis(100);

/// What this CPU has of its own.
#[inline]
pub fn local() -> &'static Local {
    let local: *const Local;
    // SAFETY: reads the first field of what the entry code of each CPU has put there, a static
    // whose first field is its own address and never changes.
    unsafe {
        asm!(
            "mov {}, gs:[0]",
            out(reg) local,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    // SAFETY: as above.
    unsafe { &*local }
}

/// Has another CPU begin at its entry code. It may not have come there yet.
pub fn start_second(firmware: &Firmware) -> Result<(), StartError> {
    let madt = firmware.madt().ok_or(StartError::NotFound)?;
    // SAFETY: the local APIC, as the firmware says. Other code of this kernel only uses other
    // registers of it, or these for an access of its own: nothing is in two steps.
    let apic = unsafe { Registers::new(madt.local_apic().0, APIC) };
    let apic = apic.ok_or(StartError::Malformed("the local APIC is out of reach"))?;
    let own = apic.read(register::ID) >> 24;
    let other = madt
        .processors()
        .find(|id| *id != own && *id < EVERYBODY)
        .ok_or(StartError::NotFound)?;
    let code = second_trampoline();
    let page = firmware
        .low_page()
        .ok_or(StartError::Malformed("no memory is free below 1 MiB"))?;
    let place = direct_map::pointer(page, code.len() as u64)
        .ok_or(StartError::Malformed("low memory is out of reach"))?;
    // SAFETY: a page of memory that nobody has, which is more than the code takes.
    unsafe { place.copy_from_nonoverlapping(NonNull::from_ref(code).cast(), code.len()) };
    prepare_start();

    send(apic, other, INIT)?;
    wait(AFTER_INIT);
    // Pages below 1 MiB have numbers of 8 bits.
    let startup = STARTUP | (page >> 12) as u32;
    send(apic, other, startup)?;
    wait(AFTER_STARTUP);
    // Two are what CPUs may need; one that has begun does not mind.
    send(apic, other, startup)
}

/// Ends what [`start_second`] began: the next INIT wakes the CPU, and nothing else does.
pub fn switch_off() -> ! {
    park()
}

/// Stops this CPU until the machine ends.
pub fn park() -> ! {
    interrupts_off();
    loop {
        // SAFETY: waits, and wakes for nothing but interrupts, which are masked.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

fn send(apic: Registers, to: u32, command: u32) -> Result<(), StartError> {
    apic.write(register::DESTINATION, to << 24);
    apic.write(register::COMMAND, command | ASSERT);
    let deadline = Deadline::after(SENDING);
    while apic.read(register::COMMAND) & PENDING != 0 {
        if deadline.passed() {
            return Err(StartError::NoAnswer);
        }
        hint::spin_loop();
    }
    Ok(())
}

fn wait(duration: Duration) {
    let deadline = Deadline::after(duration);
    while !deadline.passed() {
        hint::spin_loop();
    }
}
