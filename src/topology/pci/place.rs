//! Where BARs and bridge windows go: arithmetic only, nothing here touches a device.
//!
//! What a firmware placed is kept if it makes sense: inside the window above it and clear of its
//! neighbours. The rest is placed by natural alignment, the most aligned first, into what is
//! free; a bridge that has no window yet asks its bus for one large enough for everything behind
//! it. Where not everything fits, the largest BARs stay without an address.

#![forbid(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::bars::SizedBar;
use super::bridges::{Span, Supports, Windows};
use super::{BarFault, BarKind};
use crate::topology::{Window, WindowKind};

/// A function as far as addresses are concerned.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The index of the bridge above, always lower than the node's own; none on the root bus.
    pub(super) parent: Option<usize>,
    pub(super) bars: Vec<PlacedBar>,
    pub(super) bridge: Option<BridgeNode>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedBar {
    pub(super) bar: SizedBar,
    pub(super) address: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BridgeNode {
    pub(super) supports: Supports,
    /// What the registers say on entry, what they are to say on return.
    pub(super) windows: Windows,
}

/// The three windows of a bridge, and what the host bridge has for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Io,
    /// Below 4 GiB, by way of the bridges' memory windows.
    Low,
    /// Beyond 4 GiB, by way of the bridges' prefetchable windows.
    High,
}

impl Space {
    /// The granule of a bridge's window, in bytes.
    const fn granule(self) -> u64 {
        match self {
            Self::Io => 0x1000,
            Self::Low | Self::High => 0x10_0000,
        }
    }

    /// What a BAR takes up: no two functions share a page of memory.
    fn footprint(self, size: u64) -> u64 {
        match self {
            Self::Io => size.max(4),
            Self::Low | Self::High => size.max(0x1000),
        }
    }
}

impl Windows {
    fn get(&self, space: Space) -> Option<Span> {
        match space {
            Space::Io => self.io,
            Space::Low => self.memory,
            Space::High => self.prefetchable,
        }
    }

    fn set(&mut self, space: Space, span: Span) {
        match space {
            Space::Io => self.io = Some(span),
            Space::Low => self.memory = Some(span),
            Space::High => self.prefetchable = Some(span),
        }
    }
}

/// Spans in use on one bus: first address to last address, disjoint.
#[derive(Clone, Debug, Default)]
struct Used(BTreeMap<u64, u64>);

impl Used {
    /// Takes `span` unless a part of it is taken already.
    fn insert(&mut self, span: Span) -> bool {
        let before = self.0.range(..=span.last).next_back();
        if before.is_some_and(|(_, last)| *last >= span.first) {
            return false;
        }
        self.0.insert(span.first, span.last);
        true
    }

    /// What is free within `span`, in order.
    fn gaps(&self, span: Span) -> Vec<Span> {
        let mut gaps = Vec::new();
        let mut next = span.first;
        for (&first, &last) in self.0.range(..=span.last) {
            if last < next {
                continue;
            }
            if next < first {
                let last = first - 1;
                gaps.push(Span { first: next, last });
            }
            match last.checked_add(1) {
                Some(after) => next = after,
                None => return gaps,
            }
        }
        if next <= span.last {
            let last = span.last;
            gaps.push(Span { first: next, last });
        }
        gaps
    }
}

/// The bus that a key of [`Placer::memory`] and [`Placer::io`] names: the root bus, or the one
/// behind a bridge.
type Bus = Option<usize>;

struct Placer<'a> {
    nodes: &'a mut [Node],
    windows: &'a [Window],
    memory: BTreeMap<Bus, Used>,
    io: BTreeMap<Bus, Used>,
}

/// Gives an address to every BAR and a window to every bridge, as far as there is room.
pub(super) fn place(nodes: &mut [Node], windows: &[Window]) {
    let mut placer = Placer {
        nodes,
        windows,
        memory: BTreeMap::new(),
        io: BTreeMap::new(),
    };
    placer.keep();
    for space in [Space::Io, Space::Low, Space::High] {
        placer.fill(space);
    }
}

