//! From QEMU's jump to Rust: the MMU, the stack, and what says which CPU this is.

use core::arch::{asm, global_asm};

use crate::report::EXIT_PANIC;
use crate::{cpus, kernel_main};

/// The virtual address of physical address 0: the lowest address that TTBR1 translates.
///
/// `linker.ld` gets the same value on the command line; [`kernel_main`] compares the two.
pub const DIRECT_MAP: usize = 0xffff_0000_0000_0000;

const GIB: u64 = 1 << 30;

/// Memory, in gibibytes. Below are flash, devices and the 32-bit PCI window.
const MEMORY: core::ops::Range<u64> = 1..16;
/// The gibibyte of the ECAM, at 0x40_1000_0000.
const ECAM: u64 = 256;
/// The 64-bit PCI window.
const HIGH_DEVICES: core::ops::Range<u64> = 512..1024;

/// Whether the direct map covers all of `len` bytes from `phys`.
pub const fn mapped(phys: u64, len: u64) -> bool {
    let Some(end) = phys.checked_add(len) else {
        return false;
    };
    end <= MEMORY.end * GIB
        || (phys >= ECAM * GIB && end <= (ECAM + 1) * GIB)
        || (phys >= HIGH_DEVICES.start * GIB && end <= HIGH_DEVICES.end * GIB)
}

/// Whether the CPU translates a virtual address at all, as it says itself.
pub fn translates(address: usize) -> bool {
    const FAILED: u64 = 1 << 0;
    let result: u64;
    // SAFETY: has the CPU look the address up for a read, without reading; the result is in a
    // register that nothing else uses.
    unsafe {
        asm!(
            "at s1e1r, {address}",
            "isb",
            "mrs {result}, par_el1",
            address = in(reg) address,
            result = lateout(reg) result,
            options(nostack),
        );
    }
    result & FAILED == 0
}

/// A translation table of one page.
#[repr(C, align(4096))]
struct Table([u64; 512]);

/// Level 1: the first 512 GiB, in blocks of 1 GiB.
static LOW: Table = Table(level_1(0));
/// Level 1: the second 512 GiB.
static HIGH: Table = Table(level_1(512));

const fn level_1(first: u64) -> [u64; 512] {
    const BLOCK: u64 = 0b01;
    const ACCESSED: u64 = 1 << 10;
    const INNER_SHAREABLE: u64 = 0b11 << 8;
    /// Index 0 of MAIR: normal memory, write back.
    const NORMAL: u64 = 0 << 2;
    /// Index 1 of MAIR: Device-nGnRE.
    const DEVICE: u64 = 1 << 2;
    const NEVER_EXECUTE: u64 = 0b11 << 53;

    let mut table = [0; 512];
    let mut entry = 0;
    while entry < 512 {
        let gib = first + entry;
        let memory = MEMORY.start <= gib && gib < MEMORY.end;
        let high = HIGH_DEVICES.start <= gib && gib < HIGH_DEVICES.end;
        let device = gib < MEMORY.start || gib == ECAM || high;
        if memory {
            table[entry as usize] = (gib * GIB) | BLOCK | ACCESSED | INNER_SHAREABLE | NORMAL;
        } else if device {
            table[entry as usize] = (gib * GIB) | BLOCK | ACCESSED | DEVICE | NEVER_EXECUTE;
        }
        entry += 1;
    }
    table
}

unsafe extern "C" {
    /// Where the second CPU begins, by its physical address and with the MMU off.
    pub fn second_start() -> !;
}

