//! QEMU's own trace of the virtio-iommu: what really reached the device, whatever the guest says.
//!
//! Line formats of QEMU 7.2 to 10.0, log backend. Ids are printed with `%d`, so the upper half is negative.

use super::request::{Mapping, Range, u32_of, u64_of};

/// What QEMU is told to trace: `virtio_iommu_translate` has a line for each access of a device.
pub const PATTERNS: &[&str] = &[
    "virtio_iommu_*",
    "-virtio_iommu_translate*",
    "virtio_queue_notify",
    "virtio_set_status",
];

/// One line of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An ATTACH was received; nothing is said about its flags or its status.
    Attach {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
    },
    /// A DETACH was received.
    Detach {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
    },
    /// An endpoint left a domain, for whatever reason.
    Left {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
    },
    /// A MAP was accepted.
    Map {
        /// Domain id.
        domain: u32,
        /// What is mapped where.
        mapping: Mapping,
    },
    /// An UNMAP was received.
    Unmap {
        /// Domain id.
        domain: u32,
        /// Addresses, both ends included.
        range: Range,
    },
    /// One mapping was removed by the UNMAP before.
    UnmapDone {
        /// Domain id.
        domain: u32,
        /// The mapping's addresses.
        range: Range,
    },
    /// The device made a record for an endpoint that it had none for.
    EndpointMade(u32),
    /// The device forgot an endpoint.
    EndpointGone(u32),
    /// The device made a domain.
    DomainMade(u32),
    /// The device dropped a domain with its mappings.
    DomainGone(u32),
    /// One reserved region of the answer to a PROBE.
    Reserved {
        /// Endpoint id.
        endpoint: u32,
        /// 0 RESERVED, 1 MSI.
        subtype: u32,
        /// Its addresses.
        range: Range,
    },
    /// A fault record was handed to the driver.
    Fault {
        /// Reason of the specification: 0 UNKNOWN, 1 DOMAIN, 2 MAPPING.
        reason: u32,
        /// READ 1, WRITE 2, EXEC 4, ADDRESS 0x100.
        flags: u32,
        /// Endpoint id.
        endpoint: u32,
        /// Address of the access.
        address: u64,
    },
    /// An access of a device was refused: with `-d guest_errors`, some versions of QEMU have a line for that, too.
    Rejected {
        /// Address of the access.
        address: u64,
    },
    /// The configuration was read.
    Config(Config),
    /// `bypass` was written.
    SetBypass(u32),
    /// The driver wrote the device status.
    Status(u32),
    /// The tables of domains and endpoints were cleared: with the machine, and in some versions with the device.
    Cleared,
    /// A queue of some virtio device was notified.
    Notify {
        /// QEMU's address of the device.
        device: u64,
        /// Queue number.
        queue: u32,
    },
    /// The status of some virtio device was written; the IOMMU's own is followed by [`Event::Status`].
    AnyStatus {
        /// QEMU's address of the device.
        device: u64,
    },
}

/// What the device offers in its configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Page sizes; the lowest bit is the granule.
    pub page_size_mask: u64,
    /// Addresses that may be mapped.
    pub input: Range,
    /// First and last domain id.
    pub domains: (u32, u32),
    /// `bypass`.
    pub bypass: u32,
}

impl Config {
    /// The smallest page, in bytes; 0 for a mask of nothing.
    pub fn granule(&self) -> u64 {
        self.page_size_mask & self.page_size_mask.wrapping_neg()
    }
}

/// A whole trace: events with their line numbers, from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In the order in which the device acted.
    pub events: Vec<(usize, Event)>,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its number, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

impl Trace {
    /// Reads a trace file.
    ///
    /// Events of the IOMMU that are not known here are passed over: versions of QEMU differ in them.
    ///
    /// # Errors
    ///
    /// The first line that is not an event, not of the form that its name has, or cut short.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let mut events = Vec::new();
        for (index, raw) in text.split_inclusive('\n').enumerate() {
            let line = index + 1;
            let read = raw.strip_suffix('\n').and_then(event);
            let read = read.ok_or_else(|| Unreadable {
                line,
                text: raw.trim_end().to_owned(),
            })?;
            events.extend(read.map(|event| (line, event)));
        }
        Ok(Self { events })
    }

    /// The IOMMU among all virtio devices: the one whose status writes the IOMMU's model reports.
    pub fn iommu(&self) -> Option<u64> {
        self.events.windows(2).find_map(|pair| match *pair {
            [(_, Event::AnyStatus { device }), (_, Event::Status(_))] => Some(device),
            _ => None,
        })
    }

    /// What the device offers, if it was read: its geometry does not change.
    pub fn config(&self) -> Option<Config> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Config(config) => Some(*config),
            _ => None,
        })
    }

    /// How often a queue of the IOMMU was notified.
    pub fn kicks(&self, queue: u32) -> usize {
        let Some(device) = self.iommu() else {
            return 0;
        };
        let kick = Event::Notify { device, queue };
        self.count(|event| *event == kick)
    }

    /// How many events a rule holds for.
    pub fn count(&self, rule: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| rule(event)).count()
    }

    /// What each kick of the request queue made the device do: the events up to the next kick.
    ///
    /// Only meaningful where the device works inside the notification: virtio-pci, not virtio-mmio.
    pub fn batches(&self) -> Vec<Vec<Event>> {
        let mut batches: Vec<Vec<Event>> = Vec::new();
        let Some(device) = self.iommu() else {
            return batches;
        };
        for (_, event) in &self.events {
            if *event == (Event::Notify { device, queue: 0 }) {
                batches.push(Vec::new());
            } else if let Some(batch) = batches.last_mut() {
                batch.push(*event);
            }
        }
        batches
    }
}

