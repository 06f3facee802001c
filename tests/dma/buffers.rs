//! Buffers of the tests' own making: any pieces, in any order, right or wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use virtio_iommu::dma::{DmaBuffer, Piece};
use virtio_iommu::{PhysAddr, PhysRange};

use crate::desk::{Buf, phys_of};

/// Pages of one buffer in another order: neighbours in memory if the order says so.
pub struct Shuffled {
    memory: Buf,
    /// The page that comes at each place of the data.
    order: Vec<usize>,
    /// Added to the physical address and to the length of each piece: not what a buffer may do.
    skew: (u64, u64),
    /// Counts how often it was dropped.
    drops: Arc<AtomicUsize>,
}

/// A handle must be small.
pub type Boxed = Box<Shuffled>;

pub fn shuffled(memory: Buf, order: &[usize]) -> Boxed {
    Box::new(Shuffled {
        memory,
        order: order.to_vec(),
        skew: (0, 0),
        drops: Arc::default(),
    })
}

impl Shuffled {
    pub fn with_skew(mut self: Box<Self>, start: u64, len: u64) -> Boxed {
        self.skew = (start, len);
        self
    }

    pub fn drops(&self) -> Arc<AtomicUsize> {
        self.drops.clone()
    }
}

impl Drop for Shuffled {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: each page is in the order once, and belongs to the value; those with a skew are never
// mapped, because they are refused.
unsafe impl DmaBuffer for Shuffled {
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        let start = phys_of(&self.memory);
        let whole = self.memory.pieces().next().expect("a piece").virt;
        self.order.iter().map(move |page| {
            let offset = page * 0x1000;
            let phys = PhysAddr(start + offset as u64 + self.skew.0);
            Piece {
                phys: PhysRange::from_len(phys, 0x1000 + self.skew.1).expect("a range"),
                // SAFETY: the page is inside of the memory.
                virt: unsafe { whole.add(offset) },
            }
        })
    }
}

/// Pages at physical addresses of the test's choice, which nobody has.
pub struct Elsewhere(pub Vec<PhysRange>);

// SAFETY: nothing reads or writes through `virt`: the tests have such buffers refused, or look at
// the requests only.
unsafe impl DmaBuffer for Elsewhere {
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone + '_ {
        self.0.iter().map(|phys| Piece {
            phys: *phys,
            virt: std::ptr::NonNull::dangling(),
        })
    }

    fn conceal(&mut self, _: virtio_iommu::dma::Audience, _: virtio_iommu::Access) {}
}
