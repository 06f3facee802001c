//! What a running device consists of, and the one way to stop it.

use alloc::boxed::Box;
use core::time::Duration;

use virtio_drivers::transport::DeviceStatus;

use super::events::EventQueue;
use super::requests::{RequestQueue, Run};
use super::transport::Link;
use super::wait::Deadline;
use crate::platform::Platform;
use crate::wire::{REQUEST_QUEUE, Request};

/// The parts that the lock of the device guards.
pub(crate) struct Device {
    pub(crate) link: Box<dyn Link>,
    /// `None` once the device was stopped.
    pub(crate) queues: Option<Queues>,
    /// The device, or its used ring, cannot be believed any more.
    broken: bool,
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
            queues: Some(queues),
            broken: false,
        }
    }

    /// The queues of a device that runs.
    #[inline]
    pub(crate) fn running(&mut self) -> Option<&mut Queues> {
        if self.broken {
            return None;
        }
        self.queues.as_mut()
    }

    /// Whether the device, or its used ring, cannot be believed any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The queues, for requests that go the fast way, if all answers were taken out: what is in
    /// the ring now cannot be an answer to what is about to be sent.
    #[inline(always)]
    fn quiet(&mut self) -> Option<(&mut RequestQueue, &mut dyn Link)> {
        let Self {
            link,
            queues: Some(queues),
            broken: false,
        } = self
        else {
            return None;
        };
        queues
            .requests
            .is_quiet()
            .then_some((&mut queues.requests, &mut **link))
    }

    /// Sends up to `most` requests, and says how many of them were answered at once, in order, and
    /// well. Most devices have answered before the kick returns.
    #[inline(always)]
    pub(crate) fn send_run(
        &mut self,
        requests: impl Iterator<Item = Request>,
        most: usize,
    ) -> (Run, usize) {
        let Some((queue, link)) = self.quiet() else {
            return (Run::NONE, 0);
        };
        let run = queue.send_run(requests, most);
        if run.sent() == 0 {
            return (run, 0);
        }
        notify(queue, link);
        (run, queue.reap_run(run))
    }

    /// The same for few requests: whether all is well, or what there is instead.
    #[inline(always)]
    pub(crate) fn send_few<const N: usize>(
        &mut self,
        requests: [Request; N],
    ) -> Result<(), (Run, usize)> {
        let Some((queue, link)) = self.quiet() else {
            return Err((Run::NONE, 0));
        };
        let Some(first) = queue.send_few(requests) else {
            return Err((Run::NONE, 0));
        };
        notify(queue, link);
        queue.reap_few::<N>(first)
    }

    /// Makes the requests that were prepared available, and notifies the device of them, unless it
    /// asked not to be.
    pub(crate) fn kick(&mut self) {
        if let Some(queues) = &self.queues {
            queues.requests.ring().publish();
            notify(&queues.requests, &mut *self.link);
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
        self.broken = true;
    }

    /// Looks whether the device gave up.
    pub(crate) fn check_status(&mut self) {
        if !self.broken
            && self
                .link
                .status()
                .contains(DeviceStatus::DEVICE_NEEDS_RESET)
        {
            log::error!("the IOMMU says that it needs a reset");
            self.broken = true;
        }
    }

    /// Ends the operation of the device: its queues are taken out, and its reset is begun.
    ///
    /// `None` if that was done before.
    pub(crate) fn begin_stop(&mut self) -> Option<Queues> {
        let queues = self.queues.take()?;
        self.link.set_status(DeviceStatus::empty());
        Some(queues)
    }
}

/// Notifies the device of requests that were published, unless it asked not to be.
#[inline(always)]
fn notify(queue: &RequestQueue, link: &mut dyn Link) {
    if queue.ring().wants_kick() {
        link.notify(REQUEST_QUEUE);
    }
}
