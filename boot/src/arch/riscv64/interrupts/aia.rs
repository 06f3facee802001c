//! The advanced interrupt architecture: an APLIC for wires, and where there is one the IMSIC of
//! the hart, which takes messages, those of the APLIC among them.

use core::arch::asm;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use virtio_iommu::PhysAddr;

use super::HartController;
use crate::interrupts::device_tree::{self, Specifier};
use crate::interrupts::{ControllerError, Line, Message, MessageError};
use crate::registers::Registers;

/// Registers of the APLIC, in bytes.
mod register {
    pub const DOMAIN: u64 = 0;
    /// One word for each source, from source 1 on.
    pub const SOURCE: u64 = 0x4;
    /// One bit for each source.
    pub const CLEAR_ENABLES: u64 = 0x1f00;
    pub const SET_ENABLE_BY_NUMBER: u64 = 0x1edc;
    pub const CLEAR_ENABLE_BY_NUMBER: u64 = 0x1fdc;
    pub const SET_PENDING_BY_NUMBER: u64 = 0x1cdc;
    /// One word for each source, from source 1 on.
    pub const TARGET: u64 = 0x3004;
    /// Without an IMSIC: 32 bytes for each hart.
    pub const DELIVERY: u64 = 0x4000;
    pub const DELIVERY_STRIDE: u64 = 0x20;
    pub const ENABLE_DELIVERY: u64 = 0x00;
    pub const THRESHOLD: u64 = 0x08;
    pub const CLAIM: u64 = 0x1c;
}

/// DOMAIN: the interrupts of the domain are on.
const ENABLED: u32 = 1 << 8;
/// DOMAIN: they are delivered as messages.
const AS_MESSAGES: u32 = 1 << 2;
/// SOURCE: active while high.
const LEVEL_HIGH: u32 = 6;
/// In a specifier: level-triggered, high.
const FLAG_LEVEL_HIGH: u32 = 4;
/// Sources that an APLIC can have.
const MAX_SOURCES: u32 = 1023;
/// TARGET: where the index of the hart starts.
const TARGET_HART: u32 = 18;
/// Identities that an IMSIC can have.
const MAX_IDENTITIES: u32 = 2047;

/// How interrupts get to the hart.
enum Delivery {
    /// By wire, at this place of the APLIC's delivery registers.
    Direct { hart: u32 },
    /// As messages.
    Imsic(Imsic),
}

/// The APLIC of the supervisor, and what is behind it.
pub struct Aia {
    aplic: Registers,
    phandle: u32,
    sources: u32,
    delivery: Delivery,
}

/// The IMSIC of this hart, for the supervisor.
struct Imsic {
    /// Where messages are sent.
    doorbell: PhysAddr,
    /// The index of the hart, as the APLIC names it.
    hart: u32,
    identities: u32,
    /// The first identity that no message was made for. The lower ones are those of the wires.
    next: u32,
}

impl Aia {
    /// Finds it and sets it up, with everything masked. `None` if the machine has none.
    pub(super) fn find(
        tree: Fdt<'_>,
        hart: &HartController,
    ) -> Result<Option<Self>, ControllerError> {
        let missing = |what| move || ControllerError::Malformed(what);
        let mut delivery = None;
        // The machine's domain delegates to the supervisor's, which is the one that has a way to
        // the supervisor.
        let node = device_tree::find(tree, |node| {
            if !node.is_compatible("riscv,aplic") {
                return false;
            }
            delivery = way_to(tree, node, hart);
            delivery.is_some()
        });
        let (Some(node), Some(delivery)) = (node, delivery) else {
            return Ok(None);
        };
        let phandle = device_tree::cell(&node, "phandle");
        let sources = device_tree::cell(&node, "riscv,num-sources")
            .filter(|sources| (1..=MAX_SOURCES).contains(sources));
        let (base, len) = device_tree::registers(node)
            .next()
            .ok_or_else(missing("the APLIC has no registers"))?;
        let end = match &delivery {
            Delivery::Imsic(_) => register::DELIVERY,
            Delivery::Direct { hart } => {
                register::DELIVERY + (u64::from(*hart) + 1) * register::DELIVERY_STRIDE
            }
        };
        if len < end {
            return Err(ControllerError::Malformed("the APLIC is too short"));
        }
        // SAFETY: the device tree says that these are the registers of the APLIC, and this is its
        // only driver.
        let aplic = unsafe { Registers::new(base, len) }
            .ok_or(ControllerError::OutOfReach(PhysAddr(base)))?;
        let mut aia = Self {
            aplic,
            phandle: phandle.ok_or_else(missing("the APLIC has no phandle"))?,
            sources: sources.ok_or_else(missing("the APLIC has no sources"))?,
            delivery,
        };
        aia.set_up()?;
        Ok(Some(aia))
    }

