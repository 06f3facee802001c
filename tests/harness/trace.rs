//! Traces that agree with the guest's record, and traces that do not, each for its own reason.

use crate::support::audit::audit;
use crate::support::expect::{Expect, Kind, Region, WantedFault};
use crate::support::finding::{Finding, Rule};
use crate::support::records;
use crate::support::request::Range;
use crate::support::trace::{Event, Trace};
use libtest_mimic::Trial;

/// What QEMU traces of one short run of the driver.
pub const DEVICE: &str = "\
virtio_set_status vdev 0x557c val 0
virtio_iommu_device_status driver status = 0
virtio_iommu_device_reset_exit reset!
virtio_set_status vdev 0x557c val 1
virtio_iommu_device_status driver status = 1
virtio_set_status vdev 0x557c val 3
virtio_iommu_device_status driver status = 3
virtio_set_status vdev 0x557c val 11
virtio_iommu_device_status driver status = 11
virtio_iommu_get_config page_size_mask=0xfffffffffffff000 input range start=0x0 input range end=0xffffffffff domain range start=0 domain range end=4294967295 probe_size=0x200 bypass=0x1
virtio_set_status vdev 0x557c val 15
virtio_iommu_device_status driver status = 15
virtio_queue_notify vdev 0x557c n 1 vq 0x7f01
virtio_iommu_set_config bypass=0x0
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_fill_resv_property dev= 16, type=1 start=0x8020000 end=0x8020fff
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_attach domain=-1 endpoint=16
virtio_iommu_get_endpoint Alloc endpoint=16
virtio_iommu_get_domain Alloc domain=-1
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_detach domain=-1 endpoint=16
virtio_iommu_detach_endpoint_from_domain domain=-1 endpoint=16
virtio_iommu_put_domain Free domain=-1
virtio_iommu_put_endpoint Free endpoint=16
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_attach domain=1 endpoint=16
virtio_iommu_get_endpoint Alloc endpoint=16
virtio_iommu_get_domain Alloc domain=1
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_unmap domain=1 virt_start=0x0 virt_end=0xffffffffff
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_map domain=1 virt_start=0x1000 virt_end=0x2fff phys_start=0x80001000 flags=3
virtio_iommu_map domain=1 virt_start=0x4000 virt_end=0x4fff phys_start=0x80008000 flags=1
virtio_iommu_report_fault FAULT reason=2 flags=256 endpoint=16 address =0x7000
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_unmap domain=1 virt_start=0x1000 virt_end=0x2fff
virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x2fff
virtio_iommu_unmap domain=1 virt_start=0x4000 virt_end=0x4fff
virtio_iommu_unmap_done domain=1 virt_start=0x4000 virt_end=0x4fff
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_detach domain=1 endpoint=16
virtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16
virtio_iommu_put_domain Free domain=1
virtio_iommu_put_endpoint Free endpoint=16
virtio_set_status vdev 0x557c val 0
virtio_iommu_device_status driver status = 0
";

/// What the guest recorded of the same run.
pub const GUEST: &str = "\
@viommu 1 plan 1
@viommu 1 req probe endpoint=16 status=OK
@viommu 1 req attach domain=4294967295 endpoint=16 flags=0 status=OK
@viommu 1 req detach domain=4294967295 endpoint=16 status=OK
@viommu 1 req attach domain=1 endpoint=16 flags=0 status=OK
@viommu 1 req unmap domain=1 virt_start=0x0 virt_end=0xffffffffff status=OK
@viommu 1 req map domain=1 virt_start=0x1000 virt_end=0x2fff phys_start=0x80001000 flags=3 status=OK
@viommu 1 req map domain=1 virt_start=0x4000 virt_end=0x4fff phys_start=0x80008000 flags=1 status=OK
@viommu 1 req unmap domain=1 virt_start=0x1000 virt_end=0x2fff status=OK
@viommu 1 req unmap domain=1 virt_start=0x4000 virt_end=0x4fff status=OK
@viommu 1 req detach domain=1 endpoint=16 status=OK
@viommu 1 ok 1 all
@viommu 1 end 1 passed 0 failed 0 skipped
";

const FAULTS: [WantedFault; 1] = [WantedFault {
    reason: 2,
    flags: 0x100,
    least: 1,
}];

const MSI: [Region; 1] = [Region {
    subtype: 1,
    range: Range {
        start: 0x0802_0000,
        end: 0x0802_0fff,
    },
}];

