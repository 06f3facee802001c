//! What happens while something else is happening: a domain that is busy says so, and loses
//! nothing.

use crate::each;
use crate::model::script::Answer;
use crate::model::spec::status;
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{self, GRANULE, RW, domain, endpoint, map, phys, ring_below as ring, start};
use virtio_iommu::{AttachError, DoorbellError, Iova, MapError, RequestError, Status, UnmapError};
use xtask::conformance::{Oracle, proves};

const DOORBELL: u64 = 0x2800_0040;
const ANYWHERE: Iova = Iova(u64::MAX);

#[test]
fn a_domain_that_gets_an_endpoint_is_busy_for_all_others() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        model.clock().for_threads();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let at = map(&domain, phys(0x1_0000, GRANULE), RW).unwrap();
        model.answer_once(rig::is_attach, Answer::late());
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| domain.attach(endpoint(OTHER)));
            while model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            let before = model.request_count();
            assert_eq!(
                map(&domain, phys(0x1_0000, GRANULE), RW),
                Err(MapError::Busy)
            );
            assert_eq!(domain.unmap(at), Err(UnmapError::Busy));
            assert_eq!(domain.detach(endpoint(PLAIN)), Err(AttachError::Busy));
            assert_eq!(model.request_count(), before);
            model.with(|d| d.release(1));
            attaching.join().unwrap().unwrap();
        });
        assert_eq!(domain.mapped(), 1);
        domain.unmap(at).unwrap();
    }
}

#[test]
fn the_last_endpoint_does_not_leave_while_mappings_change() {
    for _ in each!(but[(Crosvm, "one endpoint in a domain")]) {
        let model = Model::new();
        model.clock().for_threads();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        model.answer_once(rig::is_map, Answer::late());
        std::thread::scope(|scope| {
            let mapping = scope.spawn(|| map(&domain, phys(0x1_0000, GRANULE), RW));
            while model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            assert_eq!(domain.detach(endpoint(PLAIN)), Err(AttachError::Busy));
            // Another one may come, and sees the mapping once it is there.
            domain.attach(endpoint(OTHER)).unwrap();
            model.with(|d| d.release(1));
            let at = mapping.join().unwrap().unwrap();
            assert_eq!(model.reads(OTHER, at.start().0), Some(0x1_0000));
        });
    }
}

#[test]
fn a_doorbell_survives_the_absence_of_endpoints() {
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let bell = ring(&domain, PLAIN, DOORBELL, ANYWHERE).unwrap();
        domain.detach(endpoint(PLAIN)).unwrap();
        domain.attach(endpoint(OTHER)).unwrap();
        assert_eq!(model.writes(OTHER, bell.address()), Some(DOORBELL));
        domain.unmap_doorbell(bell).unwrap();
    }
}

#[test]
fn a_doorbell_that_the_device_refuses_leaves_nothing() {
    for _ in each!(but[(CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        model.answer_once(rig::is_map, Answer::status(status::NOMEM));
        let error = ring(&domain, PLAIN, DOORBELL, ANYWHERE).unwrap_err();
        let refused = MapError::Request(RequestError::Status(Status::NoMem));
        assert_eq!(error, DoorbellError::Map(refused));
        let bell = ring(&domain, PLAIN, DOORBELL, ANYWHERE).unwrap();
        assert_eq!(model.writes(PLAIN, bell.address()), Some(DOORBELL));
        model.answer_once(rig::is_unmap, Answer::status(status::DEVERR));
        let error = domain.unmap_doorbell(bell).unwrap_err();
        assert!(matches!(error, UnmapError::Quarantined(_)));
        assert_eq!(domain.quarantined(), 1);
    }
}

#[test]
fn a_doorbell_that_is_given_back_while_the_domain_is_busy_is_not_lost() {
    for _ in each!(but [(Crosvm, "one endpoint in a domain"), (CloudHypervisor, "no MMIO")]) {
        let model = Model::new();
        model.clock().for_threads();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        let bell = ring(&domain, PLAIN, DOORBELL, ANYWHERE).unwrap();
        let at = bell.address();
        model.answer_once(rig::is_attach, Answer::late());
        std::thread::scope(|scope| {
            let attaching = scope.spawn(|| domain.attach(endpoint(OTHER)));
            while model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            let result = domain.unmap_doorbell(bell);
            model.with(|d| d.release(1));
            attaching.join().unwrap().unwrap();
            assert_eq!(result, Err(UnmapError::Busy));
        });
        // "Try again": the doorbell is still there, and there is a way to end it.
        assert_eq!(domain.mapped(), 1);
        let again = ring(&domain, PLAIN, DOORBELL, ANYWHERE).unwrap();
        assert_eq!(again.address(), at, "the doorbell is mapped a second time");
        domain.unmap_doorbell(again).unwrap();
        let rest = domain.mapped();
        assert_eq!(rest, 0, "a mapping that nobody can end");
    }
}

#[test]
fn gv_vq_6_a_shutdown_while_a_request_is_waited_for() {
    let _proof = proves(Oracle::Model, &["GV-VQ-6"]);
    for _ in each!() {
        let model = Model::new();
        model.clock().for_threads();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 4, &[PLAIN]);
        model.script(|_| Answer::late());
        let result = std::thread::scope(|scope| {
            let mapping = scope.spawn(|| map(&domain, phys(0x1_0000, GRANULE), RW));
            while model.with(|d| d.waiting()) == 0 {
                std::thread::yield_now();
            }
            iommu.shutdown().unwrap();
            mapping.join().unwrap()
        });
        assert_eq!(result, Err(MapError::Exposed(RequestError::Unconfirmed)));
        assert_eq!(domain.quarantined(), 1);
        assert_eq!(model.ram().live_pages(), 0);
    }
}
