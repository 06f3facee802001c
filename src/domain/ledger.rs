//! The exact record of what is mapped: it decides what may be sent to the device.

#![forbid(unsafe_code)]

use super::record::{Owner, Record, State};
use crate::address::{Iova, IovaRange, PhysAddr};
use crate::iova::{IovaError, Slot, Space, Wish};
use crate::wire::Access;
use alloc::vec::Vec;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    pub(crate) iova: IovaRange,
    pub(crate) record: Record,
}

/// Which addresses are in use, and what for. Allocates when it is made, and never again.
#[derive(Debug)]
pub(crate) struct Ledger {
    space: Space<Record>,
    granule: u64,
    /// How many mappings are in each state.
    counts: [u32; State::COUNT],
}

impl Ledger {
    /// All of `usable`, in units of `granule` bytes, for at most `capacity` mappings.
    ///
    /// `None` without the memory for it.
    pub(crate) fn new(usable: IovaRange, granule: u64, capacity: usize) -> Option<Self> {
        Some(Self {
            space: Space::new(usable, granule, granule, capacity)?,
            granule,
            counts: [0; State::COUNT],
        })
    }

    /// Replaces the addresses that must not be used, which must be sorted and without overlaps.
    pub(crate) fn set_holes(&mut self, holes: Vec<IovaRange>) {
        self.space.set_holes(holes);
    }

    /// Finds addresses for a mapping, and records it as being made.
    #[inline(always)]
    pub(crate) fn insert(
        &mut self,
        wish: &Wish,
        record: Record,
    ) -> Result<(Slot, IovaRange), IovaError> {
        let found = self.space.alloc(wish, record)?;
        self.count_up(record.state());
        Ok(found)
    }

    /// Records a mapping at particular addresses as being made. No hole is left around it.
    pub(crate) fn insert_at(&mut self, iova: IovaRange, record: Record) -> Result<Slot, IovaError> {
        // An UNMAP that is on its way may cover the hole beside the mapping that it ends.
        let wide = self.with_margin(iova);
        let (below, above) = self.space.neighbours(iova);
        let state = |slot: Option<Slot>| {
            let slot = slot?;
            let near = self.space.range(slot)?.overlaps(&wide);
            near.then(|| self.state(slot)).flatten()
        };
        let (below, above) = (state(below), state(above));
        let ending = |state| matches!(state, Some(State::Unmapping | State::Flushing));
        // And if it was never confirmed, both of its sides are in quarantine.
        let doubtful = |state| state == Some(State::Quarantined);
        if ending(below) || ending(above) || doubtful(below) && doubtful(above) {
            return Err(IovaError::InUse);
        }
        let slot = self.space.take(iova, record)?;
        self.count_up(record.state());
        Ok(slot)
    }

    /// Notes where the parts of a scattered mapping lead.
    #[inline(always)]
    pub(crate) fn push_pieces(
        &mut self,
        slot: Slot,
        parts: impl Iterator<Item = (IovaRange, PhysAddr)>,
    ) -> Result<(), IovaError> {
        let access = self.space.get(slot).map_or(Access::empty(), Record::access);
        let record = |phys| Record::new(phys, access, Owner::Raw);
        self.space
            .push_pieces(slot, parts.map(|(iova, phys)| (iova, record(phys))))
    }

