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
//! | [`page`] | `docs/performance.md`, which is made of the data; the pictures are [`io::plot`] |
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
use io::IoError;
use io::boot::System;
use io::plot::PlotError;

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
    /// Of disks.
    #[error("{0}")]
    Io(#[from] IoError),
    /// The data file.
    #[error("{DATA}: {0}")]
    Data(#[from] DataError),
    /// The page cannot be written, or one of its pictures.
    #[error("{0}: {1}")]
    Page(&'static str, std::io::Error),
    /// There is no picture.
    #[error("a picture: {0}")]
    Plot(#[from] PlotError),
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct What {
    /// On the host.
    pub host: bool,
    /// Requests in the guest.
    pub guest: bool,
    /// Disks in the guest.
    pub io: bool,
}

/// Measures, in the guest on `archs`; prints tables and goals, and brings the data file and its
/// page up to date. What was not measured stays as it was. `others` makes the systems whose disks
/// are measured in turns with those of this kernel.
///
/// # Errors
///
/// [`BenchError`]. A goal that is missed is none. What was measured before the error is kept.
pub fn run(
    archs: &[Arch],
    what: What,
    others: &dyn Fn(Arch) -> Vec<Box<dyn System>>,
) -> Result<(), BenchError> {
    let root = crate::project_root();
    let mut data = Data::read(&root.join(DATA))?;
    for &arch in archs {
        if what.guest {
            keep(&mut data, guest::measure(arch)?, root)?;
        }
        if what.io {
            keep(&mut data, io::measure(arch, &others(arch))?, root)?;
        }
    }
    if what.host {
        for section in host::measure()? {
            keep(&mut data, section, root)?;
        }
    }
    println!("{DATA} and {PAGE} are up to date.");
    Ok(())
}

/// Makes the page and its pictures of the data file, and measures nothing.
///
/// # Errors
///
/// [`BenchError`].
pub fn page_alone() -> Result<(), BenchError> {
    let root = crate::project_root();
    publish(&Data::read(&root.join(DATA))?, root)
}

/// Prints what was just measured, and writes it down.
fn keep(data: &mut Data, mut new: Data, root: &Path) -> Result<(), BenchError> {
    new.sort();
    print!("{}", page::told(&new));
    data.merge(new);
    data.write(&root.join(DATA))?;
    publish(data, root)
}

/// Writes the page and its pictures.
fn publish(data: &Data, root: &Path) -> Result<(), BenchError> {
    let write = |file: &'static str, text: String| {
        std::fs::write(root.join(file), text).map_err(|error| BenchError::Page(file, error))
    };
    for (file, picture) in io::plot::pictures(&data.io)? {
        write(file, picture)?;
    }
    write(PAGE, page::page(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_its_pictures_are_made_of_the_data() {
        let root = crate::project_root();
        let data = Data::read(&root.join(DATA)).unwrap();
        let is = |file: &str, text: &str| {
            let there = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            assert!(there == text, "{file}: `cargo xtask bench --page` makes it");
        };
        is(PAGE, &page::page(&data));
        let pictures = io::plot::pictures(&data.io).unwrap();
        for (file, text) in &pictures {
            is(file, text);
        }
        // And none of what is not there.
        for (_, file) in io::page::PICTURES {
            let made = pictures.iter().any(|(name, _)| *name == file);
            assert_eq!(root.join(file).exists(), made, "{file}");
        }
    }
}
