//! Whether a boot of the Linux guest is believed: its end, its log, the trace, and what Linux is known to do.

use super::super::io::boot::Measure;
use super::super::io::phases::{self, Counts};
use super::super::io::record::{self, Phase};
use super::plan::Plan;
use super::waits;
use crate::vm::{Exit, Outcome};

/// What a boot gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// All phases.
    pub phases: Vec<Phase>,
    /// What reached the IOMMU in each of them, if that was traced.
    pub counts: Vec<Counts>,
}

/// The phases of a boot, and with `trace` what reached the IOMMU in each of them.
///
/// # Errors
///
/// Why it is not believed, in words.
pub fn judge(
    outcome: &Outcome,
    trace: Option<&str>,
    plan: &Plan,
    measure: Measure,
) -> Result<Told, String> {
    let serial = String::from_utf8_lossy(&outcome.stdout);
    if !matches!(outcome.exit, Exit::Code(33)) {
        return Err(outcome.exit.explain());
    }
    let whole = record::whole(&serial, &[waits::KIND]);
    let mut phases = whole.map_err(|error| error.to_string())?;
    compare(&phases, plan, measure)?;
    if measure == Measure::Instructions {
        let waits = waits::read(&serial)?;
        waits::leave_out(&mut phases, &waits)?;
    }
    let mut counts = Vec::new();
    if let Some(trace) = trace {
        counts = phases::counts(trace).map_err(|error| error.to_string())?;
        plausible(&phases, &counts)?;
    }
    Ok(Told { phases, counts })
}

/// It has to have done what it was told, all of it, in that order, and to have measured what was asked for.
fn compare(phases: &[Phase], plan: &Plan, measure: Measure) -> Result<(), String> {
    let (done, told) = (phases.len(), plan.phases.len());
    if done != told {
        return Err(format!("{done} phases of {told}"));
    }
    for (phase, told) in phases.iter().zip(&plan.phases) {
        let what = (&phase.case, &phase.mode, phase.ios);
        if what != (&told.case, &told.mode, told.ios) {
            return Err(format!("another phase than it was told: {what:?}"));
        }
        let times = [phase.ns, phase.p50, phase.p99];
        let timed = measure == Measure::Time;
        let counted = measure == Measure::Instructions;
        if times.iter().any(|time| time.is_some() != timed)
            || phase.instructions.is_some() != counted
        {
            return Err(format!("something else was measured: {phase:?}"));
        }
    }
    Ok(())
}