    /// Forgets a mapping, and frees its addresses.
    #[inline(always)]
    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(record) = self.space.remove(slot) {
            self.count_down(record.state());
        }
    }

    /// The mapping of exactly these addresses.
    pub(crate) fn find(&self, iova: IovaRange) -> Option<Slot> {
        self.space.find(iova)
    }

    /// The same, and fast if it was made together with the one at `near`.
    #[inline]
    pub(crate) fn find_near(&self, near: Slot, iova: IovaRange) -> Option<Slot> {
        self.space.find_near(near, iova)
    }

    /// The mapping of exactly these addresses, if whoever knows them may end it.
    pub(crate) fn find_raw(&self, iova: IovaRange) -> Option<Slot> {
        self.find_raw_near(Slot::NONE, iova)
    }

    /// The same, and fast if it was made together with the one at `near`.
    #[inline]
    pub(crate) fn find_raw_near(&self, near: Slot, iova: IovaRange) -> Option<Slot> {
        let slot = self.space.find_near(near, iova)?;
        (self.space.get(slot)?.owner() == Owner::Raw).then_some(slot)
    }

    pub(crate) fn state(&self, slot: Slot) -> Option<State> {
        Some(self.space.get(slot)?.state())
    }

    /// Moves a mapping from one state to another; `false` if it is not in that state.
    #[inline(always)]
    pub(crate) fn transition(&mut self, slot: Slot, from: State, to: State) -> bool {
        let moved = self.space.update(slot, |record| {
            (record.state() == from).then(|| record.with_state(to))
        });
        if moved {
            self.count_down(from);
            self.count_up(to);
        }
        moved
    }

    /// Whether somebody has yet to say what becomes of the memory of a mapping.
    pub(crate) fn is_owned(&self, slot: Slot) -> bool {
        let record = self.space.get(slot);
        record.is_some_and(|record| record.owner() == Owner::Buffer)
    }

    /// Notes that whoever had the memory of a mapping has said what becomes of it.
    pub(crate) fn disown(&mut self, slot: Slot) {
        if let Some(record) = self.space.get(slot)
            && record.owner() == Owner::Buffer
        {
            self.space.set(slot, record.with_owner(Owner::Handle));
        }
    }

    /// All mappings, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.space
            .iter()
            .map(|(slot, iova, record)| Entry { slot, iova, record })
    }

    /// The requests that a mapping takes: addresses, and where each part leads.
    pub(crate) fn pieces(&self, entry: Entry) -> impl Iterator<Item = (IovaRange, PhysAddr)> + '_ {
        let whole = (!entry.record.is_scattered()).then_some((entry.iova, entry.record.phys()));
        let pieces = self.space.pieces(entry.slot);
        whole
            .into_iter()
            .chain(pieces.map(|(iova, record)| (iova, record.phys())))
    }

    /// How many mappings are in a state.
    pub(crate) fn count(&self, state: State) -> usize {
        self.counts.get(state as usize).copied().unwrap_or(0) as usize
    }

    /// Whether a request about a mapping is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        [State::Mapping, State::Unmapping, State::Flushing]
            .into_iter()
            .any(|state| self.count(state) > 0)
    }

    /// Whether nothing but their hole is between two mappings, so that one UNMAP can end both.
    pub(crate) fn are_neighbours(&self, below: IovaRange, above: IovaRange) -> bool {
        let Some(distance) = above.start().0.checked_sub(below.end().0) else {
            return false;
        };
        match distance.checked_sub(1) {
            Some(0) => true,
            Some(gap) if gap == self.granule => {
                let gap = IovaRange::new(Iova(below.end().0 + 1), Iova(above.start().0 - 1));
                gap.is_some_and(|gap| self.space.overlap(gap).is_none())
            }
            _ => false,
        }
    }

    /// The same for two mappings in any order, with the slot of each.
    #[inline]
    pub(crate) fn are_side_by_side(&self, a: (Slot, IovaRange), b: (Slot, IovaRange)) -> bool {
        let ((_, below), (slot, above)) = if a.1.start() < b.1.start() {
            (a, b)
        } else {
            (b, a)
        };
        let hole = above.start().0.wrapping_sub(below.end().0).wrapping_sub(1);
        // As a rule nothing is kept there either.
        hole == self.granule && self.space.free_below(slot) == 1
            || self.are_neighbours(below, above)
    }

    /// The mappings from `range` upwards that are in `state`, as far as one UNMAP can end them:
    /// the addresses from the first to the last, if `range` is the lowest of them.
    pub(crate) fn run_from(&self, slot: Slot, state: State) -> Option<IovaRange> {
        let first = self.space.range(slot)?;
        let joins = |slot: Slot, below: IovaRange, above: IovaRange| {
            self.state(slot) == Some(state) && self.are_neighbours(below, above)
        };
        let (below, mut next) = self.space.neighbours(first);
        if let Some(below) = below
            && joins(below, self.space.range(below)?, first)
        {
            return None;
        }
        let mut last = first;
        while let Some(above) = next {
            let range = self.space.range(above)?;
            if !joins(above, last, range) {
                break;
            }
            last = range;
            next = self.space.neighbours(range).1;
        }
        IovaRange::new(first.start(), last.end())
    }

    /// The mappings of a run, by address.
    pub(crate) fn next_in(&self, run: IovaRange, after: Option<Slot>) -> Option<Slot> {
        let next = match after {
            None => self.space.overlap(IovaRange::single(run.start())),
            Some(slot) => self.space.neighbours(self.space.range(slot)?).1,
        }?;
        run.contains_range(&self.space.range(next)?).then_some(next)
    }

    /// Where the mapped byte at `iova` is in physical memory.
    pub(crate) fn translate(&self, iova: Iova) -> Option<(PhysAddr, Access)> {
        let slot = self.space.overlap(IovaRange::single(iova))?;
        let record = self.space.get(slot)?;
        if !matches!(record.state(), State::Mapped | State::Parked) {
            return None;
        }
        let range = self.space.range(slot)?;
        let entry = Entry {
            slot,
            iova: range,
            record,
        };
        let (piece, phys) = self.pieces(entry).find(|(piece, _)| piece.contains(iova))?;
        let offset = iova.0 - piece.start().0;
        Some((PhysAddr(phys.0.checked_add(offset)?), record.access()))
    }

    /// `range` and a granule on both sides.
    fn with_margin(&self, range: IovaRange) -> IovaRange {
        let start = range.start().0.saturating_sub(self.granule);
        let end = range.end().0.saturating_add(self.granule);
        IovaRange::new(Iova(start), Iova(end)).unwrap_or(range)
    }

    #[inline(always)]
    fn count_up(&mut self, state: State) {
        if let Some(count) = self.counts.get_mut(state as usize) {
            *count = count.wrapping_add(1);
        }
    }

    #[inline(always)]
    fn count_down(&mut self, state: State) {
        if let Some(count) = self.counts.get_mut(state as usize) {
            *count = count.wrapping_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const G: u64 = 0x1000;

    fn range(start: u64, end: u64) -> IovaRange {
        IovaRange::new(Iova(start), Iova(end)).unwrap()
    }

    fn ledger(capacity: usize) -> Ledger {
        Ledger::new(range(G, 0x7_ffff), G, capacity).unwrap()
    }

    /// A mapping in force, of `pages` from page `first`, which leads to 0x8000_0000 further up.
    fn map(ledger: &mut Ledger, first: u64, pages: u64) -> Slot {
        let iova = range(first * G, (first + pages) * G - 1);
        let phys = PhysAddr(0x8000_0000 + first * G);
        let record = Record::new(phys, Access::READ, Owner::Raw);
        let slot = ledger.insert_at(iova, record).unwrap();
        assert!(ledger.transition(slot, State::Mapping, State::Mapped));
        slot
    }

    #[test]
    fn only_exact_ranges_are_found_and_states_are_counted() {
        let mut ledger = ledger(2);
        let a = map(&mut ledger, 5, 2);
        let b = map(&mut ledger, 1, 1);
        let record = Record::new(PhysAddr(0), Access::READ, Owner::Raw);
        assert_eq!(
            ledger.insert_at(range(0x9000, 0x9fff), record),
            Err(IovaError::Full)
        );
        for other in [
            range(0x5000, 0x5fff),
            range(0x6000, 0x6fff),
            range(0x4000, 0x6fff),
        ] {
            assert_eq!(ledger.find(other), None);
        }
        assert_eq!(ledger.find(range(0x5000, 0x6fff)), Some(a));
        assert!(!ledger.transition(a, State::Mapping, State::Mapped));
        assert!(!ledger.is_busy());
        assert!(ledger.transition(a, State::Mapped, State::Unmapping));
        assert!(ledger.is_busy());
        assert!(ledger.transition(a, State::Unmapping, State::Quarantined));
        assert_eq!(
            (
                ledger.count(State::Quarantined),
                ledger.count(State::Mapped)
            ),
            (1, 1)
        );
        ledger.remove(a);
        assert_eq!(ledger.count(State::Quarantined), 0);
        assert_eq!(
            ledger.iter().map(|entry| entry.slot).collect::<Vec<_>>(),
            [b]
        );
    }

    #[test]
    fn what_belongs_to_a_handle_is_not_found_by_its_addresses() {
        let mut ledger = ledger(1);
        let record = Record::new(PhysAddr(0), Access::READ, Owner::Handle);
        let slot = ledger.insert_at(range(0x1000, 0x1fff), record).unwrap();
        assert_eq!(ledger.find(range(0x1000, 0x1fff)), Some(slot));
        assert_eq!(ledger.find_raw(range(0x1000, 0x1fff)), None);
    }

    #[test]
    fn memory_has_an_owner_until_somebody_says_what_becomes_of_it() {
        let mut ledger = ledger(2);
        let record = Record::new(PhysAddr(0x5000), Access::WRITE, Owner::Buffer);
        let slot = ledger.insert_at(range(0x1000, 0x1fff), record).unwrap();
        assert!(ledger.is_owned(slot));
        assert_eq!(ledger.find_raw(range(0x1000, 0x1fff)), None);
        assert!(ledger.transition(slot, State::Mapping, State::Mapped));
        for _ in 0..2 {
            ledger.disown(slot);
            assert!(!ledger.is_owned(slot));
            assert_eq!(ledger.find_raw(range(0x1000, 0x1fff)), None);
        }
        let at = ledger.translate(Iova(0x1000));
        assert_eq!(at, Some((PhysAddr(0x5000), Access::WRITE)));
        // What anybody may end stays so.
        let raw = map(&mut ledger, 3, 1);
        ledger.disown(raw);
        assert_eq!(ledger.find_raw(range(0x3000, 0x3fff)), Some(raw));
        ledger.remove(slot);
        ledger.disown(slot);
        assert!(!ledger.is_owned(slot));
    }

    #[test]
    fn translations_byte_by_byte() {
        let mut ledger = ledger(8);
        map(&mut ledger, 1, 1);
        map(&mut ledger, 3, 2);
        // Pages 6 and 7 lead elsewhere, page 7 below page 6.
        let scattered = Record::scattered(Access::WRITE, Owner::Raw);
        let slot = ledger.insert_at(range(0x6000, 0x7fff), scattered).unwrap();
        let pages = [(0x6000, 0x9000_5000), (0x7000, 0x9000_1000)];
        for (start, phys) in pages {
            let page = range(start, start + 0xfff);
            let part = core::iter::once((page, PhysAddr(phys)));
            ledger.push_pieces(slot, part).unwrap();
        }
        assert_eq!(ledger.translate(Iova(0x6000)), None);
        assert!(ledger.transition(slot, State::Mapping, State::Mapped));
        for address in 0..0x9000_u64 {
            let expected = match address {
                0x1000..=0x1fff | 0x3000..=0x4fff => Some((0x8000_0000 + address, Access::READ)),
                0x6000..=0x6fff => Some((0x9000_5000 + (address & 0xfff), Access::WRITE)),
                0x7000..=0x7fff => Some((0x9000_1000 + (address & 0xfff), Access::WRITE)),
                _ => None,
            };
            let expected = expected.map(|(phys, access)| (PhysAddr(phys), access));
            assert_eq!(ledger.translate(Iova(address)), expected, "{address:#x}");
        }
    }

    #[test]
    fn runs_end_at_what_is_further_away_or_in_another_state() {
        let mut ledger = ledger(16);
        // Two neighbours with a hole, one that touches, one two granules away, one in use.
        let a = map(&mut ledger, 2, 1);
        let b = map(&mut ledger, 4, 2);
        let c = map(&mut ledger, 6, 1);
        let d = map(&mut ledger, 9, 1);
        let e = map(&mut ledger, 11, 1);
        for slot in [c, a, d, b] {
            assert!(ledger.transition(slot, State::Mapped, State::Parked));
            assert!(ledger.transition(slot, State::Parked, State::Flushing));
        }
        let run = range(0x2000, 0x6fff);
        assert_eq!(ledger.run_from(a, State::Flushing), Some(run));
        assert_eq!(ledger.run_from(b, State::Flushing), None);
        assert_eq!(ledger.run_from(c, State::Flushing), None);
        assert_eq!(
            ledger.run_from(d, State::Flushing),
            Some(range(0x9000, 0x9fff))
        );
        let mut seen = vec![];
        let mut at = None;
        while let Some(slot) = ledger.next_in(run, at) {
            seen.push(slot);
            at = Some(slot);
        }
        assert_eq!(seen, [a, b, c]);
        // An UNMAP on its way may cover the hole.
        let record = Record::new(PhysAddr(0), Access::READ, Owner::Raw);
        for page in [
            range(0x3000, 0x3fff),
            range(0x7000, 0x7fff),
            range(0x1000, 0x1fff),
        ] {
            assert_eq!(ledger.insert_at(page, record), Err(IovaError::InUse));
        }
        assert!(ledger.insert_at(range(0xd000, 0xdfff), record).is_ok());
        assert_eq!(ledger.state(e), Some(State::Mapped));
        // Even if nobody waits for it any more.
        for slot in [a, b, c, d] {
            assert!(ledger.transition(slot, State::Flushing, State::Quarantined));
        }
        let hole = range(0x3000, 0x3fff);
        assert_eq!(ledger.insert_at(hole, record), Err(IovaError::InUse));
        assert!(ledger.insert_at(range(0x7000, 0x7fff), record).is_ok());
        ledger.remove(b);
        assert!(ledger.insert_at(hole, record).is_ok());
    }

    #[test]
    fn a_mapping_in_the_hole_keeps_its_neighbours_apart() {
        let mut ledger = ledger(4);
        let (a, b) = (range(0x2000, 0x2fff), range(0x4000, 0x4fff));
        map(&mut ledger, 2, 1);
        map(&mut ledger, 4, 1);
        assert!(ledger.are_neighbours(a, b));
        assert!(!ledger.are_neighbours(b, a));
        map(&mut ledger, 3, 1);
        assert!(!ledger.are_neighbours(a, b));
        assert!(ledger.are_neighbours(a, range(0x3000, 0x3fff)));
        assert!(!ledger.are_neighbours(a, range(0x5000, 0x5fff)));
    }
}
