//! What the scenarios of the adapter start from: one device that a driver of `virtio-drivers` is
//! to have, behind a running IOMMU.

use alloc::sync::Arc;

use core::time::Duration;

use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_iommu::adapters::virtio_drivers::{
    AdapterOptions, BehindIommu, Endpoint, IommuHal, NotTranslated, Usage,
};
use virtio_iommu::dma::{DmaDevice, DmaLimits};
use virtio_iommu::topology::Placement;
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{Domain, DomainOptions, EndpointId, Iommu, Iova};

use super::dma_lab::{Pages, phys};
use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, shut_down};
use crate::arch::Firmware;
use crate::platform::{self, KernelPlatform};
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

/// The longest wait for a device.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The transport of a device behind the IOMMU.
pub type Transport<E> = BehindIommu<E, PciTransport>;

/// How buffers get to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whole pages are mapped and unmapped.
    Strict,
    /// Everything is copied.
    Bounce,
    /// Whole pages stay mapped for a while.
    Deferred,
}

impl Mode {
    /// As the adapter has it.
    pub fn options(self) -> AdapterOptions {
        let options = AdapterOptions::default();
        match self {
            Self::Strict => options.with_bounce_up_to(0),
            Self::Bounce => options.with_bounce_up_to(usize::MAX),
            // SAFETY: the scenarios use the pages of a device for nothing else until all UNMAPs
            // are sent.
            Self::Deferred => unsafe { options.with_bounce_up_to(0).deferred() },
        }
    }

    /// The requests that a buffer of whole pages takes, which was there before or not.
    pub fn requests(self, before: bool) -> usize {
        match self {
            Self::Strict => 2,
            Self::Bounce => 0,
            Self::Deferred if before => 0,
            Self::Deferred => 1,
        }
    }
}

/// How many checks [`Desk::open`] and [`Desk::close`] do.
pub const DESK_CHECKS: u32 = 2 + 3 + SHUT_DOWN_CHECKS;

/// One device, which `E` is bound to.
pub struct Desk {
    /// The driver of the IOMMU.
    pub iommu: Iommu<KernelPlatform>,
    /// The address space of the device.
    pub domain: Arc<Domain<KernelPlatform>>,
    /// Pages in use before any driver of the device.
    pub pages: usize,
    lab: Lab,
    function: Function,
    before: Baseline,
}

impl Desk {
    /// Starts the IOMMU, and binds `E` to the only device with an id: two checks.
    pub fn open<E: Endpoint<Platform = KernelPlatform>>(
        report: &mut Report,
        firmware: &Firmware,
        (vendor, device): (u16, u16),
        options: AdapterOptions,
    ) -> Checked<Self> {
        let mut lab = Lab::open(report, firmware, 0)?;
        let found = lab.machine.pci.find(vendor, device).next().cloned();
        let function = report.need("device", found.ok_or("there is no such device"))?;
        let endpoint = match lab.machine.placement(&function) {
            Placement::Behind { endpoint, .. } => Ok(endpoint),
            Placement::NotBehind => Err("the device is not behind the IOMMU"),
        };
        let endpoint: EndpointId = report.need("endpoint", endpoint)?;
        let before = Baseline::now();
        let iommu = lab.start_with("driver_starts", report, &[endpoint], None)?;
        let room = DomainOptions::new(128).with_deferred(64, Duration::from_secs(60));
        let domain = Arc::new(report.need("domain", iommu.create_domain(room))?);
        let device = DmaDevice::attach(&domain, endpoint, DmaLimits::default());
        let device = report.need("attach", device)?;
        report.require("the_endpoint_is_bound", E::bind(device, options))?;
        let at = function.address.function;
        report.need("enable", lab.machine.enable(at))?;
        Ok(Self {
            iommu,
            domain,
            pages: platform::live_pages(),
            lab,
            function,
            before,
        })
    }

    /// The plain transport of the device.
    pub fn transport<E: Endpoint>(&self, report: &mut Report) -> Checked<PciTransport> {
        let mut root = PciRoot::new(self.lab.machine.config);
        let at = self.function.address.function.device_function();
        let transport = PciTransport::new::<IommuHal<E>, _>(&mut root, at);
        report.need("transport", transport)
    }

    /// A new transport of the device, behind the IOMMU.
    pub fn behind<E: Endpoint>(
        &self,
        report: &mut Report,
    ) -> Checked<Result<Transport<E>, NotTranslated>> {
        let transport = self.transport::<E>(report)?;
        // SAFETY: it is that of the device that the endpoint is bound to.
        Ok(unsafe { BehindIommu::new(transport) })
    }

    /// Zeroed pages of the kernel, which nobody has mapped.
    pub fn alloc(&self, report: &mut Report, count: usize) -> Checked<Pages> {
        let device = DmaDevice::attach(&self.domain, self.endpoint(report)?, DmaLimits::default());
        let device = report.need("attach", device)?;
        let pages = device.alloc(count * super::dma_lab::PAGE);
        report.need("memory", pages.ok_or("no memory left"))
    }

    fn endpoint(&self, report: &mut Report) -> Checked<EndpointId> {
        match self.lab.machine.placement(&self.function) {
            Placement::Behind { endpoint, .. } => Ok(endpoint),
            Placement::NotBehind => report.need("endpoint", Err("not behind the IOMMU")),
        }
    }

    /// Whether the device would have nothing where the CPU has some pages: an access that is not
    /// translated, or not by the adapter, would have to be refused, because bypass is closed.
    pub fn is_elsewhere(&self, pages: &Pages) -> bool {
        self.domain.translate(Iova(phys(pages))).is_none()
    }

    /// Unbinds the endpoint, after which nothing must be left: six checks, with those of
    /// [`shut_down`].
    pub fn close<E: Endpoint<Platform = KernelPlatform>>(self, report: &mut Report) -> Checked {
        no_fault("no_access_was_refused", report, &self.iommu);
        let device = report.need("unbind", E::unbind())?;
        report.equal("nothing_is_in_use", E::usage(), Usage::default());
        let domain = &self.domain;
        report.equal(
            "nothing_is_mapped_quarantined_or_lost",
            (domain.mapped(), domain.quarantined(), domain.lost()),
            (0, 0, 0),
        );
        drop((device, self.domain));
        shut_down(report, self.iommu, self.before)
    }
}
