//! What can be judged about a trace by counting.

use super::expect::{Expect, Kind, WantedFault};
use super::finding::Finding;
use super::order;
use super::request::{Body, Request, Status};
use super::trace::{Event, Trace};

/// Counts what a scenario must show, and what it must not.
pub fn tally(trace: &Trace, guest: &[(usize, Request)], expect: &Expect) -> Vec<Finding> {
    let mut findings = Vec::new();
    let turns = order::turns(guest);
    if turns < expect.turns || expect.turns == 0 && turns > 0 {
        findings.push(Finding::Turns(turns));
    }
    let maps = trace.count(|event| matches!(event, Event::Map { .. }));
    if maps < expect.maps {
        findings.push(Finding::Maps(maps));
    }
    for wanted in expect.faults {
        let count = trace.count(|event| {
            matches!(event, Event::Fault { reason, flags, .. }
                if (kind_of(*reason), *flags) == (wanted.reason, wanted.flags))
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
            let kind =
                |wanted: &WantedFault| (wanted.reason, wanted.flags) == (kind_of(reason), flags);
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
    let most = merged(trace);
    if most < expect.merged {
        findings.push(Finding::NotMerged(most));
    }
    findings.extend(kicks(trace, &batches, guest, expect));
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

/// A reason, without the difference between UNKNOWN and DOMAIN, which is for the account of the device.
fn kind_of(reason: u32) -> u32 {
    if reason == 1 { 0 } else { reason }
}

/// The most mappings that one UNMAP removed.
fn merged(trace: &Trace) -> usize {
    let (mut most, mut here) = (0, 0);
    for (_, event) in &trace.events {
        here = match event {
            Event::UnmapDone { .. } => here + 1,
            _ => 0,
        };
        most = most.max(here);
    }
    most
}

/// A notification for nothing costs an exit of the VM.
fn kicks(
    trace: &Trace,
    batches: &[Vec<Event>],
    guest: &[(usize, Request)],
    expect: &Expect,
) -> Option<Finding> {
    let (kicks, requests) = if expect.in_thread {
        // What was done for which kick cannot be told.
        (trace.kicks(0), guest.len() + expect.starts)
    } else {
        let quiet = |request: &Request| match request.body {
            Body::Probe { .. } => true,
            Body::Map { .. } => request.status != Status::Ok,
            _ => false,
        };
        let seen = |event: &Event| request_of(event) && !matches!(event, Event::Reserved { .. });
        let empty = batches.iter().filter(|batch| !batch.iter().any(seen));
        let quiet = guest.iter().filter(|(_, request)| quiet(request));
        (empty.count(), quiet.count())
    };
    (kicks > requests).then_some(Finding::Kicks { kicks, requests })
}

/// Whether the event is a request, or the answer to one.
fn request_of(event: &Event) -> bool {
    matches!(
        event,
        Event::Attach { .. }
            | Event::Detach { .. }
            | Event::Map { .. }
            | Event::Unmap { .. }
            | Event::Reserved { .. }
    )
}

fn carries(batch: &[Event], kind: Kind, count: usize) -> bool {
    let of = |event: &Event| match event {
        Event::Map { .. } => Some(Kind::Map),
        Event::Unmap { .. } => Some(Kind::Unmap),
        _ => None,
    };
    let foreign = |event: &Event| request_of(event) && of(event).is_none();
    let requests: Vec<Kind> = batch.iter().filter_map(of).collect();
    requests == vec![kind; count] && !batch.iter().any(foreign)
}
