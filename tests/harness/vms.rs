//! Real kernels that do wrong on purpose, and a right one whose output is tampered with.

use crate::support::bench;
use crate::support::expect::Expect;
use crate::support::finding::Finding;
use crate::support::machine::{Host, boot, watchdog};
use crate::support::records::Flaw;
use crate::support::scenarios::{self, Clock, Scenario, TWO_CPUS, TWO_THREADS, selftest};
use crate::support::suite::{Tally, trial};
use crate::support::verdict::{End, Reason, Run, Wanted, explain, judge};
use libtest_mimic::Trial;
use xtask::Arch;
use xtask::abilities::Need;
use xtask::bench::guest::Measure;

/// The trials of this file.
pub fn trials(archs: &[Arch], tally: &Tally) -> Vec<Trial> {
    let mut trials = Vec::new();
    for arch in archs {
        for case in cases() {
            let name = format!("vms::{arch}::{}", case.name);
            trials.push(trial(name, *arch, tally, move |host| case.run(host)));
        }
        let name = format!("vms::{arch}::tampered_output");
        trials.push(trial(name, *arch, tally, tampered_output));
        let name = format!("vms::{arch}::abilities");
        trials.push(trial(name, *arch, tally, abilities));
    }
    trials
}

/// A VM, and the reasons for red that it must have: these and no others.
struct Case {
    name: String,
    scenario: Scenario,
    /// Boot arguments, if they are not the scenario's own.
    append: Option<&'static str>,
    /// Has it end soon, because it does not end by itself.
    hangs: bool,
    expect: Expect,
    reasons: fn(&[Reason]) -> bool,
}

macro_rules! case {
    ($name:literal, $($reasons:tt)+) => {
        Case {
            name: $name.to_owned(),
            scenario: selftest($name),
            append: None,
            hangs: false,
            expect: Expect::NO_IOMMU,
            reasons: |reasons| matches!(reasons, $($reasons)+),
        }
    };
}

