//! A transport whose device has accepted that its addresses are those of the IOMMU.

use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::time::Duration;

use ::virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use ::virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Endpoint;
use super::error::NotTranslated;
use crate::device::Deadline;

/// Feature bits (virtio 1.2 §6).
const VERSION_1: u64 = 1 << 32;
const ACCESS_PLATFORM: u64 = 1 << 33;

/// How often a field of the configuration space that changes all the time is read.
const READS: usize = 1000;

/// A [`Transport`] of the device of the endpoint `E`, which does DMA through the IOMMU.
///
/// It accepts `VIRTIO_F_ACCESS_PLATFORM` whether its driver knows the bit or not, and looks
/// whether FEATURES_OK stays set, which drivers of `virtio-drivers` 0.13 do not: without, devices
/// are known to do half of their work. A device that refuses is set to FAILED, and then has no
/// queues and no configuration space, so that the `new` of its driver fails.
///
/// A reset, which dropping this does, too, is the word of the device that it is done: whatever it
/// had at the time is unmapped and free, queue memory and window included. If it does not confirm
/// its reset in [time](super::AdapterOptions::reset_timeout), the transport is leaked, and the
/// adapter's memory stays where it is, until a later `BehindIommu` has the device confirm one. What
/// that means for buffers of the driver's caller, [`Binding::is_stuck`](super::Binding::is_stuck)
/// says.
pub struct BehindIommu<E: Endpoint, T: Transport> {
    transport: ManuallyDrop<T>,
    platform: Arc<E::Platform>,
    timeout: Duration,
    /// The driver has written its features since the reset.
    accepted: bool,
    /// The device has refused its features, or its reset: nothing is asked of it.
    dead: bool,
    /// It did not confirm its last reset.
    stuck: bool,
    endpoint: PhantomData<fn() -> E>,
}

impl<E: Endpoint, T: Transport> fmt::Debug for BehindIommu<E, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BehindIommu")
            .field("endpoint", &E::binding().name())
            .finish_non_exhaustive()
    }
}

impl<E: Endpoint, T: Transport> BehindIommu<E, T> {
    /// Takes over the transport of the device that `E` is [bound](Endpoint::bind) to.
    ///
    /// Resets the device, and negotiates the features that matter here once, to see whether it
    /// goes along; afterwards it is reset again, as its driver expects it. The transport of the
    /// IOMMU itself has no place here: its queues are never behind itself.
    ///
    /// # Errors
    ///
    /// [`NotTranslated`]: the device is not used. After [`NotTranslated::NotReset`] the transport
    /// is leaked, because dropping it may wait for ever.
    ///
    /// # Safety
    ///
    /// `transport` is that of the device that `E` is bound to, and its status is what the device
    /// says. A transport does not tell where its device is, so that this cannot be looked at; and
    /// where it says that the device is reset, memory goes back that only another device is done
    /// with.
    pub unsafe fn new(transport: T) -> core::result::Result<Self, NotTranslated> {
        let (platform, timeout) = E::binding().claim()?;
        let mut this = Self {
            transport: ManuallyDrop::new(transport),
            platform,
            timeout,
            accepted: false,
            dead: false,
            stuck: false,
            endpoint: PhantomData,
        };
        this.reset();
        if this.stuck {
            return Err(NotTranslated::NotReset);
        }
        let outcome = this.try_features();
        this.reset();
        match outcome {
            Ok(()) if this.stuck => Err(NotTranslated::NotReset),
            Ok(()) => Ok(this),
            Err(error) => Err(error),
        }
    }

    /// Whether the device takes the feature (§3.1.1). It is told of no address.
    fn try_features(&mut self) -> core::result::Result<(), NotTranslated> {
        let begun = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        self.transport.set_status(begun);
        let offered = self.transport.read_device_features();
        if offered & ACCESS_PLATFORM == 0 || self.transport.requires_legacy_layout() {
            return Err(NotTranslated::GoesAround);
        }
        let wanted = offered & VERSION_1 | ACCESS_PLATFORM;
        self.transport.write_driver_features(wanted);
        let ready = begun | DeviceStatus::FEATURES_OK;
        self.transport.set_status(ready);
        match self.transport.get_status().contains(ready) {
            true => Ok(()),
            false => Err(NotTranslated::Refused),
        }
    }

