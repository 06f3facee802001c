//! Exceptions are fatal, interrupts go to their handlers.

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::Cr2;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::{DEBUG_EXIT, interrupts};
use crate::cpus::{self, Local};
use crate::report::EXIT_PANIC;
use crate::trap::{self, Trap};

const VECTORS: usize = 256;

/// A gate: where the CPU goes for a vector.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Gate([u64; 2]);

impl Gate {
    /// To `target`, with interrupts off, and on a stack of the TSS (1 to 7), or the one that is in
    /// use (0).
    fn new(target: usize, stack: u64) -> Self {
        const PRESENT: u64 = 1 << 15;
        const INTERRUPT_GATE: u64 = 0xe << 8;
        const CODE_SEGMENT: u64 = 8;
        let target = target as u64;
        let low = target & 0xffff | CODE_SEGMENT << 16;
        let high = stack | INTERRUPT_GATE | PRESENT | target & 0xffff_0000;
        Self([low | high << 32, target >> 32])
    }
}

/// The gates. The entry code, which runs before `.bss` is cleared, makes all of them lead to
/// [`trap_last_resort`].
#[unsafe(link_section = ".data.idt")]
pub static mut IDT: [Gate; VECTORS] = [Gate([0; 2]); VECTORS];

/// Of each CPU.
static mut TSS: [TaskStateSegment; 2] = [TaskStateSegment::new(); 2];
static mut GDT: [GlobalDescriptorTable; 2] = [const { GlobalDescriptorTable::new() }; 2];

/// The stack of double faults: the reason may be the one of the others.
#[repr(C, align(16))]
struct Stack([u8; 16 << 10]);

static mut DOUBLE_FAULT_STACKS: [Stack; 2] = [const { Stack([0; 16 << 10]) }; 2];

/// Exceptions have the vectors below.
const FIRST_INTERRUPT: usize = 32;

/// The indices of the stacks in the TSS, as gates count them.
const SAME_STACK: u64 = 0;
const TRAP_STACK: u64 = 1;
const DOUBLE_FAULT: u64 = 2;

unsafe extern "C" {
    /// From `linker.ld`.
    static __stack_bottom: u8;
    static __second_stack_top: u8;
    /// The code that the gates lead to: 16 bytes for each vector.
    static trap_vectors: [[u8; 16]; VECTORS];
}

/// From now on an exception of this CPU ends in [`crate::trap`].
pub fn install_traps() {
    let local = cpus::this();
    let cpu = local.index();
    let tss = (&raw mut TSS).cast::<TaskStateSegment>().wrapping_add(cpu);
    let gdt = (&raw mut GDT)
        .cast::<GlobalDescriptorTable>()
        .wrapping_add(cpu);
    let double_fault_stack = (&raw const DOUBLE_FAULT_STACKS)
        .cast::<Stack>()
        .wrapping_add(cpu);
    // SAFETY: this function runs once on each start of a CPU, which alone looks at its own.
    let tss = unsafe { &mut *tss };
    tss.interrupt_stack_table[TRAP_STACK as usize - 1] = VirtAddr::from_ptr(local.trap_stack);
    tss.interrupt_stack_table[DOUBLE_FAULT as usize - 1] =
        VirtAddr::from_ptr(double_fault_stack.wrapping_add(1));
    // SAFETY: as above; the CPU is still on the table of the entry code.
    let gdt = unsafe { &mut *gdt };
    // The TSS of an earlier start is marked as in use.
    *gdt = GlobalDescriptorTable::new();
    // The same selectors as in the table of the entry code, so that no register has to change.
    gdt.append(Descriptor::kernel_code_segment());
    gdt.append(Descriptor::kernel_data_segment());
    let selector = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    // SAFETY: the selector is that of a TSS, which lives for ever.
    unsafe { load_tss(selector) };
    if cpu != 0 {
        // The gates are for all CPUs.
        return;
    }

    for vector in 0..VECTORS {
        const DOUBLE_FAULT_VECTOR: usize = 8;
        let target = &raw const trap_vectors as usize + 16 * vector;
        let stack = match vector {
            DOUBLE_FAULT_VECTOR => DOUBLE_FAULT,
            FIRST_INTERRUPT.. => SAME_STACK,
            _ => TRAP_STACK,
        };
        let gate = (&raw mut IDT).cast::<Gate>().wrapping_add(vector);
        // SAFETY: inside of the table. Nothing traps on the way; the code returns from interrupts
        // only.
        unsafe { gate.write_volatile(Gate::new(target, stack)) };
    }
}

// For each vector: the error code, or 0 where the CPU has none, and the number. The mask has the
// vectors with an error code.
//
// Interrupts are masked until `iretq`: only what a function may change has to be saved. The CPU
// has aligned the stack to 16 bytes before it put five words there; eleven more keep it aligned.
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 16
    .globl trap_vectors
