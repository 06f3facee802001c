//! Faults: what the driver makes of reports, honest, strange and broken ones (§5.13.6.9).

use crate::each;
use crate::model::events::{FaultStyle, Record};
use crate::model::registers::Access as Register;
use crate::model::spec::{
    EVENT_QUEUE, FAULT_F_ADDRESS, FAULT_F_READ, FAULT_F_WRITE, FAULT_LEN, FAULT_R_DOMAIN,
    FAULT_R_MAPPING,
};
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{self, RW, TestIommu, domain, map, pages, start};
use virtio_iommu::{Access, EndpointId, Fault, FaultCounters, FaultReason, Iova, Pending};
use xtask::conformance::{Oracle, proves};

fn polled(iommu: &TestIommu) -> Vec<Fault> {
    let mut faults = Vec::new();
    let count = iommu.poll_faults(|fault| faults.push(fault));
    assert_eq!(count, faults.len());
    faults
}

/// The only fault that comes of a record.
fn decoded(record: Record) -> Fault {
    let model = Model::new().narrow();
    let iommu = start(&model, &[PLAIN]);
    assert!(model.with(|d| d.report(record)));
    let faults = polled(&iommu);
    assert_eq!(faults.len(), 1, "{record:?}");
    assert_eq!(polled(&iommu), []);
    assert_eq!(iommu.fault_counters().received, 1);
    faults[0]
}

const RECORD: Record = Record {
    reason: FAULT_R_MAPPING,
    reserved: [0; 3],
    flags: FAULT_F_READ | FAULT_F_ADDRESS,
    endpoint: PLAIN,
    reserved1: 0,
    address: 0x1234_5678_9abc_def0,
};

