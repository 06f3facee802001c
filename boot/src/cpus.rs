//! The CPUs: what each has of its own, and how the second one is put to work.
//!
//! The kernel boots on one CPU. A second one is started by [`spawn`] for one piece of work, and
//! switches itself off when that is done. It takes no interrupts.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

use crate::arch::{self, Firmware};
use crate::clock::Deadline;
use crate::lock::{Held, Mutex};

/// What a CPU has of its own: the entry code keeps its address in a register.
#[repr(C, align(64))]
pub struct Local {
    /// Its own address, for a CPU that only reaches memory through that register, and not the
    /// register itself.
    #[allow(dead_code, reason = "read by some architectures, in assembly")]
    pub myself: &'static Local,
    /// The end of the stack of its traps.
    #[allow(dead_code, reason = "read in assembly by some architectures")]
    pub trap_stack: *const u8,
    /// Exceptions that nothing came back from.
    #[allow(dead_code, reason = "counted by some architectures, in assembly")]
    pub traps: AtomicU32,
    /// The locks that it holds.
    pub locks: Held,
    /// Bytes of the heap that it took, less those that it gave back, modulo 2^64.
    pub heap: AtomicUsize,
    /// It has begun to tell of a panic.
    pub panicking: AtomicBool,
    index: usize,
}

// SAFETY: the pointer is for nobody but the trap code of that CPU; the rest is atomic or constant.
unsafe impl Sync for Local {}

unsafe extern "C" {
    /// From `linker.ld`.
    static __trap_stack_top: u8;
    static __second_trap_stack_top: u8;
}

/// The CPU that the kernel boots on.
pub static FIRST: Local = Local::new(&FIRST, 0, &raw const __trap_stack_top);
/// The other one.
pub static SECOND: Local = Local::new(&SECOND, 1, &raw const __second_trap_stack_top);

impl Local {
    const fn new(myself: &'static Self, index: usize, trap_stack: *const u8) -> Self {
        Self {
            myself,
            trap_stack,
            traps: AtomicU32::new(0),
            locks: Held::none(),
            heap: AtomicUsize::new(0),
            panicking: AtomicBool::new(false),
            index,
        }
    }

    /// 0 for the CPU that the kernel boots on, 1 for the other.
    pub fn index(&self) -> usize {
        self.index
    }
}

/// What this CPU has of its own.
#[inline]
pub fn this() -> &'static Local {
    arch::local()
}

/// How long a CPU may take to switch off, and how long it may take to come up.
const SWITCH: Duration = Duration::from_secs(5);

/// Why nothing runs on a second CPU.
#[allow(dead_code, reason = "not every architecture can fail in every way")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The firmware describes no other CPU.
    NotFound,
    /// The description cannot be believed, or this kernel cannot do what it asks for; which.
    Malformed(&'static str),
    /// The work before is not done, or its CPU never came up.
    Busy,
    /// It is on already.
    StillOn,
    /// The firmware did not want to; its error code.
    Refused(i64),
    /// It was started and did not come.
    NoAnswer,
}

/// The work was not done in time. It may still be going on, and its CPU is not used again before
/// it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

/// The second CPU is off, or about to be.
const OFF: u32 = 0;
/// It was told to start.
const CALLED: u32 = 1;
/// It has come up and works.
const AT_WORK: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(OFF);

type Work = Box<dyn FnOnce() + Send>;

static WORK: Mutex<Option<Work>> = Mutex::new(None);

/// Work of the second CPU.
#[must_use = "nobody else waits for it"]
pub struct Job<T>(Arc<Mutex<Option<T>>>);

/// Starts the second CPU, and has it do `work`. Whatever that needs moves over: it may never come
/// back.
///
/// # Errors
///
/// [`StartError`]; `work` is dropped, or lost with [`StartError::NoAnswer`].
pub fn spawn<T: Send + 'static>(
    firmware: &Firmware,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Job<T>, StartError> {
    STATE
        .compare_exchange(OFF, CALLED, Ordering::Acquire, Ordering::Relaxed)
        .map_err(|_| StartError::Busy)?;
    let result = Arc::new(Mutex::new(None));
    let place = result.clone();
    *WORK.lock() = Some(Box::new(move || *place.lock() = Some(work())));
    let deadline = Deadline::after(SWITCH);
    let started = loop {
        match arch::start_second(firmware) {
            // It said that it would switch itself off, and may need a moment for it.
            Err(StartError::StillOn) if !deadline.passed() => arch::relax(),
            started => break started,
        }
    };
    if let Err(error) = started {
        let work = WORK.lock().take();
        drop(work);
        STATE.store(OFF, Ordering::Release);
        return Err(error);
    }
    let deadline = Deadline::after(SWITCH);
    while STATE.load(Ordering::Acquire) == CALLED {
        if deadline.passed() {
            return Err(StartError::NoAnswer);
        }
        arch::relax();
    }
    Ok(Job(result))
}

impl<T> Job<T> {
    /// Waits until the work is done.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    pub fn join(self, timeout: Duration) -> Result<T, TimedOut> {
        let deadline = Deadline::after(timeout);
        while STATE.load(Ordering::Acquire) != OFF {
            if deadline.passed() {
                return Err(TimedOut);
            }
            arch::relax();
        }
        self.0.lock().take().ok_or(TimedOut)
    }
}

/// What the entry code of the second CPU jumps to: everything is as for [`crate::kernel_main`].
pub extern "C" fn second_main() -> ! {
    arch::install_traps();
    STATE.store(AT_WORK, Ordering::Release);
    let work = WORK.lock().take();
    if let Some(work) = work {
        // It takes everything with it that is not the result.
        work();
    }
    STATE.store(OFF, Ordering::Release);
    arch::switch_off()
}
