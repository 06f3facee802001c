//! What can be wrong with a trace.

use super::expect::Kind;
use super::registers::Misuse;
use super::request::{Range, Request, Status};
use super::trace::Event;
use super::translated::Astray;
use std::fmt;

/// One thing in a trace that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Guest and device disagree about which request is next.
    Disagreement {
        /// What the guest recorded, with its serial line.
        guest: Option<(usize, Request)>,
        /// What the device traced, with its line.
        device: Option<(usize, Event)>,
    },
    /// The guest recorded another status than the device must have given.
    Status {
        /// The guest's record, with its serial line.
        guest: (usize, Request),
        /// What is right.
        expected: Status,
    },
    /// A request had other consequences in the device than it must have.
    Effects {
        /// Line of the trace.
        line: usize,
        /// What is right.
        expected: Vec<Event>,
        /// What was traced.
        found: Vec<Event>,
    },
    /// An UNMAP that removed nothing; the device answers OK to it.
    EmptyUnmap {
        /// Line of the trace.
        line: usize,
    },
    /// An UNMAP that begins or ends where no mapping does: it takes away more than was given.
    LooseUnmap {
        /// Line of the trace.
        line: usize,
    },
    /// A request that the device takes and the specification forbids.
    Forbidden {
        /// Line of the trace.
        line: usize,
        /// Which rule.
        rule: Rule,
    },
    /// Mapped at the end: domain and addresses.
    StillMapped(u32, Range),
    /// Attached at the end: the endpoints.
    StillAttached(Vec<u32>),
    /// The scenario attaches other endpoints than these that were.
    Endpoints(Vec<u32>),
    /// The order of device status values of one start.
    StatusOrder(Vec<u32>),
    /// Complete and failed starts.
    Starts {
        /// Up to DRIVER_OK.
        complete: usize,
        /// Ended with FAILED.
        failed: usize,
    },
    /// Fewer accepted MAPs than the scenario cannot do without.
    Maps(usize),
    /// A fault that must be there is not, or not often enough: reason, flags, how many there are.
    MissingFault(u32, u32, usize),
    /// A fault for another reason than the device's account of the endpoint has.
    Reason {
        /// Line of the trace.
        line: usize,
        /// What is right: 0 UNKNOWN, 1 DOMAIN, 2 MAPPING.
        expected: u32,
    },
    /// An access of a device was refused, and the line before is not the fault for it.
    NoFault {
        /// Line of the trace.
        line: usize,
    },
    /// A fault in a scenario without faults, or of an endpoint that it does not have.
    UnexpectedFault {
        /// Line of the trace.
        line: usize,
    },
    /// No kick carried this many requests of this kind.
    NoBatch(Kind, usize),
    /// No UNMAP removed so many mappings at once; the most are these.
    NotMerged(usize),
    /// More notifications of the request queue than requests: of those that leave no trace, or of all where the device
    /// works in a thread of its own.
    Kicks {
        /// Notifications, without a request in the trace.
        kicks: usize,
        /// Requests that they can have been for.
        requests: usize,
    },
    /// The device went from the requests of one CPU to those of another this often: too seldom for CPUs that work at the
    /// same time, or at all where there is one.
    Turns(usize),
    /// The device refused something where it should not, or (false) refused nothing where it should.
    Refusals(bool),
    /// The device's geometry or an endpoint's reserved regions are not those of the scenario.
    Machine(&'static str),
    /// The trace shows nothing of the IOMMU, or something where there is none.
    Absent,
    /// A device does not use what is mapped, or gets somewhere else.
    Translation {
        /// Line of the trace.
        line: usize,
        /// What is wrong.
        astray: Astray,
    },
    /// Registers of the transport are not used as they must be.
    Registers {
        /// Line of the trace.
        line: usize,
        /// What was done.
        misuse: Misuse,
    },
}

