//! Sending requests and waiting for their answers, without holding a lock meanwhile.

use super::Shared;
use super::requests::{Outcome, RequestError, Run, Ticket};
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
    /// What became of a run of which the first answers, `well`, were good.
    fn of(run: Run, well: usize) -> Self {
        let mut batch = Self {
            tickets: [None; N],
            outcomes: [Err(RequestError::NoSlot); N],
            sent: run.sent(),
            open: run.sent() - well,
        };
        let places = batch.tickets.iter_mut().zip(&mut batch.outcomes);
        for (i, (ticket, outcome)) in places.enumerate().take(run.sent()) {
            if i < well {
                *outcome = Ok(());
            } else {
                *ticket = run.ticket(i);
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
    /// Sends requests, with one kick per `N`, up to [`BATCH`], and hands the outcomes of each kick
    /// to `done`, in order, with the index of the first.
    ///
    /// `requests` is walked under the lock of the device; `done` is called without it. The
    /// requests are in the ring in their order, but devices may process them in any.
    #[inline(always)]
    pub(crate) fn execute<const N: usize, R>(
        &self,
        requests: R,
        mut done: impl FnMut(usize, &[Outcome]),
    ) where
        R: Iterator<Item = Request> + Clone,
    {
        const { assert!(N <= BATCH) };
        let mut index = 0;
        let mut rest = requests;
        loop {
            let requests = rest.clone().take(N);
            let mut device = self.device.lock();
            let (run, well) = device.send_run(requests, N);
            drop(device);
            if well == run.sent() && !run.left {
                let outcomes = ALL_WELL.get(..well).unwrap_or_default();
                trace(rest.clone(), outcomes);
                if well > 0 {
                    done(index, outcomes);
                }
            } else {
                let batch = self.finish::<N, _>(run, well, rest.clone().take(N));
                let count = rest.clone().take(N).count();
                let outcomes = batch.outcomes.get(..count).unwrap_or(&batch.outcomes);
                trace(rest.clone(), outcomes);
                done(index, outcomes);
            }
            index += N;
            if run.sent() < N && !run.left
                || rest.nth(N - 1).is_none()
                || rest.clone().next().is_none()
            {
                return;
            }
        }
    }

    /// Sends a few requests with one kick. `make` makes them, whenever they are needed: so the fast
    /// way has them in registers.
    #[inline(always)]
    pub(crate) fn execute_few<const N: usize>(
        &self,
        make: impl Fn() -> [Request; N],
    ) -> [Outcome; N] {
        let mut device = self.device.lock();
        let sent = device.send_few(make());
        drop(device);
        let mut outcomes = [Ok(()); N];
        if let Err((run, well)) = sent {
            outcomes = self.finish_few(run, well, &make());
        }
        if log::max_level() >= log::Level::Trace {
            // A copy, so that the compiler keeps the others in registers.
            let seen = outcomes;
            trace_all(make().into_iter(), &seen);
        }
        outcomes
    }

    #[cold]
    #[inline(never)]
    fn finish_few<const N: usize>(
        &self,
        run: Run,
        well: usize,
        requests: &[Request; N],
    ) -> [Outcome; N] {
        self.finish::<N, _>(run, well, requests.iter().copied())
            .outcomes
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
        let queues = device.queues.as_ref();
        queues.is_some_and(|queues| queues.requests.may_yet(matches))
    }

    /// Waits for the answers that are missing, and sends what is left when there is room.
    #[cold]
    fn finish<const N: usize, R>(&self, run: Run, well: usize, requests: R) -> Batch<N>
    where
        R: Iterator<Item = Request> + Clone,
    {
        let mut batch = Batch::of(run, well);
        let mut left = run.left;
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
