//! Scenarios without a device and with two CPUs: the second one is really another, and what goes
//! wrong there is told as well as what goes wrong on the first.

use alloc::vec;
use core::hint;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use super::lab::Baseline;
use crate::arch::{self, Firmware};
use crate::clock::Deadline;
use crate::console::{self, println};
use crate::cpus::{self, TimedOut};
use crate::lock::{self, Mutex};
use crate::memory::direct_map;
use crate::memory::frames::{FRAME, Frames};
use crate::report::{Checked, Report};

/// The longest wait for the second CPU. An emulator that runs both in turn lets time pass meanwhile.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often each CPU has the ball.
const TURNS: usize = 25;
/// How often each CPU adds 1.
const ADDITIONS: u64 = 100_000;
/// How often each CPU takes memory.
const ALLOCATIONS: usize = 500;
/// Checks while the other CPU prints lines.
const RECORDS: u32 = 20;

static BALL: AtomicUsize = AtomicUsize::new(0);
static COUNTER: Mutex<u64> = Mutex::new(0);
static HEARD: AtomicBool = AtomicBool::new(false);

/// `selftest-two-cpus`: both CPUs work at the same time, and do not get into each other's way.
pub fn works(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(11 + RECORDS);
    let before = Baseline::now();
    let job = cpus::spawn(firmware, || (cpus::this().index(), play(1)));
    let job = report.require("second_cpu_starts", job)?;
    let first = (cpus::this().index(), play(0));
    let second = report.require("second_cpu_comes_back", job.join(TIMEOUT))?;
    report.equal("first_has_index_0", first, (0, Ok(())));
    report.equal("second_has_index_1", second, (1, Ok(())));
    let turns = BALL.load(Ordering::Relaxed);
    report.equal("each_waited_for_the_other", turns, 2 * TURNS);

    let job = report.require("second_cpu_starts_again", cpus::spawn(firmware, count))?;
    count();
    let held = report.need("count", job.join(TIMEOUT))?;
    report.equal("locks_exclude_each_other", *COUNTER.lock(), 2 * ADDITIONS);
    report.equal("all_are_given_up", (held, lock::held()), (0, 0));

    let job = report.need("start", cpus::spawn(firmware, || use_memory(0x5a)))?;
    let first = use_memory(0xa5);
    let second = report.need("use_memory", job.join(TIMEOUT))?;
    report.equal("memory_belongs_to_one", (first, second), (true, true));

    let job = report.need("start", cpus::spawn(firmware, talk))?;
    for _ in 0..RECORDS {
        report.that("a_record_stays_whole", true);
    }
    HEARD.store(true, Ordering::Relaxed);
    report.require("second_cpu_works_four_times", job.join(TIMEOUT))?;
    report.equal("nothing_is_left_behind", Baseline::now(), before);
    Ok(())
}

/// Plays ball: waits for it, and hands it on.
fn play(side: usize) -> Result<(), TimedOut> {
    let deadline = Deadline::after(TIMEOUT);
    for turn in 0..TURNS {
        while BALL.load(Ordering::Acquire) != 2 * turn + side {
            if deadline.passed() {
                return Err(TimedOut);
            }
            arch::relax();
        }
        BALL.store(2 * turn + side + 1, Ordering::Release);
    }
    Ok(())
}

/// Counts in a way that loses some if somebody else does the same. Returns how many locks it holds
/// at the end.
fn count() -> usize {
    for _ in 0..ADDITIONS {
        let mut counter = COUNTER.lock();
        let seen = hint::black_box(*counter);
        *counter = hint::black_box(seen + 1);
    }
    lock::held()
}

/// Takes memory of both kinds, writes to it, and looks whether somebody else did, too.
fn use_memory(mark: u8) -> bool {
    (0..ALLOCATIONS).all(|i| {
        let count = NonZeroUsize::MIN.saturating_add(i % 3);
        let list = vec![mark; 8 << (i % 8)];
        let Some(frames) = Frames::new(count, FRAME) else {
            return false;
        };
        for at in 0..frames.len() {
            // SAFETY: inside of frames that belong to this CPU.
            let byte = unsafe { frames.virt().byte_add(at) };
            // SAFETY: as above.
            unsafe { byte.write_volatile(mark) };
        }
        let frames_kept = (0..frames.len()).all(|at| {
            // SAFETY: as above.
            let byte = unsafe { frames.virt().byte_add(at) };
            // SAFETY: as above.
            mark == unsafe { byte.read_volatile() }
        });
        frames_kept && hint::black_box(&list).iter().all(|byte| *byte == mark)
    })
}

/// Prints lines until the first CPU has heard enough.
fn talk() {
    let deadline = Deadline::after(TIMEOUT);
    while !HEARD.load(Ordering::Relaxed) && !deadline.passed() {
        println!("the second CPU talks");
    }
}

/// Waits until the first CPU has nothing more to check.
fn wait_to_be_heard() {
    while !HEARD.load(Ordering::Relaxed) {
        arch::relax();
    }
}

/// The second CPU panics, and the first goes on writing.
pub fn panics(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(2);
    let job = cpus::spawn(firmware, || {
        wait_to_be_heard();
        panic!("a panic,\non the second CPU")
    });
    let _job: cpus::Job<()> = report.require("second_cpu_starts", job)?;
    write_on()
}

/// The second CPU uses a physical address as a pointer, and the first goes on writing.
pub fn traps(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(2);
    let job = cpus::spawn(firmware, || {
        wait_to_be_heard();
        let pointer = direct_map::phys_of_static(&BALL) as *const u64;
        // SAFETY: not valid, and that is the point: the access traps.
        unsafe { pointer.read_volatile() }
    });
    let _job = report.require("second_cpu_starts", job)?;
    write_on()
}

/// Writes records that are counted nowhere, until somebody ends the machine.
fn write_on() -> ! {
    HEARD.store(true, Ordering::Relaxed);
    loop {
        for _ in 0..1000 {
            console::record(format_args!("req detach domain=1 endpoint=1 status=OK"));
        }
        // An emulator that runs CPUs in turn need not have come to the other one by itself.
        arch::relax();
    }
}

/// The second CPU never comes back.
pub fn hangs(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(3);
    let job = cpus::spawn(firmware, || {
        loop {
            hint::spin_loop();
        }
    });
    let job: cpus::Job<()> = report.require("second_cpu_starts", job)?;
    let result = job.join(Duration::from_secs(2));
    report.equal("second_cpu_comes_back", result, Ok(()));
    let again = cpus::spawn(firmware, || ());
    report.equal(
        "it_is_left_alone",
        again.err(),
        Some(cpus::StartError::Busy),
    );
    Ok(())
}

/// Both CPUs panic: that is one end, not two.
pub fn both_panic(report: &mut Report, firmware: &Firmware) -> Checked {
    report.plan(2);
    let job = cpus::spawn(firmware, || meet_and_panic(0));
    let _job: cpus::Job<()> = report.require("second_cpu_starts", job)?;
    meet_and_panic(1)
}

fn meet_and_panic(side: usize) -> ! {
    let met = play(side);
    panic!("CPU {} panics, {met:?}", cpus::this().index());
}
