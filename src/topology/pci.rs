//! The PCI walk: bus numbers first, then BARs, then the list of functions.
//!
//! [`walk`] works over any [`ConfigurationAccess`] and needs no other part of a kernel. In this
//! order, for one host bridge:
//!
//! 1. **All bridges are numbered**, depth first, before anything behind one is looked at for
//!    another reason. A firmware's numbers are kept if they are consistent as a whole.
//! 2. Each function is listed, with the requester id that an IOMMU above it sees.
//! 3. **BARs are sized** with decoding switched off, and placed where no firmware did it; the
//!    windows of the bridges are programmed to cover them.
//!
//! The walk never switches decoding or bus mastering on: COMMAND is afterwards what it was
//! before. A driver that wants its function calls [`PciTree::enable`], which also enables the
//! bridges above: a DMA from behind a root port only passes if `BUS_MASTER` is set there too.
//!
//! `virtio_drivers`' `PciRoot` and `PciTransport` work over the same access afterwards.
//!
//! Out of scope: hot plug (no spare numbers or addresses are set aside), expansion ROMs (neither
//! placed nor avoided), CardBus, SR-IOV, functions beyond 7 (ARI), and the extended configuration space.

#![forbid(unsafe_code)]

mod bars;
mod bridges;
mod buses;
mod config;
mod function;
mod place;
mod tree;

pub use bridges::Span;
pub use function::{Bar, BarAddress, BarKind, Bridge, BridgeKind, ExpressKind, Function};
pub use tree::{EnableError, PciTree};
pub use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess};

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use self::bars::SizedBar;
use self::config::{Config, Header, INTERRUPT};
use self::place::{BridgeNode, Node, PlacedBar};
use super::{HostBridge, PciAddress, RequesterId, Window, WindowKind};
use crate::address::PhysAddr;

/// The vendor id of virtio devices.
pub const VIRTIO_VENDOR: u16 = 0x1af4;
/// The device id of a virtio-iommu (0x1040 + device type 23; virtio 1.2 §4.1.2).
pub const VIRTIO_IOMMU_DEVICE: u16 = 0x1057;
/// The most functions that one walk lists.
pub const MAX_FUNCTIONS: usize = 1024;
/// The most warnings that one walk keeps; the others are counted.
pub const MAX_WARNINGS: usize = 64;

/// What is wrong with a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarFault {
    /// Reads as all ones.
    AllOnes,
    /// A type that is reserved, or the obsolete one below 1 MiB.
    Type,
    /// The last register says that it is the lower half of a 64-bit one.
    NoUpperHalf,
    /// The writable bits do not describe a power of two that the register could hold.
    NotPowerOfTwo,
    /// No window of the host bridge is as large.
    LargerThanWindow,
    /// What fits had no room left.
    NoRoom,
    /// It did not keep the address that was written.
    NotKept,
}

/// Something that the walk skipped or could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciWarning {
    /// The function.
    pub function: RequesterId,
    /// What about it.
    pub kind: PciWarningKind,
}

/// What a [`PciWarning`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PciWarningKind {
    /// The header type is neither that of a device nor that of a PCI bridge; skipped.
    HeaderType(u8),
    /// The list of capabilities does not end; taken for conventional PCI.
    CyclicCapabilities,
    /// No bus number is left: what is behind the bridge stays out of reach.
    NoBusNumber,
    /// [`MAX_FUNCTIONS`] are listed; this one and all after it are not.
    TooManyFunctions,
    /// A BAR is not usable.
    Bar {
        /// Its number.
        index: u8,
        /// Why.
        fault: BarFault,
    },
    /// The bridge did not keep the windows that were written.
    WindowsNotKept,
}

impl fmt::Display for PciWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.function, self.kind)
    }
}

/// Warnings, up to [`MAX_WARNINGS`].
#[derive(Debug, Default)]
struct Warnings {
    list: Vec<PciWarning>,
    omitted: usize,
}

