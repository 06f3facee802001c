//! A line on standard error that says what is going on, for anything that takes longer than
//! three seconds.

use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shorter work shows nothing.
const QUIET: Duration = Duration::from_secs(3);
/// How often the line is renewed on a terminal.
const TERMINAL_PERIOD: Duration = Duration::from_secs(1);
/// How often a new line is written where there is no terminal.
const LOG_PERIOD: Duration = Duration::from_secs(15);

/// Shows what is going on until it is dropped.
#[derive(Debug)]
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the clock; `what` is shown after three seconds, with the time elapsed.
    #[must_use]
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            let terminal = stderr().is_terminal();
            let period = if terminal {
                TERMINAL_PERIOD
            } else {
                LOG_PERIOD
            };
            let mut wait = QUIET;
            let mut shown = false;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                let elapsed = started.elapsed().as_secs();
                let mut out = stderr().lock();
                // Nothing can be done about a closed standard error, and nothing depends on it.
                let _ = if terminal {
                    write!(out, "\r\x1b[K{what} ... {elapsed} s")
                } else {
                    writeln!(out, "{what} ... {elapsed} s")
                };
                let _ = out.flush();
                shown = true;
                wait = period;
            }
            if shown {
                let elapsed = started.elapsed().as_secs_f32();
                let start_of_line = if terminal { "\r\x1b[K" } else { "" };
                let _ = writeln!(stderr(), "{start_of_line}{what}: {elapsed:.1} s");
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Dropping the sender ends the wait of the thread.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
