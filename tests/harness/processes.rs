//! Shell scripts that play QEMU: everything that a process can do wrong ends in time, and red.

use crate::records::GOOD;
use crate::support::expect::Expect;
use crate::support::machine::watch;
use crate::support::verdict::{Reason, Run, Wanted, judge};
use crate::trace::{DEVICE, EXPECT, GUEST};
use libtest_mimic::Trial;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use xtask::vm::Stream;

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 13] = [
        ("perfect", perfect),
        ("perfect_with_an_iommu", perfect_with_an_iommu),
        ("perfect_log_and_exit_code_0", perfect_log_and_exit_code_0),
        ("perfect_log_and_a_signal", perfect_log_and_a_signal),
        ("perfect_log_and_a_hang", perfect_log_and_a_hang),
        ("perfect_log_and_no_trace", perfect_log_and_no_trace),
        ("not_there", not_there),
        ("deaf_to_sigterm", deaf_to_sigterm),
        ("silent_hang", silent_hang),
        ("endless_output", endless_output),
        ("endless_messages", endless_messages),
        ("endless_trace", endless_trace),
        ("a_child_that_stays", a_child_that_stays),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("processes::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

/// A script; `$SERIAL` is a whole record, `$TRACE` a trace that fits it, `$FILE` where the trace belongs.
fn play(script: &str, limit: Duration) -> Run {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("FILE=$2; {script}"), "sh"]);
    let plain: String = GOOD
        .split_inclusive('\n')
        .filter(|line| !line.contains(" req "))
        .collect();
    command
        .env("PLAIN", plain)
        .env("SERIAL", GUEST)
        .env("TRACE", DEVICE);
    let started = Instant::now();
    let run = watch(command, "none", "script", limit);
    // Whatever it does, it is over soon after its time.
    assert!(started.elapsed() < limit + Duration::from_secs(10));
    run
}

const LONG: Duration = Duration::from_secs(60);
/// Long enough to say something first, on a busy machine too.
const SHORT: Duration = Duration::from_secs(3);

fn verdict(script: &str, limit: Duration) -> Vec<Reason> {
    judge(
        &play(script, limit),
        Wanted::Scenario(&[]),
        &Expect::NO_IOMMU,
    )
}

fn perfect() {
    assert_eq!(
        verdict(r#": >"$FILE"; printf %s "$PLAIN"; exit 33"#, LONG),
        []
    );
}

fn perfect_with_an_iommu() {
    let script = r#"printf %s "$TRACE" >"$FILE"; printf %s "$SERIAL"; exit 33"#;
    let run = play(script, LONG);
    assert_eq!(judge(&run, Wanted::Scenario(&[]), &EXPECT), []);
    // The line for the shell does the same again, but for the environment.
    assert!(
        run.command_line.starts_with("sh -c '"),
        "{}",
        run.command_line
    );
    assert!(run.command_line.contains(" sh -D "), "{}", run.command_line);
}

fn perfect_log_and_exit_code_0() {
    let reasons = verdict(r#": >"$FILE"; printf %s "$PLAIN"; exit 0"#, LONG);
    assert_eq!(reasons, [Reason::Exit(0)]);
}

fn perfect_log_and_a_signal() {
    let reasons = verdict(r#": >"$FILE"; printf %s "$PLAIN"; kill -TERM $$"#, LONG);
    assert_eq!(reasons, [Reason::Signalled(15)]);
}

fn perfect_log_and_a_hang() {
    let reasons = verdict(
        r#": >"$FILE"; printf %s "$PLAIN"; sleep 1000; exit 33"#,
        SHORT,
    );
    let last = "@viommu 1 end 3 passed 0 failed 0 skipped";
    assert_eq!(reasons, [Reason::TimedOut(Some(last.into()))]);
}

fn perfect_log_and_no_trace() {
    let reasons = verdict(r#"printf %s "$PLAIN"; exit 33"#, LONG);
    assert_eq!(reasons, [Reason::NoTrace]);
}

fn not_there() {
    let command = Command::new("/nonexistent/qemu-system-riscv64");
    let run = watch(command, "none", "nobody", LONG);
    let reasons = judge(&run, Wanted::Scenario(&[]), &Expect::NO_IOMMU);
    assert!(matches!(reasons[..], [Reason::Lost(_)]), "{reasons:?}");
}

fn deaf_to_sigterm() {
    let script = "trap '' TERM INT HUP; echo last words; while :; do sleep 1; done";
    let reasons = verdict(script, SHORT);
    assert_eq!(reasons, [Reason::TimedOut(Some("last words".into()))]);
}

fn silent_hang() {
    assert_eq!(verdict("sleep 1000", SHORT), [Reason::TimedOut(None)]);
}

fn endless_output() {
    let run = play("yes '@viommu 1 ok 1 x'", LONG);
    assert!(run.serial.len() <= 4 << 20, "{}", run.serial.len());
    let reasons = judge(&run, Wanted::Scenario(&[]), &Expect::NO_IOMMU);
    assert_eq!(reasons, [Reason::TooMuchOutput(Stream::Stdout)]);
}

fn endless_messages() {
    let run = play("yes 'no mapping' >&2", LONG);
    assert!(run.stderr.len() <= 4 << 20, "{}", run.stderr.len());
    let reasons = judge(&run, Wanted::Scenario(&[]), &Expect::NO_IOMMU);
    assert_eq!(reasons, [Reason::TooMuchOutput(Stream::Stderr)]);
}

fn endless_trace() {
    // Slow enough to be caught before the disk is.
    let script = r#"while :; do head -c 4000000 /dev/zero >>"$FILE"; sleep 0.02; done"#;
    let run = play(script, LONG);
    let reasons = judge(&run, Wanted::Scenario(&[]), &Expect::NO_IOMMU);
    assert!(
        matches!(reasons[..], [Reason::TooMuchOutput(Stream::File(_))]),
        "{reasons:?}"
    );
    let file = PathBuf::from(run.command_line.rsplit(' ').next().unwrap_or_default());
    assert!(file.is_absolute() && !file.exists(), "{}", file.display());
}

fn a_child_that_stays() {
    let run = play(
        r#": >"$FILE"; printf %s "$PLAIN"; sleep 1000 & exit 33"#,
        LONG,
    );
    assert_eq!(judge(&run, Wanted::Scenario(&[]), &Expect::NO_IOMMU), []);
    assert!(run.elapsed < Duration::from_secs(20), "{:?}", run.elapsed);
}
