//! Which buffers are mapped: found by their address when the driver has them back, and by their
//! pages when they come again.

use alloc::vec::Vec;

use super::lent::Lent;
use crate::address::Iova;
use crate::dma::DmaDevice;
use crate::dma::{
    Bidirectional, Completed, Deferred, Direction, FromDevice, MapFailure, Mapping, ToDevice,
};
use crate::domain::UnmapError;
use crate::platform::Platform;

const NONE: u32 = u32::MAX;

/// A buffer that the endpoint has.
pub(super) enum Mapped<P: Platform> {
    To(Mapping<Lent<P>, ToDevice, P>),
    From(Mapping<Lent<P>, FromDevice, P>),
    Both(Mapping<Lent<P>, Bidirectional, P>),
}

/// A buffer that the driver has back, and that the endpoint can still reach.
pub(super) enum Parked<P: Platform> {
    To(Deferred<Lent<P>, ToDevice, P>),
    From(Deferred<Lent<P>, FromDevice, P>),
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    To,
    From,
    Both,
}

/// What a buffer that comes again is known by: where it begins in physical memory, its length, and
/// its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) phys: u64,
    pub(super) len: usize,
    pub(super) way: Way,
    /// Whether the pages are no neighbours: then the first of them does not tell the others.
    pub(super) scattered: bool,
}

impl<P: Platform> Mapped<P> {
    /// Maps a buffer.
    #[inline]
    pub(super) fn new(
        device: &DmaDevice<P>,
        lent: Lent<P>,
        way: Way,
    ) -> Result<Self, MapFailure<Lent<P>>> {
        match way {
            Way::To => device.map(lent).map(Self::To),
            Way::From => device.map(lent).map(Self::From),
            Way::Both => device.map(lent).map(Self::Both),
        }
    }

    /// Where the endpoint finds the first byte.
    #[inline]
    pub(super) fn device_addr(&self) -> Iova {
        match self {
            Self::To(mapping) => mapping.device_addr(),
            Self::From(mapping) => mapping.device_addr(),
            Self::Both(mapping) => mapping.device_addr(),
        }
    }

    /// Unmaps the buffer.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    #[inline]
    pub(super) unsafe fn end(self) -> Result<(), UnmapError> {
        match self {
            Self::To(mapping) => {
                // SAFETY: the caller's promise.
                end(unsafe { mapping.complete() })
            }
            Self::From(mapping) => {
                // SAFETY: the caller's promise.
                end(unsafe { mapping.complete() })
            }
            Self::Both(mapping) => {
                // SAFETY: the caller's promise.
                end(unsafe { mapping.complete() })
            }
        }
    }

    /// Puts the UNMAP of the buffer off; sends it now if that cannot be.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::complete`].
    #[inline]
    pub(super) unsafe fn park(self) -> Result<Option<Parked<P>>, UnmapError> {
        match self {
            Self::To(mapping) => {
                // SAFETY: the caller's promise.
                let completed = unsafe { mapping.complete() };
                Ok(Some(Parked::To(completed.defer())))
            }
            Self::From(mapping) => {
                // SAFETY: the caller's promise.
                let completed = unsafe { mapping.complete() };
                Ok(Some(Parked::From(completed.defer())))
            }
            Self::Both(_) => {
                // SAFETY: the caller's promise.
                unsafe { self.end() }.map(|()| None)
            }
        }
    }
}

#[inline]
fn end<D: Direction, P: Platform>(completed: Completed<Lent<P>, D, P>) -> Result<(), UnmapError> {
    completed.unmap().map(drop)
}

impl<P: Platform> Parked<P> {
    /// Takes the buffer back into use, if that takes no request.
    #[inline]
    pub(super) fn resume(self) -> Option<Mapped<P>> {
        match self {
            Self::To(deferred) => deferred.resume().map(Mapped::To),
            Self::From(deferred) => deferred.resume().map(Mapped::From),
        }
    }
}

enum Use<P: Platform> {
    /// Free, or promised to a buffer that is being mapped.
    Empty,
    InFlight(u64, Key, Mapped<P>),
    Parked(Key, Parked<P>),
}

struct Entry<P: Platform> {
    what: Use<P>,
    /// The next in the list that the entry is in.
    next: u32,
}

/// A place in the table for a buffer that is being mapped.
#[derive(Debug)]
#[must_use = "a place that is forgotten is lost"]
pub(super) struct Room(u32);

/// The buffers that are mapped. Allocates when it is made, and never again.
pub(super) struct Table<P: Platform> {
    entries: Vec<Entry<P>>,
    /// Lists of buffers in flight, by a hash of the address.
    in_flight: Vec<u32>,
    /// Lists of parked ones, by a hash of the key.
    parked: Vec<u32>,
    free: u32,
    /// Where the search for a parked one to evict goes on.
    hand: u32,
    mapped: usize,
    most: usize,
    waiting: usize,
}

/// A bucket of a power of two of them.
#[inline]
fn bucket(value: u64, buckets: usize) -> usize {
    let hash = (value >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32) as usize & (buckets - 1)
}

impl Key {
    #[inline]
    fn hash(&self) -> u64 {
        let way = (self.way as u64) << 12;
        self.phys ^ (self.len as u64).rotate_left(20) ^ way
    }
}

