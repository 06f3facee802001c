//! Traps: exceptions are fatal, interrupts go to their handlers.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use super::{DIRECT_MAP, FINISHER, set_alarm};
use crate::cpus::Local;
use crate::interrupts;
use crate::report::EXIT_PANIC;
use crate::trap::{self, Trap};

/// From now on a trap of this hart ends in [`crate::trap`].
pub fn install_traps() {
    let vector = trap_entry as *const () as usize;
    // SAFETY: the vector is aligned to 4 bytes and never returns.
    unsafe { asm!("csrw stvec, {}", in(reg) vector, options(nostack)) };
}

/// The first trap: on a stack of its own, and with the next trap going elsewhere. An interrupt
/// stays on the stack that it finds.
#[unsafe(naked)]
extern "C" fn trap_entry() {
    naked_asm!(
        ".balign 4",
        "csrw sscratch, t0",
        "csrr t0, scause",
        "bltz t0, 2f",
        "csrr t0, sscratch",
        "csrw sscratch, sp",
        "lla sp, {nested}",
        "csrw stvec, sp",
        "ld sp, {trap_stack}(tp)",
        "csrr a0, scause",
        "csrr a1, sepc",
        "csrr a2, stval",
        "csrr a3, sscratch",
        "mv a4, ra",
        "tail {first}",
        // Interrupts are masked until `sret`: only what a function may change has to be saved.
        "2:",
        "csrr t0, sscratch",
        "addi sp, sp, -304",
        "sd ra, 0(sp)",
        "sd t0, 8(sp)",
        "sd t1, 16(sp)",
        "sd t2, 24(sp)",
        "sd t3, 32(sp)",
        "sd t4, 40(sp)",
        "sd t5, 48(sp)",
        "sd t6, 56(sp)",
        "sd a0, 64(sp)",
        "sd a1, 72(sp)",
        "sd a2, 80(sp)",
        "sd a3, 88(sp)",
        "sd a4, 96(sp)",
        "sd a5, 104(sp)",
        "sd a6, 112(sp)",
        "sd a7, 120(sp)",
        ".option push",
        ".option arch, +d",
        "fsd ft0, 128(sp)",
        "fsd ft1, 136(sp)",
        "fsd ft2, 144(sp)",
        "fsd ft3, 152(sp)",
        "fsd ft4, 160(sp)",
        "fsd ft5, 168(sp)",
        "fsd ft6, 176(sp)",
        "fsd ft7, 184(sp)",
        "fsd ft8, 192(sp)",
        "fsd ft9, 200(sp)",
        "fsd ft10, 208(sp)",
        "fsd ft11, 216(sp)",
        "fsd fa0, 224(sp)",
        "fsd fa1, 232(sp)",
        "fsd fa2, 240(sp)",
        "fsd fa3, 248(sp)",
        "fsd fa4, 256(sp)",
        "fsd fa5, 264(sp)",
        "fsd fa6, 272(sp)",
        "fsd fa7, 280(sp)",
        "frcsr t0",
        "sd t0, 288(sp)",
        "csrr a0, scause",
        "csrr a1, sepc",
        "call {interrupt}",
        "ld t0, 288(sp)",
        "fscsr t0",
        "fld ft0, 128(sp)",
        "fld ft1, 136(sp)",
        "fld ft2, 144(sp)",
        "fld ft3, 152(sp)",
        "fld ft4, 160(sp)",
        "fld ft5, 168(sp)",
        "fld ft6, 176(sp)",
        "fld ft7, 184(sp)",
        "fld ft8, 192(sp)",
        "fld ft9, 200(sp)",
        "fld ft10, 208(sp)",
        "fld ft11, 216(sp)",
        "fld fa0, 224(sp)",
        "fld fa1, 232(sp)",
        "fld fa2, 240(sp)",
        "fld fa3, 248(sp)",
        "fld fa4, 256(sp)",
        "fld fa5, 264(sp)",
        "fld fa6, 272(sp)",
        "fld fa7, 280(sp)",
        ".option pop",
        "ld ra, 0(sp)",
        "ld t0, 8(sp)",
        "ld t1, 16(sp)",
        "ld t2, 24(sp)",
        "ld t3, 32(sp)",
        "ld t4, 40(sp)",
        "ld t5, 48(sp)",
        "ld t6, 56(sp)",
        "ld a0, 64(sp)",
        "ld a1, 72(sp)",
        "ld a2, 80(sp)",
        "ld a3, 88(sp)",
        "ld a4, 96(sp)",
        "ld a5, 104(sp)",
        "ld a6, 112(sp)",
        "ld a7, 120(sp)",
        "addi sp, sp, 304",
        "sret",
        nested = sym trap_nested,
        trap_stack = const offset_of!(Local, trap_stack),
        first = sym first_trap,
        interrupt = sym interrupt,
    )
}

/// A trap inside the handler of the first.
#[unsafe(naked)]
extern "C" fn trap_nested() {
    naked_asm!(
        ".balign 4",
        "lla sp, {last_resort}",
        "csrw stvec, sp",
        "ld sp, {trap_stack}(tp)",
        "csrr a0, scause",
        "csrr a1, sepc",
        "csrr a2, stval",
        "tail {second}",
        last_resort = sym trap_last_resort,
        trap_stack = const offset_of!(Local, trap_stack),
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

/// An interrupt, with interrupts masked.
extern "C" fn interrupt(cause: usize, pc: usize) {
    match cause & !INTERRUPT {
        EXTERNAL => interrupts::dispatch(),
        TIMER => set_alarm(None),
        _ => trap::fatal(&Trap {
            what: name(cause),
            code: cause,
            pc,
            address: None,
            sp: 0,
            return_address: 0,
        }),
    }
}

extern "C" fn second_trap(cause: usize, pc: usize, address: usize) -> ! {
    trap::fatal_in_handler(name(cause), pc, address)
}

/// In the cause: not an exception.
const INTERRUPT: usize = 1 << 63;
/// The timer of the supervisor.
const TIMER: usize = 5;
/// The interrupt controller, for the supervisor.
const EXTERNAL: usize = 9;

/// The cause in words.
fn name(cause: usize) -> &'static str {
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
