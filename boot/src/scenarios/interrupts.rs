//! Faults that nobody polls for.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use virtio_iommu::{Access, EndpointId, Iova, MapOptions, Pending};

use super::lab::{Baseline, Lab, SHUT_DOWN_CHECKS, buffer, done, shut_down};
use super::watch::{self, EduWatch, IommuWatch};
use crate::arch;
use crate::arch::Firmware;
use crate::buffer::Pattern;
use crate::clock;
use crate::console::println;
use crate::edu::{self, MAX_TRANSFER, TRANSFER_DONE};
use crate::interrupts::{self, TimedOut, counters};
use crate::lock::Mutex;
use crate::refusal::{NO_MAPPING, Refusal, drain, no_fault};
use crate::report::{Checked, Report};

/// Where nothing is mapped.
const NOWHERE: u64 = 0x40_0000;

/// A reason for `edu` to interrupt that means nothing.
const REASON: u32 = 0x2a;

/// A write that has to be refused.
fn refused_write(endpoint: EndpointId, start: u64, len: usize) -> Refusal {
    Refusal {
        endpoint,
        reasons: NO_MAPPING,
        start,
        len: len as u64,
        access: Access::WRITE,
    }
}

/// How many checks [`locks_mask`] does.
const LOCK_CHECKS: u32 = 4;

/// The lock that the driver gets masks interrupts, and gives them back with the last one.
fn locks_mask(report: &mut Report) {
    /// Whether interrupts are on.
    fn on() -> bool {
        let on = arch::interrupts_off();
        if on {
            arch::interrupts_on();
        }
        on
    }
    let (first, second) = (Mutex::new(()), Mutex::new(()));
    report.that("interrupts_are_on", on());
    let outer = first.lock();
    report.that("a_lock_masks_interrupts", !on());
    let inner = second.lock();
    // Not in the order of a stack.
    drop(outer);
    report.that("the_last_lock_still_masks_them", !on());
    drop(inner);
    report.that("without_a_lock_they_are_on_again", on());
}

