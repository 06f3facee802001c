//! What the tests of the driver share: the driver on top of the model device.

use virtio_iommu::{
    Access, Domain, Doorbell, DoorbellError, EndpointId, Iommu, Iova, IovaRange, MapOptions,
    Options, PhysAddr, PhysRange, StartError,
};

use crate::model::personality::Personality;
use crate::model::platform::ModelPlatform;
use crate::model::registers::Access as Register;
use crate::model::requests::Request;
use crate::model::spec::status_bit;
use crate::model::{Model, OTHER, PLAIN, RESERVING};

pub type TestIommu = Iommu<ModelPlatform>;
pub type TestDomain = Domain<ModelPlatform>;

pub const GRANULE: u64 = 0x1000;
pub const RW: Access = Access::READ.union(Access::WRITE);

/// Looks at the clock that one wait of the default second may take, and a few.
pub const ONE_WAIT: u64 = 1_010;

pub fn endpoint(id: u32) -> EndpointId {
    EndpointId(id)
}

/// Starts the driver for these endpoints, with default options.
pub fn try_start(model: &Model, endpoints: &[u32]) -> Result<TestIommu, StartError> {
    try_start_with(model, endpoints, Options::default())
}

pub fn try_start_with(
    model: &Model,
    endpoints: &[u32],
    options: Options,
) -> Result<TestIommu, StartError> {
    let list: Vec<EndpointId> = endpoints.iter().copied().map(EndpointId).collect();
    Iommu::start(model.transport(), model.platform(), &list, options)
}

pub fn start(model: &Model, endpoints: &[u32]) -> TestIommu {
    try_start(model, endpoints).expect("a strict device starts")
}

/// A domain with these endpoints attached.
pub fn domain(iommu: &TestIommu, capacity: usize, endpoints: &[u32]) -> TestDomain {
    let domain = iommu.create_domain(capacity).expect("a domain");
    for id in endpoints {
        domain.attach(EndpointId(*id)).expect("attached");
    }
    domain
}

pub fn phys(start: u64, len: u64) -> PhysRange {
    PhysRange::from_len(PhysAddr(start), len).expect("a physical range")
}

pub fn iova(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova(start), len).expect("a range")
}

/// Pages of guest memory that a test may map.
pub fn pages(model: &Model, count: u64) -> PhysRange {
    phys(model.ram().buffer(count), count * GRANULE)
}

pub fn map(
    domain: &TestDomain,
    phys: PhysRange,
    access: Access,
) -> Result<IovaRange, virtio_iommu::MapError> {
    map_with(domain, phys, MapOptions::new(access))
}

pub fn map_with(
    domain: &TestDomain,
    phys: PhysRange,
    options: MapOptions,
) -> Result<IovaRange, virtio_iommu::MapError> {
    // SAFETY: the memory belongs to the model, whose endpoints are functions of the test.
    unsafe { domain.map(phys, options) }
}

pub fn map_at(
    domain: &TestDomain,
    start: u64,
    phys: PhysRange,
    access: Access,
) -> Result<IovaRange, virtio_iommu::MapError> {
    // SAFETY: the memory belongs to the model, whose endpoints are functions of the test.
    unsafe { domain.map_at(Iova(start), phys, access) }
}

pub fn map_all(
    domain: &TestDomain,
    phys: &[PhysRange],
    options: MapOptions,
) -> Result<Vec<IovaRange>, virtio_iommu::MapError> {
    let mut out = vec![iova(0, 1); phys.len()];
    // SAFETY: the memory belongs to the model, whose endpoints are functions of the test.
    unsafe { domain.map_all(phys, options, &mut out) }?;
    Ok(out)
}

pub fn is_attach(request: &Request) -> bool {
    matches!(request, Request::Attach { .. })
}

pub fn is_detach(request: &Request) -> bool {
    matches!(request, Request::Detach { .. })
}

pub fn is_map(request: &Request) -> bool {
    matches!(request, Request::Map { .. })
}

pub fn is_unmap(request: &Request) -> bool {
    matches!(request, Request::Unmap { .. })
}

pub fn is_probe(request: &Request) -> bool {
    matches!(request, Request::Probe { .. })
}

/// Whether the device was left with FAILED in its status.
pub fn is_failed(model: &Model) -> bool {
    model.with(|d| d.registers.status) & status_bit::FAILED != 0
}

/// That no page is held, and nothing was done wrong.
pub fn assert_clean(model: &Model) {
    let violations = model.violations().take();
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(model.ram().live_pages(), 0, "pages");
}

/// Starts a device that must be refused, within the given number of waits, and leaves nothing.
pub fn refused(model: &Model, waits: u64) -> StartError {
    let calls = model.clock().calls();
    let accesses = model.with(|d| d.registers.accesses);
    let error = try_start(model, &[PLAIN]).expect_err("a device that must be refused");
    let calls = model.clock().calls() - calls;
    let accesses = model.with(|d| d.registers.accesses) - accesses;
    assert!(calls <= waits * ONE_WAIT + 10, "{calls} looks: {error}");
    assert!(
        accesses <= waits * 2 * ONE_WAIT + 1_000,
        "{accesses}: {error}"
    );
    assert!(is_failed(model), "no FAILED after {error}");
    assert_clean(model);
    error
}

/// The same, before the device ever had a queue.
pub fn refused_early(model: &Model) -> StartError {
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

/// A way to a doorbell for an endpoint, up to an address.
pub fn ring_below(
    domain: &TestDomain,
    id: u32,
    doorbell: u64,
    limit: Iova,
) -> Result<Doorbell, DoorbellError> {
    // SAFETY: the endpoints are functions of the test, and nothing is at the address.
    unsafe { domain.map_doorbell(endpoint(id), PhysAddr(doorbell), limit) }
}

/// The same in another order, in which no two neighbours follow each other.
pub fn apart<T: Copy>(list: &[T]) -> Vec<T> {
    let (even, odd) = (list.iter().step_by(2), list.iter().skip(1).step_by(2));
    even.chain(odd).copied().collect()
}

/// One of these personalities, for a case of a property test.
pub fn any_of(
    list: &'static [Personality],
) -> impl proptest::strategy::Strategy<Value = Personality> {
    proptest::sample::select(list)
}

/// A domain with `RESERVING`, and with `PLAIN` if the device allows for two, and one mapping at `0x10_0000`.
pub fn prepared(model: &Model) -> (TestIommu, TestDomain) {
    let iommu = start(model, &[PLAIN, OTHER, RESERVING]);
    let alone = model.with(|d| d.unit.quirks.endpoints_per_domain == Some(1));
    let members: &[u32] = if alone {
        &[RESERVING]
    } else {
        &[PLAIN, RESERVING]
    };
    let domain = domain(&iommu, 3, members);
    map_at(&domain, 0x10_0000, pages(model, 2), RW).unwrap();
    (iommu, domain)
}
