//! What describes the machine: the start info of PVH, and the ACPI tables that it leads to.

use alloc::vec;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::{ptr, slice};

use pvh::start_info::reader::{MemMap, StartInfoReader};
use pvh::start_info::{MemmapType, StartInfo};
use virtio_iommu::topology::viot::{self, from_viot};
use virtio_iommu::topology::{BusRange, HostBridge, Segment, Topology, Window, WindowKind};
use virtio_iommu::{PhysAddr, PhysRange};

use super::entry::reach;
use crate::acpi::fadt::{self, PmTimer};
use crate::acpi::madt::{self, Madt};
use crate::acpi::mcfg::{self, Allocation};
use crate::acpi::root::Tables;
use crate::acpi::window::first_free;
use crate::acpi::{AcpiError, Memory, Signature, Table};
use crate::machine::{Described, MachineError};
use crate::memory::{direct_map, without};

const GIB: u64 = 1 << 30;
/// The last address of 32 bits.
const LAST_32: u64 = u32::MAX as u64;
/// The registers of an APIC, local or not, in bytes.
const APIC: u64 = 0x1000;
/// The longest boot arguments, in bytes.
const MAX_ARGUMENTS: u64 = 4096;

/// Physical memory for the `pvh` crate, which reads without asking: null for what is not mapped or
/// not aligned.
#[derive(Clone, Copy, Debug)]
struct DirectMap;

impl MemMap for DirectMap {
    fn ptr(&self, address: usize, layout: Layout) -> *const u8 {
        if !address.is_multiple_of(layout.align()) {
            return ptr::null();
        }
        direct_map::pointer(address as u64, layout.size() as u64)
            .map_or(ptr::null(), |pointer| pointer.as_ptr())
    }
}

/// What the boot protocol hands over.
pub struct Firmware {
    /// The boot arguments.
    pub arguments: &'static str,
    /// Where the start info is.
    pub place: PhysRange,
    start_info: StartInfoReader<'static, DirectMap>,
}

