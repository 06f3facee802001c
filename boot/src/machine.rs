//! What is on the PCI bus, where the IOMMU is, and who is behind it.

use alloc::vec::Vec;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_drivers::transport::{DeviceType, SomeTransport, Transport};
use virtio_iommu::topology::pci::{Command, Function, PciTree, walk};
use virtio_iommu::topology::{
    HostBridge, IommuLocation, Placement, RequesterId, Segment, TableError, Topology,
};
use virtio_iommu::{EndpointId, PhysAddr};

use crate::arch::Firmware;
use crate::config_space::ConfigSpace;
use crate::interrupts::{self, Line, RouteError};
use crate::memory::direct_map;
use crate::platform::KernelHal;

/// PCI base class of bridges.
const BRIDGE: u8 = 0x06;
/// The size of the registers of a virtio-mmio slot of the `virt` machines, in bytes.
const SLOT: u64 = 0x200;

/// How the IOMMU was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// The firmware describes it, and who is behind it.
    Firmware,
    /// There is no description: the only function 1af4:1057, endpoint id = requester id.
    Scan,
    /// There is no description: the only virtio-mmio slot with an IOMMU in it, and a table of
    /// this kernel's own.
    OwnTable,
}

/// Why the machine is not what this kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// What the firmware says about the machine cannot be read.
    Description,
    /// There is no host bridge with a configuration space within reach.
    NoHostBridge,
    /// The functions on the bus do not make a table.
    Table(TableError),
    /// There is no IOMMU.
    NoIommu,
    /// The IOMMU cannot be driven.
    Transport,
    /// A function cannot be switched on.
    Enable(RequesterId),
}

/// What the firmware says about the machine.
pub struct Described {
    /// The host bridges.
    pub host_bridges: Vec<HostBridge>,
    /// Who is behind which IOMMU; empty if that is not described.
    pub topology: Topology,
    /// The registers of all virtio-mmio slots.
    pub slots: Vec<PhysAddr>,
}

/// The machine after the PCI walk: all bus numbers are final.
pub struct Machine {
    /// The configuration space.
    pub config: ConfigSpace,
    /// The host bridge.
    pub bridge: HostBridge,
    /// The functions.
    pub pci: PciTree,
    /// Who is behind the IOMMU.
    pub topology: Topology,
    /// How that is known.
    pub found_by: FoundBy,
    /// The registers of all virtio-mmio slots.
    pub slots: Vec<PhysAddr>,
}

impl Machine {
    /// Walks the bus, and finds the IOMMU.
    ///
    /// # Errors
    ///
    /// [`MachineError`]; that there is no IOMMU is not an error yet.
    pub fn discover(firmware: &Firmware) -> Result<Self, MachineError> {
        let described = firmware.describe()?;
        let (bridge, mut config) = described
            .host_bridges
            .iter()
            .find_map(|bridge| Some((bridge, ConfigSpace::new(bridge)?)))
            .ok_or(MachineError::NoHostBridge)?;
        let pci = walk(&mut config, bridge);
        for warning in &pci.warnings {
            log::warn!("pci: {warning:?}");
        }
        let slots = described.slots;
        let (topology, found_by) = if !described.topology.iommus().is_empty() {
            (described.topology, FoundBy::Firmware)
        } else {
            undescribed(&pci, bridge.segment, &slots)?
        };
        Ok(Self {
            config,
            bridge: bridge.clone(),
            pci,
            topology,
            found_by,
            slots,
        })
    }

    /// Where the IOMMU is.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoIommu`].
    pub fn iommu(&self) -> Result<IommuLocation, MachineError> {
        let first = self.topology.iommus().first();
        first.copied().ok_or(MachineError::NoIommu)
    }

    /// A new transport to the IOMMU. Only the last one made may be used.
    ///
    /// # Errors
    ///
    /// [`MachineError`].
    pub fn iommu_transport(&mut self) -> Result<SomeTransport<'static>, MachineError> {
        match self.iommu()? {
            IommuLocation::Pci(address) => {
                self.enable(address.function)?;
                let mut root = PciRoot::new(self.config);
                let function = address.function.device_function();
                PciTransport::new::<KernelHal, _>(&mut root, function)
                    .map(SomeTransport::from)
                    .map_err(|error| {
                        log::error!("IOMMU at {address}: {error}");
                        MachineError::Transport
                    })
            }
            IommuLocation::Mmio { base, .. } => slot(base)
                .map(SomeTransport::from)
                .ok_or(MachineError::Transport),
        }
    }

    /// The line on which the IOMMU interrupts.
    ///
    /// # Errors
    ///
    /// [`RouteError`].
    pub fn iommu_line(&self, firmware: &Firmware) -> Result<Line, RouteError> {
        match self.iommu() {
            Ok(IommuLocation::Pci(address)) => self.line(firmware, address.function),
            Ok(IommuLocation::Mmio { base, .. }) => interrupts::line_of_slot(firmware, base),
            Err(_) => Err(RouteError::NotDescribed),
        }
    }

    /// The line of the interrupt pin of a function.
    ///
    /// # Errors
    ///
    /// [`RouteError`].
    pub fn line(&self, firmware: &Firmware, function: RequesterId) -> Result<Line, RouteError> {
        interrupts::line_of_function(firmware, &self.bridge, &self.pci, function)
    }

    /// Lets a function decode its registers and do DMA.
    ///
    /// # Errors
    ///
    /// [`MachineError::Enable`].
    pub fn enable(&mut self, function: RequesterId) -> Result<(), MachineError> {
        let command = Command::MEMORY_SPACE | Command::BUS_MASTER;
        self.pci
            .enable(&mut self.config, function, command)
            .map_err(|error| {
                log::error!("pci {function}: {error:?}");
                MachineError::Enable(function)
            })
    }

    /// Where a function is, seen from the IOMMU.
    pub fn placement(&self, function: &Function) -> Placement {
        self.topology
            .pci(function.address.segment, function.requester)
    }

    /// All functions behind the IOMMU but bridges, with their endpoint ids.
    pub fn endpoints(&self) -> Vec<(EndpointId, &Function)> {
        let devices = self.pci.functions.iter();
        devices
            .filter(|function| function.class != BRIDGE)
            .filter_map(|function| match self.placement(function) {
                Placement::Behind { endpoint, .. } => Some((endpoint, function)),
                Placement::NotBehind => None,
            })
            .collect()
    }
}

/// A table for a machine whose firmware says nothing.
fn undescribed(
    pci: &PciTree,
    segment: Segment,
    slots: &[PhysAddr],
) -> Result<(Topology, FoundBy), MachineError> {
    let scanned = Topology::scan(&pci.functions).map_err(MachineError::Table)?;
    if !scanned.iommus().is_empty() {
        return Ok((scanned, FoundBy::Scan));
    }
    let iommu = slots.iter().copied().find(|base| {
        slot(*base).is_some_and(|transport| transport.device_type() == DeviceType::IOMMU)
    });
    let topology = match iommu {
        Some(base) => {
            let size = Some(SLOT);
            Topology::identity(IommuLocation::Mmio { base, size }, segment)
        }
        None => Topology::new(),
    };
    Ok((topology, FoundBy::OwnTable))
}

/// The transport to the device in a virtio-mmio slot, if there is one.
pub fn slot(base: PhysAddr) -> Option<MmioTransport<'static>> {
    let registers: NonNull<VirtIOHeader> = direct_map::pointer(base.0, SLOT)?.cast();
    // SAFETY: the firmware says that these are the registers of a virtio-mmio slot, and the
    // direct map covers them for ever.
    unsafe { MmioTransport::new(registers, SLOT as usize) }.ok()
}
