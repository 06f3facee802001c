//! What a controller says of itself and of its namespace (NVM Express base specification 1.4,
//! §5.15).

use super::super::BlockError;
use super::super::memory::Shared;
use super::pages::PAGE;
use super::queue::Command;

/// The namespace that is used.
pub const NAMESPACE: u32 = 1;

const IDENTIFY: u8 = 0x06;
/// What is asked about (CNS).
const A_NAMESPACE: u64 = 0x00;
const THE_CONTROLLER: u64 = 0x01;

/// Of the controller: the longest transfer, as a power of two of pages; 0 is no limit.
const MDTS: usize = 77;
/// Of the namespace: its size in blocks; the format in use; the formats.
const NSZE: usize = 0;
const FLBAS: usize = 26;
const FORMATS: usize = 128;

/// Asks the controller about itself, in the page at `to`.
pub fn controller(to: u64) -> Command {
    Command {
        opcode: IDENTIFY,
        prp1: to,
        low: THE_CONTROLLER,
        ..Command::default()
    }
}

/// Asks the controller about the namespace, in the page at `to`.
pub fn namespace(to: u64) -> Command {
    Command {
        opcode: IDENTIFY,
        namespace: NAMESPACE,
        prp1: to,
        low: A_NAMESPACE,
        ..Command::default()
    }
}

/// The longest transfer in bytes, in the answer at `at`. The smallest page is [`PAGE`].
pub fn max_bytes(memory: &Shared, at: usize) -> usize {
    match memory.get::<u8>(at + MDTS) {
        0 => usize::MAX,
        exponent => {
            let pages = 1_usize.checked_shl(exponent.into());
            let bytes = pages.and_then(|pages| pages.checked_mul(PAGE));
            bytes.unwrap_or(usize::MAX)
        }
    }
}

/// The size of a block in bytes, and how many there are, in the answer at `at`.
///
/// # Errors
///
/// [`BlockError::Registers`] for blocks that have metadata, or a size that is none.
pub fn format(memory: &Shared, at: usize) -> Result<(usize, u64), BlockError> {
    let blocks = u64::from_le(memory.get(at + NSZE));
    let format = usize::from(memory.get::<u8>(at + FLBAS) & 0xf);
    let format = u32::from_le(memory.get(at + FORMATS + 4 * format));
    let (metadata, exponent) = (format as u16, format >> 16 & 0xff);
    if metadata != 0 || !(9..=12).contains(&exponent) || blocks == 0 {
        return Err(BlockError::Registers("format of the namespace"));
    }
    Ok((1 << exponent, blocks))
}
