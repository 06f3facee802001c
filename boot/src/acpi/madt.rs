//! MADT: the interrupt controllers. ACPI 6.5, §5.2.12.

use virtio_iommu::PhysAddr;

use super::{AcpiError, Table, field};

/// The length of a table without entries.
pub const SHORTEST: usize = 44;

/// FLAGS: there are two 8259s as well.
const PCAT_COMPAT: u32 = 1 << 0;
/// Flags of a processor: it is there.
const ENABLED: u32 = 1 << 0;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its name in messages to it.
    pub id: u8,
    /// Its registers.
    pub address: PhysAddr,
    /// The global system interrupt (GSI) of its first input.
    pub first: u32,
}

/// What an interrupt line says when it says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// High is asserted.
    High,
    /// Low is asserted.
    Low,
}

/// What counts on an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The moment.
    Edge,
    /// The state.
    Level,
}

/// Where an interrupt arrives, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The global system interrupt.
    pub gsi: u32,
    /// What its line says when it says something.
    pub polarity: Polarity,
    /// What counts on its line.
    pub trigger: Trigger,
}

/// The table, with all its entries in shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Madt<'m> {
    bytes: &'m [u8],
}

/// What this kernel knows how to read, as it is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Processor {
        apic: u32,
        flags: u32,
    },
    IoApic(IoApic),
    Override {
        bus: u8,
        source: u8,
        gsi: u32,
        flags: u16,
    },
    LocalApic(PhysAddr),
    /// Something else, or too short for what it says that it is.
    Other,
}

impl Entry {
    /// From its bytes, of which there are at least two.
    fn new(entry: &[u8]) -> Self {
        Self::known(entry).unwrap_or(Self::Other)
    }

    fn known(entry: &[u8]) -> Option<Self> {
        Some(match field::u8(entry, 0)? {
            0 => Self::Processor {
                apic: field::u8(entry, 3)?.into(),
                flags: field::u32(entry, 4)?,
            },
            1 => Self::IoApic(IoApic {
                id: field::u8(entry, 2)?,
                address: PhysAddr(field::u32(entry, 4)?.into()),
                first: field::u32(entry, 8)?,
            }),
            2 => Self::Override {
                bus: field::u8(entry, 2)?,
                source: field::u8(entry, 3)?,
                gsi: field::u32(entry, 4)?,
                flags: field::u16(entry, 8)?,
            },
            5 => Self::LocalApic(PhysAddr(field::u64(entry, 4)?)),
            9 => Self::Processor {
                apic: field::u32(entry, 4)?,
                flags: field::u32(entry, 8)?,
            },
            _ => return None,
        })
    }
}

/// The first of some entries, and the others; `None` if the first is not in shape.
fn split(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = usize::from(field::u8(entries, 1)?);
    if len < 2 {
        return None;
    }
    entries.split_at_checked(len)
}

impl<'m> Madt<'m> {
    /// Checks that each entry begins where the one before ends, and the last ends with the table.
    ///
    /// # Errors
    ///
    /// [`AcpiError`] if not.
    pub fn new(table: &Table<'m>) -> Result<Self, AcpiError> {
        let bytes = table.bytes();
        let mut entries = bytes.get(SHORTEST..).ok_or(table.bad_length())?;
        while !entries.is_empty() {
            let offset = bytes.len() - entries.len();
            (_, entries) = split(entries).ok_or(table.bad_entry(offset))?;
        }
        Ok(Self { bytes })
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + use<'m> {
        let mut entries = self.bytes.get(SHORTEST..).unwrap_or_default();
        core::iter::from_fn(move || {
            let (first, others) = split(entries)?;
            entries = others;
            Some(Entry::new(first))
        })
    }

    /// The registers of the local APIC, of whatever processor looks.
    pub fn local_apic(&self) -> PhysAddr {
        let wide = self.entries().find_map(|entry| match entry {
            Entry::LocalApic(address) => Some(address),
            _ => None,
        });
        let narrow = || PhysAddr(field::u32(self.bytes, 36).unwrap_or_default().into());
        wide.unwrap_or_else(narrow)
    }

