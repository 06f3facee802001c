//! The driver's bring-up: order, features, queues, and what can go wrong on the way (§3.1.1).

use crate::each;
use crate::model::config::ResetBehaviour;
use crate::model::device::Mode;
use crate::model::memory::Refuse;
use crate::model::personality::Personality;
use crate::model::registers::Access as Register;
use crate::model::spec::{EVENT_QUEUE, REQUEST_QUEUE, config, feature, status_bit};
use crate::model::{Model, PLAIN, RESERVING};
use crate::rig::{
    self, ONE_WAIT, assert_clean, is_failed, refused, refused_early, start, try_start,
    try_start_with,
};
use virtio_drivers::transport::DeviceType;
use virtio_iommu::{Bypass, DomainId, DomainRange, Features, Options, StartError};
use xtask::conformance::{Oracle, proves};

const KNOWN: u64 = feature::ALL_OF_THE_DEVICE | feature::VERSION_1;

#[test]
fn gv_init_1_status_order() {
    let _proof = proves(
        Oracle::Model,
        &[
            "GV-INIT-1",
            "GV-INIT-2",
            "GV-INIT-3",
            "GV-INIT-4",
            "GV-INIT-6",
            "GV-STAT-1",
            "GV-VQ-1",
            "DN-CFG-2",
            "DN-CFG-3",
        ],
    );
    for _ in each!(but[(Crosvm, "no BYPASS_CONFIG")]) {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let offered = model.with(|d| d.knobs.offered);
        assert_eq!(model.status_writes(), [0, 1, 3, 11, 15]);
        let log = model.log();
        let at = |wanted: &Register| log.iter().position(|access| access == wanted);
        let order = [
            at(&Register::StatusWrite(0)),
            at(&Register::StatusRead(0)),
            at(&Register::StatusWrite(1)),
            at(&Register::StatusWrite(3)),
            at(&Register::FeaturesRead),
            at(&Register::FeaturesWrite(KNOWN & offered)),
            at(&Register::StatusWrite(11)),
            // GV-INIT-4: read back.
            at(&Register::StatusRead(11)),
            log.iter()
                .position(|access| matches!(access, Register::QueueSet { queue: 0, .. })),
            at(&Register::StatusWrite(15)),
            at(&Register::ConfigWrite {
                offset: config::BYPASS,
                bytes: vec![0],
            }),
            // `bypass` is read back before the first request.
            log.iter()
                .rposition(|access| matches!(access, Register::ConfigRead { offset: 36, .. })),
            at(&Register::Notify(REQUEST_QUEUE)),
        ];
        let found: Vec<usize> = order.iter().map(|at| at.expect("in the log")).collect();
        assert!(found.is_sorted(), "{found:?} of {log:#?}");
        drop(iommu);
    }
}

#[test]
fn dn_fault_t1_events_are_posted_and_announced_before_the_first_request() {
    let _proof = proves(Oracle::Model, &["DN-FAULT-T1", "DV-FLT-5"]);
    for _ in each!() {
        let model = Model::new().narrow();
        let iommu = start(&model, &[PLAIN]);
        let log = model.log();
        let notified = |queue| log.iter().position(|a| *a == Register::Notify(queue));
        assert!(notified(EVENT_QUEUE).unwrap() < notified(REQUEST_QUEUE).unwrap());
        assert_eq!(model.with(|d| d.event_buffers()), 64);
        drop(iommu);
    }
}

#[test]
fn gv_init_4_features_refused() {
    let _proof = proves(Oracle::Model, &["GV-INIT-4", "GV-INIT-5"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.refuse_features = true);
        let error = refused_early(&model);
        let offered = model.with(|d| d.knobs.offered);
        let expected = Features::from_bits_truncate(KNOWN & offered);
        assert_eq!(error, StartError::FeaturesRefused(expected));
    }
}

