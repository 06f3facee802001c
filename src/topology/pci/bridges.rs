//! The windows of a bridge: which addresses it forwards to the bus behind it.

#![forbid(unsafe_code)]

use virtio_drivers::transport::pci::bus::ConfigurationAccess;

use super::config::{
    Config, IO_WINDOW, IO_WINDOW_HIGH, MEMORY_WINDOW, PREFETCHABLE_BASE_HIGH,
    PREFETCHABLE_LAST_HIGH, PREFETCHABLE_WINDOW,
};
use crate::topology::RequesterId;

/// Consecutive addresses on the PCI side, inclusive at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first address.
    pub first: u64,
    /// The last address, which belongs to the span.
    pub last: u64,
}

impl Span {
    /// The `size` bytes from `first`; `None` for 0 bytes and beyond 64 bits.
    pub(super) fn from_size(first: u64, size: u64) -> Option<Self> {
        let last = first.checked_add(size.checked_sub(1)?)?;
        Some(Self { first, last })
    }

    pub(super) const fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// Which of the optional windows a bridge has; every bridge has the memory window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Supports {
    pub(super) io: bool,
    /// The I/O window reaches beyond 64 KiB.
    pub(super) io_32: bool,
    pub(super) prefetchable: bool,
    /// The prefetchable window reaches beyond 4 GiB.
    pub(super) prefetchable_64: bool,
}

/// The windows as far as they are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) io: Option<Span>,
    pub(super) memory: Option<Span>,
    pub(super) prefetchable: Option<Span>,
}

/// Finds out which windows there are. Decoding must be off: registers that read as 0 are tried.
pub(super) fn supports<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    bridge: RequesterId,
) -> Supports {
    let mut implemented = |offset, ones: u32, mask: u32| {
        let value = config.read(bridge, offset) & mask;
        if value != 0 {
            return Some(value);
        }
        config.write(bridge, offset, ones);
        let value = config.read(bridge, offset) & mask;
        config.write(bridge, offset, 0);
        (value != 0).then_some(value)
    };
    // The upper half of the I/O word is a status register, which is left alone.
    let io = implemented(IO_WINDOW, 0xe0f0, 0xffff);
    let prefetchable = implemented(PREFETCHABLE_WINDOW, 0xffe0_fff0, u32::MAX);
    Supports {
        io: io.is_some(),
        io_32: io.is_some_and(|value| value & 0xf == 1),
        prefetchable: prefetchable.is_some(),
        prefetchable_64: prefetchable.is_some_and(|value| value & 0xf == 1),
    }
}

/// What the registers say now. A window that ends before it begins is closed, and so is one that
/// begins at 0, which is what a reset leaves.
pub(super) fn read<C: ConfigurationAccess>(
    config: &Config<'_, C>,
    bridge: RequesterId,
    supports: Supports,
) -> Windows {
    let open = |first: u64, last: u64| (0 < first && first <= last).then_some(Span { first, last });
    let word = |offset| config.read(bridge, offset);

    let io = word(IO_WINDOW);
    let io_high = if supports.io_32 {
        word(IO_WINDOW_HIGH)
    } else {
        0
    };
    let io_first = (io_high & 0xffff) << 16 | (io & 0xf0) << 8;
    let io_last = (io_high & 0xffff_0000) | (io & 0xf000) | 0xfff;

    let memory = word(MEMORY_WINDOW);
    let prefetchable = word(PREFETCHABLE_WINDOW);
    let first = u64::from(prefetchable << 16 & 0xfff0_0000);
    let last = u64::from(prefetchable & 0xfff0_0000 | 0xf_ffff);
    let (first_high, last_high) = if supports.prefetchable_64 {
        (word(PREFETCHABLE_BASE_HIGH), word(PREFETCHABLE_LAST_HIGH))
    } else {
        (0, 0)
    };
    Windows {
        io: open(io_first.into(), io_last.into()).filter(|_| supports.io),
        memory: open(
            (memory << 16 & 0xfff0_0000).into(),
            (memory & 0xfff0_0000 | 0xf_ffff).into(),
        ),
        prefetchable: open(
            u64::from(first_high) << 32 | first,
            u64::from(last_high) << 32 | last,
        )
        .filter(|_| supports.prefetchable),
    }
}

/// Opens and closes the windows as `windows` says and tells whether the bridge took it. Decoding
/// must be off.
pub(super) fn write<C: ConfigurationAccess>(
    config: &mut Config<'_, C>,
    bridge: RequesterId,
    supports: Supports,
    windows: Windows,
) -> bool {
    let registers = registers(supports, windows);
    if hold(config, bridge, &registers) {
        return true;
    }
    for (offset, value, mask) in registers {
        if mask != 0 {
            config.write(bridge, offset, value);
        }
    }
    hold(config, bridge, &registers)
}

/// A register, the value that it is to have, and the bits that count.
type Register = (u8, u32, u32);

fn hold<C: ConfigurationAccess>(
    config: &Config<'_, C>,
    bridge: RequesterId,
    registers: &[Register],
) -> bool {
    registers.iter().all(|(offset, value, mask)| {
        *mask == 0 || config.read(bridge, *offset) & mask == value & mask
    })
}

/// The registers for `windows`; those that the bridge does not have are masked out.
fn registers(supports: Supports, windows: Windows) -> [Register; 6] {
    // Closed: the first address is behind the last one.
    let closed = Span {
        first: u64::from(u32::MAX),
        last: 0,
    };
    // Bits 20 to 31 of both ends.
    let word = |span: Span| (span.last as u32 & 0xfff0_0000) | (span.first as u32 >> 16 & 0xfff0);
    let high = |address: u64| (address >> 32) as u32;

    let memory = windows.memory.unwrap_or(closed);
    let prefetchable = windows.prefetchable.unwrap_or(closed);
    let io = windows.io.unwrap_or(closed);
    let (io_first, io_last) = (io.first as u32 & 0xffff, io.last as u32 & 0xffff);
    let io_high = windows.io.map_or(0, |io| {
        (io.last as u32 & 0xffff_0000) | io.first as u32 >> 16
    });

    let ends = |supported: bool| if supported { 0xfff0_fff0 } else { 0 };
    let all = |supported: bool| if supported { u32::MAX } else { 0 };
    let wide = supports.prefetchable && supports.prefetchable_64;
    [
        (MEMORY_WINDOW, word(memory), ends(true)),
        (
            IO_WINDOW,
            io_last & 0xf000 | io_first >> 8 & 0xf0,
            if supports.io { 0xf0f0 } else { 0 },
        ),
        (IO_WINDOW_HIGH, io_high, all(supports.io && supports.io_32)),
        (
            PREFETCHABLE_WINDOW,
            word(prefetchable),
            ends(supports.prefetchable),
        ),
        (PREFETCHABLE_BASE_HIGH, high(prefetchable.first), all(wide)),
        (PREFETCHABLE_LAST_HIGH, high(prefetchable.last), all(wide)),
    ]
}
