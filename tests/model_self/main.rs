//! Tests of the model device itself, with rings made by hand: each refusal, each check of the
//! strict personality and each trick of the scripted one is seen once.

#[path = "../model/mod.rs"]
mod model;

mod guards;
mod personalities;
mod registers;
mod requests;
mod rings;
mod script;
mod translation;

use crate::model::hand::{self, Hand};
use crate::model::spec::{MAP_F_READ, MAP_F_WRITE, TAIL_LEN, status};
use crate::model::{Model, PLAIN};

const RW: u32 = MAP_F_READ | MAP_F_WRITE;
const PROBE_ROOM: usize = 512 + TAIL_LEN;

/// Probes and attaches an endpoint.
fn attached(hand: &mut Hand, domain: u32, endpoint: u32) {
    hand.ask(hand::probe(endpoint), PROBE_ROOM);
    assert_eq!(hand.status(hand::attach(domain, endpoint, 0)), status::OK);
}

/// A device with byte granularity whose domain 5 has `PLAIN` in it: the setting of the examples.
fn blank() -> (Model, Hand) {
    let model = Model::new();
    model.with(|d| {
        d.config.page_size_mask = 1;
        d.config.input_range = (0, u64::MAX);
    });
    let mut hand = model.hand();
    attached(&mut hand, 5, PLAIN);
    (model, hand)
}

fn ranges(model: &Model, domain: u32) -> Vec<(u64, u64)> {
    let mappings = model.mappings(domain).expect("a domain");
    mappings.iter().map(|m| (m.start, m.end)).collect()
}