/// `fault-interrupt`: a fault wakes the CPU, again and again; other interrupts do no harm.
pub fn fault_interrupt(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(3 + LOCK_CHECKS + 1 + 3 * 4 + 2 + 1 + 3 + 4 + 7 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    // QEMU's PLIC tells a level once, when it rises: it cannot interrupt for ever.
    let insists = watch::start(report, firmware)? != "PLIC";
    let (iommu_line, edu_line) = watch::lines(report, &lab, firmware)?;
    let shared = iommu_line == edu_line;
    locks_mask(report);
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let domain = report.need("domain", iommu.create_domain(1))?;
    report.need("attach", domain.attach(endpoint))?;
    let (watch, registration) = IommuWatch::register(report, &iommu, iommu_line)?;
    let (edu_watch, edu_registration) = EduWatch::register(report, &lab.edus[0], edu_line)?;
    let edu = &mut lab.edus[0];

    for (round, start) in [("first", NOWHERE), ("second", 0x1000), ("third", 0x80_0000)] {
        let raised = watch.raised.load(Relaxed);
        done(report, edu.start_write(start, 4, false))?;
        let slept = watch::sleep(|| watch.take_pending());
        report.that(
            &alloc::format!("{round}_fault_wakes_the_cpu"),
            slept.is_ok_and(|slept| slept.times > 0),
        );
        report.equal(
            &alloc::format!("{round}_fault_interrupts_once"),
            watch.raised.load(Relaxed) - raised,
            1,
        );
        let faults = drain(&iommu);
        let judged = refused_write(endpoint, start, 4).compare(&faults);
        report.equal(&alloc::format!("{round}_fault_is_decoded"), judged, Ok(()));
        report.equal(&alloc::format!("{round}_fault_is_alone"), faults.len(), 1);
        done(report, edu.finish())?;
    }

    // Faults that wait keep others quiet; pulling them lets the next interrupt.
    let raised = watch.raised.load(Relaxed);
    done(report, edu.start_write(NOWHERE, 4, false))?;
    let slept = watch::sleep(|| watch.take_pending());
    done(report, edu.finish())?;
    done(report, edu.write_memory(NOWHERE + 0x1000, 4))?;
    report.equal(
        "only_the_first_of_two_faults_interrupts",
        (slept.is_ok(), watch.raised.load(Relaxed) - raised),
        (true, 1),
    );
    let seen: Vec<Option<Iova>> = drain(&iommu).iter().map(|fault| fault.address).collect();
    report.equal(
        "both_are_pulled",
        seen,
        [Some(Iova(NOWHERE)), Some(Iova(NOWHERE + 0x1000))],
    );
    report.equal(
        "a_call_without_an_interrupt_says_so",
        iommu.handle_interrupt(),
        Pending::default(),
    );

    // An interrupt of another device, on the same line or not.
    let (calls, raised) = (watch.calls.load(Relaxed), watch.raised.load(Relaxed));
    edu.raise(REASON);
    let mut reasons = 0;
    let slept = watch::sleep(|| {
        reasons |= edu_watch.take_reasons();
        reasons != 0
    });
    report.equal("edu_interrupts", (slept.is_ok(), reasons), (true, REASON));
    report.equal(
        "handlers_of_its_line_are_called_and_no_others",
        watch.calls.load(Relaxed) != calls,
        shared,
    );
    report.equal(
        "the_iommu_was_not_the_reason",
        watch.raised.load(Relaxed) - raised,
        0,
    );

    // Both at once: the device is done when its access was refused.
    let edu_raised = edu_watch.raised.load(Relaxed);
    done(report, edu.start_write(NOWHERE, 4, true))?;
    let (mut fault, mut reasons) = (false, 0);
    let slept = watch::sleep(|| {
        fault |= watch.take_pending();
        reasons |= edu_watch.take_reasons();
        fault && reasons != 0
    });
    report.that("two_devices_interrupt_at_once", slept.is_ok());
    report.equal(
        "one_is_done",
        (reasons, edu_watch.raised.load(Relaxed) - edu_raised),
        (TRANSFER_DONE, 1),
    );
    report.equal(
        "the_other_was_refused",
        refused_write(endpoint, NOWHERE, 4).compare(&drain(&iommu)),
        Ok(()),
    );
    report.equal("no_line_was_masked", counters().masked, 0);

    // A device whose handler is gone: the line is masked if need be, and the machine goes on.
    drop(edu_registration);
    edu.raise(REASON);
    let slept = interrupts::sleep_until(Duration::from_millis(5), || false);
    report.equal("an_interrupt_for_nobody_ends", slept, Err(TimedOut));
    report.equal(
        "a_shared_line_that_insists_is_masked",
        counters().masked,
        u64::from(shared && insists),
    );
    // A line that still insisted would keep the CPU in its trap code, where it cannot see that its
    // time is over.
    let asleep = clock::now();
    let slept = interrupts::sleep_until(Duration::from_millis(5), || false);
    let asleep = Duration::from_nanos(clock::now() - asleep);
    println!("asleep for {asleep:?}");
    report.equal(
        "and_leaves_the_cpu_alone",
        (slept, asleep < Duration::from_millis(50)),
        (Err(TimedOut), true),
    );
    report.equal(
        "nobody_took_it",
        (edu_watch.take_reasons(), edu.interrupt_side().status()),
        (0, REASON),
    );
    let edu_registration = edu_watch.enlist(report, edu_line)?;
    let slept = watch::sleep(|| edu_watch.take_reasons() == REASON);
    report.that("a_late_handler_takes_it", slept.is_ok());
    edu.raise(TRANSFER_DONE);
    let slept = watch::sleep(|| edu_watch.take_reasons() == TRANSFER_DONE);
    report.that("edu_interrupts_again", slept.is_ok());
    done(report, edu.start_write(NOWHERE, 4, false))?;
    let slept = watch::sleep(|| watch.take_pending());
    let judged = refused_write(endpoint, NOWHERE, 4).compare(&drain(&iommu));
    report.equal(
        "faults_still_interrupt",
        (slept.is_ok(), judged),
        (true, Ok(())),
    );

    drop((registration, edu_registration));
    drop((watch, edu_watch));
    drop(domain);
    shut_down(report, iommu, before)
}

/// `fault-storm`: more faults than there are buffers, in one go.
pub fn fault_storm(report: &mut Report, firmware: &Firmware) -> Checked {
    /// One fault per word.
    const FAULTS: usize = MAX_TRANSFER / 4;
    /// Interrupts for all of them: one, and one for each time that the queue was emptied before
    /// the device was done.
    const INTERRUPTS: u32 = 8;
    /// Registers that one interrupt may touch.
    const ACCESSES: u64 = 4;
    /// Events of one queue.
    const QUEUE: usize = 256;
    const DATA: Pattern = Pattern::Seed(0x5703_0001);
    const OLD: Pattern = Pattern::Seed(0x5703_0002);

    report.plan(3 + 1 + 2 * 8 + 6 + SHUT_DOWN_CHECKS);
    let mut lab = Lab::open(report, firmware, 1)?;
    let endpoint = lab.endpoints(report)?[0];
    watch::start(report, firmware)?;
    let (iommu_line, edu_line) = watch::lines(report, &lab, firmware)?;
    let mut target = buffer(report, 4096, OLD)?;
    let source = buffer(report, 4096, DATA)?;
    let before = Baseline::now();
    let iommu = lab.start(report)?;
    let domain = report.need("domain", iommu.create_domain(2))?;
    report.need("attach", domain.attach(endpoint))?;
    let (watch, registration) = IommuWatch::register(report, &iommu, iommu_line)?;
    let (edu_watch, edu_registration) = EduWatch::register(report, &lab.edus[0], edu_line)?;
    let edu = &mut lab.edus[0];
    let mut faults = Vec::with_capacity(FAULTS);

    for round in ["first", "second"] {
        let name = |what: &str| alloc::format!("{round}_storm_{what}");
        let overflows = iommu.fault_counters().overflows;
        let received = iommu.fault_counters().received;
        let raised = watch.raised.load(Relaxed);
        let taken = counters().taken;
        faults.clear();
        watch.most_accesses.store(0, Relaxed);
        done(report, edu.start_write(NOWHERE, MAX_TRANSFER, true))?;
        let (mut finished, mut most_events, mut slept) = (false, 0, Ok(()));
        while !finished && slept.is_ok() {
            let mut pending = false;
            slept = watch::sleep(|| {
                pending |= watch.take_pending();
                finished |= edu_watch.take_reasons() != 0;
                pending || finished
            })
            .map(|_| ());
            // Also when only the end was told: the faults came before it.
            loop {
                let events = iommu.poll_faults(|fault| faults.push(fault));
                most_events = most_events.max(events);
                if events == 0 {
                    break;
                }
            }
        }
        report.equal(&name("is_over"), slept, Ok(()));
        report.that(
            &name("is_received_in_part"),
            (1..FAULTS).contains(&faults.len()),
        );
        let judged = refused_write(endpoint, NOWHERE, MAX_TRANSFER).compare(&faults);
        report.equal(&name("is_decoded"), judged, Ok(()));
        let lost = iommu.fault_counters().overflows - overflows;
        report.that(&name("losses_are_counted"), lost >= 1);
        let received = iommu.fault_counters().received - received;
        report.equal(&name("faults_are_counted"), received, faults.len() as u64);
        let interrupts = watch.raised.load(Relaxed) - raised;
        let taken = counters().taken - taken;
        let accesses = watch.most_accesses.load(Relaxed);
        println!(
            "{} faults, {interrupts} interrupts of the IOMMU, {taken} in all, up to {accesses} \
             registers and {most_events} events at once, {lost} overflows",
            faults.len()
        );
        report.that(
            &name("interrupts_are_few"),
            (1..=INTERRUPTS).contains(&interrupts) && taken <= 2 * u64::from(INTERRUPTS),
        );
        report.that(
            &name("interrupts_touch_few_registers"),
            (1..=ACCESSES).contains(&accesses),
        );
        report.that(
            &name("polls_are_bounded"),
            (1..=QUEUE).contains(&most_events),
        );
    }

    // The machine goes on: the timer, DMA, faults.
    let slept = interrupts::sleep_until(Duration::from_millis(5), || false);
    report.equal("the_timer_interrupts", slept, Err(TimedOut));
    let options = |access| MapOptions::new(access).with_limit(edu::LIMIT);
    // SAFETY: only the device under test uses the buffers; both outlive the attachment.
    let from = unsafe { domain.map(source.range(), options(Access::READ)) };
    let from = report.need("map_source", from)?.start().0;
    // SAFETY: as above.
    let to = unsafe { domain.map(target.range(), options(Access::WRITE)) };
    let to = report.need("map_target", to)?.start().0;
    done(report, edu.read_memory(from, MAX_TRANSFER))?;
    done(report, edu.start_write(to, MAX_TRANSFER, true))?;
    let slept = watch::sleep(|| edu_watch.take_reasons() != 0);
    report.that("edu_interrupts_when_it_is_done", slept.is_ok());
    let moved = target.compare_part(0, MAX_TRANSFER, |offset| DATA.at(offset));
    report.equal("edu_moved_every_byte", moved, Ok(()));
    no_fault("nothing_was_refused", report, &iommu);
    let later = NOWHERE + 0x10_0000;
    let _ = watch.take_pending();
    done(report, edu.start_write(later, 4, false))?;
    let slept = watch::sleep(|| watch.take_pending());
    let seen: Vec<Option<Iova>> = drain(&iommu).iter().map(|fault| fault.address).collect();
    report.equal(
        "a_later_fault_interrupts",
        (slept.is_ok(), seen),
        (true, alloc::vec![Some(Iova(later))]),
    );
    report.that(
        "the_device_needs_no_reset",
        !watch.needs_reset.load(Relaxed),
    );

    target.fill(OLD);
    drop((registration, edu_registration));
    drop((watch, edu_watch, faults));
    drop(domain);
    shut_down(report, iommu, before)
}