pub const EXPECT: Expect = Expect {
    maps: 2,
    faults: &FAULTS,
    batches: &[(Kind::Map, 2), (Kind::Unmap, 2)],
    reserved: Some(&MSI),
    granule: Some(4096),
    input_end: Some(0xff_ffff_ffff),
    ..Expect::PLAIN
};

/// The line of a notification of the request queue.
pub const NOTIFY: &str = "virtio_queue_notify vdev 0x557c n 0 vq 0x7f00\n";
/// The operands of the first MAP.
pub const MAP_1: &str =
    "map domain=1 virt_start=0x1000 virt_end=0x2fff phys_start=0x80001000 flags=3";
/// The operands of the second UNMAP.
pub const UNMAP_2: &str = "unmap domain=1 virt_start=0x4000 virt_end=0x4fff";

/// What is wrong with two texts.
pub fn find(device: &str, guest: &str, expect: &Expect) -> Vec<Finding> {
    let trace = Trace::parse(device).expect("readable");
    let log = records::parse(guest.as_bytes()).expect("believed");
    audit(&trace, &log.requests, expect)
}

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 11] = [
        ("unknown_events", unknown_events),
        ("other_expectations", other_expectations),
        ("green", green),
        ("two_endpoints", two_endpoints),
        ("wholly_outside", wholly_outside),
        ("expectations_are_looked_at", expectations_are_looked_at),
        ("unreadable_lines", unreadable_lines),
        ("numbers", numbers),
        ("restart", restart),
        ("other_devices_do_not_count", other_devices_do_not_count),
        ("every_request_line_matters", every_request_line_matters),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("trace::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

/// The text after some replacements, none of which may fail.
pub fn change(text: &str, changes: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "nothing to replace: {from}");
        text = text.replacen(from, to, 1);
    }
    text
}

fn green() {
    assert_eq!(find(DEVICE, GUEST, &EXPECT), []);
}

fn expectations_are_looked_at() {
    let with = |change: fn(&mut Expect)| {
        let mut expect = EXPECT;
        change(&mut expect);
        find(DEVICE, GUEST, &expect)
    };
    assert_eq!(with(|expect| expect.maps = 3), [Finding::Maps(2)]);
    for more in [
        with(|expect| expect.starts = 2),
        with(|expect| expect.failed_starts = 1),
    ] {
        let (complete, failed) = (1, 0);
        assert_eq!(more, [Finding::Starts { complete, failed }]);
    }
    assert_eq!(
        with(|expect| expect.attached = &[16]),
        [Finding::StillAttached(vec![])]
    );
    let endpoints = with(|expect| expect.endpoints = &[16, 24]);
    assert_eq!(
        endpoints,
        [
            Finding::Endpoints(vec![16]),
            Finding::Machine("reserved regions")
        ]
    );
    assert!(matches!(
        with(|expect| expect.faults = &[])[..],
        [Finding::UnexpectedFault { .. }]
    ));
    assert_eq!(
        with(|expect| expect.reserved = Some(&[])),
        [Finding::Machine("reserved regions")]
    );
    assert_eq!(
        with(|expect| expect.granule = Some(65536)),
        [Finding::Machine("granule")]
    );
    assert_eq!(
        with(|expect| expect.input_end = Some(u64::MAX)),
        [Finding::Machine("end of the input range")]
    );
    assert_eq!(
        with(|expect| expect.refusals = true),
        [Finding::Refusals(false)]
    );
    assert_eq!(with(|expect| expect.iommu = false), [Finding::Absent]);
    assert_eq!(
        with(|expect| expect.batches = &[(Kind::Map, 1)]),
        [Finding::NoBatch(Kind::Map, 1)]
    );
    assert_eq!(with(|expect| expect.merged = 1), []);
    assert_eq!(with(|expect| expect.merged = 2), [Finding::NotMerged(1)]);
    assert_eq!(audit(&Trace::default(), &[], &Expect::NO_IOMMU), []);
    assert_eq!(audit(&Trace::default(), &[], &EXPECT), [Finding::Absent]);
}

