//! Anything at all: bytes decide what the device answers, when, under which name and with which
//! length, what it reports, and when it gives up.
//!
//! The bytes are those that also decide what the kernel does: see `tests/hostile`.

use std::sync::{Arc, Mutex};

use super::Device;
use crate::model::Model;
use crate::model::config::{ConfigSpace, ResetBehaviour, Torn};
use crate::model::events::Record;
use crate::model::memory::lock;
use crate::model::probe;
use crate::model::requests::{Request, Seen};
use crate::model::script::{Answer, Effect, Entry, Id, Length, Order, When, Written};
use crate::model::spec::{EVENT_QUEUE, FAULT_LEN, feature};

/// Nothing but small queues: all the rest is what bytes decide.
pub fn shape(device: &mut Device) {
    device.knobs.queue_sizes = [16, 16];
    device.unit.quirks.state_outlives_reset = true;
}

/// Bytes that decide. When they are used up they are zeros, which mean what is usual.
#[derive(Clone)]
pub struct Source(Arc<Mutex<(Vec<u8>, usize)>>);

impl Source {
    pub fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new((bytes.to_vec(), 0))))
    }

    pub fn byte(&self) -> u8 {
        let mut inner = lock(&self.0);
        let at = inner.1;
        inner.1 += 1;
        inner.0.get(at).copied().unwrap_or(0)
    }

    /// A number below `most`, which is at most 256.
    pub fn below(&self, most: usize) -> usize {
        usize::from(self.byte()) % most.max(1)
    }

    pub fn word(&self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A number of any size, and more often one at an edge.
    pub fn number(&self) -> u64 {
        let shift = self.below(64);
        match self.below(5) {
            0 => 0,
            1 => 1 << shift,
            2 => u64::MAX << shift,
            3 => u64::MAX >> shift,
            _ => self.word(),
        }
    }

    pub fn is_empty(&self) -> bool {
        let inner = lock(&self.0);
        inner.1 >= inner.0.len()
    }

    fn bytes(&self, most: usize) -> Vec<u8> {
        let len = self.below(most.min(255) + 1);
        (0..len).map(|_| self.byte()).collect()
    }
}

/// Makes the model into the device that the bytes describe.
pub fn unleash(model: &Model, source: &Source) {
    model.with(|d| {
        if source.byte() >= 0xc0 {
            d.config = config(source);
        }
        if source.byte() >= 0xc0 {
            d.knobs.offered ^= source.word();
            d.knobs.offered |= feature::VERSION_1 | feature::MAP_UNMAP;
        }
        if source.byte() >= 0xe0 {
            d.knobs.reset = match source.below(3) {
                0 => ResetBehaviour::AfterReads(source.byte().into()),
                1 => ResetBehaviour::Never,
                _ => ResetBehaviour::Immediate,
            };
        }
        if source.byte() >= 0xe0 {
            let after_reads = source.below(24) as u64;
            let then = config(source);
            d.knobs.torn = Some(Torn { after_reads, then });
        }
        if source.byte() >= 0xe0 {
            d.knobs.needs_reset_at = Some(source.byte().into());
        }
        d.knobs.order = match source.byte() {
            0..0xa0 => Order::Fifo,
            0xa0..0xc0 => Order::AnswerReversed,
            0xc0..0xe0 => Order::Reversed,
            seed => Order::AnswerShuffled(seed.into()),
        };
    });
    let script = source.clone();
    model.script(move |seen| answer(&script, seen));
    let acts = source.clone();
    model.on_tick(move |device, _| {
        if acts.byte() >= 0xf0 {
            act(device, &acts);
        }
    });
}

fn config(source: &Source) -> ConfigSpace {
    let mut config = ConfigSpace::default();
    match source.below(7) {
        0 => config.page_size_mask = source.number(),
        1 => config.input_range = (source.number(), source.number()),
        2 => config.domain_range = (source.number() as u32, source.number() as u32),
        3 => config.domain_range = (3, 3 + source.below(8) as u32),
        4 => config.probe_size = source.number() as u32,
        5 => config.probe_size = source.byte().into(),
        _ => config.len = source.below(64),
    }
    config.bypass = source.byte();
    config
}

