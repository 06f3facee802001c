//! The handlers of each line.
//!
//! Lines are shared: every handler of a line is called, and each says whether its device was the
//! reason. A line that interrupts for nobody is masked, at once if it has no handlers (a message
//! of a device that is gone), otherwise after a few times (a race between a device and its
//! handler is not a fault): a level-triggered line would otherwise interrupt for ever.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Line, with_controller, without_interrupts};
use crate::lock::Mutex;

/// Whether the device of a handler was the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It was, and does not ask any more.
    Yes,
    /// It was not.
    No,
}

/// Called for the interrupts of a line, with interrupts masked.
pub trait Handler: Send + Sync {
    /// Looks whether the device is the reason, and quiets it. Must not allocate or wait.
    fn handle(&self) -> Handled;
}

/// Handlers at a time.
const PLACES: usize = 8;
/// Calls of the same handler for one interrupt.
const ROUNDS: u32 = 8;
/// How often in a row a line may interrupt for nobody.
const PATIENCE: u32 = 16;

#[derive(Clone)]
struct Entry {
    line: Line,
    handler: Arc<dyn Handler>,
    /// Interrupts in a row that nobody wanted; the same in all entries of a line.
    unwanted: u32,
}

static HANDLERS: Mutex<[Option<Entry>; PLACES]> = Mutex::new([const { None }; PLACES]);

static TAKEN: AtomicU64 = AtomicU64::new(0);
static UNWANTED: AtomicU64 = AtomicU64::new(0);
static MASKED: AtomicU64 = AtomicU64::new(0);

/// Interrupts so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Those that had a line.
    pub taken: u64,
    /// Those of them that no handler wanted.
    pub unwanted: u64,
    /// Lines that were masked because of that.
    pub masked: u64,
}

/// What was counted so far.
pub fn counters() -> Counters {
    Counters {
        taken: TAKEN.load(Relaxed),
        unwanted: UNWANTED.load(Relaxed),
        masked: MASKED.load(Relaxed),
    }
}

/// A handler that is called for a line until this is dropped.
#[must_use = "the handler goes with it"]
pub struct Registration {
    place: usize,
    line: Line,
}

/// Has a handler called for a line, and unmasks the line. It is called once at once: its device
/// may have asked before, at a time when that went unheard. `None` if there are too many handlers,
/// or no controller.
pub fn register(line: Line, handler: Arc<dyn Handler>) -> Option<Registration> {
    let entry = Entry {
        line,
        handler: handler.clone(),
        unwanted: 0,
    };
    let place = {
        let mut handlers = HANDLERS.lock();
        let place = handlers.iter().position(Option::is_none)?;
        *handlers.get_mut(place)? = Some(entry);
        place
    };
    let registration = Registration { place, line };
    with_controller(|controller| controller.enable(line))?;
    without_interrupts(|| handler.handle());
    Some(registration)
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut handlers = HANDLERS.lock();
        let entry = handlers.get_mut(self.place).and_then(Option::take);
        let shared = handlers
            .iter()
            .flatten()
            .any(|other| other.line == self.line);
        drop(handlers);
        if !shared {
            with_controller(|controller| controller.disable(self.line));
        }
        drop(entry);
    }
}

/// Calls all handlers of a line. False if the line is to be masked.
pub(super) fn call(line: Line) -> bool {
    TAKEN.fetch_add(1, Relaxed);
    let mut round = Round::default();
    let mut wanted = false;
    for _ in 0..ROUNDS {
        round = Round::of(line);
        wanted |= round.wanted;
        // With several devices, until none of them asks: a controller that looks at edges would
        // miss one that begins to ask while another still does.
        if !round.wanted || round.handlers < 2 {
            break;
        }
    }
    let known = round.handlers > 0;
    let mut keep = known;
    for entry in HANDLERS.lock().iter_mut().flatten() {
        if entry.line == line {
            entry.unwanted = if wanted { 0 } else { entry.unwanted + 1 };
            keep &= entry.unwanted < PATIENCE;
        }
    }
    if !wanted {
        UNWANTED.fetch_add(1, Relaxed);
    }
    if !keep {
        MASKED.fetch_add(1, Relaxed);
    }
    keep
}

/// One call of each handler of a line.
#[derive(Default)]
struct Round {
    handlers: u32,
    wanted: bool,
}

impl Round {
    fn of(line: Line) -> Self {
        let mut round = Self::default();
        for place in 0..PLACES {
            // The handlers run without the lock; the copy keeps them alive.
            let handler = match HANDLERS.lock().get(place) {
                Some(Some(entry)) if entry.line == line => entry.handler.clone(),
                _ => continue,
            };
            round.handlers += 1;
            round.wanted |= handler.handle() == Handled::Yes;
        }
        round
    }
}
