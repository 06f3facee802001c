//! Which way the data goes, as a type.

use crate::wire::Access;

mod sealed {
    pub trait Sealed {}
}

/// Which way the data of a mapping goes. There are three, and no others can be made.
pub trait Direction: sealed::Sealed + Send + Sync + 'static {
    /// What the endpoint may do.
    const ACCESS: Access;
}

/// A direction in which the endpoint writes: there is something to read afterwards.
pub trait DeviceWrites: Direction {}

/// The endpoint reads what the CPU wrote.
#[derive(Debug)]
pub enum ToDevice {}

/// The endpoint writes, and the CPU reads afterwards.
///
/// Some IOMMUs let the endpoint read, too (virtio 1.2 §5.13.6.5.2): the memory is made to hold
/// nothing that the endpoint has not seen.
#[derive(Debug)]
pub enum FromDevice {}

/// The endpoint reads and writes.
#[derive(Debug)]
pub enum Bidirectional {}

impl sealed::Sealed for ToDevice {}
impl sealed::Sealed for FromDevice {}
impl sealed::Sealed for Bidirectional {}

impl Direction for ToDevice {
    const ACCESS: Access = Access::READ;
}

impl Direction for FromDevice {
    const ACCESS: Access = Access::WRITE;
}

impl Direction for Bidirectional {
    const ACCESS: Access = Access::READ.union(Access::WRITE);
}

impl DeviceWrites for FromDevice {}
impl DeviceWrites for Bidirectional {}
