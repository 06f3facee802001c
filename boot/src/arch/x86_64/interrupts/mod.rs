//! Interrupts of x86_64: the local APIC of each CPU, and I/O APICs.
//!
//! A line is a vector: each input that is in use, and each message, has one of its own.

mod io;
mod local;

use alloc::vec::Vec;
use core::arch::asm;

use virtio_drivers::transport::pci::bus::ConfigurationAccess;
use virtio_iommu::PhysAddr;
use virtio_iommu::topology::{HostBridge, RequesterId};
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;

use super::Firmware;
use crate::acpi::madt::{Madt, Route};
use crate::config_space::ConfigSpace;
use crate::interrupts::intx::RootPin;
use crate::interrupts::{ControllerError, Line, Message, MessageError, RouteError, dispatch};
use io::IoApic;
use local::LocalApic;

pub use local::set_alarm;

/// The vectors of devices: behind those of exceptions, and before those of the local APIC itself.
const FIRST: u8 = 0x20;
const LAST: u8 = 0xef;
const DEVICES: usize = (LAST - FIRST) as usize + 1;
/// The timer of the local APIC.
const TIMER: u8 = 0xfe;
/// What a local APIC says when an interrupt was taken back in the last moment.
const SPURIOUS: u8 = 0xff;

/// More I/O APICs than any machine has here; those beyond are not looked at.
const MAX_IO_APICS: usize = 16;

/// Masks interrupts; says whether they were on.
pub fn interrupts_off() -> bool {
    let were_on = interrupts::are_enabled();
    interrupts::disable();
    were_on
}

/// Unmasks interrupts.
pub fn interrupts_on() {
    interrupts::enable();
}

/// With interrupts masked: stops the CPU until one is pending, and lets its handlers run. The
/// first of these instructions takes effect behind the second: an interrupt cannot come between.
pub fn sleep() {
    // SAFETY: as `interrupts_on`, and masked again afterwards.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Called by the trap code with interrupts masked. False if the vector is nobody's interrupt: an
/// instruction was the reason, or it came before there was a controller.
pub(super) fn arrived(vector: u8) -> bool {
    if vector == SPURIOUS {
        // Nothing is in service, so nothing ends.
        return true;
    }
    let Some(local) = LocalApic::here() else {
        return false;
    };
    if local.in_service() != Some(vector) {
        return false;
    }
    match vector {
        TIMER => local.alarm(),
        _ => dispatch(),
    }
    true
}

/// The interrupt controller.
pub struct Controller {
    madt: Madt<'static>,
    io_apics: Vec<IoApic>,
    /// What the vectors from [`FIRST`] on are for.
    uses: [Option<Use>; DEVICES],
}

/// What a vector is for.
#[derive(Clone, Copy)]
struct Use {
    source: Source,
    /// An interrupt that was on its way when its line was masked is not told to anybody, and
    /// neither is a message that nobody asked for: a local APIC cannot mask single vectors.
    enabled: bool,
}

/// Where the interrupts of a vector come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// An input of an I/O APIC.
    Input { gsi: u32 },
    /// Whoever knows the vector.
    Messages,
}

impl Controller {
    /// Finds the controllers and sets them up, with all lines masked but that of the timer.
    pub fn find(firmware: &Firmware) -> Result<Self, ControllerError> {
        let madt = firmware.madt().ok_or(ControllerError::NotFound)?;
        if madt.has_legacy_controllers() {
            mask_legacy_controllers();
        }
        let local = LocalApic::start(madt.local_apic())?;
        let id = u32::from(local.id());
        if !madt.processors().any(|processor| processor == id) {
            return Err(ControllerError::Malformed("the MADT does not have the CPU"));
        }
        let io_apics = madt.io_apics().take(MAX_IO_APICS).map(IoApic::open);
        let io_apics: Vec<IoApic> = io_apics.collect::<Result<_, _>>()?;
        if io_apics.is_empty() {
            return Err(ControllerError::NotFound);
        }
        Ok(Self {
            madt,
            io_apics,
            uses: [None; DEVICES],
        })
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        "local APIC and I/O APIC"
    }

    /// The line of a pin, as the firmware left it: it has routed the pins, through all bridges, to
    /// interrupts of the ISA bus, and has written to each function which one is its own. Where
    /// pins lead otherwise is in byte code (`_PRT` in the DSDT), which nobody here can run; it
    /// would count only after that code was told that there are I/O APICs (`_PIC`).
    pub fn intx(
        &mut self,
        _: &Firmware,
        bridge: &HostBridge,
        at: RootPin,
    ) -> Result<Line, RouteError> {
        const INTERRUPT: u8 = 0x3c;
        const UNKNOWN: u8 = 0xff;
        let config = ConfigSpace::new(bridge).ok_or(RouteError::NotDescribed)?;
        let word = config.read_word(at.of.device_function(), INTERRUPT);
        let [line, ..] = word.to_le_bytes();
        if [0, UNKNOWN].contains(&line) {
            return Err(RouteError::NotDescribed);
        }
        let route = self.madt.pci(line);
        self.input(route.ok_or(RouteError::Malformed("an Interrupt Line is none of ISA"))?)
    }

