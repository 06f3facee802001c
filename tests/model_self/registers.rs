//! Registers: each step that is left out is noticed.

use crate::PROBE_ROOM;
use crate::model::config::{ConfigSpace, ResetBehaviour, Torn};
use crate::model::events::Record;
use crate::model::hand::{self};
use crate::model::spec::{feature, status_bit};
use crate::model::{Model, PLAIN};

/// A device that was just reset.
fn fresh() -> Model {
    let model = Model::new();
    model.with(|d| {
        d.write_status(0);
        assert_eq!(d.read_status(), 0);
    });
    model
}

#[test]
fn gv_init_1_steps_left_out_are_noticed() {
    let model = fresh();
    let rules = |model: &Model| model.violations().take_rules();
    model.with(|d| d.write_status(2));
    assert_eq!(rules(&model), ["GV-INIT-1"], "DRIVER without ACKNOWLEDGE");
    model.with(|d| d.write_status(3));
    model.with(|d| d.write_status(11));
    assert_eq!(rules(&model), ["GV-INIT-1"], "FEATURES_OK before features");
    model.with(|d| d.write_features(feature::VERSION_1));
    assert_eq!(rules(&model), ["GV-INIT-3"], "features after FEATURES_OK");
    model.with(|d| d.write_status(8));
    assert_eq!(rules(&model), ["GV-STAT-1"], "a bit cleared");
    model.with(|d| d.notify(0));
    assert_eq!(rules(&model), ["GV-INIT-6"]);
    model.with(|d| d.write_status(0x80 | 11));
    model.with(|d| d.write_status(0x80 | 15));
    assert_eq!(rules(&model)[0], "GV-INIT-5", "on after FAILED");
    model.with(|d| d.write_config(36, &[0]));
    assert!(rules(&model).contains(&"GV-INIT-5"));
}

#[test]
fn gv_init_2_and_dn_cfg_config_accesses_are_judged() {
    let model = fresh();
    let rules = |model: &Model| model.violations().take_rules();
    model.with(|d| {
        d.write_status(1);
        d.write_status(3);
        assert!(d.read_config(0, 4).is_some());
        d.write_config(36, &[0]);
    });
    assert_eq!(rules(&model), ["GV-INIT-2", "DN-CFG-1"]);
    model.with(|d| {
        d.write_features(d.knobs.offered & !feature::BYPASS_CONFIG);
        d.write_status(11);
        d.write_config(36, &[0]);
    });
    assert_eq!(rules(&model), ["DN-CFG-1"]);
    model.with(|d| {
        d.write_status(0);
        d.read_status();
        d.write_status(1);
        d.write_status(3);
        d.write_features(d.knobs.offered);
        d.write_status(11);
    });
    model.with(|d| d.write_config(36, &[2]));
    assert_eq!(rules(&model), ["DN-CFG-3"]);
    model.with(|d| d.write_config(37, &[0]));
    model.with(|d| d.write_config(36, &[0; 4]));
    assert_eq!(rules(&model), ["DN-CFG-2", "DN-CFG-2"]);
    assert_eq!(model.with(|d| d.config.bypass), 1);
    model.with(|d| d.write_config(36, &[0]));
    assert_eq!(model.with(|d| d.config.bypass), 0);
    // Reads: too wide, unaligned, beyond, not offered.
    model.with(|d| assert!(d.read_config(0, 8).is_some()));
    model.with(|d| assert!(d.read_config(2, 4).is_some()));
    assert_eq!(rules(&model), ["GV-PCI-2", "GV-PCI-2"]);
    model.with(|d| assert!(d.read_config(40, 4).is_none()));
    model.with(|d| {
        d.knobs.offered &= !feature::PROBE;
        assert_eq!(d.read_config(32, 4), Some(vec![0xee; 4]));
    });
    assert_eq!(rules(&model), ["GV-CFG-2", "GV-CFG-2"]);
}

#[test]
fn gv_feat_features_are_judged() {
    let model = fresh();
    model.with(|d| {
        d.write_status(1);
        d.write_status(3);
        d.knobs.offered |= 1 << 41;
        d.write_features(1 << 41 | feature::BYPASS);
    });
    let rules = model.violations().take_rules();
    assert_eq!(rules, ["GV-FEAT-1", "GV-FEAT-2", "GV-V1"]);
    model.with(|d| {
        d.knobs.offered |= feature::EVENT_IDX;
        d.write_features(feature::EVENT_IDX | feature::VERSION_1);
    });
    assert_eq!(model.violations().take_rules(), ["MODEL"]);
}

#[test]
fn gv_rst_1_a_slow_reset_has_to_be_waited_for() {
    let model = fresh();
    model.with(|d| {
        d.write_status(1);
        d.knobs.reset = ResetBehaviour::AfterReads(2);
        d.write_status(0);
        d.write_status(1);
    });
    assert_eq!(model.violations().take_rules(), ["GV-RST-1"]);
    model.with(|d| {
        d.write_status(0);
        assert_ne!(d.read_status(), 0);
        assert_ne!(d.read_status(), 0);
        assert_eq!(d.read_status(), 0);
        d.knobs.reset = ResetBehaviour::Never;
        d.write_status(1);
        d.write_status(0);
        for _ in 0..100 {
            assert_eq!(d.read_status(), 1);
        }
    });
}

#[test]
fn a_device_refuses_features() {
    let model = fresh();
    model.with(|d| {
        d.knobs.refuse_features = true;
        d.write_status(1);
        d.write_status(3);
        d.write_features(d.knobs.offered);
        d.write_status(11);
        assert_eq!(d.read_status(), 3);
    });
    let model = fresh();
    model.with(|d| {
        d.knobs.offered |= feature::ACCESS_PLATFORM;
        d.write_status(1);
        d.write_status(3);
        d.write_features(d.knobs.offered & !feature::ACCESS_PLATFORM);
        d.write_status(11);
        assert_eq!(d.read_status(), 3);
    });
}

#[test]
fn a_config_that_changes_between_two_reads() {
    let model = fresh();
    model.with(|d| {
        d.knobs.torn = Some(Torn {
            after_reads: 1,
            then: ConfigSpace {
                page_size_mask: 0x1_0000_0000_0000,
                ..ConfigSpace::default()
            },
        });
        let before = d.read_generation();
        assert_eq!(d.read_config(0, 4), Some(vec![0, 0xf0, 0xff, 0xff]));
        assert_eq!(d.read_config(4, 4), Some(vec![0, 0, 1, 0]));
        assert_ne!(d.read_generation(), before);
    });
}

#[test]
fn needs_reset_at_an_access_stops_everything() {
    let model = Model::new();
    let mut hand = model.hand();
    model.with(|d| d.knobs.needs_reset_at = Some(d.registers.accesses));
    assert_eq!(hand.ask(hand::probe(PLAIN), PROBE_ROOM), None);
    let status = model.with(|d| d.read_status());
    assert_eq!(status & status_bit::NEEDS_RESET, status_bit::NEEDS_RESET);
    assert!(!model.with(|d| d.report(Record::default())));
    model.with(|d| d.write_status(0));
    assert_eq!(model.with(|d| d.read_status()), 0);
    hand.put_away();
}