#[test]
fn dn_init_t1_map_unmap_is_required() {
    let _proof = proves(Oracle::Model, &["DN-INIT-T1", "DV-FEAT-1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::MAP_UNMAP);
        let expected = StartError::FeatureMissing(Features::MAP_UNMAP);
        assert_eq!(refused_early(&model), expected);
    }
}

#[test]
fn gv_v1_version_1_is_required() {
    let _proof = proves(Oracle::Model, &["GV-V1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::VERSION_1);
        let expected = StartError::FeatureMissing(Features::VERSION_1);
        assert_eq!(refused_early(&model), expected);
    }
}

#[test]
fn dn_feat_1_every_subset_of_the_features_is_accepted_as_offered() {
    let _proof = proves(
        Oracle::Model,
        &["DN-FEAT-1", "GV-FEAT-1", "DV-PRB-3", "DV-PRB-4", "DN-CFG-1"],
    );
    for _ in each!() {
        for bits in 0..32u64 {
            // The five optional ones; bit 2 is required, bit 3 is the deprecated one.
            let offered = (bits & 3) | (bits & 0x1c) << 2 | feature::MAP_UNMAP | feature::VERSION_1;
            let model = Model::new().narrow();
            let probe_size = model.with(|d| d.config.probe_size);
            model.with(|d| d.knobs.offered = offered);
            let iommu = start(&model, &[PLAIN]);
            assert_eq!(model.with(|d| d.registers.accepted), offered);
            assert_eq!(iommu.features().bits(), offered);
            assert_eq!(iommu.offered_features(), offered);
            let geometry = iommu.geometry();
            let ranges = (
                (
                    geometry.input_range().start().0,
                    geometry.input_range().end().0,
                ),
                (
                    geometry.domain_range().start().0,
                    geometry.domain_range().end().0,
                ),
                geometry.probe_size(),
            );
            let given = |bit: u64| offered & bit != 0;
            let input = (0x1000, 0xff_ffff_ffff);
            assert_eq!(
                ranges,
                (
                    if given(feature::INPUT_RANGE) {
                        input
                    } else {
                        (0, u64::MAX)
                    },
                    if given(feature::DOMAIN_RANGE) {
                        (3, 40)
                    } else {
                        (0, u32::MAX)
                    },
                    given(feature::PROBE).then_some(probe_size),
                )
            );
            let probes = model.requests().iter().filter(|r| rig::is_probe(r)).count();
            assert_eq!(probes, usize::from(given(feature::PROBE)));
            drop(iommu);
            assert_clean(&model);
        }
    }
}

#[test]
fn gv_feat_2_3_unknown_bits_are_ignored() {
    let _proof = proves(
        Oracle::Model,
        &["GV-FEAT-2", "GV-FEAT-3", "DV-FEAT-3", "GV-V1"],
    );
    for _ in each!() {
        for offered in [!feature::ACCESS_PLATFORM, KNOWN | 1 << 7 | 1 << 63] {
            let model = Model::new();
            model.with(|d| d.knobs.offered = offered);
            let iommu = start(&model, &[PLAIN]);
            assert_eq!(iommu.offered_features(), offered);
            let accepted = model.with(|d| d.registers.accepted);
            assert_eq!(accepted & !(KNOWN | feature::ORDER_PLATFORM), 0);
            assert_eq!(accepted & KNOWN, KNOWN);
        }
    }
}

#[test]
fn the_old_bypass_feature_is_never_accepted() {
    let _proof = proves(Oracle::Model, &["DV-FEAT-2"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| {
            d.knobs.offered = feature::BYPASS | feature::MAP_UNMAP | feature::VERSION_1;
        });
        let iommu = start(&model, &[PLAIN]);
        assert!(!model.with(|d| d.negotiated(feature::BYPASS)));
        assert_eq!(model.reads(PLAIN, 0x1000), None);
        assert_eq!(iommu.bypass(), Bypass::NotConfigurable);
    }
}

#[test]
fn gv_acc_access_platform_is_accepted() {
    let _proof = proves(Oracle::Model, &["GV-ACC"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered |= feature::ACCESS_PLATFORM);
        let iommu = start(&model, &[PLAIN]);
        assert!(iommu.features().contains(Features::ACCESS_PLATFORM));
    }
}

#[test]
fn gv_rst_1_a_slow_reset_is_waited_for() {
    let _proof = proves(Oracle::Model, &["GV-RST-1"]);
    for _ in each!() {
        for reads in [0, 1, 2, 100, 900] {
            let model = Model::new();
            model.with(|d| {
                d.registers.status = 15;
                d.knobs.reset = ResetBehaviour::AfterReads(reads);
            });
            let iommu = start(&model, &[PLAIN]);
            model.with(|d| d.knobs.reset = ResetBehaviour::Immediate);
            drop(iommu);
        }
    }
}

#[test]
fn gv_rst_1_a_reset_that_is_never_done() {
    let _proof = proves(Oracle::Model, &["GV-RST-1", "GV-INIT-5"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| {
            d.registers.status = 15;
            d.knobs.reset = ResetBehaviour::Never;
        });
        let error = refused(&model, 1);
        assert_eq!(error, StartError::ResetUnconfirmed);
        assert!(
            model
                .status_writes()
                .iter()
                .all(|s| *s == 0 || s & 128 != 0)
        );
    }
}

#[test]
fn bad_input_a_device_that_was_pulled_out() {
    for _ in each!(but [(Crosvm, "other features"), (CloudHypervisor, "other features")]) {
        // All reads give ones; or the status is stuck at nothing.
        for (reads, expected) in [
            (u32::MAX, StartError::ResetUnconfirmed),
            (
                0,
                StartError::FeaturesRefused(Features::from_bits_truncate(KNOWN)),
            ),
        ] {
            let model = Model::new();
            model.with(|d| d.knobs.status_reads = Some(reads));
            let error = try_start(&model, &[PLAIN]).unwrap_err();
            assert_eq!(error, expected);
            assert!(model.clock().calls() <= ONE_WAIT);
            let last = model.status_writes().pop().unwrap();
            assert_ne!(last & status_bit::FAILED, 0);
            // The status that the driver adds FAILED to is not one that it has written.
            model.violations().take();
            assert_clean(&model);
        }
    }
}

#[test]
fn a_wrong_or_legacy_device_is_left_alone() {
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.device_type = DeviceType::Block);
        assert_eq!(try_start(&model, &[]).unwrap_err(), StartError::NotAnIommu);
        assert!(model.status_writes().is_empty());
        let model = Model::new();
        model.with(|d| d.knobs.legacy_layout = true);
        assert_eq!(try_start(&model, &[]).unwrap_err(), StartError::Legacy);
        assert!(model.status_writes().is_empty());
    }
}

