//! Mappings that nobody uses, and translations that lead astray, are red.

use crate::support::request::Range;
use crate::support::trace::Trace;
use crate::support::translated::{Astray, judge};
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: fn()| {
        Trial::test(format!("translated::{name}"), move || {
            test();
            Ok(())
        })
    };
    vec![
        trial("used_mappings_are_green", used),
        trial("unused_mappings_are_red", unused),
        trial("translations_must_be_those_of_the_mapping", astray),
    ]
}

const TRACE: &str = "\
virtio_iommu_attach domain=1 endpoint=16
virtio_iommu_map domain=1 virt_start=0x1000 virt_end=0x2fff phys_start=0x80000000 flags=1
virtio_iommu_translate_out 0x2008 -> 0x80001008 for sid=16
virtio_iommu_unmap domain=1 virt_start=0x1000 virt_end=0x2fff
virtio_iommu_unmap_done domain=1 virt_start=0x1000 virt_end=0x2fff
";

fn findings(text: &str) -> Vec<(usize, Astray)> {
    judge(text, &Trace::parse(text).expect("readable"), 0)
}

fn used() {
    assert_eq!(findings(TRACE), []);
    let twice = format!(
        "{TRACE}{}",
        TRACE
            .replace("0x80000000", "0x90000000")
            .replace("0x80001008", "0x90001008")
    );
    assert_eq!(findings(&twice), []);
}

fn unused() {
    let range = Range {
        start: 0x1000,
        end: 0x2fff,
    };
    let lines: Vec<&str> = TRACE.lines().collect();
    let without = |from: usize, to: usize| {
        let kept = lines.iter().enumerate();
        let kept = kept.filter(|(index, _)| !(from..to).contains(index));
        kept.map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    };
    // Never, and at the end of the trace.
    assert_eq!(findings(&without(2, 3)), [(2, Astray::Unused(range))]);
    assert_eq!(findings(&without(2, 5)), [(2, Astray::Unused(range))]);
    // As many as are known of.
    let text = without(2, 3);
    let trace = Trace::parse(&text).expect("readable");
    assert_eq!(judge(&text, &trace, 1), []);
    // With its domain.
    let gone = format!("{}virtio_iommu_put_domain Free domain=1\n", without(2, 5));
    assert_eq!(findings(&gone), [(2, Astray::Unused(range))]);
    // Once, but not the second time.
    let again = format!("{TRACE}{}", without(2, 3));
    assert_eq!(findings(&again), [(7, Astray::Unused(range))]);
}

fn astray() {
    for (from, to, wrong) in [
        ("0x80001008", "0x80001009", Astray::Elsewhere(0x2008)),
        ("sid=16", "sid=x", Astray::Unreadable),
    ] {
        let text = TRACE.replace(from, to);
        assert!(findings(&text).contains(&(3, wrong)), "{text}");
    }
    for (from, to, address) in [
        ("0x2008 ->", "0x3000 ->", 0x3000),
        ("0x2008 ->", "0xfff ->", 0xfff),
        ("sid=16", "sid=17", 0x2008),
        (
            "virtio_iommu_attach domain=1",
            "virtio_iommu_attach domain=2",
            0x2008,
        ),
    ] {
        let text = TRACE.replace(from, to);
        assert!(
            findings(&text).contains(&(3, Astray::Unmapped(address))),
            "{text}"
        );
    }
}
