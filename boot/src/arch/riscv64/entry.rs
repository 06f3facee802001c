//! From OpenSBI's jump to Rust: the MMU, the stack, and what says which hart this is.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{cpus, kernel_main};

/// The virtual address of physical address 0: the upper half of Sv39.
///
/// `linker.ld` gets the same value on the command line; [`kernel_main`] compares the two.
pub const DIRECT_MAP: usize = 0xffff_ffc0_0000_0000;

const GIB: u64 = 1 << 30;

/// Registers of devices, the ECAM and the 32-bit PCI window, in gibibytes.
const LOW_DEVICES: core::ops::Range<u64> = 0..2;
/// Memory.
const MEMORY: core::ops::Range<u64> = 2..16;
/// The 64-bit PCI window.
const HIGH_DEVICES: core::ops::Range<u64> = 16..32;

/// Whether the direct map covers all of `len` bytes from `phys`.
pub const fn mapped(phys: u64, len: u64) -> bool {
    match phys.checked_add(len) {
        Some(end) => end <= HIGH_DEVICES.end * GIB,
        None => false,
    }
}

/// Whether the CPU translates a virtual address at all, as the root table has it.
pub fn translates(address: usize) -> bool {
    // Bits 63 to 39 repeat bit 38, or the address is none.
    let canonical = ((address as isize) << 25) >> 25 == address as isize;
    canonical && ROOT.0[address >> 30 & 0x1ff] & 1 != 0
}

/// A page table of one page.
#[repr(C, align(4096))]
struct Table([u64; 512]);

/// The root table: gigapages in the upper half, nothing in the lower half.
static ROOT: Table = Table(root());

const fn root() -> [u64; 512] {
    const VALID: u64 = 1 << 0;
    const READ: u64 = 1 << 1;
    const WRITE: u64 = 1 << 2;
    const EXECUTE: u64 = 1 << 3;
    const GLOBAL: u64 = 1 << 5;
    // Set beforehand: a CPU may fault instead of setting them.
    const ACCESSED: u64 = 1 << 6;
    const DIRTY: u64 = 1 << 7;
    const DATA: u64 = VALID | READ | WRITE | GLOBAL | ACCESSED | DIRTY;

    let mut table = [0; 512];
    let mut gib = LOW_DEVICES.start;
    while gib < HIGH_DEVICES.end {
        let memory = MEMORY.start <= gib && gib < MEMORY.end;
        let rights = if memory { DATA | EXECUTE } else { DATA };
        // The physical page number starts at bit 10 and counts pages of 4 KiB.
        table[256 + gib as usize] = (gib << (30 - 12 + 10)) | rights;
        gib += 1;
    }
    table
}

/// The hart that this kernel boots on; written by the entry code.
static BOOT_HART: AtomicU64 = AtomicU64::new(0);

/// The hart that this kernel boots on, and that takes the interrupts.
pub fn boot_hart() -> u64 {
    BOOT_HART.load(Ordering::Relaxed)
}

unsafe extern "C" {
    /// Where the second hart begins, by its physical address and with the MMU off.
    pub fn second_start() -> !;
}

// Entered at the physical address with the MMU off; a0 = hart, a1 = device tree (physical), or
// nothing for the second hart.
//
// There is no identity mapping, not even for a moment: the first fetch with the MMU on faults, and
// the trap vector already is the virtual address of the next instruction.
global_asm!(
    r#"
    .macro  MMU_ON
    csrw    sie, zero
    lla     t0, {root}
    srli    t0, t0, 12
    li      t1, 8 << 60
    or      t0, t0, t1
    lla     t2, 1f
    li      t3, {direct_map}
    add     t2, t2, t3
    csrw    stvec, t2
    sfence.vma
    csrw    satp, t0
    nop
    .balign 4
1:
    lla     t0, {last_resort}
    csrw    stvec, t0
    // The compiler may use floating point registers.
    li      t0, 1 << 13
    csrs    sstatus, t0
    .endm

    .section .text.entry, "ax"
    .globl _start
_start:
    lla     s2, _start
    MMU_ON
    lla     sp, __stack_top
    lla     tp, {first_local}
    lla     t0, __bss_start
    lla     t1, __bss_end
2:
    bgeu    t0, t1, 3f
    sd      zero, 0(t0)
    addi    t0, t0, 8
    j       2b
3:
    lla     t0, {boot_hart}
    sd      a0, 0(t0)
    mv      a0, a1
    mv      a1, s2
    mv      ra, zero
    mv      fp, zero
    tail    {main}

    .globl second_start
second_start:
    MMU_ON
    lla     sp, __second_stack_top
    lla     tp, {second_local}
    mv      ra, zero
    mv      fp, zero
    tail    {second_main}
    "#,
    root = sym ROOT,
    boot_hart = sym BOOT_HART,
    direct_map = const DIRECT_MAP,
    last_resort = sym super::trap::trap_last_resort,
    first_local = sym cpus::FIRST,
    second_local = sym cpus::SECOND,
    main = sym kernel_main,
    second_main = sym cpus::second_main,
);
