//! The result of a walk, and the explicit switching on of what was found.

#![forbid(unsafe_code)]

use alloc::vec::Vec;

use thiserror::Error;

use super::config::{Config, IO_SPACE, MEMORY_SPACE};
use super::{BarKind, Command, ConfigurationAccess, Function, PciWarning};
use crate::topology::RequesterId;

/// The bits of COMMAND that [`PciTree::enable`] sets.
const SWITCHES: Command = Command::IO_SPACE
    .union(Command::MEMORY_SPACE)
    .union(Command::BUS_MASTER);

/// Why a function cannot be enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnableError {
    /// The walk did not find it.
    #[error("there is no function {0}")]
    Unknown(RequesterId),
    /// A BAR has no address, or an absurd size: decoding would answer wherever it happens to point.
    #[error("BAR {0} has no usable address")]
    Bar(u8),
    /// The function, or a bridge above it, did not keep the bits that were set.
    #[error("function {0} does not keep the bits that were set")]
    NotKept(RequesterId),
}

/// What is behind a host bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciTree {
    /// The functions, in the order of their addresses; a bridge comes before what is behind it.
    pub functions: Vec<Function>,
    /// What was skipped or could not be done.
    pub warnings: Vec<PciWarning>,
    /// How many warnings more there were.
    pub warnings_omitted: usize,
}

impl PciTree {
    /// The functions with a vendor and device id.
    pub fn find(&self, vendor: u16, device: u16) -> impl Iterator<Item = &Function> {
        self.functions
            .iter()
            .filter(move |function| function.vendor == vendor && function.device == device)
    }

    /// The function at an address.
    #[must_use]
    pub fn function(&self, function: RequesterId) -> Option<&Function> {
        self.functions
            .iter()
            .find(|found| found.address.function == function)
    }

    /// Sets `IO_SPACE`, `MEMORY_SPACE` and `BUS_MASTER`, as far as `command` has them, in the
    /// function **and in every bridge above it**: a bridge forwards accesses from the CPU only
    /// with the first two, and DMA from below only with the last. Other bits of `command` are
    /// ignored, other bits of the registers stay.
    ///
    /// With `BUS_MASTER` the function can do DMA from now on. Attach its endpoint first.
    ///
    /// # Errors
    ///
    /// [`EnableError::Bar`] if decoding is asked for and a BAR of that kind has no address; nothing
    /// is written then. [`EnableError::NotKept`] if a bit cannot be set.
    pub fn enable<C: ConfigurationAccess>(
        &self,
        config: &mut C,
        function: RequesterId,
        command: Command,
    ) -> Result<(), EnableError> {
        let mut config = Config::new(config);
        let bits = (command & SWITCHES).bits();
        // From the function up; the number of steps is bounded even if the data is not a tree.
        let mut path = Vec::new();
        let mut next = Some(function);
        while let Some(id) = next.filter(|_| path.len() <= usize::from(u8::MAX)) {
            let found = self.function(id).ok_or(EnableError::Unknown(id))?;
            if let Some(index) = found.unusable_bar(bits) {
                return Err(EnableError::Bar(index));
            }
            path.push(id);
            next = found.parent;
        }
        // From the root down, so that nothing is enabled behind a bridge that is not.
        for id in path.into_iter().rev() {
            let wanted = config.command(id) | bits;
            config.set_command(id, wanted);
            // A bridge without an I/O window may have no I/O bit either.
            let optional = if id == function { 0 } else { IO_SPACE };
            if (config.command(id) | optional) & bits != bits {
                return Err(EnableError::NotKept(id));
            }
        }
        Ok(())
    }

    /// Clears the same bits, as far as `command` has them, in the function alone: others may be
    /// behind the same bridges.
    ///
    /// # Errors
    ///
    /// [`EnableError::Unknown`], or [`EnableError::NotKept`] if a bit stays set.
    pub fn disable<C: ConfigurationAccess>(
        &self,
        config: &mut C,
        function: RequesterId,
        command: Command,
    ) -> Result<(), EnableError> {
        self.function(function)
            .ok_or(EnableError::Unknown(function))?;
        let mut config = Config::new(config);
        let bits = (command & SWITCHES).bits();
        let wanted = config.command(function) & !bits;
        config.set_command(function, wanted);
        if config.command(function) & bits != 0 {
            return Err(EnableError::NotKept(function));
        }
        Ok(())
    }
}

impl Function {
    /// The first BAR that must not answer, among those that `command` would make answer.
    fn unusable_bar(&self, command: u16) -> Option<u8> {
        let decodes = |kind: BarKind| match kind {
            BarKind::Io => command & IO_SPACE != 0,
            BarKind::Memory32 { .. } | BarKind::Memory64 { .. } => command & MEMORY_SPACE != 0,
        };
        let homeless = self
            .bars
            .iter()
            .find(|bar| bar.address.is_none() && decodes(bar.kind));
        // Nobody knows what an absurd one answers to.
        let absurd = command & (IO_SPACE | MEMORY_SPACE) != 0 && self.absurd_bars != 0;
        let absurd = absurd.then(|| self.absurd_bars.trailing_zeros() as u8);
        homeless.map(|bar| bar.index).or(absurd)
    }
}
