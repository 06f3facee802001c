//! The serial port of the `virt` machine: a PL011.

use core::hint;
use core::ptr::NonNull;

use arm_pl011_uart::{
    DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer,
};

use super::DIRECT_MAP;

const ADDRESS: usize = 0x900_0000;
/// The clock of the `virt` machine's PL011, in Hz.
const CLOCK: u32 = 24_000_000;
const BAUD: u32 = 115_200;

/// The serial port.
pub struct Console(Uart<'static>);

impl Console {
    /// Takes the serial port and sets it up.
    ///
    /// # Safety
    ///
    /// Nobody else uses the serial port from now on.
    pub unsafe fn open() -> Option<Self> {
        let registers = NonNull::new((DIRECT_MAP + ADDRESS) as *mut PL011Registers)?;
        // SAFETY: the registers of the `virt` machine's PL011 through the direct map; exclusive,
        // as the caller promises.
        let registers = unsafe { UniqueMmioPointer::new(registers) };
        let mut uart = Uart::new(registers);
        let line = LineConfig {
            data_bits: DataBits::Bits8,
            parity: Parity::None,
            stop_bits: StopBits::One,
        };
        uart.enable(line, BAUD, CLOCK).ok()?;
        Some(Self(uart))
    }

    /// The next byte that was received, if there is one.
    pub fn read(&mut self) -> Option<u8> {
        self.0.read_word().ok().flatten()
    }

    /// Sends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.0.is_tx_fifo_full() {
                hint::spin_loop();
            }
            self.0.write_word(byte);
        }
    }
}
