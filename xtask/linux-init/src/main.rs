//! The one program of the Linux guest that this driver is measured against: `/init` of an initramfs, without a
//! standard library and without any other program beside it.
//!
//! It is built for the same bare-metal target as the kernel of this project, so that nothing more has to be installed
//! for it, and speaks to Linux by system calls alone. What it does is in `/plan`, line by line: the modules to load, the
//! disks and how each is to be mapped, the phases to measure. It says what it did in the words of the kernel of this
//! project, and ends QEMU by the same exit code.
//!
//! | module | what it does |
//! |---|---|
//! | `system` | system calls, as functions |
//! | `text` | a line or a path, without an allocator |
//! | `plan` | reads `/plan` |
//! | `machine` | mounts, modules, the types of IOMMU groups, disks |
//! | `buffer` | memory whose pages are physically adjacent, or not |
//! | `transfer` | I/Os, one at a time and many at once |
//! | `phase` | one measured phase |
//! | `counter` | the counter of instructions |
//! | `counted` | instructions of I/Os, and how many were waited for |
//! | `console` | records, and the end |

#![no_std]
#![no_main]

mod buffer;
mod console;
mod counted;
mod counter;
mod machine;
mod phase;
mod plan;
mod system;
mod text;
mod transfer;

use buffer::{Buffer, Layout};
use console::{Console, FAILURE, PANIC, SUCCESS};
use counter::Counter;
use machine::{Disks, Marker};
use plan::{Line, Measure};
use system::Failure;

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    // The stack pointer is aligned as a function wants it.
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "bl start",
    "brk #0",
);

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call start",
    "ud2",
);

/// Called by `_start`, on the stack that Linux made.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    let mut console = match machine::mount().and_then(|()| Console::open()) {
        Ok(console) => console,
        // Nobody would hear why.
        Err(_) => console::exit(PANIC),
    };
    let code = match run(&mut console) {
        Ok(()) => SUCCESS,
        Err(failure) => {
            console.failed(&failure);
            FAILURE
        }
    };
    console.drain();
    console::exit(code)
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut console) = Console::open() {
        console.line(format_args!("{info}"));
        console.drain();
    }
    console::exit(PANIC)
}

fn run(console: &mut Console) -> Result<(), Failure> {
    let text = system::read_whole(c"/plan")?;
    let measure = plan::measure(text)?;
    console.plan(match measure {
        Measure::Instructions => 6,
        Measure::Counts | Measure::Time => 5,
    });

    let mut disks = Disks::new();
    let mut marker = None;
    let mut space = 0;
    for line in plan::lines(text) {
        match line? {
            Line::Space(bytes) => space = bytes,
            Line::Load(module) => machine::load(module)?,
            Line::Disk(disk) => disks.push(disk)?,
            Line::Groups => disks.set_groups()?,
            Line::Marker(address) => marker = Some(Marker::open(address)?),
            _ => {}
        }
    }
    let marker = marker.ok_or(Failure::of("the plan has no marker"))?;
    disks.open()?;
    disks.check_groups()?;
    console.passed("every_disk_is_mapped_as_it_was_asked_for");

    let scattered = Buffer::new(Layout::Scattered)?;
    let contiguous = Buffer::new(Layout::Contiguous)?;
    console.passed("the_pages_of_the_buffers_lie_as_they_were_asked_for");
    disks.check_content(&contiguous)?;
    console.passed("all_disks_read_and_write_the_same_content");

    let counter = match measure {
        Measure::Instructions => {
            let counter = Counter::open()?;
            counter.check()?;
            console.passed("the_counter_counts_instructions");
            Some(counter)
        }
        Measure::Counts | Measure::Time => None,
    };
    let bench = phase::Bench {
        measure,
        disks: &disks,
        space,
        buffers: [&scattered, &contiguous],
        marker: &marker,
        counter: counter.as_ref(),
        queue: transfer::Queue::new()?,
    };
    for line in plan::lines(text) {
        match line? {
            Line::Warm(job) => bench.warm(&job)?,
            Line::Phase(job) => bench.measure(&job, console)?,
            Line::Rest(milliseconds) => system::sleep(milliseconds)?,
            _ => {}
        }
    }
    console.passed("all_phases_are_told");
    disks.check_groups()?;
    console.passed("every_disk_is_still_mapped_as_it_was_asked_for");
    console.end();
    Ok(())
}
