//! What is measured of a phase, and the record of it.

use alloc::vec::Vec;
use core::fmt::Write as _;

use virtio_drivers::transport::pci::bus::ConfigurationAccess;
use virtio_iommu::topology::RequesterId;

use super::case::{Case, Mode};
use super::engine::{Nobody, Watch, look};
use super::way::{IoError, Way};
use crate::bench::meter::Meter;
use crate::block::BlockDevice;
use crate::command_line::Measure;
use crate::config_space::ConfigSpace;
use crate::machine::Machine;
use crate::report::{Checked, Report};
use crate::{arch, clock, edu};

/// Instructions, in pairs, that pass between two looks at a disk while instructions are counted:
/// many, so that what the looks cost is little, and it does not matter how many there were.
const PAIRS: u64 = 1000;

/// Looks with which the cost of one is measured: whatever a driver does at times is in them as
/// often as it is on the average.
const EMPTY: u32 = 1024;

/// What is measured.
pub enum Gauge {
    /// Nothing: the phases are marked in QEMU's trace.
    Counts(Marker),
    /// Instructions, without the wait for the disk.
    Instructions(Meter),
    /// Time, and how it is spread.
    Time(Meter),
}

impl Gauge {
    /// What `measure` says: one check.
    pub fn new(measure: Measure, machine: &Machine, report: &mut Report) -> Checked<Self> {
        Ok(match measure {
            Measure::Counts => Self::Counts(Marker::new(machine, report)?),
            Measure::Instructions => Self::Instructions(Meter::new(measure, report)?),
            Measure::Time => Self::Time(Meter::new(measure, report)?),
        })
    }

    /// How many I/Os a phase has.
    pub fn ios(&self, case: &Case) -> usize {
        let large = case.size > super::case::SMALL;
        match (self, large) {
            (Self::Counts(_) | Self::Instructions(_), false) => 128,
            (Self::Counts(_) | Self::Instructions(_), true) => 48,
            (Self::Time(_), false) => 64,
            (Self::Time(_), true) => 24,
        }
    }

    /// What a look at an idle disk costs, the time that passes before it included, in thousandths
    /// of an instruction.
    pub fn cost_of_a_look<D: BlockDevice>(&self, disk: &mut D) -> Result<u64, IoError> {
        let Self::Instructions(meter) = self else {
            return Ok(0);
        };
        let mut idle = Idle::default();
        let (cost, result) = meter.measure(|| look(disk, &mut idle, EMPTY));
        match result? {
            None => Ok(cost / u64::from(EMPTY)),
            Some(_) => Err(IoError::Order),
        }
    }

    /// Measures I/Os, done by `work` under a watch; `look` is what a look at the disk costs.
    pub fn ios_of(&mut self, ios: usize, look: u64, mut work: impl Work) -> Result<Told, IoError> {
        let mut told = Told::of(ios);
        match self {
            Self::Counts(marker) => {
                marker.begin();
                work.run(&mut Nobody, ios)?;
                marker.end();
            }
            Self::Instructions(meter) => {
                let mut idle = Idle::default();
                let (all, result) = meter.measure(|| work.run(&mut idle, ios));
                result?;
                let waits = idle.0.saturating_mul(look);
                told.instructions = Some(all.saturating_sub(waits) / 1000);
            }
            Self::Time(meter) => {
                let mut stopwatch = Stopwatch::new(ios);
                let (all, result) = meter.measure(|| work.run(&mut stopwatch, ios));
                result?;
                told.ns = Some(all / 1000);
                let (p50, p99) = stopwatch.percentiles();
                (told.p50, told.p99) = (Some(p50), Some(p99));
            }
        }
        Ok(told)
    }

    /// Measures something that is no I/O, done so many times.
    pub fn other(
        &mut self,
        times: usize,
        mut work: impl FnMut() -> Result<(), IoError>,
    ) -> Result<Told, IoError> {
        let mut told = Told::of(times);
        match self {
            Self::Counts(marker) => {
                marker.begin();
                (0..times).try_for_each(|_| work())?;
                marker.end();
            }
            Self::Instructions(meter) => {
                let (all, result) = meter.measure(|| (0..times).try_for_each(|_| work()));
                result?;
                told.instructions = Some(all / 1000);
            }
            Self::Time(meter) => {
                let (all, result) = meter.measure(|| (0..times).try_for_each(|_| work()));
                result?;
                told.ns = Some(all / 1000);
            }
        }
        Ok(told)
    }
}

