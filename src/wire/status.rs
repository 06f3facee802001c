//! The status in the tail of a request (§5.13.6).

use core::fmt;

/// Why the device refused a request (§5.13.6). Success is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// `IOERR`: the virtio communication failed.
    IoErr,
    /// `UNSUPP`: the request is not supported.
    Unsupp,
    /// `DEVERR`: internal error of the device.
    DevErr,
    /// `INVAL`: invalid parameters.
    Inval,
    /// `RANGE`: an argument is out of range.
    Range,
    /// `NOENT`: the endpoint or the domain does not exist.
    NoEnt,
    /// `FAULT`: a fault occurred while the device processed the request.
    Fault,
    /// `NOMEM`: the device is out of memory.
    NoMem,
    /// A value that the specification does not define.
    Unknown(u8),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::IoErr => "IOERR",
            Self::Unsupp => "UNSUPP",
            Self::DevErr => "DEVERR",
            Self::Inval => "INVAL",
            Self::Range => "RANGE",
            Self::NoEnt => "NOENT",
            Self::Fault => "FAULT",
            Self::NoMem => "NOMEM",
            Self::Unknown(value) => return write!(f, "UNKNOWN({value:#x})"),
        };
        f.write_str(name)
    }
}

/// `OK`: the request was carried out.
pub(crate) const STATUS_OK: u8 = 0;

/// Decodes the status byte of a tail.
pub(crate) const fn parse_status(byte: u8) -> Result<(), Status> {
    Err(match byte {
        STATUS_OK => return Ok(()),
        1 => Status::IoErr,
        2 => Status::Unsupp,
        3 => Status::DevErr,
        4 => Status::Inval,
        5 => Status::Range,
        6 => Status::NoEnt,
        7 => Status::Fault,
        8 => Status::NoMem,
        other => Status::Unknown(other),
    })
}