/// Why a BAR was left without an address.
pub(super) fn refusal(bar: &SizedBar, windows: &[Window]) -> BarFault {
    let largest = [Space::Io, Space::Low, Space::High]
        .into_iter()
        .filter(|space| suits(bar.kind, *space))
        .filter_map(|space| root(windows, space))
        .map(|(span, _)| span.last - span.first)
        .max();
    if largest.is_some_and(|largest| bar.size - 1 > largest) {
        BarFault::LargerThanWindow
    } else {
        BarFault::NoRoom
    }
}

/// Whether a BAR of this kind can hold an address of this space.
fn suits(kind: BarKind, space: Space) -> bool {
    match space {
        Space::Io => kind == BarKind::Io,
        Space::Low => kind != BarKind::Io,
        Space::High => matches!(kind, BarKind::Memory64 { .. }),
    }
}

/// The part of the host bridge's windows that new addresses of a space come from: the largest
/// window of the kind. The first granule is left out where it is the one at address 0, which
/// reads as "not assigned".
fn root(windows: &[Window], space: Space) -> Option<(Span, WindowKind)> {
    let suitable = windows.iter().filter(|window| match space {
        // Without the upper halves, which bridges may lack.
        Space::Io => window.kind() == WindowKind::Io && window.bus() <= 0xffff,
        Space::Low => window.kind() != WindowKind::Io && window.is_32_bit(),
        Space::High => window.kind() != WindowKind::Io && !window.is_32_bit(),
    });
    let largest = suitable.max_by_key(|window| {
        let any_memory = window.kind() != WindowKind::Prefetchable;
        (any_memory, window.size(), Reverse(window.bus()))
    })?;
    let first = largest.bus().max(space.granule());
    let last = match space {
        Space::Io => largest.last().min(0xffff),
        Space::Low | Space::High => largest.last(),
    };
    (first <= last).then_some((Span { first, last }, largest.kind()))
}

