//! The verdict of made-up runs: only exit code 33, a whole record and an agreeing trace together are green.

use crate::records::GOOD;
use crate::support::disk::{Disk, Drive, WrongSector};
use crate::support::expect::Expect;
use crate::support::finding::Finding;
use crate::support::peer::WrongFrames;
use crate::support::records::Flaw;
use crate::support::verdict::{End, Reason, Run, Wanted, explain, judge};
use crate::trace;
use libtest_mimic::Trial;
use std::time::Duration;
use xtask::demo::DemoError;
use xtask::vm::Stream;

const DEMO: &str = "viommu-boot 0.1.0 on riscv64\ndemo: 8 of 8 steps ok\n";

/// A run without an IOMMU that is green.
fn run() -> Run {
    let serial: String = GOOD
        .split_inclusive('\n')
        .filter(|line| !line.contains(" req "))
        .collect();
    Run {
        command_line: "qemu-system-riscv64 -append 'scenario=x y'".into(),
        version: "QEMU emulator version 10.0.2".into(),
        end: End::Exited(33),
        serial: serial.into(),
        stderr: b"qemu-system-riscv64: a warning\n".to_vec(),
        trace: Some(String::new()),
        elapsed: Duration::from_millis(250),
        wrong_sector: None,
        wrong_frames: None,
        visits: Vec::new(),
    }
}

fn verdict(run: &Run) -> Vec<Reason> {
    judge(run, Wanted::Scenario(&[]), &Expect::NO_IOMMU)
}

fn with(change: impl FnOnce(&mut Run)) -> Vec<Reason> {
    let mut run = run();
    change(&mut run);
    verdict(&run)
}

fn edit(from: &str, to: &str) -> Vec<Reason> {
    with(|run| {
        let serial = String::from_utf8(run.serial.clone()).expect("text");
        assert!(serial.contains(from), "nothing to replace");
        run.serial = serial.replacen(from, to, 1).into();
    })
}

