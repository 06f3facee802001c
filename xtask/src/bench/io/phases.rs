//! What QEMU's trace says of the phases of a guest: requests and notifications that really reached the IOMMU.
//!
//! The guest marks the phases in the trace itself: it writes [`BEGIN`] and [`END`] to the Interrupt Line of an `edu`,
//! a register of its configuration space that means nothing to the device.

use super::super::record::Unbelievable;

/// What QEMU is told to trace.
pub const PATTERNS: &[&str] = &[
    "virtio_iommu_map",
    "virtio_iommu_unmap",
    "virtio_iommu_device_status",
    "virtio_set_status",
    "virtio_queue_notify",
    "pci_cfg_write",
];

/// The offset of the Interrupt Line in the configuration space.
pub const MARKER: u16 = 0x3c;
/// Written there before the first I/O of a phase.
pub const BEGIN: u8 = 1;
/// Written there after the last one.
pub const END: u8 = 2;

/// The request queue of the IOMMU (virtio 1.3, §5.13.2).
const REQUESTS: u64 = 0;

/// What reached the IOMMU in one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// MAP requests that were accepted.
    pub maps: u64,
    /// UNMAP requests.
    pub unmaps: u64,
    /// Notifications of the request queue.
    pub kicks: u64,
}

/// Counts phase by phase, in the order of the trace.
///
/// # Errors
///
/// [`Unbelievable`]: a line that is torn, phases that overlap or do not end, or notifications before it is known which
/// device is the IOMMU.
pub fn counts(trace: &str) -> Result<Vec<Counts>, Unbelievable> {
    let mut phases = Vec::new();
    let mut open: Option<Counts> = None;
    // The status that was written last, and the IOMMU, by QEMU's address.
    let mut last_status = None;
    let mut iommu = None;
    for line in trace.split_inclusive('\n') {
        let text = line.trim_end_matches('\n');
        let wrong = |what| Unbelievable {
            what,
            line: text.into(),
        };
        if text.len() == line.len() {
            return Err(wrong("the trace stops in a line"));
        }
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut words = rest.split(' ');
        let mut after = |key: &str| {
            words.find(|word| *word == key)?;
            words.next()
        };
        match name {
            "virtio_set_status" => last_status = after("vdev").map(str::to_owned),
            "virtio_iommu_device_status" => {
                iommu = Some(
                    last_status
                        .clone()
                        .ok_or_else(|| wrong("a status of no device"))?,
                );
            }
            "virtio_iommu_map" => open.iter_mut().for_each(|phase| phase.maps += 1),
            "virtio_iommu_unmap" => open.iter_mut().for_each(|phase| phase.unmaps += 1),
            "virtio_queue_notify" => {
                let device = after("vdev").ok_or_else(|| wrong("a notification of no device"))?;
                let queue = after("n").and_then(|queue| queue.parse::<u64>().ok());
                let queue = queue.ok_or_else(|| wrong("a notification of no queue"))?;
                if iommu.as_deref() == Some(device) && queue == REQUESTS {
                    open.iter_mut().for_each(|phase| phase.kicks += 1);
                }
            }
            "pci_cfg_write" => {
                let Some(value) = marker(rest) else {
                    continue;
                };
                match (value, open) {
                    (1, None) => open = Some(Counts::default()),
                    (2, Some(phase)) => {
                        phases.push(phase);
                        open = None;
                    }
                    (1 | 2, _) => return Err(wrong("phases that overlap")),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    match open {
        None => Ok(phases),
        Some(_) => Err(Unbelievable {
            what: "a phase does not end",
            line: String::new(),
        }),
    }
}

/// What is written to the marker: `edu 00:07.0 @0x3c <- 0x1`.
fn marker(rest: &str) -> Option<u64> {
    let mut words = rest.split(' ');
    let device = words.next()? == "edu";
    let offset = words.nth(1)?.strip_prefix("@0x")?;
    let here = u16::from_str_radix(offset, 16).ok()? == MARKER;
    let value = words.nth(1)?.strip_prefix("0x")?;
    let value = u64::from_str_radix(value, 16).ok()?;
    // A wider write has the neighbouring registers in it.
    (device && here).then_some(value & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
virtio_set_status vdev 0x55aa val 3
virtio_set_status vdev 0x5600 val 3
virtio_iommu_device_status driver status = 3
virtio_queue_notify vdev 0x5600 n 0 vq 0x7f
pci_cfg_write virtio-blk-pci 00:05.0 @0x3c <- 0x1
pci_cfg_write edu 00:07.0 @0x4 <- 0x1
pci_cfg_write edu 00:07.0 @0x3c <- 0x1
virtio_iommu_map domain=1 virt_start=0x1000 virt_end=0x1fff phys_start=0x8000 flags=1
virtio_queue_notify vdev 0x5600 n 0 vq 0x7f
virtio_queue_notify vdev 0x55aa n 0 vq 0x7e
virtio_queue_notify vdev 0x5600 n 1 vq 0x80
virtio_iommu_unmap domain=1 virt_start=0x1000 virt_end=0x1fff
virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x1fff
virtio_queue_notify vdev 0x5600 n 0 vq 0x7f
pci_cfg_write edu 00:07.0 @0x3c <- 0xff02
virtio_iommu_map domain=1 virt_start=0x1000 virt_end=0x1fff phys_start=0x8000 flags=1
pci_cfg_write edu 00:07.0 @0x3c <- 0x1
pci_cfg_write edu 00:07.0 @0x3c <- 0x2
";

    #[test]
    fn phases_are_counted() {
        let first = Counts {
            maps: 1,
            unmaps: 1,
            kicks: 2,
        };
        assert_eq!(counts(TRACE).unwrap(), [first, Counts::default()]);
    }

    #[test]
    fn a_trace_that_cannot_be_counted_is_refused() {
        let begin = "pci_cfg_write edu 00:07.0 @0x3c <- 0x1\n";
        let end = "pci_cfg_write edu 00:07.0 @0x3c <- 0x2\n";
        for bad in [
            begin.into(),
            end.into(),
            format!("{begin}{begin}{end}"),
            format!("{begin}{end}{end}"),
            format!("{begin}virtio_queue_notify vdev 0x1 n x\n{end}"),
            format!("{begin}{}", &end[..end.len() - 1]),
            "virtio_iommu_device_status driver status = 3\n".into(),
        ] {
            assert!(counts(&bad).is_err(), "{bad}");
        }
    }
}