    /// The line of an input; the same for all who share it.
    fn input(&mut self, route: Route) -> Result<Line, RouteError> {
        let source = Source::Input { gsi: route.gsi };
        let same = |used: &Option<Use>| used.is_some_and(|used| used.source == source);
        if let Some(place) = self.uses.iter().position(same) {
            return Ok(line(place));
        }
        let io_apic = io_apic(&mut self.io_apics, route.gsi).ok_or(RouteError::NotALine)?;
        // Nobody has used up the vectors: there are far more than inputs and messages.
        let (place, vector) = allocate(&mut self.uses, source).ok_or(RouteError::NotALine)?;
        let cpu = LocalApic::here().ok_or(RouteError::NoController)?.id();
        io_apic.route(route, vector, cpu);
        Ok(line(place))
    }

    /// The line of a virtio-mmio slot: there are none.
    pub fn slot(&mut self, _: &Firmware, _: PhysAddr) -> Result<Line, RouteError> {
        Err(RouteError::NotDescribed)
    }

    /// A new message-signalled interrupt, for this CPU; anybody may send it.
    pub fn message(&mut self, _: RequesterId) -> Result<Message, MessageError> {
        /// The same on all machines, wherever the registers of local APICs are.
        const DOORBELL: u64 = 0xfee0_0000;
        const CPU: u32 = 12;
        let local = LocalApic::here().ok_or(MessageError::NoController)?;
        let (place, vector) =
            allocate(&mut self.uses, Source::Messages).ok_or(MessageError::Exhausted)?;
        Ok(Message {
            address: PhysAddr(DOORBELL | u64::from(local.id()) << CPU),
            // Fixed delivery, of an edge.
            data: vector.into(),
            line: line(place),
        })
    }

    /// Unmasks a line.
    pub fn enable(&mut self, line: Line) {
        self.set_enabled(line, true);
    }

    /// Masks a line.
    pub fn disable(&mut self, line: Line) {
        self.set_enabled(line, false);
    }

    fn set_enabled(&mut self, line: Line, enabled: bool) {
        let Some(used) = place(line).and_then(|place| self.uses.get_mut(place)?.as_mut()) else {
            return;
        };
        used.enabled = enabled;
        if let Source::Input { gsi } = used.source
            && let Some(io_apic) = io_apic(&mut self.io_apics, gsi)
        {
            io_apic.set_masked(gsi, !enabled);
        }
    }

    /// The line that the CPU was interrupted for; what nobody waits for ends here.
    pub fn claim(&mut self) -> Option<Line> {
        let local = LocalApic::here()?;
        // Interrupts are masked, so nothing else gets in service.
        let line = Line(local.in_service()?.into());
        let used = place(line).and_then(|place| *self.uses.get(place)?);
        if used.is_some_and(|used| used.enabled) {
            return Some(line);
        }
        local.end();
        None
    }

    /// The handlers of a claimed line are done. If its level still says something, it is pending
    /// again.
    pub fn complete(&mut self, _: Line) {
        if let Some(local) = LocalApic::here() {
            local.end();
        }
    }
}

/// The line of a place in [`Controller::uses`].
fn line(place: usize) -> Line {
    Line(u32::from(FIRST) + place as u32)
}

/// The place of a line in [`Controller::uses`], which may end before it.
fn place(Line(vector): Line) -> Option<usize> {
    Some(vector.checked_sub(u32::from(FIRST))? as usize)
}

/// The first place that is free, and its vector.
fn allocate(uses: &mut [Option<Use>; DEVICES], source: Source) -> Option<(usize, u8)> {
    let (place, free) = (uses.iter_mut().enumerate()).find(|(_, used)| used.is_none())?;
    *free = Some(Use {
        source,
        enabled: false,
    });
    // As many places as there are vectors from there to the last.
    Some((place, FIRST + place as u8))
}

/// The I/O APIC with an input.
fn io_apic(io_apics: &mut [IoApic], gsi: u32) -> Option<&mut IoApic> {
    io_apics.iter_mut().find(|io_apic| io_apic.has(gsi))
}

/// Masks all inputs of the two 8259s. Their way to the CPU is closed as well, by
/// [`LocalApic::start`].
fn mask_legacy_controllers() {
    const DATA: [u16; 2] = [0x21, 0xa1];
    for port in DATA {
        // SAFETY: the MADT says that they are there, always at these ports; nobody waits for them.
        unsafe { Port::<u8>::new(port).write(0xff) };
    }
}
