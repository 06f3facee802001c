//! The samples of all figures, and what is told of them.

use alloc::vec::Vec;
use core::fmt;

use super::meter::{Meter, Milli};
use super::subject::BLOCKS;
use crate::report::{Checked, Report};

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure<'a> {
    /// What was done.
    pub name: &'static str,
    /// By whom.
    pub rival: &'a str,
    /// How many at once.
    pub size: usize,
}

/// The samples of one figure.
struct Series {
    figure: Figure<'static>,
    /// [`BLOCKS`] for each round.
    samples: Vec<Milli>,
    /// How often it was done, warm-up included.
    done: u64,
}

/// All figures, in the order in which they came.
#[derive(Default)]
pub struct Samples(Vec<Series>);

impl Samples {
    /// Counts `done` repetitions, and keeps what one of them took, unless they were to warm up.
    pub fn add(&mut self, figure: Figure<'static>, done: u64, each: Option<Milli>) {
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

    /// Writes a record for each figure; those that the rival `against` has, too, are compared with
    /// it round by round.
    pub fn record(mut self, against: &str, meter: &Meter, report: &mut Report) -> Checked {
        let overhead = Decimal(meter.overhead());
        let unit = meter.unit();
        report.bench(format_args!(
            "name=overhead rival=none size=1 value={overhead} low={overhead} high={overhead} \
             unit={unit} samples=1 done=1"
        ));
        let paired: Vec<Option<Decimal>> = self
            .0
            .iter()
            .map(|series| self.paired(series, against))
            .collect();
        for (series, paired) in self.0.iter_mut().zip(paired) {
            let Figure { name, rival, size } = series.figure;
            series.samples.sort_unstable();
            let count = series.samples.len();
            let at = |index: usize| series.samples.get(index).copied().map(Decimal);
            // The middle, and what 5 % are below, or above.
            let told = (|| Some((at(count / 2)?, at(count / 20)?, at(count - 1 - count / 20)?)))();
            let (value, low, high) = report.need("samples", told.ok_or(series.figure))?;
            let done = series.done;
            let figure = format_args!(
                "name={name} rival={rival} size={size} value={value} low={low} high={high} \
                 unit={unit} samples={count} done={done}"
            );
            match paired {
                Some(paired) => report.bench(format_args!("{figure} paired={paired}")),
                None => report.bench(figure),
            }
        }
        Ok(())
    }

    /// How many times as much as the rival's the figure is: the median over the rounds, so that
    /// both are of the same moments.
    fn paired(&self, own: &Series, against: &str) -> Option<Decimal> {
        let figure = Figure {
            rival: against,
            ..own.figure
        };
        if figure == own.figure {
            return None;
        }
        let other = self.0.iter().find(|series| series.figure == figure)?;
        let rounds = own.samples.chunks(BLOCKS).zip(other.samples.chunks(BLOCKS));
        let ratio = |(own, other)| (1000 * median(own)?).checked_div(median(other)?);
        let ratios: Option<Vec<Milli>> = rounds.map(ratio).collect();
        median(&ratios?).map(Decimal)
    }
}

/// The middle of some samples, in any order.
fn median(samples: &[Milli]) -> Option<Milli> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Thousandths, as a decimal number.
struct Decimal(Milli);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
