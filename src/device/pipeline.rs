//! Sending requests and waiting for their answers, without holding a lock meanwhile.

use lock_api::MutexGuard;

use super::Shared;
use super::requests::{Outcome, RequestError, Sent, Ticket};
use super::state::Device;
use super::wait::Deadline;
use crate::platform::Platform;
use crate::wire::Request;

/// Requests of one caller that share a kick, at the most.
pub(crate) const BATCH: usize = 64;

/// Looks at the ring between two looks at the status, which cost an exit each.
const LOOKS_PER_STATUS: u32 = 64;

/// What a batch in which all went well looks like.
const ALL_WELL: [Outcome; BATCH] = [Ok(()); BATCH];

/// Requests of one caller that share a kick, by their index in the batch.
struct Batch<const N: usize> {
    /// Of those in flight.
    tickets: [Option<Ticket>; N],
    outcomes: [Outcome; N],
    /// How many were sent. They are sent in their order.
    sent: usize,
    /// How many were sent and not answered.
    open: usize,
}

impl<const N: usize> Batch<N> {
    /// What became of requests that went the fast way.
    fn of(fast: Sent) -> Self {
        let mut batch = Self {
            tickets: [None; N],
            outcomes: [Err(RequestError::NoSlot); N],
            sent: fast.sent,
            open: fast.sent - fast.well,
        };
        let places = batch.tickets.iter_mut().zip(&mut batch.outcomes);
        for (i, (ticket, outcome)) in places.enumerate().take(fast.sent) {
            if i < fast.well {
                *outcome = Ok(());
            } else {
                *ticket = Ticket::of(i);
            }
        }
        batch
    }

    /// Sends what fits of the requests that were not sent before; tells whether some are left.
    fn submit(&mut self, device: &mut Device, requests: impl Iterator<Item = Request>) -> bool {
        let Some(queues) = device.running() else {
            for outcome in self.outcomes.iter_mut().skip(self.sent) {
                *outcome = Err(RequestError::NotRunning);
            }
            return false;
        };
        let mut left = false;
        let mut sent = 0;
        let places = self.tickets.iter_mut().zip(requests);
        for (place, request) in places.skip(self.sent) {
            *place = queues.requests.prepare_one(&request);
            if place.is_none() {
                left = true;
                break;
            }
            sent += 1;
        }
        if sent > 0 {
            self.sent += sent;
            self.open += sent;
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
                *outcome = answer;
                self.open -= 1;
            }
        }
    }

    /// Gives up on what is in flight.
    fn abandon(&mut self, device: &mut Device, requests: impl Iterator<Item = Request>) {
        let places = self.tickets.iter_mut().zip(&mut self.outcomes);
        for (request, (ticket, outcome)) in requests.zip(places) {
            if let Some(waiting) = ticket.take() {
                if let Some(queues) = device.queues_mut() {
                    queues.requests.abandon(waiting, request);
                }
                *outcome = Err(RequestError::Unconfirmed);
            }
        }
    }
}

impl<P: Platform> Shared<P> {
    /// Sends requests, with one kick per `N`, up to [`BATCH`], and hands the outcomes of each kick
    /// to `done`, in order, with the index of the first. Returns the first error.
    ///
    /// `requests` is walked under the lock of the device; `done` is called without it. The
    /// requests are in the ring in their order, but devices may process them in any.
    #[inline(always)]
    pub(crate) fn execute<const N: usize, R>(
        &self,
        requests: R,
        mut done: impl FnMut(usize, &[Outcome]),
    ) -> Outcome
    where
        R: Iterator<Item = Request> + Clone,
    {
        const { assert!(N <= BATCH) };
        let mut all = Ok(());
        let mut index = 0;
        let mut rest = requests;
        loop {
            let these = rest.clone();
            let mut device = self.device.lock();
            let fast = device.send_run(&mut rest, N);
            drop(device);
            if fast.well == fast.sent && !fast.left {
                let outcomes = ALL_WELL.get(..fast.well).unwrap_or_default();
                trace(these, outcomes);
                if fast.well > 0 {
                    done(index, outcomes);
                }
            } else {
                let batch = self.finish::<N, _>(fast, these.clone().take(N));
                rest = these.clone();
                let count = rest.by_ref().take(N).count();
                let outcomes = batch.outcomes.get(..count).unwrap_or(&batch.outcomes);
                trace(these, outcomes);
                all = outcomes.iter().fold(all, |all, outcome| all.and(*outcome));
                done(index, outcomes);
            }
            index += N;
            if rest.clone().next().is_none() {
                return all;
            }
        }
    }