impl Warnings {
    fn push(&mut self, function: RequesterId, kind: PciWarningKind) {
        if self.list.len() < MAX_WARNINGS {
            self.list.push(PciWarning { function, kind });
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }
}

/// A function while its addresses are still open.
struct Found {
    function: Function,
    /// The index of the bridge above.
    parent: Option<usize>,
    bars: Vec<SizedBar>,
    bridge: Option<BridgeNode>,
}

/// Numbers the buses of a host bridge, places its BARs, and lists its functions in the order of
/// their addresses.
///
/// Bounded: each bus is visited a fixed number of times, whatever the functions on it say. Call it
/// before a driver uses any function (sizing switches decoding off for a moment), and before the
/// IOMMU is asked anything.
pub fn walk<C: ConfigurationAccess>(config: &mut C, host: &HostBridge) -> PciTree {
    let mut config = Config::new(config);
    let mut warnings = Warnings::default();
    buses::number(&mut config, host.buses, &mut warnings);
    let mut found = list(&config, host, &mut warnings);
    for found in &mut found {
        measure(&mut config, found, &mut warnings);
    }
    let mut nodes: Vec<Node> = found
        .iter()
        .map(|found| Node {
            parent: found.parent,
            bars: found
                .bars
                .iter()
                .map(|bar| PlacedBar {
                    bar: *bar,
                    address: None,
                })
                .collect(),
            bridge: found.bridge,
        })
        .collect();
    place::place(&mut nodes, &host.windows);
    let mut functions = Vec::with_capacity(found.len());
    for (found, node) in found.into_iter().zip(nodes) {
        functions.push(program(&mut config, found, node, host, &mut warnings));
    }
    PciTree {
        functions,
        warnings: warnings.list,
        warnings_omitted: warnings.omitted,
    }
}

/// How a bus is reached.
#[derive(Clone, Copy)]
struct Way {
    /// The index of the bridge; none for the root bus.
    bridge: Option<usize>,
    devices: u8,
    /// The requester id that everything here has in common.
    alias: Option<RequesterId>,
}

/// Lists the functions, parents before children: a secondary bus number is always higher than the
/// primary one.
fn list<C: ConfigurationAccess>(
    config: &Config<'_, C>,
    host: &HostBridge,
    warnings: &mut Warnings,
) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    // On the heap: a kernel's stack may be small.
    let mut ways: Vec<Option<Way>> = vec![None; 256];
    let first = host.buses.first();
    if let Some(way) = ways.get_mut(usize::from(first)) {
        *way = Some(Way {
            bridge: None,
            devices: 32,
            alias: None,
        });
    }
    for bus in first..=host.buses.last() {
        let Some(way) = ways.get(usize::from(bus)).copied().flatten() else {
            continue;
        };
        config.for_each_function(bus, way.devices, |id, header| {
            if header.kind > 1 {
                warnings.push(id, PciWarningKind::HeaderType(header.kind));
                return;
            }
            if found.len() >= MAX_FUNCTIONS {
                warnings.push(id, PciWarningKind::TooManyFunctions);
                return;
            }
            let above = way.bridge.and_then(|bridge| found.get(bridge));
            let parent = above.map(|above| above.function.address.function);
            let mut function = describe(config, host, id, header, warnings);
            function.parent = parent;
            function.requester = way.alias.unwrap_or(id);
            if let Some(bridge) = &function.bridge {
                let behind = Way {
                    bridge: Some(found.len()),
                    devices: config.devices_behind(id),
                    // What is hidden already stays hidden behind the same id.
                    alias: way.alias.or(bridge.kind.alias(id, bridge.secondary)),
                };
                let ahead = bridge.secondary > bus && host.buses.contains(bridge.secondary);
                let slot = ways.get_mut(usize::from(bridge.secondary));
                match slot.filter(|slot| ahead && slot.is_none()) {
                    Some(slot) => *slot = Some(behind),
                    None => {
                        // Not reachable: say so in the data, too.
                        if let Some(bridge) = &mut function.bridge {
                            (bridge.secondary, bridge.subordinate) = (0, 0);
                        }
                    }
                }
            }
            found.push(Found {
                function,
                parent: way.bridge,
                bars: Vec::new(),
                bridge: None,
            });
        });
    }
    found
}

