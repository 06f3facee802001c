//! The requests of several CPUs, in the order in which the device did them.
//!
//! Each CPU records its requests in the order in which it sent them; on the serial line those of two CPUs are mixed in
//! any way. The device's order has to be a merge of the orders of the CPUs: nothing is lost, nothing is new, and what
//! one CPU sent keeps its order, in each domain and over all of them. Where a merge exists it is found, also where
//! requests of two CPUs are equal to the letter.

use super::audit::same;
use super::request::{Body, Request, Status};
use super::trace::{Event, Trace};
use std::collections::{BTreeMap, BTreeSet};

/// A request with its serial line.
type Record = (usize, Request);
/// How many of its traced requests each CPU has behind it.
type Places = Vec<usize>;

/// The guest's record in the device's order. If there is none that fits, it fits as far as possible, and the rest is as
/// it came on the serial line: the comparison fails there.
pub fn merge(trace: &Trace, guest: &[Record]) -> Vec<Record> {
    if guest.iter().all(|(_, request)| request.cpu == 0) {
        return guest.to_vec();
    }
    let queues = queues(guest);
    let mut layers = vec![BTreeMap::from([(vec![0; queues.len()], 0)])];
    for (_, event) in trace.events.iter().filter(|(_, event)| traced(event)) {
        let mut next: BTreeMap<Places, usize> = BTreeMap::new();
        for places in layers.last().into_iter().flat_map(BTreeMap::keys) {
            for (cpu, queue) in queues.iter().enumerate() {
                let head = queue.get(places[cpu]);
                if head.is_some_and(|head| same(head.request().body, *event)) {
                    let mut places = places.clone();
                    places[cpu] += 1;
                    next.entry(places).or_insert(cpu);
                }
            }
        }
        if next.is_empty() {
            break;
        }
        layers.push(next);
    }
    let mut merged = Vec::with_capacity(guest.len());
    for (cpu, place) in path(&layers) {
        let head = &queues[cpu][place];
        merged.extend(&head.before);
        merged.push(head.record);
    }
    // A line holds one record.
    let done: BTreeSet<usize> = merged.iter().map(|(line, _)| *line).collect();
    merged.extend(guest.iter().filter(|(line, _)| !done.contains(line)));
    merged
}

/// How often the device went from the requests of one CPU to those of another.
pub fn turns(merged: &[Record]) -> usize {
    let cpus = merged.iter().map(|(_, request)| request.cpu);
    cpus.clone()
        .zip(cpus.skip(1))
        .filter(|(one, next)| one != next)
        .count()
}

/// A request that is traced, and those before it on the same CPU that are not.
struct Head {
    before: Vec<Record>,
    record: Record,
}

impl Head {
    fn request(&self) -> &Request {
        &self.record.1
    }
}

/// What each CPU sent.
fn queues(guest: &[Record]) -> Vec<Vec<Head>> {
    let cpus = guest.iter().map(|(_, request)| request.cpu + 1).max();
    let mut queues: Vec<Vec<Head>> = Vec::new();
    queues.resize_with(cpus.unwrap_or(0) as usize, Vec::new);
    let mut waiting = vec![Vec::new(); queues.len()];
    for record in guest {
        let cpu = record.1.cpu as usize;
        if silent(&record.1) {
            waiting[cpu].push(*record);
        } else {
            let before = std::mem::take(&mut waiting[cpu]);
            let record = *record;
            queues[cpu].push(Head { before, record });
        }
    }
    queues
}

/// Whether the device does not trace the request as such.
fn silent(request: &Request) -> bool {
    match request.body {
        Body::Probe { .. } => true,
        Body::Map { .. } => request.status != Status::Ok,
        _ => false,
    }
}

fn traced(event: &Event) -> bool {
    matches!(
        event,
        Event::Attach { .. } | Event::Detach { .. } | Event::Map { .. } | Event::Unmap { .. }
    )
}

/// One way through all layers: whose request each event was, and which of its requests.
fn path(layers: &[BTreeMap<Places, usize>]) -> Vec<(usize, usize)> {
    let mut steps = Vec::new();
    let last = layers.last().and_then(BTreeMap::first_key_value);
    let Some((mut places, _)) = last.map(|(places, cpu)| (places.clone(), *cpu)) else {
        return steps;
    };
    for layer in layers.iter().skip(1).rev() {
        let cpu = layer[&places];
        places[cpu] -= 1;
        steps.push((cpu, places[cpu]));
    }
    steps.reverse();
    steps
}
