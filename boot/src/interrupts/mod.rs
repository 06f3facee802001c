//! Interrupts: who is called for which line, and how to wait for one.
//!
//! | module | idea |
//! |---|---|
//! | [`handlers`] | the handlers of each line, and what happens when there are none |
//! | [`intx`] | from the pin of a PCI function to a pin at the root bus |
//! | `device_tree` | from there to a line: `interrupt-map`, `interrupts` |
//!
//! On x86_64 the firmware has done both, and says so in each function's configuration space.
//!
//! The controllers themselves are in [`arch`](crate::arch). Nothing is enabled until
//! [`start`] is called: scenarios without interrupts run as if there were none.

#[cfg(not(target_arch = "x86_64"))]
pub mod device_tree;
pub mod handlers;
pub mod intx;

use core::fmt;
use core::time::Duration;

use virtio_iommu::topology::{HostBridge, RequesterId};
use virtio_iommu::{PhysAddr, topology::pci::PciTree};

use crate::arch;
use crate::arch::Firmware;
use crate::clock;
use crate::lock::{self, Mutex};

pub use handlers::{Handled, Handler, Registration, counters, register};

/// The number of an interrupt, as the controller of the machine counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line(pub u32);

/// A message-signalled interrupt: writing `data` to `address` raises `line`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The doorbell.
    pub address: PhysAddr,
    /// What is written to it.
    pub data: u32,
    /// What is raised then.
    pub line: Line,
}

/// Why there is no interrupt controller.
#[allow(dead_code, reason = "not every controller can fail in every way")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerError {
    /// The firmware describes none that this kernel can drive.
    NotFound,
    /// The description of the controller cannot be believed; what is wrong with it.
    Malformed(&'static str),
    /// Its registers are out of reach.
    OutOfReach(PhysAddr),
    /// There is no memory for its tables.
    NoMemory,
    /// It did not do what it was told.
    Stuck(&'static str),
}

/// Why an interrupt pin does not lead to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// There is no controller: [`start`] was not called, or failed.
    NoController,
    /// The function does not exist, or a bridge above it.
    UnknownFunction(RequesterId),
    /// The function has no interrupt pin.
    NoPin,
    /// The firmware does not say where the pin leads.
    NotDescribed,
    /// What the firmware says cannot be read.
    Malformed(&'static str),
    /// The pin leads to something that is not the controller, or not a line of it.
    NotALine,
}

/// Why there is no message-signalled interrupt.
#[allow(dead_code, reason = "not every controller can fail in every way")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// There is no controller: [`start`] was not called, or failed.
    NoController,
    /// The controller takes no messages.
    Unsupported,
    /// All its messages are in use.
    Exhausted,
    /// The controller did not do what it was told.
    Stuck(&'static str),
}

/// The controller, once it is started.
static CONTROLLER: Mutex<Option<arch::Controller>> = Mutex::new(None);

/// Finds the interrupt controller, and lets interrupts in. All lines are masked.
///
/// # Errors
///
/// [`ControllerError`].
pub fn start(firmware: &Firmware) -> Result<&'static str, ControllerError> {
    let controller = arch::Controller::find(firmware)?;
    let name = controller.name();
    *CONTROLLER.lock() = Some(controller);
    arch::interrupts_on();
    Ok(name)
}

fn with_controller<R>(work: impl FnOnce(&mut arch::Controller) -> R) -> Option<R> {
    CONTROLLER.lock().as_mut().map(work)
}

/// Runs `work` with interrupts masked.
fn without_interrupts<R>(work: impl FnOnce() -> R) -> R {
    let were_on = arch::interrupts_off();
    let result = work();
    if were_on {
        arch::interrupts_on();
    }
    result
}

/// The line of the interrupt pin of a PCI function.
///
/// # Errors
///
/// [`RouteError`].
pub fn line_of_function(
    firmware: &Firmware,
    bridge: &HostBridge,
    pci: &PciTree,
    function: RequesterId,
) -> Result<Line, RouteError> {
    let pin = intx::root_pin(pci, function)?;
    with_controller(|controller| controller.intx(firmware, bridge, pin))
        .unwrap_or(Err(RouteError::NoController))
}

/// The line of a virtio-mmio slot.
///
/// # Errors
///
/// [`RouteError`].
pub fn line_of_slot(firmware: &Firmware, base: PhysAddr) -> Result<Line, RouteError> {
    with_controller(|controller| controller.slot(firmware, base))
        .unwrap_or(Err(RouteError::NoController))
}

/// A new message-signalled interrupt for a function, by the id with which its writes arrive.
///
/// # Errors
///
/// [`MessageError`].
pub fn message(requester: RequesterId) -> Result<Message, MessageError> {
    with_controller(|controller| controller.message(requester))
        .unwrap_or(Err(MessageError::NoController))
}

/// Called by the trap code with interrupts masked: calls the handlers of everything that is
/// pending.
pub fn dispatch() {
    /// More than can be pending at once on any of the machines; a controller that goes on after
    /// that gets another trap.
    const AT_ONCE: usize = 64;
    for _ in 0..AT_ONCE {
        let Some(line) = with_controller(arch::Controller::claim).flatten() else {
            return;
        };
        let keep = handlers::call(line);
        with_controller(|controller| {
            // In this order: a PLIC takes no completion for a line that is masked.
            controller.complete(line);
            if !keep {
                controller.disable(line);
            }
        });
    }
}

/// A wait took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// How a wait went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slept {
    /// How often the CPU was stopped.
    pub times: u32,
}

/// Stops the CPU until `condition` holds, which has to be something that an interrupt handler
/// changes. It is looked at once before each sleep and never in between, with interrupts masked:
/// an interrupt between the look and the sleep ends the sleep at once.
///
/// # Errors
///
/// [`TimedOut`].
///
/// # Panics
///
/// If a lock is held: nobody could interrupt.
pub fn sleep_until(
    timeout: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Slept, TimedOut> {
    assert_eq!(lock::held(), 0, "asleep with a lock in hand");
    let deadline = clock::Deadline::after(timeout);
    without_interrupts(|| {
        arch::set_alarm(Some(clock::tick_after(timeout)));
        let mut times = 0;
        let result = loop {
            if condition() {
                break Ok(Slept { times });
            }
            if deadline.passed() {
                break Err(TimedOut);
            }
            times += 1;
            arch::sleep();
        };
        arch::set_alarm(None);
        result
    })
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.0)
    }
}
