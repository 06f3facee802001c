//! What a device driver calls: the ways to move data, with all that belongs to them.

use alloc::sync::Arc;

use virtio_iommu::dma::{
    Bounce, BounceOptions, DmaDevice, DmaLimits, Exchanged, Mapping, PageBuf, ToDevice,
};
use virtio_iommu::{Domain, EndpointId};

use super::meter::Meter;
use super::own_driver::OwnDomain;
use super::series::{Figure, Samples};
use super::subject::{BLOCKS, PAGES, Subject, WARM_UP};
use crate::platform::KernelPlatform;

/// Bytes of a transfer through a pool.
const SMALL: usize = 64;

type Buffer = PageBuf<KernelPlatform>;
type Live = Mapping<Buffer, ToDevice, KernelPlatform>;

/// One round of all ways, for an endpoint that does nothing. Says what went wrong.
pub fn round(
    domain: &Arc<Domain<KernelPlatform>>,
    endpoint: EndpointId,
    meter: &Meter,
    samples: &mut Samples,
) -> Result<(), &'static str> {
    let device = DmaDevice::attach(domain, endpoint, DmaLimits::default());
    let ways = Ways {
        device: device.map_err(|_| "the endpoint is not attached")?,
        meter,
        samples,
    };
    ways.measure()
}

struct Ways<'a> {
    device: DmaDevice<KernelPlatform>,
    meter: &'a Meter,
    samples: &'a mut Samples,
}

impl Ways<'_> {
    fn measure(mut self) -> Result<(), &'static str> {
        let buffer = self.buffer()?;
        let buffer = self.blocks("dma-strict", buffer, strict)?;

        let other = self.buffer()?;
        let pair = (self.map(buffer)?, other);
        let (mapping, _) = self.blocks("dma-exchange", pair, exchange)?;

        let mapping = self.blocks("dma-deferred", mapping, deferred)?;
        // SAFETY: nobody has told the endpoint of it.
        let unmapped = unsafe { mapping.complete() }.unmap();
        unmapped.map_err(|_| "a buffer is in quarantine")?;
        self.aside("unmap", 1);

        let bounce = Bounce::new(&self.device, BounceOptions::default());
        let bounce = bounce.map_err(|_| "there are no pools")?;
        self.aside("map", 2);
        self.blocks("dma-bounce", (), |_, ()| {
            let place = bounce.to_device(&[0x5a; SMALL]);
            place.map(|place| place.finish()).ok()
        })?;
        self.blocks("dma-place", (), |_, ()| {
            let place = bounce.from_device(SMALL);
            place.map(|place| place.finish()).ok()
        })?;
        // SAFETY: nobody has told the endpoint of the pools.
        unsafe { bounce.close() }.map_err(|_| "a pool is in use")?;
        self.aside("unmap", 2);
        Ok(())
    }

    fn buffer(&self) -> Result<Buffer, &'static str> {
        self.device.alloc(4096).ok_or("no memory left")
    }

    fn map(&mut self, buffer: Buffer) -> Result<Live, &'static str> {
        let mapping = self.device.map(buffer);
        self.aside("map", 1);
        mapping.map_err(|_| "a buffer is not mapped")
    }

    /// Blocks of [`PAGES`] times the same, from one state to the next.
    fn blocks<T>(
        &mut self,
        name: &'static str,
        mut state: T,
        mut step: impl FnMut(&DmaDevice<KernelPlatform>, T) -> Option<T>,
    ) -> Result<T, &'static str> {
        for block in 0..WARM_UP + BLOCKS {
            let (all, next) = self.meter.measure(|| {
                let mut states = (0..PAGES).try_fold(state, |state, _| step(&self.device, state));
                states.take()
            });
            state = next.ok_or(name)?;
            let each = (block >= WARM_UP).then_some(all / PAGES as u64);
            self.samples.add(figure(name, 1), PAGES as u64, each);
        }
        Ok(state)
    }

    /// Counts requests that nothing was measured of.
    fn aside(&mut self, name: &'static str, done: u64) {
        self.samples.add(figure(name, PAGES), done, None);
    }
}

const fn figure(name: &'static str, size: usize) -> Figure<'static> {
    Figure {
        name,
        rival: OwnDomain::RIVAL,
        size,
    }
}

/// A buffer is mapped, and unmapped.
fn strict(device: &DmaDevice<KernelPlatform>, buffer: Buffer) -> Option<Buffer> {
    let mapping = device.map::<ToDevice, _>(buffer).ok()?;
    // SAFETY: nobody has told the endpoint of it.
    unsafe { mapping.complete() }.unmap().ok()
}

/// A buffer is unmapped and another mapped, with one notification.
fn exchange(
    device: &DmaDevice<KernelPlatform>,
    (mapping, next): (Live, Buffer),
) -> Option<(Live, Buffer)> {
    // SAFETY: nobody has told the endpoint of it.
    let done = unsafe { mapping.complete() };
    let Exchanged { unmapped, mapped } = device.exchange(done, next);
    Some((mapped.ok()?, unmapped.ok()?))
}

/// The UNMAP of a buffer is put off, and the buffer used again.
fn deferred(_: &DmaDevice<KernelPlatform>, mapping: Live) -> Option<Live> {
    // SAFETY: nobody has told the endpoint of it.
    let done = unsafe { mapping.complete() };
    done.defer().reuse().ok()
}