/// What the header of a function says.
fn describe<C: ConfigurationAccess>(
    config: &Config<'_, C>,
    host: &HostBridge,
    id: RequesterId,
    header: Header,
    warnings: &mut Warnings,
) -> Function {
    let express = config.express(id).unwrap_or_else(|_| {
        warnings.push(id, PciWarningKind::CyclicCapabilities);
        None
    });
    let bridge = (header.kind == 1).then(|| {
        let [_, secondary, subordinate] = config.bus_numbers(id);
        Bridge {
            kind: BridgeKind::of(express),
            secondary,
            subordinate,
            io: None,
            memory: None,
            prefetchable: None,
        }
    });
    let [class, subclass, prog_if, revision] = header.class;
    let pin = (config.read(id, INTERRUPT) >> 8) as u8;
    Function {
        address: PciAddress {
            segment: host.segment,
            function: id,
        },
        requester: id,
        vendor: header.vendor,
        device: header.device,
        class,
        subclass,
        prog_if,
        revision,
        header_type: header.kind,
        interrupt_pin: if pin <= 4 { pin } else { 0 },
        parent: None,
        express,
        bridge,
        bars: Vec::new(),
        absurd_bars: 0,
    }
}

/// Sizes the BARs and finds out what a bridge can forward.
fn measure<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    found: &mut Found,
    warnings: &mut Warnings,
) {
    let id = found.function.address.function;
    let count = if found.function.bridge.is_some() {
        2
    } else {
        6
    };
    let (bars, faults) = bars::size(config, id, count);
    found.bars = bars;
    for (index, fault) in faults {
        found.function.absurd_bars |= 1 << index;
        warnings.push(id, PciWarningKind::Bar { index, fault });
    }
    if found.function.bridge.is_some() {
        let supports = config.without_decoding(id, |config| bridges::supports(config, id));
        found.bridge = Some(BridgeNode {
            supports,
            windows: bridges::read(config, id, supports),
        });
    }
}

/// Writes what has changed and completes the description.
fn program<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    found: Found,
    node: Node,
    host: &HostBridge,
    warnings: &mut Warnings,
) -> Function {
    let mut function = found.function;
    let id = function.address.function;
    for PlacedBar { bar, address } in node.bars {
        let kept = address.filter(|bus| {
            *bus == bar.current
                || config.without_decoding(id, |config| bars::write(config, id, &bar, *bus))
        });
        if kept.is_none() {
            let fault = match address {
                Some(_) => BarFault::NotKept,
                None => place::refusal(&bar, &host.windows),
            };
            let index = bar.index;
            warnings.push(id, PciWarningKind::Bar { index, fault });
        }
        function.bars.push(Bar {
            index: bar.index,
            kind: bar.kind,
            size: bar.size,
            address: kept.map(|bus| BarAddress {
                bus,
                cpu: cpu_address(&host.windows, bar.kind, bus),
            }),
        });
    }
    if let (Some(bridge), Some(BridgeNode { supports, windows })) =
        (&mut function.bridge, node.bridge)
    {
        let kept =
            config.without_decoding(id, |config| bridges::write(config, id, supports, windows));
        if !kept {
            warnings.push(id, PciWarningKind::WindowsNotKept);
        }
        bridge.io = windows.io;
        bridge.memory = windows.memory;
        bridge.prefetchable = windows.prefetchable;
    }
    function
}

/// Where the CPU finds an address of the PCI side.
fn cpu_address(windows: &[Window], kind: BarKind, bus: u64) -> Option<PhysAddr> {
    windows
        .iter()
        .filter(|window| (window.kind() == WindowKind::Io) == (kind == BarKind::Io))
        .find_map(|window| window.to_cpu(bus))
}