/// What is wrong in one scenario is right in another.
fn other_expectations() {
    let failed = "virtio_set_status vdev 0x557c val 1\nvirtio_iommu_device_status driver status = 1\nvirtio_iommu_device_status driver status = 129\nvirtio_iommu_device_status driver status = 0\nvirtio_iommu_device_status driver status = 128\nvirtio_iommu_device_status driver status = 0\n";
    let expect = Expect {
        failed_starts: 1,
        ..EXPECT
    };
    assert_eq!(find(&format!("{failed}{DEVICE}"), GUEST, &expect), []);
    // A purge of a domain that does not exist.
    let purge = "virtio_iommu_unmap domain=9 virt_start=0x0 virt_end=0xffffffffff\n";
    let device = change(
        DEVICE,
        &[(
            "virtio_iommu_attach domain=1",
            &format!("{purge}virtio_iommu_attach domain=1"),
        )],
    );
    let record = "@viommu 1 req unmap domain=9 virt_start=0x0 virt_end=0xffffffffff status=NOENT\n";
    let guest = change(
        GUEST,
        &[(
            "@viommu 1 req attach domain=1",
            &format!("{record}@viommu 1 req attach domain=1"),
        )],
    );
    assert_eq!(find(&device, &guest, &EXPECT), []);
    // One UNMAP for both mappings.
    let done = "virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x2fff\n";
    let device = change(
        DEVICE,
        &[
            (
                "unmap domain=1 virt_start=0x1000 virt_end=0x2fff\n",
                "unmap domain=1 virt_start=0x1000 virt_end=0x4fff\n",
            ),
            (done, ""),
            (
                "virtio_iommu_unmap domain=1 virt_start=0x4000 virt_end=0x4fff\n",
                done,
            ),
        ],
    );
    let guest = change(
        GUEST,
        &[
            (
                "unmap domain=1 virt_start=0x1000 virt_end=0x2fff",
                "unmap domain=1 virt_start=0x1000 virt_end=0x4fff",
            ),
            (
                "@viommu 1 req unmap domain=1 virt_start=0x4000 virt_end=0x4fff status=OK\n",
                "",
            ),
        ],
    );
    let expect = Expect {
        batches: &[(Kind::Unmap, 1)],
        ..EXPECT
    };
    assert_eq!(find(&device, &guest, &expect), []);
    // QEMU itself wakes up a device that has its own thread.
    let woken = change(DEVICE, &[(NOTIFY, &NOTIFY.repeat(4))]);
    assert_eq!(
        find(&woken, GUEST, &EXPECT),
        [Finding::Kicks {
            kicks: 4,
            requests: 1
        }]
    );
    let expect = Expect {
        in_thread: true,
        ..EXPECT
    };
    assert_eq!(find(&woken, GUEST, &expect), []);
    let again = change(&woken, &[(NOTIFY, &NOTIFY.repeat(2))]);
    assert_eq!(
        find(&again, GUEST, &expect),
        [Finding::Kicks {
            kicks: 12,
            requests: 11
        }]
    );
    // The bypass is left alone, and may not be touched.
    let expect = Expect {
        locks_bypass: false,
        ..EXPECT
    };
    let device = change(DEVICE, &[("virtio_iommu_set_config bypass=0x0\n", "")]);
    assert_eq!(find(&device, GUEST, &expect), []);
    assert_eq!(find(&device, GUEST, &EXPECT).len(), 2);
    assert!(!find(DEVICE, GUEST, &expect).is_empty());
}

fn unreadable_lines() {
    for line in [
        "virtio_iommu_attach domain=1\n",
        "virtio_iommu_attach domain=1 endpoint=16 flags=0\n",
        "virtio_iommu_attach domain=1 endpoint=16",
        "virtio_iommu_attach domain=x endpoint=16\n",
        "virtio_iommu_map domain=1 virt_start=0x1000 virt_end=0x1fff flags=3\n",
        "virtio_blk_something new\n",
        "virtio_iommu_attach\n",
        "qemu-system-riscv64: warning\n",
        "\n",
    ] {
        let error = Trace::parse(&format!("{DEVICE}{line}")).expect_err(line);
        assert_eq!(
            (error.line, error.text.as_str()),
            (DEVICE.lines().count() + 1, line.trim_end())
        );
    }
}

/// Other versions of QEMU have other events.
fn unknown_events() {
    let device = change(
        DEVICE,
        &[(
            "virtio_iommu_map",
            "virtio_iommu_something new\nvirtio_iommu_map",
        )],
    );
    assert_eq!(find(&device, GUEST, &EXPECT), []);
}

