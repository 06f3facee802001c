//! Whether what is mapped is what the devices use: each mapping was translated through while it was there, and each
//! translation leads where the mapping says.
//!
//! A device that goes around the IOMMU, by physical addresses, leaves mappings that nobody has ever looked up.

use super::request::{Mapping, Range, u32_of, u64_of};
use super::trace::{Event, Trace};
use std::collections::BTreeMap;

/// What QEMU is told to trace besides: a line for each access of a device to memory that is mapped.
pub const PATTERN: &str = "virtio_iommu_translate_out";

/// What the translations of a run must not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Astray {
    /// A mapping that no device ever used.
    Unused(Range),
    /// A translation of an address that is not mapped for the endpoint.
    Unmapped(u64),
    /// A translation to somewhere else than the mapping says.
    Elsewhere(u64),
    /// A line that cannot be read.
    Unreadable,
}

/// A mapping, and what became of it.
struct Live {
    line: usize,
    mapping: Mapping,
    used: bool,
}

/// What there is at some moment.
#[derive(Default)]
struct Now {
    /// By endpoint.
    domains: BTreeMap<u32, u32>,
    /// By domain and first address.
    mappings: BTreeMap<(u32, u64), Live>,
    findings: Vec<(usize, Astray)>,
}

/// Judges a trace with [`PATTERN`]: the lines and what is wrong there. So many mappings may be unused.
pub fn judge(text: &str, trace: &Trace, unused: usize) -> Vec<(usize, Astray)> {
    let mut now = Now::default();
    let mut events = trace.events.iter().peekable();
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        while let Some((_, event)) = events.next_if(|(at, _)| *at <= line) {
            now.event(line, *event);
        }
        if let Some(rest) = raw.strip_prefix(PATTERN) {
            now.translated(line, rest.trim_start());
        }
    }
    for key in now.mappings.keys().copied().collect::<Vec<_>>() {
        now.end(key);
    }
    let is_unused = |(_, astray): &(usize, Astray)| matches!(astray, Astray::Unused(_));
    if now.findings.iter().filter(|one| is_unused(one)).count() <= unused {
        now.findings.retain(|one| !is_unused(one));
    }
    now.findings.sort_by_key(|(line, _)| *line);
    now.findings
}

impl Now {
    fn event(&mut self, line: usize, event: Event) {
        match event {
            Event::Attach { domain, endpoint } => {
                self.domains.insert(endpoint, domain);
            }
            Event::Left { endpoint, .. } => {
                self.domains.remove(&endpoint);
            }
            Event::Map { domain, mapping } => {
                let live = Live {
                    line,
                    mapping,
                    used: false,
                };
                self.mappings.insert((domain, mapping.range.start), live);
            }
            Event::UnmapDone { domain, range } => self.end((domain, range.start)),
            Event::DomainGone(domain) => {
                let of = |(key, _): (&(u32, u64), _)| (key.0 == domain).then_some(*key);
                for key in self.mappings.iter().filter_map(of).collect::<Vec<_>>() {
                    self.end(key);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, key: (u32, u64)) {
        if let Some(live) = self.mappings.remove(&key).filter(|live| !live.used) {
            self.findings
                .push((live.line, Astray::Unused(live.mapping.range)));
        }
    }

    /// `0x1000 -> 0x80000000 for sid=16`.
    fn translated(&mut self, line: usize, text: &str) {
        let read = || {
            let (from, rest) = text.split_once(" -> ")?;
            let (to, endpoint) = rest.split_once(" for sid=")?;
            Some((u64_of(from)?, u64_of(to)?, u32_of(endpoint)?))
        };
        let Some((from, to, endpoint)) = read() else {
            self.findings.push((line, Astray::Unreadable));
            return;
        };
        let domain = self.domains.get(&endpoint).copied();
        let below = domain.and_then(|domain| {
            let upto = self.mappings.range_mut((domain, 0)..=(domain, from));
            let (_, live) = upto.last()?;
            (from <= live.mapping.range.end).then_some(live)
        });
        let Some(live) = below else {
            self.findings.push((line, Astray::Unmapped(from)));
            return;
        };
        live.used = true;
        if to != live.mapping.phys_start + (from - live.mapping.range.start) {
            self.findings.push((line, Astray::Elsewhere(from)));
        }
    }
}