impl Placer<'_> {
    fn used(&mut self, bus: Bus, io: bool) -> &mut Used {
        let map = if io { &mut self.io } else { &mut self.memory };
        map.entry(bus).or_default()
    }

    /// Keeps what a firmware placed, parents before children; forgets the rest.
    fn keep(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(node) = self.nodes.get(index) else {
                return;
            };
            let mut node = node.clone();
            if let Some(bridge) = &mut node.bridge {
                let old = bridge.windows;
                let memory = BarKind::Memory32 {
                    prefetchable: false,
                };
                let prefetchable = BarKind::Memory64 { prefetchable: true };
                bridge.windows = Windows {
                    io: self.kept(node.parent, BarKind::Io, old.io),
                    memory: self.kept(node.parent, memory, old.memory),
                    prefetchable: self.kept(node.parent, prefetchable, old.prefetchable),
                };
            }
            for placed in &mut node.bars {
                let bar = &placed.bar;
                let span = Span::from_size(bar.current, bar.size);
                let span = span.filter(|span| span.first != 0 && span.first % bar.size == 0);
                placed.address = self
                    .kept(node.parent, bar.kind, span)
                    .map(|span| span.first);
            }
            if let Some(slot) = self.nodes.get_mut(index) {
                *slot = node;
            }
        }
    }

    /// `span`, if the bus can reach it and nobody else is there; it then is in use.
    fn kept(&mut self, bus: Bus, kind: BarKind, span: Option<Span>) -> Option<Span> {
        let span = span.filter(|span| self.reaches(bus, kind, span))?;
        self.used(bus, kind == BarKind::Io)
            .insert(span)
            .then_some(span)
    }

    /// Whether an access to `span` arrives on `bus`.
    fn reaches(&self, bus: Bus, kind: BarKind, span: &Span) -> bool {
        let Some(bridge) = bus else {
            let mut same = self
                .windows
                .iter()
                .filter(|window| (window.kind() == WindowKind::Io) == (kind == BarKind::Io))
                .peekable();
            // Nobody said what the host bridge forwards: the firmware is believed.
            return same.peek().is_none()
                || same.any(|window| {
                    let window_span = Span {
                        first: window.bus(),
                        last: window.last(),
                    };
                    window_span.contains(span) && accepts(window.kind(), kind)
                });
        };
        let Some(windows) = self.bridge(bridge).map(|bridge| bridge.windows) else {
            return false;
        };
        let inside = |window: Option<Span>| window.is_some_and(|window| window.contains(span));
        match kind {
            BarKind::Io => inside(windows.io),
            _ => inside(windows.memory) || (kind.is_prefetchable() && inside(windows.prefetchable)),
        }
    }

    fn bridge(&self, index: usize) -> Option<&BridgeNode> {
        self.nodes.get(index)?.bridge.as_ref()
    }

    /// The bus whose free space a BAR below `bus` comes from: the closest one with an open window,
    /// past bridges that can still get one.
    fn container(&self, mut bus: Bus, kind: BarKind, space: Space) -> Option<Bus> {
        if !suits(kind, space) {
            return None;
        }
        if bus.is_some() && space == Space::High && !kind.is_prefetchable() {
            return None;
        }
        while let Some(index) = bus {
            let bridge = self.bridge(index)?;
            if bridge.windows.get(space).is_some() {
                return Some(bus);
            }
            let can_open = match space {
                Space::Io => bridge.supports.io,
                Space::Low => true,
                Space::High => bridge.supports.prefetchable && bridge.supports.prefetchable_64,
            };
            if !can_open {
                return None;
            }
            let above = self.nodes.get(index)?.parent;
            // Parents come first; anything else would be a loop.
            if above.is_some_and(|above| above >= index) {
                return None;
            }
            bus = above;
        }
        let (_, window) = root(self.windows, space)?;
        accepts(window, kind).then_some(None)
    }

    fn span(&self, bus: Bus, space: Space) -> Option<Span> {
        match bus {
            None => root(self.windows, space).map(|(span, _)| span),
            Some(index) => self.bridge(index)?.windows.get(space),
        }
    }

    /// Places what has no address yet and belongs into `space`.
    fn fill(&mut self, space: Space) {
        let mut groups: BTreeMap<Bus, Vec<Wanted>> = BTreeMap::new();
        for (node, owner) in self.nodes.iter().enumerate() {
            for (bar, placed) in owner.bars.iter().enumerate() {
                if placed.address.is_some() {
                    continue;
                }
                let kind = placed.bar.kind;
                let Some(container) = self.container(owner.parent, kind, space) else {
                    continue;
                };
                let second_chance = space == Space::Low
                    && self.container(owner.parent, kind, Space::High).is_some();
                groups.entry(container).or_default().push(Wanted {
                    node,
                    bar,
                    bus: owner.parent,
                    size: space.footprint(placed.bar.size),
                    second_chance,
                });
            }
        }
        for (container, mut wanted) in groups {
            wanted.sort_by_key(|wanted| (wanted.second_chance, wanted.size));
            self.fill_group(container, space, &wanted);
        }
    }

    /// Places as many of `wanted` as fit, in their order.
    fn fill_group(&mut self, container: Bus, space: Space, wanted: &[Wanted]) {
        let Some(span) = self.span(container, space) else {
            return;
        };
        let gaps = self.used(container, space == Space::Io).gaps(span);
        let attempt = |count: usize| {
            let wanted = wanted.get(..count)?;
            self.attempt(container, space, &gaps, wanted)
        };
        // The largest number that fits, by bisection: everything is the usual case.
        let mut best = attempt(wanted.len());
        if best.is_none() {
            let (mut fits, mut too_many) = (0, wanted.len());
            while too_many - fits > 1 {
                let middle = fits + (too_many - fits) / 2;
                match attempt(middle) {
                    Some(grants) => {
                        best = Some(grants);
                        fits = middle;
                    }
                    None => too_many = middle,
                }
            }
        }
        for grant in best.into_iter().flatten() {
            self.apply(container, space, grant);
        }
    }

    fn apply(&mut self, container: Bus, space: Space, grant: Grant) {
        let node = match grant.piece {
            Piece::Bar(node, bar) => {
                let slot = self
                    .nodes
                    .get_mut(node)
                    .and_then(|node| Some((node.parent, node.bars.get_mut(bar)?)));
                slot.map(|(parent, placed)| {
                    placed.address = Some(grant.span.first);
                    parent
                })
            }
            Piece::Bridge(node) => {
                let slot = self
                    .nodes
                    .get_mut(node)
                    .and_then(|node| Some((node.parent, node.bridge.as_mut()?)));
                slot.map(|(parent, bridge)| {
                    bridge.windows.set(space, grant.span);
                    parent
                })
            }
        };
        if node == Some(container) {
            self.used(container, space == Space::Io).insert(grant.span);
        }
    }

    /// Packs the closed bridges below `container` from the leaves upwards, then looks for room for
    /// what arrives at the container itself. All or nothing.
    fn attempt(
        &self,
        container: Bus,
        space: Space,
        gaps: &[Span],
        wanted: &[Wanted],
    ) -> Option<Vec<Grant>> {
        let mut buses: BTreeMap<Bus, Vec<Request>> = BTreeMap::new();
        for wanted in wanted {
            buses.entry(wanted.bus).or_default().push(Request {
                piece: Piece::Bar(wanted.node, wanted.bar),
                size: wanted.size,
                align: wanted.size,
            });
        }
        let mut packed: BTreeMap<usize, Layout> = BTreeMap::new();
        // Deepest bridges have the highest indices.
        while let Some((bus, mut requests)) = buses.pop_last() {
            requests.sort_by_key(|request| Reverse((request.align, request.size)));
            let Some(bridge) = bus.filter(|_| bus != container) else {
                return settle(gaps, requests, &mut packed);
            };
            let (size, align, layout) = pack(requests, space.granule())?;
            packed.insert(bridge, layout);
            let above = self.nodes.get(bridge)?.parent;
            buses.entry(above).or_default().push(Request {
                piece: Piece::Bridge(bridge),
                size,
                align,
            });
        }
        Some(Vec::new())
    }
}

