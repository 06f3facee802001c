//! One phase: a number of equal I/Os, and what they took.

use core::fmt;
use core::time::Duration;

use crate::buffer::{Buffer, Layout};
use crate::console::Console;
use crate::counted::{self, Counted};
use crate::counter::Counter;
use crate::machine::{Disks, Marker};
use crate::plan::{Disk, Job, Measure};
use crate::system::{self, Failure};
use crate::transfer::{self, DEPTH, Queue, Transfer};

/// Written to the marker before the first I/O, and after the last one.
const BEGIN: u8 = 1;
const END: u8 = 2;

/// UNMAPs that are put off are sent after 10 ms at the latest. This many are enough.
const FLUSH: u64 = 25;

/// The most I/Os of a phase.
const IOS: usize = 1024;

/// All that a phase needs.
pub struct Bench<'a> {
    /// What is measured.
    pub measure: Measure,
    /// All disks.
    pub disks: &'a Disks,
    /// How much of each disk is used, in bytes.
    pub space: u64,
    /// Memory of each kind.
    pub buffers: [&'a Buffer; 2],
    /// Marks phases in QEMU's trace.
    pub marker: &'a Marker,
    /// There if instructions are measured.
    pub counter: Option<&'a Counter>,
    /// For more than one I/O at once.
    pub queue: Queue,
}

/// What each I/O took.
struct Latencies {
    nanoseconds: [u64; IOS],
    count: usize,
}

impl Latencies {
    fn push(&mut self, took: Duration) {
        if let Some(room) = self.nanoseconds.get_mut(self.count) {
            *room = took.as_nanos() as u64;
            self.count += 1;
        }
    }

    /// What so many per cent of them took at the most.
    fn percentile(&mut self, percent: usize) -> Option<u64> {
        let all = self.nanoseconds.get_mut(..self.count)?;
        all.sort_unstable();
        let rank = (all.len() * percent).div_ceil(100);
        all.get(rank.checked_sub(1)?).copied()
    }
}

/// Places on the disk, in bytes.
struct Places {
    random: bool,
    next: u64,
    size: u64,
    space: u64,
}

impl Places {
    fn of(job: &Job, space: u64) -> Self {
        Self {
            random: job.random,
            next: job.first,
            size: job.size as u64,
            space,
        }
    }

    fn take(&mut self) -> u64 {
        let place = match self.random {
            false => self.next,
            // Splitmix: any seed will do.
            true => {
                let mut mixed = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed ^ (mixed >> 27)
            }
        };
        self.next += 1;
        place % (self.space / self.size) * self.size
    }
}

impl Bench<'_> {
    /// Does it, and tells nothing.
    pub fn warm(&self, job: &Job) -> Result<(), Failure> {
        self.run(job, |_| ())
    }

    /// Does it, and tells what it took.
    pub fn measure(&self, job: &Job, console: &mut Console) -> Result<(), Failure> {
        let (disk, _) = self.disks.get(job.disk)?;
        match self.measure {
            Measure::Counts => {
                self.marked(|| {
                    self.run(job, |_| ())?;
                    match disk.mode {
                        // What was put off is of this phase, too.
                        "lazy" => system::sleep(FLUSH),
                        _ => Ok(()),
                    }
                })?;
                console.line(format_args!("{}", Told(&disk, job)));
            }
            Measure::Instructions => {
                let counter = self.counter.ok_or(Failure::of("no counter"))?;
                let counted = self.marked(|| match job.depth {
                    1 => counted::each(counter, job.ios, self.transfers(job)?),
                    _ => counted::all(counter, || self.run(job, |_| ())),
                })?;
                let Counted {
                    total,
                    waits,
                    with,
                    without,
                } = counted;
                console.line(format_args!("{} instructions={total}", Told(&disk, job)));
                let (with, without) = (with.unwrap_or(0), without.unwrap_or(0));
                console.line(format_args!(
                    "@viommu 1 waits count={waits} with={with} without={without}"
                ));
            }
            Measure::Time => {
                let mut latencies = Latencies {
                    nanoseconds: [0; IOS],
                    count: 0,
                };
                let took = self.marked(|| {
                    let began = system::now()?;
                    self.run(job, |took| latencies.push(took))?;
                    Ok(system::now()?.saturating_sub(began).as_nanos())
                })?;
                let (median, slow) = (latencies.percentile(50), latencies.percentile(99));
                let (Some(p50), Some(p99)) = (median, slow) else {
                    return Err(Failure::of("nothing was timed"));
                };
                console.line(format_args!(
                    "{} ns={took} p50={p50} p99={p99}",
                    Told(&disk, job)
                ));
            }
        }
        Ok(())
    }

    /// Marks in QEMU's trace where `work` begins and ends.
    fn marked<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.marker.mark(BEGIN)?;
        let done = work()?;
        self.marker.mark(END)?;
        Ok(done)
    }

    /// The next I/O of a job, in a slot of its buffer.
    fn transfers(
        &self,
        job: &Job,
    ) -> Result<impl FnMut(usize) -> Result<Transfer, Failure>, Failure> {
        let Job {
            size, depth, ios, ..
        } = *job;
        if ios > IOS || depth > DEPTH || depth == 0 || size == 0 || size as u64 > self.space {
            return Err(Failure::of("a phase that is too large"));
        }
        let (_, file) = self.disks.get(job.disk)?;
        let buffer = self
            .buffers
            .into_iter()
            .find(|buffer| buffer.layout == job.layout);
        let buffer = buffer.ok_or(Failure::of("no such buffer"))?;
        let mut places = Places::of(job, self.space);
        let write = job.write;
        Ok(move |slot| {
            Ok(Transfer {
                file,
                write,
                place: places.take(),
                // They come around, whether there is one I/O at once or many.
                memory: buffer.slot(slot % DEPTH, size)?,
                size,
            })
        })
    }

    fn run(&self, job: &Job, mut took: impl FnMut(Duration)) -> Result<(), Failure> {
        let mut make = self.transfers(job)?;
        // The clock takes instructions.
        let timed = self.measure == Measure::Time;
        let clock = || {
            if timed {
                system::now()
            } else {
                Ok(Duration::ZERO)
            }
        };
        if job.depth > 1 {
            return self.queue.run(job.ios, job.depth, make, clock, took);
        }
        let mut before = clock()?;
        for index in 0..job.ios {
            transfer::one(&make(index)?)?;
            let now = clock()?;
            took(now.saturating_sub(before));
            before = now;
        }
        Ok(())
    }
}

/// A record, up to what was measured.
struct Told<'a>(&'a Disk, &'a Job);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Disk { device, mode, .. }, job) = self;
        let operation = if job.write { "write" } else { "read" };
        let pattern = if job.random { "rand" } else { "seq" };
        let layout = match job.layout {
            Layout::Scattered => "scattered",
            Layout::Contiguous => "contiguous",
        };
        let Job {
            size, depth, ios, ..
        } = job;
        write!(
            f,
            "@viommu 1 io device={device} op={operation} pattern={pattern} size={size} layout={layout} depth={depth} \
             mode={mode} ios={ios}"
        )
    }
}