#[test]
fn a_report_is_decoded() {
    let _proof = proves(Oracle::Model, &["DV-FLT-3", "DV-FLT-4"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let expected = Fault {
            endpoint: EndpointId(PLAIN),
            reason: FaultReason::Mapping,
            access: Some(Access::READ),
            address: Some(Iova(0x1234_5678_9abc_def0)),
        };
        assert_eq!(decoded(RECORD), expected);
        for (flags, access) in [
            (0, None),
            (FAULT_F_WRITE, Some(Access::WRITE)),
            (FAULT_F_READ | FAULT_F_WRITE, Some(RW)),
        ] {
            let fault = decoded(Record { flags, ..RECORD });
            assert_eq!((fault.access, fault.address), (access, None));
        }
        let fault = decoded(Record {
            reason: FAULT_R_DOMAIN,
            endpoint: u32::MAX,
            flags: FAULT_F_ADDRESS,
            address: u64::MAX,
            ..RECORD
        });
        assert_eq!(fault.reason, FaultReason::Domain);
        assert_eq!(fault.endpoint, EndpointId(u32::MAX));
        assert_eq!(fault.address, Some(Iova(u64::MAX)));
    }
}

#[test]
fn dn_fault_1_reserved_bytes_make_the_driver_ignore_the_report() {
    let _proof = proves(Oracle::Model, &["DN-FAULT-1"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        for reserved in [[1, 0, 0], [0, 0x80, 0], [0, 0, 0xff]] {
            let record = Record { reserved, ..RECORD };
            assert!(model.with(|d| d.report(record)));
            assert_eq!(polled(&iommu), []);
        }
        let counters = iommu.fault_counters();
        assert_eq!((counters.received, counters.ignored), (0, 3));
        // The buffers are back.
        assert_eq!(model.with(|d| d.event_buffers()), 64);
    }
}

#[test]
fn dn_fault_2_reserved1_is_ignored() {
    let _proof = proves(Oracle::Model, &["DN-FAULT-2"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let fault = decoded(Record {
            reserved1: u32::MAX,
            ..RECORD
        });
        assert_eq!(fault, decoded(RECORD));
    }
}

#[test]
fn dn_fault_3_undefined_flags_are_ignored() {
    let _proof = proves(Oracle::Model, &["DN-FAULT-3"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let flags = RECORD.flags | 0xffff_fefc;
        assert_eq!(decoded(Record { flags, ..RECORD }), decoded(RECORD));
    }
}

#[test]
fn dn_fault_4_an_unknown_reason_is_unknown() {
    let _proof = proves(Oracle::Model, &["DN-FAULT-4"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        for reason in [0, 3, 200, 255] {
            let fault = decoded(Record { reason, ..RECORD });
            assert_eq!(fault.reason, FaultReason::Unknown);
        }
    }
}

#[test]
fn blocked_dma_arrives_as_a_fault() {
    let _proof = proves(Oracle::Model, &["DV-FLT-4"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events"), (Qemu, "a report for each four bytes, without a direction")])
    {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        let at = map(&domain, pages(&model, 1), Access::READ).unwrap();
        model.with(|d| d.dma_write(PLAIN, at.start().0 + 5, b"x"));
        model.with(|d| d.dma_read(PLAIN, at.end().0 + 1, 8));
        model.with(|d| d.dma_read(OTHER, 0x77, 8));
        domain.unmap(at).unwrap();
        model.with(|d| d.dma_read(PLAIN, at.start().0, 8));
        let fault = |endpoint, reason, access, address| Fault {
            endpoint: EndpointId(endpoint),
            reason,
            access,
            address: Some(Iova(address)),
        };
        let mapping = FaultReason::Mapping;
        let (read, write) = (Some(Access::READ), Some(Access::WRITE));
        assert_eq!(
            polled(&iommu),
            [
                fault(PLAIN, mapping, write, at.start().0 + 5),
                fault(PLAIN, mapping, read, at.end().0 + 1),
                fault(OTHER, FaultReason::Domain, None, 0x77),
                fault(PLAIN, mapping, read, at.start().0),
            ]
        );
    }
}

#[test]
fn dn_fault_t1_buffers_are_posted_again_after_a_storm_and_losses_are_noticed() {
    let _proof = proves(Oracle::Model, &["DN-FAULT-T1", "DV-FLT-T"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        model.with(|d| {
            d.knobs.faults = FaultStyle {
                beat: Some(4),
                ..FaultStyle::default()
            };
        });
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        for storm in 1..=3u64 {
            // One DMA of 4096 bytes: 1024 faults for 64 buffers.
            model.with(|d| d.dma_read(PLAIN, 0x40_0000, 4096));
            assert_eq!(model.with(|d| d.event_buffers()), 0);
            let faults = polled(&iommu);
            assert_eq!(faults.len(), 64);
            assert_eq!(faults[63].address, Some(Iova(0x40_0000 + 63 * 4)));
            assert_eq!(model.with(|d| d.event_buffers()), 64);
            assert_eq!(
                iommu.fault_counters(),
                FaultCounters {
                    received: 65 * storm - 1,
                    ignored: 0,
                    malformed: 0,
                    overflows: storm,
                }
            );
            // A later fault arrives.
            model.with(|d| d.dma_read(PLAIN, 0x50_0000, 1));
            assert_eq!(polled(&iommu).len(), 1);
            assert_eq!(iommu.fault_counters().overflows, storm);
        }
        drop(domain);
        assert_eq!(model.with(|d| d.events.dropped), 3 * (1024 - 64));
    }
}

#[test]
fn sixty_three_of_sixty_four_buffers_are_no_overflow() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        for address in 0..63 {
            let record = Record { address, ..RECORD };
            model.with(|d| d.report(record));
        }
        let faults = polled(&iommu);
        let order: Vec<u64> = faults.iter().map(|f| f.address.unwrap().0).collect();
        assert_eq!(order, (0..63).collect::<Vec<_>>(), "oldest first");
        assert_eq!(iommu.fault_counters().overflows, 0);
    }
}

#[test]
fn one_poll_announces_the_buffers_and_an_empty_poll_does_nothing() {
    let _proof = proves(Oracle::Model, &["GV-NOTIF-1"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        model.with(|d| d.report(RECORD));
        let before = model.log().len();
        polled(&iommu);
        let after = model.log().split_off(before);
        assert_eq!(after, [Register::Notify(EVENT_QUEUE)]);
        let before = model.log().len();
        polled(&iommu);
        assert_eq!(model.log().len(), before);
    }
}

#[test]
fn gv_notif_1_a_device_that_polls_its_event_queue_is_not_notified() {
    let _proof = proves(Oracle::Model, &["GV-NOTIF-1"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        model.with(|d| d.knobs.no_notify = true);
        let iommu = start(&model, &[PLAIN]);
        model.with(|d| d.report(RECORD));
        assert_eq!(polled(&iommu).len(), 1);
        assert!(!model.log().contains(&Register::Notify(EVENT_QUEUE)));
    }
}

#[test]
fn reports_of_the_wrong_length_are_counted_and_their_buffers_come_back() {
    let _proof = proves(Oracle::Model, &["DV-FLT-6", "DN-FAULT-T1"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        let bytes = RECORD.bytes();
        for len in [0, 1, 8, 23] {
            assert!(model.with(|d| d.report_raw(&bytes, len, None)));
        }
        assert_eq!(polled(&iommu), []);
        assert_eq!(iommu.fault_counters().malformed, 4);
        assert_eq!(model.with(|d| d.event_buffers()), 64);
        // More than was asked for is as good as enough.
        for len in [FAULT_LEN as u32, 25, u32::MAX] {
            assert!(model.with(|d| d.report_raw(&bytes, len, None)));
        }
        assert_eq!(polled(&iommu).len(), 3);
    }
}

#[test]
fn gv_vq_3_reports_in_buffers_that_do_not_exist() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        for id in [64, 65, 0xffff, 0x1_0000, u32::MAX] {
            let model = Model::new().narrow();
            let iommu = start(&model, &[PLAIN]);
            model.with(|d| d.report_raw(&RECORD.bytes(), 24, Some(id)));
            assert_eq!(polled(&iommu), []);
            assert_eq!(iommu.fault_counters().malformed, 1, "{id:#x}");
            // The next one arrives.
            model.with(|d| d.report(RECORD));
            assert_eq!(polled(&iommu).len(), 1);
        }
    }
}

#[test]
fn gv_vq_4_an_index_that_runs_ahead_ends_the_reports_and_nothing_else() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        for by in [65, 1000, 0x8000, 0xffff] {
            let model = Model::new().narrow();
            let iommu = start(&model, &[PLAIN]);
            model.with(|d| {
                let queue = d.queues[1].as_mut().unwrap();
                queue.jump(model.ram(), by);
            });
            assert_eq!(polled(&iommu), []);
            let domain = domain(&iommu, 4, &[PLAIN]);
            map(&domain, pages(&model, 1), RW).unwrap();
        }
    }
}

#[test]
fn a_stale_record_is_not_taken_for_a_new_one() {
    let _proof = proves(Oracle::Model, &["GV-VQ-5"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        // The device returns a buffer that it did not write, and says that it wrote a byte.
        let model = Model::new().narrow();
        model.with(|d| d.knobs.queue_sizes = [64, 4]);
        let iommu = start(&model, &[PLAIN]);
        for _ in 0..4 {
            model.with(|d| d.report(RECORD));
        }
        assert_eq!(polled(&iommu).len(), 4);
        for len in [0, 1, 23] {
            model.with(|d| d.report_raw(&[], len, None));
        }
        assert_eq!(polled(&iommu), []);
    }
}

#[test]
fn the_sink_may_call_the_driver() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        for _ in 0..3 {
            model.with(|d| d.report(RECORD));
        }
        let mut inner = 0;
        iommu.poll_faults(|_| {
            // A lock taken twice panics.
            let at = map(&domain, pages(&model, 1), RW).unwrap();
            domain.unmap(at).unwrap();
            assert!(iommu.fault_counters().received > 0);
            inner += iommu.poll_faults(|_| {});
        });
        assert_eq!(iommu.fault_counters().received, 3);
        assert_eq!(inner, 0, "the faults were out of the queue already");
    }
}

#[test]
fn a_poll_ends_although_faults_keep_coming() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        for _ in 0..64 {
            model.with(|d| d.report(RECORD));
        }
        let mut seen = 0u32;
        let count = iommu.poll_faults(|_| {
            seen += 1;
            assert!(seen < 10_000, "a poll without end");
            model.with(|d| d.report(RECORD));
        });
        assert_eq!(count, 64);
        // None is lost.
        let mut rest = 0;
        while model.with(|d| d.events.delivered) > 64 + rest {
            let more = polled(&iommu).len() as u64;
            assert!(more > 0);
            rest += more;
        }
    }
}

#[test]
fn a_storm_costs_one_interrupt_until_it_is_polled() {
    let _proof = proves(Oracle::Model, &["GV-PCI-6", "GV-NOTIF-1"]);
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        assert_eq!(iommu.handle_interrupt(), Pending::default());
        let interrupts = || model.with(|d| d.events.interrupts);
        model.with(|d| d.report(RECORD));
        assert_eq!(interrupts(), 1);
        let pending = iommu.handle_interrupt();
        assert!(pending.raised && pending.faults && !pending.needs_reset);
        for _ in 0..20 {
            model.with(|d| d.report(RECORD));
        }
        assert_eq!(interrupts(), 1, "spared");
        assert!(!iommu.handle_interrupt().raised, "acknowledged");
        let mut count = polled(&iommu).len();
        while count < 21 {
            count += polled(&iommu).len();
        }
        assert_eq!(polled(&iommu), []);
        model.with(|d| d.report(RECORD));
        assert_eq!(interrupts(), 2, "wanted again");
        assert_eq!(polled(&iommu).len(), 1);
    }
}

#[test]
fn a_poll_that_leaves_faults_behind_wants_no_interrupt_for_them() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        model.with(|d| d.report(RECORD));
        assert!(iommu.handle_interrupt().faults);
        for _ in 1..64 {
            model.with(|d| d.report(RECORD));
        }
        let mut more = 32;
        let count = iommu.poll_faults(|_| {
            if more > 0 {
                more -= 1;
                model.with(|d| d.report(RECORD));
            }
        });
        assert_eq!(count, 64);
        assert!(model.with(|d| d.report(RECORD)));
        assert_eq!(model.with(|d| d.events.interrupts), 1, "spared");
    }
}

