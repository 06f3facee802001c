//! The disks of one kind: one for each mode, in an address space of its own, with its own buffers.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use virtio_iommu::dma::{Bounce, BounceOptions, DmaDevice, DmaLimits};
use virtio_iommu::topology::Placement;
use virtio_iommu::topology::pci::Function;
use virtio_iommu::{BypassDomain, DomainOptions, EndpointId, Iommu};

use super::bounced::Pools;
use super::case::{DEEP, Device, LARGE, Mode, SMALL};
use super::store::Store;
use crate::block::{BlockDevice, Route};
use crate::machine::Machine;
use crate::platform::KernelPlatform;
use crate::report::{Checked, Report, Stop};

/// UNMAPs that can be put off: by default it is more, but that takes as many buffers.
pub const PUT_OFF: usize = 64;
/// How long, at the most: what is usual.
const MAX_AGE: Duration = Duration::from_millis(10);
/// Buffers that recur, besides those that are in use.
pub const RESERVE: usize = 8;
/// The size of each pool, in bytes: all I/Os at once.
const POOL: usize = DEEP * LARGE;
/// Mappings of a domain, parts of scattered ones included.
const MAPPINGS: usize = 4096;

/// A disk in one mode.
pub struct Stand<D> {
    /// The mode.
    pub mode: Mode,
    /// The disk.
    pub disk: D,
    /// Its buffers; none where the mode does not map them.
    pub store: Store,
    /// What maps its buffers, if anybody does.
    pub device: Option<DmaDevice<KernelPlatform>>,
    /// Its pools, if it has any.
    pub pools: Option<Pools>,
    /// What a look at it costs.
    pub look: u64,
    /// Lives as long as the disk.
    bypass: Option<BypassDomain<KernelPlatform>>,
}

/// All functions of a kind of disk, in the order of the bus: as many as there are modes, or none.
pub fn functions(
    machine: &Machine,
    device: Device,
    id: (u16, u16),
    report: &mut Report,
) -> Checked<Vec<Function>> {
    let found: Vec<Function> = machine.pci.find(id.0, id.1).cloned().collect();
    let wanted = device.modes().len();
    if !found.is_empty() && found.len() != wanted {
        report.fail(
            "number_of_disks",
            format_args!("left: {} right: {wanted}", found.len()),
        );
        return Err(Stop);
    }
    Ok(found)
}

/// The endpoint of a disk that does not go around the IOMMU.
pub fn endpoint(machine: &Machine, function: &Function) -> Option<EndpointId> {
    match machine.placement(function) {
        Placement::Behind { endpoint, .. } => Some(endpoint),
        Placement::NotBehind => None,
    }
}

impl<D: BlockDevice> Stand<D> {
    /// Brings a disk up, in its mode.
    pub fn open(
        mode: Mode,
        function: &Function,
        machine: &mut Machine,
        iommu: &Iommu<KernelPlatform>,
        report: &mut Report,
    ) -> Checked<Self> {
        let endpoint = endpoint(machine, function).ok_or("the disk is not behind the IOMMU");
        let mut stand = Pieces::default();
        match mode {
            Mode::None => {}
            Mode::Bypass => {
                let endpoint = report.need("endpoint", endpoint)?;
                let domain = report.need("bypass", iommu.create_bypass_domain())?;
                // SAFETY: the disk is told of nothing but the queues of its driver, and of buffers
                // that are left alone until it has answered.
                report.need("attach", unsafe { domain.attach(endpoint) })?;
                stand.bypass = Some(domain);
            }
            _ => {
                let endpoint = report.need("endpoint", endpoint)?;
                let options = DomainOptions::new(MAPPINGS).with_deferred(PUT_OFF, MAX_AGE);
                let domain = Arc::new(report.need("domain", iommu.create_domain(options))?);
                let device = DmaDevice::attach(&domain, endpoint, DmaLimits::default());
                stand.device = Some(report.need("attach", device)?);
            }
        }
        if let Some(device) = &stand.device {
            if mode == Mode::Bounce {
                let options = BounceOptions::default()
                    .with_pools(POOL, POOL)
                    .with_transfers(POOL / SMALL);
                let pools = report.need("pools", Bounce::new(device, options))?;
                stand.pools = Some(Arc::new(pools));
            }
            let store = Store::new(device, buffers(mode));
            stand.store = report.need("buffers", store.ok_or("no memory left"))?;
        }
        let route = match &stand.device {
            Some(device) => Route::Translated(device),
            None => Route::Untranslated,
        };
        let disk = report.need("disk", D::open(machine, function, route))?;
        if disk.depth() < DEEP || disk.max_bytes() < LARGE || disk.max_segments() < LARGE / SMALL {
            report.fail("disk", format_args!("it is too small: {mode:?}"));
            return Err(Stop);
        }
        Ok(Self {
            mode,
            disk,
            store: stand.store,
            device: stand.device,
            pools: stand.pools,
            look: 0,
            bypass: stand.bypass,
        })
    }

    /// Resets the disk, and gives everything back.
    pub fn close(self, report: &mut Report) -> Checked {
        report.need("reset", self.disk.close())?;
        if let Some(pools) = self.pools {
            let pools = Arc::into_inner(pools).ok_or("somebody uses them");
            let pools = report.need("pools", pools)?;
            // SAFETY: the disk has confirmed its reset.
            report.need("pools", unsafe { pools.close() })?;
        }
        drop((self.store, self.bypass, self.device));
        Ok(())
    }
}

/// What a stand has besides its disk.
#[derive(Default)]
struct Pieces {
    store: Store,
    device: Option<DmaDevice<KernelPlatform>>,
    pools: Option<Pools>,
    bypass: Option<BypassDomain<KernelPlatform>>,
}

/// How many buffers of each kind a mode needs of its own.
const fn buffers(mode: Mode) -> usize {
    match mode {
        Mode::Static => DEEP,
        Mode::Strict => 2 * DEEP,
        Mode::Deferred => DEEP + RESERVE,
        // A few more than can be in use or put off.
        Mode::DeferredFresh => DEEP + PUT_OFF + 4,
        // They use those that nobody maps.
        _ => 0,
    }
}
