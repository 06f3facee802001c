//! What a scenario must and must not show in the device's trace, besides agreeing with the guest's record.

use super::request::Range;

/// One kind of request, where a number of them is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MAP, accepted.
    Map,
    /// UNMAP.
    Unmap,
}

/// A fault that must be in the trace at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedFault {
    /// Reason: 0 UNKNOWN, 2 MAPPING. UNKNOWN stands for DOMAIN, too: which of them it must be depends on whether the
    /// device has a record of the endpoint.
    pub reason: u32,
    /// Flags: READ 1, WRITE 2, ADDRESS 0x100.
    pub flags: u32,
    /// How many at least.
    pub least: usize,
}

/// A reserved region that each probed endpoint must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// 0 RESERVED, 1 MSI.
    pub subtype: u32,
    /// Its addresses.
    pub range: Range,
}

/// The expectations of one scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Whether the machine has an IOMMU at all.
    pub iommu: bool,
    /// How often the driver brings the device up to DRIVER_OK and keeps it.
    pub starts: usize,
    /// How often bring-up ends with FAILED.
    pub failed_starts: usize,
    /// MAPs that the device accepts, at least.
    pub maps: usize,
    /// Endpoints that are attached at some time, exactly these.
    pub endpoints: &'static [u32],
    /// Endpoints still attached when the driver has sent its last request.
    pub attached: &'static [u32],
    /// Faults that must be seen; no others may be.
    pub faults: &'static [WantedFault],
    /// A kick of the request queue that made the device do exactly this many of this kind, and nothing else.
    pub batches: &'static [(Kind, usize)],
    /// Mappings that one of the UNMAPs removed, at least.
    pub merged: usize,
    /// Whether the device works in a thread of its own, which QEMU wakes up once by itself at each start.
    pub in_thread: bool,
    /// How often the device goes from the requests of one CPU to those of another, at least; with 0, one CPU sends all
    /// of them.
    pub turns: usize,
    /// Reserved regions, exactly.
    pub reserved: Option<&'static [Region]>,
    /// Granule of the device, in bytes.
    pub granule: Option<u64>,
    /// Last address of the input range.
    pub input_end: Option<u64>,
    /// Whether the driver closes the bypass of endpoints without a domain, or leaves it alone.
    pub locks_bypass: bool,
    /// Whether endpoints may be attached to domains that are not translated.
    pub pass_through: bool,
    /// Endpoints that cannot be told apart: where one of them is when something is mapped, all are.
    pub together: &'static [u32],
    /// How many mappings no device uses, at the most. All others are, by addresses that the IOMMU translates.
    pub unused: Option<usize>,
    /// Whether the trace has a line of its own for an endpoint that leaves a domain.
    pub tells_leaves: bool,
    /// Whether the device refuses a request, other than a purge of a domain that does not exist.
    pub refusals: bool,
}

impl Expect {
    /// A machine without an IOMMU: nothing is traced.
    pub const NO_IOMMU: Self = Self {
        iommu: false,
        starts: 0,
        failed_starts: 0,
        maps: 0,
        endpoints: &[],
        attached: &[],
        faults: &[],
        batches: &[],
        merged: 0,
        in_thread: false,
        turns: 0,
        reserved: None,
        granule: None,
        input_end: None,
        locks_bypass: true,
        pass_through: false,
        together: &[],
        unused: None,
        tells_leaves: true,
        refusals: false,
    };

    /// One start, one endpoint at 00:02.0, something mapped, no fault, nothing left.
    pub const PLAIN: Self = Self {
        iommu: true,
        starts: 1,
        maps: 1,
        endpoints: &[0x10],
        ..Self::NO_IOMMU
    };
}
