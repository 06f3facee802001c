//! `run=demo`: the tour for a person.
//!
//! What is there, then ten steps, each told with the values that decided it. A step that goes wrong
//! says what was expected and what was seen, and ends the tour.

mod stage;
mod steps;
mod tell;

use crate::arch::Firmware;
use crate::console::println;
use crate::logger;
use crate::report::{EXIT_FAIL, EXIT_PASS};
use stage::Stage;

/// A step that went wrong.
#[derive(Debug)]
pub struct Wrong {
    /// What should have been seen.
    pub expected: alloc::string::String,
    /// What was seen.
    pub seen: alloc::string::String,
}

/// What a step returns.
pub type Told<T = ()> = Result<T, Wrong>;

/// A step that goes wrong with `expected` instead of what was seen.
pub fn wrong<T>(expected: &str, seen: impl core::fmt::Display) -> Told<T> {
    Err(Wrong {
        expected: expected.into(),
        seen: alloc::format!("{seen}"),
    })
}

/// Runs the tour, and returns the exit code.
pub fn run(firmware: &Firmware) -> u32 {
    let steps = steps::STEPS.len();
    logger::show_requests_to_people();
    let mut passed = 0;
    if let Err(wrong) = tour(firmware, &mut passed) {
        println!("    FAILED");
        println!("      expected      {}", wrong.expected);
        println!("      seen          {}", wrong.seen);
    }
    println!();
    println!("demo: {passed} of {steps} steps ok");
    if passed == steps {
        EXIT_PASS
    } else {
        EXIT_FAIL
    }
}

fn tour(firmware: &Firmware, passed: &mut usize) -> Told {
    println!();
    println!(
        "A tour of virtio-iommu. The devices are QEMU's edu: a DMA engine that reads or writes up to"
    );
    println!(
        "4096 bytes at an address on the bus, with 28 bits of address, and does not notice refusals."
    );
    println!("Lines with -> are what the driver asked of the IOMMU, and what the answer was.");
    println!();
    println!("    The driver starts");
    let mut stage = Stage::set(firmware)?;
    println!();
    println!("    The IOMMU, and who is behind it");
    stage.introduce();
    for (number, (title, step)) in steps::STEPS.iter().enumerate() {
        println!();
        println!("{:>2}  {title}", number + 1);
        step(&mut stage)?;
        println!("    ok");
        *passed += 1;
    }
    Ok(())
}
