//! PROBE: what endpoints reserve, as honest, strange and broken lists tell it (§5.13.6.7).

use crate::each;
use crate::model::probe::{properties, property, resv_mem};
use crate::model::script::{Answer, Written};
use crate::model::spec::{PROBE_T_RESV_MEM, RESV_MEM_VALUE_LEN, TAIL_LEN};
use crate::model::unit::Region;
use crate::model::{Model, PLAIN, REGIONS, RESERVING};
use crate::rig::{self, assert_clean, is_failed, start, try_start};
use virtio_iommu::{EndpointError, EndpointId, ProbeError, RequestError, ReservedKind, StartError};
use xtask::conformance::{Oracle, proves};

const MSI: ReservedKind = ReservedKind::Msi;
const RESERVED: ReservedKind = ReservedKind::Reserved;

type Found = Vec<(u64, u64, ReservedKind)>;

/// What the driver makes of a list of properties in a place of `probe_size` bytes.
fn parsed(list: Vec<u8>, probe_size: u32) -> Result<Found, StartError> {
    let model = Model::new();
    model.with(|d| d.config.probe_size = probe_size);
    model.answer_once(rig::is_probe, Answer::honest().with_properties(list));
    let result = try_start(&model, &[PLAIN]).map(|iommu| {
        let regions = iommu.reserved_regions(EndpointId(PLAIN)).unwrap();
        regions
            .iter()
            .map(|r| (r.range.start().0, r.range.end().0, r.kind))
            .collect()
    });
    if result.is_err() {
        assert!(is_failed(&model));
    }
    assert_clean(&model);
    result
}

fn resv(subtype: u8, start: u64, end: u64) -> Vec<u8> {
    let value = resv_mem(subtype, [0; 3], start, end);
    property(PROBE_T_RESV_MEM, RESV_MEM_VALUE_LEN, &value)
}

fn refused(list: Vec<u8>, probe_size: u32, expected: ProbeError) {
    let error = parsed(list, probe_size).unwrap_err();
    assert_eq!(
        error,
        StartError::Endpoint {
            endpoint: EndpointId(PLAIN),
            error: EndpointError::Properties(expected),
        }
    );
}

#[test]
fn properties_may_end_anywhere_in_a_page() {
    for _ in each!() {
        // With 72 bytes of request in front, the tail begins on the next page, or ends with it.
        for size in [4016, 4020, 4024, 4028] {
            let mut list = property(0x0abc, size as u16 - 4 - 24, &vec![7; size - 4 - 24]);
            list.extend(resv(0, 0x1000, 0x1fff));
            let found = parsed(list, size as u32);
            assert_eq!(found, Ok(vec![(0x1000, 0x1fff, RESERVED)]), "{size}");
        }
    }
}

#[test]
fn regions_of_an_honest_device() {
    for _ in each!(but [(Crosvm, "PROBE has room for one region"), (CloudHypervisor, "PROBE has room for one region")])
    {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, RESERVING]);
        assert_eq!(iommu.reserved_regions(EndpointId(PLAIN)), Some(&[][..]));
        assert_eq!(iommu.reserved_regions(EndpointId(0x999)), None);
        let regions = iommu.reserved_regions(EndpointId(RESERVING)).unwrap();
        let found: Found = regions
            .iter()
            .map(|r| (r.range.start().0, r.range.end().0, r.kind))
            .collect();
        let [reserved, msi] = REGIONS;
        assert_eq!(
            found,
            [
                (reserved.start, reserved.end, RESERVED),
                (msi.start, msi.end, MSI)
            ]
        );
    }
}

#[test]
fn dn_probe_3_4_unknown_types_are_skipped_by_their_length() {
    let _proof = proves(
        Oracle::Model,
        &["DN-PROBE-3", "DN-PROBE-4", "DN-PROBE-6", "DV-PRB-7"],
    );
    for _ in each!() {
        let mut list = property(2, 6, &[0xff; 6]);
        list.extend(resv(1, 0x1000, 0x1fff));
        list.extend(property(0xfff, 0, &[]));
        list.extend(resv(0, 0x8000, 0x8fff));
        let expected = vec![(0x1000, 0x1fff, MSI), (0x8000, 0x8fff, RESERVED)];
        assert_eq!(parsed(list, 512), Ok(expected));
    }
}

#[test]
fn dn_probe_4_a_longer_resv_mem_is_read_by_its_length() {
    let _proof = proves(Oracle::Model, &["DN-PROBE-4", "DV-PRB-7"]);
    for _ in each!() {
        let mut value = resv_mem(0, [0; 3], 0x1000, 0x1fff);
        value.extend_from_slice(&[0xff; 8]);
        let mut list = property(PROBE_T_RESV_MEM, 28, &value);
        list.extend(resv(1, 0x4000, 0x4fff));
        let expected = vec![(0x1000, 0x1fff, RESERVED), (0x4000, 0x4fff, MSI)];
        assert_eq!(parsed(list, 512), Ok(expected));
    }
}

