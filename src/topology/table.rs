//! The table itself: requester ids and platform devices to IOMMUs and endpoint ids.

#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;

use thiserror::Error;

use super::pci::Function;
use super::{BusRange, IommuIndex, IommuLocation, PciAddress, Placement, RequesterId, Segment};
use crate::address::{EndpointId, PhysAddr};

/// The most IOMMUs that a [`Topology`] holds.
pub const MAX_IOMMUS: usize = 64;
/// The most ranges of requester ids that a [`Topology`] holds.
pub const MAX_PCI_RANGES: usize = 1024;
/// The most platform endpoints that a [`Topology`] holds.
pub const MAX_PLATFORM_ENDPOINTS: usize = 1024;

/// Consecutive requester ids that become consecutive endpoint ids behind one IOMMU.
///
/// The endpoint id of requester id `r` in segment `s` is
/// `((s - first segment) << 16) + (r & mask) - first + endpoint`. No member of the range
/// overflows 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciRange {
    segment: Segment,
    last_segment: Segment,
    buses: BusRange,
    mask: u16,
    first: RequesterId,
    last: RequesterId,
    iommu: IommuIndex,
    endpoint: EndpointId,
}

impl PciRange {
    /// The requester ids `first..=last` of one segment; `first` is called `endpoint` there.
    ///
    /// `None` if `last < first` or if the last endpoint id would lie beyond 32 bits.
    #[must_use]
    pub fn new(
        segment: Segment,
        first: RequesterId,
        last: RequesterId,
        iommu: IommuIndex,
        endpoint: EndpointId,
    ) -> Option<Self> {
        Self {
            segment,
            last_segment: segment,
            buses: BusRange::ALL,
            mask: u16::MAX,
            first,
            last,
            iommu,
            endpoint,
        }
        .checked()
    }

    /// The same range in each of the segments up to `last`, each 65536 endpoint ids further on
    /// (ACPI VIOT). `None` if `last` is before the first segment or an endpoint id overflows.
    #[must_use]
    pub fn with_last_segment(mut self, last: Segment) -> Option<Self> {
        self.last_segment = last;
        self.checked()
    }

    /// Only for functions on these buses: those of the host bridge that the range describes.
    #[must_use]
    pub fn with_buses(mut self, buses: BusRange) -> Self {
        self.buses = buses;
        self
    }

    /// Requester ids lose the bits that are clear in `mask` before they are looked up
    /// (`iommu-map-mask`).
    #[must_use]
    pub fn with_mask(mut self, mask: u16) -> Self {
        self.mask = mask;
        self
    }

    /// The only check of the arithmetic: afterwards [`endpoint`](Self::endpoint) cannot overflow.
    fn checked(self) -> Option<Self> {
        let segments = u32::from(self.last_segment.0.checked_sub(self.segment.0)?);
        let ids = u32::from(self.last.0.checked_sub(self.first.0)?);
        // At most 0xffff_ffff: 16 bits of segments above 16 bits of ids.
        self.endpoint.0.checked_add(segments << 16 | ids)?;
        Some(self)
    }

    /// The IOMMU.
    #[must_use]
    pub const fn iommu(&self) -> IommuIndex {
        self.iommu
    }

    /// The first requester id, after the mask.
    #[must_use]
    pub const fn first(&self) -> RequesterId {
        self.first
    }

    /// The last requester id, after the mask; it belongs to the range.
    #[must_use]
    pub const fn last(&self) -> RequesterId {
        self.last
    }

    /// The first segment.
    #[must_use]
    pub const fn segment(&self) -> Segment {
        self.segment
    }

    /// The endpoint id of a requester id, or `None` if it is not a member.
    #[must_use]
    pub fn endpoint(&self, segment: Segment, requester: RequesterId) -> Option<EndpointId> {
        let masked = RequesterId(requester.0 & self.mask);
        let inside = (self.segment..=self.last_segment).contains(&segment)
            && self.buses.contains(requester.bus())
            && (self.first..=self.last).contains(&masked);
        if !inside {
            return None;
        }
        let segments = u32::from(segment.0.checked_sub(self.segment.0)?);
        let ids = u32::from(masked.0.checked_sub(self.first.0)?);
        let id = self.endpoint.0.checked_add(segments << 16 | ids)?;
        Some(EndpointId(id))
    }

    /// Whether a requester id could be a member of both. Ranges under different masks are taken
    /// to overlap when they share a bus.
    fn overlaps(&self, other: &Self) -> bool {
        self.segment <= other.last_segment
            && other.segment <= self.last_segment
            && self.buses.overlaps(&other.buses)
            && (self.mask != other.mask || (self.first <= other.last && other.first <= self.last))
    }
}

