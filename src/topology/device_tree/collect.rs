//! The first pass: host bridges, IOMMUs and platform devices, each by itself.

#![forbid(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::node::{Bus, PciBus, Place};
use super::value::{Cells, cell, cells};
use super::warning::{List, Property, WarningKind, Warnings};
use crate::address::{PhysAddr, PhysRange};
use crate::topology::{
    BusRange, HostBridge, MAX_PLATFORM_ENDPOINTS, RequesterId, Segment, Window, WindowKind,
};

/// The most host bridges that are read from a device tree.
pub const MAX_HOST_BRIDGES: usize = 64;
/// The most nodes with `#iommu-cells`, of any kind, that are read from a device tree.
pub const MAX_IOMMU_NODES: usize = 256;
/// The most windows of one host bridge.
pub const MAX_WINDOWS: usize = 16;

/// A host bridge whose segment may not be known yet.
#[derive(Debug)]
pub(super) struct RawBridge<'a> {
    pub(super) path: String,
    /// None if it is disabled or makes no sense.
    pub(super) host: Option<HostBridge>,
    pub(super) segment: Option<Segment>,
    pub(super) iommu_map: Option<&'a [u8]>,
    pub(super) iommu_map_mask: Option<&'a [u8]>,
}

/// A node that calls itself an IOMMU.
#[derive(Debug)]
pub(super) struct RawIommu {
    pub(super) path: String,
    pub(super) phandle: Option<u32>,
    /// The length of its specifiers.
    pub(super) cells: Option<u32>,
    pub(super) kind: RawKind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RawKind {
    /// Not a virtio-iommu.
    Foreign,
    /// Disabled, or skipped with a warning.
    Unusable,
    /// A function on the root bus of the `bridge`-th host bridge.
    Pci {
        bridge: usize,
        function: RequesterId,
    },
    Mmio(PhysRange),
}

/// A platform device with `iommus`.
#[derive(Debug)]
pub(super) struct RawPlatform<'a> {
    pub(super) path: String,
    pub(super) node: Option<String>,
    pub(super) base: Option<PhysAddr>,
    pub(super) iommus: &'a [u8],
}

/// What the first pass finds.
#[derive(Debug, Default)]
pub(super) struct Collector<'a> {
    pub(super) bridges: Vec<RawBridge<'a>>,
    pub(super) iommus: Vec<RawIommu>,
    pub(super) platform: Vec<RawPlatform<'a>>,
    pub(super) warnings: Warnings,
}

impl<'a> Collector<'a> {
    /// Looks at one node; says whether its children are on PCI.
    pub(super) fn visit(&mut self, place: &Place<'_, 'a>) -> Option<PciBus> {
        let properties = &place.properties;
        let on_pci = place.bus().and_then(|bus| bus.pci).is_some();
        let virtio_pci = properties.is_compatible("virtio,pci-iommu")
            || properties.is_compatible("pci1af4,1057");
        if virtio_pci || properties.iommu_cells.is_some() {
            self.iommu(place, virtio_pci);
        }
        if let Some(iommus) = properties.iommus.filter(|_| place.enabled) {
            if on_pci {
                self.warn(place, WarningKind::IommusOnPci);
            } else {
                self.platform_device(place, iommus);
            }
        }
        if !properties.is_pci() {
            return None;
        }
        if on_pci {
            return Some(PciBus::Below);
        }
        if self.bridges.len() >= MAX_HOST_BRIDGES {
            self.warn(place, WarningKind::TooMany(List::HostBridges));
            return Some(PciBus::Below);
        }
        let bridge = self.bridge(place);
        self.bridges.push(bridge);
        Some(PciBus::Root(self.bridges.len() - 1))
    }

    /// The phandles of the IOMMUs, each without a claim so far.
    pub(super) fn claims(&self) -> BTreeMap<u32, usize> {
        let phandles = self.iommus.iter().filter_map(|iommu| iommu.phandle);
        phandles.map(|phandle| (phandle, 0)).collect()
    }

    fn warn(&mut self, place: &Place<'_, 'a>, kind: WarningKind) {
        self.warnings.push(|| place.cut_path(), kind);
    }

    /// `value`, or a warning instead.
    fn or_warn<T>(&mut self, place: &Place<'_, 'a>, value: Result<T, WarningKind>) -> Option<T> {
        value.map_err(|kind| self.warn(place, kind)).ok()
    }

