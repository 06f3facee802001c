//! Barriers for devices that are ordered as hardware is.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use virtio_iommu::{EndpointId, Iommu, MapOptions, Options, Pages, PhysAddr, Platform};
use xtask::conformance::{Oracle, proves};

use crate::each;
use crate::model::platform::{ModelPlatform, WatchedLock};
use crate::model::registers::Access as Register;
use crate::model::spec::{REQUEST_QUEUE, feature};
use crate::model::{Model, PLAIN};
use crate::rig::{self, RW, pages};

type Look = Box<dyn Fn() -> Moment>;

thread_local! {
    static LOOK: RefCell<Option<Look>> = const { RefCell::new(None) };
    static MOMENTS: RefCell<Vec<Moment>> = const { RefCell::new(Vec::new()) };
}

/// What the device would see at a barrier.
#[derive(Clone, Debug, PartialEq)]
struct Moment {
    /// Chains that are available.
    available: u16,
    /// The first bytes of the request that is available next.
    next: Vec<u8>,
    kicks: u64,
}

/// The model's platform, with a barrier that looks around.
struct Ordered(ModelPlatform);

// SAFETY: the promises are those of the model's platform; the barrier is one, as the model runs on
// the same CPU.
unsafe impl Platform for Ordered {
    type Lock = WatchedLock;

    const DEVICE_BARRIER: Option<fn()> = Some(|| {
        LOOK.with_borrow(|look| {
            if let Some(look) = look {
                MOMENTS.with_borrow_mut(|moments| moments.push(look()));
            }
        });
    });

    fn alloc_pages(&self, pages: NonZeroUsize, align: usize) -> Option<Pages> {
        self.0.alloc_pages(pages, align)
    }

    unsafe fn dealloc_pages(&self, memory: Pages, pages: NonZeroUsize, align: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc_pages(memory, pages, align) }
    }

    fn virt_to_phys(&self, virt: NonNull<u8>) -> Option<PhysAddr> {
        self.0.virt_to_phys(virt)
    }

    fn now(&self) -> u64 {
        self.0.now()
    }
}

/// What is seen at the barriers of one MAP, and how many requests and notifications there were
/// before it.
fn moments_of_a_map(model: &Model) -> (Vec<Moment>, u16, u64) {
    let platform = Ordered(model.platform());
    let list = [EndpointId(PLAIN)];
    let iommu = Iommu::start(model.transport(), platform, &list, Options::default()).unwrap();
    let domain = iommu.create_domain(4).unwrap();
    domain.attach(EndpointId(PLAIN)).unwrap();
    let onlooker = model.onlooker(REQUEST_QUEUE);
    let look = move || {
        let (available, next, kicks) = onlooker().expect("the queue is set up");
        Moment {
            available,
            next,
            kicks,
        }
    };
    let before = look();
    LOOK.set(Some(Box::new(look)));
    let memory = pages(model, 1);
    // SAFETY: nobody uses the memory but the model.
    let at = unsafe { domain.map(memory, MapOptions::new(RW)) }.unwrap();
    LOOK.set(None);
    let moments = MOMENTS.take();
    // MAP: type 3, and where.
    let wanted = at.start().0.to_le_bytes();
    let moments = moments.into_iter().map(|moment| Moment {
        next: match moment.next[0] == 3 && moment.next[8..16] == wanted {
            true => b"this".to_vec(),
            false => b"other".to_vec(),
        },
        ..moment
    });
    let moments = moments.collect();
    domain.unmap(at).unwrap();
    (moments, before.available, before.kicks)
}

/// What the driver has written as its features.
fn accepted(model: &Model) -> u64 {
    let written = model
        .log()
        .into_iter()
        .rev()
        .find_map(|access| match access {
            Register::FeaturesWrite(bits) => Some(bits),
            _ => None,
        });
    written.expect("features are written")
}

#[test]
fn gv_ord_barriers_are_those_of_the_platform() {
    let _proof = proves(Oracle::Model, &["GV-ORD"]);
    for _ in each!() {
        let model = Model::new();
        model.with(|d| d.knobs.offered |= feature::ORDER_PLATFORM);
        let (moments, available, kicks) = moments_of_a_map(&model);
        assert_ne!(accepted(&model) & feature::ORDER_PLATFORM, 0);
        let mut moments = moments.into_iter();
        // The request is written, and not yet available.
        let first = moments.find(|seen| seen.available == available && seen.next == b"this");
        assert_eq!(first.expect("before the index").kicks, kicks);
        // It is available, and the device not yet notified.
        let second = moments.find(|seen| seen.available == available.wrapping_add(1));
        assert_eq!(second.expect("before the notification").kicks, kicks);
        // And before the answer is read.
        assert!(moments.any(|seen| seen.kicks == kicks + 1));
    }
}

#[test]
fn gv_ord_is_accepted_with_a_barrier_and_where_it_is_offered() {
    let _proof = proves(Oracle::Model, &["GV-ORD"]);
    for _ in each!() {
        // Not offered: the fences of the language do.
        let model = Model::new();
        model.with(|d| d.knobs.offered &= !feature::ORDER_PLATFORM);
        assert_eq!(moments_of_a_map(&model).0, []);
        // No barrier.
        let model = Model::new();
        model.with(|d| d.knobs.offered |= feature::ORDER_PLATFORM);
        let iommu = rig::start(&model, &[PLAIN]);
        assert_eq!(iommu.features().bits() & feature::ORDER_PLATFORM, 0);
        assert_eq!(accepted(&model) & feature::ORDER_PLATFORM, 0);
    }
}
