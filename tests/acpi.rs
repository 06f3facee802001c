//! The kernel's reader of ACPI tables, on the host: its own tests, real tables, and broken ones.
//!
//! The kernel itself has no test harness. Its reader needs nothing of it, so the same files are
//! compiled here once more.

#![forbid(unsafe_code)]

extern crate alloc;

// What only the kernel needs is not needed here.
#[allow(dead_code)]
#[path = "../boot/src/acpi/mod.rs"]
mod acpi;

use acpi::fadt::pm_timer;
use acpi::madt::Madt;
use acpi::mcfg::allocations;
use acpi::root::Tables;
use acpi::testing::{FakeMemory, Q35};
use acpi::{Memory, Signature, fadt, madt, mcfg};
use proptest::prelude::*;
use virtio_iommu::topology::viot::{self, from_viot};
use virtio_iommu::topology::{IommuIndex, IommuLocation, PciAddress, Placement};
use virtio_iommu::topology::{RequesterId, Segment};
use virtio_iommu::{EndpointId, PhysAddr};

/// How much there is in the unbroken tables.
const ALL: usize = 15;

/// Reads all that the kernel reads, and returns how much of it was there.
fn read_everything<'m>(memory: FakeMemory<'m>, rsdp: PhysAddr) -> usize {
    let Ok(tables) = Tables::new(memory, rsdp) else {
        return 0;
    };
    let mut seen = tables.signatures().count();
    if let Ok(Some(table)) = tables.find(Signature::FADT, fadt::SHORTEST) {
        seen += pm_timer(&table).is_ok_and(|timer| timer.is_some()) as usize;
    }
    if let Ok(Some(table)) = tables.find(Signature::MCFG, mcfg::SHORTEST) {
        seen += allocations(&table).map_or(0, |all| all.filter(Result::is_ok).count());
    }
    if let Ok(Some(table)) = tables.find(Signature::MADT, madt::SHORTEST)
        && let Ok(madt) = Madt::new(&table)
    {
        seen += madt.processors().count() + madt.io_apics().count();
        seen += (0..=u8::MAX)
            .filter_map(|line| madt.pci(line))
            .filter(|route| route.polarity == madt::Polarity::High)
            .count();
        seen += usize::from(madt.local_apic() != PhysAddr(0));
    }
    seen
}

/// The bytes of the real tables, as two stretches of memory.
fn q35() -> [(u64, Vec<u8>); 2] {
    Q35.pieces.map(|(address, bytes)| (address, bytes.to_vec()))
}

fn fake(pieces: &[(u64, Vec<u8>); 2]) -> FakeMemory<'_> {
    FakeMemory::new([(pieces[0].0, &pieces[0].1), (pieces[1].0, &pieces[1].1)])
}

/// Makes the sum of the table that begins at `start` good again, if it is one.
fn mend(bytes: &mut [u8], start: usize) {
    let len = bytes.get(start + 4..start + 8);
    let Some(len) = len.map(|len| u32::from_le_bytes(len.try_into().unwrap())) else {
        return;
    };
    let Some(table) = start
        .checked_add(len as usize)
        .and_then(|end| bytes.get_mut(start..end))
    else {
        return;
    };
    if table.len() >= 36 {
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        table[9] = table[9].wrapping_sub(sum);
    }
}

#[test]
fn the_unbroken_tables_are_read() {
    // Six tables, a timer, an ECAM, a processor, an I/O APIC, four interrupts of PCI, a local APIC.
    let pieces = q35();
    assert_eq!(read_everything(fake(&pieces), Q35.rsdp), ALL);
}

#[test]
fn the_driver_reads_the_table_that_the_kernel_finds() {
    let table = Q35.table(Signature::VIOT, viot::HEADER_LEN);
    let description = from_viot(table.bytes()).unwrap();
    assert_eq!(description.warnings, []);
    let (segment, function) = (Segment(0), RequesterId(0x08));
    let iommu = IommuLocation::Pci(PciAddress { segment, function });
    assert_eq!(description.topology.iommus(), [iommu]);
    let edu = description.topology.pci(segment, RequesterId(0x10));
    let (iommu, endpoint) = (IommuIndex(0), EndpointId(0x10));
    assert_eq!(edu, Placement::Behind { iommu, endpoint });
}

#[test]
fn tables_may_end_anywhere() {
    let mut pieces = q35();
    while pieces[1].1.pop().is_some() {
        assert!(read_everything(fake(&pieces), Q35.rsdp) < ALL);
    }
    let memory = fake(&pieces);
    assert_eq!(memory.read(PhysAddr(pieces[1].0), 1), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With good sums, so that the damage is looked at.
    #[test]
    fn damage_is_no_reason_to_panic(
        damage in prop::collection::vec((0usize..668, any::<u8>()), 1..8),
        mended in any::<bool>(),
    ) {
        let mut pieces = q35();
        // Where the tables begin: FACP, APIC, HPET, MCFG, VIOT, WAET, RSDT.
        let starts = [0, 244, 364, 420, 480, 568, 608];
        for (offset, value) in damage {
            pieces[1].1[offset] = value;
        }
        if mended {
            starts.iter().for_each(|start| mend(&mut pieces[1].1, *start));
        }
        read_everything(fake(&pieces), Q35.rsdp);
    }

    #[test]
    fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Whatever they are, as the entries of each table that has some.
        for name in [b"APIC", b"MCFG", b"FACP", b"XSDT"] {
            let rsdp = acpi::testing::rsdp(2, 0, 0x200);
            let root = acpi::testing::table(b"XSDT", &0x1000u64.to_le_bytes());
            let table = acpi::testing::table(name, &bytes);
            let pieces = [(0x100, &rsdp[..]), (0x200, &root), (0x1000, &table)];
            read_everything(FakeMemory::new(pieces), PhysAddr(0x100));
        }
    }
}
