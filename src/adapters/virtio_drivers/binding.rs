//! What an endpoint is bound to, and what its driver has of it.

use core::time::Duration;

use lock_api::Mutex;

use super::error::{BindError, NotTranslated, UnbindError};
use super::options::{AdapterOptions, Usage};
use super::queues::Queues;
use super::table::Table;
use super::window::Window;
use crate::device::Deadline;
use crate::dma::{DmaDevice, FromDevice, ToDevice};
use crate::platform::Platform;

/// Which device an [`Endpoint`](super::Endpoint) is: nothing at first, and a
/// [`DmaDevice`] from [`bind`](Self::bind) on.
///
/// # Contexts
///
/// The lock is taken for a bounded time, and never held while waiting for the IOMMU or the device.
/// Buffers that are copied take no request, and can be shared in interrupt handlers if
/// [`Platform::Lock`] masks interrupts; those that are mapped wait for the IOMMU.
pub struct Binding<P: Platform> {
    name: &'static str,
    pub(super) state: Mutex<P::Lock, Option<State<P>>>,
}

impl<P: Platform> core::fmt::Debug for Binding<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Binding")
            .field("name", &self.name)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

/// What is known of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has done nothing since its reset, and knows no address.
    Reset,
    /// A driver is at work.
    Running,
    /// It did not confirm a reset.
    Stuck,
}

/// An endpoint that is bound.
pub(super) struct State<P: Platform> {
    pub(super) device: DmaDevice<P>,
    pub(super) options: AdapterOptions,
    /// A granule less one.
    pub(super) rest: usize,
    pub(super) to_device: Window<ToDevice, P>,
    pub(super) from_device: Window<FromDevice, P>,
    pub(super) table: Table<P>,
    pub(super) queues: Queues<P>,
    phase: Phase,
    /// A transport is in use.
    claimed: bool,
    /// The device has said DEVICE_NEEDS_RESET.
    needs_reset: bool,
    pub(super) unknown: usize,
}

impl<P: Platform> State<P> {
    /// Whether memory may be given to the device: a transport that was checked is in use for it.
    pub(super) fn is_usable(&self) -> bool {
        self.claimed && self.phase != Phase::Stuck
    }

    /// Whether the device knows no address.
    pub(super) fn is_reset(&self) -> bool {
        self.phase == Phase::Reset
    }
}