    fn iommu(&mut self, place: &Place<'_, 'a>, virtio_pci: bool) {
        if self.iommus.len() >= MAX_IOMMU_NODES {
            self.warn(place, WarningKind::TooMany(List::Iommus));
            return;
        }
        let properties = &place.properties;
        let phandle = properties.phandle.and_then(|value| {
            let phandle = phandle(value).ok_or(WarningKind::Malformed(Property::Phandle));
            self.or_warn(place, phandle)
        });
        let kind = if !virtio_pci && !properties.is_compatible("virtio,mmio") {
            RawKind::Foreign
        } else if !place.enabled {
            RawKind::Unusable
        } else {
            let kind = specifier_is_one_cell(place).and_then(|()| {
                if virtio_pci {
                    function(place)
                } else {
                    register_block(place).map(RawKind::Mmio)
                }
            });
            self.or_warn(place, kind).unwrap_or(RawKind::Unusable)
        };
        self.iommus.push(RawIommu {
            path: place.cut_path(),
            phandle,
            cells: properties.iommu_cells.and_then(cell),
            kind,
        });
    }

    fn platform_device(&mut self, place: &Place<'_, 'a>, iommus: &'a [u8]) {
        if self.platform.len() >= MAX_PLATFORM_ENDPOINTS {
            self.warn(place, WarningKind::TooMany(List::PlatformEndpoints));
            return;
        }
        // A device without registers is still found by its node.
        let base = match place.properties.reg {
            Some(_) => self.or_warn(place, register_block(place)),
            None => None,
        };
        self.platform.push(RawPlatform {
            path: place.cut_path(),
            node: place.path(),
            base: base.map(|range| range.start()),
            iommus,
        });
    }

    fn bridge(&mut self, place: &Place<'_, 'a>) -> RawBridge<'a> {
        let properties = &place.properties;
        let mut raw = RawBridge {
            path: place.cut_path(),
            host: None,
            segment: None,
            iommu_map: properties.iommu_map,
            iommu_map_mask: properties.iommu_map_mask,
        };
        if !place.enabled {
            return raw;
        }
        let numbers = bridge_numbers(place);
        let Some((mut buses, segment)) = self.or_warn(place, numbers) else {
            return raw;
        };
        let mut ecam = None;
        if properties.is_compatible("pci-host-ecam-generic") {
            ecam = self.or_warn(place, register_block(place));
        }
        if let Some(range) = ecam {
            let count = u64::from(buses.last() - buses.first()) + 1;
            // Inclusive, so that a block of 2^64 bytes does not count as none.
            let size = range.end().0 - range.start().0;
            let room = (size >> 20) + u64::from(size & 0xf_ffff == 0xf_ffff);
            if room < count {
                self.warn(place, WarningKind::ShortConfigurationSpace(room));
                match room.checked_sub(1).and_then(|last| u8::try_from(last).ok()) {
                    Some(last) => {
                        let last = buses.first().saturating_add(last);
                        buses = BusRange::new(buses.first(), last).unwrap_or(buses);
                    }
                    None => ecam = None,
                }
            }
        }
        raw.segment = segment;
        raw.host = Some(HostBridge {
            segment: segment.unwrap_or_default(),
            buses,
            ecam,
            windows: self.windows(place),
            node: place.path(),
        });
        raw
    }

    /// The entries of `ranges`: 3 cells on PCI, the parent's for the CPU, 2 for the size.
    fn windows(&mut self, place: &Place<'_, 'a>) -> Vec<Window> {
        let mut windows = Vec::new();
        let Some(ranges) = place.properties.ranges else {
            self.warn(place, WarningKind::Missing(Property::Ranges));
            return windows;
        };
        let parent = place.bus().map_or(0, |bus| bus.address_cells);
        let entries = cells(ranges).filter(|cells| {
            matches!(parent, 1 | 2) && cells.len().is_multiple_of(5 + parent as usize)
        });
        let Some(mut entries) = entries else {
            self.warn(place, WarningKind::Malformed(Property::Ranges));
            return windows;
        };
        let mut index = 0;
        while !entries.is_empty() {
            if windows.len() >= MAX_WINDOWS {
                self.warn(place, WarningKind::TooMany(List::Windows));
                break;
            }
            let window = window(place, &mut entries, parent, index);
            windows.extend(self.or_warn(place, window));
            index += 1;
        }
        windows
    }
}

/// A phandle that a node may have: 0 and all ones are reserved.
pub(super) fn phandle(value: &[u8]) -> Option<u32> {
    cell(value).filter(|phandle| !matches!(*phandle, 0 | u32::MAX))
}

fn specifier_is_one_cell(place: &Place<'_, '_>) -> Result<(), WarningKind> {
    let value = place.properties.iommu_cells;
    let value = value.ok_or(WarningKind::Missing(Property::IommuCells))?;
    match cell(value) {
        Some(1) => Ok(()),
        Some(count) => Err(WarningKind::IommuCells(count)),
        None => Err(WarningKind::Malformed(Property::IommuCells)),
    }
}

