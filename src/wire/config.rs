//! Device configuration (§5.13.4), checked once and then trusted.

use super::Features;
use crate::address::{DomainId, DomainRange, Iova, IovaRange, align_up};
use crate::platform::PAGE_SIZE;
use thiserror::Error;

/// Offsets of the fields of `virtio_iommu_config`, in bytes.
pub(crate) mod offset {
    pub(crate) const PAGE_SIZE_MASK: usize = 0;
    pub(crate) const INPUT_RANGE_START: usize = 8;
    pub(crate) const INPUT_RANGE_END: usize = 16;
    pub(crate) const DOMAIN_RANGE_START: usize = 24;
    pub(crate) const DOMAIN_RANGE_END: usize = 28;
    pub(crate) const PROBE_SIZE: usize = 32;
    pub(crate) const BYPASS: usize = 36;
}

/// The largest `probe_size` that is believed, in bytes: room for 2,730 reserved regions.
const MAX_PROBE_SIZE: u32 = 64 * 1024;

/// The fields as the device gave them. Those whose feature is not offered are not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawConfig {
    pub(crate) page_size_mask: u64,
    pub(crate) input_range: Option<(u64, u64)>,
    pub(crate) domain_range: Option<(u32, u32)>,
    pub(crate) probe_size: Option<u32>,
}

/// A configuration that no driver can work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration is missing or shorter than the offered features need.
    #[error("the device has no configuration at offset {offset}")]
    Missing {
        /// Offset of the field, in bytes.
        offset: usize,
    },
    /// The configuration kept changing while it was read.
    #[error("the configuration does not settle")]
    Unstable,
    /// `page_size_mask` is 0.
    #[error("page_size_mask is 0")]
    NoPageSize,
    /// `input_range` ends before it starts.
    #[error("input_range {start:#x}..={end:#x} is inverted")]
    InvertedInputRange {
        /// `input_range.start`
        start: u64,
        /// `input_range.end`
        end: u64,
    },
    /// `input_range` holds no granule that may be handed out.
    #[error("input_range holds no usable granule of {granule:#x} bytes")]
    InputRangeTooSmall {
        /// The mapping granule, in bytes.
        granule: u64,
    },
    /// `domain_range` ends before it starts.
    #[error("domain_range {start}..={end} is inverted")]
    InvertedDomainRange {
        /// `domain_range.start`
        start: u32,
        /// `domain_range.end`
        end: u32,
    },
    /// The driver needs one domain for itself and one for its caller.
    #[error("domain_range holds a single id")]
    TooFewDomains,
    /// `probe_size` is 0, or larger than any list of properties.
    #[error("probe_size {0} is out of range")]
    ProbeSize(u32),
}

/// What the device can translate: a checked configuration (§5.13.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    page_size_mask: u64,
    granule: u64,
    input_range: IovaRange,
    usable: IovaRange,
    domain_range: DomainRange,
    probe_size: Option<u32>,
}

impl Geometry {
    pub(crate) fn new(raw: RawConfig) -> Result<Self, ConfigError> {
        if raw.page_size_mask == 0 {
            return Err(ConfigError::NoPageSize);
        }
        // A finer device granule is honoured by whole pages, too.
        let granule = (1 << raw.page_size_mask.trailing_zeros()).max(PAGE_SIZE as u64);

        let (start, end) = raw.input_range.unwrap_or((0, u64::MAX));
        let input_range = IovaRange::new(Iova(start), Iova(end))
            .ok_or(ConfigError::InvertedInputRange { start, end })?;
        let usable =
            usable_part(input_range, granule).ok_or(ConfigError::InputRangeTooSmall { granule })?;

        let (start, end) = raw.domain_range.unwrap_or((0, u32::MAX));
        let domain_range = DomainRange::new(DomainId(start), DomainId(end))
            .ok_or(ConfigError::InvertedDomainRange { start, end })?;
        if start == end {
            return Err(ConfigError::TooFewDomains);
        }

        if let Some(size) = raw.probe_size
            && !(1..=MAX_PROBE_SIZE).contains(&size)
        {
            return Err(ConfigError::ProbeSize(size));
        }

        Ok(Self {
            page_size_mask: raw.page_size_mask,
            granule,
            input_range,
            usable,
            domain_range,
            probe_size: raw.probe_size,
        })
    }

    /// Page sizes that the device hints at, one per bit; the lowest bit is its granule.
    #[must_use]
    pub const fn page_size_mask(&self) -> u64 {
        self.page_size_mask
    }

