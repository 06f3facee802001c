//! The CPUs, which the firmware starts and stops: PSCI, by hypervisor calls.

use core::arch::asm;

use dtoolkit::{Node, Property};

use super::entry::second_start;
use super::interrupts_off;
use crate::cpus::{Local, StartError};
use crate::device_tree::MachineTree;
use crate::memory::direct_map;

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;

const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;

/// What this CPU has of its own.
#[inline]
pub fn local() -> &'static Local {
    let local: *const Local;
    // SAFETY: reads a register that is for the kernel to use.
    unsafe {
        asm!(
            "mrs {}, tpidr_el1",
            out(reg) local,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: the entry code of each CPU has put the address of a static there.
    unsafe { &*local }
}

/// Has another CPU begin at its entry code. It may not have come there yet.
pub fn start_second(machine: &MachineTree) -> Result<(), StartError> {
    let other = machine
        .cpus()
        .find(|cpu| *cpu != own_id())
        .ok_or(StartError::NotFound)?;
    let method = machine.tree.find_node("/psci").and_then(|node| {
        let method = node.property("method")?;
        Some(method.value() == b"hvc\0")
    });
    if method != Some(true) {
        let error = "PSCI does not take hypervisor calls";
        return Err(StartError::Malformed(error));
    }
    let entry = direct_map::phys_of_pointer(second_start as *const u8)
        .ok_or(StartError::Malformed("the kernel is not in the direct map"))?;
    match psci(CPU_ON, other, entry) {
        0 => Ok(()),
        ALREADY_ON | ON_PENDING => Err(StartError::StillOn),
        error => Err(StartError::Refused(error)),
    }
}

/// Ends what [`start_second`] began.
pub fn switch_off() -> ! {
    interrupts_off();
    psci(CPU_OFF, 0, 0);
    park()
}

/// What a CPU does again and again while it waits for something. Where an emulator runs the CPUs
/// in turn, it is that of the next one: the hint of the compiler, `isb`, does not say so.
pub fn relax() {
    // SAFETY: does nothing.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Stops this CPU until the machine ends.
pub fn park() -> ! {
    interrupts_off();
    loop {
        // SAFETY: waits, and wakes for nothing but interrupts, which are masked.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// The id of this CPU, as the device tree has it: the affinity fields.
fn own_id() -> u64 {
    const AFFINITY: u64 = 0xff_00ff_ffff;
    let id: u64;
    // SAFETY: reads a register that says which CPU this is.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) id, options(nomem, nostack)) };
    id & AFFINITY
}

/// A PSCI call; returns its error code. The last argument of a start is for the CPU, and unused.
fn psci(function: u64, first: u64, second: u64) -> i64 {
    let result;
    // SAFETY: x0 to x17 are the callee's. The CPU that is started begins at the entry code, with a
    // stack of its own.
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") function => result,
            inlateout("x1") first => _,
            inlateout("x2") second => _,
            inlateout("x3") 0_u64 => _,
            clobber_abi("C"),
            options(nostack),
        );
    }
    result
}
