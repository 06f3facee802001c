//! From the interrupt pin of a PCI function to a pin at the root bus.

use virtio_iommu::topology::RequesterId;
use virtio_iommu::topology::pci::PciTree;

use super::RouteError;

/// A pin of a slot of the root bus, to which that of a function leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootPin {
    /// The function whose pin leads there.
    pub of: RequesterId,
    /// The function whose slot it is.
    pub function: RequesterId,
    /// 1 to 4 for INTA to INTD.
    pub pin: u8,
}

/// Bridges above one another; the bus numbers would run out first.
const DEPTH: usize = 256;

/// Follows the pin of a function up to the root bus: each bridge turns the pins by the number of
/// the device behind it.
///
/// # Errors
///
/// [`RouteError::UnknownFunction`], [`RouteError::NoPin`].
pub fn root_pin(pci: &PciTree, function: RequesterId) -> Result<RootPin, RouteError> {
    let find = |id| pci.function(id).ok_or(RouteError::UnknownFunction(id));
    let mut found = find(function)?;
    let mut pin = found.interrupt_pin;
    if !(1..=4).contains(&pin) {
        return Err(RouteError::NoPin);
    }
    for _ in 0..DEPTH {
        let here = found.address.function;
        let Some(parent) = found.parent else {
            return Ok(RootPin {
                of: function,
                function: here,
                pin,
            });
        };
        pin = (pin - 1 + here.device()) % 4 + 1;
        found = find(parent)?;
    }
    Err(RouteError::UnknownFunction(function))
}