    /// The unit of mappings, in bytes: the device's granule, or [`PAGE_SIZE`] if that is larger.
    #[must_use]
    pub const fn granule(&self) -> u64 {
        self.granule
    }

    /// The I/O virtual addresses that the device translates.
    #[must_use]
    pub const fn input_range(&self) -> IovaRange {
        self.input_range
    }

    /// The part of [`input_range`](Self::input_range) that is handed out: whole granules without
    /// the one at address 0 and without the last one.
    #[must_use]
    pub const fn usable_range(&self) -> IovaRange {
        self.usable
    }

    /// The domain ids that the device knows.
    #[must_use]
    pub const fn domain_range(&self) -> DomainRange {
        self.domain_range
    }

    /// Size of the list of properties, in bytes; `None` without [`Features::PROBE`].
    #[must_use]
    pub const fn probe_size(&self) -> Option<u32> {
        self.probe_size
    }
}

/// Whole granules of `input` but the one at address 0 and the last one.
fn usable_part(input: IovaRange, granule: u64) -> Option<IovaRange> {
    let first = align_up(input.start().0.max(granule), granule)?;
    // The start of the granule that holds `end`, if that one is whole, else of the one before it:
    // everything from there on is the last granule, or a rest.
    let end = input.end().0;
    let last = if end & (granule - 1) == granule - 1 {
        end & !(granule - 1)
    } else {
        (end & !(granule - 1)).checked_sub(granule)?
    };
    IovaRange::new(Iova(first), Iova(last.checked_sub(1)?))
}

impl Features {
    /// Which of the optional fields exist, by what is offered (§5.13.4).
    pub(crate) fn describes(offered: u64, feature: Self) -> bool {
        offered & feature.bits() == feature.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: RawConfig = RawConfig {
        page_size_mask: !0xfff,
        input_range: Some((0, u64::MAX)),
        domain_range: Some((0, u32::MAX)),
        probe_size: Some(512),
    };

    #[test]
    fn what_qemu_offers_is_accepted() {
        let geometry = Geometry::new(QEMU).unwrap();
        assert_eq!(geometry.granule(), 0x1000);
        assert_eq!(geometry.usable_range().start(), Iova(0x1000));
        assert_eq!(geometry.usable_range().end(), Iova(u64::MAX - 0x1000));
    }

    #[test]
    fn nonsense_is_refused() {
        let with = |change: fn(&mut RawConfig)| {
            let mut raw = QEMU;
            change(&mut raw);
            Geometry::new(raw).unwrap_err()
        };
        assert_eq!(with(|c| c.page_size_mask = 0), ConfigError::NoPageSize);
        assert!(matches!(
            with(|c| c.input_range = Some((2, 1))),
            ConfigError::InvertedInputRange { start: 2, end: 1 }
        ));
        assert!(matches!(
            with(|c| c.input_range = Some((0, 0x2ffe))),
            ConfigError::InputRangeTooSmall { granule: 0x1000 }
        ));
        assert!(matches!(
            with(|c| c.page_size_mask = 1 << 63),
            ConfigError::InputRangeTooSmall { .. }
        ));
        assert!(matches!(
            with(|c| c.domain_range = Some((9, 8))),
            ConfigError::InvertedDomainRange { start: 9, end: 8 }
        ));
        assert_eq!(
            with(|c| c.domain_range = Some((9, 9))),
            ConfigError::TooFewDomains
        );
        assert_eq!(with(|c| c.probe_size = Some(0)), ConfigError::ProbeSize(0));
        assert_eq!(
            with(|c| c.probe_size = Some(u32::MAX)),
            ConfigError::ProbeSize(u32::MAX)
        );
    }

    #[test]
    fn three_granules_leave_the_middle_one() {
        let mut raw = QEMU;
        raw.input_range = Some((0, 0x2fff));
        let usable = Geometry::new(raw).unwrap().usable_range();
        assert_eq!((usable.start(), usable.end()), (Iova(0x1000), Iova(0x1fff)));
        // Neither edge on a granule: the rests are not handed out, nor is the last whole granule.
        raw.input_range = Some((0x10_0800, 0x10_47ff));
        let usable = Geometry::new(raw).unwrap().usable_range();
        assert_eq!(
            (usable.start(), usable.end()),
            (Iova(0x10_1000), Iova(0x10_2fff))
        );
    }

    #[test]
    fn a_fine_granule_is_rounded_to_pages() {
        let mut raw = QEMU;
        raw.page_size_mask = 1;
        assert_eq!(Geometry::new(raw).unwrap().granule(), 0x1000);
    }
}
