//! The judge of accesses that the IOMMU has to refuse: memory, and the faults.

use alloc::vec::Vec;
use core::fmt;

use virtio_iommu::{Access, EndpointId, Fault, FaultReason, Iommu};

use crate::platform::KernelPlatform;
use crate::report::Report;

/// All faults that arrived, oldest first.
///
/// The device model reports them before it says that the transfer is done, so none are late.
pub fn drain(iommu: &Iommu<KernelPlatform>) -> Vec<Fault> {
    let mut faults = Vec::new();
    // Each call is bounded by the size of the queue, and nothing is accessed meanwhile.
    while iommu.poll_faults(|fault| faults.push(fault)) != 0 {}
    faults
}

/// An access that was refused, as the faults have to describe it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Who tried.
    pub endpoint: EndpointId,
    /// The reasons that may be given.
    pub reasons: &'static [FaultReason],
    /// The first address that must not work.
    pub start: u64,
    /// How many bytes from there.
    pub len: u64,
    /// What was tried.
    pub access: Access,
}

/// For an endpoint without a domain; QEMU says `Unknown` since 8.0, and `Domain` before.
pub const NO_DOMAIN: &[FaultReason] = &[FaultReason::Unknown, FaultReason::Domain];

/// For an address that is not mapped, or not for this access.
pub const NO_MAPPING: &[FaultReason] = &[FaultReason::Mapping];

/// What is wrong with the faults of a refused access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// There is none.
    NoFault,
    /// The address of the first is not where the access went wrong first.
    First(Fault),
    /// One of them does not fit the access.
    Odd(Fault),
    /// One of them has an address that is not above that of the one before.
    Order(Fault),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFault => f.write_str("no fault was reported"),
            Self::First(fault) => write!(f, "the first fault is {fault:?}"),
            Self::Odd(fault) => write!(f, "a fault does not fit: {fault:?}"),
            Self::Order(fault) => write!(f, "a fault is out of order: {fault:?}"),
        }
    }
}

impl Refusal {
    /// Compares the faults with the access.
    ///
    /// Devices report one fault per access of the bus, so there may be many. The direction is
    /// compared where the device tells it, which it need not.
    ///
    /// # Errors
    ///
    /// The first [`Mismatch`].
    pub fn compare(&self, faults: &[Fault]) -> Result<(), Mismatch> {
        let first = faults.first().ok_or(Mismatch::NoFault)?;
        let mut before = None;
        for fault in faults {
            let address = fault.address.map(|address| address.0);
            let inside = address
                .and_then(|address| address.checked_sub(self.start))
                .is_some_and(|offset| offset < self.len);
            let fits = fault.endpoint == self.endpoint
                && self.reasons.contains(&fault.reason)
                && fault.access.is_none_or(|access| access == self.access)
                && inside;
            if !fits {
                return Err(Mismatch::Odd(*fault));
            }
            if before.is_some_and(|before| before >= address) {
                return Err(Mismatch::Order(*fault));
            }
            before = Some(address);
        }
        if first.address.map(|address| address.0) != Some(self.start) {
            return Err(Mismatch::First(*first));
        }
        Ok(())
    }

    /// One check: the faults that arrived describe this access.
    #[track_caller]
    pub fn check(&self, name: &str, report: &mut Report, iommu: &Iommu<KernelPlatform>) {
        let faults = drain(iommu);
        report.equal(name, self.compare(&faults), Ok(()));
    }
}

/// One check: nothing was refused.
#[track_caller]
pub fn no_fault(name: &str, report: &mut Report, iommu: &Iommu<KernelPlatform>) {
    let faults = drain(iommu);
    report.equal(name, faults.first(), None);
}