/// A disk that is behind the IOMMU in name only would look fast.
fn plausible(phases: &[Phase], counts: &[Counts]) -> Result<(), String> {
    let (done, traced) = (phases.len(), counts.len());
    if done != traced {
        return Err(format!("{traced} phases in the trace, of {done}"));
    }
    for (phase, counts) in phases.iter().zip(counts) {
        let good = match &*phase.mode {
            "none" | "bypass" => *counts == Counts::default(),
            // The data of each at least is mapped; and it is unmapped before the phase ends, also where that is put off.
            _ => counts.maps >= phase.ios && counts.unmaps >= phase.ios && counts.kicks > 0,
        };
        if !good {
            return Err(format!("{counts:?} cannot be of {phase:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::linux::Linux;
    use std::fmt::Write;
    use std::time::Duration;

    const END: &str = "@viommu 1 end 2 passed 0 failed 0 skipped\r\n";

    fn plan() -> Plan {
        Plan::new(&Linux::sample(), Measure::Counts, 1)
    }

    /// What a guest says that does what it is told, and the trace of it.
    fn good(plan: &Plan, took: &str) -> (String, String) {
        let mut log = String::from("[    1.0] noise\r\n@viommu 1 plan 2\r\n@viommu 1 ok 1 one\r\n");
        let mut trace = String::from(
            "virtio_set_status vdev 0x1 val 3\nvirtio_iommu_device_status driver status = 3\n",
        );
        for phase in &plan.phases {
            let case = &phase.case;
            let _ = writeln!(
                log,
                "@viommu 1 io device={} op={} pattern={} size={} layout={} depth={} mode={} ios={}{took}\r",
                case.device,
                case.operation,
                case.pattern,
                case.size,
                case.layout,
                case.depth,
                phase.mode,
                phase.ios,
            );
            trace.push_str("pci_cfg_write edu 00:0c.0 @0x3c <- 0x1\n");
            if matches!(&*phase.mode, "strict" | "lazy") {
                for _ in 0..phase.ios {
                    trace.push_str("virtio_iommu_map domain=1\nvirtio_iommu_unmap domain=1\n");
                }
                trace.push_str("virtio_queue_notify vdev 0x1 n 0 vq 0x7f\n");
            }
            trace.push_str("pci_cfg_write edu 00:0c.0 @0x3c <- 0x2\n");
        }
        log.push_str("@viommu 1 ok 2 two\r\n");
        log.push_str(END);
        (log, trace)
    }

    fn outcome(code: i32, log: &str) -> Outcome {
        Outcome {
            exit: Exit::Code(code),
            stdout: log.into(),
            stderr: Vec::new(),
            elapsed: Duration::ZERO,
            command_line: String::new(),
        }
    }

    #[test]
    fn what_is_whole_is_believed() {
        let plan = plan();
        let (log, trace) = good(&plan, "");
        let judged = judge(&outcome(33, &log), Some(&trace), &plan, Measure::Counts);
        let Told { phases, counts } = judged.unwrap();
        assert_eq!((phases.len(), counts.len()), (168, 168));
        let (log, _) = good(&plan, " ns=9 p50=1 p99=2");
        assert!(judge(&outcome(33, &log), None, &plan, Measure::Time).is_ok());
        let waits = "\r\n@viommu 1 waits count=0 with=0 without=9";
        let (log, _) = good(&plan, &format!(" instructions=9{waits}"));
        assert!(judge(&outcome(33, &log), None, &plan, Measure::Instructions).is_ok());
    }

    #[test]
    fn what_is_not_whole_is_not_believed() {
        let plan = plan();
        let (log, trace) = good(&plan, "");
        let why = |code, log: &str, trace: &str| {
            judge(&outcome(code, log), Some(trace), &plan, Measure::Counts).unwrap_err()
        };
        assert!(why(0, &log, &trace).contains("means nothing"));
        for (from, to, expected) in [
            ("plan 2", "plan 3", "not all checks"),
            ("plan 2", "plan 0", "a plan of nothing"),
            ("@viommu 1 plan 2\r\n", "", "before the plan"),
            ("ok 2 two", "not ok 2 two", "a check failed"),
            (END, "", "no end"),
            ("mode=lazy", "mode=strict", "another phase"),
            ("ios=128\r", "ios=127\r", "another phase"),
            ("ios=128\r", "ios=128 ns=1 p50=1 p99=1\r", "something else"),
            ("@viommu 1 io", "@viommu 1 oi", "unknown record"),
            ("@viommu 1 io", "[ 2.0] x @viommu 1 io", "middle of a line"),
        ] {
            let bad = log.replacen(from, to, 1);
            assert_ne!(bad, log);
            let why = why(33, &bad, &trace);
            assert!(why.contains(expected), "{from}: {why}");
        }
        let first = log.find("@viommu 1 io").unwrap();
        let second = first + log[first..].find('\n').unwrap() + 1;
        let less = format!("{}{}", &log[..first], &log[second..]);
        assert!(why(33, &less, &trace).contains("167 phases of 168"));
    }

    #[test]
    fn a_disk_that_goes_around_the_iommu_is_not_believed() {
        let plan = plan();
        let (log, trace) = good(&plan, "");
        for (from, to) in [
            // One less in a strict phase, one more in one without an IOMMU.
            ("virtio_iommu_map domain=1\n", ""),
            ("virtio_iommu_unmap domain=1\n", ""),
            ("<- 0x1\n", "<- 0x1\nvirtio_iommu_map domain=1\n"),
            (
                "virtio_queue_notify vdev 0x1",
                "virtio_queue_notify vdev 0x2",
            ),
        ] {
            let bad = trace.replacen(from, to, 1);
            let judged = judge(&outcome(33, &log), Some(&bad), &plan, Measure::Counts);
            assert!(judged.unwrap_err().contains("cannot be of"), "{from}");
        }
        let end = trace.trim_end_matches('\n').rfind("pci_cfg_write").unwrap();
        let begin = trace[..end].rfind("pci_cfg_write").unwrap();
        let judged = judge(
            &outcome(33, &log),
            Some(&trace[..begin]),
            &plan,
            Measure::Counts,
        );
        assert!(judged.unwrap_err().contains("167 phases in the trace"));
    }
}