// Entered at the physical address with the MMU off; x0 = device tree (physical) or 0, or nothing
// for the second CPU.
//
// The instruction after the switch is fetched at its physical address, so for a moment TTBR0 has
// the same table as TTBR1: then it is switched off, before Rust runs.
//
// MAIR: 0 = normal memory, write back; 1 = Device-nGnRE.
// TCR: 48 bits and 4 KiB pages in both halves, write back, inner shareable, 40 physical bits.
// SCTLR: MMU, data cache, instruction cache on; alignment checking off.
global_asm!(
    r#"
    // x1 = level 0 (physical).
    .macro  MMU_ON
    movz    x2, #0x04ff
    msr     mair_el1, x2
    ldr     x2, ={tcr}
    msr     tcr_el1, x2
    msr     ttbr0_el1, x1
    msr     ttbr1_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    mrs     x2, sctlr_el1
    ldr     x3, =0x1005
    orr     x2, x2, x3
    bic     x2, x2, #2
    msr     sctlr_el1, x2
    isb
    ldr     x2, =1f
    br      x2
1:
    mrs     x2, tcr_el1
    orr     x2, x2, #(1 << 7)
    msr     tcr_el1, x2
    msr     ttbr0_el1, xzr
    isb
    tlbi    vmalle1
    dsb     nsh
    isb

    adrp    x2, {last_resort}
    add     x2, x2, :lo12:{last_resort}
    msr     vbar_el1, x2
    isb
    .endm

    .section .text.entry, "ax"
    .globl _start
_start:
    mov     x19, x0
    mrs     x0, CurrentEL
    cmp     x0, #(1 << 2)
    b.ne    9f
    msr     daifset, #0xf
    adr     x20, _start

    // Level 0: two entries, because the addresses of tables are known to the linker only.
    adrp    x1, {level_0}
    adrp    x2, {low}
    orr     x2, x2, #3
    str     x2, [x1]
    adrp    x2, {high}
    orr     x2, x2, #3
    str     x2, [x1, #8]
    dsb     sy
    MMU_ON
    ldr     x2, =__stack_top
    mov     sp, x2
    ldr     x2, ={first_local}
    msr     tpidr_el1, x2
    ldr     x2, =__bss_start
    ldr     x3, =__bss_end
2:
    cmp     x2, x3
    b.hs    3f
    str     xzr, [x2], #8
    b       2b
3:
    mov     x0, x19
    mov     x1, x20
    mov     x29, xzr
    mov     x30, xzr
    b       {main}

    .globl second_start
second_start:
    mrs     x0, CurrentEL
    cmp     x0, #(1 << 2)
    b.ne    9f
    msr     daifset, #0xf
    adrp    x1, {level_0}
    MMU_ON
    ldr     x2, =__second_stack_top
    mov     sp, x2
    ldr     x2, ={second_local}
    msr     tpidr_el1, x2
    mov     x29, xzr
    mov     x30, xzr
    b       {second_main}

    // Not at EL1: nothing is set up for that, and nobody could read a message.
9:
    adr     x1, 8f
    mov     x0, #0x18
    hlt     #0xf000
7:
    wfe
    b       7b
    .balign 8
8:
    .quad   0x20026
    .quad   {exit_panic}
    "#,
    level_0 = sym LEVEL_0,
    low = sym LOW,
    high = sym HIGH,
    tcr = const tcr(),
    last_resort = sym super::trap::trap_last_resort,
    exit_panic = const EXIT_PANIC,
    first_local = sym cpus::FIRST,
    second_local = sym cpus::SECOND,
    main = sym kernel_main,
    second_main = sym cpus::second_main,
);

/// Level 0; filled by the entry code, and in `.data` because that code runs before `.bss` is
/// cleared.
#[unsafe(link_section = ".data.level_0")]
static mut LEVEL_0: Table = Table([0; 512]);

const fn tcr() -> u64 {
    /// 64 - 48 bits.
    const SIZE: u64 = 16;
    const WRITE_BACK: u64 = 0b0101 << 8;
    const INNER_SHAREABLE: u64 = 0b11 << 12;
    const HALF: u64 = SIZE | WRITE_BACK | INNER_SHAREABLE;
    /// The granule of the upper half; that of the lower half is 0.
    const UPPER_4_KIB: u64 = 0b10 << 30;
    const PHYSICAL_40_BITS: u64 = 0b010 << 32;
    HALF | (HALF << 16) | UPPER_4_KIB | PHYSICAL_40_BITS
}
