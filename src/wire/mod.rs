//! The bytes of the specification (virtio 1.2 to 1.4, §5.13): what goes to the device and what
//! comes back.
//!
//! Requests are built here from checked values; replies and events are parsed here from bytes that
//! are not trusted. Nothing in this module touches memory that the device can see.

#![forbid(unsafe_code)]

mod config;
mod fault;
mod features;
mod probe;
mod request;
mod status;

pub use config::{ConfigError, Geometry};
pub use fault::{Fault, FaultReason};
pub use features::{Access, Features};
pub use probe::{ProbeError, ReservedKind, ReservedRegion};
pub use status::Status;

pub(crate) use config::{RawConfig, offset};
pub(crate) use fault::{EVENT_SIZE, parse_event};
pub(crate) use probe::parse_properties;
pub(crate) use request::{AttachFlags, ENCODED_WORDS, PROBE_WORDS, Request, TAIL_SIZE};
pub(crate) use status::{STATUS_OK, parse_status};

/// Index of the request queue (§5.13.2).
pub(crate) const REQUEST_QUEUE: u16 = 0;
/// Index of the event queue (§5.13.2).
pub(crate) const EVENT_QUEUE: u16 = 1;
