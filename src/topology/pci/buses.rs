//! Bus numbers: a firmware's are kept if they make sense, else all bridges are numbered anew.
//!
//! Depth first: a bridge gets the next free number as its secondary bus, everything behind it is
//! numbered, and only then is its subordinate number known. Each bus is entered once and each
//! entry uses up a number, so a tree that lies about itself cannot keep the walk busy.

#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::ConfigurationAccess;

use super::config::Config;
use super::{PciWarningKind, Warnings};
use crate::topology::{BusRange, RequesterId};

/// The header type of a bridge to another PCI bus.
const BRIDGE: u8 = 1;

/// Makes all buses below the root bus reachable, as far as the numbers last.
pub(super) fn number<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    buses: BusRange,
    warnings: &mut Warnings,
) {
    if !is_consistent(config, buses) {
        assign(config, buses, warnings);
    }
}

/// The bridges on a bus.
fn bridges<C: ConfigurationAccess>(
    config: &Config<'_, C>,
    bus: u8,
    devices: u8,
) -> Vec<RequesterId> {
    let mut bridges = Vec::new();
    config.for_each_function(bus, devices, |function, header| {
        if header.kind == BRIDGE {
            bridges.push(function);
        }
    });
    bridges
}

/// Whether every bridge has numbers already, nested and disjoint as they must be. Only reads.
fn is_consistent<C: ConfigurationAccess>(config: &Config<'_, C>, buses: BusRange) -> bool {
    // Bus, devices on it, and the highest number that belongs to it. The number of entries is
    // bounded because the ranges of siblings are disjoint and a child's is strictly smaller.
    let mut open = vec![(buses.first(), 32, buses.last())];
    while let Some((bus, devices, limit)) = open.pop() {
        let mut taken: Vec<(u8, u8)> = Vec::new();
        for bridge in bridges(config, bus, devices) {
            let [primary, secondary, subordinate] = config.bus_numbers(bridge);
            let nested = primary == bus
                && bus < secondary
                && secondary <= subordinate
                && subordinate <= limit;
            let disjoint = taken
                .iter()
                .all(|(first, last)| subordinate < *first || *last < secondary);
            if !nested || !disjoint {
                return false;
            }
            taken.push((secondary, subordinate));
            open.push((secondary, config.devices_behind(bridge), subordinate));
        }
    }
    true
}

/// A bus whose bridges are being numbered.
struct Level {
    bus: u8,
    bridges: vec::IntoIter<RequesterId>,
    /// The bridge that leads here; none for the root bus.
    bridge: Option<(RequesterId, u8)>,
}

fn assign<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    buses: BusRange,
    warnings: &mut Warnings,
) {
    let mut last_used = buses.first();
    let mut levels = vec![enter(config, buses.first(), 32, None)];
    while let Some(level) = levels.last_mut() {
        let bus = level.bus;
        if let Some(bridge) = level.bridges.next() {
            if last_used >= buses.last() {
                warnings.push(bridge, PciWarningKind::NoBusNumber);
                continue;
            }
            last_used += 1;
            let secondary = last_used;
            // Open to the end while what is behind it is being numbered.
            config.set_bus_numbers(bridge, [bus, secondary, buses.last()]);
            let devices = config.devices_behind(bridge);
            let behind = enter(config, secondary, devices, Some((bridge, bus)));
            levels.push(behind);
        } else {
            if let Some((bridge, primary)) = level.bridge {
                config.set_bus_numbers(bridge, [primary, bus, last_used]);
            }
            levels.pop();
        }
    }
}

/// Finds the bridges on a bus and closes all of them, so that no stale number answers for a bus
/// that is given to another bridge.
fn enter<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    bus: u8,
    devices: u8,
    bridge: Option<(RequesterId, u8)>,
) -> Level {
    let bridges = bridges(config, bus, devices);
    for bridge in &bridges {
        config.set_bus_numbers(*bridge, [0, 0, 0]);
    }
    Level {
        bus,
        bridges: bridges.into_iter(),
        bridge,
    }
}
