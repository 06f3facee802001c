//! The scripted personality: what a test may tell the device to answer.

/// When the answer is put into the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// When the test releases it.
    Held,
    /// Never: the buffer stays with the device until the next reset.
    Never,
}

/// When the request takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// As soon as the device sees it.
    AtOnce,
    /// Together with the answer.
    WithAnswer,
    /// Not at all, whatever the answer claims.
    None,
}

/// What is written into the device-writable part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// What the strict personality writes.
    Honest,
    /// Nothing.
    Nothing,
    /// This status, in an otherwise honest tail.
    Status(u8),
    /// These bytes, from the beginning of the writable part.
    Bytes(Vec<u8>),
    /// The honest answer, but to PROBE with this list of properties (cut or zero-filled to
    /// `probe_size`).
    Properties(Vec<u8>),
}

/// The `id` of a used ring entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// The head of the request's own chain.
    Own,
    /// Any number at all.
    Raw(u32),
    /// A descriptor that belongs to no chain in flight.
    Idle,
    /// The second descriptor of the own chain: in flight, but no head.
    OwnTail,
    /// The head of another chain in flight, or the own one if there is none.
    Other,
}

/// The `len` of a used ring entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As many bytes as were written.
    True,
    Raw(u32),
}

/// One entry of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Id,
    pub len: Length,
}

/// How one request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub when: When,
    pub effect: Effect,
    pub written: Written,
    /// The reserved bytes of the tail.
    pub reserved: [u8; 3],
    pub entries: Vec<Entry>,
    /// `used.idx` is moved on by this many entries that were never written.
    pub jump: u16,
    /// DEVICE_NEEDS_RESET is set instead of the answer; nothing is processed any more.
    pub needs_reset: bool,
}

impl Answer {
    /// What the strict personality does.
    pub fn honest() -> Self {
        Self {
            when: When::Now,
            effect: Effect::AtOnce,
            written: Written::Honest,
            reserved: [0; 3],
            entries: vec![Entry {
                id: Id::Own,
                len: Length::True,
            }],
            jump: 0,
            needs_reset: false,
        }
    }

    /// Carried out now, answered when the test says.
    pub fn late() -> Self {
        Self {
            when: When::Held,
            ..Self::honest()
        }
    }

    /// Carried out and answered when the test says.
    pub fn late_effect() -> Self {
        Self {
            when: When::Held,
            effect: Effect::WithAnswer,
            ..Self::honest()
        }
    }

    /// Neither carried out nor answered.
    pub fn never() -> Self {
        Self {
            when: When::Never,
            effect: Effect::None,
            ..Self::honest()
        }
    }

    /// Carried out, and never answered.
    pub fn done_never_told() -> Self {
        Self {
            when: When::Never,
            ..Self::honest()
        }
    }

    /// Not carried out, with this status.
    pub fn status(status: u8) -> Self {
        Self {
            effect: Effect::None,
            written: Written::Status(status),
            ..Self::honest()
        }
    }

    /// Carried out, with this status.
    pub fn done_but_status(status: u8) -> Self {
        Self {
            written: Written::Status(status),
            ..Self::honest()
        }
    }

    /// As the specification has it for a request that cannot be parsed: nothing is written.
    pub fn unwritten() -> Self {
        Self {
            effect: Effect::None,
            written: Written::Nothing,
            ..Self::honest()
        }
    }

    /// Nothing is carried out or written; the used length claims `len` bytes.
    pub fn claims(len: u32) -> Self {
        Self {
            effect: Effect::None,
            written: Written::Nothing,
            ..Self::honest()
        }
        .with_len(len)
    }

    /// Instead of the answer: DEVICE_NEEDS_RESET.
    pub fn needs_reset() -> Self {
        Self {
            effect: Effect::None,
            needs_reset: true,
            ..Self::honest()
        }
    }

    pub fn with_len(mut self, len: u32) -> Self {
        for entry in &mut self.entries {
            entry.len = Length::Raw(len);
        }
        self
    }

    pub fn with_id(mut self, id: Id) -> Self {
        for entry in &mut self.entries {
            entry.id = id;
        }
        self
    }

    /// The same answer is put into the ring once more.
    pub fn twice(mut self) -> Self {
        self.entries.extend(self.entries.clone());
        self
    }

    pub fn with_reserved(mut self, reserved: [u8; 3]) -> Self {
        self.reserved = reserved;
        self
    }

    pub fn with_properties(mut self, list: Vec<u8>) -> Self {
        self.written = Written::Properties(list);
        self
    }

    pub fn with_jump(mut self, by: u16) -> Self {
        self.jump = by;
        self
    }

    /// Whether the driver is told the truth. A late answer, or none, is not a lie.
    pub fn is_true(&self) -> bool {
        let told = self.written == Written::Honest || self.when == When::Never;
        let straight = self.entries == Self::honest().entries || self.when == When::Never;
        told && straight
            && self.jump == 0
            && !self.needs_reset
            && self.effect != Effect::None
            && self.when == When::Now
    }
}

/// In which order the requests of one kick are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// First come, first served.
    #[default]
    Fifo,
    /// Carried out in order, answered from the last to the first.
    AnswerReversed,
    /// Carried out and answered from the last to the first.
    Reversed,
    /// Carried out in order, answered in an order that the seed decides.
    AnswerShuffled(u64),
}

impl Order {
    /// Positions of `len` requests in the order of their execution and of their answers.
    pub fn positions(self, len: usize) -> (Vec<usize>, Vec<usize>) {
        let forward: Vec<usize> = (0..len).collect();
        let backward: Vec<usize> = (0..len).rev().collect();
        match self {
            Self::Fifo => (forward.clone(), forward),
            Self::AnswerReversed => (forward, backward),
            Self::Reversed => (backward.clone(), backward),
            Self::AnswerShuffled(seed) => {
                let mut answers = forward.clone();
                let mut state = seed | 1;
                for at in (1..len).rev() {
                    // A 64-bit linear congruential step (Knuth's constants) is random enough.
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    answers.swap(at, (state >> 33) as usize % (at + 1));
                }
                (forward, answers)
            }
        }
    }
}