#[test]
fn a_poll_that_finds_nothing_but_nonsense_wants_interrupts_again() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        let nonsense = Record {
            reserved: [1; 3],
            ..RECORD
        };
        model.with(|d| d.report(nonsense));
        assert!(iommu.handle_interrupt().faults);
        // As many as there are buffers: the poll ends without a look at what follows.
        for _ in 1..64 {
            model.with(|d| d.report(nonsense));
        }
        assert_eq!(polled(&iommu), []);
        model.with(|d| d.report(RECORD));
        assert_eq!(model.with(|d| d.events.interrupts), 2, "wanted again");
    }
}

#[test]
fn each_buffer_of_a_long_queue_has_room_for_a_report() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new();
        model.with(|d| d.knobs.queue_sizes = [64, 256]);
        let iommu = start(&model, &[PLAIN]);
        for address in 0..256 {
            let record = Record { address, ..RECORD };
            assert!(model.with(|d| d.report(record)));
        }
        let mut at = Vec::new();
        while iommu.poll_faults(|fault| at.push(fault.address.unwrap().0)) > 0 {}
        assert_eq!(at, (0..256).collect::<Vec<_>>());
    }
}

#[test]
fn a_fault_between_the_last_look_and_the_permission_to_interrupt_is_not_missed() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        model.with(|d| d.report(RECORD));
        assert!(iommu.handle_interrupt().faults);
        // More faults arrive while those before are handed out: each is either handed out by the same
        // poll, or interrupts.
        for _ in 0..10 {
            let mut more = 3;
            let before = model.with(|d| d.events.interrupts);
            iommu.poll_faults(|_| {
                if more > 0 {
                    more -= 1;
                    model.with(|d| d.report(RECORD));
                }
            });
            let received = iommu.fault_counters().received;
            let delivered = model.with(|d| d.events.delivered);
            let interrupted = model.with(|d| d.events.interrupts) > before;
            assert!(
                received == delivered || interrupted,
                "{received} of {delivered}"
            );
            model.with(|d| d.report(RECORD));
            iommu.handle_interrupt();
        }
    }
}

