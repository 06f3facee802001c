//! Faults and interrupts: what arrives without being asked for (§5.13.6.9).

use virtio_drivers::transport::InterruptStatus;

use super::events::{Event, FaultCounters};
use super::{Iommu, Shared};
use crate::platform::Platform;
use crate::wire::{EVENT_QUEUE, Fault};

/// Faults that are copied out under one lock.
const FAULTS_AT_ONCE: usize = 16;

/// What an interrupt was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// The device raised the interrupt line. With a shared line, all devices behind it have to be
    /// asked, whatever this says.
    pub raised: bool,
    /// Faults are waiting: call [`Iommu::poll_faults`], here or later.
    pub faults: bool,
    /// The device needs a reset: no request will succeed any more.
    pub needs_reset: bool,
}

/// The faults of one look at the queue.
struct Batch {
    faults: [Option<Fault>; FAULTS_AT_ONCE],
    /// Events taken out.
    events: u16,
    /// Nothing was left.
    drained: bool,
}

impl<P: Platform> Iommu<P> {
    /// Acknowledges an interrupt of the device, and says what it was about.
    ///
    /// While faults are waiting, the device is asked not to interrupt for more; the call of
    /// [`poll_faults`](Self::poll_faults) that empties the queue takes that back. So a storm of
    /// faults costs one interrupt, not one each. Harmless when the device did not interrupt.
    ///
    /// # Contexts
    ///
    /// Made for interrupt handlers: takes the lock of the device, which must then mask the
    /// interrupt; allocates nothing; looks at a fixed number of registers.
    pub fn handle_interrupt(&self) -> Pending {
        let mut device = self.shared.device.lock();
        let status = device.link.acknowledge_interrupt();
        if status.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT) {
            device.check_status();
        }
        let needs_reset = device.is_broken();
        let faults = match device.queues() {
            Some(queues) if queues.events.is_waiting() => {
                queues.events.ring().suppress_interrupts();
                true
            }
            _ => false,
        };
        Pending {
            raised: !status.is_empty(),
            faults,
            needs_reset,
        }
    }

    /// Hands the faults that arrived to `sink`, oldest first, and returns how many.
    ///
    /// Looks at one queue's worth of events at the most, so it ends even while a device keeps
    /// causing faults: call it until it returns 0. Every buffer is posted again before `sink` sees
    /// what was in it.
    ///
    /// # Contexts
    ///
    /// Takes the lock of the device for a bounded time; allocates nothing; `sink` runs without a
    /// lock.
    pub fn poll_faults(&self, mut sink: impl FnMut(Fault)) -> usize {
        let mut total = 0;
        let mut budget = None;
        loop {
            let Some(batch) = self.shared.take_faults(&mut budget) else {
                return total;
            };
            for fault in batch.faults.into_iter().flatten() {
                total += 1;
                sink(fault);
            }
            let spent = budget == Some(0);
            // With faults in hand the caller comes again, and finds those that are left.
            let last = batch.drained || spent && total == 0;
            let missed = last && self.shared.allow_fault_interrupts();
            if spent || batch.drained && !missed {
                return total;
            }
        }
    }

    /// What became of the events so far.
    #[must_use]
    pub fn fault_counters(&self) -> FaultCounters {
        let device = self.shared.device.lock();
        device
            .queues()
            .map(|queues| queues.events.counters())
            .unwrap_or_default()
    }
}

impl<P: Platform> Shared<P> {
    /// Takes events out, at most as many as `budget`, which is the size of the queue at first.
    ///
    /// `None` when the device was stopped.
    fn take_faults(&self, budget: &mut Option<u16>) -> Option<Batch> {
        let mut device = self.device.lock();
        let queues = device.queues_mut()?;
        let budget = budget.get_or_insert_with(|| {
            queues.events.note_overflow();
            queues.events.ring().size()
        });
        let mut batch = Batch {
            faults: [None; FAULTS_AT_ONCE],
            events: 0,
            drained: false,
        };
        for place in &mut batch.faults {
            if *budget == 0 {
                break;
            }
            let Some(event) = queues.events.next() else {
                batch.drained = true;
                break;
            };
            *budget -= 1;
            batch.events += 1;
            if let Event::Fault(fault) = event {
                *place = Some(fault);
            }
        }
        // One kick, when all that is to be posted is posted.
        if batch.events > 0 && queues.events.ring().wants_kick() {
            device.link.notify(EVENT_QUEUE);
        }
        Some(batch)
    }

    /// Lets the device interrupt for faults again; tells whether some came too early for that.
    fn allow_fault_interrupts(&self) -> bool {
        let device = self.device.lock();
        device.queues().is_some_and(|queues| {
            queues.events.ring().allow_interrupts();
            queues.events.is_waiting()
        })
    }
}
