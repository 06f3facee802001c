//! The stage of the tour: the machine, the driver, two devices, and what the steps leave for the
//! next ones.

use alloc::vec::Vec;

use virtio_iommu::topology::{IommuLocation, PciAddress};
use virtio_iommu::{Bypass, Domain, EndpointId, Fault, Iommu, IovaRange, Options};

use super::tell::{self, Ranges, Regions, say, say_words};
use super::{Told, wrong};
use crate::arch::{self, Firmware};
use crate::buffer::{Buffer, Pattern};
use crate::edu::{self, Edu};
use crate::machine::{FoundBy, Machine};
use crate::platform::KernelPlatform;
use crate::refusal::{self, Refusal};

/// What the pages contain.
pub const SOURCE: Pattern = Pattern::Seed(0xde30_0001);
/// See [`SOURCE`].
pub const TARGET: Pattern = Pattern::Seed(0xde30_0002);
/// See [`SOURCE`].
pub const OTHER: Pattern = Pattern::Seed(0xde30_0003);

/// Bytes of a transfer that is to be refused: each word is a fault of its own.
pub const SHORT: usize = 64;

/// A function behind the IOMMU, for the list.
struct Listed {
    endpoint: EndpointId,
    address: PciAddress,
    id: (u16, u16),
}

/// A device that does DMA, and its memory.
pub struct Actor {
    /// The device.
    pub edu: Edu,
    /// Its name at the IOMMU.
    pub endpoint: EndpointId,
}

/// What the steps work with.
pub struct Stage {
    /// The domain of the first device. The first field: it is gone before the memory is.
    pub domain: Option<Domain<KernelPlatform>>,
    iommu: Option<Iommu<KernelPlatform>>,
    location: IommuLocation,
    found_by: FoundBy,
    listed: Vec<Listed>,
    /// The device of most steps.
    pub first: Actor,
    /// The one that must not see what the first sees.
    pub second: Actor,
    /// What the first device may read.
    pub source: Buffer,
    /// What the first device may write, and the same much again behind it.
    pub target: Buffer,
    /// What the second device may write.
    pub other: Buffer,
    /// Where the source is mapped.
    pub from: Option<IovaRange>,
    /// Where the target is mapped.
    pub to: Option<IovaRange>,
}

impl Stage {
    /// Walks the bus, starts the driver, and prepares memory.
    pub fn set(firmware: &Firmware) -> Told<Self> {
        let mut machine = match Machine::discover(firmware) {
            Ok(machine) => machine,
            Err(error) => return wrong("a machine with a PCI bus", format_args!("{error:?}")),
        };
        let location = match machine.iommu() {
            Ok(location) => location,
            Err(error) => return wrong("an IOMMU", format_args!("{error:?}")),
        };
        let edus = match Edu::all(&mut machine) {
            Ok(edus) => edus,
            Err(error) => return wrong("edu devices that are well", error),
        };
        let mut actors: Vec<Actor> = edus
            .into_iter()
            .filter_map(|edu| edu.endpoint().map(|endpoint| Actor { edu, endpoint }))
            .collect();
        let count = actors.len();
        let (Some(second), Some(first)) = (
            (count >= 2).then(|| actors.swap_remove(1)),
            (count >= 2).then(|| actors.swap_remove(0)),
        ) else {
            let seen = alloc::format!("{count}");
            return wrong("two edu devices behind the IOMMU (-device edu)", seen);
        };
        let listed: Vec<Listed> = machine
            .endpoints()
            .into_iter()
            .map(|(endpoint, function)| Listed {
                endpoint,
                address: function.address,
                id: (function.vendor, function.device),
            })
            .collect();
        let transport = match machine.iommu_transport() {
            Ok(transport) => transport,
            Err(error) => return wrong("a transport to the IOMMU", format_args!("{error:?}")),
        };
        let endpoints: Vec<EndpointId> = listed.iter().map(|listed| listed.endpoint).collect();
        let options = Options::default();
        let iommu = match Iommu::start(transport, KernelPlatform, &endpoints, options) {
            Ok(iommu) => iommu,
            Err(error) => return wrong("a driver that starts", error),
        };
        let granule = iommu.geometry().granule() as usize;
        let (Some(mut source), Some(mut target), Some(mut other)) = (
            Buffer::new(granule, granule),
            Buffer::new(2 * granule, granule),
            Buffer::new(granule, granule),
        ) else {
            return wrong("memory for four granules", "none left");
        };
        source.fill(SOURCE);
        target.fill(TARGET);
        other.fill(OTHER);
        Ok(Self {
            iommu: Some(iommu),
            location,
            found_by: machine.found_by,
            listed,
            first,
            second,
            source,
            target,
            other,
            domain: None,
            from: None,
            to: None,
        })
    }

