//! What a benchmark says on the serial line: a plan, checks, figures, an end.

use std::fmt;

/// The mark of a record.
const MARK: &str = "@viommu";
/// Behind it: the version of the protocol.
const VERSION: &str = " 1 ";

/// One `bench` record.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was done.
    pub name: String,
    /// By whom.
    pub rival: String,
    /// How many at once.
    pub size: u64,
    /// The median of the samples.
    pub value: f64,
    /// What 5 % of the samples are below.
    pub low: f64,
    /// What 5 % of the samples are above.
    pub high: f64,
    /// The unit of all three.
    pub unit: String,
    /// How many samples there are.
    pub samples: u64,
    /// How often it was done in all, warm-up included.
    pub done: u64,
    /// How many times as much as the rival's it is: the median over the rounds.
    pub paired: Option<f64>,
}

/// A `bench` record that is not of the known form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a figure that is not of the known form")]
pub struct Malformed;

impl Figure {
    /// Reads what follows `bench `.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: another order, a missing or a doubled field, a value that is no number, or
    /// values that cannot be of the same samples.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut words = text.split(' ');
        let mut field = |key: &str| {
            let value = words.next()?.strip_prefix(key)?.strip_prefix('=')?;
            (!value.is_empty()).then_some(value)
        };
        let mut read = || {
            Some(Self {
                name: field("name")?.into(),
                rival: field("rival")?.into(),
                size: number(field("size")?)?,
                value: decimal(field("value")?)?,
                low: decimal(field("low")?)?,
                high: decimal(field("high")?)?,
                unit: field("unit")?.into(),
                samples: number(field("samples")?)?,
                done: number(field("done")?)?,
                paired: None,
            })
        };
        let mut figure = read().ok_or(Malformed)?;
        if let Some(word) = words.next() {
            let paired = word.strip_prefix("paired=").and_then(decimal);
            figure.paired = Some(paired.ok_or(Malformed)?);
        }
        let ordered = figure.low <= figure.value && figure.value <= figure.high;
        if words.next().is_some() || !ordered || figure.samples == 0 || figure.done == 0 {
            return Err(Malformed);
        }
        Ok(figure)
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// Digits, a point, three digits.
fn decimal(text: &str) -> Option<f64> {
    let (whole, rest) = text.split_once('.')?;
    number(whole)?;
    (rest.len() == 3).then(|| number(rest))??;
    text.parse().ok()
}

/// Why a log is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbelievable {
    /// What is wrong.
    pub what: &'static str,
    /// The line that shows it, or nothing.
    pub line: String,
}

impl fmt::Display for Unbelievable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line.as_str() {
            "" => f.write_str(self.what),
            line => write!(f, "{}: `{line}`", self.what),
        }
    }
}

impl std::error::Error for Unbelievable {}

/// Reads the figures out of a whole log. Lines without the mark are for people.
///
/// # Errors
///
/// [`Unbelievable`]: a check failed, was skipped or is missing, the output stops early, a record
/// is torn or unknown, a figure is there twice, or there is none.
pub fn figures(serial: &str) -> Result<Vec<Figure>, Unbelievable> {
    let mut figures: Vec<Figure> = Vec::new();
    whole(serial, &["bench"], |rest| {
        let new = Figure::parse(rest).map_err(|_| "a figure of an unknown form")?;
        let same = |old: &Figure| {
            (&old.name, &old.rival, old.size, &old.unit)
                == (&new.name, &new.rival, new.size, &new.unit)
        };
        if figures.iter().any(same) {
            return Err("a figure is there twice");
        }
        figures.push(new);
        Ok(())
    })?;
    match figures.is_empty() {
        true => Err(Unbelievable {
            what: "no figures",
            line: String::new(),
        }),
        false => Ok(figures),
    }
}