impl Firmware {
    /// Reads the start info at the address from the boot register.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn find(register: u64) -> Result<Self, &'static str> {
        let place = u32::try_from(register).ok().filter(|place| *place != 0);
        let place = place.ok_or("the boot register does not say where the start info is")?;
        if DirectMap
            .ptr(place as usize, Layout::new::<StartInfo>())
            .is_null()
        {
            return Err("the start info is not in memory");
        }
        // SAFETY: the structure is in memory. What it leads to goes through `DirectMap`, which
        // says no to all that is not, and texts, which have no length, are not read by it.
        let start_info = unsafe { StartInfoReader::from_paddr(place, DirectMap) };
        let start_info = start_info.ok_or("there is no start info where it should be")?;
        if start_info.memmap().is_empty() {
            return Err("the start info has no memory map");
        }
        Ok(Self {
            arguments: text(start_info.raw().cmdline_paddr)?,
            place: PhysRange::from_len(PhysAddr(place.into()), size_of::<StartInfo>() as u64)
                .ok_or("the start info is not in memory")?,
            start_info,
        })
    }

    /// The largest part of the memory behind `address` that nobody has.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn free_memory(&self, address: u64) -> Result<PhysRange, &'static str> {
        let bank = self
            .memory(|kind| kind == MemmapType::Ram)
            .find(|bank| bank.contains(PhysAddr(address)))
            .ok_or("the memory map does not have the memory that the kernel is in")?;
        let free = PhysRange::new(PhysAddr(address), bank.end())
            .ok_or("no memory is left behind the kernel")?;
        self.taken().try_fold(free, without)
    }

    /// A free page below 1 MiB, where a CPU begins in 16-bit mode. The first page is not looked
    /// at: it is where that mode has its interrupts.
    pub fn low_page(&self) -> Option<u64> {
        const PAGE: u64 = 0x1000;
        const MIB: u64 = 1 << 20;
        let banks = self.memory(|kind| kind == MemmapType::Ram);
        let low = banks.filter(|bank| bank.start().0 < MIB);
        low.flat_map(|bank| {
            let end = bank.end().0.min(MIB - 1).saturating_add(1);
            let pages = bank.start().0.div_ceil(PAGE).max(1)..end / PAGE;
            pages.rev()
        })
        .filter_map(|page| PhysRange::from_len(PhysAddr(page * PAGE), PAGE))
        .find(|page| !self.taken().any(|taken| taken.overlaps(page)))
        .map(|page| page.start().0)
    }

    /// Everything in memory that somebody has, as far as the boot protocol says.
    fn taken(&self) -> impl Iterator<Item = PhysRange> {
        let info = self.start_info.raw();
        let map = (
            info.memmap_paddr,
            size_of_val(self.start_info.memmap()) as u64,
        );
        let modules = self.start_info.modlist().map(|module| {
            let module = module.raw();
            (module.paddr, module.size)
        });
        let list = u64::from(info.nr_modules) * 32;
        let pieces = [
            (info.cmdline_paddr, self.arguments.len() as u64 + 1),
            (info.modlist_paddr, list),
            map,
        ];
        let pieces = pieces.into_iter().chain(modules);
        let pieces = pieces.filter_map(|(start, len)| PhysRange::from_len(PhysAddr(start), len));
        let reserved = self.memory(|kind| kind != MemmapType::Ram);
        [self.place].into_iter().chain(pieces).chain(reserved)
    }

    /// The interrupt controllers and the processors.
    pub fn madt(&self) -> Option<Madt<'static>> {
        let table = self.table(Signature::MADT, madt::SHORTEST)?;
        tell(Signature::MADT, Madt::new(&table))
    }

    /// What the memory map says about some kinds of memory.
    fn memory(&self, wanted: impl Fn(MemmapType) -> bool) -> impl Iterator<Item = PhysRange> {
        let entries = self.start_info.memmap().iter();
        entries
            .filter(move |entry| wanted(entry.ty()))
            .filter_map(|entry| PhysRange::from_len(PhysAddr(entry.addr), entry.size))
    }

    /// The timer with a known frequency.
    pub fn pm_timer(&self) -> Option<PmTimer> {
        let table = self.table(Signature::FADT, fadt::SHORTEST)?;
        tell(Signature::FADT, fadt::pm_timer(&table)).flatten()
    }

    /// The way to all tables.
    fn tables(&self) -> Result<Tables<'static, &Self>, AcpiError> {
        Tables::new(self, PhysAddr(self.start_info.raw().rsdp_paddr))
    }

    /// The table with a name. Nothing is left of one that cannot be believed but a line in the log.
    fn table(&self, signature: Signature, shortest: usize) -> Option<Table<'static>> {
        let table = self
            .tables()
            .and_then(|tables| tables.find(signature, shortest));
        tell(signature, table).flatten()
    }

    /// The host bridges and what is behind the IOMMU, as far as ACPI says.
    ///
    /// A machine without an ECAM gets one bridge without: its configuration space is behind ports.
    ///
    /// # Errors
    ///
    /// [`MachineError::Description`] if the table for that (VIOT) is there and cannot be believed: who is behind the
    /// IOMMU is no matter for guesses then.
    pub fn describe(&self) -> Result<Described, MachineError> {
        let topology = match self.table(Signature::VIOT, viot::HEADER_LEN) {
            None => Topology::new(),
            Some(table) => {
                let description = from_viot(table.bytes()).map_err(|error| {
                    log::error!("VIOT: {error}");
                    MachineError::Description
                })?;
                for warning in &description.warnings {
                    log::warn!("VIOT: {warning}");
                }
                description.topology
            }
        };
        if let Some(tables) = tell(Signature::RSDT, self.tables()) {
            let names: Vec<Signature> = tables.signatures().collect();
            log::debug!("ACPI tables: {names:?}");
        }
        let spaces = self.allocations();
        let windows = self.windows(&spaces);
        let bridge = |segment, buses, ecam| HostBridge {
            segment,
            buses,
            ecam,
            windows: windows.clone(),
            node: None,
        };
        let mut host_bridges: Vec<HostBridge> = spaces
            .iter()
            .map(|space| bridge(space.segment, space.buses, Some(space.ecam)))
            .collect();
        if host_bridges.is_empty() {
            host_bridges.push(bridge(Segment(0), BusRange::ALL, None));
        }
        Ok(Described {
            host_bridges,
            topology,
            slots: Vec::new(),
        })
    }

    /// The configuration spaces in memory.
    fn allocations(&self) -> Vec<Allocation> {
        let table = self.table(Signature::MCFG, mcfg::SHORTEST);
        let entries = table.and_then(|table| tell(Signature::MCFG, mcfg::allocations(&table)));
        entries
            .into_iter()
            .flatten()
            .filter_map(|entry| tell(Signature::MCFG, entry))
            .collect()
    }

    /// Where PCI may put registers, below and beyond 4 GiB.
    ///
    /// Below, it is what follows the last memory and the ECAM, up to the first thing that has a
    /// fixed place: the I/O APIC, as a rule. SeaBIOS places BARs there, too. Ports are left to the
    /// firmware: they are no memory, and so have no window here.
    fn windows(&self, spaces: &[Allocation]) -> Vec<Window> {
        let mut taken: Vec<PhysRange> = self.memory(|_| true).collect();
        taken.extend(spaces.iter().map(|space| space.ecam));
        if let Some(madt) = self.madt() {
            let io_apics = madt.io_apics().map(|io_apic| io_apic.address);
            let apics = io_apics.chain([madt.local_apic()]);
            taken.extend(apics.filter_map(|address| PhysRange::from_len(address, APIC)));
        }
        let memory = self.memory(|kind| kind == MemmapType::Ram);
        let ends: Vec<u64> = memory
            .chain(spaces.iter().map(|space| space.ecam))
            .map(|range| range.end().0)
            .collect();
        let behind = |last: u64| {
            let ends = ends.iter().filter(|end| **end <= last);
            ends.max().map_or(0, |end| end.saturating_add(1))
        };
        let mut windows = vec![first_free(behind(LAST_32), LAST_32, &taken)];
        if let Some(floor) = behind(u64::MAX)
            .max(LAST_32 + 1)
            .checked_next_multiple_of(GIB)
        {
            windows.push(first_free(floor, reach() - 1, &taken));
        }
        let window = |range: PhysRange| {
            let start = range.start();
            Window::new(WindowKind::Memory, start.0, start, range.len()?)
        };
        windows.into_iter().flatten().filter_map(window).collect()
    }
}

