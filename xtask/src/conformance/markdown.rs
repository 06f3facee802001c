//! `docs/conformance.md`, made of the data and of nothing else.

use std::fmt::Write;

use super::Oracle;
use super::data::{Data, Entry, Tally, Verdict};
use super::long_runs::LongRun;

const HEAD: &str = "\
# Conformance

Every rule of virtio 1.2 §5.13 (the same in 1.3 and 1.4) for a driver (`DN-…`), what a driver has to bear of devices
(`DV-…`), and the rules of virtio in general that apply (`GV-…`), with what decides whether it is kept. The texts are
ours, and short; the specification's word counts. Made by `cargo xtask test --report`; `conformance.html` shows the
same with the names of the tests.

| oracle | what decides |
|---|---|
| RET | the driver returns an error, and nothing reaches the ring |
| MODEL | a model device, written from the specification, looks at every byte, or misbehaves on purpose |
| FUZZ | random input, against a naive reader of the same bytes |
| TRACE | QEMU's trace: what reached its device |
| QMP | QEMU's monitor: what its device negotiated, where its queues are |
| DMA | a device's DMA in the guest: memory changes, or does not, and faults arrive |

A number is of tests; ✘ means that one of them is red, or that an oracle that the rule needs has not decided.
";

/// The page.
#[must_use]
pub fn page(data: &Data) -> String {
    let mut text = String::from(HEAD);
    let qemu: Vec<String> = data
        .qemu
        .iter()
        .map(|(arch, version)| format!("{arch}: QEMU {version}"))
        .collect();
    let _ = writeln!(text, "\nRun of {}. {}.\n", data.date, qemu.join(", "));
    for (arch, scenario, why) in data.without() {
        let _ = writeln!(
            text,
            "- Not applicable on {arch}: `{scenario}`, because {why}"
        );
    }
    if !data.not_applicable.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "| state | green | red | nothing to decide |");
    let _ = writeln!(text, "|---|---|---|---|");
    for state in ["kept", "delegated", "not applicable", "deviation"] {
        let [green, red, open] =
            [Verdict::Green, Verdict::Red, Verdict::Open].map(|verdict| data.count(state, verdict));
        let _ = writeln!(text, "| {state} | {green} | {red} | {open} |");
    }
    for (prefix, title) in [
        ("DN-", "The driver"),
        ("DV-", "What the driver bears"),
        ("GV-", "Virtio in general"),
    ] {
        let _ = writeln!(text, "\n## {title}\n");
        table(&mut text, data, prefix);
    }
    long_runs(&mut text, &data.long_runs);
    text
}

fn long_runs(text: &mut String, runs: &[LongRun]) {
    text.push_str(
        "\n## Long runs\n\nAgainst random input, and no part of the tests: kept by hand in `docs/long-runs.toml`.\n\n\
         | what | reached | time | failures | date | command |\n|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let LongRun {
            what,
            command,
            reached,
            time,
            failures,
            date,
        } = run;
        let _ = writeln!(
            text,
            "| {what} | {reached} | {time} | {failures} | {date} | `{command}` |"
        );
    }
}

fn table(text: &mut String, data: &Data, prefix: &str) {
    let places = data.places();
    let _ = writeln!(text, "| | rule | level | § | {} |", places.join(" | "));
    let _ = writeln!(text, "|---|---|---|---|{}", "---|".repeat(places.len()));
    for rule in data.rules.iter().filter(|rule| rule.id.starts_with(prefix)) {
        let mark = match rule.whole() {
            Verdict::Green => "✔",
            Verdict::Red => "✘",
            Verdict::Open => "–",
        };
        let reason = match &rule.reason {
            Some(why) => format!(" *{}: {why}.*", rule.state),
            None => String::new(),
        };
        let cells: Vec<String> = places.iter().map(|place| cell(rule, place)).collect();
        let _ = writeln!(
            text,
            "| {mark} | **{}** {}{reason} | {} | {} | {} |",
            rule.id,
            rule.text,
            rule.level,
            rule.section,
            cells.join(" | ")
        );
    }
}

fn cell(rule: &Entry, place: &str) -> String {
    let mut parts = Vec::new();
    for oracle in Oracle::ALL {
        match rule.tally(place, oracle) {
            Tally { green: 0, red: 0 } => {}
            Tally { green, red: 0 } => parts.push(format!("{oracle} {green}")),
            Tally { green, red } => parts.push(format!("{oracle} {green}, ✘ {red}")),
        }
    }
    parts.join("; ")
}