#[test]
fn options_that_make_no_sense() {
    for _ in each!(but [(Crosvm, "no DOMAIN_RANGE"), (CloudHypervisor, "no DOMAIN_RANGE")]) {
        let model = Model::new().narrow();
        let mut options = Options::default();
        options.queue_size = 3;
        let error = try_start_with(&model, &[PLAIN], options).unwrap_err();
        assert_eq!(error, StartError::Options);
        for (first, last) in [(2, 10), (10, 41), (41, 50)] {
            let mut options = Options::default();
            options.domain_ids = DomainRange::new(DomainId(first), DomainId(last));
            let error = try_start_with(&model, &[PLAIN], options).unwrap_err();
            assert_eq!(error, StartError::Options);
            assert!(is_failed(&model));
            assert_clean(&model);
            assert_eq!(model.request_count(), 0);
        }
        // One id is taken by the scratch domain, and none is left for a caller.
        let mut options = Options::default();
        options.domain_ids = DomainRange::new(DomainId(10), DomainId(10));
        if let Ok(iommu) = try_start_with(&model, &[PLAIN], options) {
            assert!(iommu.create_domain(1).is_err());
        }
    }
}

#[test]
fn gv_pci_3_queue_sizes() {
    let _proof = proves(Oracle::Model, &["GV-PCI-3"]);
    for _ in each!() {
        for (offered, wanted, expected) in [
            ([4, 4], 256, Some([4, 4])),
            ([1024, 512], 256, Some([256, 256])),
            ([32768, 32768], 32768, Some([32768, 32768])),
            ([48, 65], 256, Some([32, 64])),
            ([64, 64], 100, Some([64, 64])),
            ([64, 64], 17, Some([16, 16])),
            ([0x1_0000, u32::MAX], 16, Some([16, 16])),
            ([3, 64], 256, None),
            ([64, 0], 256, None),
            ([0, 0], 256, None),
            ([64, 2], 256, None),
        ] {
            let model = Model::new();
            model.with(|d| d.knobs.queue_sizes = offered);
            let mut options = Options::default();
            options.queue_size = wanted;
            let started = try_start_with(&model, &[PLAIN], options);
            let sets: Vec<u32> = model
                .log()
                .iter()
                .filter_map(|access| match access {
                    Register::QueueSet { size, .. } => Some(*size),
                    _ => None,
                })
                .collect();
            match expected {
                Some(sizes) => {
                    assert_eq!(sets, sizes);
                    drop(started.unwrap());
                }
                None => {
                    let error = started.unwrap_err();
                    assert!(matches!(error, StartError::QueueTooSmall { .. }), "{error}");
                    assert!(is_failed(&model));
                    assert!(sets.is_empty(), "{sets:?}");
                }
            }
            assert_clean(&model);
        }
    }
}

#[test]
fn large_queues_take_the_pages_that_they_need() {
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.queue_sizes = [2048, 2048]);
        let mut options = Options::default();
        options.queue_size = 2048;
        let iommu = try_start_with(&model, &[PLAIN], options).unwrap();
        // A ring of this size is 13 pages and 14 bytes (§2.7), and 16 pages more are 64 bytes for
        // each request, or 32 for each event. And the place of PROBE.
        let pages = model.ram().live_pages();
        assert!((58..=62).contains(&pages), "{pages} pages");
        drop(iommu);
        assert_clean(&model);
    }
}

