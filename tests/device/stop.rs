//! The end of a driver: the reset, and what becomes of its memory.

use crate::each;
use crate::model::config::ResetBehaviour;
use crate::model::{Model, PLAIN};
use crate::rig::{self, ONE_WAIT, assert_clean, start};
use virtio_iommu::EndpointId;
use xtask::conformance::{Oracle, proves};

#[test]
fn shutdown_gives_all_memory_back() {
    let _proof = proves(Oracle::Model, &["GV-VQ-6"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        assert!(model.ram().live_pages() > 0);
        let domain = rig::domain(&iommu, 4, &[PLAIN]);
        let other = iommu.clone();
        iommu.shutdown().unwrap();
        assert_clean(&model);
        assert_eq!(model.with(|d| d.registers.status), 0);
        // What is left of it fails, and does not touch the device.
        let accesses = model.with(|d| d.registers.accesses);
        let (_, requests) = model.requests_during(|| {
            assert!(domain.detach(EndpointId(PLAIN)).is_err());
            assert!(rig::map(&domain, rig::pages(&model, 1), rig::RW).is_err());
            assert!(other.create_domain(1).is_err());
            assert_eq!(other.poll_faults(|_| {}), 0);
            drop(domain);
            drop(other);
        });
        assert_eq!(requests, []);
        assert_eq!(model.with(|d| d.registers.accesses), accesses);
    }
}

#[test]
fn the_last_handle_resets_the_device() {
    let _proof = proves(Oracle::Model, &["GV-VQ-6"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let clone = iommu.clone();
        drop(iommu);
        assert_ne!(model.with(|d| d.registers.status), 0);
        drop(clone);
        assert_eq!(model.with(|d| d.registers.status), 0);
        assert_clean(&model);
    }
}

#[test]
fn an_unconfirmed_reset_keeps_the_memory_that_the_device_may_use() {
    let _proof = proves(Oracle::Model, &["GV-VQ-6", "GV-RST-1"]);
    for _ in each!() {
        for by_drop in [false, true] {
            let mut model = Model::new();
            let iommu = start(&model, &[PLAIN]);
            let held = model.ram().live_pages();
            model.with(|d| d.knobs.reset = ResetBehaviour::Never);
            let calls = model.clock().calls();
            if by_drop {
                drop(iommu);
            } else {
                iommu.shutdown().unwrap_err();
            }
            assert!(model.clock().calls() - calls <= ONE_WAIT);
            assert_eq!(model.ram().live_pages(), held);
            model.expect_leak(held);
        }
    }
}

#[test]
fn no_lock_is_held_while_a_reset_is_waited_for() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        model.with(|d| d.knobs.reset = ResetBehaviour::AfterReads(500));
        iommu.shutdown().unwrap();
        let calls = model.clock().calls_under_lock();
        assert!(calls <= 2, "{calls} looks at the clock under a lock");
    }
}
