//! Instructions of I/Os, and how many of the I/Os were waited for.
//!
//! A disk may be quick enough for Linux to see the end of an I/O before it has found nothing to do. If not, it goes idle
//! and comes back, which takes thousands of instructions: whether it does is the host's doing, not the driver's.

use crate::counter::Counter;
use crate::system::{self, Failure};
use crate::transfer::{self, Transfer};

/// The most I/Os of a phase.
const IOS: usize = 1024;
/// A median of fewer is none.
const FEW: usize = 8;

/// What the I/Os of a phase took.
#[derive(Clone, Copy, Default)]
pub struct Counted {
    /// Instructions of all of them.
    pub total: u64,
    /// How often this program had to wait.
    pub waits: u64,
    /// The median of those I/Os that were waited for.
    pub with: Option<u64>,
    /// The median of the others.
    pub without: Option<u64>,
}

/// The numbers of some I/Os.
struct Numbers {
    all: [u64; IOS],
    count: usize,
}

impl Numbers {
    const fn new() -> Self {
        Self {
            all: [0; IOS],
            count: 0,
        }
    }

    fn push(&mut self, number: u64) {
        if let Some(room) = self.all.get_mut(self.count) {
            *room = number;
            self.count += 1;
        }
    }

    fn median(&mut self) -> Option<u64> {
        let all = self
            .all
            .get_mut(..self.count)
            .filter(|all| all.len() >= FEW)?;
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }
}

/// Does `count` I/Os, one at a time, and counts each by itself.
pub fn each(
    counter: &Counter,
    count: usize,
    mut make: impl FnMut(usize) -> Result<Transfer, Failure>,
) -> Result<Counted, Failure> {
    let (mut waited, mut others) = (Numbers::new(), Numbers::new());
    let mut total = 0;
    let first = system::waits()?;
    let mut waits = first;
    for index in 0..count {
        let transfer = make(index)?;
        let before = counter.read()?;
        transfer::one(&transfer)?;
        let counted = counter.since(before)?;
        let now = system::waits()?;
        if now == waits {
            others.push(counted);
        } else {
            waited.push(counted);
        }
        waits = now;
        total += counted;
    }
    Ok(Counted {
        total,
        waits: waits - first,
        with: waited.median(),
        without: others.median(),
    })
}

/// Counts all that `work` does at once.
pub fn all(
    counter: &Counter,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<Counted, Failure> {
    let first = system::waits()?;
    let before = counter.read()?;
    work()?;
    let total = counter.since(before)?;
    Ok(Counted {
        total,
        waits: system::waits()? - first,
        ..Counted::default()
    })
}
