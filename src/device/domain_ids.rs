//! Which domain ids are taken.

use alloc::vec::Vec;

use crate::address::{DomainId, DomainRange};

/// Hands out the lowest free id of a range. Allocates when a domain is made, which is set-up.
#[derive(Debug)]
pub(crate) struct DomainIds {
    range: DomainRange,
    /// Sorted.
    taken: Vec<DomainId>,
    serial: u64,
}

impl DomainIds {
    pub(crate) fn new(range: DomainRange) -> Self {
        Self {
            range,
            taken: Vec::new(),
            serial: 0,
        }
    }

    /// A number that no domain had before.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// The lowest free id.
    pub(crate) fn take_lowest(&mut self) -> Option<DomainId> {
        let mut candidate = self.range.start();
        let mut at = 0;
        for taken in &self.taken {
            if *taken != candidate {
                break;
            }
            candidate = DomainId(candidate.0.checked_add(1)?);
            at += 1;
        }
        if !self.range.contains(candidate) {
            return None;
        }
        self.taken.insert(at, candidate);
        Some(candidate)
    }

    /// The highest free id.
    pub(crate) fn take_highest(&mut self) -> Option<DomainId> {
        let mut candidate = self.range.end();
        let mut at = self.taken.len();
        for taken in self.taken.iter().rev() {
            if *taken != candidate {
                break;
            }
            candidate = DomainId(candidate.0.checked_sub(1)?);
            at -= 1;
        }
        if !self.range.contains(candidate) {
            return None;
        }
        self.taken.insert(at, candidate);
        Some(candidate)
    }

    /// Takes an id back.
    pub(crate) fn give_back(&mut self, id: DomainId) {
        if let Ok(at) = self.taken.binary_search(&id) {
            self.taken.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_meet_and_ids_come_back() {
        let range = DomainRange::new(DomainId(u32::MAX - 2), DomainId(u32::MAX)).unwrap();
        let mut ids = DomainIds::new(range);
        assert_eq!(ids.take_highest(), Some(DomainId(u32::MAX)));
        assert_eq!(ids.take_lowest(), Some(DomainId(u32::MAX - 2)));
        assert_eq!(ids.take_highest(), Some(DomainId(u32::MAX - 1)));
        assert_eq!(ids.take_highest(), None);
        assert_eq!(ids.take_lowest(), None);
        ids.give_back(DomainId(u32::MAX - 1));
        assert_eq!(ids.take_lowest(), Some(DomainId(u32::MAX - 1)));
    }

    #[test]
    fn the_bottom_of_the_space_is_no_trap() {
        let range = DomainRange::new(DomainId(0), DomainId(1)).unwrap();
        let mut ids = DomainIds::new(range);
        assert_eq!(ids.take_highest(), Some(DomainId(1)));
        assert_eq!(ids.take_highest(), Some(DomainId(0)));
        assert_eq!(ids.take_highest(), None);
    }
}
