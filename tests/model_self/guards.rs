//! What fails a test by itself: leaks, endless waits, violations that nobody looks at.

use crate::model::Model;
use crate::model::memory::Refuse;

#[test]
fn the_platform_notices_what_is_done_with_its_pages() {
    let model = Model::new();
    let ram = model.ram();
    let (phys, virt) = ram.allocate(2, 0x1_0000).unwrap();
    assert_eq!(phys % 0x1_0000, 0);
    assert_eq!(virt.as_ptr() as usize % 0x1_0000, 0);
    assert_eq!(ram.phys_of(virt), Some(phys));
    assert_ne!(virt.as_ptr() as u64, phys, "no address is its own pointer");
    assert!(ram.is_live(phys, 0x2000));
    assert!(!ram.is_live(phys, 0x2001));
    assert_eq!((ram.live_pages(), ram.peak_pages()), (2, 2));
    ram.write(phys + 0x2000, &[0]);
    ram.free(phys, 2, 0x1000);
    ram.free(phys, 2, 0x1000);
    assert_eq!(model.violations().take_rules(), ["PLATFORM"; 3]);
    assert_eq!(ram.read(phys, 1), Some(vec![0xdd]));
    ram.refuse(Some(Refuse::Only(1)));
    assert!(ram.allocate(1, 4096).is_none());
    let (phys, _) = ram.allocate(1, 4096).unwrap();
    ram.free(phys, 1, 4096);
    ram.refuse(Some(Refuse::From(3)));
    assert!(ram.allocate(1, 4096).is_none());
    assert!(ram.allocate(1, 4096).is_none());
}

#[test]
#[should_panic(expected = "violations that nobody looked at")]
fn a_violation_that_nobody_looks_at_fails_the_test() {
    let model = Model::new();
    model.with(|d| d.notify(0));
}

#[test]
#[should_panic(expected = "pages still allocated")]
fn a_leak_fails_the_test() {
    let model = Model::new();
    model.ram().allocate(1, 4096);
}

#[test]
#[should_panic(expected = "a wait without limit")]
fn an_endless_wait_fails_the_test() {
    use virtio_iommu::Platform;
    let model = Model::new();
    model.clock().set_limit(50);
    let platform = model.platform();
    loop {
        platform.now();
    }
}

#[test]
#[should_panic(expected = "registers read without limit")]
fn an_endless_poll_fails_the_test() {
    let model = Model::new();
    model.with(|d| d.registers.limit = Some(50));
    loop {
        model.with(|d| d.read_generation());
    }
}

#[test]
#[should_panic(expected = "a lock taken twice")]
fn a_lock_that_waits_for_itself_fails_the_test() {
    let lock = lock_api::Mutex::<crate::model::platform::WatchedLock, u32>::new(1);
    let _one = lock.lock();
    let _two = lock.lock();
}
