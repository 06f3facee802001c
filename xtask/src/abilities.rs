//! What a QEMU can do: asked of it, and not concluded from its version.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::monitor::{Monitor, MonitorError};
use crate::qemu::Qemu;
use crate::vm::{self, Echo, Limits};

/// The devices that are asked about. A QEMU that does not have one of them has no use here.
const DEVICES: [&str; 2] = ["virtio-iommu-pci", "edu"];
/// The trace line that only some versions have of an endpoint that leaves its domain.
const LEAVES: &str = "virtio_iommu_detach_endpoint_from_domain";

/// How long QEMU may take to answer, and how much it may say, in bytes.
const LIMIT: Duration = Duration::from_secs(20);
const OUTPUT: usize = 64 << 10;

/// Something that a machine needs: a property of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The device, one of those that are asked about.
    pub device: &'static str,
    /// Its property.
    pub property: &'static str,
}

/// What a QEMU can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Device and property.
    properties: BTreeSet<(String, String)>,
    /// Whether the trace tells that an endpoint leaves a domain.
    pub tells_leaves: bool,
}

impl Abilities {
    /// Asks a QEMU, which runs for a moment, without a machine.
    ///
    /// # Errors
    ///
    /// [`MonitorError`].
    pub fn ask(qemu: &Qemu) -> Result<Self, MonitorError> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("viommu-ask-{}-{number}.qmp", std::process::id());
        let socket: PathBuf = std::env::temp_dir().join(name);
        let mut command = Command::new(&qemu.path);
        command.args(["-M", "none", "-nodefaults", "-display", "none", "-S"]);
        command.args(["-monitor", "none", "-serial", "none", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", socket.display()));
        let limits = Limits {
            wall: LIMIT,
            output: OUTPUT,
            files: Vec::new(),
        };
        let asked = std::thread::scope(|scope| {
            let asked = scope.spawn(|| -> Result<Self, MonitorError> {
                let mut monitor = Monitor::connect(&socket)?;
                let abilities = Self::of(&mut monitor);
                // Whatever it answered, nobody needs it any more.
                monitor.quit()?;
                abilities
            });
            // The answers say how it went.
            let _ = vm::run(command, &limits, Echo::Quiet);
            // A panic of the thread is passed on.
            asked
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // QEMU takes it away itself, unless it was killed.
        let _ = std::fs::remove_file(&socket);
        asked
    }

    fn of(monitor: &mut Monitor) -> Result<Self, MonitorError> {
        let mut abilities = Self::default();
        for device in DEVICES {
            let found = monitor.properties(device)?;
            let named = found
                .into_iter()
                .map(|property| (device.to_owned(), property));
            abilities.properties.extend(named);
        }
        abilities.tells_leaves = monitor.traces(LEAVES)?;
        Ok(abilities)
    }

    /// Whether a device has a property.
    #[must_use]
    pub fn has(&self, need: Need) -> bool {
        let wanted = |(device, property): &(String, String)| {
            (device.as_str(), property.as_str()) == (need.device, need.property)
        };
        self.properties.iter().any(wanted)
    }

    /// What is missing of `needs`, in words. `None` if nothing is.
    #[must_use]
    pub fn lacks(&self, needs: &[Need]) -> Option<String> {
        let missing = needs.iter().find(|need| !self.has(**need))?;
        let Need { device, property } = missing;
        Some(format!("this QEMU's {device} has no property `{property}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let abilities = Abilities {
            properties: [("edu".to_owned(), "dma_mask".to_owned())].into(),
            tells_leaves: true,
        };
        let need = |device, property| Need { device, property };
        let there = need("edu", "dma_mask");
        assert_eq!(abilities.lacks(&[]), None);
        assert_eq!(abilities.lacks(&[there]), None);
        for other in [need("edu", "granule"), need("virtio-iommu-pci", "dma_mask")] {
            let lacks = abilities.lacks(&[there, other]).unwrap();
            assert!(lacks.contains(other.device) && lacks.contains(other.property));
        }
    }
}