impl<P: Platform> Table<P> {
    /// Room for `capacity` buffers; `None` without the memory for it.
    pub(super) fn new(capacity: usize) -> Option<Self> {
        let count = u32::try_from(capacity).ok().filter(|count| *count < NONE)?;
        let buckets = capacity.max(1).checked_next_power_of_two()?;
        let (mut entries, mut in_flight, mut parked) = (Vec::new(), Vec::new(), Vec::new());
        entries.try_reserve_exact(capacity).ok()?;
        in_flight.try_reserve_exact(buckets).ok()?;
        parked.try_reserve_exact(buckets).ok()?;
        entries.extend((0..count).map(|at| Entry {
            what: Use::Empty,
            next: if at + 1 < count { at + 1 } else { NONE },
        }));
        in_flight.resize(buckets, NONE);
        parked.resize(buckets, NONE);
        Some(Self {
            entries,
            in_flight,
            parked,
            free: if count == 0 { NONE } else { 0 },
            hand: 0,
            mapped: 0,
            most: 0,
            waiting: 0,
        })
    }

    /// Buffers that are in flight, those included that are being mapped.
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    /// The most of them that there were.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Buffers that are parked.
    pub(super) fn parked(&self) -> usize {
        self.waiting
    }

    /// A place for a buffer that is to be mapped.
    #[inline]
    pub(super) fn reserve(&mut self) -> Option<Room> {
        let at = self.free;
        self.free = self.entries.get(at as usize)?.next;
        self.mapped += 1;
        self.most = self.most.max(self.mapped);
        Some(Room(at))
    }

    /// Gives a place back.
    #[inline]
    pub(super) fn cancel(&mut self, room: Room) {
        self.mapped -= 1;
        self.free_entry(room.0);
    }

    fn free_entry(&mut self, at: u32) {
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.what = Use::Empty;
            entry.next = self.free;
            self.free = at;
        }
    }

    /// Notes that a buffer is in flight.
    #[inline]
    pub(super) fn fill(&mut self, room: Room, key: Key, mapped: Mapped<P>) {
        let iova = mapped.device_addr().0;
        let bucket = bucket(iova, self.in_flight.len());
        let head = self.in_flight.get_mut(bucket);
        let entry = self.entries.get_mut(room.0 as usize);
        if let (Some(head), Some(entry)) = (head, entry) {
            entry.what = Use::InFlight(iova, key, mapped);
            entry.next = core::mem::replace(head, room.0);
        }
    }

    /// Takes the buffer out that is in flight at an address; its place stays reserved.
    #[inline]
    pub(super) fn take(&mut self, iova: Iova) -> Option<(Room, Key, Mapped<P>)> {
        let bucket = bucket(iova.0, self.in_flight.len());
        let wanted = |what: &Use<P>| matches!(what, Use::InFlight(at, ..) if *at == iova.0);
        let (at, what) = unlink(&mut self.entries, self.in_flight.get_mut(bucket)?, wanted)?;
        match what {
            Use::InFlight(_, key, mapped) => Some((Room(at), key, mapped)),
            _ => None,
        }
    }

    /// Takes any buffer out that is in flight.
    pub(super) fn take_any(&mut self) -> Option<(Room, Mapped<P>)> {
        let iova = self.entries.iter().find_map(|entry| match entry.what {
            Use::InFlight(iova, ..) => Some(iova),
            _ => None,
        })?;
        let (room, _, mapped) = self.take(Iova(iova))?;
        Some((room, mapped))
    }

    /// Keeps a buffer that is parked, in the place that it had.
    #[inline]
    pub(super) fn park(&mut self, room: Room, key: Key, parked: Parked<P>) {
        let bucket = bucket(key.hash(), self.parked.len());
        let head = self.parked.get_mut(bucket);
        let entry = self.entries.get_mut(room.0 as usize);
        if let (Some(head), Some(entry)) = (head, entry) {
            entry.what = Use::Parked(key, parked);
            entry.next = core::mem::replace(head, room.0);
            self.mapped -= 1;
            self.waiting += 1;
        }
    }

    /// Takes a parked buffer out; its place is reserved for it again.
    #[inline]
    pub(super) fn unpark(&mut self, key: Key) -> Option<(Room, Parked<P>)> {
        let bucket = bucket(key.hash(), self.parked.len());
        let wanted = |what: &Use<P>| matches!(what, Use::Parked(of, _) if *of == key);
        let (at, what) = unlink(&mut self.entries, self.parked.get_mut(bucket)?, wanted)?;
        match what {
            Use::Parked(_, parked) => {
                self.waiting -= 1;
                self.mapped += 1;
                self.most = self.most.max(self.mapped);
                Some((Room(at), parked))
            }
            _ => None,
        }
    }

    /// Takes some parked buffer out, so that its place can be used for another.
    pub(super) fn evict(&mut self) -> Option<(Room, Parked<P>)> {
        if self.waiting == 0 {
            return None;
        }
        for _ in 0..self.entries.len() {
            let at = self.hand as usize;
            self.hand = if at + 1 < self.entries.len() {
                self.hand + 1
            } else {
                0
            };
            if let Some(Use::Parked(key, _)) = self.entries.get(at).map(|entry| &entry.what) {
                return self.unpark(*key);
            }
        }
        None
    }
}

/// Takes the first entry out of a list that is `wanted`.
#[inline]
fn unlink<P: Platform>(
    entries: &mut [Entry<P>],
    head: &mut u32,
    wanted: impl Fn(&Use<P>) -> bool,
) -> Option<(u32, Use<P>)> {
    let (mut before, mut at) = (NONE, *head);
    // As many steps as there are entries, at the most.
    for _ in 0..entries.len() {
        let entry = entries.get_mut(at as usize)?;
        let next = entry.next;
        if !wanted(&entry.what) {
            (before, at) = (at, next);
            continue;
        }
        let what = core::mem::replace(&mut entry.what, Use::Empty);
        match entries.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => *head = next,
        }
        return Some((at, what));
    }
    None
}
