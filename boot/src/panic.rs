//! What happens after a panic: it is told, recorded, and the machine ends.

use core::panic::PanicInfo;
use core::sync::atomic::Ordering;

use crate::console::{self, println};
use crate::report::{self, EXIT_PANIC};
use crate::{arch, cpus};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if cpus::this().panicking.swap(true, Ordering::Relaxed) {
        // Printing the first panic panicked: there is no safe way to print the second.
        arch::exit(EXIT_PANIC);
    }
    console::seize();
    println!("PANIC: {info}");
    match info.location() {
        Some(place) => report::aborted(
            "panic",
            format_args!("{}:{} {}", place.file(), place.line(), info.message()),
        ),
        None => report::aborted("panic", format_args!("{}", info.message())),
    }
    arch::exit(EXIT_PANIC)
}