fn cases() -> Vec<Case> {
    use Reason::{Checks, Exit, Log, TimedOut};
    let refused = Scenario {
        devices: &["-device", "no-such-device"],
        ..selftest("selftest-pass")
    };
    let mut cases = vec![
        case!("selftest-pass", []),
        case!("selftest-fail", [Exit(35), Checks(checks)] if named(checks, "two_and_two_is_five")),
        case!("selftest-panic", [Exit(37), Checks(checks)] if named(checks, "panic")),
        case!("selftest-trap", [Exit(37), Checks(checks)] if named(checks, "trap")),
        case!("selftest-triple-fault", [Exit(37), Checks(checks)] if named(checks, "trap_inside_the_trap_handler")),
        Case {
            hangs: true,
            ..case!("selftest-hang", [TimedOut(Some(line))] if line == "@viommu 1 ok 1 before_the_hang")
        },
        case!("selftest-firmware-off", [Exit(0), Log(broken)] if broken.flaw == Flaw::NoEnd),
        case!("selftest-truncated", [Log(broken)] if broken.flaw == Flaw::Unterminated),
        case!("selftest-miscount", [Log(broken)] if matches!(broken.flaw, Flaw::Counts { said: [3, 0, 0], counted: [2, 0, 0] })),
        case!("selftest-exit-zero", [Exit(0)]),
        case!("selftest-silent", [Log(broken)] if broken.flaw == Flaw::Silent),
        case!("no-such-scenario", [Exit(35), Checks(checks)] if named(checks, "known_scenario")),
        Case {
            append: Some(""),
            ..case!("nothing-to-run", [Exit(35), Checks(checks)] if named(checks, "nothing_to_run"))
        },
        Case {
            append: Some("quiet scenario="),
            ..case!("empty-name", [Exit(35), Checks(checks)] if named(checks, "known_scenario"))
        },
        Case {
            append: Some("run=demo scenario=selftest-pass"),
            ..case!("two-things-to-run", [Exit(35), Checks(checks)] if named(checks, "nothing_to_run"))
        },
        Case {
            append: Some("bench=nothing"),
            ..case!("no-such-benchmark", [Exit(35), Checks(checks)] if named(checks, "known_benchmark"))
        },
        Case {
            append: Some("bench=requests measure=miles"),
            ..case!("no-such-measure", [Exit(35), Checks(checks)] if named(checks, "nothing_to_run"))
        },
        Case {
            append: Some("bench=requests rounds=0"),
            ..case!("no-rounds", [Exit(35), Checks(checks)] if named(checks, "nothing_to_run"))
        },
        // Nobody counts instructions, or nothing else is counted: no figure is worth anything.
        Case {
            append: Some("bench=requests measure=instructions rounds=1"),
            scenario: bench::machine("bench-without-icount"),
            ..case!("bench-without-icount", [Exit(35), Log(_), Checks(checks)] if named(checks, "the_counter_counts_instructions"))
        },
        Case {
            append: Some("bench=requests rounds=1 measure=time"),
            scenario: Scenario {
                machine: |_| Measure::Instructions.clock(),
                ..bench::machine("bench-with-icount")
            },
            ..case!("bench-with-icount", [Exit(35), Log(_), Checks(checks)] if named(checks, "the_clock_is_that_of_the_host"))
        },
        Case {
            scenario: refused,
            ..case!("refused-by-qemu", [Exit(1), Log(broken)] if broken.flaw == Flaw::Silent)
        },
        Case {
            append: Some("scenario=selftest-pass"),
            expect: Expect::PLAIN,
            ..case!("no-iommu", [Reason::Trace(Finding::Absent)])
        },
        Case {
            name: "two-cpus-where-there-is-one".to_owned(),
            ..case!("selftest-two-cpus", [Exit(35), Log(broken), Checks(checks)] if matches!(broken.flaw, Flaw::Plan { reported: 1, .. }) && named(checks, "second_cpu_starts"))
        },
    ];
    for (suffix, machine, clock) in [
        ("in-turn", TWO_CPUS, Clock::Instructions),
        ("threads", TWO_THREADS, Clock::Host),
    ] {
        let two = |case: Case| Case {
            name: format!("{}-{suffix}", case.name),
            scenario: Scenario {
                machine,
                clock,
                ..case.scenario
            },
            ..case
        };
        cases.extend([
            case!("selftest-two-cpus", []),
            case!("selftest-second-panics", [Exit(37), Checks(checks)] if named(checks, "panic")),
            case!("selftest-second-traps", [Exit(37), Checks(checks)] if named(checks, "trap")),
            case!("selftest-second-hangs", [Exit(35), Checks(checks)] if named(checks, "second_cpu_comes_back")),
            case!("selftest-both-panic", [Exit(37), Checks(checks)] if named(checks, "panic")),
        ].map(two));
    }
    cases
}

fn named(checks: &[crate::support::records::Check], name: &str) -> bool {
    matches!(checks, [check] if check.name == name)
}

impl Case {
    fn run(&self, host: &Host) -> Result<(), String> {
        let own = self.scenario.append(&host.abilities);
        let limit = watchdog()? / if self.hangs { 6 } else { 1 };
        let run = boot(host, &self.scenario, self.append.unwrap_or(&own), limit);
        let reasons = judge(&run, Wanted::Scenario(&[]), &self.expect);
        if (self.reasons)(&reasons) {
            return Ok(());
        }
        let all = explain(&run, &reasons);
        Err(format!("not these reasons: {reasons:#?}\n{all}"))
    }
}

/// QEMU 9.0 has all that a scenario needs: where one is not applicable to it, the question was wrong, or the answer.
fn abilities(host: &Host) -> Result<(), String> {
    let Host {
        qemu, abilities, ..
    } = host;
    let lacks = |scenario: &Scenario| Some((scenario.name, abilities.lacks(scenario.needs)?));
    let not_applicable: Vec<_> = scenarios::all().filter_map(lacks).collect();
    let new = |major, minor| (qemu.version.major, qemu.version.minor) >= (major, minor);
    if new(9, 0) && !not_applicable.is_empty() {
        return Err(format!("{}: {not_applicable:?}", qemu.version));
    }
    if new(10, 0) && !abilities.tells_leaves {
        return Err(format!("{}: endpoints leave untraced", qemu.version));
    }
    let nonsense = Need {
        device: "virtio-iommu-pci",
        property: "no-such-property",
    };
    if abilities.has(nonsense) {
        return Err("it has whatever is asked for".into());
    }
    Ok(())
}

