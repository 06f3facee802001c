//! What is said on the serial line: records, and the end.

use core::fmt;

use qemu_exit::QEMUExit;

use crate::system::{self, Failure, File, O_WRONLY};
use crate::text::Text;

/// The exit code of QEMU: all went well.
pub const SUCCESS: u32 = 33;
/// Something is not as it should be.
pub const FAILURE: u32 = 35;
/// Not even that could be said.
pub const PANIC: u32 = 37;

/// How much of the kernel's own log is shown after a failure, in bytes.
const LOG: usize = 8 << 10;

/// The console of Linux, which is the serial line.
pub struct Console {
    file: File,
    planned: u32,
    passed: u32,
}

impl Console {
    /// Opens it.
    pub fn open() -> Result<Self, Failure> {
        Ok(Self {
            file: File::open(c"/dev/console", O_WRONLY)?,
            planned: 0,
            passed: 0,
        })
    }

    /// Writes a line, all at once: the kernel may write, too.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        // There is nobody else to tell that it did not work; whoever reads misses it.
        if let Ok(text) = Text::new(format_args!("{line}\n")) {
            let _ = self.file.write(text.bytes());
        }
    }

    /// Says how many checks there will be.
    pub fn plan(&mut self, checks: u32) {
        self.planned = checks;
        self.line(format_args!("@viommu 1 plan {checks}"));
    }

    /// Says that a check passed.
    pub fn passed(&mut self, name: &str) {
        self.passed += 1;
        let number = self.passed;
        self.line(format_args!("@viommu 1 ok {number} {name}"));
    }

    /// Says why it does not go on, and what the kernel said before.
    pub fn failed(&mut self, failure: &Failure) {
        let Failure {
            what,
            errno,
            number,
        } = failure;
        let mut room = [0; LOG];
        let _ = self.file.write(system::kernel_log(&mut room));
        let next = self.passed + 1;
        self.line(format_args!("{what}: number {number}, error {errno}"));
        self.line(format_args!("@viommu 1 not ok {next} the_benchmark"));
    }

    /// Says that this is all.
    pub fn end(&mut self) {
        let passed = self.passed;
        let failed = self.planned - passed;
        self.line(format_args!(
            "@viommu 1 end {passed} passed {failed} failed 0 skipped"
        ));
    }

    /// Waits until all of it was sent.
    pub fn drain(&self) {
        self.file.drain();
    }
}

/// Ends QEMU. On failure of that, this program ends, by which Linux panics.
pub fn exit(code: u32) -> ! {
    #[cfg(target_arch = "aarch64")]
    qemu_exit::AArch64::new().exit(code);
    #[cfg(target_arch = "x86_64")]
    {
        const PORT: u16 = 0x501;
        system::allow_port(PORT);
        // SAFETY: QEMU's exit device is at that port, and nothing else is.
        let device = unsafe { qemu_exit::X86::new(PORT, SUCCESS) };
        // QEMU makes `2 * value + 1` of the value.
        device.exit(code >> 1)
    }
}