    /// Sends a few requests with one kick. `make` makes them, whenever they are needed: so the fast
    /// way has them in registers.
    #[inline(always)]
    pub(crate) fn execute_few<const N: usize>(
        &self,
        make: impl Fn() -> [Request; N] + Copy,
    ) -> [Outcome; N] {
        let mut device = self.device.lock();
        match device.send_few(make()) {
            Ok(()) => drop(device),
            Err(fast) => return self.finish_few(device, fast, make),
        }
        if log::max_level() >= log::Level::Trace {
            trace_few(make);
        }
        [Ok(()); N]
    }

    /// Finishes what did not go the fast way.
    #[cold]
    #[inline(never)]
    fn finish_few<const N: usize>(
        &self,
        device: MutexGuard<'_, P::Lock, Device>,
        fast: Sent,
        make: impl Fn() -> [Request; N],
    ) -> [Outcome; N] {
        drop(device);
        let requests = make();
        let batch = self.finish::<N, _>(fast, requests.iter().copied());
        trace(requests.into_iter(), &batch.outcomes);
        batch.outcomes
    }

    /// Sends one request.
    #[inline(always)]
    pub(crate) fn execute_one(&self, request: Request) -> Outcome {
        let [outcome] = self.execute_few(|| [request]);
        outcome
    }

    /// Whether a request that was not confirmed, and of which this is true, may yet take effect.
    pub(crate) fn may_yet(&self, matches: impl Fn(&Request) -> bool) -> bool {
        let mut device = self.device.lock();
        device.reap();
        let queues = device.queues();
        queues.is_some_and(|queues| queues.requests.may_yet(matches))
    }

    /// Waits for the answers that are missing, and sends what is left when there is room.
    #[cold]
    fn finish<const N: usize, R>(&self, fast: Sent, requests: R) -> Batch<N>
    where
        R: Iterator<Item = Request> + Clone,
    {
        let mut batch = Batch::of(fast);
        let mut left = fast.left;
        let mut deadline = Deadline::after(&*self.platform, self.timeout);
        let mut passed = false;
        let mut looks = 0_u32;
        loop {
            let mut device = self.device.lock();
            batch.collect(&mut device);
            if left && !passed {
                left = batch.submit(&mut device, requests.clone());
                batch.collect(&mut device);
            }
            if !left && batch.open == 0 {
                return batch;
            }
            if looks.is_multiple_of(LOOKS_PER_STATUS) {
                device.check_status();
            }
            looks = looks.wrapping_add(1);
            if passed || device.running().is_none() {
                batch.abandon(&mut device, requests);
                return batch;
            }
            drop(device);
            passed = deadline.passed(&*self.platform);
        }
    }
}

/// One line per finished request, for whoever compares them with what the device saw.
#[inline(always)]
fn trace(requests: impl Iterator<Item = Request>, outcomes: &[Outcome]) {
    if log::max_level() >= log::Level::Trace {
        trace_all(requests, outcomes);
    }
}

/// The same for a few, all of which went well.
#[cold]
#[inline(never)]
fn trace_few<const N: usize>(make: impl Fn() -> [Request; N]) {
    trace_all(make().into_iter(), &[Ok(()); N]);
}

#[cold]
#[inline(never)]
fn trace_all(requests: impl Iterator<Item = Request>, outcomes: &[Outcome]) {
    for (request, outcome) in requests.zip(outcomes) {
        trace_one(&request, *outcome);
    }
}

fn trace_one(request: &Request, outcome: Outcome) {
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
