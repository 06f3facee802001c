//! The serial port of the `virt` machine: an ns16550a.

use core::ptr::NonNull;

use uart_16550::backend::MmioBackend;
use uart_16550::{Config, Uart16550};

use super::DIRECT_MAP;

const ADDRESS: usize = 0x1000_0000;

/// The serial port.
pub struct Console(Uart16550<MmioBackend>);

impl Console {
    /// Takes the serial port and sets it up, or `None` if it does not answer.
    ///
    /// # Safety
    ///
    /// Nobody else uses the serial port from now on.
    pub unsafe fn open() -> Option<Self> {
        let registers = NonNull::new((DIRECT_MAP + ADDRESS) as *mut u8)?;
        // SAFETY: the registers of the `virt` machine's ns16550a, one byte apart, through the
        // direct map; exclusive, as the caller promises.
        let mut uart = unsafe { Uart16550::new_mmio(registers, 1) }.ok()?;
        uart.init(Config::DEFAULT).ok()?;
        Some(Self(uart))
    }

    /// The next byte that was received, if there is one.
    pub fn read(&mut self) -> Option<u8> {
        self.0.try_receive_byte().ok()
    }

    /// Sends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.send_bytes_exact(bytes);
    }
}
