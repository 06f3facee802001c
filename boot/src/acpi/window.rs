//! Addresses that nobody has: where PCI may put registers that the firmware gave no address.
//!
//! Which addresses the host bridge forwards is in byte code (`_CRS` in the DSDT), which nobody
//! here can run. What is known: PCI gets what no memory and no controller answers to, and it gets
//! the part behind the ECAM.

use virtio_iommu::{PhysAddr, PhysRange};

/// The first stretch of addresses that is at or above `floor` and up to `ceiling`, both included,
/// and that has nothing in common with any of `taken`. `None` if there is none.
pub fn first_free(floor: u64, ceiling: u64, taken: &[PhysRange]) -> Option<PhysRange> {
    let mut start = floor;
    // Each round leaves one range behind for good.
    for _ in 0..=taken.len() {
        let above = taken.iter().filter(|range| range.end().0 >= start);
        let Some(next) = above.min_by_key(|range| range.start()) else {
            return PhysRange::new(PhysAddr(start), PhysAddr(ceiling));
        };
        if next.start().0 > start {
            let end = ceiling.min(next.start().0 - 1);
            return PhysRange::new(PhysAddr(start), PhysAddr(end));
        }
        start = next.end().0.checked_add(1)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    #[test]
    fn it_is_behind_what_covers_the_floor() {
        let taken = [range(40, 49), range(10, 19), range(15, 24)];
        assert_eq!(first_free(5, 100, &taken), Some(range(5, 9)));
        assert_eq!(first_free(10, 100, &taken), Some(range(25, 39)));
        assert_eq!(first_free(24, 100, &taken), Some(range(25, 39)));
        assert_eq!(first_free(25, 100, &taken), Some(range(25, 39)));
        assert_eq!(first_free(40, 100, &taken), Some(range(50, 100)));
        assert_eq!(first_free(0, 100, &[]), Some(range(0, 100)));
    }

    #[test]
    fn the_ceiling_is_the_end() {
        let taken = [range(40, 49)];
        assert_eq!(first_free(30, 35, &taken), Some(range(30, 35)));
        assert_eq!(first_free(30, 30, &taken), Some(range(30, 30)));
        assert_eq!(first_free(30, 29, &taken), None);
        assert_eq!(first_free(40, 49, &taken), None);
        assert_eq!(first_free(60, 50, &taken), None);
    }

    #[test]
    fn the_end_of_all_addresses_is_an_end() {
        assert_eq!(first_free(0, u64::MAX, &[range(0, u64::MAX)]), None);
        let tail = [range(100, u64::MAX)];
        assert_eq!(first_free(0, u64::MAX, &tail), Some(range(0, 99)));
        assert_eq!(first_free(100, u64::MAX, &tail), None);
        assert_eq!(first_free(0, u64::MAX, &[]), Some(range(0, u64::MAX)));
    }

    #[test]
    fn ranges_inside_of_others_do_not_matter() {
        let taken = [range(10, 50), range(20, 30), range(10, 12), range(51, 60)];
        assert_eq!(first_free(10, 100, &taken), Some(range(61, 100)));
    }
}
