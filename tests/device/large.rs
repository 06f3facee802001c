//! Mappings that a device may translate with large pages: a hint, for speed alone.

use crate::model::{Model, PLAIN};
use crate::rig::{GRANULE, RW, domain, endpoint, map, phys, start};

#[test]
fn a_large_mapping_is_aligned_for_the_largest_page_of_the_device_in_it() {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    for (page_size_mask, len, expected) in [
        (!0xfff, 2 * MIB - GRANULE, None),
        (!0xfff, 2 * MIB, Some(2 * MIB)),
        (!0xfff, 6 * MIB, Some(4 * MIB)),
        (!0xfff, GIB, Some(GIB)),
        (!0xfff, 3 * GIB, Some(GIB)),
        (0x20_1000, 6 * MIB, Some(2 * MIB)),
        (0x4020_1000, GIB + MIB, Some(GIB)),
        (0x4000_1000, 4 * MIB, None),
        (0x1000, 4 * MIB, None),
    ] {
        let model = Model::new();
        model.with(|d| d.config.page_size_mask = page_size_mask);
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 8, &[PLAIN]);
        // Behind it, nothing is aligned by chance.
        map(&domain, phys(0x1_0000, GRANULE), RW).unwrap();
        let at = map(&domain, phys(0x4000_0000, len), RW).unwrap();
        let is_aligned = at.start().0.is_multiple_of(expected.unwrap_or(2 * MIB));
        assert_eq!(is_aligned, expected.is_some(), "{page_size_mask:#x}: {at}");
    }
}

#[test]
fn a_large_mapping_is_made_once_and_aligned_where_there_is_room() {
    const LARGE: u64 = 0x20_0000;
    for end in [0xff_ffff_u64, 0x3f_ffff] {
        let model = Model::new();
        model.with(|d| d.config.input_range = (0, end));
        let iommu = start(&model, &[PLAIN]);
        let domain = domain(&iommu, 1, &[PLAIN]);
        for _ in 0..2 {
            let at = map(&domain, phys(0x4000_0000, LARGE), RW).unwrap();
            // Of 4 MiB the last page is not used, and with it the upper half.
            let is_aligned = at.start().0.is_multiple_of(LARGE);
            assert_eq!(is_aligned, end > 0x3f_ffff, "{at}");
            assert_eq!(model.mappings(domain.id().0).unwrap().len(), 1);
            // There is room for one mapping.
            domain.unmap(at).unwrap();
        }
        domain.detach(endpoint(PLAIN)).unwrap();
    }
}