impl Memory<'static> for &Firmware {
    fn read(&self, address: PhysAddr, len: u64) -> Option<&'static [u8]> {
        let range = PhysRange::from_len(address, len)?;
        // Tables are in memory that the map keeps for them. The rest may be changed by anybody.
        if self
            .memory(|kind| kind == MemmapType::Ram)
            .any(|memory| memory.overlaps(&range))
        {
            return None;
        }
        bytes(address.0, len)
    }
}

/// Physical memory as bytes; `None` where nothing is mapped.
fn bytes(address: u64, len: u64) -> Option<&'static [u8]> {
    let pointer = direct_map::pointer(address, len)?;
    // SAFETY: the direct map covers the range, the callers read only what nobody writes to
    // (`Firmware::free_memory` spares it), and bytes have no invalid values.
    Some(unsafe { slice::from_raw_parts(pointer.as_ptr(), len as usize) })
}

/// The text at an address, which ends with a zero; empty if there is none.
fn text(address: u64) -> Result<&'static str, &'static str> {
    if address == 0 {
        return Ok("");
    }
    let len = (0..MAX_ARGUMENTS)
        .find(|len| matches!(bytes(address.saturating_add(*len), 1), None | Some([0])))
        .ok_or("the boot arguments do not end")?;
    let text = bytes(address, len).ok_or("the boot arguments are not in memory")?;
    core::str::from_utf8(text).map_err(|_| "the boot arguments are not text")
}

/// Leaves a line in the log for an error.
fn tell<T>(table: Signature, result: Result<T, AcpiError>) -> Option<T> {
    result
        .inspect_err(|error| log::warn!("ACPI table {table:?}: {error:?}"))
        .ok()
}
