//! What most scenarios start from: the machine, its `edu` devices, and a running driver.

use alloc::vec::Vec;

use virtio_iommu::topology::{IommuLocation, RequesterId};
use virtio_iommu::{DomainRange, EndpointId, Iommu, Options, StartError};

use crate::arch::Firmware;
use crate::buffer::{Buffer, Pattern};
use crate::console;
use crate::counted::Counted;
use crate::edu::{Edu, EduError};
use crate::machine::Machine;
use crate::memory::{frames, heap};
use crate::platform::{self, KernelPlatform};
use crate::report::{Checked, Report, Stop};

/// The machine after the PCI walk, and the `edu` devices on it.
pub struct Lab {
    /// The machine.
    pub machine: Machine,
    /// Its `edu` devices, in the order of the bus.
    pub edus: Vec<Edu>,
}

/// What was in use before the driver started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    pages: usize,
    heap: usize,
}

impl Baseline {
    /// What is in use now.
    pub fn now() -> Self {
        Self {
            pages: platform::live_pages(),
            heap: heap::live_bytes() - frames::list_bytes(),
        }
    }
}

impl Lab {
    /// Walks the bus, and expects a number of `edu` devices.
    pub fn open(report: &mut Report, firmware: &Firmware, edus: usize) -> Checked<Self> {
        let machine = Machine::discover(firmware);
        let mut machine = report.need("machine", machine)?;
        let found = report.need("edu", Edu::all(&mut machine))?;
        if found.len() != edus {
            report.fail(
                "number_of_edu_devices",
                format_args!("left: {} right: {edus}", found.len()),
            );
            return Err(Stop);
        }
        Ok(Self {
            machine,
            edus: found,
        })
    }

    /// The endpoint ids of all `edu` devices.
    pub fn endpoints(&self, report: &mut Report) -> Checked<Vec<EndpointId>> {
        let ids: Option<Vec<EndpointId>> = self.edus.iter().map(Edu::endpoint).collect();
        report.need(
            "edu_is_behind_the_iommu",
            ids.ok_or("an edu is not behind the IOMMU"),
        )
    }

    /// Starts the driver for all `edu` devices: one check, `driver_starts`.
    pub fn start(&mut self, report: &mut Report) -> Checked<Iommu<KernelPlatform>> {
        let endpoints = self.endpoints(report)?;
        self.start_with("driver_starts", report, &endpoints, None)
    }

    /// Starts the driver with a list of endpoints and a range of domain ids: one check.
    pub fn start_with(
        &mut self,
        name: &str,
        report: &mut Report,
        endpoints: &[EndpointId],
        domain_ids: Option<DomainRange>,
    ) -> Checked<Iommu<KernelPlatform>> {
        let mut options = Options::default();
        options.domain_ids = domain_ids;
        let iommu = self.try_start(report, endpoints, options)?;
        report.require(name, iommu)
    }

    /// Starts the driver, which may fail.
    pub fn try_start(
        &mut self,
        report: &mut Report,
        endpoints: &[EndpointId],
        options: Options<'_>,
    ) -> Checked<Result<Iommu<KernelPlatform>, StartError>> {
        let transport = Counted(report.need("transport", self.machine.iommu_transport())?);
        let started = Iommu::start(transport, KernelPlatform, endpoints, options);
        if started.is_ok() {
            hold(report, "running")?;
        }
        Ok(started)
    }

    /// The PCI function of the IOMMU.
    pub fn iommu_function(&self, report: &mut Report) -> Checked<RequesterId> {
        let function = match self.machine.iommu() {
            Ok(IommuLocation::Pci(address)) => Ok(address.function),
            other => Err(other),
        };
        report.need("iommu_on_pci", function)
    }
}

/// Waits until the machine was looked at, if it is to be.
pub fn hold(report: &mut Report, moment: &str) -> Checked {
    let looked = console::hold(moment).then_some(());
    report.need("hold", looked.ok_or("nobody has looked at the machine"))
}

/// Memory for a device, filled with a pattern.
pub fn buffer(report: &mut Report, bytes: usize, pattern: Pattern) -> Checked<Buffer> {
    let buffer = Buffer::new(bytes, bytes.next_power_of_two());
    let mut buffer = report.need("memory", buffer.ok_or("no memory left"))?;
    buffer.fill(pattern);
    Ok(buffer)
}

/// Has a device read `len` bytes and write them elsewhere, both by addresses on the bus.
pub fn copy(report: &mut Report, edu: &mut Edu, from: u64, to: u64, len: usize) -> Checked {
    report.need("edu_copies", edu.copy(from, to, len))
}

/// What an `edu` device says about a transfer must always be: done.
pub fn done(report: &mut Report, result: Result<(), EduError>) -> Checked {
    report.need("edu_transfer", result)
}

/// How many checks [`shut_down`] does.
pub const SHUT_DOWN_CHECKS: u32 = 3;

/// Stops the driver, whose domains are gone, and looks for what it left behind: pages, and heap
/// that was not in use at the time of `before`.
pub fn shut_down(report: &mut Report, iommu: Iommu<KernelPlatform>, before: Baseline) -> Checked {
    report.require("device_confirms_its_reset", iommu.shutdown())?;
    let after = Baseline::now();
    report.equal("no_page_is_left_behind", after.pages, before.pages);
    report.equal("no_heap_is_left_behind", after.heap, before.heap);
    Ok(())
}