/// Judges whether a log is whole and all went well, and hands on what follows one of the words
/// `kinds` in the records between plan and end that are no checks.
///
/// # Errors
///
/// [`Unbelievable`]: a check failed, was skipped or is missing, the output stops early, a record
/// is torn, unknown, or not what `each` takes.
pub fn whole(
    serial: &str,
    kinds: &[&str],
    mut each: impl FnMut(&str) -> Result<(), &'static str>,
) -> Result<(), Unbelievable> {
    let mut planned = None;
    let mut passed = 0_u32;
    let mut ended = false;
    for line in serial.split_inclusive('\n') {
        let text = line.trim_end_matches(['\r', '\n']);
        let wrong = |what| {
            Err(Unbelievable {
                what,
                line: text.into(),
            })
        };
        let Some(record) = text.strip_prefix(MARK) else {
            if text.contains(MARK) {
                return wrong("a record in the middle of a line");
            }
            continue;
        };
        if record.contains(MARK) {
            return wrong("a record in the middle of a line");
        }
        let Some(record) = record.strip_prefix(VERSION) else {
            return wrong("a record of another version");
        };
        if !line.ends_with('\n') {
            return wrong("the output stops in a record");
        }
        if ended {
            return wrong("a record after the end");
        }
        match (record.split_once(' '), planned) {
            (Some(("plan", count)), None) => match count.parse::<u32>() {
                Ok(count) if count > 0 => planned = Some(count),
                _ => return wrong("a plan of nothing"),
            },
            (_, None) => return wrong("a record before the plan"),
            (Some(("ok", rest)), _) => {
                passed += 1;
                if !rest.starts_with(&format!("{passed} ")) {
                    return wrong("a check is missing");
                }
            }
            (Some((word, rest)), _) if kinds.contains(&word) => {
                if let Err(what) = each(rest) {
                    return wrong(what);
                }
            }
            (Some(("not" | "skip", _)), _) => return wrong("a check failed"),
            (Some(("end", rest)), Some(planned)) => {
                if rest != format!("{planned} passed 0 failed 0 skipped") || passed != planned {
                    return wrong("not all checks passed");
                }
                ended = true;
            }
            _ => return wrong("an unknown record"),
        }
    }
    let wrong = |what| {
        let line = String::new();
        Err(Unbelievable { what, line })
    };
    match (planned, ended) {
        (None, _) => wrong("no record at all"),
        (_, false) => wrong("no end: the output stops early"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
OpenSBI v1.5\r
@viommu 1 plan 2\r
@viommu 1 ok 1 the_counter_counts_instructions\r
@viommu 1 bench name=map rival=domain size=64 value=63.250 low=62.900 high=64.100 unit=instructions samples=512 done=40960 paired=0.154\r
@viommu 1 bench name=map rival=virtio-drivers size=64 value=411.000 low=411.000 high=411.000 unit=instructions samples=512 done=40960\r
@viommu 1 ok 2 all_figures_are_told\r
@viommu 1 end 2 passed 0 failed 0 skipped\r
";

    #[test]
    fn a_whole_log_is_read() {
        let figures = figures(GOOD).unwrap();
        assert_eq!(figures.len(), 2);
        assert_eq!(
            figures[0],
            Figure {
                name: "map".into(),
                rival: "domain".into(),
                size: 64,
                value: 63.25,
                low: 62.9,
                high: 64.1,
                unit: "instructions".into(),
                samples: 512,
                done: 40960,
                paired: Some(0.154),
            }
        );
        let rival = (&*figures[1].rival, figures[1].paired);
        assert_eq!(rival, ("virtio-drivers", None));
    }

    #[test]
    fn every_line_and_every_byte_of_the_end_counts() {
        for line in GOOD.split_inclusive('\n').filter(|line| line.contains('@')) {
            // A figure less is still a log: who asks for it has to miss it.
            let without = figures(&GOOD.replacen(line, "", 1));
            assert_eq!(without.is_ok(), line.contains(" bench "), "without {line}");
            let cut = GOOD.find(line).unwrap() + line.len() / 2;
            assert!(figures(&GOOD[..cut]).is_err(), "cut in {line}");
            let twice = GOOD.replacen(line, &line.repeat(2), 1);
            assert!(figures(&twice).is_err(), "twice {line}");
        }
        assert!(figures(GOOD.strip_suffix("\r\n").unwrap()).is_err());
    }

    #[test]
    fn other_logs_are_not_believed() {
        for (old, new, what) in [
            (GOOD, "", "no record at all"),
            ("ok 1 the", "not ok 1 the", "a check failed"),
            ("ok 2 all", "skip 2 all", "a check failed"),
            ("ok 2 all", "ok 3 all", "a check is missing"),
            ("plan 2", "plan 0", "a plan of nothing"),
            ("plan 2", "plan 3", "not all checks passed"),
            ("end 2 passed 0", "end 2 passed 1", "not all checks passed"),
            ("end 2", "end 3", "not all checks passed"),
            ("@viommu 1 plan 2\r\n", "", "a record before the plan"),
            (
                "@viommu 1 ok 1",
                "x @viommu 1 ok 1",
                "a record in the middle of a line",
            ),
            (
                "@viommu 1 ok 1",
                "@viommu 1 ok@viommu 1 ok 1",
                "a record in the middle of a line",
            ),
            (
                "@viommu 1 ok 1",
                "@viommu 2 ok 1",
                "a record of another version",
            ),
            ("bench name", "bunch name", "an unknown record"),
            (
                "value=63.250",
                "value=62.100",
                "a figure of an unknown form",
            ),
            ("virtio-drivers", "domain", "a figure is there twice"),
            (
                " 0 skipped\r\n",
                " 0 skipped\r\n@viommu 1 plan 1\r\n",
                "a record after the end",
            ),
        ] {
            let log = GOOD.replacen(old, new, 1);
            assert_ne!(log, GOOD, "{old}");
            assert_eq!(
                figures(&log).map_err(|error| error.what),
                Err(what),
                "{new}"
            );
        }
    }

    #[test]
    fn figures_are_strict() {
        const TEXT: &str = "name=map rival=domain size=64 value=63.250 low=62.900 high=64.100 \
                            unit=ns samples=512 done=40960";
        assert!(Figure::parse(TEXT).is_ok());
        for (old, new) in [
            ("name=map", "name="),
            ("name=map ", ""),
            ("name=map rival=domain", "rival=domain name=map"),
            ("size=64", "size=-64"),
            ("size=64", "size=64.0"),
            ("value=63.250", "value=63.25"),
            ("value=63.250", "value=63"),
            ("value=63.250", "value=nan"),
            ("value=63.250", "value=.250"),
            ("value=63.250", "value=65.000"),
            ("low=62.900", "low=63.300"),
            ("samples=512", "samples=0"),
            ("done=40960", "done=0"),
            ("done=40960", "done=40960 more=1"),
            ("done=40960", "done=40960 paired=1"),
            ("done=40960", "done=40960 paired=1.000 paired=1.000"),
            ("done=40960", "done=40960 "),
            (" done=40960", ""),
        ] {
            let text = TEXT.replacen(old, new, 1);
            assert_eq!(Figure::parse(&text), Err(Malformed), "{text}");
        }
    }
}