/// What the device answers to a request.
pub fn answer(source: &Source, seen: &Seen) -> Answer {
    // One answer in four or so is strange.
    if source.byte() < 0xb0 {
        return Answer::honest();
    }
    let mut answer = match source.below(16) {
        0 | 1 => Answer::status(source.below(10) as u8),
        2 => Answer::done_but_status(source.below(10) as u8),
        3 => Answer::unwritten(),
        4 => Answer::late(),
        5 => Answer::late_effect(),
        6 => Answer::never(),
        7 => Answer::done_never_told(),
        // OK, and nothing was done.
        8 => Answer::status(0),
        9 => Answer::claims(source.number() as u32),
        10 => Answer::honest().with_len(source.number() as u32),
        11 => Answer::honest().with_id(id(source)),
        12 => Answer::honest().twice(),
        13 => Answer::honest().with_jump(source.number() as u16),
        14 => Answer::needs_reset(),
        _ => strange(source),
    };
    if let Request::Probe { .. } = seen.request
        && source.byte() >= 0x80
    {
        answer.written = Written::Properties(properties(source));
    }
    answer
}

fn id(source: &Source) -> Id {
    match source.below(5) {
        0 => Id::Raw(source.number() as u32),
        1 => Id::Raw(source.below(20) as u32),
        2 => Id::Idle,
        3 => Id::OwnTail,
        _ => Id::Other,
    }
}

fn strange(source: &Source) -> Answer {
    let len = |source: &Source| match source.below(3) {
        0 => Length::Raw(source.below(9) as u32),
        1 => Length::Raw(source.number() as u32),
        _ => Length::True,
    };
    Answer {
        when: [When::Now, When::Held, When::Never][source.below(3)],
        effect: [Effect::AtOnce, Effect::WithAnswer, Effect::None][source.below(3)],
        written: match source.below(4) {
            0 => Written::Honest,
            1 => Written::Nothing,
            2 => Written::Status(source.byte()),
            _ => Written::Bytes(source.bytes(40)),
        },
        reserved: std::array::from_fn(|_| source.byte()),
        entries: (0..source.below(3))
            .map(|_| Entry {
                id: match source.below(2) {
                    0 => Id::Own,
                    _ => id(source),
                },
                len: len(source),
            })
            .collect(),
        jump: match source.below(8) {
            0 => source.number() as u16,
            _ => 0,
        },
        needs_reset: source.byte() >= 0xf8,
    }
}

/// A list that resembles one of properties, without an end perhaps.
pub fn properties(source: &Source) -> Vec<u8> {
    let mut list = Vec::new();
    for _ in 0..source.below(22) {
        let kind = match source.below(4) {
            0 => source.word() as u16,
            _ => 1,
        };
        let length = match source.below(4) {
            0 => source.word() as u16,
            _ => 20,
        };
        let (start, end) = (source.number(), source.number());
        let value = probe::resv_mem(source.below(4) as u8, [0; 3], start, end);
        list.extend(probe::property(kind, length, &value));
    }
    list
}

/// Something that the device does of its own accord.
pub fn act(device: &mut Device, source: &Source) {
    match source.below(8) {
        0 | 1 => {
            device.release_one(source.below(4));
        }
        2 => {
            device.release(usize::MAX);
        }
        3 => {
            let record = Record {
                reason: source.byte(),
                reserved: [0, 0, source.byte() / 0xf0],
                flags: source.number() as u32,
                endpoint: source.number() as u32,
                reserved1: source.byte().into(),
                address: source.number(),
            };
            let len = match source.below(4) {
                0 => source.number() as u32,
                _ => FAULT_LEN as u32,
            };
            let id = match source.below(8) {
                0 => Some(source.below(40) as u32),
                1 => Some(source.number() as u32),
                _ => None,
            };
            device.report_raw(&record.bytes(), len, id);
        }
        // A flood.
        4 => {
            for at in 0..source.byte() {
                let address = at.into();
                device.report(Record {
                    reason: 2,
                    address,
                    ..Record::default()
                });
            }
        }
        5 => {
            let by = source.number() as u16;
            let ram = device.ram.clone();
            if let Some(queue) = &mut device.queues[usize::from(EVENT_QUEUE)] {
                queue.jump(&ram, by);
            }
        }
        6 => device.registers.isr |= u32::from(source.byte()),
        _ if source.byte() >= 0xc0 => device.break_down(),
        _ => {}
    }
}