trap_vectors:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector >= 32 || ((0x60227d00 >> vector) & 1) == 0
    pushq   $0
    .endif
    pushq   $vector
    .if vector < {first_interrupt}
    jmp     1f
    .else
    jmp     4f
    .endif
    .set vector, vector + 1
    .endr
    .balign 16

1:
    cld
    movq    %rsp, %rdi
    movq    %rbp, %rsi
    andq    $-16, %rsp
    incl    %gs:{depth}
    cmpl    $2, %gs:{depth}
    jb      2f
    je      3f
    jmp     {last_resort}
2:
    call    {first}
3:
    call    {second}

4:
    cld
    pushq   %rax
    pushq   %rcx
    pushq   %rdx
    pushq   %rsi
    pushq   %rdi
    pushq   %r8
    pushq   %r9
    pushq   %r10
    pushq   %r11
    leaq    72(%rsp), %rdi
    call    {interrupt}
    popq    %r11
    popq    %r10
    popq    %r9
    popq    %r8
    popq    %rdi
    popq    %rsi
    popq    %rdx
    popq    %rcx
    popq    %rax
    addq    $16, %rsp
    iretq
    "#,
    depth = const offset_of!(Local, traps),
    first = sym first_trap,
    second = sym second_trap,
    interrupt = sym interrupt,
    first_interrupt = const FIRST_INTERRUPT,
    last_resort = sym trap_last_resort,
    options(att_syntax),
);

/// An exception where not even a message can be printed: ends the emulator without memory or a
/// stack. (The CPU has used one to get here; where it cannot, it resets.)
#[unsafe(naked)]
pub extern "C" fn trap_last_resort() {
    naked_asm!(
        "mov eax, {code}",
        "mov edx, {port}",
        "out dx, al",
        "2: hlt",
        "jmp 2b",
        port = const DEBUG_EXIT,
        code = const EXIT_PANIC >> 1,
    )
}

/// What is on the stack.
#[repr(C)]
struct Frame {
    vector: usize,
    error: usize,
    pc: usize,
    _code_segment: usize,
    _flags: usize,
    sp: usize,
}

/// The first exception: on a stack of its own.
extern "C" fn first_trap(frame: &Frame, frame_pointer: usize) -> ! {
    trap::fatal(&Trap {
        what: name(frame),
        code: frame.vector << 32 | frame.error,
        pc: frame.pc,
        address: (frame.vector == PAGE_FAULT).then(fault_address),
        sp: frame.sp,
        return_address: return_address(frame_pointer),
    })
}

/// An exception inside the handler of the first.
extern "C" fn second_trap(frame: &Frame, _: usize) -> ! {
    trap::fatal_in_handler(name(frame), frame.pc, fault_address())
}

/// An interrupt, with interrupts masked: on the stack that it found.
extern "C" fn interrupt(frame: &Frame) {
    // There are no more vectors than that.
    if interrupts::arrived(frame.vector as u8) {
        return;
    }
    trap::fatal(&Trap {
        what: name(frame),
        code: frame.vector << 32,
        pc: frame.pc,
        address: None,
        sp: frame.sp,
        return_address: 0,
    })
}

fn fault_address() -> usize {
    Cr2::read_raw() as usize
}

/// Where the function returns to that set the frame pointer up; 0 if there is none.
fn return_address(frame_pointer: usize) -> usize {
    let stack = &raw const __stack_bottom as usize..&raw const __second_stack_top as usize - 16;
    if !stack.contains(&frame_pointer) || !frame_pointer.is_multiple_of(8) {
        return 0;
    }
    let above = (frame_pointer + 8) as *const usize;
    // SAFETY: an aligned word of the stacks, of which this CPU's is among them.
    unsafe { above.read() }
}

const PAGE_FAULT: usize = 14;

/// The cause in words.
fn name(frame: &Frame) -> &'static str {
    const WRITE: usize = 1 << 1;
    const RESERVED: usize = 1 << 3;
    const FETCH: usize = 1 << 4;
    match frame.vector {
        0 => "division by zero",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid instruction",
        7 => "use of floating point",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        PAGE_FAULT if frame.error & RESERVED != 0 => "malformed page table",
        PAGE_FAULT if frame.error & FETCH != 0 => "instruction page fault",
        PAGE_FAULT if frame.error & WRITE != 0 => "page fault on a write",
        PAGE_FAULT => "page fault on a read",
        16 | 19 => "floating point exception",
        17 => "misaligned access",
        18 => "machine check",
        21 => "control protection exception",
        FIRST_INTERRUPT.. => "unexpected interrupt",
        _ => "unknown exception",
    }
}
