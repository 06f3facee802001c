//! From QEMU's jump to Rust: long mode, the page tables, the stack, and what says which CPU this is.

use core::arch::global_asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::registers::control::Cr3;

use crate::memory::direct_map;
use crate::{cpus, kernel_main};

/// The virtual address of physical address 0: the lowest address of the upper half.
///
/// `linker.ld` gets the same value on the command line; [`kernel_main`] compares the two.
pub const DIRECT_MAP: usize = 0xffff_8000_0000_0000;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// What tables cover pages of 2 MiB, in gibibytes: memory first, and then devices. `q35` has at
/// most 2 GiB of memory here, the ECAM behind it, the 32-bit PCI window, and the APICs.
const LOW: core::ops::Range<u64> = 0..4;
const LOW_DEVICES: core::ops::Range<u64> = 2..4;
/// More memory, in gibibytes, behind which are 64-bit PCI windows. In pages of 1 GiB.
const HIGH: core::ops::Range<u64> = 4..1024;
const HIGH_DEVICES: core::ops::Range<u64> = 16..1024;

/// Whether the direct map covers all of `len` bytes from `phys`.
pub fn mapped(phys: u64, len: u64) -> bool {
    match phys.checked_add(len) {
        Some(end) => end <= LOW.end * GIB || end <= reach(),
        None => false,
    }
}

/// The end of the direct map: that of the large pages, if the CPU knows them and has as many
/// physical addresses.
pub fn reach() -> u64 {
    const GIGAPAGES: u32 = 1 << 26;
    static REACH: AtomicU64 = AtomicU64::new(0);
    match REACH.load(Relaxed) {
        0 => {
            let reach = if extended(0x8000_0001).edx & GIGAPAGES == 0 {
                LOW.end * GIB
            } else {
                // 36 bits are what a CPU has that does not say.
                let bits = (extended(0x8000_0008).eax & 0xff).clamp(36, 52);
                (1 << bits).min(HIGH.end * GIB)
            };
            REACH.store(reach, Relaxed);
            reach
        }
        reach => reach,
    }
}

/// Whether the CPU translates a virtual address at all, as the page tables have it.
pub fn translates(address: usize) -> bool {
    const ADDRESSES: u64 = 0x000f_ffff_ffff_f000;
    // Bits 63 to 48 repeat bit 47, or the address is none.
    if ((address as isize) << 16) >> 16 != address as isize {
        return false;
    }
    let (root, _) = Cr3::read_raw();
    let mut table = root.start_address().as_u64();
    for shift in [39, 30, 21, 12] {
        let index = address >> shift & 0x1ff;
        let Some(entries) = direct_map::pointer(table, 4096) else {
            return false;
        };
        let entry = entries.cast::<u64>().as_ptr().wrapping_add(index);
        // SAFETY: an entry of a table of this kernel, which never changes.
        let entry = unsafe { entry.read_volatile() };
        if entry & PRESENT == 0 {
            return false;
        }
        // At the last level, the bit has another meaning.
        if entry & LARGE != 0 {
            return true;
        }
        table = entry & ADDRESSES;
    }
    true
}

/// What the CPU says about itself; zeros where it does not know the question.
fn extended(leaf: u32) -> core::arch::x86_64::CpuidResult {
    // Safe in newer compilers.
    #[allow(unused_unsafe)]
    // SAFETY: the instruction is part of the architecture.
    let last = unsafe { __cpuid(0x8000_0000) }.eax;
    let leaf = if leaf <= last { leaf } else { 0x8000_0000 };
    #[allow(unused_unsafe)]
    // SAFETY: as above.
    let mut result = unsafe { __cpuid(leaf) };
    if leaf == 0x8000_0000 {
        (result.eax, result.edx) = (0, 0);
    }
    result
}

/// A page table of one page.
#[repr(C, align(4096))]
struct Table([u64; 512]);

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const UNCACHED: u64 = 1 << 4;
// Set beforehand, so that the CPU does not have to write to the tables.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// The entry is a page of this level, not a table.
const LARGE: u64 = 1 << 7;
const NEVER_EXECUTE: u64 = 1 << 63;

const MEMORY_PAGE: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY | LARGE;
const DEVICE_PAGE: u64 = MEMORY_PAGE | WRITE_THROUGH | UNCACHED | NEVER_EXECUTE;

/// Level 2: the first 4 GiB, in pages of 2 MiB.
static LEVEL_2: [Table; 4] = [level_2(0), level_2(1), level_2(2), level_2(3)];
/// Level 3: the first 512 GiB. The entries that lead to `LEVEL_2` are filled in by the entry code,
/// because the addresses of tables are known to the linker only; in `.data` because that code runs
/// before `.bss` is cleared.
#[unsafe(link_section = ".data.level_3")]
static mut LEVEL_3: Table = level_3(0);
/// Level 3: the second 512 GiB.
static LEVEL_3_HIGH: Table = level_3(512);
/// Level 4: filled in by the entry code.
#[unsafe(link_section = ".data.level_4")]
static mut LEVEL_4: Table = Table([0; 512]);

