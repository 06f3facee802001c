//! Serial logs that must be believed, and logs that must not, each for its own reason.

use crate::support::records::{self, Flaw, Outcome};
use crate::support::request::{Body, Malformed, Mapping, Range, Request, Status};
use libtest_mimic::Trial;

/// A log in order, as the kernel writes it.
pub const GOOD: &str = "\
@viommu 1 plan 3
@viommu 1 ok 1 bring_up
@viommu 1 req attach domain=1 endpoint=16 flags=0 status=OK
@viommu 1 req map domain=1 virt_start=0x1000 virt_end=0x1fff phys_start=0x80001000 flags=3 status=OK
@viommu 1 ok 2 device_reads_and_writes
@viommu 1 req unmap domain=1 virt_start=0x1000 virt_end=0x1fff status=OK
@viommu 1 req detach domain=1 endpoint=16 status=OK
@viommu 1 ok 3 nothing_left
@viommu 1 end 3 passed 0 failed 0 skipped
";

/// Name, what is replaced in [`GOOD`], by what, and the flaw.
fn broken() -> Vec<(&'static str, &'static str, &'static str, Flaw)> {
    let number = |expected, found| Flaw::Number { expected, found };
    let plan = |planned, reported| Flaw::Plan { planned, reported };
    let counts = |said| Flaw::Counts {
        said,
        counted: [3, 0, 0],
    };
    let request = Flaw::BadRequest;
    vec![
        ("silent", GOOD, "", Flaw::Silent),
        ("only_noise", GOOD, "OpenSBI v1.5\nhello\n", Flaw::Silent),
        ("no_plan", "@viommu 1 plan 3\n", "", Flaw::NoPlan),
        (
            "plan_late",
            GOOD,
            "@viommu 1 ok 1 a\n@viommu 1 plan 1\n",
            Flaw::NoPlan,
        ),
        (
            "request_before_plan",
            GOOD,
            "@viommu 1 req probe endpoint=16 status=OK\n",
            Flaw::NoPlan,
        ),
        (
            "end_only",
            GOOD,
            "@viommu 1 end 0 passed 0 failed 0 skipped\n",
            Flaw::NoPlan,
        ),
        (
            "plan_twice",
            "@viommu 1 ok 1",
            "@viommu 1 plan 3\n@viommu 1 ok 1",
            Flaw::SecondPlan,
        ),
        (
            "plan_of_nothing",
            GOOD,
            "@viommu 1 plan 0\n@viommu 1 end 0 passed 0 failed 0 skipped\n",
            Flaw::EmptyPlan,
        ),
        ("plan_not_a_number", "plan 3", "plan three", Flaw::Unknown),
        ("plan_signed", "plan 3", "plan +3", Flaw::Unknown),
        ("plan_too_large", "plan 3", "plan 4294967296", Flaw::Unknown),
        ("plan_without_number", "plan 3", "plan", Flaw::Unknown),
        ("plan_unmet", "plan 3", "plan 4", plan(4, 3)),
        ("plan_exceeded", "plan 3", "plan 2", plan(2, 3)),
        ("number_repeated", "ok 2", "ok 1", number(2, 1)),
        ("number_missing", "ok 2", "ok 3", number(2, 3)),
        ("number_from_zero", "ok 1", "ok 0", number(1, 0)),
        (
            "no_end",
            "@viommu 1 end 3 passed 0 failed 0 skipped\n",
            "",
            Flaw::NoEnd,
        ),
        (
            "cut_in_end",
            " passed 0 failed 0 skipped\n",
            "",
            Flaw::Unterminated,
        ),
        (
            "cut_before_the_newline",
            "skipped\n",
            "skipped",
            Flaw::Unterminated,
        ),
        (
            "cut_in_the_mark",
            "@viommu 1 end 3 passed 0 failed 0 skipped\n",
            "@viommu 1",
            Flaw::Unterminated,
        ),
        (
            "record_after_end",
            "skipped\n",
            "skipped\n@viommu 1 ok 4 more\n",
            Flaw::AfterEnd,
        ),
        (
            "request_after_end",
            "skipped\n",
            "skipped\n@viommu 1 req probe endpoint=1 status=OK\n",
            Flaw::AfterEnd,
        ),
        (
            "end_twice",
            "skipped\n",
            "skipped\n@viommu 1 end 3 passed 0 failed 0 skipped\n",
            Flaw::AfterEnd,
        ),
        ("end_counts_too_many", "end 3", "end 4", counts([4, 0, 0])),
        (
            "end_counts_a_failure",
            "end 3 passed 0",
            "end 3 passed 1",
            counts([3, 1, 0]),
        ),
        (
            "end_counts_a_skip",
            "0 skipped",
            "1 skipped",
            counts([3, 0, 1]),
        ),
        (
            "end_in_other_words",
            "0 skipped",
            "0 ignored",
            Flaw::Unknown,
        ),
        (
            "end_with_more_words",
            "0 skipped",
            "0 skipped or so",
            Flaw::Unknown,
        ),
        (
            "failure_without_a_place",
            "ok 2 device_reads_and_writes",
            "not ok 2 x",
            Flaw::Unknown,
        ),
        (
            "skip_without_a_reason",
            "ok 2 device_reads_and_writes",
            "skip 2 x",
            Flaw::Unknown,
        ),
        (
            "skip_with_an_empty_reason",
            "ok 2 device_reads_and_writes",
            "skip 2 x # ",
            Flaw::Unknown,
        ),
        (
            "check_without_name",
            "ok 2 device_reads_and_writes",
            "ok 2",
            Flaw::Unknown,
        ),
        (
            "check_of_two_words",
            "device_reads_and_writes",
            "device reads",
            Flaw::Unknown,
        ),
        (
            "not_without_ok",
            "ok 2 device_reads_and_writes",
            "not 2 x # y",
            Flaw::Unknown,
        ),
        (
            "unknown_kind",
            "@viommu 1 ok 2",
            "@viommu 1 fine 2",
            Flaw::Unknown,
        ),
        (
            "upper_case",
            "@viommu 1 ok 2",
            "@viommu 1 OK 2",
            Flaw::Unknown,
        ),
        (
            "two_spaces",
            "@viommu 1 ok 2",
            "@viommu 1  ok 2",
            Flaw::Unknown,
        ),
        (
            "bare_mark",
            "@viommu 1 ok 2",
            "@viommu 1\n@viommu 1 ok 2",
            Flaw::Unknown,
        ),
        (
            "other_version",
            "@viommu 1 ok 2",
            "@viommu 2 ok 2",
            Flaw::Version,
        ),
        (
            "no_version",
            "@viommu 1 ok 2",
            "@viommu ok 2",
            Flaw::Version,
        ),
        (
            "behind_other_output",
            "@viommu 1 ok 2",
            "hello @viommu 1 ok 2",
            Flaw::Torn,
        ),
        ("two_in_one_line", "bring_up\n", "bring_up", Flaw::Torn),
        (
            "request_unknown",
            "req detach",
            "req remove",
            request(Malformed::Kind),
        ),
        (
            "request_empty",
            "req detach domain=1 endpoint=16 status=OK",
            "req",
            request(Malformed::Kind),
        ),
        (
            "request_operand_missing",
            " endpoint=16 status",
            " status",
            request(Malformed::Missing("endpoint")),
        ),
        (
            "request_order",
            "domain=1 endpoint=16 status",
            "endpoint=16 domain=1 status",
            request(Malformed::Missing("domain")),
        ),
        (
            "request_status_missing",
            "endpoint=16 status=OK",
            "endpoint=16",
            request(Malformed::Missing("status")),
        ),
        (
            "request_status_unknown",
            "endpoint=16 status=OK",
            "endpoint=16 status=FINE",
            request(Malformed::Value("status")),
        ),
        (
            "request_number",
            "virt_end=0x1fff status",
            "virt_end=0x1ffg status",
            request(Malformed::Value("virt_end")),
        ),
        (
            "request_width",
            "endpoint=16 status",
            "endpoint=4294967296 status",
            request(Malformed::Value("endpoint")),
        ),
        (
            "request_trailing",
            "endpoint=16 status=OK",
            "endpoint=16 status=OK really",
            request(Malformed::Trailing),
        ),
        (
            "figure_without_value",
            "@viommu 1 ok 2",
            "@viommu 1 bench name=map rival=domain size=1 unit=ns samples=1 done=1\n@viommu 1 ok 2",
            Flaw::BadFigure,
        ),
        (
            "figure_before_plan",
            GOOD,
            "@viommu 1 bench name=map rival=domain size=1 value=1.000 low=1.000 high=1.000 unit=ns samples=1 done=1\n",
            Flaw::NoPlan,
        ),
    ]
}

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = broken()
        .into_iter()
        .map(|(name, from, to, flaw)| {
            Trial::test(format!("records::red::{name}"), move || {
                assert!(GOOD.contains(from), "nothing to replace");
                let log = GOOD.replacen(from, to, 1);
                let broken = records::parse(log.as_bytes()).expect_err("believed");
                assert_eq!(broken.flaw, flaw, "{broken}");
                if broken.line > 0 {
                    let line = log.lines().nth(broken.line - 1).expect("a line of the log");
                    assert_eq!(line.trim(), broken.text);
                    assert!(broken.to_string().contains(&broken.text));
                }
                Ok(())
            })
        })
        .collect();
    let good: [(&str, fn()); 8] = [
        ("plain", plain),
        ("any_prefix_is_red", any_prefix_is_red),
        ("noise", noise),
        ("terminal_codes", terminal_codes),
        ("failed_and_skipped", failed_and_skipped),
        ("requests", requests),
        ("figures", figures),
        ("last_line", last_line),
    ];
    trials.extend(good.map(|(name, test)| {
        Trial::test(format!("records::{name}"), move || {
            test();
            Ok(())
        })
    }));
    trials
}

