//! What a guest says of a phase: a number of equal I/Os in one mode, and what they took.
//!
//! Every guest says it in the same words, one line a phase, in the order of the phases:
//!
//! ```text
//! @viommu 1 io device=blk op=read pattern=seq size=4096 layout=scattered depth=1 mode=strict ios=200 ns=9 p50=1 p99=2
//! ```
//!
//! What was not measured is left out.

use super::super::record::{self, Unbelievable};

/// What every record begins with.
const MARK: &str = "@viommu 1 io ";

/// What was done: the same in a group of phases that are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// `blk` or `nvme`.
    pub device: String,
    /// `read` or `write`.
    pub operation: String,
    /// `seq` or `rand`: the order of the places on the disk.
    pub pattern: String,
    /// Bytes of an I/O.
    pub size: u64,
    /// `contiguous` or `scattered`: the pages of the buffer.
    pub layout: String,
    /// I/Os at once.
    pub depth: u32,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What was done.
    pub case: Case,
    /// How its memory was shown to the device.
    pub mode: String,
    /// How often.
    pub ios: u64,
    /// What all of it took, in nanoseconds.
    pub ns: Option<u64>,
    /// The median of what a single one took, in nanoseconds.
    pub p50: Option<u64>,
    /// What 99 % of them took at the most, in nanoseconds.
    pub p99: Option<u64>,
    /// What all of it took, in instructions of the guest, the wait for the device left out.
    pub instructions: Option<u64>,
}

impl Phase {
    /// Reads what follows the mark.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').peekable();
        let mut field = |key: &str, needed: bool| {
            let value = words
                .peek()
                .and_then(|word| word.strip_prefix(key)?.strip_prefix('='));
            match value {
                Some(value) if !value.is_empty() => {
                    words.next();
                    Some(Some(value))
                }
                Some(_) => None,
                None => (!needed).then_some(None),
            }
        };
        let mut text_of = |key| field(key, true)?.map(str::to_owned);
        let (device, operation, pattern) =
            (text_of("device")?, text_of("op")?, text_of("pattern")?);
        let size = number(field("size", true)??)?;
        let layout = field("layout", true)??.to_owned();
        let depth = number(field("depth", true)??)?;
        let mode = field("mode", true)??.to_owned();
        let ios = number(field("ios", true)??)?;
        let mut optional = |key| match field(key, false)? {
            Some(value) => number(value).map(Some),
            None => Some(None),
        };
        let phase = Self {
            case: Case {
                device,
                operation,
                pattern,
                size,
                layout,
                depth: u32::try_from(depth).ok()?,
            },
            mode,
            ios,
            ns: optional("ns")?,
            p50: optional("p50")?,
            p99: optional("p99")?,
            instructions: optional("instructions")?,
        };
        (words.next().is_none() && ios > 0).then_some(phase)
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// All phases of a log, in order. Whether the log is whole, and all went well, is for others to say.
///
/// # Errors
///
/// [`Unbelievable`]: a record that is torn or not of the known form.
pub fn phases(serial: &str) -> Result<Vec<Phase>, Unbelievable> {
    let mut phases = Vec::new();
    for line in serial.split_inclusive('\n') {
        let text = line.trim_end_matches(['\r', '\n']);
        let wrong = |what| Unbelievable {
            what,
            line: text.into(),
        };
        let Some(at) = text.find(MARK) else {
            continue;
        };
        if at > 0 {
            return Err(wrong("a record in the middle of a line"));
        }
        if text.len() == line.len() {
            return Err(wrong("the output stops in a record"));
        }
        let phase = Phase::parse(&text[MARK.len()..]);
        phases.push(phase.ok_or_else(|| wrong("a phase that is not of the known form"))?);
    }
    Ok(phases)
}

/// The same of a guest that has a plan, checks and an end: all of it must be there, and well. Besides
/// phases it may have records of the kinds `others`.
///
/// # Errors
///
/// [`Unbelievable`].
pub fn whole(serial: &str, others: &[&str]) -> Result<Vec<Phase>, Unbelievable> {
    let kinds = [&["io"], others].concat();
    record::whole(serial, &kinds, |_| Ok(()))?;
    match phases(serial)? {
        none if none.is_empty() => Err(Unbelievable {
            what: "no phases",
            line: String::new(),
        }),
        phases => Ok(phases),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "@viommu 1 io device=blk op=read pattern=seq size=4096 layout=scattered depth=16 mode=strict \
                        ios=200 ns=9 p50=1 p99=2 instructions=77\r\n";

    #[test]
    fn a_phase_is_read() {
        let log = format!("noise\n{GOOD}@viommu 1 ok 3 what\n");
        let phase = Phase {
            case: Case {
                device: "blk".into(),
                operation: "read".into(),
                pattern: "seq".into(),
                size: 4096,
                layout: "scattered".into(),
                depth: 16,
            },
            mode: "strict".into(),
            ios: 200,
            ns: Some(9),
            p50: Some(1),
            p99: Some(2),
            instructions: Some(77),
        };
        assert_eq!(phases(&log).unwrap(), std::slice::from_ref(&phase));
        let short = GOOD.replace(" ns=9 p50=1 p99=2 instructions=77", "");
        let bare = Phase {
            ns: None,
            p50: None,
            p99: None,
            instructions: None,
            ..phase
        };
        assert_eq!(phases(&short).unwrap(), [bare]);
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        for (from, to) in [
            ("device=blk ", ""),
            ("device=blk", "device="),
            ("size=4096", "size=+4096"),
            ("size=4096", "size=-1"),
            ("ios=200", "ios=0"),
            ("ns=9 p50=1", "p50=1 ns=9"),
            ("ns=9", "ns=9 ns=9"),
            ("depth=16", "depth=4294967296"),
            ("op=read pattern=seq", "pattern=seq op=read"),
            ("=77", "=77 more=1"),
            ("=77\r\n", "=77"),
            ("@viommu", "x@viommu"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            assert!(phases(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_has_to_be_whole() {
        let log = format!(
            "@viommu 1 plan 1\n@viommu 1 ok 1 what\n{GOOD}@viommu 1 end 1 passed 0 failed 0 skipped\n"
        );
        assert_eq!(whole(&log, &[]).unwrap().len(), 1);
        for line in log.split_inclusive('\n') {
            let less = log.replace(line, "");
            assert!(whole(&less, &[]).is_err(), "without {line}");
        }
        assert!(whole(&log.replace("ok 1", "not ok 1"), &[]).is_err());
        let more = log.replace(GOOD, &format!("{GOOD}@viommu 1 waits some\n"));
        assert!(whole(&more, &[]).is_err());
        assert_eq!(whole(&more, &["waits"]).unwrap().len(), 1);
    }
}
