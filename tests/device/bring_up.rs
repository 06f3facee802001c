//! The driver's bring-up against the model device: order, features, configuration, lock-down.

use crate::model::config::{ConfigSpace, Generation, ResetBehaviour, Torn};
use crate::model::device::Mode;
use crate::model::memory::Refuse;
use crate::model::registers::Access as Register;
use crate::model::requests::Request;
use crate::model::script::Answer;
use crate::model::spec::{EVENT_QUEUE, REQUEST_QUEUE, config, feature, status_bit};
use crate::model::unit::{Endpoint, Mapping};
use crate::model::{Model, OTHER, PLAIN, RESERVING};
use crate::rig::{self, ONE_WAIT, assert_clean, is_failed, start, try_start, try_start_with};
use virtio_drivers::transport::DeviceType;
use virtio_iommu::{
    Bypass, ConfigError, DomainId, DomainRange, EndpointError, EndpointId, Features, Iova,
    Options, RequestError, StartError, Status,
};

const KNOWN: u64 = feature::ALL_OF_THE_DEVICE | feature::VERSION_1;

/// Starts a device that must be refused, within the given number of waits, and leaves nothing.
fn refused(model: &Model, waits: u64) -> StartError {
    let calls = model.clock().calls();
    let accesses = model.with(|d| d.registers.accesses);
    let error = try_start(model, &[PLAIN]).expect_err("a device that must be refused");
    let calls = model.clock().calls() - calls;
    let accesses = model.with(|d| d.registers.accesses) - accesses;
    assert!(calls <= waits * ONE_WAIT + 10, "{calls} looks: {error}");
    assert!(accesses <= waits * 2 * ONE_WAIT + 1_000, "{accesses}: {error}");
    assert!(is_failed(model), "no FAILED after {error}");
    assert_clean(model);
    error
}

/// The same, before the device ever had a queue.
fn refused_early(model: &Model) -> StartError {
    let error = refused(model, 1);
    let log = model.log();
    let late = log.iter().find(|access| {
        matches!(
            access,
            Register::QueueSet { .. } | Register::Notify(_) | Register::ConfigWrite { .. }
        )
    });
    assert_eq!(late, None, "after {error}");
    assert_eq!(model.request_count(), 0);
    error
}