fn plain() {
    let log = records::parse(GOOD.as_bytes()).expect("believed");
    let names: Vec<&str> = log.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        names,
        ["bring_up", "device_reads_and_writes", "nothing_left"]
    );
    assert_eq!(log.with(Outcome::Passed).count(), 3);
    assert_eq!(log.requests.len(), 4);
    assert_eq!(log.requests[1].0, 4, "the serial line is told");
}

fn figures() {
    const FIGURE: &str = "@viommu 1 bench name=map rival=domain size=8 value=2.500 low=2.000 high=3.000 unit=ns \
                          samples=4 done=64 paired=0.500\n";
    let log = GOOD.replacen("@viommu 1 ok 2", &format!("{FIGURE}@viommu 1 ok 2"), 1);
    let figures = records::parse(log.as_bytes()).expect("believed").figures;
    let [figure] = &figures[..] else {
        panic!("{figures:?}");
    };
    let words = [&figure.name, &figure.rival, &figure.unit];
    assert_eq!(words, ["map", "domain", "ns"]);
    assert_eq!([figure.size, figure.samples, figure.done], [8, 4, 64]);
    assert_eq!([figure.low, figure.value, figure.high], [2.0, 2.5, 3.0]);
    assert_eq!(figure.paired, Some(0.5));
}