/// One endpoint id of a device that is not on PCI. A device may have several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformEndpoint {
    /// The path of its node, where it comes from a device tree.
    pub node: Option<String>,
    /// The physical address of its first register, where it is known.
    pub base: Option<PhysAddr>,
    /// The IOMMU.
    pub iommu: IommuIndex,
    /// The endpoint id.
    pub endpoint: EndpointId,
}

/// Why a table refuses an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// The list is as long as it may become.
    #[error("the list is full")]
    Full,
    /// The entry names an IOMMU that the table does not have.
    #[error("there is no IOMMU {}", .0.0)]
    UnknownIommu(IommuIndex),
    /// A requester id would have two answers.
    #[error("the range overlaps another one")]
    Overlap,
    /// The location is in the table already.
    #[error("the IOMMU is listed twice")]
    DuplicateIommu,
    /// More than one IOMMU in a segment, and nothing says who is behind which.
    #[error("several IOMMUs in segment {}, undescribed", .0.0)]
    SeveralIommus(Segment),
}

/// Who sits behind which IOMMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    iommus: Vec<IommuLocation>,
    ranges: Vec<PciRange>,
    platform: Vec<PlatformEndpoint>,
}

impl Topology {
    /// A machine without an IOMMU.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            iommus: Vec::new(),
            ranges: Vec::new(),
            platform: Vec::new(),
        }
    }

    /// The IOMMUs; an [`IommuIndex`] is an index into this list.
    #[must_use]
    pub fn iommus(&self) -> &[IommuLocation] {
        &self.iommus
    }

    /// The ranges of requester ids; where two overlap, the earlier one decides.
    #[must_use]
    pub fn ranges(&self) -> &[PciRange] {
        &self.ranges
    }

    /// The endpoints that are not on PCI.
    #[must_use]
    pub fn platform(&self) -> &[PlatformEndpoint] {
        &self.platform
    }

    /// The answer for a PCI function, by the requester id that the IOMMU sees
    /// ([`Function::requester`], not always the function's own address).
    ///
    /// An IOMMU's own function is never behind itself, even if a range covers it (ACPI VIOT).
    #[must_use]
    pub fn pci(&self, segment: Segment, requester: RequesterId) -> Placement {
        let address = PciAddress {
            segment,
            function: requester,
        };
        for range in &self.ranges {
            if let Some(endpoint) = range.endpoint(segment, requester) {
                let iommu = range.iommu;
                if self.iommus.get(iommu.0) == Some(&IommuLocation::Pci(address)) {
                    return Placement::NotBehind;
                }
                return Placement::Behind { iommu, endpoint };
            }
        }
        Placement::NotBehind
    }

    /// The endpoints of the platform device whose registers begin at `base`; none means that it
    /// is not behind an IOMMU.
    pub fn platform_at(&self, base: PhysAddr) -> impl Iterator<Item = &PlatformEndpoint> {
        self.platform
            .iter()
            .filter(move |endpoint| endpoint.base == Some(base))
    }

    /// The endpoints of the device-tree node at `path` (`/soc/dma@10000`); none means that it is
    /// not behind an IOMMU.
    pub fn platform_node(&self, path: &str) -> impl Iterator<Item = &PlatformEndpoint> {
        self.platform
            .iter()
            .filter(move |endpoint| endpoint.node.as_deref() == Some(path))
    }

    /// The table for a machine whose description says nothing: every function of `segment` is
    /// behind `iommu`, and the endpoint id is the requester id.
    ///
    /// QEMU's virtio-mmio IOMMU behaves so, and no device tree of QEMU describes it.
    #[must_use]
    pub fn identity(iommu: IommuLocation, segment: Segment) -> Self {
        let mut table = Self::new();
        table.iommus.push(iommu);
        table.ranges.push(Self::whole(segment, IommuIndex(0)));
        table
    }

    /// The fallback: each function 1af4:1057 is taken for the IOMMU of its whole segment, with
    /// endpoint ids equal to requester ids. Without one the table is empty.
    ///
    /// # Errors
    ///
    /// [`TableError::SeveralIommus`] if a segment has more than one: nothing here could tell who
    /// is behind which. [`TableError::Full`] beyond [`MAX_IOMMUS`].
    pub fn scan(functions: &[Function]) -> Result<Self, TableError> {
        let mut table = Self::new();
        for function in functions.iter().filter(|function| function.is_iommu()) {
            let segment = function.address.segment;
            if table.ranges.iter().any(|range| range.segment == segment) {
                return Err(TableError::SeveralIommus(segment));
            }
            let iommu = table.add_iommu(IommuLocation::Pci(function.address))?;
            table.add_pci_range(Self::whole(segment, iommu))?;
        }
        Ok(table)
    }

    /// A whole segment, endpoint id = requester id: nothing in it can overflow.
    const fn whole(segment: Segment, iommu: IommuIndex) -> PciRange {
        PciRange {
            segment,
            last_segment: segment,
            buses: BusRange::ALL,
            mask: u16::MAX,
            first: RequesterId(0),
            last: RequesterId(u16::MAX),
            iommu,
            endpoint: EndpointId(0),
        }
    }

    /// Adds an IOMMU and says how to name it in ranges and platform endpoints.
    ///
    /// # Errors
    ///
    /// [`TableError::DuplicateIommu`] if it is listed already, [`TableError::Full`] beyond
    /// [`MAX_IOMMUS`].
    pub fn add_iommu(&mut self, location: IommuLocation) -> Result<IommuIndex, TableError> {
        if self.iommus.contains(&location) {
            return Err(TableError::DuplicateIommu);
        }
        if self.iommus.len() >= MAX_IOMMUS {
            return Err(TableError::Full);
        }
        self.iommus.push(location);
        Ok(IommuIndex(self.iommus.len() - 1))
    }

    /// Adds a range of requester ids.
    ///
    /// # Errors
    ///
    /// [`TableError::Overlap`] if a requester id is in another range already,
    /// [`TableError::UnknownIommu`], or [`TableError::Full`] beyond [`MAX_PCI_RANGES`].
    pub fn add_pci_range(&mut self, range: PciRange) -> Result<(), TableError> {
        if self.ranges.iter().any(|other| other.overlaps(&range)) {
            return Err(TableError::Overlap);
        }
        self.push_range(range)
    }

    /// As [`add_pci_range`](Self::add_pci_range), but firmware may contradict itself: an earlier
    /// range wins where two overlap. Says whether that is the case.
    pub(super) fn add_described_range(&mut self, range: PciRange) -> Result<bool, TableError> {
        let overlap = self.ranges.iter().any(|other| other.overlaps(&range));
        self.push_range(range)?;
        Ok(overlap)
    }

    fn push_range(&mut self, range: PciRange) -> Result<(), TableError> {
        self.known(range.iommu)?;
        if self.ranges.len() >= MAX_PCI_RANGES {
            return Err(TableError::Full);
        }
        self.ranges.push(range);
        Ok(())
    }

    /// Adds an endpoint that is not on PCI.
    ///
    /// # Errors
    ///
    /// [`TableError::UnknownIommu`], or [`TableError::Full`] beyond [`MAX_PLATFORM_ENDPOINTS`].
    pub fn add_platform(&mut self, endpoint: PlatformEndpoint) -> Result<(), TableError> {
        self.known(endpoint.iommu)?;
        if self.platform.len() >= MAX_PLATFORM_ENDPOINTS {
            return Err(TableError::Full);
        }
        self.platform.push(endpoint);
        Ok(())
    }

    fn known(&self, iommu: IommuIndex) -> Result<(), TableError> {
        match self.iommus.get(iommu.0) {
            Some(_) => Ok(()),
            None => Err(TableError::UnknownIommu(iommu)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMMU: IommuLocation = IommuLocation::Pci(PciAddress {
        segment: Segment(0),
        function: RequesterId(0x08),
    });

    fn range(first: u16, last: u16, endpoint: u32) -> Option<PciRange> {
        let (first, last) = (RequesterId(first), RequesterId(last));
        PciRange::new(Segment(0), first, last, IommuIndex(0), EndpointId(endpoint))
    }

    fn behind(endpoint: u32) -> Placement {
        Placement::Behind {
            iommu: IommuIndex(0),
            endpoint: EndpointId(endpoint),
        }
    }

    #[test]
    fn ranges_that_wrap_or_run_backwards_do_not_exist() {
        assert_eq!(range(1, 0, 0), None);
        assert_eq!(range(0, 1, u32::MAX), None);
        assert!(range(0, 0, u32::MAX).is_some());
        let all = range(0, 0xffff, 0).unwrap();
        assert!(all.with_last_segment(Segment(0xffff)).is_some());
        assert!(
            range(0, 0xffff, 1)
                .unwrap()
                .with_last_segment(Segment(0xffff))
                .is_none()
        );
        let late = PciRange::new(
            Segment(2),
            RequesterId(0),
            RequesterId(0),
            IommuIndex(0),
            EndpointId(0),
        );
        assert_eq!(late.unwrap().with_last_segment(Segment(1)), None);
    }

    #[test]
    fn a_range_over_segments_counts_as_viot_does() {
        let range = range(0x100, 0x1ff, 0x1000).unwrap();
        let range = range.with_last_segment(Segment(3)).unwrap();
        let at = |segment, requester| range.endpoint(Segment(segment), RequesterId(requester));
        assert_eq!(at(0, 0x100), Some(EndpointId(0x1000)));
        assert_eq!(at(3, 0x1ff), Some(EndpointId(0x3_10ff)));
        assert_eq!(at(4, 0x100), None);
        assert_eq!(at(0, 0x0ff), None);
        assert_eq!(at(0, 0x200), None);
    }

    #[test]
    fn mask_and_buses_are_applied_to_the_requester_id() {
        let range = range(0, 0xff, 0x40).unwrap().with_mask(0x00f8);
        let range = range.with_buses(BusRange::new(2, 3).unwrap());
        let at = |requester| range.endpoint(Segment(0), RequesterId(requester));
        assert_eq!(at(0x020f), Some(EndpointId(0x48)));
        assert_eq!(at(0x0308), Some(EndpointId(0x48)));
        assert_eq!(at(0x0108), None);
        assert_eq!(at(0x0408), None);
    }

    #[test]
    fn the_iommu_is_not_behind_itself_but_its_neighbours_are() {
        let table = Topology::identity(IOMMU, Segment(0));
        assert_eq!(
            table.pci(Segment(0), RequesterId(0x08)),
            Placement::NotBehind
        );
        assert_eq!(table.pci(Segment(0), RequesterId(0x10)), behind(0x10));
        assert_eq!(table.pci(Segment(0), RequesterId(0xffff)), behind(0xffff));
        assert_eq!(
            table.pci(Segment(1), RequesterId(0x10)),
            Placement::NotBehind
        );
    }

    #[test]
    fn a_table_of_the_kernels_own_is_checked() {
        let mut table = Topology::new();
        let whole = range(0, 0xffff, 0).unwrap();
        let unknown = TableError::UnknownIommu(IommuIndex(0));
        assert_eq!(table.add_pci_range(whole), Err(unknown));
        assert_eq!(table.add_iommu(IOMMU), Ok(IommuIndex(0)));
        assert_eq!(table.add_iommu(IOMMU), Err(TableError::DuplicateIommu));
        assert_eq!(table.add_pci_range(range(0, 7, 0).unwrap()), Ok(()));
        assert_eq!(
            table.add_pci_range(range(7, 8, 0).unwrap()),
            Err(TableError::Overlap)
        );
        assert_eq!(table.add_pci_range(range(8, 9, 0x80).unwrap()), Ok(()));
        assert_eq!(table.pci(Segment(0), RequesterId(7)), behind(7));
        // 8 is the IOMMU itself.
        assert_eq!(table.pci(Segment(0), RequesterId(8)), Placement::NotBehind);
        assert_eq!(table.pci(Segment(0), RequesterId(9)), behind(0x81));
        // Another mask on the same buses could give a requester id a second answer.
        let masked = range(0x100, 0x1ff, 0).unwrap().with_mask(0x01ff);
        assert_eq!(table.add_pci_range(masked), Err(TableError::Overlap));
    }

    #[test]
    fn lists_end() {
        let mut table = Topology::new();
        for index in 0..MAX_IOMMUS as u64 {
            let base = PhysAddr(index << 12);
            table
                .add_iommu(IommuLocation::Mmio { base, size: None })
                .unwrap();
        }
        assert_eq!(table.add_iommu(IOMMU), Err(TableError::Full));
        for id in 0..MAX_PCI_RANGES as u16 {
            table
                .add_pci_range(range(id, id, id.into()).unwrap())
                .unwrap();
        }
        let next = range(0x8000, 0x8000, 0).unwrap();
        assert_eq!(table.add_pci_range(next), Err(TableError::Full));
        let endpoint = PlatformEndpoint {
            node: None,
            base: Some(PhysAddr(0x1000)),
            iommu: IommuIndex(0),
            endpoint: EndpointId(7),
        };
        for _ in 0..MAX_PLATFORM_ENDPOINTS {
            table.add_platform(endpoint.clone()).unwrap();
        }
        assert_eq!(table.add_platform(endpoint), Err(TableError::Full));
    }

    #[test]
    fn platform_devices_are_found_by_base_and_by_node() {
        let mut table = Topology::identity(IOMMU, Segment(0));
        for id in [3, 4] {
            table
                .add_platform(PlatformEndpoint {
                    node: Some("/soc/dma@1000".into()),
                    base: Some(PhysAddr(0x1000)),
                    iommu: IommuIndex(0),
                    endpoint: EndpointId(id),
                })
                .unwrap();
        }
        let ids = |found: Vec<&PlatformEndpoint>| -> Vec<u32> {
            found.iter().map(|endpoint| endpoint.endpoint.0).collect()
        };
        assert_eq!(
            ids(table.platform_at(PhysAddr(0x1000)).collect::<Vec<_>>()),
            [3, 4]
        );
        assert_eq!(
            ids(table.platform_node("/soc/dma@1000").collect::<Vec<_>>()),
            [3, 4]
        );
        assert_eq!(table.platform_at(PhysAddr(0x1001)).count(), 0);
        assert_eq!(table.platform_node("/soc").count(), 0);
    }
}