    /// Resets the device, and waits for its word.
    fn reset(&mut self) {
        self.transport.set_status(DeviceStatus::empty());
        self.accepted = false;
        let mut deadline = Deadline::after(&*self.platform, self.timeout);
        loop {
            if self.transport.get_status().is_empty() {
                (self.dead, self.stuck) = (false, false);
                E::binding().note_reset();
                return;
            }
            if deadline.passed(&*self.platform) {
                break;
            }
        }
        (self.dead, self.stuck) = (true, true);
        E::binding().note_stuck();
    }

    /// Gives the device up until its next reset.
    fn give_up(&mut self) {
        let name = E::binding().name();
        log::error!("endpoint {name}: the device refuses the features of its driver");
        // Only a reset clears a bit (§2.1.1).
        let status = self.transport.get_status() | DeviceStatus::FAILED;
        self.transport.set_status(status);
        self.dead = true;
    }

    /// Whether something may be asked of the device.
    fn alive(&self) -> Result<()> {
        if self.dead {
            return Err(Error::Unsupported);
        }
        Ok(())
    }
}

impl<E: Endpoint, T: Transport> Drop for BehindIommu<E, T> {
    fn drop(&mut self) {
        if !self.stuck {
            self.reset();
        }
        if !self.stuck {
            // SAFETY: it is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.transport) };
        }
        E::binding().disclaim();
    }
}

impl<E: Endpoint, T: Transport> Transport for BehindIommu<E, T> {
    fn device_type(&self) -> DeviceType {
        self.transport.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.transport.read_device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.accepted = true;
        self.transport
            .write_driver_features(driver_features | ACCESS_PLATFORM);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        match self.alive() {
            Ok(()) => self.transport.max_queue_size(queue),
            Err(_) => 0,
        }
    }

    #[inline]
    fn notify(&mut self, queue: u16) {
        if !self.dead {
            self.transport.notify(queue);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        self.transport.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            return self.reset();
        }
        if self.dead {
            return;
        }
        E::binding().note_running();
        let negotiated = status.contains(DeviceStatus::FEATURES_OK);
        if negotiated && !self.accepted {
            return self.give_up();
        }
        self.transport.set_status(status);
        if negotiated
            && !self
                .transport
                .get_status()
                .contains(DeviceStatus::FEATURES_OK)
        {
            self.give_up();
        }
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.transport.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.transport.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        if !self.dead {
            E::binding().note_running();
            self.transport
                .queue_set(queue, size, descriptors, driver_area, device_area);
        }
    }

    fn queue_unset(&mut self, queue: u16) {
        self.transport.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.transport.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let pending = self.transport.ack_interrupt();
        // A device that needs a reset says so with such an interrupt (§2.1.2).
        if pending.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
            && self.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
        {
            E::binding().note_needs_reset();
        }
        pending
    }

    fn read_config_generation(&self) -> u32 {
        self.transport.read_config_generation()
    }

    /// Fields of 8 bytes are read as two halves, which the transports of `virtio-drivers` panic at.
    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.alive()?;
        if align_of::<V>() <= align_of::<u32>() {
            return self.transport.read_config_space(offset);
        }
        self.read_consistent(|| {
            let mut value = V::new_zeroed();
            for (at, word) in value.as_mut_bytes().chunks_mut(4).enumerate() {
                let half: [u8; 4] = self.transport.read_config_space(offset + 4 * at)?;
                word.copy_from_slice(half.get(..word.len()).unwrap_or_default());
            }
            Ok(value)
        })
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> Result<()> {
        self.alive()?;
        if align_of::<V>() <= align_of::<u32>() {
            return self.transport.write_config_space(offset, value);
        }
        for (at, word) in value.as_bytes().chunks(4).enumerate() {
            let half = <[u8; 4]>::try_from(word).map_err(|_| Error::InvalidParam)?;
            self.transport.write_config_space(offset + 4 * at, half)?;
        }
        Ok(())
    }

    /// Gives up with [`Error::IoError`] if the generation changes all the time.
    fn read_consistent<V>(&self, read: impl Fn() -> Result<V>) -> Result<V> {
        for _ in 0..READS {
            let before = self.read_config_generation();
            let result = read();
            if self.read_config_generation() == before {
                return result;
            }
        }
        Err(Error::IoError)
    }
}
