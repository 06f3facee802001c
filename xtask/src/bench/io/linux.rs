//! A Linux guest, as a system that takes turns with this kernel.

use super::boot::{Boot, Measure, System};
use crate::arch::Arch;
use crate::bench::linux::{self, LinuxRun};
use crate::setup::linux::Linux;

/// Its name in the rows.
pub const NAME: &str = "linux";

/// Linux on one architecture.
pub struct LinuxGuest {
    arch: Arch,
    linux: Linux,
    measures: Vec<Measure>,
}

impl LinuxGuest {
    /// A Linux that is there.
    #[must_use]
    pub fn new(arch: Arch, linux: Linux) -> Self {
        let measures = linux::Measure::all(arch).iter();
        Self {
            arch,
            linux,
            measures: measures.map(|measure| ours(*measure)).collect(),
        }
    }
}

impl System for LinuxGuest {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> Vec<(String, String)> {
        let Linux {
            release, package, ..
        } = &self.linux;
        vec![("linux".into(), format!("{release} (package {package})"))]
    }

    fn how(&self) -> String {
        linux::how()
    }

    fn measures(&self) -> &[Measure] {
        &self.measures
    }

    fn boot(&self, measure: Measure) -> Result<Boot, String> {
        let what = theirs(measure);
        let run = linux::boot(self.arch, &self.linux, what, what.rounds());
        let LinuxRun {
            phases,
            counts,
            command,
            elapsed,
        } = run.map_err(|error| error.to_string())?;
        Ok(Boot {
            measure,
            phases,
            counts: counts.unwrap_or_default(),
            command,
            elapsed,
        })
    }
}

const fn ours(measure: linux::Measure) -> Measure {
    match measure {
        linux::Measure::Counts => Measure::Counts,
        linux::Measure::Instructions => Measure::Instructions,
        linux::Measure::Time => Measure::Time,
    }
}

const fn theirs(measure: Measure) -> linux::Measure {
    match measure {
        Measure::Counts => linux::Measure::Counts,
        Measure::Instructions => linux::Measure::Instructions,
        Measure::Time => linux::Measure::Time,
    }
}
