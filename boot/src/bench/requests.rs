//! What a MAP and an UNMAP cost, alone and in batches, next to the library's queue.
//!
//! The rivals take turns: each round starts one on the device, measures it, resets the device, and
//! goes on with the next, so that whatever else the host does falls on all of them.

use alloc::sync::Arc;
use core::array;

use virtio_drivers::transport::SomeTransport;
use virtio_drivers::transport::pci::PciTransport;
use virtio_iommu::{EndpointId, Iommu, Options, PhysRange};

use super::dma;
use super::library_queue::LibraryQueue;
use super::meter::Meter;
use super::own_driver::OwnDomain;
use super::parts;
use super::pipeline::Queue;
use super::series::Samples;
use super::subject::{self, PAGES, Subject};
use crate::arch::Firmware;
use crate::buffer::Buffer;
use crate::command_line::BenchOptions;
use crate::machine::Machine;
use crate::platform::KernelPlatform;
use crate::report::{Checked, Report};

/// What the rivals get.
struct Bench {
    machine: Machine,
    /// Attached, and idle.
    endpoint: EndpointId,
    /// No two are neighbours: those could share a request.
    pages: [PhysRange; PAGES],
    meter: Meter,
    samples: Samples,
}

/// `requests`: the benchmark.
pub fn run(report: &mut Report, options: BenchOptions, firmware: &Firmware) -> Checked {
    report.plan(3);
    let meter = Meter::new(options.measure, report)?;
    let machine = report.need("machine", Machine::discover(firmware))?;
    let first = machine.endpoints().first().map(|(endpoint, _)| *endpoint);
    let endpoint = report.need("endpoint", first.ok_or("nothing is behind the IOMMU"))?;
    let memory = Buffer::new(2 * PAGES * 4096, 4096);
    let memory = report.need("memory", memory.ok_or("no memory left"))?;
    let mut bench = Bench {
        machine,
        endpoint,
        pages: array::from_fn(|i| memory.part(2 * i * 4096, 4096)),
        meter,
        samples: Samples::default(),
    };
    for _ in 0..options.rounds {
        bench.library_queue(report)?;
        bench.own_driver(report)?;
    }
    report.pass("all_requests_succeeded");
    let rival = LibraryQueue::RIVAL;
    bench.samples.record(rival, &bench.meter, report)?;
    report.pass("all_figures_are_told");
    Ok(())
}

impl Bench {
    /// A new transport: the plain one, whose notification is three accesses to registers.
    fn transport(&mut self, report: &mut Report) -> Checked<PciTransport> {
        let transport = report.need("transport", self.machine.iommu_transport())?;
        let pci = match transport {
            SomeTransport::Pci(pci) => Ok(pci),
            _ => Err("the IOMMU is not on PCI"),
        };
        report.need("transport", pci)
    }

    /// A round of the rival.
    fn library_queue(&mut self, report: &mut Report) -> Checked {
        let transport = self.transport(report)?;
        let queue = LibraryQueue::start(transport, self.endpoint, &self.pages);
        let mut queue = report.need("library_queue", queue)?;
        let result = subject::round(&mut queue, &self.meter, &mut self.samples);
        report.need("library_queue", result)?;
        parts::notify(&mut queue, &self.meter, &mut self.samples);
        parts::lock(&self.meter, &mut self.samples);
        report.need("library_queue", queue.stop())
    }

    /// A round of the driver under test: of its request queue, and of all of it.
    fn own_driver(&mut self, report: &mut Report) -> Checked {
        let transport = self.transport(report)?;
        let endpoints = [self.endpoint];
        let iommu = Iommu::start(transport, KernelPlatform, &endpoints, Options::default());
        let iommu = report.need("driver_starts", iommu)?;
        let domain = report.need("domain", iommu.create_domain(PAGES))?;
        let domain = Arc::new(domain);
        report.need("attach", domain.attach(self.endpoint))?;
        let mut queue = Queue::new(&domain, &self.pages);
        let result = subject::round(&mut queue, &self.meter, &mut self.samples);
        report.need("pipeline", result)?;
        let mut subject = OwnDomain::new(&domain, &self.pages);
        let result = subject::round(&mut subject, &self.meter, &mut self.samples);
        report.need("domain", result)?;
        let result = dma::round(&domain, self.endpoint, &self.meter, &mut self.samples);
        report.need("dma", result)?;
        drop(domain);
        report.need("shutdown", iommu.shutdown())
    }
}
