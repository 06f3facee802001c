//! The exact record of what is mapped: it decides what may be sent to the device.

use alloc::vec::Vec;

use crate::address::{Iova, IovaRange, PhysAddr};
use crate::wire::Access;

/// What is known of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A MAP request is on its way.
    Mapping,
    /// The device translates it, while the domain has an endpoint.
    Mapped,
    /// An UNMAP request is on its way.
    Unmapping,
    /// The device may translate it, now or later. Its addresses are never used again.
    Quarantined,
}

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) iova: IovaRange,
    pub(crate) phys: PhysAddr,
    pub(crate) access: Access,
    pub(crate) state: State,
}

/// Mappings by their address. Allocates when it is made, and never again.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Sorted, without overlaps.
    entries: Vec<Entry>,
}

impl Ledger {
    /// Room for `capacity` mappings; `None` without the memory for it.
    pub(crate) fn new(capacity: usize) -> Option<Self> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(capacity).ok()?;
        Some(Self { entries })
    }

    /// Records a mapping at addresses that the allocator has just handed out. `false` when full.
    pub(crate) fn insert(&mut self, entry: Entry) -> bool {
        if self.entries.len() == self.entries.capacity() {
            return false;
        }
        let at = self
            .entries
            .partition_point(|other| other.iova.start() < entry.iova.start());
        self.entries.insert(at, entry);
        true
    }

    fn position(&self, iova: IovaRange) -> Option<usize> {
        let at = self
            .entries
            .binary_search_by_key(&iova.start(), |entry| entry.iova.start())
            .ok()?;
        (self.entries.get(at)?.iova == iova).then_some(at)
    }

    /// Moves the mapping of exactly these addresses from one state to another; `false` if there
    /// is none in that state.
    pub(crate) fn transition(&mut self, iova: IovaRange, from: State, to: State) -> bool {
        let entry = self.position(iova).and_then(|at| self.entries.get_mut(at));
        match entry {
            Some(entry) if entry.state == from => {
                entry.state = to;
                true
            }
            _ => false,
        }
    }

    /// Forgets the mapping of exactly these addresses.
    pub(crate) fn remove(&mut self, iova: IovaRange) {
        if let Some(at) = self.position(iova) {
            self.entries.remove(at);
        }
    }

    /// All mappings, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// How many mappings are in a state.
    pub(crate) fn count(&self, state: State) -> usize {
        self.iter().filter(|entry| entry.state == state).count()
    }

    /// Whether a request about a mapping is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.iter()
            .any(|entry| matches!(entry.state, State::Mapping | State::Unmapping))
    }

    /// A mapping that `range` overlaps.
    pub(crate) fn overlap(&self, range: IovaRange) -> Option<&Entry> {
        let at = self
            .entries
            .partition_point(|entry| entry.iova.start() <= range.end());
        let entry = self.entries.get(at.checked_sub(1)?)?;
        entry.iova.overlaps(&range).then_some(entry)
    }

    /// Where the mapped byte at `iova` is in physical memory.
    pub(crate) fn translate(&self, iova: Iova) -> Option<(PhysAddr, Access)> {
        let entry = self.overlap(IovaRange::single(iova))?;
        if entry.state != State::Mapped {
            return None;
        }
        let offset = iova.0 - entry.iova.start().0;
        Some((PhysAddr(entry.phys.0.checked_add(offset)?), entry.access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, end: u64) -> Entry {
        Entry {
            iova: IovaRange::new(Iova(start), Iova(end)).unwrap(),
            phys: PhysAddr(0x8000_0000 + start),
            access: Access::READ,
            state: State::Mapped,
        }
    }

    #[test]
    fn only_exact_ranges_are_found() {
        let mut ledger = Ledger::new(2).unwrap();
        let (a, b) = (entry(0x5000, 0x6fff), entry(0x1000, 0x1fff));
        assert!(ledger.insert(a) && ledger.insert(b));
        assert!(!ledger.insert(entry(0x9000, 0x9fff)));
        for other in [entry(0x5000, 0x5fff), entry(0x6000, 0x6fff)] {
            assert!(!ledger.transition(other.iova, State::Mapped, State::Unmapping));
            ledger.remove(other.iova);
        }
        assert_eq!(ledger.iter().count(), 2);
        assert!(!ledger.transition(a.iova, State::Mapping, State::Mapped));
        assert!(ledger.transition(a.iova, State::Mapped, State::Quarantined));
        assert_eq!(ledger.count(State::Quarantined), 1);
        ledger.remove(a.iova);
        assert_eq!(ledger.iter().copied().collect::<Vec<_>>(), [b]);
    }

    #[test]
    fn overlaps_and_translations_byte_by_byte() {
        let mut ledger = Ledger::new(2).unwrap();
        assert!(ledger.insert(entry(0x1000, 0x1fff)) && ledger.insert(entry(0x3000, 0x4fff)));
        for address in 0..0x6000 {
            let mapped = matches!(address, 0x1000..=0x1fff | 0x3000..=0x4fff);
            let expected = mapped.then_some((PhysAddr(0x8000_0000 + address), Access::READ));
            assert_eq!(ledger.translate(Iova(address)), expected);
        }
        let between = IovaRange::new(Iova(0x2000), Iova(0x2fff)).unwrap();
        assert_eq!(ledger.overlap(between), None);
        let across = IovaRange::new(Iova(0x1fff), Iova(0x3000)).unwrap();
        assert!(ledger.overlap(across).is_some());
    }
}
