//! The comparison of QEMU's trace with the guest's own record, in order and operand by operand.
//!
//! Requests of one CPU are in order; between CPUs there is no order but the device's, see [`order`].

use super::book::{Book, Outcome};
use super::expect::Expect;
use super::finding::{Finding, Rule};
use super::order;
use super::request::{Body, Mapping, Range, Request, Status};
use super::trace::{Config, Event, Trace};
use std::collections::BTreeSet;

/// Compares a trace with the guest's record.
///
/// Stops at the first disagreement: what follows it means nothing.
pub fn audit(trace: &Trace, guest: &[(usize, Request)], expect: &Expect) -> Vec<Finding> {
    if !expect.iommu {
        let silent = trace.events.is_empty() && guest.is_empty();
        return if silent {
            vec![]
        } else {
            vec![Finding::Absent]
        };
    }
    let guest = order::merge(trace, guest);
    let mut auditor = Auditor {
        guest: &guest,
        locks_bypass: expect.locks_bypass,
        pass_through: expect.pass_through,
        together: expect.together,
        tells_leaves: expect.tells_leaves,
        config: trace.config(),
        device: trace.iommu(),
        ..Auditor::default()
    };
    if auditor.device.is_none() {
        return vec![Finding::Absent];
    }
    let walked = auditor.walk(&steps(trace));
    let mut findings = std::mem::take(&mut auditor.findings);
    if let Err(finding) = walked {
        findings.push(*finding);
        return findings;
    }
    auditor.leftovers(expect, &mut findings);
    findings.extend(super::tally::tally(trace, &guest, expect));
    findings
}

/// A part of the trace that belongs together.
enum Step {
    /// A request with the lines that are its consequences.
    Request(usize, Event, Vec<Event>),
    /// The regions that one PROBE reported.
    Probe(usize, u32, Vec<(u32, Range)>),
    /// Anything else.
    Other(usize, Event),
}

fn steps(trace: &Trace) -> Vec<Step> {
    let mut steps = Vec::new();
    for (line, event) in &trace.events {
        match *event {
            Event::Attach { .. }
            | Event::Detach { .. }
            | Event::Map { .. }
            | Event::Unmap { .. }
            | Event::Cleared => steps.push(Step::Request(*line, *event, Vec::new())),
            Event::Left { .. }
            | Event::UnmapDone { .. }
            | Event::EndpointMade(_)
            | Event::EndpointGone(_)
            | Event::DomainMade(_)
            | Event::DomainGone(_) => match steps.last_mut() {
                Some(Step::Request(_, _, effects)) => effects.push(*event),
                _ => steps.push(Step::Other(*line, *event)),
            },
            Event::Reserved {
                endpoint,
                subtype,
                range,
            } => match steps.last_mut() {
                // The same region again is the next PROBE.
                Some(Step::Probe(_, of, regions))
                    if *of == endpoint && !regions.contains(&(subtype, range)) =>
                {
                    regions.push((subtype, range));
                }
                _ => steps.push(Step::Probe(*line, endpoint, vec![(subtype, range)])),
            },
            other => steps.push(Step::Other(*line, other)),
        }
    }
    steps
}

#[derive(Default)]
struct Auditor<'a> {
    guest: &'a [(usize, Request)],
    config: Option<Config>,
    device: Option<u64>,
    book: Book,
    findings: Vec<Finding>,
    /// Endpoints probed and attached since the last reset.
    probed: BTreeSet<u32>,
    attached: BTreeSet<u32>,
    /// Regions by endpoint, from the answers to PROBE.
    reserved: Vec<(u32, u32, Range)>,
    /// Status values since the last reset.
    status: Vec<u32>,
    /// What the scenario wants of `bypass`, and whether it was written 0 since DRIVER_OK.
    locks_bypass: bool,
    locked: bool,
    /// Whether the scenario wants domains that are not translated.
    pass_through: bool,
    /// Endpoints that cannot be told apart.
    together: &'a [u32],
    /// Whether the trace tells that an endpoint leaves a domain.
    tells_leaves: bool,
    /// Where the last fault was, until its access is refused.
    refused: Option<u64>,
    /// What was mapped and attached when the device was reset for the last time, if that took it away, and no request
    /// came behind it.
    taken: Option<Book>,
    complete: usize,
    failed: usize,
    /// The start before this one failed.
    gave_up: bool,
}

type Stop = Box<Finding>;

