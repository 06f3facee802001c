//! Message-signalled interrupts of an endpoint behind the IOMMU.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use virtio_iommu::{Access, Doorbell, DoorbellError, EndpointId, Iova, PhysAddr};
use virtio_iommu::{IovaRange, ReservedKind};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, shut_down};
use super::watch::{self, EduWatch, IommuWatch};
use crate::arch;
use crate::arch::Firmware;
use crate::console::println;
use crate::interrupts::{self, Message, TimedOut};
use crate::refusal::{NO_MAPPING, Refusal, drain, no_fault};
use crate::report::{Checked, Report};

/// Messages of `edu` reach any address: its mask is for the transfers only. Doorbells are found
/// below 4 GiB all the same.
const LIMIT: Iova = Iova(u32::MAX as u64);

/// Where nothing is mapped, and where no doorbell is on any machine.
const NOWHERE: PhysAddr = PhysAddr(0x40_0000);

/// How long a message may take that must not arrive.
const A_WHILE: Duration = Duration::from_millis(5);

/// The message that the first `edu` is to send: one check.
fn message(report: &mut Report, lab: &Lab) -> Checked<Message> {
    let function = lab.machine.pci.function(lab.edus[0].function());
    let function = report.need("edu_on_the_bus", function.ok_or("not there"))?;
    let message = report.require("message", interrupts::message(function.requester))?;
    println!(
        "a message is {:#x} to {}, and raises {}",
        message.data, message.address, message.line
    );
    Ok(message)
}

/// How the IOMMU has to report a message that it did not let pass.
fn refused(endpoint: EndpointId, doorbell: PhysAddr) -> Refusal {
    Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start: doorbell.0,
        len: 4,
        access: Access::WRITE,
    }
}