fn names(reasons: &[Reason]) -> Vec<String> {
    let list = |reason: &Reason| match reason {
        Reason::Checks(checks) | Reason::Skips(checks) => {
            checks.iter().map(|check| check.name.clone()).collect()
        }
        _ => vec![],
    };
    reasons.iter().flat_map(list).collect()
}

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 16] = [
        ("green", green),
        ("every_other_exit_code_is_red", every_other_exit_code_is_red),
        ("a_perfect_log_does_not_help", a_perfect_log_does_not_help),
        ("exit_33_does_not_help", exit_33_does_not_help),
        ("failed_check", failed_check),
        ("panic", panic),
        ("skips", skips),
        ("nothing_but_skips", nothing_but_skips),
        ("watchdog", watchdog),
        ("demo", demo),
        ("trace_is_judged", trace_is_judged),
        ("trace_of_the_demo", trace_of_the_demo),
        ("disk_is_judged", disk_is_judged),
        ("the_peer_is_heard", the_peer_is_heard),
        (
            "a_disk_is_what_the_guest_left",
            a_disk_is_what_the_guest_left,
        ),
        ("explanation", explanation),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("verdict::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

fn green() {
    assert_eq!(verdict(&run()), []);
}

fn every_other_exit_code_is_red() {
    for code in (0..=255).filter(|code| *code != 33) {
        assert_eq!(
            with(|run| run.end = End::Exited(code)),
            [Reason::Exit(code)]
        );
    }
}

fn a_perfect_log_does_not_help() {
    let lost = || "no such file".to_owned();
    assert_eq!(
        with(|run| run.end = End::Signalled(15)),
        [Reason::Signalled(15)]
    );
    assert_eq!(
        with(|run| run.end = End::Lost(lost())),
        [Reason::Lost(lost())]
    );
    let much = || Stream::Stderr;
    assert_eq!(
        with(|run| run.end = End::TooMuchOutput(much())),
        [Reason::TooMuchOutput(much())]
    );
    let end = "@viommu 1 end 3 passed 0 failed 0 skipped";
    let late = with(|run| run.end = End::TimedOut(Duration::from_secs(30)));
    assert_eq!(late, [Reason::TimedOut(Some(end.into()))]);
}

fn exit_33_does_not_help() {
    let silent = with(|run| run.serial.clear());
    assert!(matches!(&silent[..], [Reason::Log(broken)] if broken.flaw == Flaw::Silent));
    let cut = edit("@viommu 1 end 3 passed 0 failed 0 skipped\n", "");
    assert!(matches!(&cut[..], [Reason::Log(broken)] if broken.flaw == Flaw::NoEnd));
    let miscounted = edit("end 3", "end 2");
    assert!(
        matches!(&miscounted[..], [Reason::Log(broken)] if matches!(broken.flaw, Flaw::Counts { .. }))
    );
    assert_eq!(with(|run| run.trace = None), [Reason::NoTrace]);
}

fn disk_is_judged() {
    let wrong = WrongSector {
        drive: "disk",
        sector: 7,
    };
    assert_eq!(
        with(|run| run.wrong_sector = Some(wrong)),
        [Reason::Disk(wrong)]
    );
}

fn the_peer_is_heard() {
    let wrong = WrongFrames::Frame("a frame".into());
    assert_eq!(
        with(|run| run.wrong_frames = Some(wrong.clone())),
        [Reason::Peer(wrong)]
    );
}

fn a_disk_is_what_the_guest_left() {
    let disk = Disk {
        options: "",
        sectors: 4,
        written: 2,
    };
    let wrong = |drive, sector| Some(WrongSector { drive, sector });
    let disk = disk.drive();
    let mut image = image_of(disk);
    assert_eq!(image.len(), 4 * 512);
    assert_eq!(image[..8], 0x9e37_79b9_7f4a_7c15_u64.to_le_bytes());
    assert_eq!(disk.judge(Some(&image)), wrong("disk", 2));
    turn(&mut image[2 * 512..3 * 512]);
    assert_eq!(disk.judge(Some(&image)), None);
    assert_eq!(disk.judge(Some(&image[..3 * 512])), wrong("disk", 3));
    image[511] ^= 1;
    assert_eq!(disk.judge(Some(&image)), wrong("disk", 0));
    assert_eq!(disk.judge(None), wrong("disk", 0));

    let other = Drive {
        name: "other",
        number: 1,
        written: (1, 2),
        ..disk
    };
    let mut image = image_of(other);
    assert_eq!(other.judge(Some(&image)), wrong("other", 1));
    turn(&mut image[512..1024]);
    assert_eq!(other.judge(Some(&image)), wrong("other", 2));
    turn(&mut image[1024..1536]);
    assert_eq!(other.judge(Some(&image)), None);
    // Its contents are its own.
    assert_eq!(disk.judge(Some(&image)), wrong("disk", 0));
}

fn image_of(drive: Drive) -> Vec<u8> {
    let file = format!("viommu-{}-{}", drive.name, std::process::id());
    let file = std::env::temp_dir().join(file);
    drive.create(&file).expect("a file");
    let image = std::fs::read(&file).expect("a file");
    std::fs::remove_file(&file).expect("a file");
    image
}

fn turn(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
}

fn failed_check() {
    let log = "@viommu 1 plan 2\n@viommu 1 ok 1 a\n@viommu 1 not ok 2 b # x.rs:1\n@viommu 1 end 1 passed 1 failed 0 skipped\n";
    let reasons = with(|run| run.serial = log.into());
    assert!(matches!(&reasons[..], [Reason::Checks(_)]), "{reasons:?}");
    assert_eq!(names(&reasons), ["b"]);
    let reasons = with(|run| {
        run.serial = log.into();
        run.end = End::Exited(35);
    });
    assert!(
        matches!(&reasons[..], [Reason::Exit(35), Reason::Checks(_)]),
        "{reasons:?}"
    );
}

fn panic() {
    let log = "@viommu 1 plan 5\n@viommu 1 ok 1 a\nPANIC: at x.rs\n@viommu 1 not ok 2 panic # x.rs:7 index out of bounds\n@viommu 1 end 1 passed 1 failed 0 skipped\n";
    let reasons = with(|run| {
        run.serial = log.into();
        run.end = End::Exited(37);
    });
    assert!(
        matches!(&reasons[..], [Reason::Exit(37), Reason::Log(broken), Reason::Checks(_)]
            if broken.flaw == Flaw::Plan { planned: 5, reported: 2 }),
        "{reasons:?}"
    );
    assert_eq!(names(&reasons), ["panic"]);
}

fn skips() {
    let log = GOOD_WITH_SKIP;
    let mut run = run();
    run.serial = log.into();
    let reasons = judge(&run, Wanted::Scenario(&["other"]), &Expect::NO_IOMMU);
    assert!(matches!(&reasons[..], [Reason::Skips(_)]), "{reasons:?}");
    assert_eq!(names(&reasons), ["b"]);
    assert_eq!(judge(&run, Wanted::Scenario(&["b"]), &Expect::NO_IOMMU), []);
}

const GOOD_WITH_SKIP: &str = "@viommu 1 plan 2\n@viommu 1 ok 1 a\n@viommu 1 skip 2 b # not offered\n@viommu 1 end 1 passed 0 failed 1 skipped\n";

fn nothing_but_skips() {
    let mut run = run();
    run.serial = b"@viommu 1 plan 1\n@viommu 1 skip 1 b # not offered\n@viommu 1 end 0 passed 0 failed 1 skipped\n".to_vec();
    let reasons = judge(&run, Wanted::Scenario(&["b"]), &Expect::NO_IOMMU);
    assert_eq!(reasons, [Reason::NothingPassed]);
}

fn watchdog() {
    let reasons = with(|run| {
        run.end = End::TimedOut(Duration::from_secs(1));
        run.serial = b"booting\r\nlast words\x1b[0m\r\n\r\n".to_vec();
    });
    assert_eq!(reasons, [Reason::TimedOut(Some("last words".into()))]);
    let reasons = with(|run| {
        run.end = End::TimedOut(Duration::from_secs(1));
        run.serial.clear();
    });
    assert_eq!(reasons, [Reason::TimedOut(None)]);
}

fn demo() {
    let judged = |serial: &str, code| {
        let mut run = run();
        run.serial = serial.into();
        run.end = End::Exited(code);
        judge(&run, Wanted::Demo, &Expect::NO_IOMMU)
    };
    assert_eq!(judged(DEMO, 33), []);
    assert_eq!(judged(&DEMO.replace('\n', "\r\n"), 33), []);
    assert_eq!(judged(DEMO, 0), [Reason::Exit(0)]);
    assert!(matches!(
        judged("", 33)[..],
        [Reason::Demo(DemoError::LastLine(_))]
    ));
    assert_eq!(judged(&format!("{DEMO}\x1b[0m\0\r\n"), 33), []);
    for (from, to) in [
        ("8 of 8", "7 of 8"),
        ("8 of 8", "8 of 9"),
        ("8 of 8", "0 of 0"),
        ("8 of 8", "7 of 7"),
        ("8 of 8", "x of x"),
        ("steps ok", "steps"),
        ("demo: ", ""),
        ("ok\n", "ok\nmore\n"),
    ] {
        let serial = DEMO.replacen(from, to, 1);
        let reasons = judged(&serial, 33);
        assert!(matches!(reasons[..], [Reason::Demo(_)]), "{serial}");
    }
}

fn trace_is_judged() {
    let judged = |trace: String| {
        let mut run = run();
        run.serial = trace::GUEST.into();
        run.trace = Some(trace);
        judge(&run, Wanted::Scenario(&[]), &trace::EXPECT)
    };
    assert_eq!(judged(trace::DEVICE.into()), []);
    assert_eq!(judged(String::new()), [Reason::Trace(Finding::Absent)]);
    let reasons =
        judged(trace::DEVICE.replacen("phys_start=0x80001000", "phys_start=0x80002000", 1));
    assert!(
        matches!(reasons[..], [Reason::Trace(Finding::Disagreement { .. })]),
        "{reasons:?}"
    );
    let cut = &trace::DEVICE[..trace::DEVICE.len() - 1];
    assert!(matches!(judged(cut.into())[..], [Reason::Unreadable(_)]));
    // A machine without an IOMMU has nothing to trace.
    let mut run = run();
    run.trace = Some(trace::DEVICE.into());
    assert_eq!(verdict(&run), [Reason::Trace(Finding::Absent)]);
}

fn trace_of_the_demo() {
    let arrows = |text: &str| text.replace("@viommu 1 req", "        ->");
    let serial: String = arrows(trace::GUEST)
        .split_inclusive('\n')
        .filter(|line| !line.contains("@viommu"))
        .collect();
    let judged = |serial: &str| {
        let mut run = run();
        run.serial = format!("step 1 -> fine\n-> not a request\n{serial}{DEMO}").into();
        run.trace = Some(trace::DEVICE.into());
        judge(&run, Wanted::Demo, &trace::EXPECT)
    };
    assert_eq!(judged(&serial), []);
    let hidden = serial.replacen("-> map", "map", 1);
    let reasons = judged(&hidden);
    assert!(
        matches!(reasons[..], [Reason::Trace(Finding::Disagreement { .. })]),
        "{reasons:?}"
    );
}

fn explanation() {
    let mut run = run();
    run.end = End::TimedOut(Duration::from_secs(30));
    run.trace = Some("virtio_iommu_attach domain=1 endpoint=16\n".into());
    let text = explain(&run, &verdict(&run));
    for part in [
        "last serial line: `@viommu 1 end 3 passed",
        "qemu-system-riscv64 -append 'scenario=x y'",
        "QEMU emulator version 10.0.2",
        "killed after 30.0 s",
        "@viommu 1 ok 1 bring_up\n",
        "qemu-system-riscv64: a warning\n",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // The trace is shown where it is the reason.
    let line = "virtio_iommu_attach domain=1 endpoint=16";
    assert!(!text.contains(line), "{text}");
    let text = explain(&run, &[Reason::Trace(Finding::Absent)]);
    assert!(text.contains(line), "{text}");
    run.end = End::Exited(0);
    run.serial = format!("first{}last\n", "x\n".repeat(1 << 20)).into();
    let text = explain(&run, &verdict(&run));
    assert!(text.contains("exit code 0: means nothing"));
    assert!(text.contains("first") && text.contains("last") && text.contains("bytes ..."));
    assert!(text.len() < 100 << 10, "{}", text.len());
}
