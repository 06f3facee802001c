//! Feature bits (§5.13.3, §6) and access rights (§5.13.6.5).

use bitflags::bitflags;

bitflags! {
    /// Features that this driver knows and accepts when they are offered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u64 {
        /// The device describes the range of I/O virtual addresses.
        const INPUT_RANGE = 1 << 0;
        /// The device describes the range of domain ids.
        const DOMAIN_RANGE = 1 << 1;
        /// MAP and UNMAP requests exist. Required.
        const MAP_UNMAP = 1 << 2;
        /// PROBE requests exist.
        const PROBE = 1 << 4;
        /// [`Access::MMIO`] exists.
        const MMIO = 1 << 5;
        /// The `bypass` field of the configuration exists and is writable.
        const BYPASS_CONFIG = 1 << 6;
        /// The device follows version 1 of the specification or later. Required.
        const VERSION_1 = 1 << 32;
        /// The addresses of the IOMMU's own rings are those of the platform.
        const ACCESS_PLATFORM = 1 << 33;
        /// The device is ordered as hardware is. Accepted with a
        /// [barrier](crate::Platform::DEVICE_BARRIER) only.
        const ORDER_PLATFORM = 1 << 36;
    }
}

bitflags! {
    /// What an endpoint may do with a mapping: the flags of a MAP request (§5.13.6.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u32 {
        /// The endpoint may read.
        const READ = 1 << 0;
        /// The endpoint may write. Some devices let it read, too.
        const WRITE = 1 << 1;
        /// The physical range is device registers, not memory. Needs [`Features::MMIO`].
        const MMIO = 1 << 2;
    }
}

impl Features {
    /// What is accepted of an offer.
    ///
    /// Unknown, reserved and superseded bits are left alone, and so are the features of rings that
    /// this driver does not use: EVENT_IDX, INDIRECT_DESC, RING_PACKED, RING_RESET. ORDER_PLATFORM
    /// takes a barrier.
    pub(crate) fn accepted_of(offered: u64, has_barrier: bool) -> Self {
        let mut accepted = Self::from_bits_truncate(offered);
        if !has_barrier {
            accepted.remove(Self::ORDER_PLATFORM);
        }
        accepted
    }
}
