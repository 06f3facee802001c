//! Buffers for I/Os, made once: no phase waits for memory.

use alloc::boxed::Box;
use alloc::vec::Vec;

use virtio_iommu::dma::{DmaBuffer, DmaDevice, PageBuf};

use super::case::{LARGE, SMALL};
use super::content::Content;
use crate::platform::KernelPlatform;

/// Pages in a row. In a box, as a driver would keep them that moves them with each I/O: one word.
pub type Row = Box<PageBuf<KernelPlatform>>;
/// Pages of which no two are neighbours.
pub type Scattered = Box<[PageBuf<KernelPlatform>]>;

/// A buffer as the CPU sees it.
pub trait Memory: DmaBuffer + Sized {
    /// The parts, in order.
    fn parts(&self) -> impl Iterator<Item = &[u8]>;

    /// The parts, in order, to be written.
    fn parts_mut(&mut self) -> impl Iterator<Item = &mut [u8]>;

    /// Where a store has them.
    fn shelf(store: &mut Store, size: usize) -> &mut Vec<Self>;

    /// Writes over all of it.
    fn fill(&mut self, content: Content) {
        let mut content = content;
        for part in self.parts_mut() {
            content.fill(part);
            content = content.after(part.len());
        }
    }

    /// Whether it is like this.
    fn holds(&self, content: Content) -> bool {
        let mut content = content;
        self.parts().all(|part| {
            let same = content.is_in(part);
            content = content.after(part.len());
            same
        })
    }
}

impl Memory for Row {
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        core::iter::once(&***self)
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        core::iter::once(&mut ***self)
    }

    fn shelf(store: &mut Store, size: usize) -> &mut Vec<Self> {
        match size {
            SMALL => &mut store.small,
            _ => &mut store.large,
        }
    }
}

impl Memory for Scattered {
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().map(|page| &**page)
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.iter_mut().map(|page| &mut **page)
    }

    fn shelf(store: &mut Store, _: usize) -> &mut Vec<Self> {
        &mut store.scattered
    }
}

/// Buffers that nobody uses at the moment.
#[derive(Default)]
pub struct Store {
    small: Vec<Row>,
    large: Vec<Row>,
    scattered: Vec<Scattered>,
}

impl Store {
    /// `count` buffers of each kind; `None` if there is no memory for them, or none that is
    /// scattered.
    pub fn new(device: &DmaDevice<KernelPlatform>, count: usize) -> Option<Self> {
        let row = |size| device.alloc(size).map(Box::new);
        let rows = |count, size| -> Option<Vec<Row>> { (0..count).map(|_| row(size)).collect() };
        let large = rows(count, LARGE)?;
        let small = rows(count, SMALL)?;
        // Dealt out in turns: pages that come one after the other go to different buffers.
        let pages = LARGE / SMALL;
        let mut hands: Vec<Vec<_>> = (0..count).map(|_| Vec::with_capacity(pages)).collect();
        for _ in 0..pages {
            for hand in &mut hands {
                hand.push(device.alloc(SMALL)?);
            }
        }
        let scattered: Vec<Scattered> = hands.into_iter().map(Vec::into_boxed_slice).collect();
        scattered.iter().all(is_scattered).then_some(Self {
            small,
            large,
            scattered,
        })
    }
}

/// Whether no page is followed by its neighbour.
fn is_scattered(buffer: &Scattered) -> bool {
    let ranges: Vec<_> = buffer.pieces().map(|piece| piece.phys).collect();
    let mut pairs = ranges.windows(2);
    pairs.all(|pair| pair[0].end().0 + 1 != pair[1].start().0)
}