/// What does I/Os under a watch.
pub trait Work {
    /// Does so many.
    fn run<O: Watch>(&mut self, watch: &mut O, ios: usize) -> Result<(), IoError>;
}

/// What a phase took.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    ios: usize,
    ns: Option<u64>,
    p50: Option<u64>,
    p99: Option<u64>,
    instructions: Option<u64>,
}

impl Told {
    const fn of(ios: usize) -> Self {
        Self {
            ios,
            ns: None,
            p50: None,
            p99: None,
            instructions: None,
        }
    }

    /// Writes the record.
    pub fn record(&self, case: &Case, mode: Mode, report: &mut Report) {
        let mut line = alloc::format!("{case} mode={} ios={}", mode.name(), self.ios);
        let fields = [
            ("ns", self.ns),
            ("p50", self.p50),
            ("p99", self.p99),
            ("instructions", self.instructions),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                let _ = write!(line, " {name}={value}");
            }
        }
        report.io(format_args!("{line}"));
    }
}

/// Passes time, and counts how often.
#[derive(Default)]
struct Idle(u64);

impl Watch for Idle {
    #[inline]
    fn idle(&mut self) {
        self.0 += 1;
        arch::execute(PAIRS);
    }
}

/// Looks at the clock when an I/O begins, and when it has ended.
struct Stopwatch {
    began: [u64; super::case::DEEP],
    /// Of I/Os whose slot has begun another one before they had ended.
    before: u64,
    ticks: Vec<u64>,
}

impl Stopwatch {
    fn new(ios: usize) -> Self {
        Self {
            began: [0; super::case::DEEP],
            before: 0,
            ticks: Vec::with_capacity(ios),
        }
    }

    /// In nanoseconds.
    fn percentiles(mut self) -> (u64, u64) {
        self.ticks.sort_unstable();
        let at = |percent: usize| {
            let last = self.ticks.len().saturating_sub(1);
            let ticks = self.ticks.get((self.ticks.len() * percent / 100).min(last));
            let scaled = u128::from(ticks.copied().unwrap_or(0)) * 1_000_000_000;
            u64::try_from(scaled / u128::from(clock::ticks_per_second())).unwrap_or(u64::MAX)
        };
        (at(50), at(99))
    }
}

impl Watch for Stopwatch {
    #[inline]
    fn begins<W: Way>(&mut self, _: &mut W, slot: usize, _: u64) -> Result<(), IoError> {
        let now = arch::ticks();
        let began = self.began.get_mut(slot).ok_or(IoError::Order)?;
        self.before = core::mem::replace(began, now);
        Ok(())
    }

    #[inline]
    fn ended<W: Way>(&mut self, _: &mut W, slot: usize, _: u64) -> Result<(), IoError> {
        let began = self.began.get_mut(slot).ok_or(IoError::Order)?;
        // At the end of a phase no other has begun.
        let began = match core::mem::take(&mut self.before) {
            0 => *began,
            before => before,
        };
        if self.ticks.len() < self.ticks.capacity() {
            self.ticks.push(arch::ticks().saturating_sub(began));
        }
        Ok(())
    }
}

/// Marks phases in QEMU's trace: by the Interrupt Line of an `edu`, which means nothing to it.
pub struct Marker {
    config: ConfigSpace,
    function: RequesterId,
    /// What else is in the word.
    others: u32,
}

/// The word of the Interrupt Line, which is the lowest byte of it.
const INTERRUPT_LINE: u8 = 0x3c;
const BEGIN: u32 = 1;
const END: u32 = 2;

impl Marker {
    fn new(machine: &Machine, report: &mut Report) -> Checked<Self> {
        let found = machine.pci.find(edu::ID.0, edu::ID.1).next();
        let function = found.map(|function| function.address.function);
        let function = report.need("marker", function.ok_or("there is no edu"))?;
        let config = machine.config;
        let word = config.read_word(function.device_function(), INTERRUPT_LINE);
        let mut marker = Self {
            config,
            function,
            others: word & !0xff,
        };
        marker.write(0x5a);
        let seen = config.read_word(function.device_function(), INTERRUPT_LINE) & 0xff;
        report.require(
            "the_marker_can_be_written",
            (seen == 0x5a).then_some(()).ok_or(seen),
        )?;
        Ok(marker)
    }

    fn write(&mut self, value: u32) {
        let function = self.function.device_function();
        let word = self.others | value;
        self.config.write_word(function, INTERRUPT_LINE, word);
    }

    fn begin(&mut self) {
        self.write(BEGIN);
    }

    fn end(&mut self) {
        self.write(END);
    }
}
