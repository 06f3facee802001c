//! Proves that the harness of `qemu.rs` says no: every way in which a run can go wrong is red, and for its own reason.

use libtest_mimic::Trial;
use std::process::ExitCode;
use support::suite::{self, Tally};
use xtask::Arch;

#[path = "harness/book.rs"]
mod book;
#[path = "harness/disagreements.rs"]
mod disagreements;
#[path = "harness/gates.rs"]
mod gates;
#[path = "harness/monitor.rs"]
mod monitor;
#[path = "harness/order.rs"]
mod order;
#[path = "harness/peer.rs"]
mod peer;
#[path = "harness/processes.rs"]
mod processes;
#[path = "harness/records.rs"]
mod records;
#[path = "harness/registers.rs"]
mod registers;
#[path = "harness/rules.rs"]
mod rules;
#[expect(dead_code, reason = "the other test program uses the rest")]
mod support;
#[path = "harness/trace.rs"]
mod trace;
#[path = "harness/translated.rs"]
mod translated;
#[path = "harness/verdict.rs"]
mod verdict;
#[path = "harness/versions.rs"]
mod versions;
#[path = "harness/vms.rs"]
mod vms;

fn main() -> ExitCode {
    suite::main("harness", trials)
}

fn trials(archs: &[Arch], tally: &Tally) -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(records::trials());
    trials.extend(book::trials());
    trials.extend(trace::trials());
    trials.extend(order::trials());
    trials.extend(disagreements::trials());
    trials.extend(verdict::trials());
    trials.extend(versions::trials());
    trials.extend(peer::trials());
    trials.extend(processes::trials());
    trials.extend(gates::trials());
    trials.extend(registers::trials());
    trials.extend(translated::trials());
    trials.extend(monitor::trials());
    trials.extend(rules::trials());
    trials.extend(vms::trials(archs, tally));
    trials
}
