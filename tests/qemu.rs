//! Boots the kernel under QEMU, one VM for each scenario, and judges what it says against what the device traced.
//!
//! `cargo test --test qemu -- riscv64::` runs one architecture, `-- --list` names all. Without QEMU, or without a
//! compiler for bare metal, the tests are ignored and say so; where `CI` or `VIOMMU_REQUIRE_QEMU` is set they fail.
//! `VIOMMU_TIMEOUT_FACTOR` multiplies the time that a VM has, `VIOMMU_ARCH` restricts the architectures.

use libtest_mimic::Trial;
use std::process::ExitCode;
use support::bench::{BENCHES, Bench};
use support::bench_io;
use support::machine::{Host, boot, watchdog};
use support::qmp;
use support::scenarios::{self, Scenario};
use support::suite::{self, Ran, Tally};
use support::verdict::{Reason, explain, judge};
use xtask::Arch;
use xtask::conformance::Oracle;
use xtask::conformance::proof::Record;

mod support;

fn main() -> ExitCode {
    suite::main("qemu", trials)
}

fn trials(archs: &[Arch], tally: &Tally) -> Vec<Trial> {
    let mut trials = Vec::new();
    for arch in archs {
        for scenario in scenarios::all() {
            if scenario.archs.contains(arch) {
                let name = format!("{arch}::{}", scenario.name);
                trials.push(suite::trial(name, *arch, tally, |host| run(host, scenario)));
            }
        }
        for bench in &BENCHES {
            let name = format!("{arch}::{}", bench.scenario.name);
            trials.push(suite::trial(name, *arch, tally, |host| {
                run_bench(host, bench)
            }));
        }
        let name = format!("{arch}::{}", bench_io::NAME);
        trials.push(suite::trial(name, *arch, tally, |host| {
            bench_io::run(host.qemu.arch)
        }));
    }
    trials
}

fn run(host: &Host, scenario: &Scenario) -> Result<Ran, String> {
    if let Some(why) = host.abilities.lacks(scenario.needs) {
        keep(host, scenario, false, Some(&why));
        return Ok(Ran::NotApplicable(why));
    }
    let run = boot(
        host,
        scenario,
        &scenario.append(&host.abilities),
        watchdog()?,
    );
    let expect = scenario.expected(host.qemu.arch, &host.abilities);
    let mut reasons = judge(&run, scenario.wanted(), &expect);
    if reasons.is_empty() {
        let wrong = qmp::judge(&run.visits, scenario.holds);
        reasons.extend(wrong.into_iter().map(Reason::Monitor));
    }
    keep(host, scenario, reasons.is_empty(), None);
    if reasons.is_empty() {
        return Ok(Ran::Green);
    }
    Err(explain(&run, &reasons))
}

/// What the scenario proves, or why it cannot, for the report.
fn keep(host: &Host, scenario: &Scenario, green: bool, not_applicable: Option<&str>) {
    let owned = |(oracle, rules): &(Oracle, &[&str])| {
        (
            *oracle,
            rules.iter().map(|rule| (*rule).to_owned()).collect(),
        )
    };
    let record = Record {
        place: scenario.name.to_owned(),
        line: 0,
        arch: Some(host.qemu.arch.to_string()),
        green,
        not_applicable: not_applicable.map(str::to_owned),
        personalities: Vec::new(),
        proves: scenario.proves.iter().map(owned).collect(),
    };
    if !record.proves.is_empty() || not_applicable.is_some() {
        record.keep();
    }
}

/// Benchmarks are no tests. This is one of whether they measure.
fn run_bench(host: &Host, bench: &Bench) -> Result<(), String> {
    let run = boot(host, &bench.scenario, &bench.append(), watchdog()?);
    let wrong = bench.judge(&run);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{wrong}\n{}", explain(&run, &[])))
}
