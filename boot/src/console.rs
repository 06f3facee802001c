//! Everything that comes out of the serial line.

use core::fmt::{self, Write};
use core::hint;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crate::lock::Mutex;
use crate::{arch, cpus};

/// The start of each record of the protocol with the test harness, and its version.
const RECORD: &str = "@viommu 1 ";

static OUTPUT: Mutex<Output> = Mutex::new(Output {
    console: None,
    line_open: false,
});

/// Nobody, where a CPU is named; otherwise it is the index plus one.
const NOBODY: usize = 0;
/// Who has the lock of [`OUTPUT`].
static HOLDER: AtomicUsize = AtomicUsize::new(NOBODY);
/// Who has taken the console for good, to end the machine.
static SEIZED_BY: AtomicUsize = AtomicUsize::new(NOBODY);
/// How often the CPU that ends the machine looks whether the other one has ended its line.
const PATIENCE: u32 = 10_000_000;

/// The serial line, while nobody else writes to it.
pub struct Output {
    console: Option<arch::Console>,
    /// Whether the last line still waits for its end.
    line_open: bool,
}

// SAFETY: the registers of the serial port belong to the machine, not to a thread.
unsafe impl Send for Output {}

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let (Some(console), Some(last)) = (&mut self.console, text.as_bytes().last()) {
            console.write(text.as_bytes());
            self.line_open = *last != b'\n';
        }
        Ok(())
    }
}

impl Output {
    fn end_line(&mut self) {
        if self.line_open {
            let _ = self.write_str("\n");
        }
    }

    /// Prints a record for the test harness, on a line of its own.
    pub fn record(&mut self, text: fmt::Arguments<'_>) {
        self.end_line();
        let _ = self.write_str(RECORD);
        let _ = OneLine(self).write_fmt(text);
        let _ = self.write_str("\n");
    }
}

/// Keeps a record on its one line, whatever is written into it.
struct OneLine<'a>(&'a mut Output);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.strip_suffix(char::is_control) {
                Some(clean) => write!(self.0, "{clean} ")?,
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Does something that the output of the other CPU must not come into. If that CPU is ending the
/// machine, this never returns.
pub fn exclusively<R>(work: impl FnOnce(&mut Output) -> R) -> R {
    let me = cpus::this().index() + 1;
    if SEIZED_BY.load(Ordering::Relaxed) == me {
        let output = OUTPUT.data_ptr();
        // SAFETY: this CPU never returns to where it may hold the lock, and the other one has
        // given it up, or is stuck with it; it does not come beyond the look below any more.
        return work(unsafe { &mut *output });
    }
    let mut output = OUTPUT.lock();
    HOLDER.store(me, Ordering::Relaxed);
    // Either `seize` sees that the lock is taken, or this sees that the console is.
    fence(Ordering::SeqCst);
    let seized = SEIZED_BY.load(Ordering::Relaxed) != NOBODY;
    let result = (!seized).then(|| work(&mut output));
    HOLDER.store(NOBODY, Ordering::Relaxed);
    drop(output);
    match result {
        Some(result) => result,
        None => arch::park(),
    }
}

/// Sets the serial port up. False if there is none.
pub fn open() -> bool {
    exclusively(|output| {
        if output.console.is_none() {
            // SAFETY: only this module uses the serial port, and it opens it once.
            output.console = unsafe { arch::Console::open() };
        }
        output.console.is_some()
    })
}

/// Prints text for people.
pub fn print(text: fmt::Arguments<'_>) {
    let _ = exclusively(|output| output.write_fmt(text));
}

/// Prints a record for the test harness, on a line of its own.
pub fn record(text: fmt::Arguments<'_>) {
    exclusively(|output| output.record(text));
}

/// How often a guest that waits looks at its serial line: many seconds.
const HOLD_LOOKS: u32 = 50_000_000;
/// Whether [`hold`] waits.
static HOLDS: AtomicBool = AtomicBool::new(false);

/// Lets [`hold`] wait from now on: somebody is there who answers.
pub fn let_hold() {
    HOLDS.store(true, Ordering::Relaxed);
}

/// Waits until somebody has looked at the machine, and gives a line on the serial port.
///
/// False if nobody did in a long time. Does nothing unless the boot arguments ask for it.
pub fn hold(moment: &str) -> bool {
    if !HOLDS.load(Ordering::Relaxed) {
        return true;
    }
    record(format_args!("hold {moment}"));
    for _ in 0..HOLD_LOOKS {
        if exclusively(|output| output.console.as_mut()?.read()) == Some(b'\n') {
            return true;
        }
        hint::spin_loop();
    }
    false
}

/// Prints a record that breaks off in the middle, for the self test of the harness.
pub fn truncated_record(text: &str) {
    exclusively(|output| {
        output.end_line();
        let _ = output.write_str(RECORD);
        let _ = output.write_str(text);
    });
}

/// Takes the console for good, and ends the line that it was in.
///
/// For handlers that never return. The other CPU may end what it is writing, and stops at the next
/// thing that it wants to write. If it was first, this one stops here.
pub fn seize() {
    arch::interrupts_off();
    let me = cpus::this().index() + 1;
    let first = SEIZED_BY.compare_exchange(NOBODY, me, Ordering::SeqCst, Ordering::SeqCst);
    if first.is_err_and(|other| other != me) {
        arch::park();
    }
    fence(Ordering::SeqCst);
    for _ in 0..PATIENCE {
        if !OUTPUT.is_locked() || HOLDER.load(Ordering::Relaxed) == me {
            break;
        }
        hint::spin_loop();
    }
    // What the other one has written is to be seen here.
    fence(Ordering::Acquire);
    exclusively(Output::end_line);
}

/// Prints a line for people.
macro_rules! println {
    () => {
        $crate::console::print(format_args!("\n"))
    };
    ($($arguments:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($arguments)*)))
    };
}

pub(crate) use println;
