//! What a running device consists of, and the one way to stop it.

use alloc::boxed::Box;
use core::time::Duration;

use virtio_drivers::transport::DeviceStatus;

use super::events::EventQueue;
use super::requests::{RequestQueue, Sent};
use super::transport::Link;
use super::wait::Deadline;
use crate::platform::Platform;
use crate::wire::{REQUEST_QUEUE, Request};

/// The parts that the lock of the device guards.
pub(crate) struct Device {
    pub(crate) link: Box<dyn Link>,
    operation: Operation,
}

/// Whether the device works.
enum Operation {
    Running(Queues),
    /// The device, or its used ring, cannot be believed any more.
    Broken(Queues),
    Stopped,
}

pub(crate) struct Queues {
    pub(crate) requests: RequestQueue,
    pub(crate) events: EventQueue,
}

impl Queues {
    /// Gives all memory back if the device has confirmed its reset, else leaves it alone for ever.
    pub(crate) fn free_after<P: Platform>(
        self,
        reset: Result<(), ResetUnconfirmed>,
        platform: &P,
    ) -> Result<(), ResetUnconfirmed> {
        match reset {
            // SAFETY: the reset is confirmed.
            Ok(()) => unsafe { self.free(platform) },
            Err(_) => core::mem::forget(self),
        }
        reset
    }

    /// Gives all memory back.
    ///
    /// # Safety
    ///
    /// The device was never told of the queues, or was reset since, and confirmed it.
    pub(crate) unsafe fn free<P: Platform>(self, platform: &P) {
        // SAFETY: the caller vouches for the device.
        unsafe { self.requests.free(platform) };
        // SAFETY: the caller vouches for the device.
        unsafe { self.events.free(platform) };
    }
}

/// A reset that the device did not confirm in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResetUnconfirmed;

/// Writes 0 to the status and waits until it reads 0 (virtio 1.2 §2.4.2).
pub(crate) fn reset<P: Platform>(
    link: &mut dyn Link,
    platform: &P,
    timeout: Duration,
) -> Result<(), ResetUnconfirmed> {
    link.set_status(DeviceStatus::empty());
    await_reset(|| link.status(), platform, timeout)
}

/// Waits until `status` says that the device is reset.
pub(crate) fn await_reset<P: Platform>(
    mut status: impl FnMut() -> DeviceStatus,
    platform: &P,
    timeout: Duration,
) -> Result<(), ResetUnconfirmed> {
    let mut deadline = Deadline::after(platform, timeout);
    while !status().is_empty() {
        if deadline.passed(platform) {
            return Err(ResetUnconfirmed);
        }
    }
    Ok(())
}

impl Device {
    pub(crate) fn new(link: Box<dyn Link>, queues: Queues) -> Self {
        Self {
            link,
            operation: Operation::Running(queues),
        }
    }

    /// The queues of a device that runs.
    pub(crate) fn running(&mut self) -> Option<&mut Queues> {
        match &mut self.operation {
            Operation::Running(queues) => Some(queues),
            Operation::Broken(_) | Operation::Stopped => None,
        }
    }

    /// The queues of a device that was not stopped.
    pub(crate) fn queues(&self) -> Option<&Queues> {
        match &self.operation {
            Operation::Running(queues) | Operation::Broken(queues) => Some(queues),
            Operation::Stopped => None,
        }
    }

    /// The same, to change them.
    pub(crate) fn queues_mut(&mut self) -> Option<&mut Queues> {
        match &mut self.operation {
            Operation::Running(queues) | Operation::Broken(queues) => Some(queues),
            Operation::Stopped => None,
        }
    }

    /// Whether the device, or its used ring, cannot be believed any more.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.operation, Operation::Broken(_))
    }

    /// Sends up to `most` requests with one kick, and says how many of them were answered at once, in order, and
    /// well. Most devices have answered before the kick returns.
    #[inline(always)]
    pub(crate) fn send_run(
        &mut self,
        requests: &mut impl Iterator<Item = Request>,
        most: usize,
    ) -> Sent {
        let Self { link, operation } = self;
        let Operation::Running(queues) = operation else {
            return Sent::NOTHING;
        };
        let kick = || link.notify(REQUEST_QUEUE);
        queues.requests.send_run(requests, most, kick)
    }

    /// The same for few requests: whether all is well, or what there is instead.
    #[inline(always)]
    pub(crate) fn send_few<const N: usize>(&mut self, requests: [Request; N]) -> Result<(), Sent> {
        let Self { link, operation } = self;
        let Operation::Running(queues) = operation else {
            return Err(Sent::NOTHING);
        };
        let kick = || link.notify(REQUEST_QUEUE);
        queues.requests.send_few(requests, kick)
    }

    /// Makes the requests that were prepared available, and notifies the device of them, unless it
    /// asked not to be.
    pub(crate) fn kick(&mut self) {
        if let Some(queues) = self.queues() {
            queues.requests.ring().publish();
            if queues.requests.ring().wants_kick() {
                self.link.notify(REQUEST_QUEUE);
            }
        }
    }

    /// Takes answers out of the ring, for whoever waits for them.
    pub(crate) fn reap(&mut self) {
        let Some(queues) = self.running() else { return };
        if queues.requests.reap().is_err() {
            self.give_up();
        }
    }

    /// The used ring cannot be believed.
    #[cold]
    fn give_up(&mut self) {
        log::error!("the used ring of the request queue is corrupt: the IOMMU needs a reset");
        self.break_off();
    }

    /// Looks whether the device gave up.
    pub(crate) fn check_status(&mut self) {
        if !self.is_broken()
            && self
                .link
                .status()
                .contains(DeviceStatus::DEVICE_NEEDS_RESET)
        {
            log::error!("the IOMMU says that it needs a reset");
            self.break_off();
        }
    }

    /// Nothing is sent any more.
    fn break_off(&mut self) {
        if let Some(queues) = self.take_queues() {
            self.operation = Operation::Broken(queues);
        }
    }

    fn take_queues(&mut self) -> Option<Queues> {
        match core::mem::replace(&mut self.operation, Operation::Stopped) {
            Operation::Running(queues) | Operation::Broken(queues) => Some(queues),
            Operation::Stopped => None,
        }
    }

    /// Ends the operation of the device: its queues are taken out, and its reset is begun.
    ///
    /// `None` if that was done before.
    pub(crate) fn begin_stop(&mut self) -> Option<Queues> {
        let queues = self.take_queues()?;
        self.link.set_status(DeviceStatus::empty());
        Some(queues)
    }
}
