//! What happens where no VM can be booted: nothing is skipped without a word, and nothing where somebody counts on it.
//!
//! Each trial runs this program again, for one trial of its own.

use crate::support::machine::{FACTOR_VARIABLE, REQUIRE_VARIABLE};
use libtest_mimic::Trial;
use std::process::{Command, Output};
use xtask::Arch;
use xtask::arch::ARCH_VARIABLE;
use xtask::qemu::DIR_VARIABLE;

const TRIAL: &str = "vms::riscv64::selftest-exit-zero";

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 7] = [
        ("unreadable_timeout_factor_fails", unreadable_factor),
        ("missing_qemu_is_ignored_with_a_reason", missing),
        ("missing_qemu_fails_where_it_is_required", required),
        ("missing_qemu_fails_in_ci", ci),
        ("wrong_qemu_dir_fails", wrong_dir),
        ("unknown_architecture_fails", unknown_architecture),
        ("left_out_architecture_is_told", left_out),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("gates::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

/// Runs [`TRIAL`] without any QEMU in `PATH`.
fn again(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args([TRIAL, "--exact", "--test-threads", "1"]);
    for name in [
        "CI",
        REQUIRE_VARIABLE,
        ARCH_VARIABLE,
        DIR_VARIABLE,
        FACTOR_VARIABLE,
    ] {
        command.env_remove(name);
    }
    command
        .env("PATH", "/nonexistent")
        .envs(variables.iter().copied());
    let Output { status, stdout, .. } = command.output().expect("it starts");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned())
}

const REASON: &str = "qemu-system-riscv64 was not found in PATH";

fn missing() {
    let (code, said) = again(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("ignored ({REASON})")), "{said}");
    let summary = format!("harness: 0 ran: 0 green, 0 red; 1 skipped: 1 because {REASON}\n");
    assert!(said.ends_with(&summary), "{said}");
    // Not set at all, or set to nothing, is the same.
    for name in ["CI", REQUIRE_VARIABLE] {
        for value in ["", "0"] {
            let (code, said) = again(&[(name, value)]);
            assert_eq!(code, Some(0), "{said}");
            assert!(said.ends_with(&summary), "{said}");
        }
    }
}

fn required() {
    let (code, said) = again(&[(REQUIRE_VARIABLE, "1")]);
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains(REASON), "{said}");
    assert!(
        said.ends_with("harness: 1 ran: 0 green, 1 red; 0 skipped\n"),
        "{said}"
    );
}

fn ci() {
    let (code, said) = again(&[("CI", "true")]);
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains(REASON), "{said}");
}

fn wrong_dir() {
    let (code, said) = again(&[(DIR_VARIABLE, "/nonexistent")]);
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("/nonexistent/qemu-system-riscv64"), "{said}");
}

fn unknown_architecture() {
    let (code, said) = again(&[(ARCH_VARIABLE, "riscv32")]);
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("unknown architecture `riscv32`"), "{said}");
}

fn unreadable_factor() {
    for factor in ["", "fast", "-1", "0", "nan", "inf", "1e9"] {
        let (code, said) = again(&[(FACTOR_VARIABLE, factor)]);
        assert_eq!(code, Some(101), "{said}");
        assert!(said.contains(FACTOR_VARIABLE), "{said}");
    }
    assert_eq!(again(&[(FACTOR_VARIABLE, "2.5")]).0, Some(0));
}

fn left_out() {
    let others: Vec<&str> = Arch::ALL
        .iter()
        .filter(|arch| **arch != Arch::Riscv64)
        .map(|arch| arch.name())
        .collect();
    let line = format!("; {} left out by {ARCH_VARIABLE}\n", others.join(", "));
    let (code, said) = again(&[(ARCH_VARIABLE, "riscv64")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with(&line), "{said}");
}
