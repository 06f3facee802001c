//! The model behind the trait that the driver knows.

use std::sync::{Arc, Mutex};

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::device::Device;
use super::heap::Inside;
use super::memory::lock;

/// A transport to a model device.
pub struct ModelTransport {
    device: Arc<Mutex<Device>>,
}

impl ModelTransport {
    pub(super) fn new(device: Arc<Mutex<Device>>) -> Self {
        Self { device }
    }

    /// Works on the device; what that allocates is not the driver's.
    fn device<R>(&self, work: impl FnOnce(&mut Device) -> R) -> R {
        let _inside = Inside::new();
        work(&mut lock(&self.device))
    }
}

impl Drop for ModelTransport {
    fn drop(&mut self) {
        self.device(|d| d.transport_dropped());
    }
}

impl Transport for ModelTransport {
    fn device_type(&self) -> DeviceType {
        self.device(|d| d.read_type())
    }

    fn read_device_features(&mut self) -> u64 {
        self.device(|d| d.read_features())
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.device(|d| d.write_features(driver_features));
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.device(|d| d.read_queue_size(queue))
    }

    fn notify(&mut self, queue: u16) {
        self.device(|d| d.notify(queue));
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.device(|d| d.read_status()))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.device(|d| d.write_status(status.bits()));
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.device(|d| d.set_guest_page_size(guest_page_size));
    }

    fn requires_legacy_layout(&self) -> bool {
        self.device(|d| d.read_legacy_layout())
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        let parts = [descriptors, driver_area, device_area];
        self.device(|d| d.set_queue(queue, size, parts));
    }

    fn queue_unset(&mut self, queue: u16) {
        self.device(|d| d.unset_queue(queue));
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.device(|d| d.queue_is_set(queue))
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(self.device(|d| d.acknowledge_interrupt()))
    }

    fn read_config_generation(&self) -> u32 {
        self.device(|d| d.read_generation())
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let bytes = self.device(|d| d.read_config(offset, size_of::<T>()));
        let bytes = bytes.ok_or(Error::ConfigSpaceTooSmall)?;
        T::read_from_bytes(&bytes).map_err(|_| Error::IoError)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        if self.device(|d| d.write_config(offset, value.as_bytes())) {
            Ok(())
        } else {
            Err(Error::ConfigSpaceTooSmall)
        }
    }
}
