//! Traces of registers: one that is as it must be, and each way in which one is not.

use crate::support::registers::{Misuse, judge};
use libtest_mimic::Trial;

/// A start over virtio-mmio, an interrupt, and a notification over PCI.
const GOOD: &str = "\
virtio_mmio_read virtio_mmio_read offset 0x0
virtio_mmio_read virtio_mmio_read offset 0x8
virtio_mmio_read virtio_mmio_read offset 0x4
virtio_mmio_write_offset virtio_mmio_write offset 0x70 value 0x0
virtio_set_status vdev 0x557c val 0
virtio_mmio_setting_irq virtio_mmio setting IRQ 0
virtio_mmio_read virtio_mmio_read offset 0x70
virtio_mmio_write_offset virtio_mmio_write offset 0x70 value 0x3
virtio_mmio_write_offset virtio_mmio_write offset 0x14 value 0x0
virtio_mmio_read virtio_mmio_read offset 0x10
virtio_mmio_write_offset virtio_mmio_write offset 0x24 value 0x0
virtio_mmio_write_offset virtio_mmio_write offset 0x20 value 0x77
virtio_mmio_read virtio_mmio_read offset 0xfc
virtio_mmio_read virtio_mmio_read offset 0x120
virtio_mmio_write_offset virtio_mmio_write offset 0x30 value 0x1
virtio_mmio_read virtio_mmio_read offset 0x34
virtio_mmio_write_offset virtio_mmio_write offset 0x38 value 0x100
virtio_mmio_queue_write mmio_queue write 0x100 max 1024
virtio_mmio_write_offset virtio_mmio_write offset 0x80 value 0x1000
virtio_mmio_write_offset virtio_mmio_write offset 0x44 value 0x1
virtio_mmio_write_offset virtio_mmio_write offset 0x124 value 0x0
virtio_mmio_write_offset virtio_mmio_write offset 0x50 value 0x0
virtio_queue_notify vdev 0x557c n 0 vq 0x7f00
virtio_mmio_read virtio_mmio_read offset 0x60
virtio_mmio_write_offset virtio_mmio_write offset 0x64 value 0x1
virtio_pci_notify_write 0x4 = 0x1 (2)
virtio_queue_notify vdev 0x557d n 1 vq 0x7f01
";

/// What is changed, into what, and what that is.
const WRONG: &[(&str, &str, Misuse)] = &[
    ("= 0x1 (2)", "= 0x1 (4)", Misuse::Notification),
    ("0x4 = 0x1", "0x0 = 0x1", Misuse::Notification),
    ("n 1 vq", "n 0 vq", Misuse::Notification),
    ("offset 0x8\n", "offset 0xc\n", Misuse::Unidentified),
    ("read offset 0xfc", "read offset 0x30", Misuse::Access),
    ("read offset 0xfc", "read offset 0xfe", Misuse::Access),
    ("offset 0x50", "offset 0x34", Misuse::Access),
    ("offset 0x14 value", "offset 0x50 value", Misuse::Unselected),
    ("offset 0x24 value", "offset 0x50 value", Misuse::Unselected),
    ("0x100 max 1024", "0x100 max 128", Misuse::QueueSize),
    ("offset 0x50", "offset 0x80", Misuse::LiveQueue),
    ("0x124 value 0x0", "0x44 value 0x1", Misuse::LiveQueue),
    ("read offset 0x60", "read offset 0x34", Misuse::Acknowledged),
    ("0x64 value 0x1", "0x64 value 0x5", Misuse::Acknowledged),
    ("read offset 0xfc", "read offset 0xb0", Misuse::SharedMemory),
    (
        "mmio_queue write 0x100 max",
        "mmio_queue 0x100",
        Misuse::Unreadable,
    ),
];

pub fn trials() -> Vec<Trial> {
    let good = Trial::test("registers::what_is_as_it_must_be", || {
        assert_eq!(judge(GOOD), []);
        Ok(())
    });
    let wrong = WRONG.iter().enumerate().map(|(index, (from, to, what))| {
        Trial::test(format!("registers::{what:?}_{index}"), move || {
            assert!(GOOD.contains(from));
            let found = judge(&GOOD.replacen(from, to, 1));
            let is_it = |(_, misuse): &(usize, Misuse)| misuse == what;
            if found.iter().any(is_it) {
                return Ok(());
            }
            Err(format!("{found:?}").into())
        })
    });
    [good].into_iter().chain(wrong).collect()
}