/// A real run is green; without any one request on either side, or with any number changed, it is red.
fn tampered_output(host: &Host) -> Result<(), String> {
    let scenario = scenarios::all().find(|scenario| scenario.name == "basic");
    let scenario = scenario.ok_or("no scenario is called basic")?;
    let expect = scenario.expected(host.qemu.arch, &host.abilities);
    let append = scenario.append(&host.abilities);
    let run = boot(host, scenario, &append, watchdog()?);
    let verdict = |run: &Run| judge(run, scenario.wanted(), &expect);
    let reasons = verdict(&run);
    if !reasons.is_empty() {
        return Err(explain(&run, &reasons));
    }
    let serial = String::from_utf8_lossy(&run.serial).into_owned();
    let trace = run.trace.clone().ok_or("no trace")?;
    let red = |what: &str, change: &dyn Fn(&mut Run), rule: &dyn Fn(&[Reason]) -> bool| {
        let mut tampered = run.clone();
        change(&mut tampered);
        let reasons = verdict(&tampered);
        let all_traced = !reasons.is_empty() && rule(&reasons);
        if all_traced {
            Ok(())
        } else {
            Err(format!("{what}: {reasons:#?}"))
        }
    };
    let traced = |reasons: &[Reason]| {
        reasons
            .iter()
            .all(|reason| matches!(reason, Reason::Trace(_)))
    };
    for code in [0, 1, 35, 37] {
        let exit = |run: &mut Run| run.end = End::Exited(code);
        red("exit code", &exit, &|reasons| {
            *reasons == [Reason::Exit(code)]
        })?;
    }
    red("trace", &|run| run.trace = None, &|reasons| {
        *reasons == [Reason::NoTrace]
    })?;

    let requests = tampered(&serial, &["@viommu 1 req "]);
    let events = tampered(
        &trace,
        &[
            "virtio_iommu_attach",
            "virtio_iommu_detach",
            "virtio_iommu_map",
            "virtio_iommu_unmap",
        ],
    );
    if requests.len() < 20 || events.len() < 20 {
        return Err(format!("{} and {} changes", requests.len(), events.len()));
    }
    for (what, serial) in requests {
        red(&what, &|run| run.serial = serial.clone().into(), &traced)?;
    }
    for (what, trace) in events {
        red(&what, &|run| run.trace = Some(trace.clone()), &traced)?;
    }
    for line in serial
        .lines()
        .filter(|line| line.contains("@viommu") && !line.contains(" req "))
    {
        let without = serial.replacen(&format!("{line}\n"), "", 1);
        red(
            line,
            &|run| run.serial = without.clone().into(),
            &|reasons| {
                let waited = line.contains(" hold ") && matches!(reasons, [Reason::Monitor(_)]);
                waited || matches!(reasons, [Reason::Log(_)])
            },
        )?;
    }
    Ok(())
}

/// The text without one of the lines that begin so, and with one of the numbers in such a line changed.
fn tampered(text: &str, marks: &[&str]) -> Vec<(String, String)> {
    let mut variants = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        if !marks.iter().any(|mark| line.starts_with(mark)) {
            continue;
        }
        let with = |new: &str| format!("{}{new}{}", &text[..start], &text[end..]);
        variants.push((format!("without {line}"), with("")));
        for (index, _) in line.match_indices('=') {
            let (head, value) = line.split_at(index + 1);
            let value_end = value.find([' ', '\r', '\n']).unwrap_or(value.len());
            let (old, tail) = value.split_at(value_end);
            let new = match old {
                "OK" => "RANGE".to_owned(),
                "NOENT" => "INVAL".to_owned(),
                number => other_number(number),
            };
            let line = format!("{head}{new}{tail}");
            variants.push((format!("with {line}"), with(&line)));
        }
    }
    variants
}

/// Another number of the same width: the last digit is changed.
fn other_number(number: &str) -> String {
    let (head, digit) = number.split_at(number.len() - 1);
    let other = match digit {
        "0" => "1",
        "1" => "2",
        _ => "0",
    };
    format!("{head}{other}")
}
