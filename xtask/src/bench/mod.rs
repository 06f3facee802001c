//! Benchmarks: run, told as tables, judged by the goals of the project, and kept.
//!
//! | module | what it does |
//! |---|---|
//! | [`host`] | `cargo bench`, and what Criterion leaves behind |
//! | [`counts`] | what is counted on the host, and not timed |
//! | [`guest`] | the machine that is booted, and its verdict |
//! | [`io`] | disks behind the IOMMU, in this kernel and in others |
//! | [`linux`] | the same disks in a Linux guest |
//! | [`record`] | what the guest says on its serial line |
//! | [`data`] | `docs/performance.json`: rows, and what they were measured with |
//! | [`goals`] | what the figures should be, and whether they are |
//! | [`compare`] | who is how much slower than whom |
//! | [`table`] | aligned columns |
//! | [`page`] | `docs/performance.md`, which is made of the data |
//! | [`versions`] | of rivals, compilers and emulators; the processor |

pub mod compare;
pub mod counts;
pub mod data;
pub mod goals;
pub mod guest;
pub mod host;
pub mod io;
pub mod linux;
pub mod page;
pub mod record;
pub mod table;
pub mod versions;

use std::path::Path;

use crate::arch::Arch;
use data::{Data, DataError};
use guest::GuestError;
use host::HostError;

/// The data file, seen from the root of the project.
pub const DATA: &str = "docs/performance.json";
/// The page that is made of it.
pub const PAGE: &str = "docs/performance.md";

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// On the host.
    #[error("{0}")]
    Host(#[from] HostError),
    /// In the guest.
    #[error("{0}")]
    Guest(#[from] GuestError),
    /// The data file.
    #[error("{DATA}: {0}")]
    Data(#[from] DataError),
    /// The page cannot be written.
    #[error("{PAGE}: {0}")]
    Page(std::io::Error),
}

/// Measures in the guest on `archs`, and on the host if `host`; prints tables and goals, and
/// brings the data file and its page up to date. What was not measured stays as it was.
///
/// # Errors
///
/// [`BenchError`]. A goal that is missed is none. What was measured before the error is kept.
pub fn run(archs: &[Arch], host: bool) -> Result<(), BenchError> {
    let root = crate::project_root();
    let mut data = Data::read(&root.join(DATA))?;
    for &arch in archs {
        keep(&mut data, guest::measure(arch)?, root)?;
    }
    if host {
        for section in host::measure()? {
            keep(&mut data, section, root)?;
        }
    }
    println!("{DATA} and {PAGE} are up to date.");
    Ok(())
}

/// Prints what was just measured, and writes it down.
fn keep(data: &mut Data, mut new: Data, root: &Path) -> Result<(), BenchError> {
    new.sort();
    print!("{}", page::told(&new));
    data.merge(new);
    data.write(&root.join(DATA))?;
    std::fs::write(root.join(PAGE), page::page(data)).map_err(BenchError::Page)
}
