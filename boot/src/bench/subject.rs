//! What every rival can be asked to do, and the rounds in which it is.

use core::fmt::Debug;
use core::ops::Range;

use super::meter::Meter;
use super::series::{Figure, Samples};

/// Pages that can be mapped at once, and the largest batch.
pub const PAGES: usize = 64;

/// Batches: requests that share a kick.
const BATCHES: [usize; 3] = [1, 8, PAGES];

/// Blocks at the start of a round that are not counted: the emulator translates code when it runs
/// for the first time.
pub const WARM_UP: usize = 2;

/// Blocks that are counted in a round.
pub const BLOCKS: usize = 8;

/// Someone who maps and unmaps single pages that are no neighbours in memory.
///
/// Each of [`PAGES`] pages has a number. A page is mapped while it is not, and unmapped while it
/// is. Every answer of the device is waited for and looked at.
pub trait Subject {
    /// What can go wrong.
    type Error: Debug;

    /// Who it is, in the words of the record.
    const RIVAL: &'static str;

    /// Maps pages, with one kick.
    fn map(&mut self, pages: Range<usize>) -> Result<(), Self::Error>;

    /// Unmaps pages, with one kick.
    fn unmap(&mut self, pages: Range<usize>) -> Result<(), Self::Error>;

    /// Unmaps a page and maps it again, with as few kicks as there is a way for.
    fn exchange(&mut self, page: usize) -> Result<(), Self::Error>;

    /// Maps a page at an address of the caller's choice; `None` if [`map`](Self::map) does
    /// nothing else.
    fn map_at(&mut self, page: usize) -> Option<Result<(), Self::Error>>;
}

/// One round: all figures of one subject, in blocks of [`PAGES`] requests.
///
/// A block is measured as a whole, because counters move in steps.
pub fn round<S: Subject>(
    subject: &mut S,
    meter: &Meter,
    samples: &mut Samples,
) -> Result<(), S::Error> {
    for size in BATCHES {
        for block in 0..WARM_UP + BLOCKS {
            let (map, result) = meter.measure(|| batches(size, |pages| subject.map(pages)));
            result?;
            let (unmap, result) = meter.measure(|| batches(size, |pages| subject.unmap(pages)));
            result?;
            keep::<S>(samples, "map", size, block, map);
            keep::<S>(samples, "unmap", size, block, unmap);
        }
    }

    for block in 0..WARM_UP + BLOCKS {
        subject.map(0..PAGES)?;
        let (exchange, result) = meter.measure(|| (0..PAGES).try_for_each(|i| subject.exchange(i)));
        result?;
        subject.unmap(0..PAGES)?;
        keep::<S>(samples, "unmap+map", 1, block, exchange);
        aside::<S>(samples, "map");
        aside::<S>(samples, "unmap");
    }

    for block in 0..WARM_UP + BLOCKS {
        let (map, result) = meter.measure(|| {
            (0..PAGES).try_for_each(|i| {
                subject
                    .map_at(i)
                    .map_or(Err(None), |done| done.map_err(Some))
            })
        });
        match result {
            Ok(()) => {}
            Err(None) => return Ok(()),
            Err(Some(error)) => return Err(error),
        }
        subject.unmap(0..PAGES)?;
        keep::<S>(samples, "map-at", 1, block, map);
        aside::<S>(samples, "unmap");
    }
    Ok(())
}

/// All pages, `size` at a time.
fn batches<E>(size: usize, mut work: impl FnMut(Range<usize>) -> Result<(), E>) -> Result<(), E> {
    (0..PAGES / size).try_for_each(|i| work(i * size..(i + 1) * size))
}

/// Keeps what a block took, unless it was to warm up.
fn keep<S: Subject>(
    samples: &mut Samples,
    name: &'static str,
    size: usize,
    block: usize,
    all: u64,
) {
    let each = (block >= WARM_UP).then_some(all / PAGES as u64);
    samples.add(figure::<S>(name, size), PAGES as u64, each);
}

/// Counts a batch of requests that nothing was measured of.
fn aside<S: Subject>(samples: &mut Samples, name: &'static str) {
    samples.add(figure::<S>(name, PAGES), PAGES as u64, None);
}

const fn figure<S: Subject>(name: &'static str, size: usize) -> Figure<'static> {
    Figure {
        name,
        rival: S::RIVAL,
        size,
    }
}