    /// Says what is there.
    pub fn introduce(&self) {
        let Some(iommu) = &self.iommu else { return };
        let how = match self.found_by {
            FoundBy::Firmware => arch::DESCRIBED_BY,
            FoundBy::Scan => "found on the bus (1af4:1057), described by nobody",
            FoundBy::OwnTable => "found in a slot, described by nobody",
        };
        say(
            "iommu",
            format_args!("virtio-iommu, {}, {how}", self.location),
        );
        say("offered", format_args!("{:#x}", iommu.offered_features()));
        say_words("", &tell::features(iommu.offered_features()));
        say_words("accepted", &tell::features(iommu.features().bits()));
        say("geometry", Ranges(iommu.geometry()));
        say(
            "bypass",
            match iommu.bypass() {
                Bypass::Locked => "locked: 0 written and read back; without a domain, no DMA",
                _ => "left alone: endpoints without a domain are kept in an empty one",
            },
        );
        for listed in &self.listed {
            let name = match listed.id {
                edu::ID => "edu",
                _ => "",
            };
            let regions = iommu.reserved_regions(listed.endpoint).unwrap_or_default();
            let (vendor, device) = listed.id;
            say(
                "endpoint",
                format_args!(
                    "{:<6} {} {vendor:04x}:{device:04x} {name:<4} {}",
                    alloc::format!("{}", listed.endpoint),
                    listed.address,
                    Regions(regions)
                ),
            );
        }
    }

    /// The driver.
    pub fn iommu(&self) -> Told<&Iommu<KernelPlatform>> {
        match &self.iommu {
            Some(iommu) => Ok(iommu),
            None => wrong("a driver", "none"),
        }
    }

    /// The driver, for the last step.
    pub fn take_iommu(&mut self) -> Told<Iommu<KernelPlatform>> {
        match self.iommu.take() {
            Some(iommu) => Ok(iommu),
            None => wrong("a driver", "none"),
        }
    }

    /// The domain of the first device.
    pub fn domain(&self) -> Told<&Domain<KernelPlatform>> {
        match &self.domain {
            Some(domain) => Ok(domain),
            None => wrong("a domain", "none"),
        }
    }

    /// Where the source and the target are mapped.
    pub fn mapped(&self) -> Told<(IovaRange, IovaRange)> {
        match (self.from, self.to) {
            (Some(from), Some(to)) => Ok((from, to)),
            _ => wrong("two mappings", "less"),
        }
    }

    /// The faults that arrived, told and compared with the access that caused them.
    pub fn refused(&self, refusal: &Refusal) -> Told {
        let faults: Vec<Fault> = refusal::drain(self.iommu()?);
        tell::faults(&faults);
        match refusal.compare(&faults) {
            Ok(()) => Ok(()),
            Err(mismatch) => {
                let expected = alloc::format!(
                    "faults of endpoint {} from {:#x} on",
                    refusal.endpoint,
                    refusal.start
                );
                wrong(&expected, mismatch)
            }
        }
    }

    /// No faults arrived.
    pub fn nothing_refused(&self) -> Told {
        let faults = refusal::drain(self.iommu()?);
        tell::faults(&faults);
        match faults.first() {
            None => Ok(()),
            Some(fault) => wrong("no fault", format_args!("{fault:?}")),
        }
    }
}
