//! A Linux guest, as a system that takes turns with this kernel.

use super::boot::{Boot, Measure, System};
use crate::arch::Arch;
use crate::bench::linux;
use crate::setup::linux::Linux;

/// Its name in the rows.
pub const NAME: &str = "linux";

/// Linux on one architecture.
pub struct LinuxGuest {
    arch: Arch,
    linux: Linux,
}

impl LinuxGuest {
    /// A Linux that is there.
    #[must_use]
    pub const fn new(arch: Arch, linux: Linux) -> Self {
        Self { arch, linux }
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
        linux::measures(self.arch)
    }

    fn boot(&self, measure: Measure) -> Result<Boot, String> {
        linux::boot(self.arch, &self.linux, measure).map_err(|error| error.to_string())
    }
}
