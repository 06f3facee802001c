//! The boot arguments: what to run.

use crate::bench::Device;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// `run=demo`: the tour for a person.
    Demo,
    /// `scenario=NAME`: one scenario of the test suite.
    Scenario(&'a str),
    /// `bench=NAME`: one benchmark.
    Bench(&'a str, BenchOptions),
}

/// How a benchmark is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// `measure=instructions`, which is the default, `measure=time` or `measure=counts`.
    pub measure: Measure,
    /// `rounds=N`: how often each rival gets its turn, from 1 to 10,000.
    pub rounds: usize,
    /// `device=blk` or `device=nvme`: disks of this kind only.
    pub device: Option<Device>,
}

/// What a benchmark measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Instructions of the guest: the emulator must run with `-icount shift=0`.
    Instructions,
    /// Time of the host: it must run without `-icount`.
    Time,
    /// What QEMU's trace says: this kernel marks where it begins and ends.
    Counts,
}

/// Whether scenarios wait to be looked at: the word `hold`.
pub fn holds(arguments: &str) -> bool {
    arguments
        .split_ascii_whitespace()
        .any(|word| word == "hold")
}

/// How many bits of address the IOMMU has, from 1 to 64: the word `input-bits=N`. `None` if nothing
/// is said, or something else: what the machine has by default.
pub fn input_bits(arguments: &str) -> Option<u32> {
    let mut words = arguments.split_ascii_whitespace();
    let bits = words.find_map(|word| word.strip_prefix("input-bits="))?;
    bits.parse().ok().filter(|bits| (1..=64).contains(bits))
}

/// Reads the boot arguments; words that are not about what to run are left alone.
///
/// # Errors
///
/// There is no default: nothing to run, an unknown thing to run, or two of them is an error, in
/// words.
pub fn parse(arguments: &str) -> Result<Run<'_>, &'static str> {
    let mut found = None;
    let mut options = BenchOptions {
        measure: Measure::Instructions,
        rounds: 8,
        device: None,
    };
    for word in arguments.split_ascii_whitespace() {
        let run = match word.split_once('=') {
            Some(("run", "demo")) => Run::Demo,
            Some(("run", _)) => return Err("the boot argument run= knows `demo` only"),
            Some(("scenario", name)) => Run::Scenario(name),
            Some(("bench", name)) => Run::Bench(name, options),
            Some(("measure", "instructions")) => {
                options.measure = Measure::Instructions;
                continue;
            }
            Some(("measure", "time")) => {
                options.measure = Measure::Time;
                continue;
            }
            Some(("measure", "counts")) => {
                options.measure = Measure::Counts;
                continue;
            }
            Some(("measure", _)) => {
                return Err(
                    "the boot argument measure= knows `instructions`, `time` and `counts` only",
                );
            }
            Some(("device", name)) => {
                let device = Device::ALL.into_iter().find(|device| device.name() == name);
                options.device = match device {
                    None => return Err("the boot argument device= knows `blk` and `nvme` only"),
                    known => known,
                };
                continue;
            }
            Some(("rounds", rounds)) => {
                options.rounds = match rounds.parse() {
                    Ok(rounds @ 1..=10_000) => rounds,
                    _ => return Err("the boot argument rounds= is a number from 1 to 10000"),
                };
                continue;
            }
            _ => continue,
        };
        if found.replace(run).is_some() {
            return Err("the boot arguments ask for more than one thing to run");
        }
    }
    match found {
        // The options may come behind the name.
        Some(Run::Bench(name, _)) => Ok(Run::Bench(name, options)),
        Some(run) => Ok(run),
        None => Err("the boot arguments say none of run=demo, scenario=NAME and bench=NAME"),
    }
}