    /// Whether there are two 8259s, which have to be silenced.
    pub fn has_legacy_controllers(&self) -> bool {
        field::u32(self.bytes, 40).unwrap_or_default() & PCAT_COMPAT != 0
    }

    /// The ids of the local APICs of all processors that are there.
    pub fn processors(&self) -> impl Iterator<Item = u32> + use<'m> {
        self.entries().filter_map(|entry| match entry {
            Entry::Processor { apic, flags } if flags & ENABLED != 0 => Some(apic),
            _ => None,
        })
    }

    /// The I/O APICs.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApic> + use<'m> {
        self.entries().filter_map(|entry| match entry {
            Entry::IoApic(io_apic) => Some(io_apic),
            _ => None,
        })
    }

    /// Where the pin of a PCI function arrives, by what the firmware has written to its register
    /// Interrupt Line: the interrupt of the ISA bus that it has routed the pin to. `None` if it has
    /// not: no pin leads to interrupt 0, which is the timer's.
    ///
    /// Such an interrupt arrives where its number says, and as PCI has it (level, low), unless an
    /// entry says something else.
    pub fn pci(&self, interrupt_line: u8) -> Option<Route> {
        let irq = (1..16)
            .contains(&interrupt_line)
            .then_some(interrupt_line)?;
        Some(self.isa_override(irq).unwrap_or(Route {
            gsi: irq.into(),
            polarity: Polarity::Low,
            trigger: Trigger::Level,
        }))
    }

    /// Where an interrupt of the ISA bus arrives, if an entry says so. Entries with reserved flags
    /// are passed over.
    fn isa_override(&self, irq: u8) -> Option<Route> {
        self.entries().find_map(|entry| match entry {
            Entry::Override {
                bus: 0,
                source,
                gsi,
                flags,
            } if source == irq => Some(Route {
                gsi,
                polarity: match flags & 0b11 {
                    0b00 | 0b01 => Polarity::High,
                    0b11 => Polarity::Low,
                    _ => return None,
                },
                trigger: match flags >> 2 & 0b11 {
                    0b00 | 0b01 => Trigger::Edge,
                    0b11 => Trigger::Level,
                    _ => return None,
                },
            }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::Signature;
    use super::super::testing::{FakeMemory, Q35, table};
    use super::*;

    fn with<T>(entries: &[&[u8]], ask: impl Fn(Madt<'_>) -> T) -> Result<T, AcpiError> {
        let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]);
        body.extend(entries.concat());
        let bytes = table(b"APIC", &body);
        let memory = FakeMemory::new([(0x1000, &bytes[..])]);
        let table = Table::read(&memory, PhysAddr(0x1000), Signature::MADT, SHORTEST)?;
        Madt::new(&table).map(ask)
    }

    const NMI: &[u8] = &[4, 6, 0xff, 0, 0, 1];
    const UNKNOWN: &[u8] = &[0x7f, 2];

    #[test]
    fn entries_are_read_between_unknown_ones() {
        let io_apic = &[1, 12, 5, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0];
        let cpu = &[0, 8, 0, 7, 1, 0, 0, 0];
        let absent = &[0, 8, 0, 8, 0, 0, 0, 0];
        let cpu_32 = &[9, 16, 0, 0, 0x78, 0x56, 0x34, 0x12, 1, 0, 0, 0, 0, 0, 0, 0];
        let entries: &[&[u8]] = &[UNKNOWN, io_apic, NMI, cpu, absent, UNKNOWN, cpu_32];
        let io_apics = with(entries, |madt| madt.io_apics().collect::<Vec<_>>());
        let expected = IoApic {
            id: 5,
            address: PhysAddr(0xfec0_1000),
            first: 24,
        };
        assert_eq!(io_apics, Ok([expected].to_vec()));
        let processors = with(entries, |madt| madt.processors().collect::<Vec<_>>());
        assert_eq!(processors, Ok([7, 0x1234_5678].to_vec()));
    }

    #[test]
    fn the_local_apic_may_be_elsewhere() {
        let elsewhere = &[5, 12, 0, 0, 0, 0, 0, 0xc0, 0x34, 0x12, 0, 0];
        assert_eq!(
            with(&[NMI], |madt| madt.local_apic()),
            Ok(PhysAddr(0xfee0_0000))
        );
        let moved = with(&[NMI, elsewhere], |madt| madt.local_apic());
        assert_eq!(moved, Ok(PhysAddr(0x1234_c000_0000)));
        assert_eq!(with(&[], |madt| madt.has_legacy_controllers()), Ok(true));
    }

    #[test]
    fn isa_interrupts_may_be_moved() {
        let timer = &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0];
        let sci = &[2, 10, 0, 9, 20, 0, 0, 0, 0b1111, 0];
        let edge_high = &[2, 10, 0, 10, 10, 1, 0, 0, 0b0101, 0];
        let reserved = &[2, 10, 0, 11, 99, 0, 0, 0, 0b1010, 0];
        let no_isa = &[2, 10, 1, 12, 99, 0, 0, 0, 0, 0];
        let moved = &[2, 10, 0, 15, 2, 0, 0, 0, 0, 0];
        let entries: &[&[u8]] = &[timer, sci, edge_high, reserved, no_isa, moved];
        let route = |line| with(entries, |madt| madt.pci(line)).unwrap();
        let edge = |gsi| Route {
            gsi,
            polarity: Polarity::High,
            trigger: Trigger::Edge,
        };
        let level = |gsi| Route {
            gsi,
            polarity: Polarity::Low,
            trigger: Trigger::Level,
        };
        assert_eq!(route(1), Some(level(1)));
        assert_eq!(route(9), Some(level(20)));
        assert_eq!(route(10), Some(edge(0x10a)));
        assert_eq!(route(11), Some(level(11)));
        assert_eq!(route(12), Some(level(12)));
        assert_eq!(route(15), Some(edge(2)));
        // The timer, and what is no interrupt of the ISA bus.
        for line in [0, 16, 17, 254, 255] {
            assert_eq!(route(line), None, "{line}");
        }
    }

    #[test]
    fn entries_that_do_not_end_are_an_error() {
        let bad = |offset| AcpiError::Entry {
            table: Signature::MADT,
            offset,
        };
        let check = |entries: &[&[u8]]| with(entries, |madt| madt.io_apics().count());
        assert_eq!(check(&[UNKNOWN, &[1, 0, 0, 0]]), Err(bad(46)));
        assert_eq!(check(&[UNKNOWN, &[1, 1, 0, 0]]), Err(bad(46)));
        assert_eq!(check(&[UNKNOWN, &[1]]), Err(bad(46)));
        assert_eq!(check(&[UNKNOWN, &[1, 12, 0, 0]]), Err(bad(46)));
        assert_eq!(check(&[&[0x7f, 255], &[0; 252]]), Err(bad(44)));
    }

    #[test]
    fn entries_that_are_too_short_are_passed_over() {
        for len in 2..12 {
            let mut short = Vec::from([1, len]);
            short.resize(len.into(), 0xff);
            let found = with(&[&short, NMI], |madt| madt.io_apics().count());
            assert_eq!(found, Ok(0), "{len}");
        }
    }

    #[test]
    fn the_controllers_of_qemu_are_found() {
        let table = Q35.table(Signature::MADT, SHORTEST);
        let madt = Madt::new(&table).unwrap();
        let io_apic = IoApic {
            id: 0,
            address: PhysAddr(0xfec0_0000),
            first: 0,
        };
        assert_eq!(madt.io_apics().collect::<Vec<_>>(), [io_apic]);
        assert_eq!(madt.local_apic(), PhysAddr(0xfee0_0000));
        assert_eq!(madt.processors().collect::<Vec<_>>(), [0]);
        assert!(madt.has_legacy_controllers());
        assert_eq!(madt.pci(0), None);
        assert_eq!(madt.pci(4).map(|route| route.polarity), Some(Polarity::Low));
        // What SeaBIOS routes pins to.
        for line in [10, 11] {
            let route = Route {
                gsi: line.into(),
                polarity: Polarity::High,
                trigger: Trigger::Level,
            };
            assert_eq!(madt.pci(line), Some(route));
        }
    }
}
