//! What happens after a trap: it is told in words, recorded, and the machine ends.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch;
use crate::console::{self, println};
use crate::memory::direct_map;
use crate::report::{self, EXIT_PANIC};

/// Makes the handler itself trap: the self test for a trap inside the trap handler.
pub static TRAP_IN_HANDLER: AtomicBool = AtomicBool::new(false);

/// What the CPU says about a trap.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// The cause in words.
    pub what: &'static str,
    /// The cause as the CPU encodes it.
    pub code: usize,
    /// The instruction.
    pub pc: usize,
    /// The address that the instruction used, where the CPU says so.
    pub address: Option<usize>,
    /// The stack pointer.
    pub sp: usize,
    /// Where the function would have returned to, usually.
    pub return_address: usize,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at pc {:#x}", self.what, self.pc)?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x} ({})", kind(address))?;
        }
        Ok(())
    }
}

/// What an address looks like.
fn kind(address: usize) -> &'static str {
    if address < 4096 {
        "a null pointer"
    } else if direct_map::contains(address) {
        "inside the direct map"
    } else if arch::mapped(address as u64, 1) {
        "not mapped: a physical address, used as a pointer?"
    } else {
        "not mapped"
    }
}

/// Ends the machine after the first trap.
pub fn fatal(trap: &Trap) -> ! {
    if TRAP_IN_HANDLER.load(Ordering::Relaxed) {
        let physical = (direct_map::phys_of_static(&TRAP_IN_HANDLER)) as *const u8;
        // SAFETY: not valid, and that is the point: the access traps.
        let _ = unsafe { physical.read_volatile() };
    }
    console::seize();
    println!("TRAP: {trap}");
    println!(
        "      cause {:#x}, stack pointer {:#x}, return address {:#x}",
        trap.code, trap.sp, trap.return_address
    );
    report::aborted("trap", format_args!("{trap}"));
    arch::exit(EXIT_PANIC)
}

/// Ends the machine after a trap in the handler of the first.
pub fn fatal_in_handler(what: &str, pc: usize, address: usize) -> ! {
    console::seize();
    println!("TRAP inside the trap handler: {what} at pc {pc:#x}, address {address:#x}");
    report::aborted(
        "trap_inside_the_trap_handler",
        format_args!("{what} at pc {pc:#x}, address {address:#x}"),
    );
    arch::exit(EXIT_PANIC)
}