impl Auditor<'_> {
    fn walk(&mut self, steps: &[Step]) -> Result<(), Stop> {
        for step in steps {
            match step {
                Step::Request(line, event, effects) => self.request(*line, *event, effects)?,
                Step::Probe(line, endpoint, regions) => self.probe(*line, *endpoint, regions)?,
                Step::Other(line, event) => self.other(*line, *event)?,
            }
        }
        self.start_ends();
        // What is left of the guest's record may only be what leaves no trace.
        match self.next(None)? {
            None => Ok(()),
            guest => Err(disagreement(guest, None)),
        }
    }

    /// The guest's next record that must be in the trace, after those that leave none.
    fn next(&mut self, probe: Option<u32>) -> Result<Option<(usize, Request)>, Stop> {
        while let Some((&record, rest)) = self.guest.split_first() {
            let (_, request) = record;
            if matches!(request.status, Status::Unwritten | Status::Unconfirmed) {
                // QEMU answers every request at once: neither can be.
                let expected = Status::Ok;
                let guest = record;
                return Err(Box::new(Finding::Status { guest, expected }));
            }
            match request.body {
                Body::Probe { endpoint } => {
                    if request.status == Status::Ok {
                        self.probed.insert(endpoint);
                        if probe == Some(endpoint) {
                            return Ok(Some(record));
                        }
                    }
                }
                Body::Map { domain, mapping } if request.status != Status::Ok => {
                    let expected = self.book.judge_map(domain, mapping);
                    if expected != request.status {
                        let guest = record;
                        return Err(Box::new(Finding::Status { guest, expected }));
                    }
                }
                _ => return Ok(Some(record)),
            }
            self.guest = rest;
        }
        Ok(None)
    }

    fn request(&mut self, line: usize, event: Event, found: &[Event]) -> Result<(), Stop> {
        if event == Event::Cleared {
            let before = self.book.clone();
            let expected = self.book.clear();
            if !expected.is_empty() {
                self.taken = Some(before);
            }
            return self.effects(line, expected, found);
        }
        self.taken = None;
        let next = self.next(None)?;
        let device = Some((line, event));
        let Some(guest) = next.filter(|(_, request)| same(request.body, event)) else {
            return Err(disagreement(next, device));
        };
        self.guest = &self.guest[1..];
        self.rules(line, event)?;
        let outcome = match (event, guest.1.body) {
            (Event::Attach { domain, endpoint }, Body::Attach { flags, .. }) => {
                self.forbid_if(flags != 0 && !self.pass_through, line, Rule::PassThrough);
                self.book.attach(domain, endpoint, flags, found)
            }
            (Event::Detach { domain, endpoint }, _) => self.book.detach(domain, endpoint, found),
            (Event::Map { domain, mapping }, _) => self.book.map(domain, mapping),
            (Event::Unmap { domain, range }, _) => {
                let outcome = self.book.unmap(domain, range, found);
                self.unmapped(line, range, &outcome);
                outcome
            }
            _ => return Err(disagreement(Some(guest), device)),
        };
        let Outcome {
            status: expected,
            effects: consequences,
        } = outcome;
        self.effects(line, consequences, found)?;
        if guest.1.status != expected {
            return Err(Box::new(Finding::Status { guest, expected }));
        }
        if let Event::Attach { domain, endpoint } = event
            && expected == Status::Ok
        {
            self.attached.insert(endpoint);
            let clash = self
                .book
                .mapped(domain)
                .any(|range| self.hits(endpoint, range));
            self.forbid_if(clash, line, Rule::Reserved);
        }
        Ok(())
    }

    /// What an UNMAP removed must be what it names; only the purge of a domain id names all there can be.
    fn unmapped(&mut self, line: usize, range: Range, outcome: &Outcome) {
        let purge = self.config.is_some_and(|config| config.input == range);
        if purge || outcome.status != Status::Ok {
            return;
        }
        let removed = |event: &Event| match event {
            Event::UnmapDone { range, .. } => Some(*range),
            _ => None,
        };
        let start = outcome
            .effects
            .iter()
            .filter_map(removed)
            .map(|range| range.start);
        let end = outcome
            .effects
            .iter()
            .filter_map(removed)
            .map(|range| range.end);
        match (start.min(), end.max()) {
            (Some(start), Some(end)) if (Range { start, end }) == range => {}
            (None, _) => self.findings.push(Finding::EmptyUnmap { line }),
            _ => self.findings.push(Finding::LooseUnmap { line }),
        }
    }

    fn probe(&mut self, line: usize, endpoint: u32, regions: &[(u32, Range)]) -> Result<(), Stop> {
        let next = self.next(Some(endpoint))?;
        if !matches!(next, Some((_, request)) if matches!(request.body, Body::Probe { .. })) {
            let (subtype, range) = regions[0];
            let event = Event::Reserved {
                endpoint,
                subtype,
                range,
            };
            return Err(disagreement(next, Some((line, event))));
        }
        self.guest = &self.guest[1..];
        self.reserved.retain(|(of, _, _)| *of != endpoint);
        let of = |&(subtype, range): &(u32, Range)| (endpoint, subtype, range);
        self.reserved.extend(regions.iter().map(of));
        Ok(())
    }

    fn other(&mut self, line: usize, event: Event) -> Result<(), Stop> {
        match event {
            Event::Status(0) => self.start_ends(),
            Event::Status(value) => self.status.push(value),
            Event::SetBypass(value) => {
                let early = !self.status.contains(&DRIVER_OK);
                let wrong = early || value != 0 || !self.locks_bypass;
                self.forbid_if(wrong, line, Rule::Bypass);
                self.locked = true;
            }
            Event::Notify { device, .. } if Some(device) == self.device => {
                let early = !self.status.contains(&DRIVER_OK);
                self.forbid_if(early, line, Rule::EarlyKick);
            }
            Event::Left { .. }
            | Event::UnmapDone { .. }
            | Event::EndpointMade(_)
            | Event::EndpointGone(_)
            | Event::DomainMade(_)
            | Event::DomainGone(_) => return self.effects(line, Vec::new(), &[event]),
            Event::Fault {
                reason,
                endpoint,
                address,
                ..
            } => {
                self.refused = Some(address);
                let expected = self.book.reason(endpoint);
                if reason != expected {
                    self.findings.push(Finding::Reason { line, expected });
                }
            }
            Event::Rejected { address } => {
                let fault = self.refused.take();
                if fault != Some(address) {
                    self.findings.push(Finding::NoFault { line });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Rules that the device does not check, looked at before the request takes effect.
    fn rules(&mut self, line: usize, event: Event) -> Result<(), Stop> {
        let Some(config) = self.config else {
            return Err(Box::new(Finding::Machine("no configuration was read")));
        };
        let (domain, range) = match event {
            Event::Attach { domain, endpoint } => {
                self.forbid_if(!self.probed.contains(&endpoint), line, Rule::ProbeFirst);
                self.forbid_if(self.locks_bypass != self.locked, line, Rule::Bypass);
                (domain, None)
            }
            Event::Map { domain, mapping } => (domain, Some(mapping.range)),
            Event::Unmap { domain, range } => (domain, Some(range)),
            Event::Detach { domain, .. } => (domain, None),
            _ => return Ok(()),
        };
        let ids = config.domains.0..=config.domains.1;
        self.forbid_if(!ids.contains(&domain), line, Rule::DomainRange);
        if let Some(range) = range {
            if range.start > range.end {
                // The device's account means nothing from here on.
                let rule = Rule::Inverted;
                return Err(Box::new(Finding::Forbidden { line, rule }));
            }
            let low = config.granule().wrapping_sub(1);
            let aligned = range.start & low == 0 && range.end & low == low;
            // The input range itself need not be aligned, and it is what a purge covers.
            self.forbid_if(!aligned && range != config.input, line, Rule::Granule);
            self.forbid_if(!config.input.contains(range), line, Rule::InputRange);
        }
        if let Event::Map { domain, mapping } = event {
            self.map_rules(line, domain, mapping, config.granule());
        }
        Ok(())
    }

    fn map_rules(&mut self, line: usize, domain: u32, mapping: Mapping, granule: u64) {
        let Mapping {
            range,
            phys_start,
            flags,
        } = mapping;
        self.forbid_if(flags == 0 || flags & !7 != 0, line, Rule::Flags);
        let aligned = phys_start & granule.wrapping_sub(1) == 0;
        self.forbid_if(!aligned, line, Rule::Granule);
        let wraps = phys_start.checked_add(range.end - range.start).is_none();
        self.forbid_if(wraps, line, Rule::Physical);
        let mut members = self.book.members(domain);
        let clash = members.any(|endpoint| self.hits(endpoint, range));
        drop(members);
        self.forbid_if(clash, line, Rule::Reserved);
        let inside = self.book.members(domain);
        let inside = inside.filter(|endpoint| self.together.contains(endpoint));
        let inside = inside.count();
        let apart = inside != 0 && inside != self.together.len();
        self.forbid_if(apart, line, Rule::Together);
    }

    fn hits(&self, endpoint: u32, range: Range) -> bool {
        self.reserved
            .iter()
            .any(|(of, _, region)| *of == endpoint && region.overlaps(range))
    }

    /// Consequences have no order of their own.
    fn effects(&self, line: usize, mut expected: Vec<Event>, found: &[Event]) -> Result<(), Stop> {
        if !self.tells_leaves {
            expected.retain(|event| !matches!(event, Event::Left { .. }));
        }
        let sorted = |events: &[Event]| {
            let mut names: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
            names.sort();
            names
        };
        if sorted(&expected) == sorted(found) {
            return Ok(());
        }
        let found = found.to_vec();
        Err(Box::new(Finding::Effects {
            line,
            expected,
            found,
        }))
    }

    fn forbid_if(&mut self, broken: bool, line: usize, rule: Rule) {
        if broken {
            self.findings.push(Finding::Forbidden { line, rule });
        }
    }

    /// A reset, or the end of the VM: judges the start before it.
    fn start_ends(&mut self) {
        let values = std::mem::take(&mut self.status);
        self.locked = false;
        self.probed.clear();
        let Some((&last, before)) = values.split_last() else {
            return;
        };
        let gave_up = std::mem::take(&mut self.gave_up);
        if values == BRING_UP {
            self.complete += 1;
        } else if values == [FAILED] && gave_up {
            // The reset after a failed start took the flag away, and it is set again.
        } else if last & FAILED != 0
            && last & !FAILED == before.last().copied().unwrap_or(0)
            && BRING_UP.starts_with(before)
        {
            self.failed += 1;
            self.gave_up = true;
        } else {
            self.findings.push(Finding::StatusOrder(values));
        }
    }

    fn leftovers(&self, expect: &Expect, findings: &mut Vec<Finding>) {
        // That a reset takes everything away is no merit of the driver.
        let book = self.taken.as_ref().unwrap_or(&self.book);
        let mapped = book.mappings();
        findings.extend(mapped.map(|(domain, range)| Finding::StillMapped(domain, range)));
        let attached: Vec<u32> = book.attached().map(|(endpoint, _)| endpoint).collect();
        if attached != expect.attached {
            findings.push(Finding::StillAttached(attached));
        }
        if !self.attached.iter().eq(expect.endpoints) {
            findings.push(Finding::Endpoints(self.attached.iter().copied().collect()));
        }
        let (complete, failed) = (self.complete, self.failed);
        if (complete, failed) != (expect.starts, expect.failed_starts) {
            findings.push(Finding::Starts { complete, failed });
        }
        if let Some(config) = self.config {
            if expect
                .granule
                .is_some_and(|wanted| wanted != config.granule())
            {
                findings.push(Finding::Machine("granule"));
            }
            if expect
                .input_end
                .is_some_and(|wanted| wanted != config.input.end)
            {
                findings.push(Finding::Machine("end of the input range"));
            }
        }
        if let Some(wanted) = expect.reserved {
            let mut all: Vec<(u32, u32, Range)> = Vec::new();
            for endpoint in expect.endpoints {
                let of = |region: &super::expect::Region| (*endpoint, region.subtype, region.range);
                all.extend(wanted.iter().map(of));
            }
            let agree = all.len() == self.reserved.len()
                && all.iter().all(|region| self.reserved.contains(region));
            if !agree {
                findings.push(Finding::Machine("reserved regions"));
            }
        }
    }
}

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, each added to those before.
const BRING_UP: [u32; 4] = [1, 3, 11, DRIVER_OK];
const DRIVER_OK: u32 = 15;
const FAILED: u32 = 128;

/// Whether a request is the one that the device traced.
pub fn same(body: Body, event: Event) -> bool {
    match body {
        Body::Attach {
            domain, endpoint, ..
        } => event == Event::Attach { domain, endpoint },
        Body::Detach { domain, endpoint } => event == Event::Detach { domain, endpoint },
        Body::Map { domain, mapping } => event == Event::Map { domain, mapping },
        Body::Unmap { domain, range } => event == Event::Unmap { domain, range },
        Body::Probe { .. } => false,
    }
}

fn disagreement(guest: Option<(usize, Request)>, device: Option<(usize, Event)>) -> Stop {
    Box::new(Finding::Disagreement { guest, device })
}