/// Whether a window of the host bridge may hold a BAR.
fn accepts(window: WindowKind, bar: BarKind) -> bool {
    match window {
        WindowKind::Io => bar == BarKind::Io,
        WindowKind::Memory => bar != BarKind::Io,
        WindowKind::Prefetchable => bar.is_prefetchable(),
    }
}

/// A BAR without an address.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    node: usize,
    bar: usize,
    bus: Bus,
    size: u64,
    /// It may still go beyond 4 GiB.
    second_chance: bool,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    Bar(usize, usize),
    Bridge(usize),
}

/// What needs room on a bus.
#[derive(Clone, Copy, Debug)]
struct Request {
    piece: Piece,
    size: u64,
    /// A power of two.
    align: u64,
}

/// What is in the window of a bridge, by offset.
type Layout = Vec<(Request, u64)>;

#[derive(Clone, Copy, Debug)]
struct Grant {
    piece: Piece,
    span: Span,
}

/// One behind the other, the most aligned first: size and alignment of the whole, and offsets.
fn pack(requests: Vec<Request>, granule: u64) -> Option<(u64, u64, Layout)> {
    let align = requests.first()?.align.max(granule);
    let mut layout = Vec::with_capacity(requests.len());
    let mut end = 0;
    for request in requests {
        let offset = crate::address::align_up(end, request.align)?;
        end = offset.checked_add(request.size)?;
        layout.push((request, offset));
    }
    Some((crate::address::align_up(end, granule)?, align, layout))
}

/// First fit for each request, then the addresses of everything inside of the bridges.
fn settle(
    gaps: &[Span],
    requests: Vec<Request>,
    packed: &mut BTreeMap<usize, Layout>,
) -> Option<Vec<Grant>> {
    let mut gaps = gaps.to_vec();
    let mut grants = Vec::new();
    let mut inside = vec![];
    for request in requests {
        let span = take(&mut gaps, request.size, request.align)?;
        inside.push((request.piece, span));
    }
    while let Some((piece, span)) = inside.pop() {
        grants.push(Grant { piece, span });
        let Piece::Bridge(bridge) = piece else {
            continue;
        };
        for (request, offset) in packed.remove(&bridge).unwrap_or_default() {
            let first = span.first.checked_add(offset)?;
            inside.push((request.piece, Span::from_size(first, request.size)?));
        }
    }
    Some(grants)
}

