//! The kernel that proves `virtio-iommu`.
//!
//! It boots on QEMU's `virt` and `q35` machines, finds the IOMMU, starts the driver and lets QEMU's
//! `edu` device do real DMA. The boot arguments say what runs: `run=demo` for a person,
//! `scenario=NAME` for the test harness, `bench=NAME` for `cargo xtask bench`. The exit code says how it went: 33 passed, 35 failed,
//! 37 panicked; 0 never means anything.
//!
//! | module | idea |
//! |---|---|
//! | [`arch`] | what differs between the architectures |
//! | [`console`], [`logger`], [`report`] | what comes out of the serial line |
//! | [`memory`], [`clock`], `device_tree`, `acpi` | what the machine has |
//! | [`lock`], [`interrupts`] | who may interrupt whom, and how to wait for it |
//! | [`cpus`] | what each CPU has of its own, and how the second one is put to work |
//! | [`platform`] | what the driver under test gets from this kernel |
//! | [`config_space`], [`machine`] | PCI, the IOMMU |
//! | [`edu`], [`block`] | the devices that do DMA |
//! | [`demo`], [`scenarios`], [`bench`] | what runs |

#![no_std]
#![no_main]

extern crate alloc;

#[cfg(target_arch = "x86_64")]
mod acpi;
mod arch;
mod bench;
mod block;
mod buffer;
mod clock;
mod command_line;
mod config_space;
mod console;
mod counted;
mod cpus;
mod demo;
#[cfg(not(target_arch = "x86_64"))]
mod device_tree;
mod ecam;
mod edu;
mod interrupts;
mod lock;
mod logger;
mod machine;
mod memory;
mod panic;
mod platform;
mod refusal;
mod registers;
mod report;
mod scenarios;
mod trap;

use command_line::Run;
use console::println;
use report::{EXIT_PANIC, Report};

unsafe extern "C" {
    /// The first byte of the kernel, from `linker.ld`.
    static __kernel_start: u8;
}

/// What the entry code jumps to: the MMU is on, the stack is set up, a register says which CPU this
/// is.
///
/// `register` is what the boot protocol hands over: the physical address of the device tree, or 0,
/// or that of the start info of PVH; `load` is the physical address of the kernel.
extern "C" fn kernel_main(register: usize, load: usize) -> ! {
    // The kernel and its link script have to agree, or no pointer means what it says.
    if &raw const __kernel_start as usize != arch::DIRECT_MAP.wrapping_add(load) {
        arch::exit(EXIT_PANIC);
    }
    arch::install_traps();
    if !console::open() {
        arch::exit(EXIT_PANIC);
    }
    println!();
    println!(
        "viommu-boot {} on {}",
        env!("CARGO_PKG_VERSION"),
        arch::NAME
    );
    arch::exit(run(register as u64))
}

/// Runs what the boot arguments ask for, and returns the exit code.
fn run(register: u64) -> u32 {
    let firmware = match arch::Firmware::find(register) {
        Ok(firmware) => firmware,
        Err(error) => return refuse(error),
    };
    if let Err(error) = memory::init(&firmware) {
        return refuse(error);
    }
    let Some(frequency) = arch::ticks_per_second(&firmware) else {
        return refuse("nothing says how fast the clock ticks");
    };
    clock::init(frequency);
    logger::init();

    match command_line::parse(firmware.arguments) {
        Ok(Run::Demo) => demo::run(&firmware),
        Ok(Run::Scenario(name)) => {
            if command_line::holds(firmware.arguments) {
                console::let_hold();
            }
            scenarios::run(name, &firmware)
        }
        Ok(Run::Bench(name, options)) => bench::run(name, options, &firmware),
        Err(error) => {
            println!("boot arguments: {:?}", firmware.arguments);
            refuse(error)
        }
    }
}

/// Nothing can run: says why, in the words of the test protocol too.
fn refuse(why: &str) -> u32 {
    println!("viommu-boot: {why}");
    let mut report = Report::begin();
    report.plan(1);
    report.fail("nothing_to_run", format_args!("{why}"));
    report.end()
}