/// `None` is a line that cannot be read, `Some(None)` one that means nothing here.
fn event(line: &str) -> Option<Option<Event>> {
    let (name, rest) = line.split_once(' ')?;
    let pair = |rest| {
        let [domain, endpoint] = scan(rest, ["domain=", " endpoint="])?;
        Some((u32_of(domain)?, u32_of(endpoint)?))
    };
    let unmapped = |rest| {
        let [domain, start, end] = scan(rest, ["domain=", " virt_start=", " virt_end="])?;
        Some((u32_of(domain)?, range(start, end)?))
    };
    let one = |prefix| u32_of(rest.strip_prefix(prefix)?);
    Some(Some(match name {
        "virtio_iommu_attach" => {
            let (domain, endpoint) = pair(rest)?;
            Event::Attach { domain, endpoint }
        }
        "virtio_iommu_detach" => {
            let (domain, endpoint) = pair(rest)?;
            Event::Detach { domain, endpoint }
        }
        "virtio_iommu_detach_endpoint_from_domain" => {
            let (domain, endpoint) = pair(rest)?;
            Event::Left { domain, endpoint }
        }
        "virtio_iommu_map" => {
            let keys = [
                "domain=",
                " virt_start=",
                " virt_end=",
                " phys_start=",
                " flags=",
            ];
            let [domain, start, end, phys, flags] = scan(rest, keys)?;
            let mapping = Mapping {
                range: range(start, end)?,
                phys_start: u64_of(phys)?,
                flags: u32_of(flags)?,
            };
            let domain = u32_of(domain)?;
            Event::Map { domain, mapping }
        }
        "virtio_iommu_unmap" => {
            let (domain, range) = unmapped(rest)?;
            Event::Unmap { domain, range }
        }
        "virtio_iommu_unmap_done" => {
            let (domain, range) = unmapped(rest)?;
            Event::UnmapDone { domain, range }
        }
        "virtio_iommu_get_endpoint" => Event::EndpointMade(one("Alloc endpoint=")?),
        "virtio_iommu_put_endpoint" => Event::EndpointGone(one("Free endpoint=")?),
        "virtio_iommu_get_domain" => Event::DomainMade(one("Alloc domain=")?),
        "virtio_iommu_put_domain" => Event::DomainGone(one("Free domain=")?),
        "virtio_iommu_fill_resv_property" => {
            let keys = ["dev= ", ", type=", " start=", " end="];
            let [endpoint, subtype, start, end] = scan(rest, keys)?;
            Event::Reserved {
                endpoint: u32_of(endpoint)?,
                subtype: u32_of(subtype)?,
                range: range(start, end)?,
            }
        }
        "virtio_iommu_report_fault" => {
            let keys = ["FAULT reason=", " flags=", " endpoint=", " address ="];
            let [reason, flags, endpoint, address] = scan(rest, keys)?;
            Event::Fault {
                reason: u32_of(reason)?,
                flags: u32_of(flags)?,
                endpoint: u32_of(endpoint)?,
                address: u64_of(address)?,
            }
        }
        "Invalid" => {
            let rest = rest
                .strip_prefix("read at addr ")
                .or_else(|| rest.strip_prefix("write at addr "))?;
            let [address, size] = scan(rest, ["", ", size "])?;
            // Any other reason, and any region that has a name, is one of the guest.
            u64_of(size.strip_suffix(", region '(null)', reason: rejected")?)?;
            Event::Rejected {
                address: u64_of(address)?,
            }
        }
        "virtio_iommu_get_config" => Event::Config(config(rest)?),
        "virtio_iommu_set_config" => Event::SetBypass(one("bypass=")?),
        "virtio_iommu_device_status" => Event::Status(one("driver status = ")?),
        "virtio_iommu_device_reset" | "virtio_iommu_device_reset_exit" => Event::Cleared,
        "virtio_queue_notify" => {
            let [device, queue, _] = scan(rest, ["vdev ", " n ", " vq "])?;
            Event::Notify {
                device: u64_of(device)?,
                queue: u32_of(queue)?,
            }
        }
        "virtio_set_status" => {
            let [device, _] = scan(rest, ["vdev ", " val "])?;
            Event::AnyStatus {
                device: u64_of(device)?,
            }
        }
        _ if ["virtio_iommu_", "virtio_mmio_", "virtio_pci_"]
            .iter()
            .any(|known| name.starts_with(known)) =>
        {
            return Some(None);
        }
        _ => return None,
    }))
}

fn config(text: &str) -> Option<Config> {
    let keys = [
        "page_size_mask=",
        " input range start=",
        " input range end=",
        " domain range start=",
        " domain range end=",
        " probe_size=",
        " bypass=",
    ];
    let [mask, start, end, first, last, _, bypass] = scan(text, keys)?;
    Some(Config {
        page_size_mask: u64_of(mask)?,
        input: range(start, end)?,
        domains: (u32_of(first)?, u32_of(last)?),
        bypass: u32_of(bypass)?,
    })
}

fn range(start: &str, end: &str) -> Option<Range> {
    Some(Range {
        start: u64_of(start)?,
        end: u64_of(end)?,
    })
}

/// The values behind each of `keys`, which follow each other and fill the text.
fn scan<'a, const N: usize>(text: &'a str, keys: [&str; N]) -> Option<[&'a str; N]> {
    let mut values = [""; N];
    let mut rest = text.strip_prefix(keys[0])?;
    for (index, value) in values.iter_mut().enumerate() {
        let Some(key) = keys.get(index + 1) else {
            *value = rest;
            break;
        };
        (*value, rest) = rest.split_once(key)?;
    }
    Some(values)
}
