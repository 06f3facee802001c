//! The configuration: read without tears, and refused if it makes no sense (§5.13.4).

use crate::each;
use crate::model::config::{ConfigSpace, Generation, Torn};
use crate::model::spec::feature;
use crate::model::{Model, PLAIN};
use crate::rig::{refused, refused_early, start};
use virtio_iommu::{Bypass, ConfigError, Iova, StartError};
use xtask::conformance::{Oracle, proves};

/// A configuration and why it is refused.
fn bad_config(change: impl FnOnce(&mut ConfigSpace), expected: ConfigError) {
    let model = Model::new();
    model.with(|d| change(&mut d.config));
    assert_eq!(refused_early(&model), StartError::Config(expected));
}

#[test]
fn dv_cfg_1_page_size_mask_0() {
    let _proof = proves(Oracle::Model, &["DV-CFG-1"]);
    for _ in each!() {
        bad_config(|c| c.page_size_mask = 0, ConfigError::NoPageSize);
    }
}

#[test]
fn bad_input_input_range() {
    for _ in each!() {
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
}

#[test]
fn bad_input_domain_range() {
    for _ in each!(but [(Crosvm, "no DOMAIN_RANGE"), (CloudHypervisor, "no DOMAIN_RANGE")]) {
        bad_config(
            |c| c.domain_range = (1, 0),
            ConfigError::InvertedDomainRange { start: 1, end: 0 },
        );
        bad_config(|c| c.domain_range = (7, 7), ConfigError::TooFewDomains);
    }
}

#[test]
fn bad_input_probe_size_0_and_4_gib() {
    for _ in each!() {
        for size in [0, u32::MAX, 1 << 31] {
            bad_config(|c| c.probe_size = size, ConfigError::ProbeSize(size));
        }
    }
}

#[test]
fn bad_input_config_too_short() {
    for _ in each!(but[(Crosvm, "no BYPASS_CONFIG")]) {
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
}

#[test]
fn gv_cfg_2_what_is_not_offered_need_not_exist() {
    let _proof = proves(Oracle::Model, &["GV-CFG-2"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| {
            d.knobs.offered = feature::MAP_UNMAP | feature::VERSION_1;
            d.config.len = 8;
        });
        let iommu = start(&model, &[PLAIN]);
        assert_eq!(iommu.geometry().input_range().end(), Iova(u64::MAX));
    }
}

#[test]
fn gv_cfg_3_a_larger_config_is_accepted() {
    let _proof = proves(Oracle::Model, &["GV-CFG-3"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| {
            d.config.len = 4096;
            d.config.reserved = [0xff; 3];
        });
        start(&model, &[PLAIN]);
    }
}

#[test]
fn dv_cfg_2_the_lowest_bit_of_the_mask_is_the_granule() {
    let _proof = proves(Oracle::Model, &["DV-CFG-2"]);
    for _ in each!() {
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
}

#[test]
fn gv_cfg_1_a_config_that_changes_while_it_is_read_is_read_again() {
    let _proof = proves(Oracle::Model, &["GV-CFG-1", "GV-PCI-2"]);
    for _ in each!(but [(Crosvm, "no DOMAIN_RANGE"), (CloudHypervisor, "no DOMAIN_RANGE")]) {
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
                input_range: (
                    geometry.input_range().start().0,
                    geometry.input_range().end().0,
                ),
                domain_range: (
                    geometry.domain_range().start().0,
                    geometry.domain_range().end().0,
                ),
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
}

#[test]
fn gv_cfg_1_a_config_that_never_settles() {
    let _proof = proves(Oracle::Model, &["GV-CFG-1"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.generation = Generation::Restless);
        let error = refused_early(&model);
        assert_eq!(error, StartError::Config(ConfigError::Unstable));
    }
}

#[test]
fn bypass_that_cannot_be_switched_off() {
    let _proof = proves(Oracle::Model, &["DV-CFG-3", "DV-CFG-4"]);
    for _ in each!(but [(Crosvm, "no BYPASS_CONFIG"), (CloudHypervisor, "bypass reads 0 although it is on")])
    {
        let model = Model::new();
        model.with(|d| d.knobs.bypass_stuck = true);
        assert_eq!(refused(&model, 1), StartError::BypassStuck);
        assert_eq!(model.request_count(), 0);
    }
}

#[test]
fn dn_cfg_4_bits_1_to_7_of_bypass_mean_nothing() {
    let _proof = proves(Oracle::Model, &["DN-CFG-4", "DV-CFG-6"]);
    for _ in each!(but[(Crosvm, "no BYPASS_CONFIG")]) {
        for reads in [0xfe, 0xff, 0x80] {
            let model = Model::new();
            model.with(|d| d.config.bypass = reads);
            let iommu = start(&model, &[PLAIN]);
            assert_eq!(iommu.bypass(), Bypass::Locked);
            assert_eq!(model.with(|d| d.config.bypass) & 1, 0);
        }
    }
}