#[test]
fn gv_init_1_status_order() {
    let model = Model::new();
    let iommu = start(&model, &[PLAIN]);
    assert_eq!(model.status_writes(), [0, 1, 3, 11, 15]);
    let log = model.log();
    let at = |wanted: &Register| log.iter().position(|access| access == wanted);
    let order = [
        at(&Register::StatusWrite(0)),
        at(&Register::StatusRead(0)),
        at(&Register::StatusWrite(1)),
        at(&Register::StatusWrite(3)),
        at(&Register::FeaturesRead),
        at(&Register::FeaturesWrite(KNOWN)),
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

#[test]
fn dn_fault_t1_events_are_posted_and_announced_before_the_first_request() {
    let model = Model::new();
    let iommu = start(&model, &[PLAIN]);
    let log = model.log();
    let notified = |queue| log.iter().position(|a| *a == Register::Notify(queue));
    assert!(notified(EVENT_QUEUE).unwrap() < notified(REQUEST_QUEUE).unwrap());
    assert_eq!(model.with(|d| d.event_buffers()), 64);
    drop(iommu);
}

#[test]
fn gv_init_4_features_refused() {
    let model = Model::new();
    model.with(|d| d.knobs.refuse_features = true);
    let error = refused_early(&model);
    let expected = Features::from_bits_truncate(KNOWN);
    assert_eq!(error, StartError::FeaturesRefused(expected));
}

#[test]
fn dn_init_t1_map_unmap_is_required() {
    let model = Model::new();
    model.with(|d| d.knobs.offered &= !feature::MAP_UNMAP);
    let expected = StartError::FeatureMissing(Features::MAP_UNMAP);
    assert_eq!(refused_early(&model), expected);
}

#[test]
fn gv_v1_version_1_is_required() {
    let model = Model::new();
    model.with(|d| d.knobs.offered &= !feature::VERSION_1);
    let expected = StartError::FeatureMissing(Features::VERSION_1);
    assert_eq!(refused_early(&model), expected);
}

#[test]
fn dn_feat_1_every_subset_of_the_features_is_accepted_as_offered() {
    for bits in 0..32u64 {
        // The five optional ones; bit 2 is required, bit 3 is the deprecated one.
        let offered = (bits & 3) | (bits & 0x1c) << 2 | feature::MAP_UNMAP | feature::VERSION_1;
        let model = Model::new();
        model.with(|d| d.knobs.offered = offered);
        let iommu = start(&model, &[PLAIN]);
        assert_eq!(model.with(|d| d.registers.accepted), offered);
        assert_eq!(iommu.features().bits(), offered);
        assert_eq!(iommu.offered_features(), offered);
        let geometry = iommu.geometry();
        let ranges = (
            (geometry.input_range().start().0, geometry.input_range().end().0),
            (geometry.domain_range().start().0, geometry.domain_range().end().0),
            geometry.probe_size(),
        );
        let given = |bit: u64| offered & bit != 0;
        let input = (0x1000, 0xff_ffff_ffff);
        assert_eq!(
            ranges,
            (
                if given(feature::INPUT_RANGE) { input } else { (0, u64::MAX) },
                if given(feature::DOMAIN_RANGE) { (3, 40) } else { (0, u32::MAX) },
                given(feature::PROBE).then_some(512),
            )
        );
        let probes = model.requests().iter().filter(|r| rig::is_probe(r)).count();
        assert_eq!(probes, usize::from(given(feature::PROBE)));
        drop(iommu);
        assert_clean(&model);
    }
}

#[test]
fn gv_feat_2_3_unknown_bits_are_ignored() {
    for offered in [u64::MAX & !feature::ACCESS_PLATFORM, KNOWN | 1 << 7 | 1 << 63] {
        let model = Model::new();
        model.with(|d| d.knobs.offered = offered);
        let iommu = start(&model, &[PLAIN]);
        assert_eq!(iommu.offered_features(), offered);
        let accepted = model.with(|d| d.registers.accepted);
        assert_eq!(accepted & !(KNOWN | feature::ORDER_PLATFORM), 0);
        assert_eq!(accepted & KNOWN, KNOWN);
    }
}

#[test]
fn the_old_bypass_feature_is_never_accepted() {
    let model = Model::new();
    model.with(|d| {
        d.knobs.offered = feature::BYPASS | feature::MAP_UNMAP | feature::VERSION_1;
    });
    let iommu = start(&model, &[PLAIN]);
    assert!(!model.with(|d| d.negotiated(feature::BYPASS)));
    assert_eq!(model.reads(PLAIN, 0x1000), None);
    assert_eq!(iommu.bypass(), Bypass::NotConfigurable);
}

#[test]
fn gv_acc_access_platform_is_accepted() {
    let model = Model::new();
    model.with(|d| d.knobs.offered |= feature::ACCESS_PLATFORM);
    let iommu = start(&model, &[PLAIN]);
    assert!(iommu.features().contains(Features::ACCESS_PLATFORM));
}

/// A configuration and why it is refused.
fn bad_config(change: impl FnOnce(&mut ConfigSpace), expected: ConfigError) {
    let model = Model::new();
    model.with(|d| change(&mut d.config));
    assert_eq!(refused_early(&model), StartError::Config(expected));
}

#[test]
fn dv_cfg_1_page_size_mask_0() {
    bad_config(|c| c.page_size_mask = 0, ConfigError::NoPageSize);
}

#[test]
fn bad_input_input_range() {
    bad_config(
        |c| c.input_range = (0x2000, 0x1fff),
        ConfigError::InvertedInputRange {
            start: 0x2000,
            end: 0x1fff,
        },
    );
    for range in [(0, 0), (0, 0xfff), (0x10, 0x1fff), (u64::MAX, u64::MAX)] {
        bad_config(
            |c| c.input_range = range,
            ConfigError::InputRangeTooSmall { granule: 0x1000 },
        );
    }
    bad_config(
        |c| c.page_size_mask = 1 << 63,
        ConfigError::InputRangeTooSmall { granule: 1 << 63 },
    );
}

#[test]
fn bad_input_domain_range() {
    bad_config(
        |c| c.domain_range = (1, 0),
        ConfigError::InvertedDomainRange { start: 1, end: 0 },
    );
    bad_config(|c| c.domain_range = (7, 7), ConfigError::TooFewDomains);
}

#[test]
fn bad_input_probe_size_0_and_4_gib() {
    for size in [0, u32::MAX, 1 << 31] {
        bad_config(|c| c.probe_size = size, ConfigError::ProbeSize(size));
    }
}

#[test]
fn bad_input_config_too_short() {
    for len in [0, 7, 8, 20, 24, 28, 32, 35] {
        let model = Model::new();
        model.with(|d| d.config.len = len);
        let error = refused_early(&model);
        assert!(
            matches!(error, StartError::Config(ConfigError::Missing { .. })),
            "{len}: {error}"
        );
    }
    // Long enough for all but `bypass`.
    let model = Model::new();
    model.with(|d| d.config.len = 36);
    let error = refused(&model, 1);
    let expected = ConfigError::Missing { offset: 36 };
    assert_eq!(error, StartError::Config(expected));
}

#[test]
fn gv_cfg_2_what_is_not_offered_need_not_exist() {
    let model = Model::new();
    model.with(|d| {
        d.knobs.offered = feature::MAP_UNMAP | feature::VERSION_1;
        d.config.len = 8;
    });
    let iommu = start(&model, &[PLAIN]);
    assert_eq!(iommu.geometry().input_range().end(), Iova(u64::MAX));
}

#[test]
fn gv_cfg_3_a_larger_config_is_accepted() {
    let model = Model::new();
    model.with(|d| {
        d.config.len = 4096;
        d.config.reserved = [0xff; 3];
    });
    start(&model, &[PLAIN]);
}

#[test]
fn dv_cfg_2_the_lowest_bit_of_the_mask_is_the_granule() {
    for (mask, granule) in [
        (0x20_1000, 0x1000),
        (0xffff_ffff_ffff_0000, 0x1_0000),
        (1 << 21, 1 << 21),
        // Finer than a page: whole pages are legal, too.
        (u64::MAX, 0x1000),
        (0x400, 0x1000),
    ] {
        let model = Model::new();
        model.with(|d| d.config.page_size_mask = mask);
        let iommu = start(&model, &[PLAIN]);
        assert_eq!(iommu.geometry().granule(), granule);
        assert_eq!(iommu.geometry().page_size_mask(), mask);
    }
}

#[test]
fn gv_cfg_1_a_config_that_changes_while_it_is_read_is_read_again() {
    let then = ConfigSpace {
        page_size_mask: 0xffff_0000_0001_0000,
        input_range: (0x1_0000_0000, 0x7f_0000_0000_ffff),
        domain_range: (0x1_0002, 0x2_0007),
        probe_size: 0x30,
        bypass: 0,
        ..ConfigSpace::default()
    };
    // Nine words are read.
    for after_reads in 0..9 {
        let model = Model::new();
        let torn = Torn {
            after_reads,
            then: then.clone(),
        };
        model.with(|d| d.knobs.torn = Some(torn));
        let iommu = start(&model, &[PLAIN]);
        let geometry = iommu.geometry();
        let seen = ConfigSpace {
            page_size_mask: geometry.page_size_mask(),
            input_range: (geometry.input_range().start().0, geometry.input_range().end().0),
            domain_range: (geometry.domain_range().start().0, geometry.domain_range().end().0),
            probe_size: geometry.probe_size().unwrap(),
            ..ConfigSpace::default()
        };
        let expected = ConfigSpace {
            bypass: seen.bypass,
            ..then.clone()
        };
        assert_eq!(seen, expected, "torn after {after_reads}");
    }
}

#[test]
fn gv_cfg_1_a_config_that_never_settles() {
    let model = Model::new();
    model.with(|d| d.knobs.generation = Generation::Restless);
    let error = refused_early(&model);
    assert_eq!(error, StartError::Config(ConfigError::Unstable));
}

#[test]
fn gv_rst_1_a_slow_reset_is_waited_for() {
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

#[test]
fn gv_rst_1_a_reset_that_is_never_done() {
    let model = Model::new();
    model.with(|d| {
        d.registers.status = 15;
        d.knobs.reset = ResetBehaviour::Never;
    });
    let error = refused(&model, 1);
    assert_eq!(error, StartError::ResetUnconfirmed);
    assert!(model.status_writes().iter().all(|s| *s == 0 || s & 128 != 0));
}

#[test]
fn bad_input_a_device_that_was_pulled_out() {
    // All reads give ones; or the status is stuck at nothing.
    for (reads, expected) in [
        (u32::MAX, StartError::ResetUnconfirmed),
        (0, StartError::FeaturesRefused(Features::from_bits_truncate(KNOWN))),
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

#[test]
fn bypass_that_cannot_be_switched_off() {
    let model = Model::new();
    model.with(|d| d.knobs.bypass_stuck = true);
    assert_eq!(refused(&model, 1), StartError::BypassStuck);
    assert_eq!(model.request_count(), 0);
}

#[test]
fn dn_cfg_4_bits_1_to_7_of_bypass_mean_nothing() {
    for reads in [0xfe, 0xff, 0x80] {
        let model = Model::new();
        model.with(|d| d.config.bypass = reads);
        let iommu = start(&model, &[PLAIN]);
        assert_eq!(iommu.bypass(), Bypass::Locked);
        assert_eq!(model.with(|d| d.config.bypass) & 1, 0);
    }
}

#[test]
fn after_start_no_endpoint_of_the_list_reaches_memory() {
    let model = Model::new();
    assert_eq!(model.reads(PLAIN, 0x8000_0000), Some(0x8000_0000));
    let iommu = start(&model, &[PLAIN, OTHER]);
    assert_eq!(iommu.bypass(), Bypass::Locked);
    for id in [PLAIN, OTHER] {
        assert_eq!(model.domain_of(id), None);
        assert_eq!(model.reads(id, 0x8000_0000), None);
    }
    let listed: Vec<EndpointId> = iommu.endpoints().collect();
    assert_eq!(listed, [EndpointId(PLAIN), EndpointId(OTHER)]);
}

#[test]
fn without_bypass_config_endpoints_stay_in_the_scratch_domain() {
    let model = Model::new();
    model.with(|d| d.knobs.offered &= !feature::BYPASS_CONFIG);
    let iommu = start(&model, &[PLAIN, OTHER]);
    assert_eq!(iommu.bypass(), Bypass::NotConfigurable);
    let scratch = iommu.scratch_domain().0;
    for id in [PLAIN, OTHER] {
        assert_eq!(model.domain_of(id), Some(scratch));
        assert_eq!(model.reads(id, 0x8000_0000), None);
    }
    let writes = model.log().into_iter();
    let mut writes = writes.filter(|a| matches!(a, Register::ConfigWrite { .. }));
    assert_eq!(writes.next(), None);
    // And they come back there from a domain.
    let domain = rig::domain(&iommu, 4, &[PLAIN]);
    assert_eq!(model.domain_of(PLAIN), Some(domain.id().0));
    drop(domain);
    assert_eq!(model.domain_of(PLAIN), Some(scratch));
}

#[test]
fn dn_init_2_probe_attach_detach_per_endpoint_in_this_order() {
    let model = Model::new();
    let iommu = start(&model, &[PLAIN, RESERVING, PLAIN, OTHER, OTHER]);
    let scratch = iommu.scratch_domain().0;
    let mut expected = Vec::new();
    for endpoint in [PLAIN, RESERVING, OTHER] {
        expected.push(Request::Probe { endpoint });
        expected.push(Request::Attach {
            domain: scratch,
            endpoint,
            flags: 0,
        });
        expected.push(Request::Detach {
            domain: scratch,
            endpoint,
        });
    }
    let mut requests = model.requests();
    // The id of the scratch domain is asked about before.
    requests.retain(|request| !rig::is_unmap(request));
    assert_eq!(requests, expected);
    assert_eq!(model.with(|d| d.unit.domains.len()), 0);
    drop(iommu);
}

#[test]
fn an_empty_list_is_a_device_without_endpoints() {
    let model = Model::new();
    let iommu = start(&model, &[]);
    assert_eq!(iommu.endpoints().count(), 0);
    assert_eq!(model.reads(PLAIN, 0x1000), None, "bypass is off all the same");
}

/// What an earlier driver left behind on a device like QEMU.
fn stale() -> Model {
    let model = Model::new();
    model.with(|d| {
        d.unit.quirks.state_outlives_reset = true;
        d.unit.quirks.reattach_drops_mappings = true;
        let mapping = Mapping {
            start: 0x1000,
            end: 0x1fff,
            phys: 0x8000_0000,
            flags: 3,
        };
        d.unit.endpoints.insert(0x77, Endpoint::default());
        // The first domain, the last one, one in the middle, and one with a stranger in it.
        d.unit.seed(PLAIN, 3, &[mapping]);
        d.unit.seed(OTHER, 40, &[mapping]);
        d.unit.seed(RESERVING, 20, &[mapping]);
        d.unit.seed(0x77, 4, &[mapping]);
    });
    model
}

#[test]
fn dv_rst_t_what_an_earlier_driver_left_is_scrubbed() {
    let model = stale();
    let iommu = start(&model, &[PLAIN, OTHER, RESERVING]);
    for id in [PLAIN, OTHER, RESERVING] {
        assert_eq!(model.reads(id, 0x1000), None);
        assert_eq!(model.domain_of(id), None);
    }
    // No domain of ours is one that a stranger is in, and none starts with old mappings.
    let stranger = model.domain_of(0x77).unwrap();
    for id in [PLAIN, OTHER, RESERVING] {
        let domain = rig::domain(&iommu, 4, &[id]);
        assert_ne!(domain.id().0, stranger);
        assert_eq!(model.mappings(domain.id().0), Some(vec![]));
        assert_eq!(model.reads(id, 0x1000), None);
        std::mem::forget(domain);
    }
    // The forgotten domains keep their handles alive: the end is by hand.
    iommu.shutdown().unwrap();
}

#[test]
fn a_device_is_started_twice_with_other_ids_and_endpoints() {
    let model = Model::new();
    model.with(|d| d.unit.quirks.state_outlives_reset = true);
    let first = start(&model, &[PLAIN, OTHER]);
    let domain = rig::domain(&first, 4, &[PLAIN, OTHER]);
    let page = rig::pages(&model, 1);
    let mapped = rig::map(&domain, page, rig::RW).unwrap();
    let at = mapped.start().0;
    assert_eq!(model.reads(PLAIN, at), Some(page.start().0));
    // The first driver ends without a DETACH, as one that crashed.
    std::mem::forget(domain);
    first.shutdown().unwrap();
    assert_eq!(model.reads(PLAIN, at), Some(page.start().0), "like QEMU");
    let mut options = Options::default();
    options.domain_ids = DomainRange::new(DomainId(10), DomainId(12));
    let second = try_start_with(&model, &[OTHER, PLAIN, RESERVING], options).unwrap();
    for id in [PLAIN, OTHER, RESERVING] {
        assert_eq!(model.reads(id, at), None);
    }
    assert_eq!(second.scratch_domain(), DomainId(12));
    let domains = [PLAIN, OTHER].map(|id| rig::domain(&second, 4, &[id]));
    assert_eq!(domains.each_ref().map(|d| d.id().0), [10, 11]);
    assert!(second.create_domain(1).is_err());
    assert_eq!(model.reads(PLAIN, at), None);
}

#[test]
fn a_wrong_or_legacy_device_is_left_alone() {
    let model = Model::new();
    model.with(|d| d.knobs.device_type = DeviceType::Block);
    assert_eq!(try_start(&model, &[]).unwrap_err(), StartError::NotAnIommu);
    assert!(model.status_writes().is_empty());
    let model = Model::new();
    model.with(|d| d.knobs.legacy_layout = true);
    assert_eq!(try_start(&model, &[]).unwrap_err(), StartError::Legacy);
    assert!(model.status_writes().is_empty());
}

#[test]
fn options_that_make_no_sense() {
    let model = Model::new();
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

#[test]
fn gv_pci_3_queue_sizes() {
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

#[test]
fn out_of_memory_at_each_allocation() {
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

#[test]
fn gv_stat_2_needs_reset_at_each_access_of_the_bring_up() {
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

/// How many requests a bring-up for these two endpoints sends.
fn requests_of_a_bring_up() -> usize {
    let model = Model::new();
    drop(start(&model, &[PLAIN, RESERVING]));
    model.request_count()
}

#[test]
fn needs_reset_instead_of_an_answer_to_each_request_of_the_bring_up() {
    for k in 0..requests_of_a_bring_up() {
        let model = Model::new();
        model.script(move |seen| {
            if seen.number == k {
                Answer::needs_reset()
            } else {
                Answer::honest()
            }
        });
        let calls = model.clock().calls();
        let error = try_start(&model, &[PLAIN, RESERVING]).unwrap_err();
        assert!(model.clock().calls() - calls <= ONE_WAIT, "{k}: {error}");
        assert!(is_failed(&model), "{k}: {error}");
        assert_clean(&model);
    }
}

#[test]
fn an_answer_that_never_comes_to_each_request_of_the_bring_up() {
    for k in 0..requests_of_a_bring_up() {
        let model = Model::new();
        model.script(move |seen| {
            if seen.number == k {
                Answer::never()
            } else {
                Answer::honest()
            }
        });
        let calls = model.clock().calls();
        let error = try_start(&model, &[PLAIN, RESERVING]).unwrap_err();
        assert!(model.clock().calls() - calls <= 2 * ONE_WAIT, "{k}: {error}");
        assert!(is_failed(&model), "{k}: {error}");
        assert_clean(&model);
    }
}

#[test]
fn every_failing_status_to_each_endpoint_request_of_the_bring_up() {
    type Kind = fn(&Request) -> bool;
    let kinds: [(Kind, fn(RequestError) -> EndpointError); 3] = [
        (rig::is_probe, EndpointError::Probe),
        (rig::is_attach, EndpointError::Scrub),
        (rig::is_detach, EndpointError::Scrub),
    ];
    for (kind, wrap) in kinds {
        for (code, status) in [
            (1, Status::IoErr),
            (2, Status::Unsupp),
            (3, Status::DevErr),
            (4, Status::Inval),
            (5, Status::Range),
            (6, Status::NoEnt),
            (7, Status::Fault),
            (8, Status::NoMem),
            (9, Status::Unknown(9)),
            (0x80, Status::Unknown(0x80)),
        ] {
            let model = Model::new();
            model.answer_once(kind, Answer::status(code));
            let error = try_start(&model, &[PLAIN]).unwrap_err();
            assert_eq!(
                error,
                StartError::Endpoint {
                    endpoint: EndpointId(PLAIN),
                    error: wrap(RequestError::Status(status)),
                }
            );
            assert!(is_failed(&model));
            assert_clean(&model);
        }
    }
}

#[test]
fn dv_prb_2_an_endpoint_that_does_not_exist() {
    let model = Model::new();
    let error = try_start(&model, &[PLAIN, 0x999]).unwrap_err();
    assert_eq!(
        error,
        StartError::Endpoint {
            endpoint: EndpointId(0x999),
            error: EndpointError::Probe(RequestError::Status(Status::NoEnt)),
        }
    );
    assert!(is_failed(&model));
}

#[test]
fn gv_notif_1_a_device_that_polls_is_not_notified() {
    let model = Model::new();
    model.with(|d| d.knobs.no_notify = true);
    let iommu = start(&model, &[PLAIN]);
    let domain = rig::domain(&iommu, 4, &[PLAIN]);
    let mapped = rig::map(&domain, rig::pages(&model, 1), rig::RW).unwrap();
    domain.unmap(mapped).unwrap();
    let log = model.log();
    assert!(!log.iter().any(|access| matches!(access, Register::Notify(_))));
}

#[test]
fn a_device_that_answers_later_is_waited_for() {
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

#[test]
fn shutdown_gives_all_memory_back() {
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

#[test]
fn the_last_handle_resets_the_device() {
    let model = Model::new();
    let iommu = start(&model, &[PLAIN]);
    let clone = iommu.clone();
    drop(iommu);
    assert_ne!(model.with(|d| d.registers.status), 0);
    drop(clone);
    assert_eq!(model.with(|d| d.registers.status), 0);
    assert_clean(&model);
}

#[test]
fn an_unconfirmed_reset_keeps_the_memory_that_the_device_may_use() {
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

#[test]
fn no_lock_is_held_while_a_reset_is_waited_for() {
    let model = Model::new();
    let iommu = start(&model, &[PLAIN]);
    model.with(|d| d.knobs.reset = ResetBehaviour::AfterReads(500));
    iommu.shutdown().unwrap();
    let calls = model.clock().calls_under_lock();
    assert!(calls <= 2, "{calls} looks at the clock under a lock");
}
