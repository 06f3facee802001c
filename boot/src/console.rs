//! Everything that comes out of the serial line.

use core::fmt::{self, Write};

use crate::arch;
use crate::lock::Mutex;

/// The start of each record of the protocol with the test harness, and its version.
const RECORD: &str = "@viommu 1 ";

static OUTPUT: Mutex<Output> = Mutex::new(Output {
    console: None,
    line_open: false,
});

struct Output {
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

/// Sets the serial port up. False if there is none.
pub fn open() -> bool {
    let mut output = OUTPUT.lock();
    if output.console.is_none() {
        // SAFETY: only this module uses the serial port, and it opens it once.
        output.console = unsafe { arch::Console::open() };
    }
    output.console.is_some()
}

/// Prints text for people.
pub fn print(text: fmt::Arguments<'_>) {
    let _ = OUTPUT.lock().write_fmt(text);
}

/// Prints a record for the test harness, on a line of its own.
pub fn record(text: fmt::Arguments<'_>) {
    let mut output = OUTPUT.lock();
    output.end_line();
    let _ = output.write_str(RECORD);
    let _ = OneLine(&mut output).write_fmt(text);
    let _ = output.write_str("\n");
}

/// Prints a record that breaks off in the middle, for the self test of the harness.
pub fn truncated_record(text: &str) {
    let mut output = OUTPUT.lock();
    output.end_line();
    let _ = output.write_str(RECORD);
    let _ = output.write_str(text);
}

/// Takes the console away from whoever holds it, and ends the line that they were in.
///
/// For handlers that never return.
pub fn seize() {
    if OUTPUT.is_locked() {
        // SAFETY: there is one CPU, and it never returns to the holder.
        unsafe { OUTPUT.force_unlock() };
    }
    // That may have let interrupts in; their handlers have no business here any more.
    arch::interrupts_off();
    OUTPUT.lock().end_line();
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
