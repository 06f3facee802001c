//! Disks behind the IOMMU: what an I/O costs in each mode.
//!
//! Each mode has a disk of its own. In each round, for each case, the modes take turns, in an order
//! that changes with the round; a round before them looks at all data, and measures nothing.
//!
//! | module | idea |
//! |---|---|
//! | [`case`] | what is done, in which modes |
//! | [`content`] | what is on the disk, and what is written there |
//! | [`store`] | buffers |
//! | [`way`] | ways to show a buffer to a disk: physical, static, strict |
//! | [`deferred`] | the same, with UNMAPs that are put off |
//! | [`bounced`] | the same, with a copy |
//! | [`engine`] | does I/Os, some at once |
//! | [`gauge`] | what is measured of them |
//! | [`stand`] | the disks, each with its address space |
//! | [`turns`] | who is measured when, and whether the data is right |

mod bounced;
mod case;
mod content;
mod deferred;
mod engine;
mod gauge;
mod stand;
mod store;
mod turns;
mod way;

use alloc::vec::Vec;

use virtio_iommu::{Iommu, Options};

pub use self::case::Device;
use self::gauge::Gauge;
use self::turns::Turns;
use crate::arch::Firmware;
use crate::block::BlockDevice;
use crate::block::nvme::Nvme;
use crate::block::virtio::VirtioBlk;
use crate::command_line::BenchOptions;
use crate::machine::Machine;
use crate::platform::KernelPlatform;
use crate::refusal::no_fault;
use crate::report::{Checked, Report};

/// The PCI id of a kind of disk.
const fn id(device: Device) -> (u16, u16) {
    match device {
        Device::Blk => VirtioBlk::ID,
        Device::Nvme => Nvme::ID,
    }
}

/// `io`: the benchmark.
pub fn run(report: &mut Report, options: BenchOptions, firmware: &Firmware) -> Checked {
    report.plan(5);
    let mut machine = report.need("machine", Machine::discover(firmware))?;
    let gauge = Gauge::new(options.measure, &machine, report)?;
    let mut kinds = Vec::new();
    let mut endpoints = Vec::new();
    for device in Device::ALL {
        if options.device.is_some_and(|only| only != device) {
            continue;
        }
        let functions = stand::functions(&machine, device, id(device), report)?;
        let modes = device.modes().iter().zip(&functions);
        let behind = modes.filter(|(mode, _)| **mode != case::Mode::None);
        endpoints.extend(behind.filter_map(|(_, function)| stand::endpoint(&machine, function)));
        if !functions.is_empty() {
            kinds.push((device, functions));
        }
    }
    let transport = report.need("transport", machine.iommu_transport())?;
    let iommu = Iommu::start(transport, KernelPlatform, &endpoints, Options::default());
    let iommu = report.require("driver_starts", iommu)?;
    report.need("disks", (!kinds.is_empty()).then_some(()).ok_or("none"))?;
    let mut turns = Turns::new(gauge, options.rounds);
    for (device, functions) in kinds {
        match device {
            Device::Blk => {
                turns.kind::<VirtioBlk>(device, &functions, &mut machine, &iommu, report)?;
            }
            Device::Nvme => turns.kind::<Nvme>(device, &functions, &mut machine, &iommu, report)?,
        }
    }
    report.pass("what_is_read_and_written_is_right");
    no_fault("nothing_was_refused", report, &iommu);
    report.require("the_iommu_confirms_its_reset", iommu.shutdown())?;
    Ok(())
}
