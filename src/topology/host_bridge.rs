//! A PCI host bridge as plain data: what a kernel needs before it can walk the buses behind it.

#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;

use super::Segment;
use crate::address::{PhysAddr, PhysRange};

/// The bus numbers of a host bridge, inclusive at both ends and never inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BusRange {
    first: u8,
    last: u8,
}

impl BusRange {
    /// All 256 buses.
    pub const ALL: Self = Self {
        first: 0,
        last: u8::MAX,
    };

    /// The buses `first..=last`, or `None` if `last < first`.
    #[must_use]
    pub const fn new(first: u8, last: u8) -> Option<Self> {
        if last < first {
            return None;
        }
        Some(Self { first, last })
    }

    /// The root bus.
    #[must_use]
    pub const fn first(&self) -> u8 {
        self.first
    }

    /// The highest bus number that may be given to a bridge.
    #[must_use]
    pub const fn last(&self) -> u8 {
        self.last
    }

    /// Whether `bus` belongs to the bridge.
    #[must_use]
    pub const fn contains(&self, bus: u8) -> bool {
        self.first <= bus && bus <= self.last
    }

    /// Whether the two ranges share a bus.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What a [`Window`] may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowKind {
    /// I/O ports.
    Io,
    /// Memory of any kind.
    Memory,
    /// Prefetchable memory only.
    Prefetchable,
}

/// A stretch of PCI address space that the host bridge forwards.
///
/// It begins at one address on the bus and at another for the CPU; on most machines the two are
/// equal for memory and different for I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    kind: WindowKind,
    bus: u64,
    cpu: PhysAddr,
    size: u64,
}

impl Window {
    /// The `size` bytes at `bus` on the PCI side, which the CPU finds at `cpu`.
    ///
    /// `None` if `size` is 0, if one of the two ends would lie beyond 64 bits, or if an I/O window
    /// ends beyond 32 bits.
    #[must_use]
    pub fn new(kind: WindowKind, bus: u64, cpu: PhysAddr, size: u64) -> Option<Self> {
        let span = size.checked_sub(1)?;
        let last = bus.checked_add(span)?;
        cpu.0.checked_add(span)?;
        if kind == WindowKind::Io && last > u64::from(u32::MAX) {
            return None;
        }
        Some(Self {
            kind,
            bus,
            cpu,
            size,
        })
    }

    /// What the window may hold.
    #[must_use]
    pub const fn kind(&self) -> WindowKind {
        self.kind
    }

    /// The first address, as it is written into a BAR.
    #[must_use]
    pub const fn bus(&self) -> u64 {
        self.bus
    }

    /// The last address on the PCI side, which belongs to the window.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.bus + (self.size - 1)
    }

    /// The physical address at which the CPU finds the first byte.
    #[must_use]
    pub const fn cpu(&self) -> PhysAddr {
        self.cpu
    }

    /// The length in bytes, never 0.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether a 32-bit BAR can hold every address of the window.
    #[must_use]
    pub const fn is_32_bit(&self) -> bool {
        self.last() <= u32::MAX as u64
    }

    /// Whether the `size` bytes at `bus` lie inside; `false` for `size` 0.
    #[must_use]
    pub fn contains(&self, bus: u64, size: u64) -> bool {
        let end = size.checked_sub(1).and_then(|span| bus.checked_add(span));
        end.is_some_and(|end| self.bus <= bus && end <= self.last())
    }

    /// The physical address of an address on the PCI side; `None` outside of the window.
    #[must_use]
    pub fn to_cpu(&self, bus: u64) -> Option<PhysAddr> {
        let offset = bus
            .checked_sub(self.bus)
            .filter(|offset| *offset < self.size)?;
        Some(PhysAddr(self.cpu.0 + offset))
    }
}

/// A PCI host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBridge {
    /// The segment of all its buses.
    pub segment: Segment,
    /// Its buses; the first one is the root bus.
    pub buses: BusRange,
    /// Its configuration space (ECAM, 1 MiB a bus), where it has one.
    ///
    /// The first byte belongs to the *first bus of [`buses`](Self::buses)*, as device trees have
    /// it. A table that counts from bus 0 (ACPI MCFG) must be moved forward accordingly.
    pub ecam: Option<PhysRange>,
    /// What it forwards.
    pub windows: Vec<Window>,
    /// The path of its node in the device tree, where it comes from one.
    pub node: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_wrap_or_are_empty_do_not_exist() {
        let at = |bus, cpu, size| Window::new(WindowKind::Memory, bus, PhysAddr(cpu), size);
        assert_eq!(at(0x1000, 0x1000, 0), None);
        assert_eq!(at(u64::MAX, 0, 2), None);
        assert_eq!(at(0, u64::MAX, 2), None);
        assert!(at(u64::MAX, u64::MAX, 1).is_some());
        assert!(at(0, 0, u64::MAX).is_some());
        assert!(Window::new(WindowKind::Io, 0xffff_0000, PhysAddr(0), 0x1_0000).is_some());
        assert!(Window::new(WindowKind::Io, 0xffff_0000, PhysAddr(0), 0x1_0001).is_none());
    }

    #[test]
    fn the_cpu_side_follows_the_bus_side() {
        let window = Window::new(WindowKind::Io, 0x1000, PhysAddr(0x300_0000), 0x1000).unwrap();
        assert_eq!(window.to_cpu(0xfff), None);
        assert_eq!(window.to_cpu(0x1000), Some(PhysAddr(0x300_0000)));
        assert_eq!(window.to_cpu(0x1fff), Some(PhysAddr(0x300_0fff)));
        assert_eq!(window.to_cpu(0x2000), None);
        assert!(window.contains(0x1fff, 1));
        assert!(!window.contains(0x1fff, 2));
        assert!(!window.contains(0x1fff, 0));
        assert!(!window.contains(u64::MAX, 2));
    }

    #[test]
    fn four_gigabytes_are_the_border() {
        let at = |bus| Window::new(WindowKind::Memory, bus, PhysAddr(0), 0x1000).unwrap();
        assert!(at(0xffff_f000).is_32_bit());
        assert!(!at(0xffff_f001).is_32_bit());
    }

    #[test]
    fn bus_ranges_are_inclusive() {
        assert_eq!(BusRange::new(1, 0), None);
        let range = BusRange::new(0x10, 0x1f).unwrap();
        assert!(range.contains(0x10) && range.contains(0x1f));
        assert!(!range.contains(0x0f) && !range.contains(0x20));
        assert!(range.overlaps(&BusRange::new(0x1f, 0xff).unwrap()));
        assert!(!range.overlaps(&BusRange::new(0x20, 0xff).unwrap()));
    }
}
