//! Sending requests and waiting for their answers, without holding a lock meanwhile.

use super::Shared;
use super::requests::{Outcome, RequestError, Ticket};
use super::state::Device;
use super::wait::Deadline;
use crate::platform::Platform;
use crate::wire::Request;

/// Requests of one caller that share a kick, at the most.
pub(crate) const BATCH: usize = 64;

/// Looks at the ring between two looks at the status, which cost an exit each.
const LOOKS_PER_STATUS: u32 = 64;

/// Requests of one caller that share a kick, by their index in the batch.
struct Batch<const N: usize> {
    /// Of those in flight.
    tickets: [Option<Ticket>; N],
    outcomes: [Outcome; N],
    /// How many were sent. They are sent in their order.
    sent: usize,
    /// How many were sent and not answered.
    open: usize,
    /// The first one that was not answered, if all answers came in order.
    first: usize,
}

impl<const N: usize> Batch<N> {
    const fn new() -> Self {
        Self {
            tickets: [None; N],
            outcomes: [Err(RequestError::NoSlot); N],
            sent: 0,
            open: 0,
            first: 0,
        }
    }

    /// Sends what fits of the requests that were not sent before; tells whether some are left.
    #[inline]
    fn submit(&mut self, device: &mut Device, requests: impl Iterator<Item = Request>) -> bool {
        let Some(queues) = device.running() else {
            for outcome in self.outcomes.iter_mut().skip(self.sent) {
                *outcome = Err(RequestError::NotRunning);
            }
            return false;
        };
        let before = self.sent;
        let mut left = false;
        let places = self.tickets.iter_mut().skip(before);
        for (place, request) in places.zip(requests.skip(before)) {
            let Some(ticket) = queues.requests.prepare(&request) else {
                left = true;
                break;
            };
            *place = Some(ticket);
            self.sent += 1;
        }
        if self.sent > before {
            self.open += self.sent - before;
            device.kick();
        }
        left
    }

    /// Collects the answers that are there.
    #[inline]
    fn collect(&mut self, device: &mut Device) {
        let Self {
            tickets,
            outcomes,
            open,
            first,
            ..
        } = self;
        let ticket = tickets.get(*first).copied().flatten();
        device.reap_for(ticket, |outcome| {
            if let (Some(ticket), Some(place)) = (tickets.get_mut(*first), outcomes.get_mut(*first))
            {
                *ticket = None;
                *place = outcome;
            }
            *open -= 1;
            *first += 1;
            tickets.get(*first).copied().flatten()
        });
        if *open > 0 {
            self.collect_in_any_order(device);
        }
    }

    #[cold]
    fn collect_in_any_order(&mut self, device: &mut Device) {
        let Some(queues) = device.running() else {
            return;
        };
        for (ticket, outcome) in self.tickets.iter_mut().zip(&mut self.outcomes) {
            if let Some(waiting) = *ticket
                && let Some(answer) = queues.requests.collect(waiting)
            {
                *ticket = None;
                *outcome = answer;
                self.open -= 1;
            }
        }
    }

    /// Gives up on what is in flight.
    #[cold]
    fn abandon(&mut self, device: &mut Device, requests: impl Iterator<Item = Request>) {
        let places = self.tickets.iter_mut().zip(&mut self.outcomes);
        for (request, (ticket, outcome)) in requests.zip(places) {
            if let Some(waiting) = ticket.take() {
                if let Some(queues) = &mut device.queues {
                    queues.requests.abandon(waiting, request);
                }
                *outcome = Err(RequestError::Unconfirmed);
                self.open -= 1;
            }
        }
    }
}

impl<P: Platform> Shared<P> {
    /// Sends requests, with one kick per `N`, and hands the outcomes of each kick to `done`, in
    /// order, with the index of the first.
    ///
    /// `requests` is walked under the lock of the device; `done` is called without it. The
    /// requests are in the ring in their order, but devices may process them in any.
    #[inline]
    pub(crate) fn execute<const N: usize, R>(
        &self,
        requests: R,
        mut done: impl FnMut(usize, &[Outcome]),
    ) where
        R: Iterator<Item = Request> + Clone,
    {
        let mut index = 0;
        let mut rest = requests;
        loop {
            let batch = self.execute_batch::<N, _>(rest.clone().take(N));
            let count = if batch.sent == N {
                N
            } else {
                // The outcome of those that were not sent says why.
                rest.clone().take(N).count()
            };
            let outcomes = batch.outcomes.get(..count).unwrap_or(&batch.outcomes);
            if log::max_level() >= log::Level::Trace {
                for (request, outcome) in rest.clone().zip(outcomes) {
                    trace(&request, *outcome);
                }
            }
            if count > 0 {
                done(index, outcomes);
            }
            index += count;
            if count < N || rest.nth(N - 1).is_none() {
                return;
            }
        }
    }

    /// Sends one request.
    #[inline]
    pub(crate) fn execute_one(&self, request: Request) -> Outcome {
        let mut outcome = Err(RequestError::NoSlot);
        self.execute::<1, _>(core::iter::once(request), |_, answers| {
            if let [answer] = answers {
                outcome = *answer;
            }
        });
        outcome
    }

    /// Whether a request that was not confirmed, and of which this is true, may yet take effect.
    pub(crate) fn may_yet(&self, matches: impl Fn(&Request) -> bool) -> bool {
        let mut device = self.device.lock();
        device.reap();
        let queues = device.queues.as_ref();
        queues.is_some_and(|queues| queues.requests.may_yet(matches))
    }

    /// Sends up to `N` requests.
    #[inline]
    fn execute_batch<const N: usize, R>(&self, requests: R) -> Batch<N>
    where
        R: Iterator<Item = Request> + Clone,
    {
        let mut batch = Batch::new();
        let left = {
            let mut device = self.device.lock();
            // What is in the ring now cannot be an answer to what is about to be sent.
            device.reap();
            let left = batch.submit(&mut device, requests.clone());
            // Most devices have answered before the kick returns.
            batch.collect(&mut device);
            left
        };
        if left || batch.open > 0 {
            self.finish(&mut batch, requests, left);
        }
        batch
    }

    /// Waits for the answers that are missing, and sends what is left when there is room.
    #[cold]
    fn finish<const N: usize, R>(&self, batch: &mut Batch<N>, requests: R, mut left: bool)
    where
        R: Iterator<Item = Request> + Clone,
    {
        let mut deadline = Deadline::after(&*self.platform, self.timeout);
        let mut looks = 0_u32;
        while left || batch.open > 0 {
            let passed = deadline.passed(&*self.platform);
            let mut device = self.device.lock();
            batch.collect(&mut device);
            if left && !passed {
                left = batch.submit(&mut device, requests.clone());
                batch.collect(&mut device);
            }
            if looks.is_multiple_of(LOOKS_PER_STATUS) {
                device.check_status();
            }
            looks = looks.wrapping_add(1);
            if passed || device.running().is_none() {
                batch.abandon(&mut device, requests);
                return;
            }
        }
    }
}

/// One line per finished request, for whoever compares them with what the device saw.
#[cold]
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