#[test]
fn out_of_memory_at_each_allocation() {
    for _ in each!() {
        let mut k = 0;
        loop {
            let model = Model::new();
            model.ram().refuse(Some(Refuse::Only(k)));
            match try_start(&model, &[PLAIN]) {
                Ok(_) => break,
                Err(error) => {
                    assert_eq!(error, StartError::OutOfMemory);
                    assert!(is_failed(&model));
                    assert_clean(&model);
                }
            }
            k += 1;
        }
        assert!(k >= 2, "only {k} allocations");
        let model = Model::new();
        model.ram().refuse(Some(Refuse::From(0)));
        assert_eq!(refused(&model, 1), StartError::OutOfMemory);
    }
}

#[test]
fn gv_stat_2_needs_reset_at_each_access_of_the_bring_up() {
    let _proof = proves(Oracle::Model, &["GV-STAT-2", "GV-INIT-5"]);
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        let total = model.with(|d| d.registers.accesses);
        drop(iommu);
        assert!(total > 20, "{total}");
        let mut refused = 0;
        for k in 0..total {
            let model = Model::new();
            model.with(|d| d.knobs.needs_reset_at = Some(k));
            let calls = model.clock().calls();
            let started = try_start(&model, &[PLAIN, RESERVING]);
            let calls = model.clock().calls() - calls;
            assert!(calls <= 2 * ONE_WAIT, "{calls} looks at access {k}");
            match started {
                // A reset of the driver clears it, or nothing of importance followed.
                Ok(iommu) => {
                    let trouble = model.with(|d| d.registers.status) & status_bit::NEEDS_RESET;
                    if trouble == 0 {
                        assert_eq!(model.reads(PLAIN, 0x1000), None, "access {k}");
                    }
                    drop(iommu);
                }
                Err(error) => {
                    refused += 1;
                    assert!(is_failed(&model), "access {k}: {error}");
                }
            }
            assert_eq!(model.ram().live_pages(), 0, "access {k}");
            assert_clean(&model);
        }
        assert!(refused > total / 2, "{refused} of {total}");
    }
}

#[test]
fn gv_notif_1_a_device_that_polls_is_not_notified() {
    let _proof = proves(Oracle::Model, &["GV-NOTIF-1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.no_notify = true);
        let iommu = start(&model, &[PLAIN]);
        let domain = rig::domain(&iommu, 4, &[PLAIN]);
        let mapped = rig::map(&domain, rig::pages(&model, 1), rig::RW).unwrap();
        domain.unmap(mapped).unwrap();
        let log = model.log();
        assert!(
            !log.iter()
                .any(|access| matches!(access, Register::Notify(_)))
        );
    }
}

#[test]
fn a_device_that_answers_later_is_waited_for() {
    for _ in each!(
        but[(
            Crosvm,
            "without BYPASS_CONFIG an endpoint rests in a domain"
        )]
    ) {
        for at_once in [1, 3] {
            let model = Model::new();
            model.with(|d| d.knobs.mode = Mode::OnTick(at_once));
            let iommu = start(&model, &[PLAIN, RESERVING]);
            let domain = rig::domain(&iommu, 4, &[PLAIN]);
            rig::map(&domain, rig::pages(&model, 1), rig::RW).unwrap();
            drop(domain);
            assert_eq!(model.domain_of(PLAIN), None);
            assert_eq!(
                model.clock().calls_under_lock(),
                0,
                "no lock is held while waiting"
            );
        }
    }
}

#[test]
fn dn_init_t1_gunyahs_device_is_refused_before_it_has_a_queue() {
    // Neither MAP nor UNMAP, and a configuration that can be read in one width only.
    let model = Model::of(Personality::Gunyah);
    let expected = StartError::FeatureMissing(Features::MAP_UNMAP);
    assert_eq!(refused_early(&model), expected);
}

#[test]
fn gv_pci_2_the_configuration_is_read_in_words_of_32_bits() {
    let model = Model::new();
    model.with(|d| {
        d.manners.config_width = Some(4);
        d.knobs.offered &= !feature::BYPASS_CONFIG;
    });
    let iommu = start(&model, &[PLAIN]);
    assert_eq!(iommu.geometry().page_size_mask(), !0xfff);
}

#[test]
fn a_handle_shows_what_the_device_can_do() {
    for _ in each!() {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN]);
        let shown = format!("{iommu:?}");
        let (features, geometry) = (iommu.features(), iommu.geometry());
        assert!(shown.starts_with("Iommu"), "{shown}");
        assert!(shown.contains(&format!("{features:?}")), "{shown}");
        assert!(shown.contains(&format!("{geometry:?}")), "{shown}");
        let domain = iommu.create_domain(1).unwrap();
        let shown = format!("{domain:?}");
        assert!(shown.starts_with("Domain"), "{shown}");
        assert!(shown.contains(&format!("{:?}", domain.id())), "{shown}");
    }
}
