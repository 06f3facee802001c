//! One phase: a number of equal I/Os, and what they took.

use core::time::Duration;

use crate::buffer::Buffer;
use crate::console::Console;
use crate::counter::Counter;
use crate::machine::{Disks, Marker};
use crate::plan::{Job, Measure};
use crate::system::{self, Failure};
use crate::transfer::{self, DEPTH, Queue, Transfer};

/// Written to the marker before the first I/O, and after the last one.
const BEGIN: u8 = 1;
const END: u8 = 2;

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
        let mut latencies = Latencies {
            nanoseconds: [0; IOS],
            count: 0,
        };
        self.marker.mark(BEGIN)?;
        let began = system::now()?;
        let counted = self.counter.map(Counter::read).transpose()?;
        self.run(job, |took| latencies.push(took))?;
        let instructions = match (self.counter, counted) {
            (Some(counter), Some(before)) => Some(counter.since(before)?),
            _ => None,
        };
        let took = system::now()?.saturating_sub(began).as_nanos();
        self.marker.mark(END)?;

        let disk = self.disks.get(job.disk)?.0;
        let (device, mode) = (disk.device, disk.mode);
        let operation = if job.write { "write" } else { "read" };
        let pattern = if job.random { "rand" } else { "seq" };
        let layout = match job.layout {
            crate::buffer::Layout::Scattered => "scattered",
            crate::buffer::Layout::Contiguous => "contiguous",
        };
        let Job {
            size, depth, ios, ..
        } = job;
        let what = format_args!(
            "@viommu 1 io device={device} op={operation} pattern={pattern} size={size} layout={layout} depth={depth} \
             mode={mode} ios={ios}"
        );
        match self.measure {
            Measure::Counts => console.line(what),
            Measure::Instructions => {
                let instructions = instructions.ok_or(Failure::of("nothing was counted"))?;
                console.line(format_args!("{what} instructions={instructions}"));
            }
            Measure::Time => {
                let median = latencies.percentile(50);
                let slow = latencies.percentile(99);
                let (Some(p50), Some(p99)) = (median, slow) else {
                    return Err(Failure::of("nothing was timed"));
                };
                console.line(format_args!("{what} ns={took} p50={p50} p99={p99}"));
            }
        }
        Ok(())
    }

    fn run(&self, job: &Job, mut took: impl FnMut(Duration)) -> Result<(), Failure> {
        let Job {
            size, depth, ios, ..
        } = *job;
        if ios > IOS || depth > DEPTH || depth == 0 || size == 0 || size as u64 > self.space {
            return Err(Failure::of("a phase that is too large"));
        }
        let (_, file) = self.disks.get(job.disk)?;
        let buffer = self
            .buffers
            .iter()
            .find(|buffer| buffer.layout == job.layout);
        let buffer = buffer.ok_or(Failure::of("no such buffer"))?;
        let mut places = Places::of(job, self.space);
        let mut make = |slot| {
            Ok(Transfer {
                file,
                write: job.write,
                place: places.take(),
                memory: buffer.slot(slot, size)?,
                size,
            })
        };
        // The clock takes instructions.
        let timed = self.measure == Measure::Time;
        let clock = || {
            if timed {
                system::now()
            } else {
                Ok(Duration::ZERO)
            }
        };
        if depth > 1 {
            return self.queue.run(ios, depth, make, clock, took);
        }
        let mut before = clock()?;
        // The buffers come around, as they do with many I/Os at once.
        for index in 0..ios {
            transfer::one(&make(index % DEPTH)?)?;
            let now = clock()?;
            took(now.saturating_sub(before));
            before = now;
        }
        Ok(())
    }
}