#[test]
fn dn_probe_5_6_a_property_with_reserved_bits_is_ignored_and_the_next_is_not() {
    let _proof = proves(Oracle::Model, &["DN-PROBE-5", "DN-PROBE-6"]);
    for _ in each!() {
        for nibble in 1..16u16 {
            let kind = PROBE_T_RESV_MEM | nibble << 12;
            let value = resv_mem(0, [0; 3], 0x1000, 0x1fff);
            let mut list = property(kind, 20, &value);
            // Type 0 with reserved bits is no end of the list either.
            list.extend(property(nibble << 12, 2, &[1, 2]));
            list.extend(resv(1, 0x4000, 0x4fff));
            assert_eq!(parsed(list, 512), Ok(vec![(0x4000, 0x4fff, MSI)]));
        }
    }
}

#[test]
fn type_0_ends_the_list() {
    for _ in each!() {
        let mut list = resv(0, 0x1000, 0x1fff);
        list.extend(property(0, 0, &[]));
        list.extend(resv(0, 0x4000, 0x4fff));
        assert_eq!(parsed(list, 512), Ok(vec![(0x1000, 0x1fff, RESERVED)]));
        assert_eq!(parsed(vec![], 512), Ok(vec![]));
    }
}

#[test]
fn a_list_that_fills_its_place_to_the_last_byte() {
    let _proof = proves(Oracle::Model, &["DV-PRB-7"]);
    for _ in each!() {
        assert_eq!(
            parsed(resv(1, 0xfee0_0000, 0xfeef_ffff), 24),
            Ok(vec![(0xfee0_0000, 0xfeef_ffff, MSI)])
        );
        // One, two or three bytes are left over: no room for a header.
        for rest in 1..4 {
            let mut list = resv(1, 0xfee0_0000, 0xfeef_ffff);
            list.extend(vec![0xff; rest]);
            let expected = Ok(vec![(0xfee0_0000, 0xfeef_ffff, MSI)]);
            assert_eq!(parsed(list, 24 + rest as u32), expected);
        }
        for size in 1..4 {
            assert_eq!(parsed(vec![0xff; 4], size), Ok(vec![]));
        }
    }
}

#[test]
fn dn_resv_2_reserved_bytes_are_ignored() {
    let _proof = proves(Oracle::Model, &["DN-RESV-2"]);
    for _ in each!() {
        let value = resv_mem(1, [0xff, 1, 0x80], 0x1000, 0x1fff);
        let list = property(PROBE_T_RESV_MEM, 20, &value);
        assert_eq!(parsed(list, 512), Ok(vec![(0x1000, 0x1fff, MSI)]));
    }
}

#[test]
fn dn_resv_3_unknown_subtypes_are_reserved() {
    let _proof = proves(Oracle::Model, &["DN-RESV-3"]);
    for _ in each!() {
        for subtype in [2, 7, 0xff] {
            let list = resv(subtype, 0x1000, 0x1fff);
            assert_eq!(parsed(list, 512), Ok(vec![(0x1000, 0x1fff, RESERVED)]));
        }
    }
}

#[test]
fn dv_rsv_2_3_overlapping_and_unsorted_regions_are_merged() {
    let _proof = proves(Oracle::Model, &["DV-RSV-2", "DV-RSV-3"]);
    for _ in each!() {
        let list = [
            resv(0, 0x9000, 0x9fff),
            resv(0, 0x1000, 0x4fff),
            resv(0, 0x2000, 0x2fff),
            resv(0, 0x4000, 0x5fff),
            resv(0, 0x6000, 0x6fff),
            resv(1, 0x2_0000, 0x2_ffff),
            resv(1, 0x2_8000, 0x3_ffff),
        ]
        .concat();
        let expected = vec![
            (0x1000, 0x6fff, RESERVED),
            (0x9000, 0x9fff, RESERVED),
            (0x2_0000, 0x3_ffff, MSI),
        ];
        assert_eq!(parsed(list, 512), Ok(expected));
    }
}

#[test]
fn regions_of_both_kinds_that_overlap_lose_no_address() {
    let _proof = proves(Oracle::Model, &["DV-RSV-3"]);
    for _ in each!() {
        let list = [resv(1, 0x1000, 0x8fff), resv(0, 0x4000, 0x5fff)].concat();
        let found = parsed(list, 512).unwrap();
        for at in (0x1000..0x9000).step_by(0x800) {
            let hits = found.iter().filter(|r| (r.0..=r.1).contains(&at)).count();
            assert_eq!(hits, 1, "{at:#x} in {found:x?}");
        }
        assert!(found.contains(&(0x4000, 0x5fff, RESERVED)), "{found:x?}");
    }
}

#[test]
fn the_whole_space_and_its_last_byte() {
    for _ in each!() {
        for region in [(0, u64::MAX), (u64::MAX, u64::MAX), (0, 0)] {
            let found = parsed(resv(0, region.0, region.1), 512);
            assert_eq!(found, Ok(vec![(region.0, region.1, RESERVED)]));
        }
        let list = [resv(0, 1, u64::MAX), resv(0, 0, 0)].concat();
        assert_eq!(parsed(list, 512), Ok(vec![(0, u64::MAX, RESERVED)]));
    }
}

