//! The interrupt of a disk: it ends the sleep of the CPU, and says nothing else.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{BlockError, NAP};
use crate::interrupts::{self, Handled, Handler, Line, Registration};

/// How a handler finds out whether its disk was the reason, and quiets it.
pub trait Quiet: Send + Sync + 'static {
    /// As [`Handler::handle`].
    fn quiet(&self) -> Handled;
}

/// Wakes the CPU.
pub struct Wake<Q: Quiet> {
    bell: Arc<Bell<Q>>,
    _registration: Registration,
}

struct Bell<Q> {
    disk: Q,
    rung: AtomicBool,
}

impl<Q: Quiet> Handler for Bell<Q> {
    fn handle(&self) -> Handled {
        let handled = self.disk.quiet();
        if handled == Handled::Yes {
            self.rung.store(true, Relaxed);
        }
        handled
    }
}

impl<Q: Quiet> Wake<Q> {
    /// Listens on a line.
    ///
    /// # Errors
    ///
    /// [`BlockError::Registers`] without a place for a handler.
    pub fn new(line: Line, disk: Q) -> Result<Self, BlockError> {
        let rung = AtomicBool::new(false);
        let bell = Arc::new(Bell { disk, rung });
        let registration = interrupts::register(line, bell.clone());
        Ok(Self {
            bell,
            _registration: registration.ok_or(BlockError::Registers("no place for a handler"))?,
        })
    }

    /// What quiets the disk.
    pub fn disk(&self) -> &Q {
        &self.bell.disk
    }

    /// Stops the CPU until the disk interrupts, for a while at most. Not at all if it has
    /// interrupted since the last time, or if `ready` holds already.
    pub fn sleep(&self, mut ready: impl FnMut() -> bool) {
        // That the time is over is no error: whoever waits looks at the clock.
        let _ = interrupts::sleep_until(NAP, || self.bell.rung.swap(false, Relaxed) || ready());
    }
}
