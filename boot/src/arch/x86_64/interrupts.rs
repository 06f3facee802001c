//! Interrupts of x86_64: the mask. There is no driver for its controllers yet, and this says so.

use virtio_iommu::PhysAddr;
use virtio_iommu::topology::{HostBridge, RequesterId};
use x86_64::instructions::interrupts;

use super::Firmware;
use crate::interrupts::intx::RootPin;
use crate::interrupts::{ControllerError, Line, Message, MessageError, RouteError};

/// Masks interrupts; says whether they were on.
pub fn interrupts_off() -> bool {
    let were_on = interrupts::are_enabled();
    interrupts::disable();
    were_on
}

/// Unmasks interrupts.
pub fn interrupts_on() {
    interrupts::enable();
}

/// With interrupts masked: stops the CPU until one is pending, and lets its handlers run.
pub fn sleep() {
    // In one: an interrupt between the two instructions ends the sleep.
    interrupts::enable_and_hlt();
    interrupts::disable();
}

/// There is no timer without a controller.
pub fn set_alarm(_at: Option<u64>) {}

/// The interrupt controller: there is none.
pub enum Controller {}

impl Controller {
    /// Finds none.
    pub fn find(_firmware: &Firmware) -> Result<Self, ControllerError> {
        Err(ControllerError::NotFound)
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match *self {}
    }

    /// The line of a pin of the root bus.
    pub fn intx(&mut self, _: &Firmware, _: &HostBridge, _: RootPin) -> Result<Line, RouteError> {
        match *self {}
    }

    /// The line of a virtio-mmio slot.
    pub fn slot(&mut self, _: &Firmware, _: PhysAddr) -> Result<Line, RouteError> {
        match *self {}
    }

    /// A new message-signalled interrupt.
    pub fn message(&mut self, _: RequesterId) -> Result<Message, MessageError> {
        match *self {}
    }

    /// Unmasks a line.
    pub fn enable(&mut self, _: Line) {
        match *self {}
    }

    /// Masks a line.
    pub fn disable(&mut self, _: Line) {
        match *self {}
    }

    /// Acknowledges the most urgent pending line, if there is one.
    pub fn claim(&mut self) -> Option<Line> {
        match *self {}
    }

    /// The handlers of a claimed line are done.
    pub fn complete(&mut self, _: Line) {
        match *self {}
    }
}
