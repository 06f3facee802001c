//! What can be judged about a trace by counting.

use super::expect::{Expect, Kind, WantedFault};
use super::finding::Finding;
use super::request::{Body, Request, Status};
use super::trace::{Event, Trace};

/// Counts what a scenario must show, and what it must not.
pub fn tally(trace: &Trace, guest: &[(usize, Request)], expect: &Expect) -> Vec<Finding> {
    let mut findings = Vec::new();
    let maps = trace.count(|event| matches!(event, Event::Map { .. }));
    if maps < expect.maps {
        findings.push(Finding::Maps(maps));
    }
    for wanted in expect.faults {
        let count = trace.count(|event| {
            matches!(event, Event::Fault { reason, flags, .. }
                if (*reason, *flags) == (wanted.reason, wanted.flags))
        });
        if count < wanted.least {
            findings.push(Finding::MissingFault(wanted.reason, wanted.flags, count));
        }
    }
    let stray = trace.events.iter().find(|(_, event)| match *event {
        Event::Fault {
            reason,
            flags,
            endpoint,
            ..
        } => {
            let kind = |wanted: &WantedFault| (wanted.reason, wanted.flags) == (reason, flags);
            !expect.endpoints.contains(&endpoint) || !expect.faults.iter().any(kind)
        }
        _ => false,
    });
    if let Some(&(line, _)) = stray {
        findings.push(Finding::UnexpectedFault { line });
    }
    let batches = trace.batches();
    for &(kind, count) in expect.batches {
        if !batches.iter().any(|batch| carries(batch, kind, count)) {
            findings.push(Finding::NoBatch(kind, count));
        }
    }
    let (kicks, requests) = (trace.kicks(0), guest.len());
    let own = if expect.in_thread { expect.starts } else { 0 };
    if kicks > requests + own {
        findings.push(Finding::Kicks { kicks, requests });
    }
    let whole = trace.config().map(|config| config.input);
    let refused = guest.iter().any(|(_, request)| match request.body {
        Body::Unmap { range, .. } if Some(range) == whole => {
            !matches!(request.status, Status::Ok | Status::NoEnt)
        }
        _ => request.status != Status::Ok,
    });
    if refused != expect.refusals {
        findings.push(Finding::Refusals(refused));
    }
    findings
}

fn carries(batch: &[Event], kind: Kind, count: usize) -> bool {
    let of = |event: &Event| match event {
        Event::Map { .. } => Some(Kind::Map),
        Event::Unmap { .. } => Some(Kind::Unmap),
        _ => None,
    };
    let foreign = |event: &Event| {
        matches!(
            event,
            Event::Attach { .. } | Event::Detach { .. } | Event::Reserved { .. }
        )
    };
    let requests: Vec<Kind> = batch.iter().filter_map(of).collect();
    requests == vec![kind; count] && !batch.iter().any(foreign)
}
