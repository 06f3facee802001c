//! A line or a path: text of bounded length, without an allocator.

use core::ffi::CStr;
use core::fmt::{self, Write};

use crate::system::Failure;

/// Longer than any path and any record.
const ROOM: usize = 512;

/// Text that ends with a zero byte.
pub struct Text {
    bytes: [u8; ROOM],
    length: usize,
}

impl Text {
    /// Formats it.
    pub fn new(arguments: fmt::Arguments<'_>) -> Result<Self, Failure> {
        let mut text = Self {
            bytes: [0; ROOM],
            length: 0,
        };
        match text.write_fmt(arguments) {
            Ok(()) => Ok(text),
            Err(fmt::Error) => Err(Failure::of("a text that is too long")),
        }
    }

    /// Its bytes, without the zero.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// For system calls.
    pub fn c_str(&self) -> Result<&CStr, Failure> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Failure::of("a path without an end"))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It was put together of whole texts.
        f.write_str(core::str::from_utf8(self.bytes()).unwrap_or_default())
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.length + more.len();
        // One byte stays zero.
        if end >= ROOM {
            return Err(fmt::Error);
        }
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(more.as_bytes());
        self.length = end;
        Ok(())
    }
}
