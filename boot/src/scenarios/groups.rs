//! Isolation groups: functions behind a bridge that hides who they are.

use alloc::vec::Vec;

use virtio_iommu::topology::groups::{Groups, Policy};
use virtio_iommu::topology::pci::BridgeKind;
use virtio_iommu::topology::{Placement, RequesterId};
use virtio_iommu::{Access, AttachError, EndpointId, MapOptions, Options, StartError};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, copy, done, shut_down};
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::edu;
use crate::refusal::{NO_DOMAIN, NO_MAPPING, Refusal, no_fault};
use crate::report::{Checked, Report, Stop};

const DATA: [Pattern; 2] = [Pattern::Seed(0x6709_0001), Pattern::Seed(0x6709_0002)];
const OLD: Pattern = Pattern::Seed(0x6709_0003);

/// Where nothing is mapped.
const NOWHERE: u64 = 0x40_0000;

/// `pci-bridge`: behind a conventional bridge everybody has the id of the bridge.
pub fn pci_bridge(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, BridgeKind::Conventional)
}

/// `pcie-pci-bridge`: behind a bridge from PCI Express everybody is 00.0 of the bus behind it.
pub fn pcie_pci_bridge(report: &mut Report, firmware: &Firmware) -> Checked {
    run(report, firmware, BridgeKind::ExpressToPci)
}

fn run(report: &mut Report, firmware: &Firmware, kind: BridgeKind) -> Checked {
    report.plan(23 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 2)?;
    let tree = &lab.machine.pci;
    let first = tree.function(lab.edus[0].function());
    let bridge = first.and_then(|edu| tree.function(edu.parent?));
    let found = bridge.and_then(|bridge| Some((bridge.address.function, bridge.bridge?)));
    let (own, bridge) = report.need("bridge", found.ok_or("edu is not behind a bridge"))?;
    report.equal("edu_is_behind_that_bridge", bridge.kind, kind);
    let alias = match kind {
        BridgeKind::ExpressToPci => RequesterId::new(bridge.secondary, 0, 0),
        _ => Some(own),
    };
    let alias = EndpointId(report.need("alias", alias.ok_or("none"))?.0.into());
    let functions: Vec<EndpointId> = (lab.edus.iter())
        .map(|edu| EndpointId(edu.function().0.into()))
        .collect();
    report.that(
        "neither_has_the_id_itself",
        functions.iter().all(|function| *function != alias),
    );
    let endpoints = lab.endpoints(report)?;
    report.equal("both_have_the_same_id", &endpoints[..], &[alias, alias][..]);

    // The group, as plain data for the driver.
    let index = match lab.edus[0].placement() {
        Placement::Behind { iommu, .. } => iommu,
        Placement::NotBehind => return Err(Stop),
    };
    let groups = Groups::new(&lab.machine.topology, [&lab.machine.pci], Policy::default());
    let own = EndpointId(own.0.into());
    let mut expected = alloc::vec![own, alias];
    expected.sort_unstable();
    expected.dedup();
    let group = groups.of_endpoint(index, alias);
    let group = report.need("group", group.ok_or("none"))?;
    report.equal(
        "the_group_is_the_bridge_and_the_id",
        &group.endpoints,
        &expected,
    );
    let addresses: Vec<RequesterId> = (group.functions.iter())
        .map(|address| address.function)
        .collect();
    report.that(
        "both_are_in_it",
        lab.edus
            .iter()
            .all(|edu| addresses.contains(&edu.function())),
    );
    let list = groups.complete(index, &[alias]);
    report.equal("the_list_is_the_group", &list, &expected);
    let members = [&group.endpoints[..]];

    // A list that leaves out a part of the group is refused, before anything is done.
    let others: Vec<EndpointId> = (list.iter().copied())
        .filter(|endpoint| *endpoint != alias)
        .collect();
    let mut options = Options::default();
    options.groups = &members;
    let start = lab.try_start(report, &others, options)?;
    report.equal(
        "a_list_with_a_part_of_it_is_refused",
        start.err(),
        Some(StartError::Group(alias)),
    );

    let mut target = buffer(report, 4096, OLD)?;
    let sources = [
        buffer(report, 4096, DATA[0])?,
        buffer(report, 4096, DATA[1])?,
    ];
    let before = Baseline::now();
    let iommu = lab.try_start(report, &list, options)?;
    let iommu = report.require("driver_starts", iommu)?;
    let domain = report.need("domain", iommu.create_domain(4))?;
    let other = report.need("other_domain", iommu.create_domain(4))?;
    let (first_member, last_member) = (expected[0], expected[expected.len() - 1]);
    report.require("one_member_is_attached", domain.attach(first_member))?;
    report.equal(
        "another_domain_refuses_the_last_member",
        other.attach(last_member),
        Err(AttachError::Attached(domain.id())),
    );
    report.equal(
        "and_the_first",
        other.attach(first_member),
        Err(AttachError::Attached(domain.id())),
    );

    let options = |access| MapOptions::new(access).with_limit(edu::LIMIT);
    // SAFETY: only the devices under test use the buffers; all outlive the attachment.
    let to = unsafe { domain.map(target.range(), options(Access::WRITE)) };
    let to = report.need("map_target", to)?.start().0;
    for (i, name) in ["first_edu_moves_every_byte", "second_edu_moves_every_byte"]
        .into_iter()
        .enumerate()
    {
        // SAFETY: as above.
        let from = unsafe { domain.map(sources[i].range(), options(Access::READ)) };
        let from = report.need("map_source", from)?.start().0;
        target.fill(OLD);
        copy(report, &mut lab.edus[i], from, to, 4096)?;
        report.equal(name, target.compare(DATA[i]), Ok(()));
    }
    no_fault("nothing_was_refused", report, &iommu);
    let refusal = |reasons, start| Refusal {
        endpoint: alias,
        reasons,
        start,
        len: 4,
        access: Access::WRITE,
    };
    for (i, name) in [
        "fault_of_the_first_has_the_id",
        "fault_of_the_second_has_the_id",
    ]
    .into_iter()
    .enumerate()
    {
        done(report, lab.edus[i].write_memory(NOWHERE, 4))?;
        refusal(NO_MAPPING, NOWHERE).check(name, report, &iommu);
    }

    // Released as a whole, by any member, and taken as a whole by another domain.
    target.fill(OLD);
    report.require("the_last_member_is_detached", domain.detach(last_member))?;
    done(report, lab.edus[0].write_memory(to, 4))?;
    refusal(NO_DOMAIN, to).check("the_group_is_detached", report, &iommu);
    report.require(
        "another_domain_takes_the_last_member",
        other.attach(last_member),
    )?;
    report.equal(
        "the_first_belongs_to_it_too",
        domain.attach(first_member),
        Err(AttachError::Attached(other.id())),
    );
    done(report, lab.edus[1].write_memory(to, 4))?;
    refusal(NO_MAPPING, to).check("the_old_mapping_is_not_there", report, &iommu);
    report.equal("memory_is_untouched", target.compare(OLD), Ok(()));
    report.equal(
        "the_function_itself_is_nobody",
        domain.attach(functions[0]),
        Err(AttachError::UnknownEndpoint),
    );

    drop((domain, other));
    shut_down(report, iommu, before)
}
