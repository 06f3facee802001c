//! The configuration space, and ways in which it can be broken.

use super::spec::{config, feature};

/// The fields of §5.13.4, as the device presents them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    pub page_size_mask: u64,
    pub input_range: (u64, u64),
    pub domain_range: (u32, u32),
    pub probe_size: u32,
    /// All eight bits, as they read.
    pub bypass: u8,
    /// Endpoints without a domain pass, whatever `bypass` reads, until it is written.
    pub bypasses_until_written: bool,
    pub reserved: [u8; 3],
    /// Bytes that the transport exposes.
    pub len: usize,
}

impl Default for ConfigSpace {
    /// Limits on every side, so that ignoring any of them shows.
    fn default() -> Self {
        Self {
            page_size_mask: 0xffff_ffff_ffff_f000,
            input_range: (0x1000, 0xff_ffff_ffff),
            domain_range: (3, 40),
            probe_size: 512,
            bypass: 1,
            bypasses_until_written: false,
            reserved: [0; 3],
            len: config::LEN,
        }
    }
}

/// What stands where the device has no field, or does not offer it.
const NOTHING: u8 = 0xee;

impl ConfigSpace {
    /// The bytes, with rubbish in the fields whose feature is not `offered` and behind the end of
    /// the structure.
    pub fn bytes(&self, offered: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(config::LEN);
        bytes.extend_from_slice(&self.page_size_mask.to_le_bytes());
        bytes.extend_from_slice(&self.input_range.0.to_le_bytes());
        bytes.extend_from_slice(&self.input_range.1.to_le_bytes());
        bytes.extend_from_slice(&self.domain_range.0.to_le_bytes());
        bytes.extend_from_slice(&self.domain_range.1.to_le_bytes());
        bytes.extend_from_slice(&self.probe_size.to_le_bytes());
        bytes.push(self.bypass);
        bytes.extend_from_slice(&self.reserved);
        for (at, byte) in bytes.iter_mut().enumerate() {
            if gate(at).is_some_and(|bit| offered & bit == 0) {
                *byte = NOTHING;
            }
        }
        bytes.resize(self.len, NOTHING);
        bytes
    }
}

/// The feature without which the byte at `offset` is not there.
pub fn gate(offset: usize) -> Option<u64> {
    match offset {
        config::INPUT_START..config::DOMAIN_START => Some(feature::INPUT_RANGE),
        config::DOMAIN_START..config::PROBE_SIZE => Some(feature::DOMAIN_RANGE),
        config::PROBE_SIZE..config::BYPASS => Some(feature::PROBE),
        config::BYPASS..config::LEN => Some(feature::BYPASS_CONFIG),
        _ => None,
    }
}

/// A change in the middle of a driver's reading.
#[derive(Clone, Debug)]
pub struct Torn {
    /// Configuration reads that still see the old values.
    pub after_reads: u64,
    pub then: ConfigSpace,
}

/// How the generation counter behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// It moves when the configuration changes.
    #[default]
    True,
    /// It reads differently each time.
    Restless,
}

/// What writing 0 to the status register leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetBehaviour {
    #[default]
    Immediate,
    /// The status reads as before this many times.
    AfterReads(u64),
    Never,
}
