//! Reads `/plan`: one order a line, words between single spaces.
//!
//! ```text
//! measure time                                   or counts, or instructions
//! space 67108864                                 bytes of each disk that are used
//! load virtio-iommu.ko                           a file in /modules
//! disk blk strict 0000:00:05.0                   what it is, how it is mapped, where it is
//! groups                                         give the groups of all disks their types
//! marker 0000:00:10.0                            the device whose Interrupt Line marks phases
//! warm 0 read seq 4096 scattered 1 50 0          the same as a phase, and not told
//! phase 0 read seq 4096 scattered 1 200 0        which disk, what, how often, the first place or the seed
//! rest 20                                        milliseconds
//! ```

use core::str::SplitWhitespace;

use crate::buffer::Layout;
use crate::system::Failure;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Nothing here: QEMU's trace is counted.
    Counts,
    /// Instructions of this machine.
    Instructions,
    /// Time.
    Time,
}

/// A disk.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// `blk` or `nvme`.
    pub device: &'static str,
    /// `none`, `bypass`, `strict`, `lazy`.
    pub mode: &'static str,
    /// Where it is on the PCI bus, in the words of sysfs.
    pub address: &'static str,
}

/// A number of equal I/Os.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Which disk of the plan.
    pub disk: usize,
    /// Whether it is written to.
    pub write: bool,
    /// Whether the places on the disk follow no order.
    pub random: bool,
    /// Bytes of an I/O.
    pub size: usize,
    /// Where the buffers are.
    pub layout: Layout,
    /// I/Os at once.
    pub depth: usize,
    /// How often.
    pub ios: usize,
    /// The first place, in I/Os from the start of the disk; of random places, the seed.
    pub first: u64,
}

/// One order.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    /// What is measured.
    Measure(Measure),
    /// How much of each disk is used, in bytes.
    Space(u64),
    /// Load a module.
    Load(&'static str),
    /// There is a disk.
    Disk(Disk),
    /// Give the groups their types.
    Groups,
    /// Where the marker is.
    Marker(&'static str),
    /// Do it.
    Warm(Job),
    /// Do it, and tell.
    Phase(Job),
    /// Wait.
    Rest(u64),
}

/// What the plan says is measured.
pub fn measure(text: &'static str) -> Result<Measure, Failure> {
    match lines(text).next() {
        Some(Ok(Line::Measure(measure))) => Ok(measure),
        _ => Err(Failure::of("a plan that does not say what is measured")),
    }
}

/// All orders.
pub fn lines(text: &'static str) -> impl Iterator<Item = Result<Line, Failure>> {
    text.lines().zip(1..).map(|(line, number)| {
        let mut words = line.split_whitespace();
        let read = parse(&mut words).filter(|_| words.next().is_none());
        read.ok_or(Failure::at("a line of the plan is not understood", number))
    })
}

fn parse(words: &mut SplitWhitespace<'static>) -> Option<Line> {
    Some(match words.next()? {
        "measure" => Line::Measure(match words.next()? {
            "counts" => Measure::Counts,
            "instructions" => Measure::Instructions,
            "time" => Measure::Time,
            _ => return None,
        }),
        "space" => Line::Space(words.next()?.parse().ok()?),
        "load" => Line::Load(words.next()?),
        "disk" => Line::Disk(Disk {
            device: words.next()?,
            mode: words.next()?,
            address: words.next()?,
        }),
        "groups" => Line::Groups,
        "marker" => Line::Marker(words.next()?),
        "warm" => Line::Warm(job(words)?),
        "phase" => Line::Phase(job(words)?),
        "rest" => Line::Rest(words.next()?.parse().ok()?),
        _ => return None,
    })
}

fn job(words: &mut SplitWhitespace<'static>) -> Option<Job> {
    let disk = words.next()?.parse().ok()?;
    let write = match words.next()? {
        "read" => false,
        "write" => true,
        _ => return None,
    };
    let random = match words.next()? {
        "seq" => false,
        "rand" => true,
        _ => return None,
    };
    let size = words.next()?.parse().ok()?;
    let layout = match words.next()? {
        "scattered" => Layout::Scattered,
        "contiguous" => Layout::Contiguous,
        _ => return None,
    };
    Some(Job {
        disk,
        write,
        random,
        size,
        layout,
        depth: words.next()?.parse().ok()?,
        ios: words.next()?.parse().ok()?,
        first: words.next()?.parse().ok()?,
    })
}
