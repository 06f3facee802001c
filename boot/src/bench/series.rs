//! The samples of all figures, and what is told of them.

use alloc::vec::Vec;
use core::fmt;

use super::meter::{Meter, Milli};
use crate::report::{Checked, Report};

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What was done.
    pub name: &'static str,
    /// By whom.
    pub rival: &'static str,
    /// How many at once.
    pub size: usize,
}

/// The samples of one figure.
struct Series {
    figure: Figure,
    samples: Vec<Milli>,
    /// How often it was done, warm-up included.
    done: u64,
}

/// All figures, in the order in which they came.
#[derive(Default)]
pub struct Samples(Vec<Series>);

impl Samples {
    /// Counts `done` repetitions, and keeps what one of them took, unless they were to warm up.
    pub fn add(&mut self, figure: Figure, done: u64, each: Option<Milli>) {
        let known = self.0.iter().position(|series| series.figure == figure);
        let index = known.unwrap_or_else(|| {
            self.0.push(Series {
                figure,
                samples: Vec::new(),
                done: 0,
            });
            self.0.len() - 1
        });
        let series = &mut self.0[index];
        series.done += done;
        series.samples.extend(each);
    }

    /// Writes a record for each figure.
    pub fn record(mut self, meter: &Meter, report: &mut Report) -> Checked {
        let overhead = Decimal(meter.overhead());
        let unit = meter.unit();
        report.bench(format_args!(
            "name=overhead rival=none size=1 value={overhead} low={overhead} high={overhead} \
             unit={unit} samples=1 done=1"
        ));
        for series in &mut self.0 {
            let Figure { name, rival, size } = series.figure;
            series.samples.sort_unstable();
            let count = series.samples.len();
            let at = |index: usize| series.samples.get(index).copied().map(Decimal);
            // The middle, and what 5 % are below, or above.
            let told = (|| Some((at(count / 2)?, at(count / 20)?, at(count - 1 - count / 20)?)))();
            let (value, low, high) = report.need("samples", told.ok_or(series.figure))?;
            report.bench(format_args!(
                "name={name} rival={rival} size={size} value={value} low={low} high={high} \
                 unit={unit} samples={count} done={}",
                series.done
            ));
        }
        Ok(())
    }
}

/// Thousandths, as a decimal number.
struct Decimal(Milli);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
