//! Disks behind the IOMMU: what an I/O costs in each mode, with this driver and with others.
//!
//! | module | what it does |
//! |---|---|
//! | [`record`] | what a guest says of each phase: what it did, and what it took |
//! | [`phases`] | what QEMU's trace says of the same phases |
//! | [`boot`] | a boot of any system, and what it told |
//! | [`ours`] | the machine of this kernel |
//! | [`linux`] | a Linux guest, which takes turns with it |
//! | [`rows`] | what many boots give: medians, spread, ratios of single rounds |
//! | [`goals`] | what the figures should be, and whether they are |
//! | [`page`] | tables, and where others are better |
//! | [`plot`] | pictures |
//! | [`profile`] | where the time of an I/O goes |

pub mod boot;
pub mod goals;
pub mod linux;
pub mod ours;
pub mod page;
pub mod phases;
pub mod plot;
pub mod profile;
pub mod record;
pub mod rows;

use std::collections::BTreeMap;

use super::data::{Data, Run};
use super::versions::cpu;
use crate::arch::Arch;
use crate::toolchain::Toolchain;
use boot::{Boot, Measure, System};
use ours::{Ours, OursError};

/// The benchmark of the kernel, and the section of the data.
pub const SECTION: &str = "io";
/// The name of this kernel in the rows.
pub const OURS: &str = "ours";

/// Boots for time: the systems take turns.
const BOOTS: usize = 2;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// This kernel cannot be booted.
    #[error("{0}")]
    Ours(#[from] OursError),
    /// A boot of some system went wrong.
    #[error("I/Os of {0}: {1}")]
    Boot(String, String),
}

/// Measures this kernel on `arch`, and `others` in turns with it.
///
/// # Errors
///
/// [`IoError`].
pub fn measure(arch: Arch, others: &[Box<dyn System>]) -> Result<Data, IoError> {
    let ours = Ours::new(arch)?;
    let qemu = ours.qemu_version();
    let mut systems: Vec<&dyn System> = vec![&ours];
    systems.extend(others.iter().map(|system| &**system));
    let mut boots: Vec<Vec<Boot>> = systems.iter().map(|_| Vec::new()).collect();
    for (measure, times) in [
        (Measure::Counts, 1),
        (Measure::Instructions, 1),
        (Measure::Time, BOOTS),
    ] {
        for _ in 0..times {
            for (system, boots) in systems.iter().zip(&mut boots) {
                if !system.measures().contains(&measure) {
                    continue;
                }
                let boot = system.boot(measure);
                let boot = boot.map_err(|why| IoError::Boot(system.name().into(), why))?;
                println!(
                    "== {SECTION} on {arch}: {} of {}, {:.1} s",
                    measure.name(),
                    system.name(),
                    boot.elapsed.as_secs_f64()
                );
                boots.push(boot);
            }
        }
    }
    let rustc = Toolchain::find(arch)
        .and_then(|toolchain| toolchain.rustc_version())
        .unwrap_or_else(|| "unknown".into());
    let mut data = Data::default();
    for (system, boots) in systems.iter().zip(&boots) {
        let mut commands: Vec<String> = boots.iter().map(|boot| boot.command.clone()).collect();
        commands.dedup();
        data.runs.push(Run {
            section: SECTION.into(),
            arch: Some(arch.name().into()),
            system: Some(system.name().into()),
            qemu: Some(qemu.clone()),
            rustc: rustc.clone(),
            cpu: cpu(),
            rivals: system.version().into_iter().collect(),
            commands,
            how: system.how(),
            more: BTreeMap::new(),
        });
        data.io
            .extend(rows::rows(system.name(), arch.name(), boots));
    }
    Ok(data)
}
