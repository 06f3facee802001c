//! What is known of one mapping, in 64 bits.

#![forbid(unsafe_code)]

use crate::address::PhysAddr;
use crate::wire::Access;

/// How far a mapping has come. The device translates it from [`Mapping`](State::Mapping) up to
/// [`Quarantined`](State::Quarantined), or may do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// A MAP request is on its way.
    Mapping,
    /// The device translates it, while the domain has an endpoint.
    Mapped,
    /// As [`Mapped`](State::Mapped), but nobody needs it any more: the UNMAP is put off.
    Parked,
    /// An UNMAP request is on its way.
    Unmapping,
    /// As [`Unmapping`](State::Unmapping), and the request may cover neighbours.
    Flushing,
    /// The device may translate it, now or later. Its addresses are not used again.
    Quarantined,
    /// The device does not translate it any more; whoever owns it has not taken note yet.
    Revoked,
    /// The device does not translate it any more, but an endpoint may still use the addresses, or
    /// the memory through an access that it began before.
    Retired,
}

impl State {
    /// How many states there are.
    pub(crate) const COUNT: usize = 8;

    const ALL: [Self; Self::COUNT] = [
        Self::Mapping,
        Self::Mapped,
        Self::Parked,
        Self::Unmapping,
        Self::Flushing,
        Self::Quarantined,
        Self::Revoked,
        Self::Retired,
    ];

    const fn from_bits(bits: u64) -> Self {
        Self::ALL[(bits & 7) as usize]
    }
}

/// Who may end a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Whoever knows its addresses.
    Raw,
    /// A value that stands for it: a doorbell, or a mapping whose memory is nobody's business.
    Handle,
    /// A value that stands for it and for its memory, and that has yet to say what becomes of both.
    Buffer,
}

/// One mapping: where it leads, what is allowed, whose it is, and its state.
///
/// Physical addresses are whole granules, and a granule has 4096 bytes or more: twelve bits are
/// left for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(u64);

// What a node of the ledger has room for.
const _: () = assert!(size_of::<Record>() == 8);

const ACCESS: u64 = 0b111;
const STATE_SHIFT: u32 = 3;
const STATE: u64 = 0b111 << STATE_SHIFT;
const HANDLE: u64 = 1 << 6;
const SCATTERED: u64 = 1 << 7;
const BUFFER: u64 = 1 << 8;
const OWNER: u64 = HANDLE | BUFFER;
const PHYS: u64 = !0xfff;

impl Record {
    /// A mapping that is about to be made.
    pub(crate) const fn new(phys: PhysAddr, access: Access, owner: Owner) -> Self {
        let state = (State::Mapping as u64) << STATE_SHIFT;
        Self(phys.0 & PHYS | access.bits() as u64 & ACCESS | state).with_owner(owner)
    }

    /// The same, for one that leads to several places.
    pub(crate) const fn scattered(access: Access, owner: Owner) -> Self {
        Self(Self::new(PhysAddr(0), access, owner).0 | SCATTERED)
    }

    /// Where it leads, unless it is scattered.
    pub(crate) const fn phys(self) -> PhysAddr {
        PhysAddr(self.0 & PHYS)
    }

    pub(crate) const fn access(self) -> Access {
        Access::from_bits_truncate((self.0 & ACCESS) as u32)
    }

    pub(crate) const fn state(self) -> State {
        State::from_bits(self.0 >> STATE_SHIFT)
    }

    pub(crate) const fn owner(self) -> Owner {
        match self.0 & OWNER {
            0 => Owner::Raw,
            HANDLE => Owner::Handle,
            _ => Owner::Buffer,
        }
    }

    pub(crate) const fn with_owner(self, owner: Owner) -> Self {
        let owner = match owner {
            Owner::Raw => 0,
            Owner::Handle => HANDLE,
            Owner::Buffer => BUFFER,
        };
        Self(self.0 & !OWNER | owner)
    }

    pub(crate) const fn is_scattered(self) -> bool {
        self.0 & SCATTERED != 0
    }

    pub(crate) const fn with_state(self, state: State) -> Self {
        Self(self.0 & !STATE | (state as u64) << STATE_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_kept_and_changed_by_itself() {
        let phys = PhysAddr(0xffff_ffff_ffff_f000);
        for access in [
            Access::READ,
            Access::WRITE,
            Access::MMIO | Access::WRITE,
            Access::all(),
        ] {
            for owner in [Owner::Raw, Owner::Handle, Owner::Buffer] {
                let record = Record::new(phys, access, owner);
                assert_eq!(record.state(), State::Mapping);
                for state in State::ALL {
                    let record = record.with_state(state);
                    assert_eq!(record.state(), state);
                    assert_eq!(record.phys(), phys);
                    assert_eq!(record.access(), access);
                    assert_eq!(record.owner(), owner);
                    assert!(!record.is_scattered());
                    let disowned = record.with_owner(Owner::Handle);
                    assert_eq!(disowned.owner(), Owner::Handle);
                    assert_eq!(disowned.with_owner(owner), record);
                }
                let scattered = Record::scattered(access, owner).with_state(State::Parked);
                assert!(scattered.is_scattered());
                assert_eq!(scattered.access(), access);
                assert_eq!(scattered.owner(), owner);
            }
        }
    }

    #[test]
    fn state_numbers_are_their_places() {
        for (i, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, i);
        }
    }
}