/// Rules that QEMU does not check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The end is not below the start.
    Inverted,
    /// Addresses are multiples of the granule.
    Granule,
    /// Addresses lie in `input_range`.
    InputRange,
    /// Nothing is mapped over a reserved region.
    Reserved,
    /// The physical range does not wrap.
    Physical,
    /// Domain ids lie in `domain_range`.
    DomainRange,
    /// Nothing but READ, WRITE and MMIO, and not none of them.
    Flags,
    /// No endpoint is attached to a domain that does not translate.
    PassThrough,
    /// An endpoint is probed before it is attached.
    ProbeFirst,
    /// No queue is notified before DRIVER_OK.
    EarlyKick,
    /// Endpoints that cannot be told apart are in one domain.
    Together,
    /// `bypass` is written 0 between DRIVER_OK and the first ATTACH, and nothing else is ever written to it.
    Bypass,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disagreement { guest, device } => {
                match guest {
                    Some((line, request)) => {
                        write!(f, "guest recorded {request:?} (serial line {line}), ")
                    }
                    None => write!(f, "guest recorded nothing more, "),
                }?;
                match device {
                    Some((line, event)) => write!(f, "device saw {event:?} (trace line {line})"),
                    None => write!(f, "device saw nothing more"),
                }
            }
            Self::Status {
                guest: (line, request),
                expected,
            } => write!(
                f,
                "{request:?} (serial line {line}) must have got {expected:?}"
            ),
            Self::Effects {
                line,
                expected,
                found,
            } => write!(
                f,
                "trace line {line}: the device did {found:?} and should have done {expected:?}"
            ),
            Self::EmptyUnmap { line } => write!(f, "trace line {line}: an UNMAP of nothing"),
            Self::LooseUnmap { line } => write!(
                f,
                "trace line {line}: an UNMAP of more than the mappings that it removed"
            ),
            Self::Forbidden { line, rule } => {
                write!(f, "trace line {line}: forbidden by the rule {rule:?}")
            }
            Self::StillMapped(domain, range) => {
                write!(f, "still mapped at the end: domain {domain}, {range}")
            }
            Self::StillAttached(endpoints) => {
                write!(f, "attached at the end: endpoints {endpoints:?}")
            }
            Self::Endpoints(seen) => write!(f, "the endpoints that were attached are {seen:?}"),
            Self::StatusOrder(values) => write!(f, "device status was written {values:?}"),
            Self::Starts { complete, failed } => {
                write!(f, "{complete} complete starts and {failed} failed ones")
            }
            Self::Maps(count) => write!(f, "only {count} mappings made"),
            Self::MissingFault(reason, flags, count) => write!(
                f,
                "{count} faults of reason {reason} with flags {flags:#x}: too few"
            ),
            Self::Reason { line, expected } => {
                write!(f, "trace line {line}: the reason must be {expected}")
            }
            Self::NoFault { line } => write!(f, "trace line {line}: refused without a fault"),
            Self::UnexpectedFault { line } => write!(f, "trace line {line}: unexpected fault"),
            Self::NoBatch(kind, count) => {
                write!(f, "no kick made the device do {count} requests {kind:?}")
            }
            Self::NotMerged(most) => write!(f, "no UNMAP removed more than {most} mappings"),
            Self::Kicks { kicks, requests } => {
                write!(
                    f,
                    "{kicks} notifications that can be for {requests} requests only"
                )
            }
            Self::Turns(count) => write!(
                f,
                "the device went from the requests of one CPU to those of another {count} times"
            ),
            Self::Refusals(true) => write!(f, "the device refused a request"),
            Self::Refusals(false) => write!(f, "the device refused no request"),
            Self::Machine(what) => write!(f, "the machine is not as asked for: {what}"),
            Self::Translation { line, astray } => {
                write!(f, "trace line {line}: {astray:?}")
            }
            Self::Registers { line, misuse } => {
                write!(f, "trace line {line}: registers: {misuse:?}")
            }
            Self::Absent => write!(f, "an IOMMU is traced where there is none, or the reverse"),
        }
    }
}