fn numbers() {
    let trace = Trace::parse(
        "virtio_iommu_attach domain=-2 endpoint=-2147483648\n\
         virtio_iommu_unmap domain=0 virt_start=0x0 virt_end=0xffffffffffffffff\n",
    )
    .expect("readable");
    let attach = Event::Attach {
        domain: u32::MAX - 1,
        endpoint: 1 << 31,
    };
    let range = Range {
        start: 0,
        end: u64::MAX,
    };
    let unmap = Event::Unmap { domain: 0, range };
    assert_eq!(trace.events, [(1, attach), (2, unmap)]);
}

/// Another endpoint, with reserved regions of its own, joins a domain that has mappings already.
fn two_endpoints() {
    let device = |at: &str| {
        let probe =
            format!("virtio_iommu_fill_resv_property dev= 24, type=0 start={at}000 end={at}fff\n");
        let again = probe.replacen("type=0", "type=1", 1).replacen(at, "0xa", 2);
        let join = "virtio_iommu_attach domain=1 endpoint=24\nvirtio_iommu_get_endpoint Alloc endpoint=24\n";
        let leave = "virtio_iommu_detach domain=1 endpoint=24\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=24\nvirtio_iommu_put_endpoint Free endpoint=24\n";
        let fault = "virtio_iommu_report_fault";
        change(
            DEVICE,
            &[(fault, &format!("{probe}{again}{join}{leave}{fault}"))],
        )
    };
    let guest = change(
        GUEST,
        &[(
            "@viommu 1 req unmap domain=1 virt_start=0x1000",
            "@viommu 1 req probe endpoint=24 status=OK\n@viommu 1 req attach domain=1 endpoint=24 flags=0 status=OK\n@viommu 1 req detach domain=1 endpoint=24 status=OK\n@viommu 1 req unmap domain=1 virt_start=0x1000",
        )],
    );
    let expect = Expect {
        endpoints: &[16, 24],
        reserved: None,
        batches: &[],
        ..EXPECT
    };
    assert_eq!(find(&device("0x3"), &guest, &expect), []);
    let clash = find(&device("0x4"), &guest, &expect);
    assert!(
        matches!(
            clash[..],
            [Finding::Forbidden {
                rule: Rule::Reserved,
                ..
            }]
        ),
        "{clash:?}"
    );
    // Only its own members count for a domain.
    let alone = change(
        &device("0x4"),
        &[
            (
                "virtio_iommu_attach domain=1 endpoint=24\nvirtio_iommu_get_endpoint Alloc endpoint=24\n",
                "virtio_iommu_attach domain=2 endpoint=24\nvirtio_iommu_get_endpoint Alloc endpoint=24\nvirtio_iommu_get_domain Alloc domain=2\n",
            ),
            (
                "virtio_iommu_detach domain=1 endpoint=24\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=24\n",
                "virtio_iommu_detach domain=2 endpoint=24\nvirtio_iommu_detach_endpoint_from_domain domain=2 endpoint=24\nvirtio_iommu_put_domain Free domain=2\n",
            ),
        ],
    );
    let own = guest.replace("domain=1 endpoint=24", "domain=2 endpoint=24");
    assert_eq!(find(&alone, &own, &expect), []);
}

/// A mapping that lies wholly outside, not only at its end.
fn wholly_outside() {
    let low = "input range start=0x0 input range end=0xffffffffff";
    let device = change(
        DEVICE,
        &[
            (low, "input range start=0x3000 input range end=0xffffffffff"),
            (
                "unmap domain=1 virt_start=0x0 ",
                "unmap domain=1 virt_start=0x3000 ",
            ),
        ],
    );
    let guest = change(
        GUEST,
        &[(
            "unmap domain=1 virt_start=0x0 ",
            "unmap domain=1 virt_start=0x3000 ",
        )],
    );
    let findings = find(&device, &guest, &EXPECT);
    assert!(!findings.is_empty());
    for finding in findings {
        let rule = matches!(
            finding,
            Finding::Forbidden {
                rule: Rule::InputRange,
                ..
            }
        );
        assert!(rule, "{finding:?}");
    }
}

