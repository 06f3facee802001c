//! One endpoint in one domain with one mapping, and what must hold of it whatever a device answers.

use crate::model::{Model, OTHER, PLAIN};
use crate::rig::{
    GRANULE, ONE_WAIT, RW, TestDomain, TestIommu, domain, map, map_at, pages, phys, start,
};
use virtio_iommu::{IovaRange, MapError, UnmapError};

/// One endpoint in one domain with one mapping.
pub struct Bench {
    pub iommu: TestIommu,
    pub domain: TestDomain,
    pub mapped: IovaRange,
    pub model: Model,
}

impl Bench {
    pub fn new() -> Self {
        let model = Model::new();
        let iommu = start(&model, &[PLAIN, OTHER]);
        let domain = domain(&iommu, 16, &[PLAIN]);
        let mapped = map(&domain, pages(&model, 1), RW).unwrap();
        Self {
            iommu,
            domain,
            mapped,
            model,
        }
    }

    /// Runs `work` and checks that it is bounded.
    pub fn bounded<R>(&self, waits: u64, work: impl FnOnce() -> R) -> R {
        let calls = self.model.clock().calls();
        let result = work();
        let calls = self.model.clock().calls() - calls;
        assert!(calls <= waits * ONE_WAIT, "{calls} looks at the clock");
        result
    }

    /// What the driver says about the mappings agrees with the device as far as can be known: it
    /// translates nothing but what is mapped or quarantined.
    pub fn judge(&self) {
        let known = self.domain.mapped() + self.domain.quarantined();
        let found = self.model.mappings(self.domain.id().0).unwrap_or_default();
        assert!(found.len() <= known, "{found:x?}, known {known}");
    }
}

/// The addresses are neither handed out nor taken, nor unmapped again.
pub fn quarantined(bench: &Bench, range: IovaRange) {
    let memory = phys(0x1_0000, range.len().unwrap());
    let (result, requests) = bench
        .model
        .requests_during(|| map_at(&bench.domain, range.start().0, memory, RW));
    assert!(
        matches!(result, Err(MapError::InUse | MapError::NotAttached)),
        "{result:?}"
    );
    assert_eq!(requests, []);
    let (result, requests) = bench.model.requests_during(|| bench.domain.unmap(range));
    assert_eq!(result, Err(UnmapError::NotMapped(range)));
    assert_eq!(requests, []);
    assert_eq!(bench.domain.translate(range.start()), None);
    // And `map` goes elsewhere.
    if let Ok(at) = map(&bench.domain, phys(0x1_0000, GRANULE), RW) {
        assert!(!at.overlaps(&range));
        bench.domain.unmap(at).unwrap();
    }
}
