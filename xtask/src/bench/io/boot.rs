//! A boot of some system that does I/Os, and what it told.

use std::time::Duration;

use super::phases::Counts;
use super::record::Phase;

/// What a boot measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// What reaches the IOMMU, by QEMU's trace.
    Counts,
    /// Instructions of the guest.
    Instructions,
    /// Time of the host.
    Time,
}

impl Measure {
    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Instructions => "instructions",
            Self::Time => "time",
        }
    }
}

/// How often every mode has its turn in one boot, of whichever system: requests are the same each time, instructions
/// nearly so. Time is not.
#[must_use]
pub const fn rounds(measure: Measure) -> u32 {
    match measure {
        Measure::Counts => 1,
        Measure::Instructions => 2,
        Measure::Time => 5,
    }
}

/// One boot, which is believed.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What was measured.
    pub measure: Measure,
    /// All phases, in order: the n-th of a case and mode is of the n-th round.
    pub phases: Vec<Phase>,
    /// What reached the IOMMU in each of them, if that was measured.
    pub counts: Vec<Counts>,
    /// The command line, without the folders of this machine.
    pub command: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// A system that can be booted.
pub trait System {
    /// Its name in the rows.
    fn name(&self) -> &str;

    /// Its version, and that of what it is made of, for the page.
    fn version(&self) -> Vec<(String, String)>;

    /// How it is measured, for the page.
    fn how(&self) -> String;

    /// What can be measured of it.
    fn measures(&self) -> &[Measure];

    /// Boots it once.
    ///
    /// # Errors
    ///
    /// Whatever keeps the boot from being believed, in words.
    fn boot(&self, measure: Measure) -> Result<Boot, String>;
}
