//! Exceptions: interrupts go to their handlers, all others are fatal.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use crate::cpus::Local;
use crate::interrupts;
use crate::report::EXIT_PANIC;
use crate::trap::{self, Trap};

unsafe extern "C" {
    /// The vectors of the first exception.
    static vectors_first: [u32; 512];
    /// The vectors while nothing works: end the emulator without a stack.
    #[link_name = "vectors_last_resort"]
    pub static trap_last_resort: [u32; 512];
}

/// From now on an exception of this CPU ends in [`crate::trap`].
pub fn install_traps() {
    let vectors = &raw const vectors_first as usize;
    // SAFETY: the table is complete, aligned to 2 KiB, and only that of interrupts returns, with
    // everything restored. From now on an SError is told, too; interrupts stay masked.
    unsafe {
        asm!("msr vbar_el1, {}", "isb", "msr daifclr, #4", in(reg) vectors, options(nostack))
    };
}

// 16 vectors of 128 bytes: for each of four origins synchronous, IRQ, FIQ, SError.
global_asm!(
    r#"
    .macro VECTORS name, target, irq
    .balign 2048
    .globl \name
    \name:
    .set index, 0
    .rept 16
    .balign 128
    .ifnb   \irq
    // An IRQ of this kernel: everything else is unexpected.
    .if     index == 5
    b       \irq
    .endif
    .endif
    mov     x0, #index
    b       \target
    .set index, index + 1
    .endr
    .balign 128
    .endm

    .section .text.vectors, "ax"
    VECTORS vectors_first, 1f, 6f
    VECTORS vectors_nested, 2f
    VECTORS vectors_last_resort, 3f

    // The first exception: on a stack of its own, and with the next one going elsewhere.
1:
    adrp    x1, vectors_nested
    add     x1, x1, :lo12:vectors_nested
    msr     vbar_el1, x1
    isb
    mov     x4, sp
    mrs     x1, tpidr_el1
    ldr     x1, [x1, #{trap_stack}]
    mov     sp, x1
    mrs     x1, esr_el1
    mrs     x2, elr_el1
    mrs     x3, far_el1
    mov     x5, x30
    b       {first}

    // An exception inside the handler of the first.
2:
    adrp    x1, vectors_last_resort
    add     x1, x1, :lo12:vectors_last_resort
    msr     vbar_el1, x1
    isb
    mrs     x1, tpidr_el1
    ldr     x1, [x1, #{trap_stack}]
    mov     sp, x1
    mrs     x1, esr_el1
    mrs     x2, elr_el1
    mrs     x3, far_el1
    b       {second}

    // Not even a message can be printed.
3:
    adr     x1, 5f
    mov     x0, #0x18
    hlt     #0xf000
4:
    wfe
    b       4b
    .balign 8
5:
    .quad   0x20026
    .quad   {exit_panic}

    // Interrupts are masked until `eret`: only what a function may change has to be saved.
6:
    sub     sp, sp, #176
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x29, [sp, #144]
    str     x30, [sp, #160]
    bl      {interrupt}
    ldr     x30, [sp, #160]
    ldp     x18, x29, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp, #0]
    add     sp, sp, #176
    eret
    "#,
    first = sym first_trap,
    second = sym second_trap,
    interrupt = sym interrupt,
    trap_stack = const offset_of!(Local, trap_stack),
    exit_panic = const EXIT_PANIC,
);

extern "C" fn first_trap(
    vector: usize,
    syndrome: usize,
    pc: usize,
    address: usize,
    sp: usize,
    lr: usize,
) -> ! {
    trap::fatal(&Trap {
        what: name(vector, syndrome),
        code: syndrome,
        pc,
        address: has_address(syndrome).then_some(address),
        sp,
        return_address: lr,
    })
}

/// An IRQ, with interrupts masked.
extern "C" fn interrupt() {
    interrupts::dispatch();
}

extern "C" fn second_trap(vector: usize, syndrome: usize, pc: usize, address: usize) -> ! {
    trap::fatal_in_handler(name(vector, syndrome), pc, address)
}

/// The exception class: what FAR_EL1 and the words below depend on.
fn class(syndrome: usize) -> usize {
    (syndrome >> 26) & 0x3f
}

fn has_address(syndrome: usize) -> bool {
    matches!(class(syndrome), 0x20 | 0x21 | 0x22 | 0x24 | 0x25)
}

/// The cause in words.
fn name(vector: usize, syndrome: usize) -> &'static str {
    const WRITE: usize = 1 << 6;
    match vector % 4 {
        0 => {}
        1 => return "unexpected IRQ",
        2 => return "unexpected FIQ",
        _ => return "SError",
    }
    match class(syndrome) {
        0x00 => "unknown instruction",
        0x07 => "use of floating point",
        0x0e => "illegal execution state",
        0x15 => "supervisor call",
        0x20 | 0x21 => "instruction abort",
        0x22 => "misaligned program counter",
        0x24 | 0x25 if syndrome & WRITE != 0 => "data abort on a write",
        0x24 | 0x25 => "data abort on a read",
        0x26 => "misaligned stack pointer",
        0x3c => "breakpoint",
        _ => "unknown exception",
    }
}