    fn set_up(&mut self) -> Result<(), ControllerError> {
        for word in 0..=u64::from(self.sources / 32) {
            self.aplic
                .write(register::CLEAR_ENABLES + 4 * word, u32::MAX);
        }
        let mut domain = ENABLED;
        match &mut self.delivery {
            Delivery::Direct { hart } => {
                let base = register::DELIVERY + u64::from(*hart) * register::DELIVERY_STRIDE;
                self.aplic.write(base + register::THRESHOLD, 0);
                self.aplic.write(base + register::ENABLE_DELIVERY, 1);
            }
            Delivery::Imsic(imsic) => {
                if imsic.identities <= self.sources {
                    return Err(ControllerError::Malformed(
                        "the IMSIC has fewer identities than the APLIC has sources",
                    ));
                }
                imsic.next = self.sources + 1;
                imsic.set_up();
                domain |= AS_MESSAGES;
            }
        }
        self.aplic.write(register::DOMAIN, domain);
        let kept = self.aplic.read(register::DOMAIN);
        if kept & domain != domain {
            return Err(ControllerError::Stuck("the APLIC does not keep its mode"));
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &'static str {
        match self.delivery {
            Delivery::Direct { .. } => "APLIC",
            Delivery::Imsic(_) => "APLIC and IMSIC",
        }
    }

    pub(super) fn line(&self, specifier: &Specifier) -> Option<Line> {
        match *specifier.cells() {
            [source, FLAG_LEVEL_HIGH]
                if specifier.controller == self.phandle && (1..=self.sources).contains(&source) =>
            {
                Some(Line(source))
            }
            _ => None,
        }
    }

    pub(super) fn message(&mut self) -> Result<Message, MessageError> {
        let Delivery::Imsic(imsic) = &mut self.delivery else {
            return Err(MessageError::Unsupported);
        };
        if imsic.next > imsic.identities {
            return Err(MessageError::Exhausted);
        }
        let identity = imsic.next;
        imsic.next += 1;
        Ok(Message {
            address: imsic.doorbell,
            data: identity,
            line: Line(identity),
        })
    }

    /// Whether a line is a wire, and not a message.
    fn is_wire(&self, line: Line) -> bool {
        line.0 <= self.sources
    }

    pub(super) fn enable(&mut self, line: Line) {
        if let Delivery::Imsic(_) = self.delivery {
            imsic_enable(line.0, true);
        }
        if self.is_wire(line) {
            let target = match &self.delivery {
                // A priority.
                Delivery::Direct { hart } => hart << TARGET_HART | 1,
                // An identity: that with the number of the source.
                Delivery::Imsic(imsic) => imsic.hart << TARGET_HART | line.0,
            };
            let index = 4 * u64::from(line.0 - 1);
            self.aplic.write(register::SOURCE + index, LEVEL_HIGH);
            self.aplic.write(register::TARGET + index, target);
            self.aplic.write(register::SET_ENABLE_BY_NUMBER, line.0);
            self.resample(line);
        }
    }

    pub(super) fn disable(&mut self, line: Line) {
        if self.is_wire(line) {
            self.aplic.write(register::CLEAR_ENABLE_BY_NUMBER, line.0);
        }
        if let Delivery::Imsic(_) = self.delivery {
            imsic_enable(line.0, false);
        }
    }

    pub(super) fn claim(&mut self) -> Option<Line> {
        let number = match self.delivery {
            Delivery::Direct { hart } => {
                let base = register::DELIVERY + u64::from(hart) * register::DELIVERY_STRIDE;
                self.aplic.read(base + register::CLAIM) >> 16
            }
            Delivery::Imsic(_) => imsic_claim(),
        };
        (number != 0).then_some(Line(number))
    }

    pub(super) fn complete(&mut self, line: Line) {
        if self.is_wire(line) {
            self.resample(line);
        }
    }

    /// A level that is delivered as a message sends one when it rises; if it did not fall since,
    /// this sends another. By wire this has no effect.
    fn resample(&self, line: Line) {
        if let Delivery::Imsic(_) = self.delivery {
            self.aplic.write(register::SET_PENDING_BY_NUMBER, line.0);
        }
    }
}

/// How the interrupts of an APLIC get to the supervisor of the hart, if they do.
fn way_to(tree: Fdt<'_>, aplic: &FdtNode<'_>, hart: &HartController) -> Option<Delivery> {
    if let Some(extended) = device_tree::cells(aplic, "interrupts-extended") {
        return hart.place(extended).map(|hart| Delivery::Direct { hart });
    }
    let node = device_tree::by_phandle(tree, device_tree::cell(aplic, "msi-parent")?)?;
    if !node.is_compatible("riscv,imsics") {
        return None;
    }
    let index = hart.place(device_tree::cells(&node, "interrupts-extended")?)?;
    let identities = device_tree::cell(&node, "riscv,num-ids")?;
    // Pages for guests are between those of the harts.
    let guests = device_tree::cell(&node, "riscv,guest-index-bits").unwrap_or(0);
    let stride = 0x1000u64.checked_shl(guests)?;
    let offset = u64::from(index).checked_mul(stride)?;
    let (base, len) = device_tree::registers(node).next()?;
    if offset.checked_add(0x1000)? > len {
        return None;
    }
    Some(Delivery::Imsic(Imsic {
        doorbell: PhysAddr(base.checked_add(offset)?),
        hart: index,
        identities: identities.min(MAX_IDENTITIES),
        next: 0,
    }))
}

/// Registers of the IMSIC, behind `siselect` (0x150) and `sireg` (0x151).
mod indirect {
    pub const DELIVERY: u64 = 0x70;
    pub const THRESHOLD: u64 = 0x72;
    /// 64 identities in each register with an even number.
    pub const ENABLE: u64 = 0xc0;
}

impl Imsic {
    fn set_up(&self) {
        for register in (0..=u64::from(self.identities / 64)).map(|index| 2 * index) {
            imsic_write(indirect::ENABLE + register, 0);
        }
        imsic_write(indirect::THRESHOLD, 0);
        imsic_write(indirect::DELIVERY, 1);
    }
}

fn imsic_write(register: u64, value: u64) {
    // SAFETY: registers of this hart's own IMSIC; the hart has one, so it has the CSRs.
    unsafe {
        asm!(
            "csrw 0x150, {register}",
            "csrw 0x151, {value}",
            register = in(reg) register,
            value = in(reg) value,
            options(nostack),
        );
    }
}

fn imsic_enable(identity: u32, enabled: bool) {
    let register = indirect::ENABLE + u64::from(identity / 64) * 2;
    let bit = 1u64 << (identity % 64);
    let mask: u64;
    // SAFETY: as `imsic_write`.
    unsafe {
        asm!(
            "csrw 0x150, {register}",
            "csrr {mask}, 0x151",
            register = in(reg) register,
            mask = lateout(reg) mask,
            options(nostack),
        );
    }
    imsic_write(register, if enabled { mask | bit } else { mask & !bit });
}

/// Takes the most urgent pending identity, and clears it; 0 if there is none.
fn imsic_claim() -> u32 {
    let top: u64;
    // SAFETY: `stopei` (0x15c) of this hart's own IMSIC. A write claims, whatever is written.
    unsafe { asm!("csrrw {}, 0x15c, zero", out(reg) top, options(nostack)) };
    (top >> 16) as u32 & 0x7ff
}
