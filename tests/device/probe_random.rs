//! Random lists of properties: what the driver reads is what was put in, and nothing else.

use proptest::prelude::*;

use crate::model::probe::{property, resv_mem};
use crate::model::script::Answer;
use crate::model::spec::PROBE_T_RESV_MEM;
use crate::model::{Model, PLAIN};
use crate::rig::{self, start};
use virtio_iommu::{EndpointId, Iova, ReservedKind};
use xtask::conformance::{Oracle, proves};

/// The list has this many bytes at most: 16 properties of 48.
const PROBE_SIZE: u32 = 768;

/// One property, and what it means.
#[derive(Clone, Debug)]
struct Property {
    kind: u16,
    reserved_bits: u16,
    /// Bytes behind a region that later versions may define.
    longer: u16,
    subtype: u8,
    reserved: [u8; 3],
    start: u64,
    end: u64,
}

impl Property {
    fn bytes(&self) -> Vec<u8> {
        let mut value = resv_mem(self.subtype, self.reserved, self.start, self.end);
        value.extend(vec![0xff; self.longer.into()]);
        let length = value.len() as u16;
        property(self.kind | self.reserved_bits << 12, length, &value)
    }

    /// The kind of region that it stands for; any other property stands for nothing.
    fn region(&self) -> Option<ReservedKind> {
        let known = self.kind == PROBE_T_RESV_MEM && self.reserved_bits == 0;
        known.then_some(match self.subtype {
            1 => ReservedKind::Msi,
            _ => ReservedKind::Reserved,
        })
    }
}

fn a_property() -> impl Strategy<Value = Property> {
    (
        prop_oneof![3 => Just(1u16), 1 => 2..0x1000u16],
        prop_oneof![3 => Just(0u16), 1 => 1..16u16],
        prop_oneof![2 => Just(0u16), 1 => 0..25u16],
        prop_oneof![2 => 0..2u8, 1 => any::<u8>()],
        any::<[u8; 3]>(),
        (0..60u64, 0..20u64),
    )
        .prop_map(
            |(kind, reserved_bits, longer, subtype, reserved, (start, len))| Property {
                kind,
                reserved_bits,
                longer,
                subtype,
                reserved,
                start: start * 0x800,
                end: (start + len) * 0x800 + 0x7ff,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_region_is_found_and_no_other(list in proptest::collection::vec(a_property(), 0..16)) {
        let _proof = proves(Oracle::Fuzz, &["DN-PROBE-3", "DN-PROBE-4", "DN-PROBE-5", "DN-PROBE-6", "DN-RESV-2", "DN-RESV-3"]);
        let model = Model::new();
        model.with(|d| d.config.probe_size = PROBE_SIZE);
        let bytes = list.iter().flat_map(Property::bytes).collect();
        model.answer_once(rig::is_probe, Answer::honest().with_properties(bytes));
        let iommu = start(&model, &[PLAIN]);
        let found = iommu.reserved_regions(EndpointId(PLAIN)).unwrap();
        for step in 0..170 {
            let at = step * 0x400;
            let covers = |property: &&Property| (property.start..=property.end).contains(&at);
            // Where kinds overlap, the one that promises less.
            let expected = list.iter().filter(covers).filter_map(Property::region).min();
            let here = found.iter().filter(|region| region.range.contains(Iova(at)));
            let kinds: Vec<ReservedKind> = here.map(|region| region.kind).collect();
            prop_assert_eq!(kinds, Vec::from_iter(expected), "{:#x}", at);
        }
    }
}
