//! The second half: segments are settled, references followed, and the table filled.

#![forbid(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Description;
use super::collect::{Collector, RawBridge, RawIommu, RawKind, RawPlatform, phandle};
use super::node::Place;
use super::value::{cell, cells};
use super::warning::{List, Property, WarningKind, Warnings};
use crate::address::EndpointId;
use crate::topology::{
    HostBridge, IommuIndex, IommuLocation, PciAddress, PciRange, PlatformEndpoint, RequesterId,
    Segment, TableError, Topology,
};

/// Counts the nodes that claim the phandle of an IOMMU.
pub(super) fn count_claim(claims: &mut BTreeMap<u32, usize>, place: &Place<'_, '_>) {
    let phandle = place.properties.phandle.and_then(phandle);
    if let Some(count) = phandle.and_then(|phandle| claims.get_mut(&phandle)) {
        *count += 1;
    }
}

/// An IOMMU as references find it.
#[derive(Clone, Copy, Debug)]
struct Target {
    /// Its place in the table; otherwise why it has none.
    state: State,
    /// The length of a specifier.
    cells: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Listed(IommuIndex),
    Foreign,
    Unusable,
    Ambiguous,
}

struct Resolver {
    table: Topology,
    targets: BTreeMap<u32, Target>,
    warnings: Warnings,
}

/// Turns what was collected into a table.
pub(super) fn resolve(collector: Collector<'_>, claims: &BTreeMap<u32, usize>) -> Description {
    let Collector {
        mut bridges,
        iommus,
        platform,
        mut warnings,
    } = collector;
    settle_segments(&mut bridges, &mut warnings);
    let mut resolver = Resolver {
        table: Topology::new(),
        targets: BTreeMap::new(),
        warnings,
    };
    for iommu in &iommus {
        resolver.iommu(iommu, &bridges, claims);
    }
    for bridge in &bridges {
        if let (Some(host), Some(map)) = (&bridge.host, bridge.iommu_map) {
            resolver.iommu_map(bridge, host, map);
        }
    }
    for device in &platform {
        resolver.platform_device(device);
    }
    let Resolver {
        table, warnings, ..
    } = resolver;
    Description {
        topology: table,
        host_bridges: bridges
            .into_iter()
            .filter_map(|bridge| bridge.host)
            .collect(),
        warnings: warnings.list,
        warnings_omitted: warnings.omitted,
    }
}

