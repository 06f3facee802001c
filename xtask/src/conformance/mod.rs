//! The rules of the specification, which tests prove them, and the page that shows it.
//!
//! | module | what it does |
//! |---|---|
//! | [`rules`] | the table: every rule of a driver, what it must bear, and what of virtio applies |
//! | [`proof`] | how a test says what it proves, and how that is kept |
//! | [`scan`] | what the sources of the tests claim to prove, and the gaps |
//! | [`data`] | `docs/conformance.json` |
//! | [`collect`] | from what was kept of a run to the data |
//! | [`long_runs`] | what runs against random input have reached |
//! | [`markdown`], [`html`] | the two pages |
//! | [`report`] | `cargo xtask test --report` |

pub mod collect;
pub mod data;
pub mod html;
pub mod long_runs;
pub mod markdown;
pub mod proof;
pub mod report;
pub mod rules;
pub mod scan;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use proof::{met, proves};

/// How strongly the specification asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// MUST or MUST NOT.
    Must,
    /// SHOULD or SHOULD NOT.
    Should,
    /// MAY.
    May,
    /// Said in running text, without one of the words.
    Text,
}

impl Level {
    /// As the specification writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::May => "MAY",
            Self::Text => "text",
        }
    }
}

/// What decides whether a rule is kept: none shares code with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Oracle {
    /// The driver returns an error, and nothing reaches the ring.
    Ret,
    /// A model device looks at every byte that the driver writes, or misbehaves on purpose.
    Model,
    /// Random input against a naive reader of the same bytes.
    Fuzz,
    /// QEMU's trace: what reached its device.
    Trace,
    /// QEMU's monitor: what its device has negotiated, and where its queues are.
    Qmp,
    /// A device's DMA: memory changes, or does not, and faults arrive.
    Dma,
}

impl Oracle {
    /// All kinds, those of the host first.
    pub const ALL: [Self; 6] = [
        Self::Ret,
        Self::Model,
        Self::Fuzz,
        Self::Trace,
        Self::Qmp,
        Self::Dma,
    ];

    /// The name in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ret => "RET",
            Self::Model => "MODEL",
            Self::Fuzz => "FUZZ",
            Self::Trace => "TRACE",
            Self::Qmp => "QMP",
            Self::Dma => "DMA",
        }
    }

    /// The kind with the name that the sources use: `Oracle::Model` is `Model`.
    #[must_use]
    pub fn of_source(word: &str) -> Option<Self> {
        let wanted = word.to_uppercase();
        Self::ALL.into_iter().find(|oracle| oracle.name() == wanted)
    }

    /// Whether it decides on the host, or in a virtual machine.
    #[must_use]
    pub const fn on_host(self) -> bool {
        matches!(self, Self::Ret | Self::Model | Self::Fuzz)
    }
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What becomes of a rule here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The driver keeps it, or bears it.
    Kept,
    /// The transport library keeps it, for the reason given; QEMU judges where it can.
    Delegated(&'static str),
    /// It asks nothing of this driver, for the reason given.
    NotApplicable(&'static str),
    /// It is not kept, on purpose, for the reason given.
    Deviation(&'static str),
}

impl State {
    /// The word in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Delegated(_) => "delegated",
            Self::NotApplicable(_) => "not applicable",
            Self::Deviation(_) => "deviation",
        }
    }

    /// Why.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Kept => None,
            Self::Delegated(why) | Self::NotApplicable(why) | Self::Deviation(why) => Some(why),
        }
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `DN-…` for what a driver must do, `DV-…` for what it must bear, `GV-…` for virtio in general.
    pub id: &'static str,
    /// How strongly.
    pub level: Level,
    /// The section of virtio 1.2.
    pub section: &'static str,
    /// What it says, in our words; for `DV-…`, what the device does, and what follows.
    pub text: &'static str,
    /// Each of these has to prove it.
    pub oracles: &'static [Oracle],
    /// What becomes of it here.
    pub state: State,
}

impl Rule {
    const fn new(
        id: &'static str,
        level: Level,
        section: &'static str,
        text: &'static str,
        oracles: &'static [Oracle],
    ) -> Self {
        Self {
            id,
            level,
            section,
            text,
            oracles,
            state: State::Kept,
        }
    }

    const fn delegated(self, why: &'static str) -> Self {
        Self {
            state: State::Delegated(why),
            ..self
        }
    }

    const fn not_applicable(
        id: &'static str,
        level: Level,
        section: &'static str,
        text: &'static str,
        why: &'static str,
    ) -> Self {
        Self {
            state: State::NotApplicable(why),
            ..Self::new(id, level, section, text, &[])
        }
    }

    const fn deviation(
        id: &'static str,
        level: Level,
        section: &'static str,
        text: &'static str,
        why: &'static str,
    ) -> Self {
        Self {
            state: State::Deviation(why),
            ..Self::new(id, level, section, text, &[])
        }
    }
}
