//! The `log` facade: requests become records, the rest becomes lines for people.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::console::{self, println};
use crate::{clock, cpus};

/// The driver logs each finished request under this target, one line each. What another CPU than
/// the first says is marked: requests have an order on each CPU, and no more than that.
const REQUESTS: &str = "virtio_iommu::request";

/// Whether requests are shown to a person, and not to the harness.
static FOR_PEOPLE: AtomicBool = AtomicBool::new(false);

/// Requests that were logged.
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// How many requests the driver has logged so far.
pub fn requests() -> usize {
    SEEN.load(Ordering::Relaxed)
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == REQUESTS || metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.target() == REQUESTS {
            SEEN.fetch_add(1, Ordering::Relaxed);
        }
        if record.target() != REQUESTS {
            let level = record.level();
            println!(
                "[{}] {level} {}: {}",
                clock::Stamp::now(),
                record.target(),
                record.args()
            );
        } else if FOR_PEOPLE.load(Ordering::Relaxed) {
            println!("        -> {}", record.args());
        } else {
            match cpus::this().index() {
                0 => console::record(format_args!("req {}", record.args())),
                cpu => console::record(format_args!("req cpu={cpu} {}", record.args())),
            }
        }
    }

    fn flush(&self) {}
}

/// From now on everything that is logged is printed.
pub fn init() {
    static LOGGER: Logger = Logger;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}

/// From now on requests are shown to a person, and not to the harness.
pub fn show_requests_to_people() {
    FOR_PEOPLE.store(true, Ordering::Relaxed);
}

/// From now on only warnings and errors are logged: a request costs no line, and no formatting.
pub fn quiet() {
    log::set_max_level(LevelFilter::Warn);
}
