//! The transport behind the driver, with its type erased.
//!
//! [`Transport`] has generic methods, so it cannot be a trait object by itself. Its `Drop` may
//! wait for the device without a limit, so it never runs: reset is ours, and bounded.

use core::mem::ManuallyDrop;

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

use super::ring::SplitRing;

/// The operations of a [`Transport`] that this driver needs.
pub(crate) trait Link: Send {
    fn read_features(&mut self) -> u64;
    fn write_features(&mut self, features: u64);
    fn status(&self) -> DeviceStatus;
    fn set_status(&mut self, status: DeviceStatus);
    fn max_queue_size(&mut self, queue: u16) -> u32;
    fn set_queue(&mut self, queue: u16, ring: &SplitRing);
    fn notify(&mut self, queue: u16);
    /// Reads and clears the reason for an interrupt.
    fn acknowledge_interrupt(&mut self) -> InterruptStatus;
    fn config_generation(&self) -> u32;
    /// `None` where the configuration is too short.
    fn read_config_u32(&self, offset: usize) -> Option<u32>;
    /// `None` where the configuration is too short.
    fn read_config_u8(&self, offset: usize) -> Option<u8>;
    /// `None` where the configuration is too short.
    fn write_config_u8(&mut self, offset: usize, value: u8) -> Option<()>;
}

/// Wraps a transport.
pub(crate) struct Undropped<T>(ManuallyDrop<T>);

impl<T: Transport> Undropped<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self(ManuallyDrop::new(transport))
    }

    pub(crate) fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }

    pub(crate) fn is_legacy(&self) -> bool {
        self.0.requires_legacy_layout()
    }
}

impl<T: Transport + Send> Link for Undropped<T> {
    fn read_features(&mut self) -> u64 {
        self.0.read_device_features()
    }

    fn write_features(&mut self, features: u64) {
        self.0.write_driver_features(features);
    }

    fn status(&self) -> DeviceStatus {
        self.0.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }

    fn set_queue(&mut self, queue: u16, ring: &SplitRing) {
        let [descriptors, driver, device] = ring.areas();
        self.0
            .queue_set(queue, ring.size().into(), descriptors.0, driver.0, device.0);
    }

    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }

    fn acknowledge_interrupt(&mut self) -> InterruptStatus {
        self.0.ack_interrupt()
    }

    fn config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }

    fn read_config_u32(&self, offset: usize) -> Option<u32> {
        self.0.read_config_space(offset).ok()
    }

    fn read_config_u8(&self, offset: usize) -> Option<u8> {
        self.0.read_config_space(offset).ok()
    }

    fn write_config_u8(&mut self, offset: usize, value: u8) -> Option<()> {
        self.0.write_config_space(offset, value).ok()
    }
}