/// A virtio-iommu on PCI: the first entry of `reg` is its place in configuration space.
fn function(place: &Place<'_, '_>) -> Result<RawKind, WarningKind> {
    let malformed = WarningKind::Malformed(Property::Reg);
    let bridge = match place.bus().and_then(|bus| bus.pci) {
        Some(PciBus::Root(bridge)) => bridge,
        Some(PciBus::Below) => return Err(WarningKind::IommuBehindBridge),
        None => return Err(malformed),
    };
    let reg = place.properties.reg;
    let reg = reg.ok_or(WarningKind::Missing(Property::Reg))?;
    let mut cells = cells(reg).ok_or(malformed)?;
    if cells.is_empty() || !cells.len().is_multiple_of(5) {
        return Err(malformed);
    }
    let high = cells.next().ok_or(malformed)?;
    // Configuration space, register 0.
    if high & 0xff00_00ff != 0 {
        return Err(malformed);
    }
    Ok(RawKind::Pci {
        bridge,
        function: RequesterId((high >> 8) as u16),
    })
}

/// The first entry of `reg`, as the CPU sees it.
fn register_block(place: &Place<'_, '_>) -> Result<PhysRange, WarningKind> {
    let malformed = WarningKind::Malformed(Property::Reg);
    let reg = place.properties.reg;
    let reg = reg.ok_or(WarningKind::Missing(Property::Reg))?;
    let Bus {
        address_cells,
        size_cells,
        ..
    } = *place.bus().ok_or(malformed)?;
    if !matches!((address_cells, size_cells), (1 | 2, 1 | 2)) {
        return Err(WarningKind::CellCounts {
            address: address_cells,
            size: size_cells,
        });
    }
    let mut cells = cells(reg).ok_or(malformed)?;
    if !cells
        .len()
        .is_multiple_of((address_cells + size_cells) as usize)
    {
        return Err(malformed);
    }
    let address = cells.number(address_cells).ok_or(malformed)?;
    let size = cells.number(size_cells).ok_or(malformed)?;
    let base = place.to_cpu(address);
    let base = base.ok_or(WarningKind::Untranslatable(Property::Reg))?;
    PhysRange::from_len(PhysAddr(base), size).ok_or(malformed)
}

/// The buses and the segment of a host bridge.
fn bridge_numbers(place: &Place<'_, '_>) -> Result<(BusRange, Option<Segment>), WarningKind> {
    let properties = &place.properties;
    let count = |value: Option<&[u8]>, default| value.map_or(Some(default), cell);
    let address = count(properties.address_cells, 2).unwrap_or(0);
    let size = count(properties.size_cells, 1).unwrap_or(0);
    if (address, size) != (3, 2) {
        return Err(WarningKind::CellCounts { address, size });
    }
    let segment = match properties.pci_domain {
        None => None,
        Some(value) => {
            let segment = cell(value).and_then(|domain| u16::try_from(domain).ok());
            let malformed = WarningKind::Malformed(Property::PciDomain);
            Some(Segment(segment.ok_or(malformed)?))
        }
    };
    let buses = match properties.bus_range {
        None => Some(BusRange::ALL),
        Some(value) => bus_range(value),
    };
    let buses = buses.ok_or(WarningKind::Malformed(Property::BusRange))?;
    Ok((buses, segment))
}

fn bus_range(value: &[u8]) -> Option<BusRange> {
    let mut cells = cells(value).filter(|cells| cells.len() == 2)?;
    let first = u8::try_from(cells.next()?).ok()?;
    let last = u8::try_from(cells.next()?).ok()?;
    BusRange::new(first, last)
}

/// One entry of a host bridge's `ranges`. All of it is read before anything is judged.
fn window(
    place: &Place<'_, '_>,
    entries: &mut Cells<'_>,
    parent: u32,
    index: u32,
) -> Result<Window, WarningKind> {
    let malformed = WarningKind::Malformed(Property::Ranges);
    let high = entries.next().ok_or(malformed)?;
    let bus = entries.number(2).ok_or(malformed)?;
    let cpu = entries.number(parent).ok_or(malformed)?;
    let size = entries.number(2).ok_or(malformed)?;
    let senseless = WarningKind::Window(index);
    let kind = match (high >> 24 & 3, high & 1 << 30 != 0) {
        (0, _) => return Err(senseless),
        (1, _) => WindowKind::Io,
        (_, false) => WindowKind::Memory,
        (_, true) => WindowKind::Prefetchable,
    };
    let cpu = place.to_cpu(cpu);
    let cpu = cpu.ok_or(WarningKind::Untranslatable(Property::Ranges))?;
    let window = Window::new(kind, bus, PhysAddr(cpu), size).ok_or(senseless)?;
    // Memory that calls itself 32-bit.
    if high >> 24 & 3 == 2 && !window.is_32_bit() {
        return Err(senseless);
    }
    Ok(window)
}