/// Wherever the output stops, the log is not believed.
fn any_prefix_is_red() {
    for length in 0..GOOD.len() {
        let cut = &GOOD[..length];
        assert!(records::parse(cut.as_bytes()).is_err(), "{cut}");
    }
}

fn noise() {
    let noisy = GOOD.replace(
        "@viommu 1 ok 1",
        "\nOpenSBI v1.5\n   ____  \nviommu 1 ok 9 x\n@vio\nok 1\nend 7\n\u{fffd}\n@viommu 1 ok 1",
    );
    assert_eq!(
        records::parse(noisy.as_bytes())
            .expect("believed")
            .checks
            .len(),
        3
    );
    let mut bytes = b"\xff\xfe\x80 not text\n".to_vec();
    bytes.extend_from_slice(GOOD.as_bytes());
    bytes.extend_from_slice(b"tail without a newline \xf0");
    assert_eq!(
        records::parse(&bytes),
        records::parse(GOOD.as_bytes()).map(|mut log| {
            log.requests.iter_mut().for_each(|(line, _)| *line += 1);
            log
        })
    );
}

fn terminal_codes() {
    let plain = records::parse(GOOD.as_bytes());
    let variants = [
        GOOD.replace('\n', "\r\n"),
        GOOD.replace('\n', "\r\r\n"),
        GOOD.replace("@viommu", "\0@viommu").replace('\n', "\0\n"),
        GOOD.replace("@viommu", "\x1b[0m\x1b[1;32m@viommu\x1b[K"),
        GOOD.replace("bring_up", "bring\x1b[31m_up\x1b[0m"),
        GOOD.replace("@viommu", "\x1b[2J\x1b[?25l\x1b7\x07@viommu"),
    ];
    for variant in variants {
        assert_eq!(records::parse(variant.as_bytes()), plain, "{variant:?}");
    }
    // A sequence that is cut by the end of its line does not swallow the next one.
    let cut = GOOD.replacen("@viommu 1 ok 1", "colour \x1b[31\n@viommu 1 ok 1", 1);
    assert_eq!(
        records::parse(cut.as_bytes())
            .expect("believed")
            .checks
            .len(),
        3
    );
}