impl<P: Platform> Binding<P> {
    /// Nothing is bound. `name` is what messages call the endpoint.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            state: Mutex::new(None),
        }
    }

    /// What messages call the endpoint.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Binds the endpoint to a device, and maps its window. Allocates.
    ///
    /// # Errors
    ///
    /// [`BindError`]; nothing is mapped then.
    pub fn bind(&self, device: DmaDevice<P>, options: AdapterOptions) -> Result<(), BindError> {
        if self.state.lock().is_some() {
            return Err(BindError::Bound);
        }
        let state = State::new(device, options)?;
        let refused = {
            let mut bound = self.state.lock();
            match *bound {
                // Somebody was faster.
                Some(_) => Some(state),
                None => {
                    *bound = Some(state);
                    None
                }
            }
        };
        match refused {
            None => Ok(()),
            Some(state) => {
                state.close();
                Err(BindError::Bound)
            }
        }
    }

    /// Unmaps the window, and gives the device back.
    ///
    /// # Errors
    ///
    /// [`UnbindError`]: it stays bound.
    pub fn unbind(&self) -> Result<DmaDevice<P>, UnbindError> {
        let state = {
            let mut bound = self.state.lock();
            let state = bound.as_mut().ok_or(UnbindError::NotBound)?;
            let shares = state.table.mapped() + state.to_device.usage().used;
            let shares = shares + state.from_device.usage().used;
            let memory = state.queues.live() + state.queues.waiting();
            match state.phase {
                Phase::Stuck if !state.claimed => return Err(UnbindError::NotReset),
                Phase::Reset if !state.claimed && shares == 0 && memory == 0 => bound.take(),
                _ => return Err(UnbindError::InUse),
            }
        };
        Ok(state.ok_or(UnbindError::NotBound)?.close())
    }

    /// How much is in use. Zeros while nothing is bound.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let bound = self.state.lock();
        let Some(state) = &*bound else {
            return Usage::default();
        };
        Usage {
            to_device: state.to_device.usage(),
            from_device: state.from_device.usage(),
            mapped: state.table.mapped(),
            most_mapped: state.table.most(),
            deferred: state.table.parked(),
            queues: state.queues.live(),
            waiting: state.queues.waiting(),
            unknown: state.unknown,
        }
    }

    /// Whether the device has said DEVICE_NEEDS_RESET (virtio 1.2 §2.1) since its last reset.
    ///
    /// Known from the last time that the driver acknowledged a configuration interrupt with
    /// `ack_interrupt`: a driver that polls has to call that now and then.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        let bound = self.state.lock();
        bound.as_ref().is_some_and(|state| state.needs_reset)
    }

    /// Whether the device did not confirm its last reset: nobody knows what it still does.
    ///
    /// Until a later [`BehindIommu`](super::BehindIommu) has it confirm one, it gets no queue
    /// memory, its window and queues stay its own, and [`unbind`](Self::unbind) says
    /// [`NotReset`](UnbindError::NotReset). Buffers that were mapped for it at the time are
    /// unmapped, and their addresses quarantined; but their memory belongs to whoever called the
    /// driver. What the device had begun, an UNMAP does not stop: it may yet write to them. So a
    /// kernel that drops a driver with such buffers in flight looks here before it uses them again.
    /// With [`bounce_up_to`](AdapterOptions::bounce_up_to) `usize::MAX` the device never has any.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let bound = self.state.lock();
        bound
            .as_ref()
            .is_some_and(|state| state.phase == Phase::Stuck)
    }

    /// Looks again and again until `done`, for `timeout` at the most of the platform's clock, or
    /// until the device [needs a reset](Self::needs_reset). Says whether it is done.
    ///
    /// For the calls of drivers that do not wait: those that do, wait for ever if the device does
    /// not answer.
    #[must_use = "without an answer the device may still be using the buffers"]
    pub fn wait_until(&self, timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
        let platform = {
            let bound = self.state.lock();
            let Some(state) = &*bound else {
                return done();
            };
            state.device.domain().platform().clone()
        };
        let mut deadline = Deadline::after(&*platform, timeout);
        while !done() {
            if deadline.passed(&*platform) || self.needs_reset() {
                return done();
            }
        }
        true
    }

    /// Puts a transport in use for the endpoint. Returns what its resets are bounded by.
    pub(super) fn claim(&self) -> Result<(alloc::sync::Arc<P>, Duration), NotTranslated> {
        let mut bound = self.state.lock();
        let state = bound.as_mut().ok_or(NotTranslated::NotBound)?;
        if core::mem::replace(&mut state.claimed, true) {
            return Err(NotTranslated::InUse);
        }
        let platform = state.device.domain().platform().clone();
        Ok((platform, state.options.reset_timeout))
    }

    /// The transport is not in use any more.
    pub(super) fn disclaim(&self) {
        if let Some(state) = &mut *self.state.lock() {
            state.claimed = false;
        }
    }

    /// The device is told something that is no reset.
    pub(super) fn note_running(&self) {
        if let Some(state) = &mut *self.state.lock()
            && state.phase == Phase::Reset
        {
            state.phase = Phase::Running;
        }
    }

    /// The device has said DEVICE_NEEDS_RESET.
    pub(super) fn note_needs_reset(&self) {
        if let Some(state) = &mut *self.state.lock() {
            state.needs_reset = true;
        }
    }

    /// The device was reset, and has confirmed that: it is done with all that it ever had.
    pub(super) fn note_reset(&self) {
        {
            let mut bound = self.state.lock();
            let Some(state) = &mut *bound else { return };
            state.phase = Phase::Reset;
            state.needs_reset = false;
            state.to_device.clear();
            state.from_device.clear();
        }
        // Without the lock: the IOMMU is waited for.
        while let Some((room, mapped)) = self.find(|state| state.table.take_any()) {
            // SAFETY: the device has confirmed its reset: who made the transport vouches for both.
            let ended = unsafe { mapped.end() };
            self.with(|state| state.table.cancel(room));
            if let Err(error) = ended {
                super::hal::cannot(self, super::hal::Cause::NotUnmapped(error));
            }
        }
        while let Some(memory) = self.find(|state| state.queues.take_waiting()) {
            // SAFETY: as above.
            unsafe { memory.free() };
        }
    }

    /// The device did not confirm its reset: it may still be at work.
    pub(super) fn note_stuck(&self) {
        self.with(|state| state.phase = Phase::Stuck);
        log::error!(
            "endpoint {}: the device did not confirm its reset",
            self.name
        );
        // What is in flight is unmapped, and its addresses are quarantined; the memory is that of
        // whoever called the driver.
        while let Some((room, mapped)) = self.find(|state| state.table.take_any()) {
            drop(mapped);
            self.with(|state| state.table.cancel(room));
        }
    }

    /// Works on the state, if there is one.
    #[inline]
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut State<P>) -> R) -> Option<R> {
        self.state.lock().as_mut().map(work)
    }

    /// As [`with`](Self::with), for work that may find nothing.
    #[inline]
    pub(super) fn find<R>(&self, work: impl FnOnce(&mut State<P>) -> Option<R>) -> Option<R> {
        work(self.state.lock().as_mut()?)
    }
}

impl<P: Platform> State<P> {
    fn new(device: DmaDevice<P>, options: AdapterOptions) -> Result<Self, BindError> {
        if !device.takes_any_segment() {
            return Err(BindError::Limits);
        }
        let table = Table::new(options.mappings).ok_or(BindError::OutOfMemory)?;
        let to_device = Window::new(&device, options.window_to_device)?;
        let from_device = match Window::new(&device, options.window_from_device) {
            Ok(window) => window,
            Err(error) => {
                // SAFETY: nobody has told the endpoint of it.
                drop(unsafe { to_device.complete() });
                return Err(error);
            }
        };
        let rest = usize::try_from(device.domain().granule() - 1);
        Ok(Self {
            rest: rest.unwrap_or(usize::MAX),
            device,
            options,
            to_device,
            from_device,
            table,
            queues: Queues::new(),
            phase: Phase::Reset,
            claimed: false,
            needs_reset: false,
            unknown: 0,
        })
    }

    /// Unmaps the window. The device knows no address, and nothing is in use.
    fn close(self) -> DmaDevice<P> {
        // What is put off is left to the domain, which unmaps it now, or in time.
        drop(self.table);
        let _ = self.device.domain().flush();
        // SAFETY: the device was reset since it was last told of an address, if it ever was.
        drop(unsafe { self.to_device.complete() });
        // SAFETY: as above.
        drop(unsafe { self.from_device.complete() });
        self.device
    }
}
