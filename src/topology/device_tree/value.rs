//! Property values: cells, numbers of one or two cells, lists of strings.

#![forbid(unsafe_code)]

/// The 32-bit cells of a value, or `None` if it is not a whole number of them.
pub(super) fn cells(value: &[u8]) -> Option<Cells<'_>> {
    value.len().is_multiple_of(4).then_some(Cells(value))
}

/// A value of exactly one cell.
pub(super) fn cell(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Whether a list of strings contains `wanted`.
pub(super) fn has_string(value: &[u8], wanted: &str) -> bool {
    value
        .split(|byte| *byte == 0)
        .any(|string| string == wanted.as_bytes())
}

/// Cells that are still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<'a>(&'a [u8]);

impl Cells<'_> {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// The next cell.
    pub(super) fn next(&mut self) -> Option<u32> {
        let (cell, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*cell))
    }

    /// The next number of `count` cells, 1 or 2.
    pub(super) fn number(&mut self, count: u32) -> Option<u64> {
        match count {
            1 => self.next().map(u64::from),
            2 => {
                let high = self.next()?;
                Some(u64::from(high) << 32 | u64::from(self.next()?))
            }
            _ => None,
        }
    }

    /// Leaves `count` cells out.
    pub(super) fn skip(&mut self, count: u32) -> Option<()> {
        let bytes = usize::try_from(count).ok()?.checked_mul(4)?;
        self.0 = self.0.get(bytes..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_end_where_the_value_ends() {
        assert!(cells(&[0; 5]).is_none());
        let mut read = cells(&[0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0, 0, 3]).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(read.number(2), Some(0x1_0000_0002));
        let before = read.len();
        assert_eq!(read.number(3), None);
        assert_eq!(read.number(0), None);
        assert_eq!(read.len(), before);
        assert_eq!(read.next(), Some(0xff00_0003));
        assert_eq!(read.next(), None);
        assert!(read.is_empty());
    }

    #[test]
    fn cells_are_skipped_within_the_value_only() {
        let mut read = cells(&[0; 8]).unwrap();
        assert_eq!(read.skip(3), None);
        assert_eq!(read.skip(u32::MAX), None);
        assert_eq!(read.skip(2), Some(()));
        assert!(read.is_empty());
    }

    #[test]
    fn a_string_matches_as_a_whole() {
        let value = b"virtio,pci-iommu\0pci1af4,1057\0";
        assert!(has_string(value, "virtio,pci-iommu"));
        assert!(has_string(value, "pci1af4,1057"));
        assert!(!has_string(value, "virtio,pci"));
        assert!(!has_string(value, "iommu"));
    }
}
