//! What is done, in which modes: the words of the record.

use core::fmt;

use crate::block::Operation;

/// What kind of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// virtio-blk.
    Blk,
    /// NVMe.
    Nvme,
}

impl Device {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Blk, Self::Nvme];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blk => "blk",
            Self::Nvme => "nvme",
        }
    }

    /// The modes of its disks, in the order of the bus. NVMe has no way around the IOMMU.
    pub const fn modes(self) -> &'static [Mode] {
        const ALL: [Mode; 7] = [
            Mode::None,
            Mode::Bypass,
            Mode::Static,
            Mode::Strict,
            Mode::Bounce,
            Mode::Deferred,
            Mode::DeferredFresh,
        ];
        match self {
            Self::Blk => &ALL,
            Self::Nvme => ALL.split_at(1).1,
        }
    }
}

/// How the memory of I/Os is shown to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By physical address; the disk goes around the IOMMU.
    None,
    /// By physical address; the IOMMU does not translate.
    Bypass,
    /// Everything is mapped once.
    Static,
    /// Mapped for each I/O.
    Strict,
    /// Copied in or out.
    Bounce,
    /// UNMAPs are put off, and the same buffers come again.
    Deferred,
    /// UNMAPs are put off, and every I/O has a buffer that is not mapped.
    DeferredFresh,
    /// Not an I/O: what `Bounce` copies.
    Copy,
    /// Not an I/O: what `Strict` asks of the IOMMU.
    Requests,
}

impl Mode {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bypass => "bypass",
            Self::Static => "static",
            Self::Strict => "strict",
            Self::Bounce => "bounce",
            Self::Deferred => "deferred",
            Self::DeferredFresh => "deferred-fresh",
            Self::Copy => "copy",
            Self::Requests => "requests",
        }
    }
}

/// The order of the places on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One after the other.
    Sequential,
    /// Anywhere.
    Random,
}

/// The pages of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In a row.
    Contiguous,
    /// No two are neighbours.
    Scattered,
}

/// A small I/O, in bytes: a page.
pub const SMALL: usize = 4 << 10;
/// A large one.
pub const LARGE: usize = 128 << 10;
/// I/Os at once, at most.
pub const DEEP: usize = 16;

/// What is done. The modes are compared in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Of which disk.
    pub device: Device,
    /// Read, or written.
    pub operation: Operation,
    /// Where.
    pub pattern: Pattern,
    /// Bytes of an I/O: [`SMALL`] or [`LARGE`].
    pub size: usize,
    /// Of the buffer. One page is contiguous.
    pub layout: Layout,
    /// I/Os at once: 1 or [`DEEP`].
    pub depth: usize,
}

impl Case {
    /// All cases of a kind of disk.
    pub fn all(device: Device) -> impl Iterator<Item = Self> {
        let shapes = [
            (SMALL, Layout::Contiguous),
            (LARGE, Layout::Contiguous),
            (LARGE, Layout::Scattered),
        ];
        let of_shape = move |(size, layout)| {
            let of_operation = move |operation| {
                let of_pattern = move |pattern| {
                    [1, DEEP].map(|depth| Self {
                        device,
                        operation,
                        pattern,
                        size,
                        layout,
                        depth,
                    })
                };
                [Pattern::Sequential, Pattern::Random]
                    .into_iter()
                    .flat_map(of_pattern)
            };
            [Operation::Read, Operation::Write]
                .into_iter()
                .flat_map(of_operation)
        };
        shapes.into_iter().flat_map(of_shape)
    }

    /// Whether what belongs to no place on a disk and to no depth is measured with this case.
    pub fn is_plain(&self) -> bool {
        self.pattern == Pattern::Sequential && self.depth == 1
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device.name();
        let operation = match self.operation {
            Operation::Read => "read",
            Operation::Write => "write",
        };
        let pattern = match self.pattern {
            Pattern::Sequential => "seq",
            Pattern::Random => "rand",
        };
        let layout = match self.layout {
            Layout::Contiguous => "contiguous",
            Layout::Scattered => "scattered",
        };
        write!(
            f,
            "device={device} op={operation} pattern={pattern} size={} layout={layout} depth={}",
            self.size, self.depth
        )
    }
}
