//! Sending requests and waiting for their answers, without holding a lock meanwhile.

use super::Shared;
use super::requests::{Outcome, RequestError, Ticket};
use super::state::Device;
use super::wait::Deadline;
use crate::platform::Platform;
use crate::wire::Request;

/// Requests of one caller that share a kick.
pub(crate) const BATCH: usize = 64;

/// Looks at the ring between two looks at the status, which cost an exit each.
const LOOKS_PER_STATUS: u32 = 64;

/// The tickets of one batch, by the index of their request in the batch.
struct Batch {
    tickets: [Option<Ticket>; BATCH],
    outcomes: [Option<Outcome>; BATCH],
    waiting: usize,
}

impl Batch {
    const fn new() -> Self {
        Self {
            tickets: [None; BATCH],
            outcomes: [None; BATCH],
            waiting: 0,
        }
    }

    /// Submits what fits of the requests that were not submitted before; returns how many are left.
    fn submit(&mut self, device: &mut Device, requests: impl Iterator<Item = Request>) -> usize {
        let mut left = 0;
        let mut sent = false;
        let places = self.tickets.iter_mut().zip(&mut self.outcomes);
        for (request, (ticket, outcome)) in requests.zip(places) {
            if ticket.is_some() || outcome.is_some() {
                continue;
            }
            // Requests are sent in their order: after the first without a slot, all have to wait.
            if left > 0 {
                left += 1;
                continue;
            }
            match device.submit(&request) {
                Ok(Some(new)) => {
                    *ticket = Some(new);
                    self.waiting += 1;
                    sent = true;
                }
                Ok(None) => left += 1,
                Err(_) => *outcome = Some(Err(RequestError::NotRunning)),
            }
        }
        if sent {
            device.kick();
        }
        left
    }

    /// Collects the answers that are there.
    fn collect(&mut self, device: &mut Device) {
        device.reap();
        let Some(queues) = device.running() else {
            return;
        };
        for (ticket, outcome) in self.tickets.iter_mut().zip(&mut self.outcomes) {
            if let Some(waiting) = *ticket
                && let Some(answer) = queues.requests.collect(waiting)
            {
                *ticket = None;
                *outcome = Some(answer);
                self.waiting -= 1;
            }
        }
    }

    /// Gives up on what is in flight.
    fn abandon(&mut self, device: &mut Device, requests: impl Iterator<Item = Request>) {
        let places = self.tickets.iter_mut().zip(&mut self.outcomes);
        for (request, (ticket, outcome)) in requests.zip(places) {
            if let Some(waiting) = ticket.take() {
                if let Some(queues) = &mut device.queues {
                    queues.requests.abandon(waiting, request);
                }
                *outcome = Some(Err(RequestError::Unconfirmed));
                self.waiting -= 1;
            }
        }
    }
}

impl<P: Platform> Shared<P> {
    /// Sends requests, with one kick per [`BATCH`], and hands each outcome to `done`, in order,
    /// with the index of its request.
    ///
    /// `requests` is walked under the lock of the device; `done` is called without it. The
    /// requests are in the ring in their order, but devices may process them in any.
    pub(crate) fn execute<R>(&self, requests: R, mut done: impl FnMut(usize, Outcome))
    where
        R: Iterator<Item = Request> + Clone,
    {
        let mut index = 0;
        let mut rest = requests;
        loop {
            let batch = rest.clone().take(BATCH);
            let outcomes = self.execute_batch(batch.clone());
            let mut any = false;
            for (request, outcome) in batch.zip(outcomes) {
                any = true;
                let outcome = outcome.unwrap_or(Err(RequestError::NoSlot));
                trace(&request, outcome);
                done(index, outcome);
                index += 1;
            }
            if !any || rest.nth(BATCH - 1).is_none() {
                return;
            }
        }
    }

    /// Sends one request.
    pub(crate) fn execute_one(&self, request: Request) -> Outcome {
        let mut outcome = Err(RequestError::NoSlot);
        self.execute(core::iter::once(request), |_, answer| outcome = answer);
        outcome
    }

    /// Whether a request that was not confirmed, and of which this is true, may yet take effect.
    pub(crate) fn may_yet(&self, matches: impl Fn(&Request) -> bool) -> bool {
        let mut device = self.device.lock();
        device.reap();
        let queues = device.queues.as_ref();
        queues.is_some_and(|queues| queues.requests.may_yet(matches))
    }

    /// Sends up to [`BATCH`] requests. No outcome means that the request was not sent.
    fn execute_batch<R>(&self, requests: R) -> [Option<Outcome>; BATCH]
    where
        R: Iterator<Item = Request> + Clone,
    {
        let mut batch = Batch::new();
        let mut unsent = {
            let mut device = self.device.lock();
            // What is in the ring now cannot be an answer to what is about to be sent.
            device.reap();
            let unsent = batch.submit(&mut device, requests.clone());
            // Most devices have answered before the kick returns.
            batch.collect(&mut device);
            unsent
        };
        let mut deadline = None;
        let mut looks = 0_u32;
        while batch.waiting > 0 || unsent > 0 {
            let passed = deadline
                .get_or_insert_with(|| Deadline::after(&self.platform, self.timeout))
                .passed(&self.platform);
            let mut device = self.device.lock();
            batch.collect(&mut device);
            if unsent > 0 && !passed {
                unsent = batch.submit(&mut device, requests.clone());
                batch.collect(&mut device);
            }
            if looks.is_multiple_of(LOOKS_PER_STATUS) {
                device.check_status();
            }
            looks = looks.wrapping_add(1);
            if passed || device.running().is_none() {
                batch.abandon(&mut device, requests.clone());
                break;
            }
        }
        batch.outcomes
    }
}

/// One line per finished request, for whoever compares them with what the device saw.
fn trace(request: &Request, outcome: Outcome) {
    const TARGET: &str = "virtio_iommu::request";
    match outcome {
        Ok(()) => log::trace!(target: TARGET, "{request} status=OK"),
        Err(RequestError::Status(status)) => {
            log::trace!(target: TARGET, "{request} status={status}");
        }
        Err(RequestError::NotWritten) => log::trace!(target: TARGET, "{request} status=unwritten"),
        Err(RequestError::Unconfirmed) => {
            log::trace!(target: TARGET, "{request} status=unconfirmed");
        }
        // Nothing reached the ring.
        Err(RequestError::NoSlot | RequestError::NotRunning) => {}
    }
}
