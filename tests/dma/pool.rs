//! A pool against a naive one: an array that says who has each byte.

use proptest::prelude::*;
use virtio_iommu::dma::{Bounce, BounceError, BounceOptions, Bounced, FromDevice};

use crate::desk::Desk;
use crate::model::platform::ModelPlatform;

const BYTES: usize = 0x1000;
const TRANSFERS: usize = 12;

#[derive(Clone, Debug)]
enum Op {
    Take(usize),
    Finish(usize),
    Drop(usize),
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![1..80_usize, 1..700_usize, 900..4200_usize];
    prop_oneof![
        6 => len.prop_map(Op::Take),
        4 => (0..TRANSFERS).prop_map(Op::Finish),
        2 => (0..TRANSFERS).prop_map(Op::Drop),
        1 => Just(Op::Release),
    ]
}

/// Who has a byte of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Free,
    /// The transfer with this number.
    Taken(u64),
    Given,
}

/// The pool as it should be.
struct Naive {
    bytes: Vec<Byte>,
    unit: usize,
    /// Places in use or given up.
    places: usize,
    given: usize,
}

impl Naive {
    /// Whether a place for so many bytes is free somewhere.
    fn has_room(&self, len: usize) -> bool {
        let padded = len.next_multiple_of(self.unit);
        let starts = (0..BYTES).step_by(self.unit);
        let free = |start: usize| {
            let bytes = self.bytes.get(start..start + padded);
            bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == Byte::Free))
        };
        self.places < TRANSFERS && starts.into_iter().any(free)
    }
}

/// A transfer, and what its memory has to hold.
struct Open {
    place: Bounced<FromDevice, ModelPlatform>,
    number: u64,
    offset: usize,
}

fn pattern(number: u64) -> u8 {
    number as u8 | 1
}

struct World {
    open: Vec<Open>,
    naive: Naive,
    bounce: Bounce<ModelPlatform>,
    /// Where the pool begins.
    base: u64,
    next: u64,
    desk: Desk,
}

impl World {
    fn new(align: usize) -> Self {
        let desk = Desk::new();
        let options = BounceOptions::default()
            .with_pools(0x1000, BYTES)
            .with_align(align)
            .with_transfers(TRANSFERS);
        let bounce = Bounce::new(&desk.device, options).unwrap();
        let whole = bounce.from_device(BYTES).unwrap();
        let base = whole.device_addr().0;
        whole.finish();
        let naive = Naive {
            bytes: vec![Byte::Free; BYTES],
            unit: align,
            places: 0,
            given: 0,
        };
        Self {
            open: Vec::new(),
            naive,
            bounce,
            base,
            next: 0,
            desk,
        }
    }

    fn take(&mut self, len: usize) -> Result<(), TestCaseError> {
        let expected = match len.next_multiple_of(self.naive.unit) {
            padded if padded > BYTES => Err(BounceError::Length),
            _ if self.naive.has_room(len) => Ok(()),
            _ => Err(BounceError::Exhausted),
        };
        let place = match self.bounce.from_device(len) {
            Ok(place) => place,
            Err(error) => {
                prop_assert_eq!(Err(error), expected);
                return Ok(());
            }
        };
        prop_assert_eq!(Ok(()), expected);
        let offset = (place.device_addr().0 - self.base) as usize;
        prop_assert_eq!(offset % self.naive.unit, 0);
        prop_assert_eq!(place.len(), len);
        self.next += 1;
        let padded = len.next_multiple_of(self.naive.unit);
        for byte in &mut self.naive.bytes[offset..offset + padded] {
            prop_assert_eq!(*byte, Byte::Free);
            *byte = Byte::Taken(self.next);
        }
        self.naive.places += 1;
        let bytes = vec![pattern(self.next); len];
        let landed = self.desk.dma_write(place.device_addr().0, &bytes);
        prop_assert_eq!(landed, len);
        self.open.push(Open {
            place,
            number: self.next,
            offset,
        });
        Ok(())
    }

    fn leave(&mut self, number: u64, to: Byte) {
        for byte in &mut self.naive.bytes {
            if *byte == Byte::Taken(number) {
                *byte = to;
            }
        }
    }

    fn run(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Take(len) => self.take(len)?,
            Op::Finish(at) if at < self.open.len() => {
                let Open { place, number, .. } = self.open.swap_remove(at);
                let mut bytes = vec![0; place.len()];
                prop_assert!(place.finish_into(&mut bytes));
                prop_assert!(bytes.iter().all(|byte| *byte == pattern(number)));
                self.leave(number, Byte::Free);
                self.naive.places -= 1;
            }
            Op::Drop(at) if at < self.open.len() => {
                let Open { place, number, .. } = self.open.swap_remove(at);
                drop(place);
                self.leave(number, Byte::Given);
                self.naive.given += 1;
            }
            Op::Release => {
                prop_assert_eq!(self.bounce.release_quarantine(), self.naive.given);
                self.naive.places -= std::mem::take(&mut self.naive.given);
                for byte in &mut self.naive.bytes {
                    if *byte == Byte::Given {
                        *byte = Byte::Free;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Late writes to all that was given up, and every open transfer has what it should.
    fn judge(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.bounce.quarantined(), self.naive.given);
        for (offset, byte) in self.naive.bytes.iter().enumerate() {
            if *byte == Byte::Given {
                self.desk.dma_write(self.base + offset as u64, &[0]);
            }
        }
        for Open {
            place,
            number,
            offset,
        } in &self.open
        {
            prop_assert_eq!(place.device_addr().0, self.base + *offset as u64);
            let mut bytes = vec![0; place.len()];
            prop_assert!(place.read(0, &mut bytes));
            prop_assert!(bytes.iter().all(|byte| *byte == pattern(*number)));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.min(1_000_000) / 4,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_two_transfers_have_a_byte_in_common(
        align in prop::sample::select(vec![1_usize, 16, 64, 256]),
        ops in proptest::collection::vec(op(), 1..80),
        len in 1..=BYTES,
    ) {
        let mut world = World::new(align);
        for op in &ops {
            world.run(op)?;
            world.judge()?;
        }
        let World { open, bounce, desk, .. } = world;
        drop(open);
        // Without transfers, there is room for as many as fit.
        bounce.release_quarantine();
        let fit = BYTES / len.next_multiple_of(align);
        let take = |_| bounce.from_device(len).expect("there is room");
        (0..fit.min(TRANSFERS)).map(take).for_each(drop);
        // SAFETY: the endpoint is a function of the test.
        let closed = unsafe { bounce.close() };
        prop_assert!(closed.is_ok());
        desk.assert_empty();
    }
}