fn failed_and_skipped() {
    let log = "@viommu 1 plan 3\n\
        @viommu 1 not ok 1 unmap_unknown_range # boot/src/x.rs:212 left: Ok(()) right: Err(Range)\n\
        @viommu 1 skip 2 needs_bypass_config # feature bit 6 not offered\n\
        @viommu 1 ok 3 last # as a note\n\
        @viommu 1 end 1 passed 1 failed 1 skipped\n";
    let log = records::parse(log.as_bytes()).expect("whole");
    let failed: Vec<_> = log.with(Outcome::Failed).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].name, "unmap_unknown_range");
    let note = failed[0].note.as_deref();
    assert_eq!(
        note,
        Some("boot/src/x.rs:212 left: Ok(()) right: Err(Range)")
    );
    assert_eq!(log.with(Outcome::Skipped).count(), 1);
}

fn requests() {
    let parse = |text| Request::parse(text);
    let attach = |domain, endpoint, flags, status| Request {
        cpu: 0,
        body: Body::Attach {
            domain,
            endpoint,
            flags,
        },
        status,
    };
    let cases = [
        (
            "attach domain=1 endpoint=16 flags=0 status=OK",
            attach(1, 16, 0, Status::Ok),
        ),
        (
            "attach domain=4294967295 endpoint=0x100 flags=1 status=UNKNOWN(0x2a)",
            attach(u32::MAX, 256, 1, Status::Unknown),
        ),
        (
            "attach domain=-1 endpoint=-2147483648 flags=0 status=unconfirmed",
            attach(u32::MAX, 1 << 31, 0, Status::Unconfirmed),
        ),
        (
            "detach domain=2 endpoint=9 status=INVAL",
            Request {
                cpu: 0,
                body: Body::Detach {
                    domain: 2,
                    endpoint: 9,
                },
                status: Status::Inval,
            },
        ),
        (
            "map domain=7 virt_start=0x0 virt_end=0xffffffffffffffff phys_start=0x80001000 flags=3 status=NOMEM",
            Request {
                cpu: 0,
                body: Body::Map {
                    domain: 7,
                    mapping: Mapping {
                        range: Range {
                            start: 0,
                            end: u64::MAX,
                        },
                        phys_start: 0x8000_1000,
                        flags: 3,
                    },
                },
                status: Status::NoMem,
            },
        ),
        (
            "unmap domain=7 virt_start=0x1000 virt_end=0x1fff status=RANGE",
            Request {
                cpu: 0,
                body: Body::Unmap {
                    domain: 7,
                    range: Range {
                        start: 0x1000,
                        end: 0x1fff,
                    },
                },
                status: Status::Range,
            },
        ),
        (
            "probe endpoint=16 status=unwritten",
            Request {
                cpu: 0,
                body: Body::Probe { endpoint: 16 },
                status: Status::Unwritten,
            },
        ),
    ];
    for (text, request) in cases {
        assert_eq!(parse(text), Ok(request), "{text}");
    }
    let on_another = parse("cpu=1 attach domain=1 endpoint=16 flags=0 status=OK");
    let expected = Request {
        cpu: 1,
        ..attach(1, 16, 0, Status::Ok)
    };
    assert_eq!(on_another, Ok(expected));
    for text in [
        "",
        "cpu=0 probe endpoint=1 status=OK",
        "cpu=8 probe endpoint=1 status=OK",
        "cpu= probe endpoint=1 status=OK",
        "cpu=1probe endpoint=1 status=OK",
        "cpu=1 cpu=1 probe endpoint=1 status=OK",
        "cpu=1",
        "probe cpu=1 endpoint=1 status=OK",
        "probe endpoint=1 status=UNKNOWN(",
        "probe endpoint=1 status=)",
        "probe endpoint=+1 status=OK",
        "attach",
        "probe endpoint=16 status=",
        "probe endpoint= status=OK",
        "probe endpoint=0x status=OK",
        "probe endpoint=--1 status=OK",
        "probe endpoint=-0 status=OK",
        "probe endpoint=-2147483649 status=OK",
        "probe  endpoint=1 status=OK",
        "unmap domain=1 virt_start=-1 virt_end=0x1fff status=OK",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

fn last_line() {
    let last = |text: &str| records::last_line(text.as_bytes());
    assert_eq!(last(""), None);
    assert_eq!(last("\r\n \n\0\n"), None);
    assert_eq!(last("one\r\ntwo\x1b[0m\r\n\r\n").as_deref(), Some("two"));
    assert_eq!(last("one\ntw").as_deref(), Some("tw"));
}