/// Gives a segment to the bridges that name none, and drops those whose buses are taken.
fn settle_segments(bridges: &mut [RawBridge<'_>], warnings: &mut Warnings) {
    let mut taken: Vec<Segment> = bridges.iter().filter_map(|bridge| bridge.segment).collect();
    let mut owners = Vec::new();
    for bridge in bridges {
        let Some(mut host) = bridge.host.take() else {
            continue;
        };
        if bridge.segment.is_none() {
            let free = (0..=u16::MAX).map(Segment);
            // There are fewer bridges than segments.
            host.segment = free
                .into_iter()
                .find(|segment| !taken.contains(segment))
                .unwrap_or_default();
            taken.push(host.segment);
        }
        let claim = (host.segment, host.buses);
        if owners
            .iter()
            .any(|(segment, buses)| *segment == claim.0 && claim.1.overlaps(buses))
        {
            warnings.push(|| bridge.path.clone(), WarningKind::BusesTaken);
            continue;
        }
        owners.push(claim);
        bridge.host = Some(host);
    }
}

impl Resolver {
    /// Enters an IOMMU into the table, if it is one, and makes it known to references.
    fn iommu(
        &mut self,
        iommu: &RawIommu,
        bridges: &[RawBridge<'_>],
        claims: &BTreeMap<u32, usize>,
    ) {
        let state = match iommu.kind {
            RawKind::Foreign => State::Foreign,
            RawKind::Unusable => State::Unusable,
            RawKind::Pci { bridge, function } => {
                let host = bridges.get(bridge).and_then(|bridge| bridge.host.as_ref());
                match host {
                    // The bridge has a warning of its own.
                    None => State::Unusable,
                    Some(host) if host.buses.contains(function.bus()) => {
                        let segment = host.segment;
                        let address = PciAddress { segment, function };
                        self.list(iommu, IommuLocation::Pci(address))
                    }
                    Some(_) => {
                        self.warn(&iommu.path, WarningKind::Malformed(Property::Reg));
                        State::Unusable
                    }
                }
            }
            RawKind::Mmio(range) => {
                let base = range.start();
                let size = range.len();
                self.list(iommu, IommuLocation::Mmio { base, size })
            }
        };
        let Some(phandle) = iommu.phandle else {
            return;
        };
        let unique = claims.get(&phandle).is_none_or(|count| *count <= 1);
        let target = Target {
            state: if unique { state } else { State::Ambiguous },
            cells: iommu.cells,
        };
        self.targets.insert(phandle, target);
    }

    fn list(&mut self, iommu: &RawIommu, location: IommuLocation) -> State {
        let kind = match self.table.add_iommu(location) {
            Ok(index) => return State::Listed(index),
            Err(TableError::Full) => WarningKind::TooMany(List::Iommus),
            // Two nodes for the same registers.
            Err(_) => WarningKind::Malformed(Property::Reg),
        };
        self.warn(&iommu.path, kind);
        State::Unusable
    }

    fn warn(&mut self, path: &str, kind: WarningKind) {
        self.warnings.push(|| path.into(), kind);
    }

    fn target(&self, phandle: u32) -> Result<IommuIndex, WarningKind> {
        match self.targets.get(&phandle).map(|target| target.state) {
            Some(State::Listed(index)) => Ok(index),
            Some(State::Foreign) => Err(WarningKind::ForeignIommu(phandle)),
            Some(State::Unusable) => Err(WarningKind::UnusableIommu(phandle)),
            Some(State::Ambiguous) => Err(WarningKind::DuplicatePhandle(phandle)),
            None => Err(WarningKind::DanglingPhandle(phandle)),
        }
    }

    /// Enters the tuples of an `iommu-map`.
    fn iommu_map(&mut self, bridge: &RawBridge<'_>, host: &HostBridge, map: &[u8]) {
        let Some(mask) = bridge.iommu_map_mask.map_or(Some(u32::MAX), cell) else {
            let kind = WarningKind::Malformed(Property::IommuMapMask);
            return self.warn(&bridge.path, kind);
        };
        let whole = cells(map).filter(|cells| cells.len().is_multiple_of(4));
        let Some(mut cells) = whole else {
            let kind = WarningKind::Malformed(Property::IommuMap);
            return self.warn(&bridge.path, kind);
        };
        while let (Some(first), Some(phandle), Some(endpoint), Some(length)) =
            (cells.next(), cells.next(), cells.next(), cells.next())
        {
            let tuple = Tuple {
                first,
                length,
                endpoint,
                mask,
            };
            let range = self
                .target(phandle)
                .and_then(|iommu| tuple.range(host, iommu));
            let (range, cut) = match range {
                Ok(range) => range,
                Err(kind) => {
                    self.warn(&bridge.path, kind);
                    continue;
                }
            };
            if cut {
                let kind = WarningKind::TooManyRequesters { first, length };
                self.warn(&bridge.path, kind);
            }
            match self.table.add_described_range(range) {
                Ok(false) => {}
                Ok(true) => self.warn(&bridge.path, WarningKind::OverlappingTuple { first }),
                Err(_) => {
                    self.warn(&bridge.path, WarningKind::TooMany(List::Tuples));
                    return;
                }
            }
        }
    }

    /// Enters the endpoint ids of a platform device: references, each followed by as many cells
    /// as its target says. Behind one that leads nowhere, nothing can be read.
    fn platform_device(&mut self, device: &RawPlatform<'_>) {
        let malformed = WarningKind::Malformed(Property::Iommus);
        let Some(mut cells) = cells(device.iommus) else {
            return self.warn(&device.path, malformed);
        };
        while let Some(phandle) = cells.next() {
            let Some(target) = self.targets.get(&phandle).copied() else {
                return self.warn(&device.path, WarningKind::DanglingPhandle(phandle));
            };
            let mut specifier = cells;
            if target.cells.and_then(|count| cells.skip(count)).is_none() {
                return self.warn(&device.path, malformed);
            }
            let iommu = match self.target(phandle) {
                Ok(iommu) => iommu,
                Err(kind) => {
                    self.warn(&device.path, kind);
                    continue;
                }
            };
            // One cell, or the IOMMU would not be listed.
            let Some(endpoint) = specifier.next() else {
                return self.warn(&device.path, malformed);
            };
            let entry = PlatformEndpoint {
                node: device.node.clone(),
                base: device.base,
                iommu,
                endpoint: EndpointId(endpoint),
            };
            if self.table.add_platform(entry).is_err() {
                let kind = WarningKind::TooMany(List::PlatformEndpoints);
                return self.warn(&device.path, kind);
            }
        }
    }
}

/// A tuple of `iommu-map` without its reference.
struct Tuple {
    first: u32,
    length: u32,
    endpoint: u32,
    mask: u32,
}

impl Tuple {
    /// The range that it describes, and whether its end had to be cut.
    fn range(&self, host: &HostBridge, iommu: IommuIndex) -> Result<(PciRange, bool), WarningKind> {
        let (first, length) = (self.first, self.length);
        if length == 0 {
            return Err(WarningKind::EmptyTuple { first });
        }
        let nowhere = WarningKind::NoSuchRequesters { first, length };
        let start = u16::try_from(first).map_err(|_| nowhere)?;
        let last = first.checked_add(length - 1).ok_or(nowhere)?;
        if first & !self.mask != 0 {
            return Err(WarningKind::MaskedOut { first });
        }
        let end = u16::try_from(last);
        let range = PciRange::new(
            host.segment,
            RequesterId(start),
            RequesterId(end.unwrap_or(u16::MAX)),
            iommu,
            EndpointId(self.endpoint),
        );
        let range = range.ok_or(WarningKind::EndpointsWrap(self.endpoint))?;
        let range = range.with_buses(host.buses).with_mask(self.mask as u16);
        Ok((range, end.is_err()))
    }
}