/// `msi`: messages of an attached endpoint arrive; those that go elsewhere do not.
pub fn msi(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(17 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    watch::start(report, firmware)?;
    let message = message(report, &lab)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let domain = report.need("domain", iommu.create_domain(2))?;
    // SAFETY: the page of a doorbell has nothing but doorbells.
    let early = unsafe { domain.map_doorbell(endpoint, message.address, LIMIT) };
    report.equal(
        "there_is_no_way_before_attach",
        early.err(),
        Some(DoorbellError::NotAttached),
    );
    report.need("attach", domain.attach(endpoint))?;
    // SAFETY: as above.
    let doorbell = unsafe { domain.map_doorbell(endpoint, message.address, LIMIT) };
    let doorbell = report.require("there_is_a_way_to_the_doorbell", doorbell)?;
    println!("{doorbell:?}");
    // On riscv64 nothing tells the IOMMU of doorbells, elsewhere its MSI region does.
    let mapped = usize::from(arch::NAME == "riscv64");
    let bypasses = doorbell == Doorbell::Bypass(message.address);
    report.equal("it_bypasses_where_it_can", bypasses, mapped == 0);
    report.equal("or_is_mapped", domain.mapped(), mapped);
    let edu = &mut lab.edus[0];
    let (edu_watch, registration) = EduWatch::register(report, edu, message.line)?;
    let to = Some((doorbell.address(), message.data));
    let sends = edu.send_messages(&mut lab.machine.config, to);
    report.need("edu_sends_messages", sends)?;

    for (name, reason) in [("message_arrives", 0x11), ("another_arrives", 0x22)] {
        let raised = edu_watch.raised.load(Relaxed);
        edu.raise(reason);
        let mut reasons = 0;
        let slept = watch::sleep(|| {
            reasons |= edu_watch.take_reasons();
            reasons != 0
        });
        let raised = edu_watch.raised.load(Relaxed) - raised;
        report.equal(name, (slept.is_ok(), reasons, raised), (true, reason, 1));
    }
    no_fault("nothing_was_refused", report, &iommu);

    // Without its handler.
    drop(registration);
    let raised = edu_watch.raised.load(Relaxed);
    edu.raise(0x33);
    let slept = interrupts::sleep_until(A_WHILE, || edu_watch.raised.load(Relaxed) != raised);
    report.equal("a_message_for_nobody_ends", slept, Err(TimedOut));
    let registration = edu_watch.enlist(report, message.line)?;
    report.equal("a_late_handler_takes_it", edu_watch.take_reasons(), 0x33);
    edu.raise(0x44);
    let slept = watch::sleep(|| edu_watch.take_reasons() == 0x44);
    report.that("messages_arrive_again", slept.is_ok());

    // Where no doorbell is, a message is an access like any other.
    let config = &mut lab.machine.config;
    let sends = edu.send_messages(config, Some((NOWHERE.0, message.data)));
    report.need("edu_sends_messages", sends)?;
    let raised = edu_watch.raised.load(Relaxed);
    edu.raise(0x55);
    let slept = interrupts::sleep_until(A_WHILE, || edu_watch.raised.load(Relaxed) != raised);
    report.equal("a_message_elsewhere_is_lost", slept, Err(TimedOut));
    let judged = refused(endpoint, NOWHERE).compare(&drain(&iommu));
    report.equal("and_reported", judged, Ok(()));
    edu.interrupt_side().acknowledge(0x55);

    let sends = edu.send_messages(&mut lab.machine.config, None);
    report.need("edu_sends_none", sends)?;
    report.equal(
        "doorbell_is_given_back",
        domain.unmap_doorbell(doorbell),
        Ok(()),
    );
    report.equal("no_mapping_is_left", domain.mapped(), 0);
    drop(registration);
    drop(edu_watch);
    drop(domain);
    shut_down(report, iommu, before)
}

/// `msi-unmapped`: a message without a mapping is lost, and reported; with one it arrives.
pub fn msi_unmapped(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(19 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    watch::start(report, firmware)?;
    let (iommu_line, _) = watch::lines(report, &lab, firmware)?;
    let message = message(report, &lab)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let domain = report.need("domain", iommu.create_domain(2))?;
    report.need("attach", domain.attach(endpoint))?;
    let (watch, registration) = IommuWatch::register(report, &iommu, iommu_line)?;
    let edu = &mut lab.edus[0];
    let (edu_watch, edu_registration) = EduWatch::register(report, edu, message.line)?;

    let config = &mut lab.machine.config;
    let sends = edu.send_messages(config, Some((message.address.0, message.data)));
    report.need("edu_sends_messages", sends)?;
    edu.raise(1);
    let slept = watch::sleep(|| watch.take_pending());
    report.that("the_fault_interrupts", slept.is_ok());
    let judged = refused(endpoint, message.address).compare(&drain(&iommu));
    report.equal("the_message_is_reported", judged, Ok(()));
    let slept = interrupts::sleep_until(A_WHILE, || edu_watch.raised.load(Relaxed) != 0);
    report.that("the_message_is_lost", slept.is_err());
    report.equal("edu_still_asks", edu.interrupt_side().status(), 1);
    edu.interrupt_side().acknowledge(1);

    // SAFETY: the page of a doorbell has nothing but doorbells.
    let doorbell = unsafe { domain.map_doorbell(endpoint, message.address, LIMIT) };
    let doorbell = report.require("doorbell_is_mapped", doorbell)?;
    report.that(
        "at_an_address_of_its_own",
        matches!(doorbell, Doorbell::Mapped(_)) && domain.mapped() == 1,
    );
    let address = doorbell.address();
    report.need(
        "edu_sends_messages",
        edu.send_messages(config, Some((address, message.data))),
    )?;
    edu.raise(2);
    let slept = watch::sleep(|| edu_watch.take_reasons() == 2);
    report.that("now_the_message_arrives", slept.is_ok());
    report.equal("once", edu_watch.raised.load(Relaxed), 1);
    no_fault("nothing_more_was_refused", report, &iommu);

    report.equal(
        "doorbell_is_given_back",
        domain.unmap_doorbell(doorbell),
        Ok(()),
    );
    report.equal("no_mapping_is_left", domain.mapped(), 0);
    edu.raise(4);
    let slept = watch::sleep(|| watch.take_pending());
    report.that("then_a_fault_interrupts_again", slept.is_ok());
    let judged = refused(endpoint, PhysAddr(address)).compare(&drain(&iommu));
    report.equal("the_late_message_is_reported", judged, Ok(()));
    report.equal("and_lost", edu_watch.raised.load(Relaxed), 1);
    edu.interrupt_side().acknowledge(4);

    report.need("edu_sends_none", edu.send_messages(config, None))?;
    drop((registration, edu_registration));
    drop((watch, edu_watch));
    drop(domain);
    shut_down(report, iommu, before)
}

/// `doorbell-refused`: a reserved region covers the doorbell.
pub fn doorbell_refused(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(9 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    watch::start(report, firmware)?;
    let message = message(report, &lab)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let doorbell = Iova(message.address.0);
    let region: Option<IovaRange> = iommu
        .reserved_regions(endpoint)
        .unwrap_or_default()
        .iter()
        .find(|region| region.kind == ReservedKind::Reserved && region.range.contains(doorbell))
        .map(|region| region.range);
    let region = report.require("the_doorbell_is_reserved", region.ok_or("it is not"))?;
    let domain = report.need("domain", iommu.create_domain(2))?;
    report.need("attach", domain.attach(endpoint))?;
    // SAFETY: the page of a doorbell has nothing but doorbells.
    let refusal = unsafe { domain.map_doorbell(endpoint, message.address, LIMIT) };
    report.equal(
        "there_is_no_way_to_it",
        refusal.err(),
        Some(DoorbellError::Reserved(region)),
    );
    report.equal("nothing_is_mapped", domain.mapped(), 0);

    let edu = &mut lab.edus[0];
    let (edu_watch, registration) = EduWatch::register(report, edu, message.line)?;
    let config = &mut lab.machine.config;
    let sends = edu.send_messages(config, Some((message.address.0, message.data)));
    report.need("edu_sends_messages", sends)?;
    edu.raise(1);
    let slept = interrupts::sleep_until(A_WHILE, || edu_watch.raised.load(Relaxed) != 0);
    report.that("a_message_there_is_lost", slept.is_err());
    let judged = refused(endpoint, message.address).compare(&drain(&iommu));
    report.equal("and_reported", judged, Ok(()));
    edu.interrupt_side().acknowledge(1);

    report.need("edu_sends_none", edu.send_messages(config, None))?;
    drop(registration);
    drop(edu_watch);
    drop(domain);
    report.equal(
        "no_interrupt_was_unwanted",
        interrupts::counters().unwanted,
        0,
    );
    shut_down(report, iommu, before)
}
