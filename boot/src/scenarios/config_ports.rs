//! Configuration space through ports: another way to the same registers.

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_iommu::topology::RequesterId;
use virtio_iommu::topology::pci::walk;

use crate::arch::{Firmware, PciPorts};
use crate::ecam::Ecam;
use crate::report::{Checked, Report};

/// The first byte of this register is the firmware's note of an interrupt line, without any effect.
const INTERRUPT_LINE: u8 = 0x3c;

/// `config-ports`: what ports 0xCF8 and 0xCFC read and write is what the ECAM reads and writes.
pub fn run(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(7);
    let described = report.need("description", firmware.describe())?;
    let mut bridges = described.host_bridges.iter();
    let found = bridges.find_map(|bridge| Some((bridge, Ecam::new(bridge)?)));
    let (bridge, mut ecam) = report.require("there_is_an_ecam", found.ok_or("none"))?;
    // SAFETY: one CPU, no interrupt handlers, and this scenario uses nothing else.
    let mut ports = unsafe { PciPorts::new() };

    let by_ports = walk(&mut ports, bridge);
    let by_memory = walk(&mut ecam, bridge);
    report.that("there_are_functions", by_ports.functions.len() > 1);
    report.that("both_walks_find_the_same", by_ports == by_memory);

    let functions = by_memory.functions.iter();
    let mut functions = functions.map(|function| function.address.function.device_function());
    let difference = functions
        .clone()
        .flat_map(|function| {
            (0..=u8::MAX)
                .step_by(4)
                .map(move |offset| (function, offset))
        })
        .find(|(function, offset)| {
            ports.read_word(*function, *offset) != ecam.read_word(*function, *offset)
        });
    report.equal("every_register_reads_the_same", difference, None);

    let mut ids = (0..=u16::MAX).map(RequesterId);
    let absent = ids.find(|id| by_memory.function(*id).is_none());
    let absent = report.need("an_absent_function", absent.ok_or("none"))?;
    let first = report.need("a_function", functions.next().ok_or("none"))?;
    let impossible = DeviceFunction {
        device: 32,
        ..first
    };
    // The last one is between two registers.
    let nothing = [(absent.device_function(), 0), (impossible, 0), (first, 2)]
        .map(|(function, offset)| ports.read_word(function, offset));
    report.equal("where_nothing_is_ones_are_read", nothing, [u32::MAX; 3]);

    let last = report.need("another_function", functions.next_back().ok_or("none"))?;
    let before = ecam.read_word(last, INTERRUPT_LINE);
    ports.write_word(last, INTERRUPT_LINE, before ^ 0x5a);
    let changed = ecam.read_word(last, INTERRUPT_LINE);
    report.equal("the_ecam_reads_what_ports_write", changed, before ^ 0x5a);
    ecam.write_word(last, INTERRUPT_LINE, before);
    let restored = ports.read_word(last, INTERRUPT_LINE);
    report.equal("ports_read_what_the_ecam_writes", restored, before);
    Ok(())
}
