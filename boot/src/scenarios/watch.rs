//! Interrupt handlers that keep count, and the scenario's side of them.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use virtio_iommu::Iommu;

use super::lab::Lab;
use crate::arch::Firmware;
use crate::console::println;
use crate::counted;
use crate::edu::{Edu, InterruptSide};
use crate::interrupts::{self, Handled, Handler, Line, Registration, Slept, TimedOut};
use crate::platform::KernelPlatform;
use crate::report::{Checked, Report};

/// The longest wait for an interrupt; a transfer of `edu` takes 100 ms.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Lets interrupts in, and returns the name of the controller: one check.
pub fn start(report: &mut Report, firmware: &Firmware) -> Checked<&'static str> {
    let name = report.require("interrupt_controller_is_found", interrupts::start(firmware))?;
    println!("interrupts by {name}");
    Ok(name)
}

/// Stops the CPU until something happens that an interrupt handler notes.
pub fn sleep(condition: impl FnMut() -> bool) -> Result<Slept, TimedOut> {
    interrupts::sleep_until(PATIENCE, condition)
}

/// The handler of the IOMMU's interrupt.
pub struct IommuWatch {
    iommu: Iommu<KernelPlatform>,
    /// How often it was called.
    pub calls: AtomicU32,
    /// How often the device had interrupted.
    pub raised: AtomicU32,
    /// Faults are waiting, and nobody has taken note yet.
    pub pending: AtomicBool,
    /// The device asked for a reset.
    pub needs_reset: AtomicBool,
    /// The most accesses to registers in one call.
    pub most_accesses: AtomicU64,
}

impl IommuWatch {
    /// Watches a line for a device.
    pub fn register(
        report: &mut Report,
        iommu: &Iommu<KernelPlatform>,
        line: Line,
    ) -> Checked<(Arc<Self>, Registration)> {
        let watch = Arc::new(Self {
            iommu: iommu.clone(),
            calls: AtomicU32::new(0),
            raised: AtomicU32::new(0),
            pending: AtomicBool::new(false),
            needs_reset: AtomicBool::new(false),
            most_accesses: AtomicU64::new(0),
        });
        let registration = watch.enlist(report, line)?;
        Ok((watch, registration))
    }

    /// Watches a line once more.
    pub fn enlist(self: &Arc<Self>, report: &mut Report, line: Line) -> Checked<Registration> {
        let registration = interrupts::register(line, self.clone());
        report.need("iommu_handler", registration.ok_or("no place left"))
    }

    /// Whether faults are waiting; asks once.
    pub fn take_pending(&self) -> bool {
        self.pending.swap(false, Relaxed)
    }
}

impl Handler for IommuWatch {
    fn handle(&self) -> Handled {
        let before = counted::accesses();
        let pending = self.iommu.handle_interrupt();
        let accesses = counted::accesses() - before;
        self.calls.fetch_add(1, Relaxed);
        self.most_accesses.fetch_max(accesses, Relaxed);
        if pending.raised {
            self.raised.fetch_add(1, Relaxed);
        }
        if pending.faults {
            self.pending.store(true, Relaxed);
        }
        if pending.needs_reset {
            self.needs_reset.store(true, Relaxed);
        }
        match pending.raised || pending.needs_reset {
            true => Handled::Yes,
            false => Handled::No,
        }
    }
}

/// The handler of an `edu` device's interrupt.
pub struct EduWatch {
    side: InterruptSide,
    /// How often it was called and the device was the reason.
    pub raised: AtomicU32,
    /// The reasons that it gave and that nobody has taken note of yet.
    pub reasons: AtomicU32,
}

impl EduWatch {
    /// Watches a line for a device.
    pub fn register(
        report: &mut Report,
        edu: &Edu,
        line: Line,
    ) -> Checked<(Arc<Self>, Registration)> {
        let watch = Arc::new(Self {
            side: edu.interrupt_side(),
            raised: AtomicU32::new(0),
            reasons: AtomicU32::new(0),
        });
        let registration = watch.enlist(report, line)?;
        Ok((watch, registration))
    }

    /// Watches a line once more.
    pub fn enlist(self: &Arc<Self>, report: &mut Report, line: Line) -> Checked<Registration> {
        let registration = interrupts::register(line, self.clone());
        report.need("edu_handler", registration.ok_or("no place left"))
    }

    /// The reasons so far; asks once.
    pub fn take_reasons(&self) -> u32 {
        self.reasons.swap(0, Relaxed)
    }
}

impl Handler for EduWatch {
    fn handle(&self) -> Handled {
        let reasons = self.side.status();
        if reasons == 0 {
            return Handled::No;
        }
        self.side.acknowledge(reasons);
        self.raised.fetch_add(1, Relaxed);
        self.reasons.fetch_or(reasons, Relaxed);
        Handled::Yes
    }
}

/// Where the interrupts of the IOMMU and of the first `edu` arrive: two checks.
pub fn lines(report: &mut Report, lab: &Lab, firmware: &Firmware) -> Checked<(Line, Line)> {
    let iommu = lab.machine.iommu_line(firmware);
    let iommu = report.require("interrupt_of_the_iommu_is_routed", iommu)?;
    let edu = lab.machine.line(firmware, lab.edus[0].function());
    let edu = report.require("interrupt_of_edu_is_routed", edu)?;
    println!("IOMMU on {iommu}, edu on {edu}");
    Ok((iommu, edu))
}
