//! The benchmarks: a name, and a function.
//!
//! `bench=NAME` in the boot arguments runs one, `measure=instructions`, `measure=time` or
//! `measure=counts` says what is measured, `rounds=N` how often. It has a plan, checks and an end as
//! a scenario has, and `bench` or `io` records besides: one for each figure, or for each phase.
//! `cargo xtask bench` boots, reads and judges them.
//!
//! | module | idea |
//! |---|---|
//! | [`meter`] | what is measured, how, and whether the counter counts that |
//! | [`subject`] | what every rival can be asked to do, and the rounds in which it is |
//! | [`series`] | the samples of all figures, and their medians |
//! | [`own_driver`] | the driver, by its public API |
//! | [`dma`] | the ways to move data, as a device driver calls them |
//! | [`pipeline`] | the driver's request queue by itself |
//! | [`parts`] | what a request takes besides: lock, notification |
//! | [`library_queue`] | the rival: the queue of `virtio-drivers`, on the same device |
//! | [`requests`] | the benchmark of requests |
//! | [`io`] | the benchmark of disks |

mod dma;
mod io;
mod library_queue;
mod meter;
mod own_driver;
mod parts;
mod pipeline;
mod requests;
mod series;
mod subject;

pub use self::io::Device;
use crate::arch::Firmware;
use crate::command_line::BenchOptions;
use crate::console::println;
use crate::logger;
use crate::report::{Checked, EXIT_FAIL, Report};

/// Runs a benchmark.
type Bench = fn(&mut Report, BenchOptions, &Firmware) -> Checked;

/// Every benchmark.
const BENCHES: &[(&str, Bench)] = &[("requests", requests::run), ("io", io::run)];

/// Runs a benchmark, and returns the exit code.
pub fn run(name: &str, options: BenchOptions, firmware: &Firmware) -> u32 {
    let mut report = Report::begin();
    let Some((_, bench)) = BENCHES.iter().find(|(known, _)| *known == name) else {
        report.plan(1);
        report.fail(
            "known_benchmark",
            format_args!("no benchmark has the name {name:?}"),
        );
        return report.end();
    };
    println!("bench {name}: {options:?}");
    logger::quiet();
    if bench(&mut report, options, firmware).is_err() {
        println!("bench {name}: stopped early");
        let _ = report.end();
        return EXIT_FAIL;
    }
    report.end()
}
