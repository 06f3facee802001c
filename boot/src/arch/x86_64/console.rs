//! The serial port of a PC: COM1, a 16550A.

use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

const PORT: u16 = 0x3f8;

/// The serial port.
pub struct Console(Uart16550<PioBackend>);

impl Console {
    /// Takes the serial port and sets it up, or `None` if it does not answer.
    ///
    /// # Safety
    ///
    /// Nobody else uses the serial port from now on.
    pub unsafe fn open() -> Option<Self> {
        // SAFETY: COM1, exclusive, as the caller promises.
        let mut uart = unsafe { Uart16550::new_port(PORT) }.ok()?;
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