/// The device keeps attachments and mappings over a reset of the driver's; QEMU up to 9.2 does not.
fn restart() {
    let start = |text: &str| {
        let from = text
            .find("virtio_set_status vdev 0x557c val 1\n")
            .expect("a start");
        text[from..].to_owned()
    };
    let detach = "virtio_queue_notify vdev 0x557c n 0 vq 0x7f00\nvirtio_iommu_detach domain=1 endpoint=16\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\nvirtio_iommu_put_domain Free domain=1\nvirtio_iommu_put_endpoint Free endpoint=16\n";
    let forgotten = change(
        DEVICE,
        &[
            (detach, ""),
            (UNMAP_2, "@"),
            (
                "virtio_iommu_@\nvirtio_iommu_unmap_done domain=1 virt_start=0x4000 virt_end=0x4fff\n",
                "",
            ),
        ],
    );
    let attached =
        "virtio_iommu_attach domain=-1 endpoint=16\nvirtio_iommu_get_endpoint Alloc endpoint=16\n";
    let kept = "virtio_iommu_attach domain=-1 endpoint=16\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\nvirtio_iommu_put_domain Free domain=1\n";
    let second = change(&start(DEVICE), &[(attached, kept)]);
    let guest = |log: &str| {
        let requests = log.lines().filter(|line| line.contains(" req "));
        requests.map(|line| format!("{line}\n")).collect::<String>()
    };
    let short = change(
        GUEST,
        &[
            (
                "@viommu 1 req unmap domain=1 virt_start=0x4000 virt_end=0x4fff status=OK\n",
                "",
            ),
            ("@viommu 1 req detach domain=1 endpoint=16 status=OK\n", ""),
        ],
    );
    let log = format!(
        "@viommu 1 plan 1\n{}{}@viommu 1 ok 1 a\n@viommu 1 end 1 passed 0 failed 0 skipped\n",
        guest(&short),
        guest(GUEST)
    );
    let expect = Expect {
        starts: 2,
        ..EXPECT
    };
    assert_eq!(find(&format!("{forgotten}{second}"), &log, &expect), []);
    // The trace of the older device: its own reset clears everything, and says so.
    let cleared = "virtio_iommu_device_reset reset!\nvirtio_iommu_detach_endpoint_from_domain domain=1 endpoint=16\nvirtio_iommu_put_domain Free domain=1\nvirtio_iommu_put_endpoint Free endpoint=16\n";
    let old = format!("{forgotten}{cleared}{}", start(DEVICE));
    assert_eq!(find(&old, &log, &expect), []);
    // What the first start left behind is not forgotten here.
    let wrong = find(&format!("{forgotten}{}", start(DEVICE)), &log, &expect);
    assert!(matches!(wrong[..], [Finding::Effects { .. }]), "{wrong:?}");
}

fn other_devices_do_not_count() {
    let disk = "virtio_set_status vdev 0x9999 val 15\nvirtio_queue_notify vdev 0x9999 n 0 vq 0x1\n";
    let trace = format!(
        "{disk}{}",
        DEVICE.replace(MAP_1, &format!("{MAP_1}\n{}", disk.trim_end()))
    );
    assert_eq!(find(&trace, GUEST, &EXPECT), []);
    assert_eq!(Trace::parse(&trace).expect("readable").kicks(0), 8);
}

/// Not one request can be dropped from, or doubled in, either side.
fn every_request_line_matters() {
    let drop = |text: &str, index: usize, copies: usize| {
        let lines = text.lines().enumerate();
        lines
            .flat_map(|(at, line)| vec![format!("{line}\n"); if at == index { copies } else { 1 }])
            .collect::<String>()
    };
    for (index, line) in GUEST
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains(" req "))
    {
        for copies in [0, 2] {
            // A second PROBE without regions is none that the trace could show.
            if copies == 2 && line.contains("probe") {
                continue;
            }
            assert_ne!(
                find(DEVICE, &drop(GUEST, index, copies), &EXPECT),
                [],
                "{copies} of {line}"
            );
        }
    }
    for (index, line) in DEVICE.lines().enumerate() {
        let request = [
            "attach ",
            "detach ",
            "map ",
            "unmap ",
            "_done",
            "_domain",
            "_endpoint",
            "resv",
        ];
        if request.iter().any(|word| line.contains(word)) {
            for copies in [0, 2] {
                // QEMU 9.0 keeps a detached endpoint in mind.
                if copies == 0
                    && DEVICE
                        .lines()
                        .skip(index)
                        .filter(|line| line.contains("Free endpoint"))
                        .count()
                        == 1
                {
                    continue;
                }
                assert_ne!(
                    find(&drop(DEVICE, index, copies), GUEST, &EXPECT),
                    [],
                    "{copies} of {line}"
                );
            }
        }
    }
}