#[test]
fn gv_stat_2_an_interrupt_tells_that_the_device_needs_a_reset() {
    let _proof = proves(Oracle::Model, &["GV-STAT-2"]);
    for _ in each!() {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        model.with(|d| d.break_down());
        let pending = iommu.handle_interrupt();
        assert!(pending.raised && pending.needs_reset);
        assert!(iommu.handle_interrupt().needs_reset);
        assert!(iommu.create_domain(1).is_err());
    }
}

#[test]
fn faults_of_a_device_that_was_stopped_are_gone() {
    for _ in each!() {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        let other = iommu.clone();
        model.with(|d| d.report(RECORD));
        iommu.shutdown().unwrap();
        assert_eq!(polled(&other), []);
        assert_eq!(other.fault_counters().received, 0);
    }
}

#[test]
fn faults_and_requests_do_not_disturb_each_other() {
    for _ in each!(but [(Crosvm, "sends no events"), (CloudHypervisor, "sends no events")]) {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 64, &[PLAIN]);
        model.clock().for_threads();
        let mut received = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300 {
                    let at = rig::map(&domain, pages_once(), RW).unwrap();
                    domain.unmap(at).unwrap();
                }
            });
            for _ in 0..300 {
                model.with(|d| d.dma_read(PLAIN, 0x10, 1));
                received += iommu.poll_faults(|_| {});
            }
        });
        received += iommu.poll_faults(|_| {});
        assert_eq!(received, 300);
    }
}

fn pages_once() -> virtio_iommu::PhysRange {
    rig::phys(0x1_0000, rig::GRANULE)
}
