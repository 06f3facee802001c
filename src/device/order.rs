//! How accesses to a ring are ordered, as the device sees them (§6.2).

use core::sync::atomic::{Ordering, fence};

use crate::platform::Platform;
use crate::wire::Features;

/// The fences of the language, or the barrier of the platform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order(Option<fn()>);

impl Order {
    /// What was negotiated: with ORDER_PLATFORM a device may be less coherent than a CPU.
    pub(crate) fn of<P: Platform>(features: Features) -> Self {
        Self(match features.contains(Features::ORDER_PLATFORM) {
            true => P::DEVICE_BARRIER,
            false => None,
        })
    }

    /// At least a fence of this kind, as the device sees it.
    #[inline(always)]
    pub(crate) fn fence(self, order: Ordering) {
        match self.0 {
            None => fence(order),
            Some(barrier) => barrier(),
        }
    }
}