/// Cuts `size` bytes at a multiple of `align` out of the first gap that has them.
fn take(gaps: &mut Vec<Span>, size: u64, align: u64) -> Option<Span> {
    let fit = |gap: &Span| {
        let first = crate::address::align_up(gap.first, align)?;
        Span::from_size(first, size).filter(|span| gap.contains(span))
    };
    let (index, span) = gaps
        .iter()
        .enumerate()
        .find_map(|(index, gap)| Some((index, fit(gap)?)))?;
    let gap = gaps.remove(index);
    // The part behind first, so that the part before ends up in front of it.
    if span.last < gap.last {
        let first = span.last + 1;
        gaps.insert(
            index,
            Span {
                first,
                last: gap.last,
            },
        );
    }
    if gap.first < span.first {
        let last = span.first - 1;
        gaps.insert(
            index,
            Span {
                first: gap.first,
                last,
            },
        );
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::PhysAddr;

    fn span(first: u64, last: u64) -> Span {
        Span { first, last }
    }

    #[test]
    fn gaps_are_what_is_left() {
        let mut used = Used::default();
        assert!(used.insert(span(0x10, 0x1f)));
        assert!(used.insert(span(0x30, 0x3f)));
        assert!(!used.insert(span(0x1f, 0x2f)));
        assert!(!used.insert(span(0x00, 0x10)));
        assert!(!used.insert(span(0x00, 0xff)));
        assert!(!used.insert(span(0x35, 0x36)));
        assert!(used.insert(span(u64::MAX, u64::MAX)));
        let all = [span(0, 0xf), span(0x20, 0x2f), span(0x40, u64::MAX - 1)];
        assert_eq!(used.gaps(span(0, u64::MAX)), all);
        assert_eq!(used.gaps(span(0x18, 0x2f)), [span(0x20, 0x2f)]);
        assert_eq!(used.gaps(span(0x12, 0x1e)), []);
        assert_eq!(used.gaps(span(0x22, 0x24)), [span(0x22, 0x24)]);
    }

    #[test]
    fn a_gap_is_cut_on_both_sides() {
        let mut gaps = vec![span(0x100, 0x1ff), span(0x1100, 0x4fff)];
        assert_eq!(take(&mut gaps, 0x1000, 0x1000), Some(span(0x2000, 0x2fff)));
        let rest = [
            span(0x100, 0x1ff),
            span(0x1100, 0x1fff),
            span(0x3000, 0x4fff),
        ];
        assert_eq!(gaps, rest);
        assert_eq!(take(&mut gaps, 0x4000, 0x1000), None);
        assert_eq!(take(&mut gaps, 0x100, 0x100), Some(span(0x100, 0x1ff)));
        assert_eq!(gaps, rest[1..]);
        let mut end = vec![span(u64::MAX - 1, u64::MAX)];
        assert_eq!(take(&mut end, 2, 2), Some(span(u64::MAX - 1, u64::MAX)));
        assert_eq!(take(&mut vec![span(u64::MAX, u64::MAX)], 1, 2), None);
    }

    #[test]
    fn an_address_that_is_not_aligned_is_no_address() {
        let kind = BarKind::Memory32 {
            prefetchable: false,
        };
        let bar = SizedBar {
            index: 0,
            kind,
            size: 0x10_0000,
            current: 0x4008_0000,
        };
        let mut nodes = [Node {
            parent: None,
            bars: vec![PlacedBar { bar, address: None }],
            bridge: None,
        }];
        let window = Window::new(WindowKind::Memory, 0x4000_0000, PhysAddr(0), 0x100_0000);
        place(&mut nodes, &[window.unwrap()]);
        assert_eq!(nodes[0].bars[0].address, Some(0x4000_0000));
    }

    #[test]
    fn parents_that_do_not_come_first_lead_nowhere() {
        let bridge = BridgeNode {
            supports: Supports::default(),
            windows: Windows::default(),
        };
        let bar = SizedBar {
            index: 0,
            kind: BarKind::Memory32 {
                prefetchable: false,
            },
            size: 0x1000,
            current: 0,
        };
        let node = |parent| Node {
            parent,
            bars: vec![PlacedBar { bar, address: None }],
            bridge: Some(bridge),
        };
        // In a circle, and beyond the list.
        let mut nodes = [node(Some(1)), node(Some(0)), node(Some(9))];
        let window = Window::new(WindowKind::Memory, 0x4000_0000, PhysAddr(0), 0x100_0000);
        place(&mut nodes, &[window.unwrap()]);
        for node in &nodes {
            assert_eq!(node.bars[0].address, None);
        }
    }
}