const fn level_2(gib: u64) -> Table {
    let device = LOW_DEVICES.start <= gib && gib < LOW_DEVICES.end;
    let kind = if device { DEVICE_PAGE } else { MEMORY_PAGE };
    let mut table = [0; 512];
    let mut index = 0;
    while index < 512 {
        table[index] = (gib * GIB + index as u64 * 2 * MIB) | kind;
        index += 1;
    }
    Table(table)
}

const fn level_3(first: u64) -> Table {
    let mut table = [0; 512];
    let mut index = 0;
    while index < 512 {
        let gib = first + index as u64;
        let device = HIGH_DEVICES.start <= gib && gib < HIGH_DEVICES.end;
        if HIGH.start <= gib && gib < HIGH.end {
            table[index] = (gib * GIB) | if device { DEVICE_PAGE } else { MEMORY_PAGE };
        }
        index += 1;
    }
    Table(table)
}

/// Level 4 for the start of the second CPU, which is at a physical address for a moment.
static mut START_LEVEL_4: Table = Table([0; 512]);

unsafe extern "C" {
    /// The physical address of `_start`, from `linker.ld`.
    fn __entry_physical() -> !;
    /// What the second CPU begins with, and its end: position independent, for a page below 1 MiB.
    static second_trampoline_start: u8;
    static second_trampoline_end: u8;
}

/// What the second CPU begins with. It goes into a page below 1 MiB.
pub fn second_trampoline() -> &'static [u8] {
    let start = &raw const second_trampoline_start;
    let len = &raw const second_trampoline_end as usize - start as usize;
    // SAFETY: both are ends of the same piece of code, which never changes.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// Makes ready what the code behind [`second_trampoline`] needs. The page tables of this CPU stay as they are.
pub fn prepare_start() {
    let (root, _) = Cr3::read_raw();
    let root = root.start_address().as_u64();
    let Some(from) = direct_map::pointer(root, 4096) else {
        return;
    };
    let from = from.cast::<u64>().as_ptr();
    let to = (&raw mut START_LEVEL_4).cast::<u64>();
    for index in [256, 257] {
        // SAFETY: an entry of a table of this kernel, which never changes.
        let entry = unsafe { from.wrapping_add(index).read_volatile() };
        for index in [index, index - 256] {
            // SAFETY: an entry of a table that a CPU uses only while it starts.
            unsafe { to.wrapping_add(index).write_volatile(entry) };
        }
    }
}

// Tells the loader that this is a kernel for PVH, and where it begins.
pvh::xen_elfnote_phys32_entry!(__entry_physical);

