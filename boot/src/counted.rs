//! A transport that counts what a driver does with it: how much work an interrupt is.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use virtio_drivers::transport::{
    DeviceStatus, DeviceType, InterruptStatus, SomeTransport, Transport,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

static ACCESSES: AtomicU64 = AtomicU64::new(0);

/// Operations on registers of all counted transports so far.
pub fn accesses() -> u64 {
    ACCESSES.load(Relaxed)
}

/// A transport whose operations are counted.
pub struct Counted(pub SomeTransport<'static>);

impl Counted {
    fn inner(&mut self) -> &mut SomeTransport<'static> {
        ACCESSES.fetch_add(1, Relaxed);
        &mut self.0
    }

    fn inner_ref(&self) -> &SomeTransport<'static> {
        ACCESSES.fetch_add(1, Relaxed);
        &self.0
    }
}

impl Transport for Counted {
    fn device_type(&self) -> DeviceType {
        self.inner_ref().device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner().read_device_features()
    }

    fn write_driver_features(&mut self, features: u64) {
        self.inner().write_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner().max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner().notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner_ref().get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner().set_status(status);
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.inner().set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner_ref().requires_legacy_layout()
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: u64, driver: u64, device: u64) {
        self.inner()
            .queue_set(queue, size, descriptors, driver, device);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner().queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner().queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner().ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner_ref().read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        self.inner_ref().read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        self.inner().write_config_space(offset, value)
    }
}
