//! One request as the driver logs it, in the words of QEMU's trace.

use std::fmt;

/// More CPUs than any machine here has.
const MAX_CPUS: u32 = 8;

/// How a request ended, as the driver read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// The virtio communication failed.
    IoErr,
    /// Not supported.
    Unsupp,
    /// Internal error of the device.
    DevErr,
    /// Invalid parameters.
    Inval,
    /// Out of range.
    Range,
    /// No such endpoint or domain.
    NoEnt,
    /// A fault while the request was processed.
    Fault,
    /// Out of memory.
    NoMem,
    /// A byte that the specification does not define.
    Unknown,
    /// The device returned the request without writing a status.
    Unwritten,
    /// The driver gave up waiting.
    Unconfirmed,
}

impl Status {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "OK" => Self::Ok,
            "IOERR" => Self::IoErr,
            "UNSUPP" => Self::Unsupp,
            "DEVERR" => Self::DevErr,
            "INVAL" => Self::Inval,
            "RANGE" => Self::Range,
            "NOENT" => Self::NoEnt,
            "FAULT" => Self::Fault,
            "NOMEM" => Self::NoMem,
            "unwritten" => Self::Unwritten,
            "unconfirmed" => Self::Unconfirmed,
            word if word.starts_with("UNKNOWN(") && word.ends_with(')') => Self::Unknown,
            _ => return None,
        })
    }
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// ATTACH.
    Attach {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
        /// Flags of the request.
        flags: u32,
    },
    /// DETACH.
    Detach {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
    },
    /// MAP.
    Map {
        /// Domain id.
        domain: u32,
        /// What is mapped where.
        mapping: Mapping,
    },
    /// UNMAP.
    Unmap {
        /// Domain id.
        domain: u32,
        /// Addresses, both ends included.
        range: Range,
    },
    /// PROBE.
    Probe {
        /// Endpoint id.
        endpoint: u32,
    },
}

/// An inclusive range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
}

impl Range {
    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether all of `other` lies in here.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..={:#x}", self.start, self.end)
    }
}

/// The operands of a MAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// I/O virtual addresses.
    pub range: Range,
    /// First physical address.
    pub phys_start: u64,
    /// READ 1, WRITE 2, MMIO 4.
    pub flags: u32,
}

/// One finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The CPU that sent it.
    pub cpu: u32,
    /// What was asked.
    pub body: Body,
    /// What came of it.
    pub status: Status,
}

/// Why a request record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not one of the five requests.
    Kind,
    /// This operand is not there, or not in its place.
    Missing(&'static str),
    /// This operand is not a number of its width, or not a status.
    Value(&'static str),
    /// Words behind the last operand.
    Trailing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => write!(f, "of an unknown kind"),
            Self::Missing(key) => write!(f, "without `{key}=` in its place"),
            Self::Value(key) => write!(f, "wrong in `{key}=`"),
            Self::Trailing => write!(f, "followed by more words"),
        }
    }
}

impl Request {
    /// Reads what follows `req `.
    ///
    /// # Errors
    ///
    /// Everything that is not exactly one request with all its operands in their order.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut operands = Operands(text.split(' '));
        // The first CPU says nothing.
        let cpu = match text.strip_prefix("cpu=") {
            None => 0,
            Some(_) => operands
                .u32("cpu")
                .ok()
                .filter(|cpu| (1..MAX_CPUS).contains(cpu))
                .ok_or(Malformed::Value("cpu"))?,
        };
        let body = match operands.0.next() {
            Some("attach") => Body::Attach {
                domain: operands.u32("domain")?,
                endpoint: operands.u32("endpoint")?,
                flags: operands.u32("flags")?,
            },
            Some("detach") => Body::Detach {
                domain: operands.u32("domain")?,
                endpoint: operands.u32("endpoint")?,
            },
            Some("map") => Body::Map {
                domain: operands.u32("domain")?,
                mapping: Mapping {
                    range: operands.range()?,
                    phys_start: operands.u64("phys_start")?,
                    flags: operands.u32("flags")?,
                },
            },
            Some("unmap") => Body::Unmap {
                domain: operands.u32("domain")?,
                range: operands.range()?,
            },
            Some("probe") => Body::Probe {
                endpoint: operands.u32("endpoint")?,
            },
            _ => return Err(Malformed::Kind),
        };
        let status = Status::parse(operands.word("status")?).ok_or(Malformed::Value("status"))?;
        if operands.0.next().is_some() {
            return Err(Malformed::Trailing);
        }
        Ok(Self { cpu, body, status })
    }
}

/// Words of the form `key=value`, in a fixed order.
pub struct Operands<'a, I: Iterator<Item = &'a str>>(pub I);

impl<'a, I: Iterator<Item = &'a str>> Operands<'a, I> {
    /// The value of the next word, which must be `key=…`.
    pub fn word(&mut self, key: &'static str) -> Result<&'a str, Malformed> {
        let word = self.0.next().ok_or(Malformed::Missing(key))?;
        let value = word
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix('='));
        value.ok_or(Malformed::Missing(key))
    }

    /// A 64-bit number.
    pub fn u64(&mut self, key: &'static str) -> Result<u64, Malformed> {
        u64_of(self.word(key)?).ok_or(Malformed::Value(key))
    }

    /// A 32-bit number.
    pub fn u32(&mut self, key: &'static str) -> Result<u32, Malformed> {
        u32_of(self.word(key)?).ok_or(Malformed::Value(key))
    }

    /// `virt_start=… virt_end=…`.
    pub fn range(&mut self) -> Result<Range, Malformed> {
        Ok(Range {
            start: self.u64("virt_start")?,
            end: self.u64("virt_end")?,
        })
    }
}

/// Decimal, or hexadecimal behind `0x`; digits only.
pub fn u64_of(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

/// As [`u64_of`]; a negative number is how `%d` prints the upper half of the range.
pub fn u32_of(text: &str) -> Option<u32> {
    match text.strip_prefix('-') {
        Some(digits) => {
            let magnitude = u64_of(digits).filter(|value| (1..=1 << 31).contains(value))?;
            u32::try_from((1u64 << 32) - magnitude).ok()
        }
        None => u32::try_from(u64_of(text)?).ok(),
    }
}