// Entered at the physical address in 32-bit mode, without paging and without a stack;
// ebx = start info (physical).
//
// The instruction after the switch is fetched at its physical address, so for a moment the lower
// half has the same table as the upper half: then that is taken back, before Rust runs.
//
// CR4: physical address extension. EFER: long mode, never-execute. CR0: paging, protection of
// read-only pages in the kernel.
global_asm!(
    r#"
    // The base of gs: rdx.
    .macro  LOCAL
    movl    $0xc0000101, %ecx
    movl    %edx, %eax
    shrq    $32, %rdx
    wrmsr
    .endm

    .section .text.entry, "ax"
    .globl _start
    .code32
_start:
    cli
    cld
    movl    $({level_4} - {direct_map}), %edi
    movl    $({level_3} - {direct_map} + 3), %eax
    movl    %eax, (%edi)
    movl    %eax, 8 * 256(%edi)
    movl    $({level_3_high} - {direct_map} + 3), 8 * 257(%edi)

    movl    $({level_3} - {direct_map}), %esi
    movl    $({level_2} - {direct_map} + 3), %eax
    movl    $4, %ecx
1:
    movl    %eax, (%esi)
    addl    $4096, %eax
    addl    $8, %esi
    decl    %ecx
    jnz     1b

    movl    %edi, %cr3
    movl    %cr4, %eax
    orl     $(1 << 5), %eax
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx
    rdmsr
    orl     $(1 << 8 | 1 << 11), %eax
    wrmsr
    movl    %cr0, %eax
    orl     $(1 << 31 | 1 << 16), %eax
    movl    %eax, %cr0
    lgdtl   entry_gdt_low - {direct_map}
    ljmpl   $8, $(entry_long - {direct_map})

    .code64
entry_long:
    movabsq $2f, %rax
    jmpq    *%rax
2:
    lgdtq   entry_gdt_high(%rip)
    movl    $16, %eax
    movw    %ax, %ss
    movw    %ax, %ds
    movw    %ax, %es
    xorl    %eax, %eax
    movw    %ax, %fs
    movw    %ax, %gs
    movq    $0, {level_4}(%rip)
    movq    %cr3, %rax
    movq    %rax, %cr3

    // All gates lead to the last resort, until Rust knows better. The CPU needs a stack for that.
    leaq    __stack_top(%rip), %rsp
    leaq    {last_resort}(%rip), %rax
    movq    %rax, %rdx
    movzwl  %ax, %ecx
    orl     $(8 << 16), %ecx
    andl    $0xffff0000, %eax
    orl     $0x8e00, %eax
    shlq    $32, %rax
    orq     %rcx, %rax
    shrq    $32, %rdx
    leaq    {idt}(%rip), %rdi
    movl    $256, %ecx
3:
    movq    %rax, (%rdi)
    movq    %rdx, 8(%rdi)
    addq    $16, %rdi
    decl    %ecx
    jnz     3b
    lidtq   entry_idt(%rip)

    leaq    __bss_start(%rip), %rdi
    leaq    __bss_end(%rip), %rcx
    subq    %rdi, %rcx
    xorl    %eax, %eax
    rep stosb
    movl    %ebx, %edi
    leaq    _start(%rip), %rsi
    movabsq ${direct_map}, %rax
    subq    %rax, %rsi
    leaq    {first_local}(%rip), %rdx
    LOCAL
    xorl    %ebp, %ebp
    call    {main}
    ud2

    // The second CPU: 16-bit mode, cs = the page that this was copied to.
    .balign 16
    .globl second_trampoline_start
    .globl second_trampoline_end
    .code16
second_trampoline_start:
    cli
    cld
    movw    %cs, %ax
    movw    %ax, %ds
    lgdtl   second_gdt - second_trampoline_start
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $24, $(second_protected - {direct_map})
    .balign 8
second_gdt:
    .word   entry_gdt_end - entry_gdt - 1
    .long   entry_gdt - {direct_map}
second_trampoline_end:

    .code32
second_protected:
    movl    $16, %eax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $({start_level_4} - {direct_map}), %edi
    movl    %edi, %cr3
    movl    %cr4, %eax
    orl     $(1 << 5), %eax
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx
    rdmsr
    orl     $(1 << 8 | 1 << 11), %eax
    wrmsr
    // Caches are off after INIT.
    movl    %cr0, %eax
    andl    $~(1 << 30 | 1 << 29), %eax
    orl     $(1 << 31 | 1 << 16), %eax
    movl    %eax, %cr0
    ljmpl   $8, $(second_long - {direct_map})

    .code64
second_long:
    movabsq $4f, %rax
    jmpq    *%rax
4:
    lgdtq   entry_gdt_high(%rip)
    movl    $16, %eax
    movw    %ax, %ss
    movw    %ax, %ds
    movw    %ax, %es
    xorl    %eax, %eax
    movw    %ax, %fs
    movw    %ax, %gs
    leaq    {level_4}(%rip), %rax
    movabsq ${direct_map}, %rcx
    subq    %rcx, %rax
    movq    %rax, %cr3
    leaq    __second_stack_top(%rip), %rsp
    lidtq   entry_idt(%rip)
    leaq    {second_local}(%rip), %rdx
    LOCAL
    xorl    %ebp, %ebp
    call    {second_main}
    ud2

    .section .data.entry, "aw"
    .balign 8
entry_gdt:
    .quad   0
    .quad   0x00af9b000000ffff
    .quad   0x00cf93000000ffff
    .quad   0x00cf9b000000ffff
entry_gdt_end:
    .balign 8
entry_gdt_low:
    .word   entry_gdt_end - entry_gdt - 1
    .long   entry_gdt - {direct_map}
    .balign 8
entry_gdt_high:
    .word   entry_gdt_end - entry_gdt - 1
    .quad   entry_gdt
    .balign 8
entry_idt:
    .word   256 * 16 - 1
    .quad   {idt}
    "#,
    level_4 = sym LEVEL_4,
    level_3 = sym LEVEL_3,
    level_3_high = sym LEVEL_3_HIGH,
    level_2 = sym LEVEL_2,
    direct_map = const DIRECT_MAP,
    idt = sym super::trap::IDT,
    last_resort = sym super::trap::trap_last_resort,
    start_level_4 = sym START_LEVEL_4,
    first_local = sym cpus::FIRST,
    second_local = sym cpus::SECOND,
    main = sym kernel_main,
    second_main = sym cpus::second_main,
    options(att_syntax),
);