#[test]
fn bad_input_a_list_that_overruns() {
    let _proof = proves(Oracle::Model, &["DV-PRB-6"]);
    for _ in each!() {
        let value = resv_mem(0, [0; 3], 0x1000, 0x1fff);
        // The length leads beyond the end: by a byte, by all that fits in 16 bits.
        for (length, size) in [(21, 24), (20, 23), (u16::MAX, 512), (509, 512)] {
            let list = property(PROBE_T_RESV_MEM, length, &value);
            refused(list, size, ProbeError::Overrun { offset: 0 });
        }
        let mut list = resv(0, 0x1000, 0x1fff);
        list.extend(property(9, 5, &[]));
        refused(list, 32, ProbeError::Overrun { offset: 24 });
    }
}

#[test]
fn bad_input_a_resv_mem_that_is_too_short_or_inverted() {
    for _ in each!() {
        for length in [0, 1, 19] {
            let list = property(PROBE_T_RESV_MEM, length, &[0xff; 19]);
            refused(list, 512, ProbeError::Short { offset: 0 });
        }
        let list = [resv(0, 0x1000, 0x1fff), resv(0, 0x2000, 0x1fff)].concat();
        refused(list, 512, ProbeError::Inverted { offset: 24 });
    }
}

#[test]
fn many_properties_of_length_0_end_with_the_list() {
    for _ in each!() {
        let list: Vec<u8> = property(5, 0, &[]).repeat(128);
        assert_eq!(parsed(list, 512), Ok(vec![]));
    }
}

/// A PROBE whose answer is not what the specification says.
fn answered(answer: Answer) -> EndpointError {
    let model = Model::new();
    model.answer_once(rig::is_probe, answer);
    let error = try_start(&model, &[PLAIN]).unwrap_err();
    assert!(is_failed(&model));
    assert_clean(&model);
    match error {
        StartError::Endpoint { endpoint, error } if endpoint.0 == PLAIN => error,
        other => panic!("{other}"),
    }
}

#[test]
fn dn_ops_3_a_probe_that_comes_back_unwritten_failed() {
    let _proof = proves(Oracle::Model, &["DN-OPS-3"]);
    for _ in each!() {
        let error = answered(Answer::unwritten());
        assert_eq!(error, EndpointError::Probe(RequestError::NotWritten));
    }
}

#[test]
fn dv_prb_8_a_tail_is_read_only_if_the_used_length_covers_it() {
    let _proof = proves(Oracle::Model, &["DV-PRB-8", "DV-PRB-9", "GV-VQ-5"]);
    for _ in each!() {
        // QEMU with a place that is too small: the tail lies at its beginning, and the zeros at the
        // real place of the status look like OK.
        let mut bytes = vec![0; 512 + TAIL_LEN];
        bytes[0] = 3;
        let qemu = Answer {
            written: Written::Bytes(bytes),
            ..Answer::honest().with_len(4)
        };
        let lengths = [1, 3, 4, 512, 515, 517, u32::MAX];
        let others = lengths.map(|len| Answer::honest().with_len(len));
        for answer in others.into_iter().chain([qemu, Answer::claims(516)]) {
            let error = answered(answer);
            assert_eq!(error, EndpointError::Probe(RequestError::Unconfirmed));
        }
    }
}

#[test]
fn dn_ops_2_dv_prb_10_rubbish_behind_the_end_of_the_list_changes_nothing() {
    let _proof = proves(Oracle::Model, &["DN-OPS-2", "DV-PRB-10"]);
    for _ in each!() {
        let model = Model::new();
        let mut list = properties(&[Region::msi(0x1000, 0x1fff)]);
        list.extend(property(0, 0, &[]));
        list.extend(vec![0xa7; 512]);
        let answer = Answer::honest()
            .with_properties(list)
            .with_reserved([1, 2, 3]);
        model.answer_once(rig::is_probe, answer);
        let iommu = start(&model, &[PLAIN]);
        let regions = iommu.reserved_regions(EndpointId(PLAIN)).unwrap();
        assert_eq!(regions.len(), 1);
    }
}

#[test]
fn each_endpoint_has_the_regions_of_its_own_list() {
    for _ in each!(but [(Crosvm, "PROBE has room for one region"), (CloudHypervisor, "PROBE has room for one region")])
    {
        // The place of the properties is used again: what one list leaves must not reach the next.
        let model = Model::new();
        let iommu = start(&model, &[RESERVING, PLAIN]);
        let count = |id| iommu.reserved_regions(EndpointId(id)).unwrap().len();
        assert_eq!((count(RESERVING), count(PLAIN)), (2, 0));
        let model = Model::new();
        model.script(|seen| match seen.request {
            // A device that writes nothing but the tail of the second list.
            crate::model::requests::Request::Probe { endpoint: PLAIN } => {
                Answer::honest().with_properties(vec![])
            }
            _ => Answer::honest(),
        });
        let iommu = start(&model, &[RESERVING, PLAIN]);
        assert_eq!(iommu.reserved_regions(EndpointId(PLAIN)).unwrap().len(), 0);
    }
}
