//! Rules that no other test is about.

use crate::model::requests::Request;
use crate::model::spec::{MAP_F_MMIO, MAP_F_READ, MAP_F_WRITE, feature, status_bit};
use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{GRANULE, RW, domain, endpoint, map, pages, phys, start};
use virtio_iommu::{Access, AttachError, RequestError, Status};
use xtask::conformance::{Oracle, proves};

#[test]
fn dn_map_5_registers_behind_memory_are_not_mapped_with_it() {
    let _proof = proves(Oracle::Model, &["DN-MAP-5", "DN-MAP-4"]);
    let model = Model::new();
    let iommu = start(&model, &[PLAIN]);
    let domain = domain(&iommu, 8, &[PLAIN]);
    // Memory up to this address, and registers from there.
    let border = 0x4000_0000;
    let memory = phys(border - GRANULE, GRANULE);
    let registers = phys(border, GRANULE);
    let (_, sent) = model.requests_during(|| {
        let memory = map(&domain, memory, RW).unwrap();
        let registers = map(&domain, registers, Access::WRITE | Access::MMIO).unwrap();
        domain.unmap_all(&[memory, registers]).unwrap();
    });
    let maps: Vec<(u64, u64, u32)> = sent
        .iter()
        .filter_map(|request| match *request {
            Request::Map {
                start,
                end,
                phys,
                flags,
                ..
            } => Some((phys, phys + (end - start), flags)),
            _ => None,
        })
        .collect();
    let kinds = [
        (memory.start().0, memory.end().0, MAP_F_READ | MAP_F_WRITE),
        (
            registers.start().0,
            registers.end().0,
            MAP_F_WRITE | MAP_F_MMIO,
        ),
    ];
    assert_eq!(maps, kinds);
}

#[test]
fn dv_att_6_an_endpoint_whose_attach_was_refused_counts_as_detached() {
    let _proof = proves(Oracle::Model, &["DV-ATT-6"]);
    let model = Model::new();
    model.with(|d| {
        // It is in the scratch domain before, and in no domain after.
        d.knobs.offered &= !feature::BYPASS_CONFIG;
        d.unit.quirks.refused_attach_detaches = true;
    });
    let iommu = start(&model, &[PLAIN, OTHER]);
    let crowded = domain(&iommu, 4, &[PLAIN]);
    model.with(|d| d.unit.quirks.endpoints_per_domain = Some(1));
    let refused = crowded.attach(endpoint(OTHER));
    assert!(
        matches!(
            refused,
            Err(AttachError::Request(RequestError::Status(
                Status::Unsupp | Status::Inval
            )))
        ),
        "{refused:?}"
    );
    assert_eq!(crowded.endpoints(), 1);
    // It reaches nothing, is believed to be nowhere, and finds its way into another domain.
    assert_eq!(model.reads(OTHER, 0x10_0000), None);
    assert_eq!(
        crowded.detach(endpoint(OTHER)),
        Err(AttachError::NotAttached)
    );
    let other = domain(&iommu, 4, &[OTHER]);
    let at = map(&other, pages(&model, 1), RW).unwrap().start().0;
    assert!(model.reads(OTHER, at).is_some());
    assert_eq!(model.reads(PLAIN, at), None);
}

#[test]
fn gv_susp_no_bit_of_the_status_is_set_that_was_not_negotiated() {
    let _proof = proves(Oracle::Model, &["GV-SUSP", "GV-STAT-1"]);
    let model = Model::new();
    model.with(|d| d.knobs.offered = !feature::ACCESS_PLATFORM);
    let iommu = start(&model, &[PLAIN, OTHER]);
    let domain = domain(&iommu, 4, &[PLAIN]);
    map(&domain, pages(&model, 1), RW).unwrap();
    drop(domain);
    iommu.shutdown().unwrap();
    let known = status_bit::ACKNOWLEDGE
        | status_bit::DRIVER
        | status_bit::FEATURES_OK
        | status_bit::DRIVER_OK;
    let writes = model.status_writes();
    assert!(writes.iter().all(|value| value & !known == 0), "{writes:?}");
    assert_eq!(writes.last(), Some(&0));
}
