//! What versions of QEMU do differently: each way is believed where it belongs, and nowhere else.
//!
//! The older device has no line for an endpoint that leaves its domain, keeps its record of an endpoint over a DETACH,
//! and lets go of everything when it is reset.

use crate::support::expect::{Expect, WantedFault};
use crate::support::finding::Finding;
use crate::support::suite::{Ran, Tally};
use crate::support::trace::Trace;
use crate::trace::{DEVICE, EXPECT, GUEST, change, find};
use libtest_mimic::Trial;

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 5] = [
        ("an_older_device", older_device),
        ("why_an_access_is_refused", reasons),
        ("refused_accesses_have_a_fault", refused),
        ("a_reset_takes_away_what_was_left", taken),
        ("not_applicable_is_told", told),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(format!("versions::{name}"), move || {
            test();
            Ok(())
        })
    };
    tests.into_iter().map(trial).collect()
}

const LEFT: &str = "virtio_iommu_detach_endpoint_from_domain";
const RESET: &str = "virtio_iommu_device_reset reset!\n";
const FREED: &str = "virtio_iommu_put_endpoint Free endpoint=16\n";
/// The last DETACH, with all that follows.
const LAST: &str = "\
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_iommu_detach domain=1 endpoint=16
virtio_iommu_put_domain Free domain=1
";
const LAST_RECORD: &str = "@viommu 1 req detach domain=1 endpoint=16 status=OK\n";

/// The run of [`DEVICE`] as the older device traces it.
fn old() -> String {
    let mut made = false;
    let mut text = String::new();
    for line in DEVICE.split_inclusive('\n') {
        let again =
            line.starts_with("virtio_iommu_get_endpoint") && std::mem::replace(&mut made, true);
        if !line.starts_with(LEFT) && line != FREED && !again {
            text.push_str(line);
        }
    }
    let text = change(&text, &[("virtio_iommu_device_reset_exit reset!\n", RESET)]);
    format!("{text}{RESET}{FREED}")
}

const OLD: Expect = Expect {
    tells_leaves: false,
    ..EXPECT
};

fn older_device() {
    assert_eq!(find(&old(), GUEST, &OLD), []);
    for (device, expect) in [(old(), &EXPECT), (DEVICE.into(), &OLD)] {
        let found = find(&device, GUEST, expect);
        assert!(matches!(found[..], [Finding::Effects { .. }]), "{found:?}");
    }
    // What is gone is gone: the reset names each endpoint that it forgets, and no other.
    for tail in [RESET.to_owned(), format!("{RESET}{FREED}{FREED}")] {
        let device = change(&old(), &[(&format!("{RESET}{FREED}"), &tail)]);
        let found = find(&device, GUEST, &OLD);
        assert!(matches!(found[..], [Finding::Effects { .. }]), "{found:?}");
    }
}

fn reasons() {
    let after = |device: &str, line: &str, reason: u32| {
        let fault = format!(
            "{line}virtio_iommu_report_fault FAULT reason={reason} flags=256 endpoint=16 address =0x7000\n"
        );
        change(device, &[(line, &fault)])
    };
    let faults = [
        EXPECT.faults[0],
        WantedFault {
            reason: 0,
            ..EXPECT.faults[0]
        },
    ];
    let faults: &'static [WantedFault] = Box::leak(Box::new(faults));
    let free = "virtio_iommu_put_domain Free domain=-1\n";
    for (device, line, expect, right) in [
        (DEVICE.to_owned(), FREED, EXPECT, 0),
        (old(), free, OLD, 1),
        (
            DEVICE.to_owned(),
            "virtio_iommu_get_domain Alloc domain=1\n",
            EXPECT,
            2,
        ),
        (old(), "virtio_iommu_get_domain Alloc domain=1\n", OLD, 2),
    ] {
        for reason in 0..3 {
            // Two of the three are there; the third may be.
            let expect = Expect { faults, ..expect };
            let mut found = find(&after(&device, line, reason), GUEST, &expect);
            found.retain(|finding| !matches!(finding, Finding::MissingFault(..)));
            let wrong = |finding: &Finding| matches!(finding, Finding::Reason { expected, .. } if *expected == right);
            assert_eq!(
                found.iter().any(wrong),
                reason != right,
                "{reason}: {found:?}"
            );
            assert_eq!(found.len(), usize::from(reason != right), "{found:?}");
        }
    }
}

fn refused() {
    let fault = "flags=256 endpoint=16 address =0x7000\n";
    let line = |rest: &str| format!("{fault}Invalid {rest}\n");
    let rejected = "size 4, region '(null)', reason: rejected";
    for kind in ["read", "write"] {
        let right = line(&format!("{kind} at addr 0x7000, {rejected}"));
        assert_eq!(
            find(&change(DEVICE, &[(fault, &right)]), GUEST, &EXPECT),
            []
        );
        for wrong in [
            line(&format!("{kind} at addr 0x7004, {rejected}")),
            format!("{right}Invalid {kind} at addr 0x7000, {rejected}\n"),
        ] {
            let found = find(&change(DEVICE, &[(fault, &wrong)]), GUEST, &EXPECT);
            assert!(matches!(found[..], [Finding::NoFault { .. }]), "{found:?}");
        }
    }
    // What the guest did wrong.
    for rest in [
        "read at addr 0x0, size 1, region 'virtio-mmio', reason: invalid size (min:1 max:4)",
        "write at addr 0x7000, size 4, region 'virtio-mmio', reason: rejected",
        "write at addr 0x7000, size 4, region '(null)', reason: unaligned (unaligned access)",
        "fetch at addr 0x7000, size 4, region '(null)', reason: rejected",
        "write at addr , size 4, region '(null)', reason: rejected",
    ] {
        assert!(
            Trace::parse(&change(DEVICE, &[(fault, &line(rest))])).is_err(),
            "{rest}"
        );
    }
}

fn taken() {
    let device = change(&old(), &[(LAST, "")]);
    let device = change(
        &device,
        &[(
            &format!("{RESET}{FREED}"),
            &format!("{RESET}virtio_iommu_put_domain Free domain=1\n{FREED}"),
        )],
    );
    let guest = change(GUEST, &[(LAST_RECORD, "")]);
    assert_eq!(
        find(&device, &guest, &OLD),
        [Finding::StillAttached(vec![16])]
    );
    let expect = Expect {
        attached: &[16],
        ..OLD
    };
    assert_eq!(find(&device, &guest, &expect), []);
    // Another reset, of nothing, does not hide it.
    let device = format!("{device}{RESET}");
    assert_eq!(
        find(&device, &guest, &OLD),
        [Finding::StillAttached(vec![16])]
    );
}

fn told() {
    let tally = Tally::default();
    assert_eq!(tally.to_string(), "0 ran: 0 green, 0 red; 0 skipped");
    let why = || Ran::NotApplicable("it has no property".into());
    tally.count(&Ok(why()));
    tally.count(&Ok(why()));
    tally.count(&Ok(Ran::Green));
    tally.count(&Err(String::new()));
    let line = "2 ran: 1 green, 1 red; 2 not applicable: 2 because it has no property; 0 skipped";
    assert_eq!(tally.to_string(), line);
}
