//! Traps: all of them are fatal, this kernel takes no interrupts yet.

use core::arch::{asm, naked_asm};

use super::{DIRECT_MAP, FINISHER};
use crate::report::EXIT_PANIC;
use crate::trap::{self, Trap};

/// From now on a trap ends in [`crate::trap`].
pub fn install_traps() {
    let vector = trap_entry as *const () as usize;
    // SAFETY: the vector is aligned to 4 bytes and never returns.
    unsafe { asm!("csrw stvec, {}", in(reg) vector, options(nostack)) };
}

/// The first trap: on a stack of its own, and with the next trap going elsewhere.
#[unsafe(naked)]
extern "C" fn trap_entry() {
    naked_asm!(
        ".balign 4",
        "csrw sscratch, sp",
        "lla sp, {nested}",
        "csrw stvec, sp",
        "lla sp, __trap_stack_top",
        "csrr a0, scause",
        "csrr a1, sepc",
        "csrr a2, stval",
        "csrr a3, sscratch",
        "mv a4, ra",
        "tail {first}",
        nested = sym trap_nested,
        first = sym first_trap,
    )
}

/// A trap inside the handler of the first.
#[unsafe(naked)]
extern "C" fn trap_nested() {
    naked_asm!(
        ".balign 4",
        "lla sp, {last_resort}",
        "csrw stvec, sp",
        "lla sp, __trap_stack_top",
        "csrr a0, scause",
        "csrr a1, sepc",
        "csrr a2, stval",
        "tail {second}",
        last_resort = sym trap_last_resort,
        second = sym second_trap,
    )
}

/// A trap where not even a message can be printed: ends the emulator without memory or a stack.
#[unsafe(naked)]
pub extern "C" fn trap_last_resort() {
    naked_asm!(
        ".balign 4",
        "li t0, {finisher}",
        "li t1, {code}",
        "sw t1, 0(t0)",
        "1: wfi",
        "j 1b",
        finisher = const DIRECT_MAP + FINISHER as usize,
        code = const (EXIT_PANIC << 16) | 0x3333,
    )
}

extern "C" fn first_trap(cause: usize, pc: usize, address: usize, sp: usize, ra: usize) -> ! {
    trap::fatal(&Trap {
        what: name(cause),
        code: cause,
        pc,
        address: Some(address),
        sp,
        return_address: ra,
    })
}

extern "C" fn second_trap(cause: usize, pc: usize, address: usize) -> ! {
    trap::fatal_in_handler(name(cause), pc, address)
}

/// The cause in words.
fn name(cause: usize) -> &'static str {
    const INTERRUPT: usize = 1 << 63;
    match cause {
        0 => "instruction address misaligned",
        1 => "instruction access fault",
        2 => "illegal instruction",
        3 => "breakpoint",
        4 => "load address misaligned",
        5 => "load access fault",
        6 => "store address misaligned",
        7 => "store access fault",
        8 | 9 => "environment call",
        12 => "instruction page fault",
        13 => "load page fault",
        15 => "store page fault",
        _ if cause & INTERRUPT != 0 => "unexpected interrupt",
        _ => "unknown exception",
    }
}
